//! What nobody asks for by number: pushed blocks, messages of extensions, cancelled requests, and peers that fall silent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::driver::ReplicateError;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::replication::REQUEST_TIMEOUT;
use cumulet_secret_stream::{IDLE_TIMEOUT, KEEP_ALIVE, StreamError};
use serde_json::{Value, json};

use crate::peer::{JsPeer, Node, PATIENCE, block, digest, digest_of, until};

async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> bool) {
    let tried = async {
        while !attempt().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_pushes_blocks_to_us_also_those_that_come_with_the_growth_of_the_core() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[100; 20]).await;
    let core = node.store.get(key).await.unwrap();
    core.set_allow_push(true).await;
    node.connect(&mut js).await;
    js.ask("push", json!({"name": "a", "index": 7})).await;
    until(&core, "the pushed block", |state| state.held_blocks == 1).await;
    assert_eq!(core.get_local(7).await.unwrap(), Some(block("a", 7, 100)));
    // The block comes with the tree that it is in.
    for length in 21..30 {
        js.append("a", &[length]).await;
        js.ask("push", json!({"name": "a", "index": length - 1})).await;
        until(&core, "a block that is new", |state| {
            state.held_blocks == length as u64 - 19 && state.length == length as u64
        })
        .await;
    }
    // What is asked for comes too.
    assert_eq!(core.get(3).await.unwrap(), block("a", 3, 100));
    let counts = js.ask("counts", json!({"name": "a"})).await;
    assert_eq!(
        counts["wireData"]["tx"].as_u64().map(|sent| sent >= 11),
        Some(true),
        "{counts}"
    );
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_push_blocks_to_javascript_also_those_that_come_with_the_growth_of_the_core() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let pair = KeyPair::from_seed(&[9; 32]);
    let core = node
        .store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await
        .unwrap();
    for index in 0..20 {
        core.append(vec![block("a", index, 100)]).await.unwrap();
    }
    js.ask("open", json!({"name": "a", "key": hex::encode(core.key())}))
        .await;
    js.ask("allowPush", json!({"name": "a"})).await;
    node.accept(&mut js).await;
    eventually("JavaScript takes what is pushed", async || {
        core.push(7).await == 1
    })
    .await;
    let held = async |js: &mut JsPeer| js.ask("held", json!({"name": "a"})).await["held"].clone();
    eventually("the pushed block", async || held(&mut js).await == json!([7])).await;
    let mut expected = vec![7];
    for index in 20..30 {
        core.append(vec![block("a", index, 50)]).await.unwrap();
        assert_eq!(core.push(index).await, 1);
        expected.push(index);
        eventually("a block that is new", async || {
            held(&mut js).await == json!(expected)
        })
        .await;
    }
    assert_eq!(js.ask("get", json!({"name": "a", "index": 25})).await["size"], 50);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_messages_go_both_ways_in_their_order_and_only_to_those_who_know_the_name() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[1]).await;
    let core = node.store.get(key).await.unwrap();
    let mut chat = core.extension("chat").await;
    let other = core.extension("nobody there knows it").await;
    for extension in ["chat", "nobody here knows it", "empty"] {
        js.ask("extension", json!({"name": "a", "extension": extension}))
            .await;
    }
    let mut empty = core.extension("empty").await;
    node.connect(&mut js).await;
    js.ask(
        "broadcast",
        json!({"name": "a", "extension": "nobody here knows it", "messages": ["x"]}),
    )
    .await;
    js.ask(
        "broadcast",
        json!({"name": "a", "extension": "chat", "messages": ["one", "two", ""]}),
    )
    .await;
    js.ask(
        "broadcast",
        json!({"name": "a", "extension": "empty", "messages": [""]}),
    )
    .await;
    let mut from = None;
    for expected in ["one", "two", ""] {
        let (peer, message) = chat.receive().await.unwrap();
        assert_eq!(message, expected);
        from = Some(peer);
    }
    assert_eq!(empty.receive().await.unwrap().1, "");
    assert_eq!(other.broadcast(&Bytes::from_static(b"y")).await, 1);
    assert!(chat.send(from.unwrap(), &Bytes::from_static(b"three")).await);
    assert_eq!(chat.broadcast(&Bytes::from_static(b"four")).await, 1);
    let heard = js
        .ask("heard", json!({"name": "a", "extension": "chat", "count": 2}))
        .await;
    assert_eq!(heard["messages"], json!(["three", "four"]));
    node.close().await;
    js.close().await;
}

/// Stops a JavaScript process, or lets it go on.
fn signal(js: &JsPeer, signal: &str) {
    let status = std::process::Command::new("kill")
        .args([signal, &js.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn cancels(counts: &Value) -> u64 {
    counts["wireCancel"]["rx"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_that_hangs_was_asked_comes_from_another_at_once_is_cancelled_and_the_peer_is_dropped() {
    let Some(mut js) = JsPeer::start() else { return };
    let (other, node) = (Node::new(), Node::new());
    let key = js.create("a", "default", &[1000; 300]).await;
    let copy = other.store.get(key).await.unwrap();
    let _copying = copy.download(0..u64::MAX).await;
    let copied = other.connect(&mut js).await;
    until(&copy, "a copy", |state| state.contiguous_length == 300).await;
    let core = node.store.get(key).await.unwrap();
    let to_js = node.accept(&mut js).await;
    core.update().await.unwrap();
    // Its kernel goes on taking what we say, so nothing but the missing answers shows that it hangs.
    signal(&js, "-STOP");
    let download = core.download(0..u64::MAX).await;
    node.connect_to_node(&other).await;
    let start = Instant::now();
    until(&core, "everything", |state| state.contiguous_length == 300).await;
    assert!(start.elapsed() < REQUEST_TIMEOUT / 2, "{:?}", start.elapsed());
    assert_eq!(
        digest_of(&core).await,
        digest((0..300).map(|index| block("a", index, 1000)))
    );
    drop(download);
    signal(&js, "-CONT");
    eventually("JavaScript got the cancels", async || {
        cancels(&js.ask("counts", json!({"name": "a"})).await) > 0
    })
    .await;
    assert_eq!(
        core.stats().await.peers,
        2,
        "the peer that hung and went on is still there"
    );
    signal(&js, "-STOP");
    let start = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, to_js)
        .await
        .expect("noticed")
        .unwrap();
    assert!(
        matches!(ended, Err(ReplicateError::Stream(StreamError::Silent))),
        "{ended:?}"
    );
    assert!(
        start.elapsed() + 2 * KEEP_ALIVE > IDLE_TIMEOUT,
        "{:?}",
        start.elapsed()
    );
    assert_eq!(core.stats().await.peers, 1);
    signal(&js, "-CONT");
    let _ = copied.await.unwrap();
    node.close().await;
    other.close().await;
    js.close().await;
}
