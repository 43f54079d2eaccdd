//! A bee behaves as an ordered map, whatever is done to it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

use std::collections::BTreeMap;

use bytes::Bytes;
use cumulet_hyperbee::{Bee, BeeWriter, MemoryBlocks, Range, WriteOptions};
use futures::executor::block_on;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<u8>, Vec<u8>),
    Del(Vec<u8>),
    Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few enough keys that they meet, and prefixes of each other.
    prop_oneof![vec(0_u8..3, 0..4), (0_u8..120).prop_map(|byte| vec![b'k', byte])]
}

fn op() -> impl Strategy<Value = Op> {
    let value = || vec(any::<u8>(), 0..4);
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Op::Put(key, value)),
        3 => key().prop_map(Op::Del),
        2 => vec((key(), proptest::option::weighted(0.6, value())), 1..30).prop_map(Op::Batch),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

async fn apply(writer: &mut BeeWriter<MemoryBlocks>, model: &mut Model, op: Op) {
    match op {
        Op::Put(key, value) => {
            assert!(writer.put(&key, Some(&value)).await.unwrap().is_some());
            model.insert(key, value);
        }
        Op::Del(key) => {
            let written = writer.del(&key).await.unwrap();
            assert_eq!(written.is_some(), model.remove(&key).is_some());
        }
        Op::Batch(changes) => {
            let mut batch = writer.batch();
            for (key, value) in changes {
                if let Some(value) = value {
                    batch.put(&key, Some(&value)).await.unwrap();
                    model.insert(key, value);
                } else {
                    let written = batch.del(&key).await.unwrap();
                    assert_eq!(written.is_some(), model.remove(&key).is_some());
                }
            }
            batch.flush().await.unwrap();
        }
    }
}

fn contents(bee: &Bee<MemoryBlocks>, range: Range) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entries = block_on(bee.range(range).collect(usize::MAX)).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.key.to_vec(), entry.value.unwrap().to_vec()))
        .collect()
}

fn pairs(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_bee_holds_what_an_ordered_map_holds_at_every_version(
        ops in vec(op(), 1..60),
        (low, high) in (key(), key()),
        seed in any::<prop::sample::Index>(),
    ) {
        let core = MemoryBlocks::default();
        let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
        let mut model = Model::new();
        let mut versions = vec![(1, Model::new())];
        for op in ops {
            block_on(apply(&mut writer, &mut model, op));
            versions.push((writer.bee().version(), model.clone()));
        }
        // A fresh reader: nothing of the writer's memory may be needed.
        let bee = Bee::new(core);
        prop_assert_eq!(contents(&bee, Range::all()), pairs(&model));
        let mut reversed = pairs(&model);
        reversed.reverse();
        prop_assert_eq!(contents(&bee, Range::all().reverse()), reversed);
        for (key, value) in &model {
            let entry = block_on(bee.get(key)).unwrap().unwrap();
            prop_assert_eq!(entry.value.as_deref(), Some(value.as_slice()));
        }
        prop_assert_eq!(block_on(bee.get(b"not a key")).unwrap(), None);

        let inside: Vec<_> = pairs(&model).into_iter().filter(|(key, _)| *key > low && *key <= high).collect();
        prop_assert_eq!(contents(&bee, Range::all().gt(&low).lte(&high)), inside);
        let mut inside: Vec<_> = pairs(&model).into_iter().filter(|(key, _)| *key >= low && *key < high).collect();
        inside.reverse();
        prop_assert_eq!(contents(&bee, Range::all().gte(&low).lt(&high).reverse()), inside);

        let (version, old) = seed.get(&versions);
        prop_assert_eq!(contents(&bee.checkout(*version), Range::all()), pairs(old));
        let mut patched = old.clone();
        for change in block_on(bee.diff(*version, Range::all()).collect(usize::MAX)).unwrap() {
            let key = change.left.as_ref().or(change.right.as_ref()).unwrap().key.to_vec();
            let before = change.right.map(|entry| entry.value.unwrap().to_vec());
            prop_assert_eq!(patched.get(&key), before.as_ref());
            match change.left {
                Some(entry) => patched.insert(key, entry.value.unwrap().to_vec()),
                None => patched.remove(&key),
            };
        }
        prop_assert_eq!(patched, model);
    }

    #[test]
    fn sub_bees_share_a_bee_without_meeting(entries in vec((0_u8..3, vec(1_u8..4, 1..3)), 1..40)) {
        let core = MemoryBlocks::default();
        let mut writer = BeeWriter::new(core.clone(), WriteOptions::default());
        let mut models = vec![Model::new(); 3];
        for (name, key) in entries {
            let sub = writer.bee().sub([b'a', name]);
            let stored = [sub.prefix().as_ref(), &key].concat();
            block_on(writer.put(stored, Some(&[name]))).unwrap();
            models[usize::from(name)].insert(key, vec![name]);
        }
        let bee = Bee::new(core);
        for (name, model) in models.iter().enumerate() {
            let sub = bee.sub([b'a', u8::try_from(name).unwrap()]);
            prop_assert_eq!(contents(&sub, Range::all()), pairs(model));
            let mut reversed = pairs(model);
            reversed.reverse();
            prop_assert_eq!(contents(&sub, Range::all().reverse()), reversed);
            for key in model.keys() {
                prop_assert!(block_on(sub.get(key)).unwrap().is_some_and(|entry| entry.key == *key));
            }
        }
    }

    #[test]
    fn any_bytes_as_blocks_give_answers_or_errors_and_end(raw in vec(vec(any::<u8>(), 0..40), 1..20)) {
        let bee = Bee::new(MemoryBlocks::new(raw.into_iter().map(Bytes::from)));
        read_everything(&bee);
    }

    /// Well-formed blocks with arbitrary indexes: cycles, shared nodes, wrong orders, levels that are not there.
    #[test]
    fn any_index_gives_answers_or_errors_and_ends(
        blocks in vec((vec((vec(0_u64..16, 0..9), vec((0_u64..16, 0_u64..4), 0..10)), 0..4), vec(0_u8..3, 0..3)), 1..16),
    ) {
        use cumulet_hyperbee::message::{ChildPointer, Header, Level, Node};
        let header = Header::new(None).encode();
        let nodes = blocks.into_iter().map(|(levels, key)| {
            let levels = levels.into_iter().map(|(keys, mut children)| {
                // Mostly of the right shape, or hardly anything would get past the first check.
                if children.len() > keys.len() { children.truncate(keys.len() + 1) } else { children.clear() }
                let children = children.into_iter().map(|(seq, offset)| ChildPointer { seq, offset }).collect();
                Level { keys, children }
            });
            Node { levels: levels.collect(), key: Bytes::from(key), value: None }.encode()
        });
        let bee = Bee::new(MemoryBlocks::new(std::iter::once(header).chain(nodes)));
        read_everything(&bee);
        let mut writer = BeeWriter::new(bee.blocks().clone(), WriteOptions::default());
        let _ = block_on(writer.del([1_u8]));
        let _ = block_on(writer.put([1_u8, 1], Some(b"x")));
    }
}

fn read_everything(bee: &Bee<MemoryBlocks>) {
    let _ = block_on(bee.is_bee());
    for key in [&[][..], &[0], &[1, 1], &[2]] {
        let _ = block_on(bee.get(key));
        let _ = block_on(bee.range(Range::all().gt(key)).collect(usize::MAX));
        let _ = block_on(bee.range(Range::all().lte(key).reverse()).collect(usize::MAX));
    }
    for version in 0..=bee.version() {
        let _ = block_on(bee.diff(version, Range::all()).collect(usize::MAX));
    }
}
