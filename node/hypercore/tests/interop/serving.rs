//! JavaScript reads what we wrote, or hold.

use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde_json::json;

use crate::peer::{JsPeer, Node, block, digest_of, until};

async fn written(node: &Node, name: &str, sizes: &[usize]) -> CoreHandle {
    let pair = KeyPair::from_seed(&[name.len() as u8; 32]);
    let core = node
        .store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await
        .unwrap();
    append(&core, name, sizes).await;
    core
}

async fn append(core: &CoreHandle, name: &str, sizes: &[usize]) {
    let length = core.state().length;
    let blocks = sizes
        .iter()
        .zip(length..)
        .map(|(size, index)| block(name, index, *size));
    core.append(blocks.collect()).await.unwrap();
}

async fn open(js: &mut JsPeer, name: &str, core: &CoreHandle) {
    js.ask("open", json!({"name": name, "key": hex::encode(core.key())}))
        .await;
}

async fn download(js: &mut JsPeer, name: &str, core: &CoreHandle) {
    let state = core.state();
    let got = js
        .ask(
            "download",
            json!({"name": name, "length": state.length, "fork": state.fork}),
        )
        .await;
    assert_eq!(got["sha256"].as_str().unwrap(), digest_of(core).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_reads_our_cores_follows_appends_and_truncations() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let core = written(&node, "a", &[0, 1, 65_535, 65_536, 1 << 20, 5]).await;
    let other = written(&node, "other", &[9; 1000]).await;
    open(&mut js, "a", &core).await;
    open(&mut js, "other", &other).await;
    node.accept(&mut js).await;
    download(&mut js, "a", &core).await;
    download(&mut js, "other", &other).await;
    for size in 1..20 {
        append(&core, "a", &[size]).await;
    }
    download(&mut js, "a", &core).await;
    core.truncate(7).await.unwrap();
    append(&core, "a", &[300, 301]).await;
    assert_eq!((core.state().length, core.state().fork), (9, 1));
    download(&mut js, "a", &core).await;
    assert!(core.stats().await.uploaded_blocks >= 6 + 19 + 2);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_that_drops_proofs_of_what_is_new_gets_them_again() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let core = written(&node, "a", &[10; 20]).await;
    open(&mut js, "a", &core).await;
    node.accept(&mut js).await;
    download(&mut js, "a", &core).await;
    js.ask("dropUpgrades", json!({"name": "a", "count": 3})).await;
    for _ in 0..5 {
        append(&core, "a", &[11]).await;
    }
    download(&mut js, "a", &core).await;
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_javascript_reader_gets_a_block_and_a_byte_position() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let core = written(&node, "a", &[1000; 300]).await;
    open(&mut js, "a", &core).await;
    node.connect(&mut js).await;
    let found = js.ask("seek", json!({"name": "a", "bytes": 250_700})).await;
    assert_eq!(
        (found["index"].as_u64(), found["offset"].as_u64()),
        (Some(250), Some(700))
    );
    let got = js.ask("get", json!({"name": "a", "index": 123})).await;
    assert_eq!(got["size"], 1000);
    assert_eq!(js.ask("held", json!({"name": "a"})).await["held"], json!([123]));
    assert_eq!(core.stats().await.uploaded_blocks, 1);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_replicated_from_one_javascript_peer_another_reads_from_us() {
    let (Some(mut writer), Some(mut reader)) = (JsPeer::start(), JsPeer::start()) else {
        return;
    };
    let node = Node::new();
    for kind in ["default", "multisig", "compat"] {
        let sizes = [10, 0, 65_536, 7, 100_000];
        let key = writer.create(kind, kind, &sizes).await;
        let core = node.store.get(key).await.unwrap();
        let _download = core.download(0..u64::MAX).await;
        let to_writer = node.accept(&mut writer).await;
        until(&core, kind, |state| state.contiguous_length == 5).await;
        open(&mut reader, kind, &core).await;
        let to_reader = node.accept(&mut reader).await;
        download(&mut reader, kind, &core).await;
        // Live, through us.
        writer.append(kind, &[42]).await;
        until(&core, kind, |state| state.contiguous_length == 6).await;
        download(&mut reader, kind, &core).await;
        writer.ask("disconnect", json!({})).await;
        reader.ask("disconnect", json!({})).await;
        let _ = (to_writer.await.unwrap(), to_reader.await.unwrap());
    }
    node.close().await;
    writer.close().await;
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_core_is_opened_for_a_peer_that_knows_its_key() {
    let Some(mut js) = JsPeer::start() else { return };
    let mut node = Node::new();
    let core = written(&node, "a", &[10; 50]).await;
    let expected = digest_of(&core).await;
    open(&mut js, "a", &core).await;
    drop(core);
    node.reopen().await;
    node.accept(&mut js).await;
    let got = js
        .ask("download", json!({"name": "a", "length": 50, "fork": 0}))
        .await;
    assert_eq!(got["sha256"].as_str().unwrap(), expected);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cleared_blocks_are_refused_and_their_neighbours_served() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let core = written(&node, "a", &[100; 64]).await;
    core.clear(16..24).await.unwrap();
    open(&mut js, "a", &core).await;
    node.accept(&mut js).await;
    for index in [0, 15, 24, 63] {
        assert_eq!(
            js.ask("get", json!({"name": "a", "index": index})).await["size"],
            100
        );
    }
    // Cleared while connected.
    core.clear(40..41).await.unwrap();
    assert_eq!(
        js.ask("get", json!({"name": "a", "index": 41})).await["size"],
        100
    );
    node.close().await;
    js.close().await;
}
