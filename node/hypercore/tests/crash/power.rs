//! The power goes, or the process, at every file operation.

use std::sync::Arc;

use cumulet_hypercore::core::Core;
use cumulet_hypercore::storage::{Faults, FileOperation, Limits, MemoryStorage, Storage};

use crate::disk::{Disk, Loss, losses};
use crate::life::{self, DIRECT, EAGER, STRAIGHT, State, Trace, acts, check, open, scratch};
use crate::random::Random;

/// A whole life, with every file operation written down.
fn record(limits: Limits) -> (tempfile::TempDir, Vec<FileOperation>, Trace) {
    let root = scratch();
    let faults = Faults::recording();
    let mut core = open(root.path(), limits, Some(faults.clone())).unwrap();
    let mut model = Core::open(MemoryStorage::new(), *core.key()).unwrap();
    model = with_owner(model, &core);
    let mut trace = Trace::new();
    for act in acts() {
        act.run(&mut model).unwrap();
        let flush = matches!(act, life::Act::Flush);
        if !flush {
            trace.begin(State::of(&model), faults.count());
        }
        act.run(&mut core).unwrap();
        if flush {
            trace.acknowledge(faults.count());
        }
        assert_eq!(State::of(&core), *trace.states.last().unwrap(), "after {act:?}");
    }
    drop(core);
    let operations = faults.done();
    (root, operations, trace)
}

/// The model is a core of the same owner in memory.
fn with_owner<S: Storage>(empty: Core<MemoryStorage>, core: &Core<S>) -> Core<MemoryStorage> {
    drop(empty);
    let manifest = core.manifest().unwrap().clone();
    Core::create(MemoryStorage::new(), manifest, Some(life::key_pair())).unwrap()
}

fn stop_everywhere(limits: Limits, at_least: usize) {
    let (root, operations, trace) = record(limits);
    assert!(
        operations.len() > at_least,
        "only {} operations",
        operations.len()
    );
    let mut disk = Disk::new(root.path());
    for (count, operation) in operations.iter().enumerate() {
        for loss in losses(count as u64) {
            let after = scratch();
            disk.make(loss, after.path());
            let what = format!("{loss:?} lost after {count} operations, before {operation:?}");
            check(after.path(), limits, trace.allowed(count), &what);
        }
        disk.take(operation);
    }
    let after = scratch();
    disk.make(Loss::Nothing, after.path());
    let last = trace.states.len() - 1;
    check(after.path(), limits, &trace.states[last..], "at the end");
}

#[test]
fn power_lost_at_any_operation_of_a_core_that_seals_and_compacts_loses_nothing_acknowledged() {
    stop_everywhere(EAGER, 200);
}

#[test]
fn power_lost_at_any_operation_of_a_core_that_writes_segments_straight_away_loses_nothing_acknowledged() {
    for limits in [DIRECT, STRAIGHT] {
        stop_everywhere(limits, 50);
    }
}

#[test]
fn power_lost_at_any_operation_of_a_core_that_only_appends_to_its_log_loses_nothing_acknowledged() {
    stop_everywhere(Limits::default(), 25);
}

#[test]
fn a_write_torn_at_any_place_loses_nothing_acknowledged_and_leaves_no_half() {
    for limits in [EAGER, STRAIGHT] {
        tear_everywhere(limits);
    }
}

fn tear_everywhere(limits: Limits) {
    let (root, operations, trace) = record(limits);
    let mut disk = Disk::new(root.path());
    for (count, operation) in operations.iter().enumerate() {
        if let FileOperation::Write { path, offset, bytes } = operation {
            for length in [1, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                let mut torn = Disk::new(root.path());
                for operation in &operations[..count] {
                    torn.take(operation);
                }
                torn.take(&FileOperation::Write {
                    path: path.clone(),
                    offset: *offset,
                    bytes: bytes.slice(..length.min(bytes.len())),
                });
                let after = scratch();
                torn.make(Loss::Nothing, after.path());
                let what = format!("operation {count} wrote {length} bytes of {}", bytes.len());
                check(after.path(), limits, trace.allowed(count + 1), &what);
            }
        }
        disk.take(operation);
    }
}

#[test]
fn a_crash_while_a_crash_is_repaired_is_repaired_as_well() {
    for limits in [EAGER, STRAIGHT] {
        crash_twice(limits);
    }
}

fn crash_twice(limits: Limits) {
    let (root, operations, trace) = record(limits);
    let mut random = Random(1);
    let mut disk = Disk::new(root.path());
    let mut repairs = 0;
    for (count, operation) in operations.iter().enumerate() {
        disk.take(operation);
        let losses: Vec<Loss> = losses(count as u64).collect();
        let loss = losses[random.below(losses.len() as u64) as usize];
        let after = scratch();
        disk.make(loss, after.path());
        let mut second = Disk::of(after.path());
        let faults = Faults::recording();
        drop(open(after.path(), limits, Some(Arc::clone(&faults))).unwrap());
        let repair = faults.done();
        for (step, operation) in repair.iter().enumerate() {
            for loss in [Loss::Nothing, Loss::Everything, Loss::Some(random.next())] {
                let again = scratch();
                second.make(loss, again.path());
                let what =
                    format!("{loss:?} lost at step {step} of repairing a crash after {count} operations");
                check(again.path(), limits, trace.allowed(count + 1), &what);
            }
            second.take(operation);
            repairs += 1;
        }
    }
    assert!(repairs > 20, "only {repairs} steps of repair were tried");
}
