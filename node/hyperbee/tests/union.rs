//! The union of many bees against the merge of maps.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering as Atomic};

use bytes::Bytes;
use cumulet_hyperbee::union::{Found, OnFailure, Rule, Source, Union, UnionError};
use cumulet_hyperbee::{AnyBlocks, Bee, BeeWriter, Blocks, BlocksError, MemoryBlocks, Range, WriteOptions};
use futures::executor::block_on;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Map = BTreeMap<Vec<u8>, u8>;

async fn blocks(map: &Map) -> MemoryBlocks {
    let blocks = MemoryBlocks::default();
    let mut writer = BeeWriter::new(blocks.clone(), WriteOptions::default());
    let mut batch = writer.batch();
    for (key, value) in map {
        batch.put(key, Some(&[*value])).await.unwrap();
    }
    batch.flush().await.unwrap();
    blocks
}

fn union(maps: &[Map], rule: Rule) -> Union<MemoryBlocks> {
    let sources = maps.iter().enumerate().map(|(number, map)| {
        let bee = Bee::new(block_on(blocks(map)));
        Source::new(format!("source {number}"), bee).may_be_empty()
    });
    Union::new(sources, rule)
}

fn value(found: &Found) -> u8 {
    found.entry.value.as_ref().unwrap()[0]
}

/// What the view must hold: for every key the values, in the order of the sources.
fn merge(maps: &[Map]) -> BTreeMap<Vec<u8>, Vec<(usize, u8)>> {
    let mut merged: BTreeMap<Vec<u8>, Vec<(usize, u8)>> = BTreeMap::new();
    for (source, map) in maps.iter().enumerate() {
        for (key, value) in map {
            merged.entry(key.clone()).or_default().push((source, *value));
        }
    }
    merged
}

fn choose(rule: &Rule, all: &[(usize, u8)]) -> Vec<(usize, u8)> {
    match rule {
        Rule::First => all[..1].to_vec(),
        Rule::All => all.to_vec(),
        Rule::Newest(_) => {
            let newest = all.iter().map(|(_, value)| value / 4).max().unwrap();
            let first = all.iter().find(|(_, value)| value / 4 == newest);
            vec![*first.unwrap()]
        }
    }
}

fn rules() -> [Rule; 3] {
    // Values of one quarter are equally new.
    let newer = |a: &Found, b: &Found| (value(a) / 4).cmp(&(value(b) / 4));
    [Rule::First, Rule::All, Rule::Newest(Arc::new(newer))]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(255)], 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn range(lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>, reverse: bool, limit: Option<usize>) -> Range {
    let mut range = match lower {
        Bound::Unbounded => Range::all(),
        Bound::Included(key) => Range::all().gte(key),
        Bound::Excluded(key) => Range::all().gt(key),
    };
    range = match upper {
        Bound::Unbounded => range,
        Bound::Included(key) => range.lte(key),
        Bound::Excluded(key) => range.lt(key),
    };
    if reverse {
        range = range.reverse();
    }
    limit.map_or(range.clone(), |limit| range.limit(limit as u64))
}

fn above(lower: &Bound<Vec<u8>>, key: &Vec<u8>) -> bool {
    match lower {
        Bound::Unbounded => true,
        Bound::Included(lower) => key >= lower,
        Bound::Excluded(lower) => key > lower,
    }
}

