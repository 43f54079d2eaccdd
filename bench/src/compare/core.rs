//! `core`: cores and archives on one machine, against the JavaScript packages in `bench/js`.
//!
//! JavaScript does not sync an append, so the rows with a ratio don't either. What the node does for whatever it
//! acknowledges stands beside as rows of its own, without a ratio.

use std::path::PathBuf;

use super::{Bench, Ceiling, Outcome, Plan, archives, one_task, replication};
use crate::side::Side;
use crate::work::{Append, Cores, Get, MIB, Task, Work};

/// The row that says how fast one core of the processor hashes.
pub(super) const HASH: &str = "one core: BLAKE2b-256 of 64 KiB blocks";
/// The row that says how fast one core of the processor encrypts or decrypts.
pub(super) const SEAL: &str = "one core: secretstream of 64 KiB messages";

pub(super) const KIB: usize = 1 << 10;
/// Blocks of the core that is read at random.
const READ_BLOCKS: u32 = 100_000;
const CORES: u32 = 10_000;

/// The rows.
pub(super) fn rows() -> Vec<Plan> {
    let mut rows = vec![
        processor(HASH, |mib| Task::Hash(Work { mib })),
        processor(SEAL, |mib| Task::Encrypt(Work { mib })),
    ];
    rows.extend(appends());
    rows.extend([
        get("random get, 1 KiB, one after the other", 20_000, 1),
        get("random get, 1 KiB, 64 in flight", 100_000, 64),
    ]);
    rows.extend(replication::rows());
    rows.extend(archives::rows());
    rows.push(many_cores());
    rows
}

fn processor(name: &'static str, task: fn(u32) -> Task) -> Plan {
    Plan {
        name,
        unit: "MiB/s",
        has_peer: true,
        ceiling: None,
        run: Box::new(move |bench, side| Outcome::new(&bench.work(side, &task(1024))?, &[])),
    }
}

/// How much is appended, and how.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) size: usize,
    pub(super) count: u32,
    pub(super) batch: u32,
    pub(super) lanes: u32,
    pub(super) synced: bool,
    pub(super) in_mib: bool,
}

fn appends() -> Vec<Plan> {
    let small = Shape {
        size: KIB,
        count: 10_000,
        batch: 1,
        lanes: 1,
        synced: false,
        in_mib: false,
    };
    let large = Shape {
        size: 64 * KIB,
        count: 4096,
        in_mib: true,
        ..small
    };
    let synced = |count, lanes| Shape {
        count,
        lanes,
        synced: true,
        ..small
    };
    vec![
        append("append 1 KiB, one by one", small),
        append(
            "append 1 KiB, batches of 1000",
            Shape {
                count: 100_000,
                batch: 1000,
                ..small
            },
        ),
        append("append 64 KiB, one by one", large),
        append("append 64 KiB, batches of 16", Shape { batch: 16, ..large }),
        append("append 1 KiB synced, 1 appender", synced(1000, 1)),
        append("append 1 KiB synced, 8 appenders", synced(4000, 8)),
        append("append 1 KiB synced, 64 appenders", synced(16_000, 64)),
        append(
            "append 64 KiB synced, 1 appender",
            Shape {
                count: 1024,
                synced: true,
                ..large
            },
        ),
    ]
}

fn append(name: &'static str, shape: Shape) -> Plan {
    let unit = if shape.in_mib { "MiB/s" } else { "blocks/s" };
    Plan {
        has_peer: !shape.synced,
        ceiling: shape.in_mib.then_some(Ceiling::Hash),
        ..one_task(name, unit, move |_, dir| Ok(append_task(dir, shape)))
    }
}

pub(super) fn append_task(dir: PathBuf, shape: Shape) -> Task {
    Task::Append(Append {
        dir,
        size: shape.size,
        count: shape.count,
        batch: shape.batch,
        warmup: shape.count / 10,
        lanes: shape.lanes,
        synced: shape.synced,
        unit: if shape.in_mib { MIB } else { "blocks" }.to_owned(),
    })
}

fn get(name: &'static str, gets: u32, lanes: u32) -> Plan {
    let run = move |bench: &mut Bench, side: Side| {
        let dir = bench.fixture(side, "blocks to read", |dir| {
            append_task(
                dir,
                Shape {
                    size: KIB,
                    count: READ_BLOCKS,
                    batch: 1000,
                    lanes: 1,
                    synced: false,
                    in_mib: false,
                },
            )
        })?;
        let task = Task::Get(Get {
            dir,
            size: KIB,
            count: READ_BLOCKS,
            gets,
            lanes,
            warmup: 2000,
        });
        Outcome::new(&bench.work(side, &task)?, &[])
    };
    Plan {
        name,
        unit: "gets/s",
        has_peer: true,
        ceiling: None,
        run: Box::new(run),
    }
}

fn many_cores() -> Plan {
    let cores = |dir, make| {
        Task::Cores(Cores {
            dir,
            count: CORES,
            make,
        })
    };
    let run = move |bench: &mut Bench, side: Side| {
        let dir = bench.fixture(side, "many cores", |dir| cores(dir, true))?;
        Outcome::new(&bench.work(side, &cores(dir, false))?, &[])
    };
    Plan {
        name: "open 10,000 cores of one store and read of each",
        unit: "cores/s",
        has_peer: true,
        ceiling: None,
        run: Box::new(run),
    }
}
