//! The disk refuses at every file operation, and the process lives on.

use cumulet_hypercore::core::Core;
use cumulet_hypercore::storage::{Fault, Faults, Limits, MemoryStorage};

use crate::disk::{Disk, Loss, losses};
use crate::life::{
    Act, DiskCore, EAGER, STRAIGHT, State, Trace, acts, check, is_closed, key_pair, open, scratch,
};

/// How many refusals a full disk lasts.
const FULL_FOR: usize = 3;

/// Lives on through refusals, until the storage closes or the life ends. Whatever was refused did not happen; whatever
/// was not did.
fn live_on(core: &mut DiskCore, faults: &Faults, trace: &mut Trace) {
    let manifest = core.manifest().unwrap().clone();
    let mut model = Core::create(MemoryStorage::new(), manifest, Some(key_pair())).unwrap();
    let mut refused = 0;
    for act in acts() {
        let flush = matches!(act, Act::Flush);
        let mut ahead = Core::open(model.storage().clone(), *model.key()).unwrap();
        ahead.set_key_pair(key_pair());
        // A refused append leaves later acts without the blocks they are about.
        if act.run(&mut ahead).is_err() {
            continue;
        }
        if !flush {
            trace.begin(State::of(&ahead), faults.count());
        }
        match act.run(core) {
            Ok(()) if flush => trace.acknowledge(faults.count()),
            Ok(()) => model = ahead,
            Err(error) => {
                refused += 1;
                if is_closed(&error) {
                    return;
                }
                if !flush && State::of(core) == State::of(&model) {
                    // On the disk it may lie, if the storage could not take it back and closed.
                    if core.flush().is_err() {
                        return;
                    }
                    trace.undo();
                    trace.acknowledge(faults.count());
                }
                if refused == FULL_FOR {
                    faults.heal();
                }
            }
        }
        assert_eq!(State::of(core), State::of(&model), "after {act:?}");
    }
}

fn refuse_everywhere(fault: Fault) {
    for limits in [EAGER, STRAIGHT] {
        refuse(fault, limits);
    }
}

fn refuse(fault: Fault, limits: Limits) {
    let mut operations: u32 = 0;
    loop {
        let root = scratch();
        let faults = Faults::with(fault, operations.into());
        let mut trace = Trace::new();
        let what = format!("{fault:?} at operation {operations}");
        if let Ok(mut core) = open(root.path(), limits, Some(faults.clone())) {
            live_on(&mut core, &faults, &mut trace);
        }
        let mut disk = Disk::new(root.path());
        for operation in faults.done() {
            disk.take(&operation);
        }
        // What is lost rotates, so that each kind meets every kind of operation.
        let every = losses(operations.into()).count();
        let rotating = losses(operations.into()).nth(operations as usize % every);
        for loss in rotating.into_iter().chain([Loss::Everything]) {
            let after = scratch();
            disk.make(loss, after.path());
            let what = format!("{what}, then {loss:?} lost");
            check(after.path(), limits, trace.allowed(usize::MAX), &what);
        }
        check(root.path(), limits, trace.allowed(usize::MAX), &what);
        if !faults.hit() {
            break;
        }
        operations += 1;
    }
    assert!(operations > 30, "only {operations} operations");
}

#[test]
fn a_disk_that_is_full_at_any_operation_costs_no_acknowledged_block_and_can_be_written_when_it_has_room() {
    refuse_everywhere(Fault::NoSpace);
}

#[test]
fn a_write_that_fails_at_any_operation_costs_no_acknowledged_block() {
    refuse_everywhere(Fault::WriteError);
}

#[test]
fn a_sync_that_fails_at_any_operation_acknowledges_nothing_that_may_be_lost() {
    refuse_everywhere(Fault::SyncError);
}