fn below(upper: &Bound<Vec<u8>>, key: &Vec<u8>) -> bool {
    match upper {
        Bound::Unbounded => true,
        Bound::Included(upper) => key <= upper,
        Bound::Excluded(upper) => key < upper,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_union_equals_the_merge_of_its_sources_for_any_contents_and_range(
        maps in vec(btree_map(key(), any::<u8>(), 0..60), 0..6),
        lower in bound(),
        upper in bound(),
        reverse: bool,
        limit in proptest::option::of(0_usize..40),
    ) {
        for rule in rules() {
            let union = union(&maps, rule.clone());
            let mut expected: Vec<_> = merge(&maps)
                .into_iter()
                .filter(|(key, _)| above(&lower, key) && below(&upper, key))
                .map(|(key, all)| (key, choose(&rule, &all)))
                .collect();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit.unwrap_or(usize::MAX));
            let range = range(&lower, &upper, reverse, limit);
            let seen = block_on(union.range(range).collect(1000)).unwrap();
            let seen: Vec<_> = seen
                .iter()
                .map(|merged| {
                    let all = std::iter::once(merged.winner()).chain(merged.others());
                    (merged.key().to_vec(), all.map(|found| (found.source, value(found))).collect::<Vec<_>>())
                })
                .collect();
            prop_assert_eq!(seen, expected);
            for (key, all) in merge(&maps).into_iter().take(5) {
                let found = block_on(union.get(&key)).unwrap().merged.unwrap();
                prop_assert_eq!((found.winner().source, value(found.winner())), choose(&rule, &all)[0]);
            }
            prop_assert!(block_on(union.get([7])).unwrap().merged.is_none());
        }
    }
}

#[test]
fn none_one_three_and_fifty_sources_are_one_view() {
    for count in [0_u8, 1, 3, 50] {
        // Every source has a key of its own and one that all share.
        let maps: Vec<Map> = (0..count)
            .map(|number| Map::from([(vec![b'k', number], number), (b"shared".to_vec(), number)]))
            .collect();
        for (rule, shared) in [(Rule::First, 1), (Rule::All, usize::from(count))] {
            let union = union(&maps, rule);
            assert_eq!(union.len(), usize::from(count));
            let all = block_on(union.range(Range::all()).collect(1000)).unwrap();
            let expected = if count == 0 { 0 } else { usize::from(count) + 1 };
            assert_eq!(all.len(), expected);
            if let Some(last) = all.last() {
                assert_eq!((last.key().as_ref(), last.winner().source), (&b"shared"[..], 0));
                assert_eq!(last.others().len() + 1, shared);
            }
            let found = block_on(union.get("shared")).unwrap().merged;
            assert_eq!(found.is_some(), count > 0);
        }
    }
}

#[test]
fn a_key_deleted_from_one_source_shows_the_next_and_a_tombstone_hides_it() {
    let with = |pairs: &[(&str, u8)]| {
        pairs
            .iter()
            .map(|(key, value)| (key.as_bytes().to_vec(), *value))
            .collect::<Map>()
    };
    let maps = [with(&[("a", 1), ("b", 1)]), with(&[("a", 2), ("b", 2)])];
    let union = union(&maps, Rule::First);
    let mut writer = BeeWriter::new(union.bee(0).unwrap().blocks().clone(), WriteOptions::default());
    block_on(writer.del("a")).unwrap();
    block_on(writer.put("b", Some(&[0]))).unwrap();
    let winner = |union: &Union<_>, key: &str| {
        let merged = block_on(union.get(key)).unwrap().merged;
        merged.map(|merged| (merged.winner().source, value(merged.winner())))
    };
    assert_eq!(winner(&union, "a"), Some((1, 2)));
    assert_eq!(winner(&union, "b"), Some((0, 0)));
    let hiding = union.clone().hiding(|entry| entry.value.as_deref() == Some(&[0]));
    assert_eq!(winner(&hiding, "b"), None);
    // A limit counts what is shown, and the hidden key does not let the second source's through.
    let shown = block_on(hiding.range(Range::all().limit(2)).collect(10)).unwrap();
    assert_eq!(
        shown
            .iter()
            .map(|merged| merged.key().as_ref())
            .collect::<Vec<_>>(),
        [b"a"]
    );
}

/// Blocks that can be taken away, and that count how often they are read.
#[derive(Clone, Default)]
struct Flaky {
    blocks: MemoryBlocks,
    gone: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
}

impl Blocks for Flaky {
    fn length(&self) -> u64 {
        self.blocks.length()
    }
    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.reads.fetch_add(1, Atomic::Relaxed);
        if self.gone.load(Atomic::Relaxed) {
            return Err(BlocksError::NotAvailable { index });
        }
        self.blocks.get(index).await
    }
    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.blocks.seek(byte_offset).await
    }
}

