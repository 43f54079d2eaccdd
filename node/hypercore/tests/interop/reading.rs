//! We read what JavaScript wrote.

use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::blocks::{Blocks, BlocksError};
use serde_json::json;

use crate::peer::{JsPeer, Node, block, digest, digest_of, until};

const EDGES: [usize; 6] = [0, 1, 65_535, 65_536, 1 << 20, 3];

fn blocks(name: &str, sizes: &[usize]) -> Vec<Bytes> {
    sizes
        .iter()
        .zip(0..)
        .map(|(size, index)| block(name, index, *size))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn default_multisig_and_compat_cores_arrive_whole_over_one_stream_whatever_the_block_sizes() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let mut cores = vec![];
    for kind in ["default", "multisig", "compat"] {
        let key = js.create(kind, kind, &EDGES).await;
        let core = node.store.get(key).await.unwrap();
        cores.push((kind, core.download(0..u64::MAX).await, core));
    }
    node.connect(&mut js).await;
    for (kind, _download, core) in &mut cores {
        until(core, kind, |state| state.contiguous_length == EDGES.len() as u64).await;
        assert_eq!(digest_of(core).await, digest(blocks(kind, &EDGES)));
        assert_eq!(core.stats().await.downloaded_blocks, EDGES.len() as u64);
        assert_eq!(
            core.manifest().await.unwrap().is_compat(core.key()),
            *kind == "compat"
        );
    }
    drop(cores);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_while_connected_arrives_and_a_truncation_is_followed() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[10; 5]).await;
    let core = node.store.get(key).await.unwrap();
    let _download = core.download(0..u64::MAX).await;
    node.accept(&mut js).await;
    until(&core, "the first five", |state| state.contiguous_length == 5).await;
    for length in 6..40 {
        js.append("a", &[length]).await;
    }
    until(&core, "appended blocks", |state| state.contiguous_length == 39).await;
    let before = core.get_local(20).await.unwrap().unwrap();
    js.ask("truncate", json!({"name": "a", "length": 20})).await;
    js.append("a", &[77, 78, 79]).await;
    until(&core, "the fork", |state| {
        state.fork == 1 && state.contiguous_length == 23
    })
    .await;
    assert_ne!(core.get_local(20).await.unwrap().unwrap(), before);
    assert_eq!(core.get_local(22).await.unwrap().unwrap(), block("a", 22, 79));
    // The blocks that both forks share were not fetched again.
    assert_eq!(core.stats().await.downloaded_blocks, 39 + 3);
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_read_fetches_its_block_and_no_other() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[1000; 300]).await;
    let core = node.store.get(key).await.unwrap();
    node.connect(&mut js).await;
    assert!(core.update().await.unwrap());
    assert_eq!(core.length(), 300);
    assert_eq!(core.get(123).await.unwrap(), block("a", 123, 1000));
    assert_eq!(core.state().held_blocks, 1);
    assert_eq!(core.seek(250_700).await.unwrap(), (250, 700));
    assert_eq!(core.seek(300_000).await.unwrap(), (300, 0));
    assert_eq!(core.state().held_blocks, 1);
    assert!(matches!(
        core.seek(300_001).await,
        Err(BlocksError::OutOfRange { .. })
    ));
    assert!(matches!(
        core.get(300).await,
        Err(BlocksError::OutOfRange { length: 300, .. })
    ));
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_the_only_peer_cleared_are_not_available_and_the_others_arrive() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[100; 64]).await;
    js.ask("clear", json!({"name": "a", "start": 16, "end": 24}))
        .await;
    let core = node.store.get(key).await.unwrap();
    let _download = core.download(0..u64::MAX).await;
    node.connect(&mut js).await;
    until(&core, "all but eight", |state| state.held_blocks == 56).await;
    assert_eq!(core.state().contiguous_length, 16);
    assert!(!core.has(20).await);
    let other = core.get(20);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), other)
            .await
            .is_err()
    );
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_the_connection_was_cut_and_fetches_nothing_twice() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[65_536; 400]).await;
    let core = node.store.get(key).await.unwrap();
    // Not everything, so that the cut comes in the middle however fast it goes.
    let _part = core.download(0..200).await;
    let port = js.ask("listen", json!({})).await["port"].as_u64().unwrap() as u16;
    let first = node.connect_to(port).await;
    until(&core, "a part", |state| state.held_blocks > 20).await;
    js.ask("disconnect", json!({})).await;
    // However it ends: JavaScript resets the transport.
    let _ = first.await.unwrap();
    let held = core.state().held_blocks;
    assert!(held <= 200, "{held}");
    let _download = core.download(0..u64::MAX).await;
    node.connect_to(port).await;
    until(&core, "the rest", |state| state.contiguous_length == 400).await;
    assert_eq!(digest_of(&core).await, digest(blocks("a", &[65_536; 400])));
    assert_eq!(core.stats().await.downloaded_blocks, 400);
    node.close().await;
    js.close().await;
}
