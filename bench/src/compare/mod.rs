//! Running a comparison: rounds, in which the rows' sides take turns.

mod archives;
mod core;
mod first_replication;
mod replication;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::measure::Report;
use crate::side::{Program, Side};
use crate::table::{Beside, Row, Spread, Table, median, short};
use crate::work::Task;
use crate::{Places, machine};

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which.
    name: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// How often each row is measured.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only rows whose name contains this, or any of several with | between.
    #[arg(long, value_name = "PATTERN")]
    row: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// A comparison.
struct Comparison {
    name: &'static str,
    /// Rounds unless asked otherwise.
    rounds: usize,
    rows: fn() -> Vec<Plan>,
}

const COMPARISONS: [Comparison; 2] = [
    Comparison {
        name: "core",
        rounds: 7,
        rows: core::rows,
    },
    Comparison {
        name: "first-replication",
        rounds: 5,
        rows: first_replication::rows,
    },
];

/// What a byte of a row must pass through on one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ceiling {
    Hash,
    DecryptAndHash,
}

type Run = Box<dyn Fn(&mut Bench, Side) -> Result<Outcome>>;

/// A row to be measured.
struct Plan {
    name: &'static str,
    unit: &'static str,
    /// Whether JavaScript does it too.
    has_peer: bool,
    ceiling: Option<Ceiling>,
    run: Run,
}

/// One measurement of one side.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// Units per second.
    rate: f64,
    /// Highest resident memory of each process that took part, bytes.
    rss: Vec<u64>,
    /// What each gave the file system to store, bytes.
    written: Vec<u64>,
    /// Processor time of each, seconds.
    cpu: Vec<f64>,
    descriptors: Option<u64>,
    /// Resident memory before there was anything to do, bytes.
    rest: Option<u64>,
}

impl Outcome {
    /// Of the process that was timed, and others that took part.
    fn new(timed: &Report, others: &[Report]) -> Result<Self> {
        if timed.seconds <= 0.0 {
            bail!("a program measured nothing");
        }
        let all = || std::iter::once(timed).chain(others);
        Ok(Self {
            rate: timed.amount / timed.seconds,
            rss: all().map(|report| report.rss).collect(),
            written: all().map(|report| report.written).collect(),
            cpu: all().map(|report| report.cpu).collect(),
            descriptors: timed.descriptors,
            rest: timed.rest,
        })
    }
}

/// What rows need to run.
struct Bench {
    places: Places,
    /// Folders that were filled once for several measurements.
    fixtures: HashMap<(Side, &'static str), PathBuf>,
    /// Folders of files, which both sides read.
    sources: HashMap<&'static str, PathBuf>,
    /// Whom `first-replication` replicates from.
    world: Option<first_replication::World>,
    folders: u32,
}

impl Bench {
    /// A folder for one measurement.
    fn folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.places.data.join(self.folders.to_string())
    }

    fn remove(folder: &PathBuf) -> Result<()> {
        fs::remove_dir_all(folder).with_context(|| format!("failed to delete {}", folder.display()))
    }

    /// Runs one task to its end.
    fn work(&self, side: Side, task: &Task) -> Result<Report> {
        Program::start(&self.places, side, task)?
            .finish()
            .with_context(|| {
                format!(
                    "failed at {} of {}",
                    serde_json::to_string(task).unwrap_or_default(),
                    side.name()
                )
            })
    }

    /// The folder that `fill` filled, now or before.
    fn fixture(
        &mut self,
        side: Side,
        name: &'static str,
        fill: impl FnOnce(PathBuf) -> Task,
    ) -> Result<PathBuf> {
        if let Some(folder) = self.fixtures.get(&(side, name)) {
            return Ok(folder.clone());
        }
        let folder = self.folder();
        self.work(side, &fill(folder.clone()))?;
        self.fixtures.insert((side, name), folder.clone());
        Ok(folder)
    }
}

/// A row that runs one program in a folder of its own, which it fills.
fn one_task(
    name: &'static str,
    unit: &'static str,
    task: impl Fn(&mut Bench, PathBuf) -> Result<Task> + 'static,
) -> Plan {
    let run = move |bench: &mut Bench, side: Side| {
        let dir = bench.folder();
        let task = task(bench, dir.clone())?;
        let report = bench.work(side, &task)?;
        Bench::remove(&dir)?;
        Outcome::new(&report, &[])
    };
    Plan {
        name,
        unit,
        has_peer: true,
        ceiling: None,
        run: Box::new(run),
    }
}

