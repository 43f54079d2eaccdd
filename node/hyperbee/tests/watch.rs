//! Watching, live history, compare and swap, and caches that several bees share.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cumulet_hyperbee::{
    Bee, BeeCache, BeeWriter, Blocks, BlocksError, MemoryBlocks, Operation, Range, WriteOptions,
};
use futures::executor::block_on;

type Writer = BeeWriter<MemoryBlocks>;

fn writer() -> Writer {
    BeeWriter::new(MemoryBlocks::default(), WriteOptions::default())
}

fn put(writer: &mut Writer, key: &str, value: &str) {
    block_on(writer.put(key, Some(value.as_bytes()))).unwrap();
}

/// Whether a future has nothing to say yet.
fn waits<T>(future: impl Future<Output = T>) -> bool {
    let mut future = std::pin::pin!(future);
    matches!(
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())),
        Poll::Pending
    )
}

#[test]
fn a_watcher_sees_changes_in_its_range_and_no_others() {
    let mut writer = writer();
    put(&mut writer, "b", "1");
    let bee = writer.bee().clone();
    let mut watcher = bee.watch(Range::all().gte("b").lt("c"));
    assert!(waits(watcher.next()));
    put(&mut writer, "a", "1");
    put(&mut writer, "c", "1");
    assert!(waits(watcher.next()), "woken by keys outside of the range");
    put(&mut writer, "b1", "1");
    put(&mut writer, "b2", "1");
    let change = block_on(watcher.next()).unwrap();
    let keys: Vec<_> = block_on(
        change
            .current
            .diff(change.previous.version(), Range::all())
            .collect(10),
    )
    .unwrap()
    .into_iter()
    .map(|change| change.left.unwrap().key)
    .collect();
    // Both puts are one change, as nobody asked between.
    assert_eq!(keys, ["b1", "b2"]);
    assert!(!change.forked && waits(watcher.next()));
    block_on(writer.del("b")).unwrap();
    assert!(block_on(watcher.next()).is_ok(), "a delete is a change");
}

#[test]
fn a_waiting_watcher_is_woken_by_an_append_from_another_thread() {
    let mut writer = writer();
    put(&mut writer, "a", "1");
    let mut watcher = writer.bee().watch(Range::all());
    let waiting = std::thread::spawn(move || block_on(watcher.next()).unwrap().current.version());
    put(&mut writer, "b", "1");
    assert_eq!(waiting.join().unwrap(), 3);
}

#[test]
fn a_truncation_is_a_change_and_empties_the_cache() {
    let mut writer = writer();
    for number in 0..50 {
        put(&mut writer, &format!("{number:02}"), "old");
    }
    let bee = writer.bee().clone();
    assert!(block_on(bee.get("40")).unwrap().is_some());
    let mut watcher = bee.watch(Range::all().lt("00"));
    writer.blocks().truncate(10);
    let change = block_on(watcher.next()).unwrap();
    assert!(change.forked);
    assert!(block_on(bee.get("40")).unwrap().is_none());
    // The writer's tree was of the old fork too.
    put(&mut writer, "40", "new");
    for _ in 0..60 {
        put(&mut writer, "x", "");
    }
    let entry = block_on(bee.get("40")).unwrap().unwrap();
    assert_eq!((entry.seq, entry.value.as_deref()), (10, Some(&b"new"[..])));
}

#[test]
fn a_key_is_watched_through_puts_deletes_and_other_keys() {
    let mut writer = writer();
    put(&mut writer, "a", "1");
    let bee = writer.bee().clone();
    let mut watcher = block_on(bee.get_and_watch("a")).unwrap();
    assert_eq!(watcher.entry().unwrap().seq, 1);
    put(&mut writer, "b", "1");
    assert!(waits(watcher.changed()));
    put(&mut writer, "a", "1");
    assert_eq!(block_on(watcher.changed()).unwrap().unwrap().seq, 3);
    block_on(writer.del("a")).unwrap();
    assert!(block_on(watcher.changed()).unwrap().is_none());
    writer.blocks().truncate(2);
    assert_eq!(block_on(watcher.changed()).unwrap().unwrap().seq, 1);
}

#[test]
fn a_live_history_goes_on_with_what_is_appended() {
    let mut writer = writer();
    put(&mut writer, "a", "1");
    let bee = writer.bee().clone();
    let mut live = bee.history(1).limit(3);
    assert_eq!(block_on(live.next_live()).unwrap().unwrap().key, "a");
    assert!(waits(live.next_live()));
    block_on(writer.del("a")).unwrap();
    put(&mut writer, "c", "1");
    let deleted = block_on(live.next_live()).unwrap().unwrap();
    assert_eq!((deleted.operation, deleted.seq), (Operation::Delete, 2));
    assert_eq!(block_on(live.next_live()).unwrap().unwrap().key, "c");
    assert!(block_on(live.next_live()).unwrap().is_none(), "beyond its limit");
}

