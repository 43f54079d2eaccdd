//! Any sequence of changes with crashes in it equals a core in memory that went back to what was acknowledged.

use cumulet_hypercore::core::Core;
use cumulet_hypercore::storage::{Faults, Limits, MemoryStorage, Storage as _};
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use crate::disk::{Disk, Loss, losses};
use crate::life::{Act, DIRECT, EAGER, STRAIGHT, State, Trace, check, key_pair, open, scratch, verify};
use crate::readers::Readers;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Truncate(Index),
    Clear(Index, u64),
    Flush,
    /// A flush begins, as a store does it without keeping others from changing the core.
    Begin,
    /// The flush that began is waited for.
    End,
    /// Somebody begins to read the core as it is now.
    Read,
    /// One of those who read is done.
    Forget(Index),
    /// After some of the operations since the last opening, losing something.
    Crash(Index, usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(0usize..900, 1..6).prop_map(Step::Append),
        1 => any::<Index>().prop_map(Step::Truncate),
        1 => (any::<Index>(), 1u64..5).prop_map(|(start, count)| Step::Clear(start, count)),
        2 => Just(Step::Flush),
        2 => Just(Step::Begin),
        2 => Just(Step::End),
        1 => Just(Step::Read),
        1 => any::<Index>().prop_map(Step::Forget),
        2 => (any::<Index>(), 0usize..8, any::<u64>()).prop_map(|(at, loss, seed)| Step::Crash(at, loss, seed)),
    ]
}

/// The act that a step means for a core of this length.
fn act(step: &Step, length: u64, fill: u8) -> Option<Act> {
    let at = |index: &Index| index.index(length as usize) as u64;
    Some(match step {
        Step::Append(sizes) => Act::Append(sizes.iter().map(|size| vec![fill; *size].into()).collect()),
        Step::Truncate(index) if length > 0 => Act::Truncate(at(index)),
        Step::Clear(index, count) if length > 0 => Act::Clear(at(index)..at(index) + count),
        Step::Flush => Act::Flush,
        _ => return None,
    })
}

/// A core in memory that its owner may change.
fn owned(storage: MemoryStorage) -> Core<MemoryStorage> {
    let key = storage.manifest().unwrap().key();
    let mut core = Core::open(storage, key).unwrap();
    core.set_key_pair(key_pair());
    core
}

/// What is found when the world stopped after some of the operations and lost something, and how many they were.
fn crash(before: &mut Disk, faults: &Faults, at: Index, loss: Loss) -> (TempDir, usize) {
    let operations = faults.done();
    let count = at.index(operations.len() + 1);
    for operation in &operations[..count] {
        before.take(operation);
    }
    let after = scratch();
    before.make(loss, after.path());
    (after, count)
}

fn live(steps: &[Step], limits: Limits) {
    let mut root = scratch();
    let mut faults = Faults::recording();
    let mut before = Disk::new(root.path());
    let mut core = open(root.path(), limits, Some(faults.clone())).unwrap();
    let manifest = core.manifest().unwrap().clone();
    let mut model = Core::create(MemoryStorage::new(), manifest, Some(key_pair())).unwrap();
    let mut trace = Trace::new();
    let mut snapshots = vec![model.storage().clone()];
    let mut pending = None;
    let mut readers = Readers::default();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Read => readers.begin(model.length()),
            Step::Forget(index) => readers.end(*index),
            _ => {}
        }
        readers.tell(&mut core, &mut model);
        if let Some(act) = act(step, model.length(), number as u8) {
            let before = State::of(&model);
            act.run(&mut model).unwrap();
            let flush = matches!(act, Act::Flush);
            if !flush {
                trace.begin(State::of(&model), faults.count());
                snapshots.push(model.storage().clone());
            }
            act.run(&mut core).unwrap();
            if let Act::Truncate(length) = act {
                readers.cut((&mut core, &mut model), length, before.blocks());
            }
            readers.check();
            if flush {
                trace.acknowledge(faults.count());
            }
            assert_eq!(State::of(&core), State::of(&model), "after {act:?}");
        }
        if matches!(step, Step::Begin) && pending.is_none() {
            match core.storage_mut().begin_flush().unwrap() {
                Some(flush) => pending = Some((flush, trace.last())),
                None => trace.acknowledge(faults.count()),
            }
        }
        if matches!(step, Step::End)
            && let Some((mut flush, state)) = pending.take()
        {
            flush.run();
            core.storage_mut().end_flush(flush).unwrap();
            trace.acknowledge_state(faults.count(), state);
        }
        if let Step::Crash(at, loss, seed) = step {
            pending = None;
            // Those who read end with the process.
            readers = Readers::default();
            drop(core);
            let losses: Vec<Loss> = losses(*seed).collect();
            let loss = losses[loss % losses.len()];
            let (after, count) = crash(&mut before, &faults, *at, loss);
            let allowed = trace.allowed(count);
            faults = Faults::recording();
            before = Disk::of(after.path());
            core = open(after.path(), limits, Some(faults.clone()))
                .unwrap_or_else(|error| panic!("{loss:?} lost after {count} operations: {error:?}"));
            let found = State::of(&core);
            assert!(allowed.contains(&found), "{loss:?} lost after {count} operations");
            verify(&core, "after a crash");
            root = after;
            // What was found is what counts from now on: it was on the disk.
            let restored = snapshots.into_iter().rev().map(owned);
            model = restored
                .into_iter()
                .find(|model| State::of(model) == found)
                .unwrap();
            snapshots = vec![model.storage().clone()];
            trace = Trace::from(found);
        }
    }
    drop(core);
    check(root.path(), limits, &[State::of(&model)], "at the end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_sequence_of_changes_and_crashes_equals_the_model(
        steps in proptest::collection::vec(step(), 1..30), kind in 0..4_usize,
    ) {
        live(&steps, [EAGER, DIRECT, STRAIGHT].get(kind).copied().unwrap_or_default());
    }
}
