//! Bees and drives.

use std::path::PathBuf;

use anyhow::Result;

use super::{Bench, Ceiling, Outcome, Plan, one_task};
use crate::side::Side;
use crate::work::{BeeGet, BeePut, BeeRange, MIB, Mirror, Task};

/// Keys of the bee that is read.
const KEYS: u32 = 100_000;

/// The rows.
pub(super) fn rows() -> Vec<Plan> {
    let files = Files {
        source: "10,000 files",
        count: 10_000,
        size: 4 << 10,
        batch: false,
    };
    vec![
        one_task("bee: put 10,000 keys, one by one", "puts/s", |_, dir| {
            Ok(put(dir, 10_000, 1))
        }),
        one_task("bee: put 100,000 keys, batches of 1000", "puts/s", |_, dir| {
            Ok(put(dir, KEYS, 1000))
        }),
        read_bee("bee: get of 100,000 keys, one after the other", "gets/s", |dir| {
            Task::BeeGet(BeeGet {
                dir,
                count: KEYS,
                gets: 10_000,
                warmup: 1000,
            })
        }),
        read_bee("bee: range over 100,000 keys", "entries/s", |dir| {
            Task::BeeRange(BeeRange { dir, count: KEYS })
        }),
        mirror("drive: mirror 10,000 files of 4 KiB", "files/s", files),
        mirror(
            "drive: mirror 10,000 files of 4 KiB, one batch",
            "files/s",
            Files { batch: true, ..files },
        ),
        mirror(
            "drive: mirror a file of 1 GiB",
            "MiB/s",
            Files {
                source: "1 GiB",
                count: 1,
                size: 1 << 30,
                batch: false,
            },
        ),
    ]
}

fn put(dir: PathBuf, count: u32, batch: u32) -> Task {
    Task::BeePut(BeePut { dir, count, batch })
}

fn read_bee(name: &'static str, unit: &'static str, task: fn(PathBuf) -> Task) -> Plan {
    let run = move |bench: &mut Bench, side: Side| {
        let dir = bench.fixture(side, "keys to read", |dir| put(dir, KEYS, 1000))?;
        Outcome::new(&bench.work(side, &task(dir))?, &[])
    };
    Plan {
        name,
        unit,
        has_peer: true,
        ceiling: None,
        run: Box::new(run),
    }
}

/// A folder of files of one size.
#[derive(Clone, Copy)]
struct Files {
    source: &'static str,
    count: u32,
    size: usize,
    batch: bool,
}

fn mirror(name: &'static str, unit: &'static str, files: Files) -> Plan {
    let is_large = files.count == 1;
    let task = move |bench: &mut Bench, dir: PathBuf| -> Result<Task> {
        let known = bench.sources.get(files.source).cloned();
        let mirror = Mirror {
            dir,
            source: known.clone().unwrap_or_else(|| bench.folder()),
            count: files.count,
            size: files.size,
            unit: if is_large { MIB } else { "files" }.to_owned(),
            batch: files.batch,
        };
        if known.is_none() {
            mirror.prepare()?;
            bench.sources.insert(files.source, mirror.source.clone());
        }
        Ok(Task::Mirror(mirror))
    };
    Plan {
        ceiling: is_large.then_some(Ceiling::Hash),
        ..one_task(name, unit, task)
    }
}
