//! What is sent without being asked for: pushed blocks, messages of extensions, and proofs that a writer signed two trees.

use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreError};

use crate::pair::{PATIENCE, Wires, append, block, config, memory, until, writer};

/// Tries until it is true.
async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> bool) {
    let tried = async {
        while !attempt().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.expect(what);
}

async fn closed(core: &CoreHandle) -> bool {
    core.is_closed() && core.conflict().await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_pushed_to_a_reader_that_takes_such_and_to_no_other() {
    let (source, wires) = (memory(), Wires::default());
    let core = writer(&source, 1).await;
    append(&core, &[100; 3]).await;
    let (willing, unwilling) = (memory(), memory());
    let taker = willing.get(*core.key()).await.unwrap();
    let other = unwilling.get(*core.key()).await.unwrap();
    taker.set_allow_push(true).await;
    wires.connect(&willing, &source);
    wires.connect(&unwilling, &source);
    eventually("both are connected", async || core.stats().await.peers == 2).await;
    eventually("the writer knows who takes it", async || core.push(1).await == 1).await;
    until(&taker, "the pushed block", |state| state.held_blocks == 1).await;
    assert_eq!(taker.get_local(1).await.unwrap(), Some(block(1, 100)));
    // One that comes with the growth of the core.
    append(&core, &[50]).await;
    assert_eq!(core.push(3).await, 1);
    until(&taker, "the second", |state| {
        state.held_blocks == 2 && state.length == 4
    })
    .await;
    assert_eq!(other.state().held_blocks, 0);
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_an_extension_reach_those_who_registered_it() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    let at_a = writer(&a, 1).await;
    let at_b = b.get(*at_a.key()).await.unwrap();
    let (mut here, mut there) = (at_a.extension("chat").await, at_b.extension("chat").await);
    let silent = at_a.extension("other").await;
    wires.connect(&a, &b);
    eventually("they are connected", async || {
        at_a.stats().await.peers == 1 && at_b.stats().await.peers == 1
    })
    .await;
    assert_eq!(
        silent.broadcast(&Bytes::from_static(b"nobody hears this")).await,
        1
    );
    assert_eq!(here.broadcast(&Bytes::from_static(b"hello")).await, 1);
    let (from, message) = there.receive().await.unwrap();
    assert_eq!(message, "hello");
    assert!(there.send(from, &Bytes::from_static(b"and to you")).await);
    assert_eq!(here.receive().await.unwrap().1, "and to you");
    let long = Bytes::from(vec![0; cumulet_hypercore::replication::MAX_EXTENSION_BYTES + 1]);
    assert_eq!(here.broadcast(&long).await, 0);
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_signs_two_trees_of_one_length_is_found_out_and_the_core_frozen_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b, reader) = (
        memory(),
        memory(),
        Corestore::open(directory.path(), config()).unwrap(),
    );
    let (one, other) = (writer(&a, 1).await, writer(&b, 1).await);
    append(&one, &[10, 20, 30]).await;
    append(&other, &[30, 20, 10]).await;
    assert_eq!(one.key(), other.key());
    let core = reader.get(*one.key()).await.unwrap();
    let wires = Wires::default();
    wires.connect(&reader, &a);
    core.update().await.unwrap();
    assert_eq!(core.state().length, 3);
    wires.end().await;
    // The reader has the tree of one and asks the other for blocks.
    let wires = Wires::default();
    wires.connect(&reader, &b);
    let download = core.download(0..u64::MAX).await;
    eventually("the reader finds out", async || closed(&core).await).await;
    let conflict = core.conflict().await.unwrap();
    assert_eq!((conflict.fork, conflict.length), (0, 3));
    assert_ne!(conflict.ours.upgrade, conflict.theirs.upgrade);
    assert_eq!(core.state().held_blocks, 0);
    eventually("the writer is told", async || closed(&other).await).await;
    // Who was not connected is not.
    assert!(!one.is_closed());
    wires.end().await;
    // It stays so.
    reader.close().await.unwrap();
    drop((download, core, reader));
    let reader = Corestore::open(directory.path(), config()).unwrap();
    let again = reader.get(*one.key()).await;
    assert!(matches!(again, Err(CorestoreError::Frozen)), "{again:?}");
    assert!(reader.remove(one.discovery_key()).await.unwrap());
    assert!(reader.get(*one.key()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_future_is_dropped_leaves_no_peer_behind() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    let core = writer(&a, 1).await;
    let _reader = b.get(*core.key()).await.unwrap();
    let sides = wires.connect(&a, &b);
    eventually("they are connected", async || core.stats().await.peers == 1).await;
    for side in sides {
        side.abort();
    }
    eventually("the peer is gone", async || core.stats().await.peers == 0).await;
    wires.end().await;
}