fn numbered(keys: std::ops::Range<u32>) -> Flaky {
    let map = keys.map(|number| (number.to_be_bytes().to_vec(), 1)).collect();
    Flaky {
        blocks: block_on(blocks(&map)),
        ..Flaky::default()
    }
}

#[test]
fn a_source_that_is_gone_is_named_and_the_step_can_be_tried_again() {
    let (here, there) = (numbered(0..200), numbered(100..300));
    let sources = [
        Source::new("here", Bee::new(here)),
        Source::new("there", Bee::new(there.clone())),
    ];
    let union = Union::new(sources, Rule::First);
    let mut cursor = union.range(Range::all());
    let begun = block_on(cursor.collect(10)).unwrap();
    there.gone.store(true, Atomic::Relaxed);
    // Goes on until the second source's next entry is not in its cache any more.
    union.bee(1).unwrap().clear_cache();
    let mut seen = begun.len();
    let error = loop {
        match block_on(cursor.next()) {
            Ok(Some(_)) => seen += 1,
            Ok(None) => panic!("ended without an error"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, UnionError::Source { name, index: 1, .. } if name == "there"),
        "{error}"
    );
    assert!(matches!(
        block_on(union.get(250_u32.to_be_bytes())),
        Err(UnionError::Source { index: 1, .. })
    ));
    assert_eq!(cursor.skipped().len(), 0);
    there.gone.store(false, Atomic::Relaxed);
    seen += block_on(cursor.collect(1000)).unwrap().len();
    assert_eq!(seen, 300);
}

#[test]
fn a_source_that_is_gone_is_left_out_by_choice_and_listed() {
    let (here, there) = (numbered(0..200), numbered(100..300));
    there.gone.store(true, Atomic::Relaxed);
    let sources = [
        Source::new("there", Bee::new(there)),
        Source::new("here", Bee::new(here)),
    ];
    let union = Union::new(sources, Rule::First).on_failure(OnFailure::Skip);
    let mut cursor = union.range(Range::all());
    assert_eq!(block_on(cursor.collect(1000)).unwrap().len(), 200);
    assert_eq!(
        cursor
            .skipped()
            .iter()
            .map(UnionError::source_index)
            .collect::<Vec<_>>(),
        [0]
    );
    let lookup = block_on(union.get(150_u32.to_be_bytes())).unwrap();
    assert_eq!(lookup.merged.unwrap().winner().source, 1);
    assert_eq!(lookup.skipped.len(), 1);
}

#[test]
fn a_core_of_which_nothing_has_arrived_is_no_empty_bee_unless_the_caller_says_so() {
    let source = || Source::new("remote", Bee::new(AnyBlocks::new(MemoryBlocks::default())));
    let union = Union::new([source()], Rule::All);
    assert!(matches!(
        block_on(union.get("a")),
        Err(UnionError::NotArrived { index: 0, .. })
    ));
    assert!(block_on(union.range(Range::all()).next()).is_err());
    let union = Union::new([source().may_be_empty()], Rule::All);
    assert!(block_on(union.get("a")).unwrap().merged.is_none());
    assert!(block_on(union.range(Range::all()).next()).unwrap().is_none());
}

#[test]
fn a_union_reads_no_more_than_it_is_asked_for() {
    let sources: Vec<Flaky> = (0..50)
        .map(|number| numbered(number * 1000..(number + 1) * 1000))
        .collect();
    let union = Union::new(
        sources
            .iter()
            .enumerate()
            .map(|(n, blocks)| Source::new(n.to_string(), Bee::new(blocks.clone()))),
        Rule::First,
    );
    assert_eq!(
        block_on(union.range(Range::all().limit(5)).collect(10))
            .unwrap()
            .len(),
        5
    );
    let reads: usize = sources
        .iter()
        .map(|source| source.reads.load(Atomic::Relaxed))
        .sum();
    // Of 50,000 entries: the way down to the first of each, and what is fetched beside it.
    assert!(reads < 50 * 80, "{reads} blocks");
}

#[test]
fn views_can_be_read_from_any_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let union = union(&[Map::new()], Rule::First);
    drop(is_send(union.get("a")));
    let mut cursor = union.range(Range::all());
    drop(is_send(cursor.next()));
}
