//! Indexes that no honest writer makes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

use bytes::Bytes;
use cumulet_hyperbee::message::{ChildPointer, Header, Level, Node};
use cumulet_hyperbee::{Bee, BeeError, BeeWriter, MemoryBlocks, Range, WriteOptions};
use futures::executor::block_on;

fn bee(nodes: Vec<Node>) -> Bee<MemoryBlocks> {
    let header = Header::new(None).encode();
    Bee::new(MemoryBlocks::new(
        std::iter::once(header).chain(nodes.iter().map(Node::encode)),
    ))
}

fn node(key: &'static str, levels: Vec<Level>) -> Node {
    Node {
        levels,
        key: Bytes::from_static(key.as_bytes()),
        value: Some(Bytes::from_static(b"v")),
    }
}

fn level(keys: &[u64], children: &[(u64, u64)]) -> Level {
    let children = children
        .iter()
        .map(|&(seq, offset)| ChildPointer { seq, offset })
        .collect();
    Level {
        keys: keys.to_vec(),
        children,
    }
}

fn assert_damaged<T: std::fmt::Debug>(result: Result<T, BeeError>) {
    assert!(matches!(result, Err(BeeError::Damaged { .. })), "{result:?}");
}

#[test]
fn a_root_that_is_its_own_child_is_an_error_for_every_reader() {
    let bee = bee(vec![node("m", vec![level(&[1], &[(1, 0), (1, 0)])])]);
    assert_damaged(block_on(bee.get("a")));
    assert_damaged(block_on(bee.range(Range::all()).collect(10)));
    assert_damaged(block_on(bee.range(Range::all().reverse()).collect(10)));
    assert_damaged(block_on(bee.diff(1, Range::all()).collect(10)));
    let mut writer = BeeWriter::new(bee.blocks().clone(), WriteOptions::default());
    assert_damaged(block_on(writer.put("a", None)));
    assert_damaged(block_on(writer.del("m")));
    // A key that is found before the circle is still an answer.
    assert!(block_on(bee.get("m")).unwrap().is_some());
}

#[test]
fn nodes_that_share_all_children_cannot_make_a_walk_exponential() {
    // 31 levels in one block, each with nine times the same child: 9^30 leaves. The versions share keys, not nodes, so
    // that a comparison has no key to read and nothing to skip.
    let levels = |seq| {
        let mut levels: Vec<Level> = (1..31).map(|depth| level(&[1; 8], &[(seq, depth); 9])).collect();
        levels.push(level(&[1], &[]));
        levels
    };
    let bee = bee(vec![node("m", levels(1)), node("n", levels(2))]);
    assert_damaged(block_on(bee.range(Range::all()).collect(usize::MAX)));
    assert_damaged(block_on(bee.diff(2, Range::all()).collect(usize::MAX)));
}

#[test]
fn pointers_to_later_blocks_missing_levels_and_odd_counts_are_errors() {
    for levels in [
        vec![level(&[2], &[])],
        vec![level(&[0], &[])],
        vec![level(&[1], &[(1, 1), (1, 7)])],
        vec![level(&[1], &[(1, 1)])],
        vec![level(&[1; 9], &[])],
        vec![level(&[1], &[(1, 1), (1, 1)]), level(&[], &[])],
        vec![level(&[1], &[(1, u64::from(u32::MAX)), (1, 1)])],
    ] {
        let bee = bee(vec![node("m", levels.clone())]);
        let read = block_on(bee.range(Range::all()).collect(usize::MAX));
        assert!(
            matches!(read, Err(BeeError::Damaged { .. })),
            "{levels:?} {read:?}"
        );
    }
}

#[test]
fn a_version_inside_a_batch_is_refused_by_name() {
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    let mut batch = writer.batch();
    for key in ["a", "b", "c"] {
        block_on(batch.put(key, None)).unwrap();
    }
    assert_eq!(batch.len(), 3);
    block_on(batch.flush()).unwrap();
    let bee = Bee::new(core);
    assert!(matches!(
        block_on(bee.checkout(3).get("a")),
        Err(BeeError::InsideBatch { version: 3 })
    ));
    assert!(block_on(bee.checkout(4).get("a")).unwrap().is_some());
}

#[test]
fn a_dropped_batch_leaves_the_bee_as_it_was() {
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    block_on(writer.put("a", Some(b"1"))).unwrap();
    let before = core.to_vec();
    let mut batch = writer.batch();
    block_on(batch.put("a", Some(b"2"))).unwrap();
    drop(batch);
    assert_eq!(core.to_vec(), before);
    assert_eq!(
        block_on(writer.bee().get("a")).unwrap().unwrap().value.as_deref(),
        Some(&b"1"[..])
    );
}

#[test]
fn a_walk_reads_only_what_a_range_needs() {
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    for index in 0..2000 {
        block_on(writer.put(format!("key{index:04}"), Some(b"v"))).unwrap();
    }
    let counted = Counted {
        blocks: core,
        reads: std::sync::atomic::AtomicUsize::new(0),
    };
    let bee = Bee::new(counted);
    block_on(bee.get("key1000")).unwrap().unwrap();
    // Ascending puts leave half-full nodes: five levels, two or three compared keys in each.
    let reads = bee.blocks().reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reads <= 20, "{reads} blocks for one key of 2000");
    let entries = block_on(bee.range(Range::all().gte("key1000").limit(3)).collect(10)).unwrap();
    assert_eq!(entries.len(), 3);
    let reads = bee.blocks().reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        reads <= 26,
        "{reads} blocks for one key and three entries of 2000"
    );
}

#[test]
fn a_diff_reads_what_changed_and_not_what_both_versions_share() {
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
    for index in 0..2000 {
        block_on(writer.put(format!("key{index:04}"), Some(b"v"))).unwrap();
    }
    let before = writer.bee().version();
    block_on(writer.put("key1000", Some(b"w"))).unwrap();
    let bee = Bee::new(Counted {
        blocks: core,
        reads: std::sync::atomic::AtomicUsize::new(0),
    });
    assert_eq!(
        block_on(bee.diff(before, Range::all()).collect(10))
            .unwrap()
            .len(),
        1
    );
    let reads = bee.blocks().reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reads <= 60, "{reads} blocks for one change among 2000");
}

#[derive(Debug)]
struct Counted {
    blocks: MemoryBlocks,
    reads: std::sync::atomic::AtomicUsize,
}

impl cumulet_hyperbee::Blocks for Counted {
    fn length(&self) -> u64 {
        self.blocks.length()
    }

    async fn get(&self, index: u64) -> Result<Bytes, cumulet_hyperbee::BlocksError> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.blocks.get(index).await
    }

    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), cumulet_hyperbee::BlocksError> {
        self.blocks.seek(byte_offset).await
    }
}
