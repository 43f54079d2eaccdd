//! Snapshots of a core that is cut below them, in JavaScript and ours.

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde_json::{Value, json};

use crate::peer::{JsPeer, Node, block, until};

const BEFORE: u64 = 20;
const CUT: u64 = 10;
const AFTER: u64 = 15;
/// Below the cut, in what was replaced, and in what is gone.
const PLACES: [u64; 6] = [0, 9, 10, 12, 15, 19];
/// A byte of block 17.
const BYTE: u64 = 1750;

/// What a snapshot of the first blocks says at those places, and where the byte lies.
fn expected() -> Value {
    let blocks = PLACES.map(|index| hex::encode(block("a", index, 100)));
    json!({"length": BEFORE, "blocks": blocks, "seek": [17, 50]})
}

/// What our snapshot says.
async fn peek(snapshot: &impl Blocks) -> Value {
    let mut blocks = Vec::new();
    for index in PLACES {
        blocks.push(hex::encode(snapshot.get(index).await.unwrap()));
    }
    let (index, offset) = snapshot.seek(BYTE).await.unwrap();
    json!({"length": snapshot.length(), "blocks": blocks, "seek": [index, offset]})
}

async fn peek_js(js: &mut JsPeer, name: &str) -> Value {
    js.ask("peek", json!({"name": name, "indexes": PLACES, "bytes": BYTE}))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_reads_on_what_its_writer_cut_off_in_javascript_and_at_a_reader_of_ours() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let key = js.create("a", "default", &[100; BEFORE as usize]).await;
    let core = node.store.get(key).await.unwrap();
    let _download = core.download(0..u64::MAX).await;
    node.connect(&mut js).await;
    until(&core, "all blocks", |state| state.contiguous_length == BEFORE).await;
    let snapshot = core.snapshot().await;
    js.ask("snapshot", json!({"name": "a", "as": "before"})).await;
    js.ask("truncate", json!({"name": "a", "length": CUT})).await;
    js.append("a", &[50; (AFTER - CUT) as usize]).await;
    until(&core, "the new fork", |state| {
        (state.fork, state.contiguous_length) == (1, AFTER)
    })
    .await;
    assert_eq!(core.get(12).await.unwrap(), block("a", 12, 50));
    assert_eq!(snapshot.kept_length(), CUT);
    assert_eq!(peek_js(&mut js, "before").await, expected());
    assert_eq!(peek(&snapshot).await, expected());
    node.close().await;
    js.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_reads_on_what_its_writer_cut_off_in_ours_and_at_a_reader_in_javascript() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let pair = KeyPair::from_seed(&[9; 32]);
    let manifest = Manifest::single(pair.public_key());
    let core = node.store.create(manifest, Some(pair)).await.unwrap();
    let blocks = |range: std::ops::Range<u64>, size| -> Vec<Bytes> {
        range.map(|index| block("a", index, size)).collect()
    };
    core.append(blocks(0..BEFORE, 100)).await.unwrap();
    js.ask("open", json!({"name": "a", "key": hex::encode(core.key())}))
        .await;
    node.accept(&mut js).await;
    js.ask("download", json!({"name": "a", "length": BEFORE, "fork": 0}))
        .await;
    let snapshot = core.snapshot().await;
    js.ask("snapshot", json!({"name": "a", "as": "before"})).await;
    core.truncate(CUT).await.unwrap();
    core.append(blocks(CUT..AFTER, 50)).await.unwrap();
    js.ask("download", json!({"name": "a", "length": AFTER, "fork": 1}))
        .await;
    assert_eq!(peek_js(&mut js, "before").await, expected());
    assert_eq!(peek(&snapshot).await, expected());
    node.close().await;
    js.close().await;
}