#[test]
fn history_has_ends_a_direction_and_a_limit() {
    let mut writer = writer();
    for number in 1..100 {
        put(&mut writer, &number.to_string(), "");
    }
    let seqs = |mut history: cumulet_hyperbee::History<MemoryBlocks>| {
        let mut seqs = Vec::new();
        while let Some(entry) = block_on(history.next()).unwrap() {
            seqs.push(entry.seq);
        }
        seqs
    };
    let bee = writer.bee();
    assert_eq!(seqs(bee.history(1)), (1..100).collect::<Vec<_>>());
    assert_eq!(seqs(bee.history_between(30..33, true)), [32, 31, 30]);
    assert_eq!(seqs(bee.history_between(0..1000, false).limit(2)), [1, 2]);
    assert_eq!(seqs(bee.checkout(5).history_reverse().limit(9)), [4, 3, 2, 1]);
}

#[test]
fn compare_and_swap_writes_only_if_the_entry_is_the_expected_one() {
    let mut writer = writer();
    put(&mut writer, "a", "1");
    let one = |entry: &cumulet_hyperbee::Entry| entry.value.as_deref() == Some(b"1");
    assert_eq!(block_on(writer.del_if("a", |entry| !one(entry))).unwrap(), None);
    assert_eq!(
        block_on(writer.put_if("a", Some(b"2"), |entry| !one(entry))).unwrap(),
        None
    );
    assert_eq!(writer.bee().version(), 2);
    assert_eq!(block_on(writer.put_if("a", Some(b"2"), one)).unwrap(), Some(2));
    assert_eq!(block_on(writer.del_if("a", one)).unwrap(), None);
    assert_eq!(
        block_on(writer.del_if("a", |entry| !one(entry))).unwrap(),
        Some(3)
    );
    assert_eq!(block_on(writer.del_if("a", |_| true)).unwrap(), None);
    assert!(block_on(writer.bee().get("a")).unwrap().is_none());
}

#[test]
fn a_batch_reads_what_it_has_changed() {
    let mut writer = writer();
    put(&mut writer, "a", "1");
    let mut batch = writer.batch();
    block_on(batch.put("b", Some(b"2"))).unwrap();
    block_on(batch.del("a")).unwrap();
    assert_eq!(block_on(batch.get("b")).unwrap().unwrap().value.unwrap(), "2");
    assert!(block_on(batch.get("a")).unwrap().is_none());
    drop(batch);
    assert!(block_on(writer.bee().get("a")).unwrap().is_some());
}

/// A put that writes nothing marks nodes in a batch; a later batch must not write them.
#[test]
fn batches_after_refused_puts_write_the_blocks_of_a_fresh_writer() {
    let options = || WriteOptions {
        skip_equal: true,
        ..WriteOptions::default()
    };
    let kept = MemoryBlocks::default();
    let fresh = MemoryBlocks::default();
    let mut keeper = BeeWriter::new(kept.clone(), options());
    for round in 0..40_u32 {
        let mut once = BeeWriter::new(fresh.clone(), options());
        for writer in [&mut keeper, &mut once] {
            let mut batch = writer.batch();
            for number in 0..20 {
                let key = (round * 7 + number) % 90;
                let value = if number % 3 == 0 { "same" } else { "other" };
                block_on(batch.put(key.to_be_bytes(), Some(value.as_bytes()))).unwrap();
            }
            block_on(batch.flush()).unwrap();
        }
    }
    assert_eq!(kept.to_vec(), fresh.to_vec());
}

#[derive(Clone)]
struct Counted {
    blocks: MemoryBlocks,
    reads: Arc<AtomicUsize>,
}

impl Blocks for Counted {
    fn length(&self) -> u64 {
        self.blocks.length()
    }
    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.blocks.get(index).await
    }
    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.blocks.seek(byte_offset).await
    }
}

#[test]
fn bees_opened_one_after_the_other_share_a_cache() {
    let mut writer = writer();
    let mut batch = writer.batch();
    for number in 0..5000_u32 {
        block_on(batch.put(number.to_be_bytes(), Some(b"v"))).unwrap();
    }
    block_on(batch.flush()).unwrap();
    let core = Counted {
        blocks: writer.blocks().clone(),
        reads: Arc::default(),
    };
    let cache = BeeCache::new(1 << 20);
    let read = |cache: BeeCache| {
        let bee = Bee::with_cache(core.clone(), cache);
        let before = core.reads.load(Ordering::Relaxed);
        assert!(block_on(bee.get(2500_u32.to_be_bytes())).unwrap().is_some());
        core.reads.load(Ordering::Relaxed) - before
    };
    assert!(read(cache.clone()) > 3);
    assert_eq!(read(cache.clone()), 0);
    assert!(read(BeeCache::default()) > 3, "a cache of its own is cold");
    block_on(
        Bee::with_cache(core.clone(), cache.clone())
            .range(Range::all())
            .collect(5000),
    )
    .unwrap();
    assert!(cache.bytes() <= 1 << 20);
}
