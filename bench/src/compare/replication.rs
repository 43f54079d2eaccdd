//! One core from a process to another over TCP.

use super::core::{KIB, Shape, append_task};
use super::{Bench, Ceiling, Outcome, Plan};
use crate::side::{Program, Side};
use crate::work::{Fetch, MIB, Ready, Serve, Task};

/// The rows.
pub(super) fn rows() -> Vec<Plan> {
    vec![
        row(
            "replicate 20,000 x 1 KiB over TCP",
            "small blocks to replicate",
            KIB,
            20_000,
        ),
        row(
            "replicate 1000 x 64 KiB over TCP",
            "large blocks to replicate",
            64 * KIB,
            1000,
        ),
    ]
}

/// The receiver is timed; its memory is the first of the two.
fn row(name: &'static str, fixture: &'static str, size: usize, count: u32) -> Plan {
    let in_mib = size > KIB;
    let run = move |bench: &mut Bench, side: Side| {
        let filled = bench.fixture(side, fixture, |dir| {
            let shape = Shape {
                size,
                count,
                batch: 100,
                lanes: 1,
                synced: false,
                in_mib,
            };
            append_task(dir, shape)
        })?;
        let mut sender = Program::start(&bench.places, side, &Task::Serve(Serve { dir: filled }))?;
        let ready: Ready = serde_json::from_value(sender.ready()?)?;
        let dir = bench.folder();
        let fetch = Task::Fetch(Fetch {
            dir: dir.clone(),
            port: ready.port,
            key: ready.key,
            size,
            count,
            unit: if in_mib { MIB } else { "blocks" }.to_owned(),
        });
        let report = bench.work(side, &fetch)?;
        Bench::remove(&dir)?;
        Outcome::new(&report, &[sender.finish()?])
    };
    Plan {
        name,
        unit: if in_mib { "MiB/s" } else { "blocks/s" },
        has_peer: true,
        ceiling: in_mib.then_some(Ceiling::DecryptAndHash),
        run: Box::new(run),
    }
}