/// Runs a comparison and prints it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(comparison) = COMPARISONS
        .iter()
        .find(|comparison| comparison.name == arguments.name)
    else {
        let known = COMPARISONS.map(|comparison| comparison.name);
        bail!(
            "there is no comparison {:?}; there are: {}",
            arguments.name,
            known.join(", ")
        );
    };
    let mut plans = (comparison.rows)();
    if let Some(pattern) = &arguments.row {
        let known: Vec<&str> = plans.iter().map(|plan| plan.name).collect();
        let patterns: Vec<String> = pattern.split('|').map(str::to_lowercase).collect();
        let matches = |name: &str, pattern: &String| name.to_lowercase().contains(pattern);
        for pattern in &patterns {
            if !known.iter().any(|name| matches(name, pattern)) {
                bail!(
                    "no row of {} contains {pattern:?}; there are:\n  {}",
                    comparison.name,
                    known.join("\n  ")
                );
            }
        }
        plans.retain(|plan| patterns.iter().any(|pattern| matches(plan.name, pattern)));
    }
    let rounds = arguments.rounds.unwrap_or(comparison.rounds);
    if rounds == 0 {
        bail!("a comparison has at least one round");
    }
    let data = &arguments.places.data;
    fs::create_dir_all(data).with_context(|| format!("failed to make {}", data.display()))?;
    machine::must_be_disk(data)?;
    let lock = fs::File::create(data.with_extension("lock")).context("failed to make the lock file")?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another comparison uses {}", data.display());
    };
    empty(data)?;
    let mut bench = Bench {
        places: arguments.places.clone(),
        fixtures: HashMap::new(),
        sources: HashMap::new(),
        world: None,
        folders: 0,
    };
    let before = (machine::describe()?, machine::load()?);
    let measured = measure(&mut bench, &plans, rounds);
    drop(bench);
    empty(data)?;
    let table = Table {
        name: comparison.name.to_owned(),
        machine: before.0,
        load: [before.1, machine::load()?],
        rows: rows(&plans, &measured?),
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        print!("{}", table.markdown());
    }
    Ok(())
}

fn empty(data: &PathBuf) -> Result<()> {
    fs::remove_dir_all(data)
        .and_then(|()| fs::create_dir_all(data))
        .with_context(|| format!("failed to empty {}", data.display()))
}

/// Both sides' outcomes of one row, one of each for each round.
#[derive(Debug, Default)]
struct Outcomes {
    ours: Vec<Outcome>,
    peer: Vec<Outcome>,
}

fn measure(bench: &mut Bench, plans: &[Plan], rounds: usize) -> Result<Vec<Outcomes>> {
    let mut all: Vec<Outcomes> = plans.iter().map(|_| Outcomes::default()).collect();
    for round in 0..rounds {
        for (plan, outcomes) in plans.iter().zip(&mut all) {
            // Who goes first has a quieter disk: that changes every round.
            let order = if round % 2 == 0 {
                [Side::Ours, Side::Js]
            } else {
                [Side::Js, Side::Ours]
            };
            for side in order {
                if side == Side::Js && !plan.has_peer {
                    continue;
                }
                let outcome =
                    (plan.run)(bench, side).with_context(|| format!("failed to measure {:?}", plan.name))?;
                match side {
                    Side::Ours => outcomes.ours.push(outcome),
                    Side::Js => outcomes.peer.push(outcome),
                }
            }
            let last = |outcomes: &[Outcome]| {
                outcomes
                    .last()
                    .map_or_else(String::new, |outcome| short(outcome.rate))
            };
            let (ours, peer) = (last(&outcomes.ours), last(&outcomes.peer));
            eprintln!(
                "round {}/{rounds}  {:<52} ours {ours:>8}  JS {peer:>8}  {}",
                round + 1,
                plan.name,
                plan.unit
            );
        }
    }
    Ok(all)
}

/// Medians, ratios and shares.
fn rows(plans: &[Plan], all: &[Outcomes]) -> Vec<Row> {
    let rate = |outcomes: &[Outcome]| median(outcomes.iter().map(|outcome| outcome.rate).collect());
    // The faster of the two implementations shows what the processor can.
    let fastest = |name: &str| -> Option<f64> {
        let (_, outcomes) = plans.iter().zip(all).find(|(plan, _)| plan.name == name)?;
        Some(rate(&outcomes.ours)?.max(rate(&outcomes.peer).unwrap_or_default()))
    };
    let (hash, seal) = (fastest(core::HASH), fastest(core::SEAL));
    let ceiling = |ceiling: Ceiling| match ceiling {
        Ceiling::Hash => hash,
        Ceiling::DecryptAndHash => Some(1.0 / (1.0 / hash? + 1.0 / seal?)),
    };
    let row = |(plan, outcomes): (&Plan, &Outcomes)| {
        let ours = rate(&outcomes.ours)?;
        let pairs = outcomes.ours.iter().zip(&outcomes.peer);
        Some(Row {
            name: plan.name.to_owned(),
            unit: plan.unit.to_owned(),
            ours,
            peer: rate(&outcomes.peer),
            peer_name: plan.has_peer.then(|| "JS".to_owned()),
            ratio: Spread::of(pairs.map(|(ours, peer)| ours.rate / peer.rate).collect()),
            rounds: outcomes.ours.len(),
            cpu_seconds: beside(outcomes, |outcome| outcome.cpu.clone()),
            rss_mib: beside(outcomes, |outcome| mib(&outcome.rss)),
            rest_mib: beside(outcomes, |outcome| mib(outcome.rest.as_slice())),
            written_mib: beside(outcomes, |outcome| mib(&outcome.written)),
            share_of_one_core: plan.ceiling.and_then(ceiling).map(|ceiling| ours / ceiling),
            descriptors: [&outcomes.ours, &outcomes.peer]
                .into_iter()
                .filter_map(|outcomes| outcomes.last()?.descriptors)
                .collect(),
        })
    };
    plans.iter().zip(all).filter_map(row).collect()
}

fn mib(bytes: &[u64]) -> Vec<f64> {
    bytes
        .iter()
        .map(|bytes| *bytes as f64 / f64::from(1 << 20))
        .collect()
}

/// Medians of something beside the speed, for each process.
fn beside(outcomes: &Outcomes, pick: impl Fn(&Outcome) -> Vec<f64>) -> Beside {
    let medians = |outcomes: &[Outcome]| {
        let processes = outcomes.first().map_or(0, |outcome| pick(outcome).len());
        let of = |process: usize| {
            let values = outcomes
                .iter()
                .filter_map(|outcome| pick(outcome).get(process).copied());
            median(values.collect())
        };
        (0..processes).filter_map(of).collect()
    };
    Beside {
        ours: medians(&outcomes.ours),
        peer: medians(&outcomes.peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &'static str, has_peer: bool, ceiling: Option<Ceiling>) -> Plan {
        Plan {
            name,
            unit: "things/s",
            has_peer,
            ceiling,
            run: Box::new(|_, _| bail!("not run")),
        }
    }

    fn outcomes(rates: &[f64]) -> Vec<Outcome> {
        let outcome = |rate: &f64| Outcome {
            rate: *rate,
            rss: vec![3 << 20, 1 << 20],
            ..Outcome::default()
        };
        rates.iter().map(outcome).collect()
    }

    #[test]
    fn ratios_are_taken_round_by_round_and_above_one_where_ours_is_faster() {
        let measured = [Outcomes {
            ours: outcomes(&[10.0, 30.0, 20.0]),
            peer: outcomes(&[5.0, 10.0, 40.0]),
        }];
        let row = &rows(&[plan("row", true, None)], &measured)[0];
        let ratio = row.ratio.unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.5, 2.0, 3.0));
        assert_eq!((row.ours, row.peer, row.rounds), (20.0, Some(10.0), 3));
        assert_eq!(
            (&row.rss_mib.ours[..], &row.rss_mib.peer[..]),
            (&[3.0, 1.0][..], &[3.0, 1.0][..])
        );
    }

    #[test]
    fn a_row_without_a_peer_has_no_ratio() {
        let measured = [Outcomes {
            ours: outcomes(&[10.0]),
            peer: Vec::new(),
        }];
        let row = serde_json::to_value(&rows(&[plan("row", false, None)], &measured)[0]).unwrap();
        assert!(row["ratio"].is_null() && row["peer"].is_null() && row["peer_name"].is_null());
        assert_eq!(row["ours"], 10.0);
    }

    #[test]
    fn the_share_of_one_core_counts_what_every_byte_passes_through() {
        let plans = [
            plan(core::HASH, true, None),
            plan(core::SEAL, true, None),
            plan("append", true, Some(Ceiling::Hash)),
            plan("replicate", true, Some(Ceiling::DecryptAndHash)),
        ];
        let measured =
            [[800.0, 600.0], [300.0, 800.0], [400.0, 100.0], [100.0, 50.0]].map(|[ours, peer]| Outcomes {
                ours: outcomes(&[ours]),
                peer: outcomes(&[peer]),
            });
        let shares: Vec<_> = rows(&plans, &measured)
            .iter()
            .map(|row| row.share_of_one_core)
            .collect();
        assert_eq!(shares, [None, None, Some(0.5), Some(0.25)]);
    }

    #[test]
    fn a_program_that_measured_nothing_is_an_error() {
        assert!(Outcome::new(&Report::default(), &[]).is_err());
    }
}
