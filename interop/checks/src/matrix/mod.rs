//! The matrix: the product beside the real JavaScript packages, over TCP on loopback, in both directions.
//!
//! A **cell** is a kind of core or a course of events; it is run with several amounts of data, once with JavaScript writing
//! and us reading, and once the other way round. What a reader has must be the writer's in every respect: length, fork,
//! byte length, tree hash, every block; and our side verifies the signature once more. A seed decides sizes, orders and
//! positions; the same seed does the same again.
//!
//! Every case has stores and connections of its own. JavaScript processes are used again: between two cases everything in
//! them is closed and deleted, and a case that fails takes its process along.

mod archives;
mod cells;
mod courses;
mod equality;
mod js;
mod meeting;
mod node;
mod random;
mod report;
mod writer;

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Result;
use cumulet_hypercore::encryption::PADDING;
use futures::StreamExt as _;

use self::js::IdlePeers;
use self::meeting::Meeting;
use self::random::Random;
pub use self::report::{CaseReport, Report};

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Size {
    /// Up to 1,000 blocks: minutes.
    Small,
    /// Up to 100,000 blocks and the largest ones.
    Full,
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is random.
    pub seed: u64,
    /// How much.
    pub size: Size,
    /// Only cases whose name contains this.
    pub only: Option<String>,
    /// Cases that run at once.
    pub jobs: NonZeroUsize,
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    JsWrites,
    WeWrite,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::JsWrites, Self::WeWrite];

    fn name(self) -> &'static str {
        match self {
            Self::JsWrites => "JS writes",
            Self::WeWrite => "we write",
        }
    }
}

/// What is in a core at first.
#[derive(Clone, Debug)]
enum Load {
    /// That many small blocks.
    Count(usize),
    /// Blocks of these sizes.
    Sizes(Vec<usize>),
}

impl Load {
    fn name(&self) -> String {
        match self {
            Self::Count(1) => "1 block".to_owned(),
            Self::Count(count) => format!("{count} blocks"),
            Self::Sizes(sizes) => format!("sizes {sizes:?}"),
        }
    }

    /// The sizes of the blocks; small ones have up to 40 bytes, all the same.
    fn sizes(&self, random: &mut Random) -> Vec<usize> {
        match self {
            Self::Count(count) => vec![random.below(41); *count],
            Self::Sizes(sizes) => sizes.clone(),
        }
    }
}

type Run<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

struct Case {
    name: String,
    run: Box<dyn for<'a> FnOnce(&'a mut Meeting) -> Run<'a>>,
}

impl Case {
    fn new(name: String, run: impl for<'a> FnOnce(&'a mut Meeting) -> Run<'a> + 'static) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }

    async fn run(self, seed: u64, idle: &IdlePeers) -> CaseReport {
        let random = Random::new(seed, &self.name);
        let started = Instant::now();
        let run = meeting::run(idle, random, self.run);
        let result = match tokio::time::timeout(CASE_LIMIT, run).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("not done after {} s", CASE_LIMIT.as_secs())),
        };
        CaseReport {
            name: self.name,
            took: started.elapsed(),
            error: result.err().map(|error| format!("{error:#}")),
        }
    }
}

/// Longest that a case may take. Reached only when something hangs, however busy the machine is.
const CASE_LIMIT: Duration = Duration::from_mins(15);

/// Runs the matrix; tells each case's result to `progress` as it comes.
///
/// # Errors
/// If the JavaScript packages can't be installed. A case that fails is in the report.
pub async fn run(options: &Options, mut progress: impl FnMut(&CaseReport)) -> Result<Report> {
    js::install()?;
    let (idle, started) = (IdlePeers::default(), Instant::now());
    let wanted = |case: &Case| {
        let only = options.only.as_deref();
        only.is_none_or(|only| case.name.contains(only))
    };
    let cases = cases(options.size).into_iter().filter(wanted);
    let runs = cases.map(|case| case.run(options.seed, &idle));
    let mut done = futures::stream::iter(runs).buffer_unordered(options.jobs.get());
    let mut report = Report::new(options.seed);
    while let Some(case) = done.next().await {
        progress(&case);
        report.cases.push(case);
    }
    report.took = started.elapsed();
    Ok(report)
}

/// Largest block that may be appended: JavaScript's limit and ours.
const LARGEST_BLOCK: usize = cumulet_hypercore::core::MAX_BLOCK_BYTES;

fn cases(size: Size) -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        for kind in cells::Kind::ALL {
            // An encrypted block has a few bytes more, and is no larger for that.
            let is_encrypted = kind == cells::Kind::Encrypted;
            let largest = LARGEST_BLOCK - if is_encrypted { PADDING } else { 0 };
            for load in loads(size, kind == cells::Kind::Default, largest) {
                let name = format!("{}, {}, {}", kind.name(), direction.name(), load.name());
                cases.push(Case::new(name, move |meeting| {
                    Box::pin(cells::plain(meeting, kind, direction, load))
                }));
            }
        }
        for course in courses::Course::ALL {
            for load in loads(size, false, LARGEST_BLOCK) {
                let name = format!("{}, {}, {}", course.name(), direction.name(), load.name());
                cases.push(Case::new(name, move |meeting| {
                    Box::pin(course.run(meeting, direction, load))
                }));
            }
        }
        let name = format!("Corestore with 50 cores, {}", direction.name());
        cases.push(Case::new(name, move |meeting| {
            Box::pin(cells::many_cores(meeting, direction, many_loads(size, direction)))
        }));
    }
    cases.extend(archive_cases(size));
    cases
}

/// What is in the cores of a store that has many, in turn.
fn many_loads(size: Size, direction: Direction) -> Vec<Load> {
    let mut loads = [0, 1, 2, 100].map(Load::Count).to_vec();
    if size == Size::Full {
        loads.push(Load::Sizes(vec![0, 1, 65_535, 65_536, 1 << 20]));
        // The large ones come twice among fifty.
        loads = (0..4).flat_map(|_| loads.clone()).collect();
        loads.extend([Load::Count(1000), Load::Count(5000), Load::Count(100_000)]);
        if direction == Direction::WeWrite {
            // JavaScript puts it into one frame with whatever waits to be sent on other cores; that may be more than a
            // frame can hold, and then it ends the stream ("too large for an atomic write").
            loads.push(Load::Sizes(vec![LARGEST_BLOCK]));
        }
    }
    loads
}

/// What is in a cell's cores, one after the other.
fn loads(size: Size, with_largest: bool, largest: usize) -> Vec<Load> {
    let mut loads = [0, 1, 2, 1000].map(Load::Count).to_vec();
    if size == Size::Full {
        loads.push(Load::Count(100_000));
    }
    loads.push(Load::Sizes(vec![0, 1, 65_535, 65_536, 1 << 20]));
    if size == Size::Full || with_largest {
        // It is alone: one frame holds it, and nothing of a size beside it.
        loads.push(Load::Sizes(vec![largest]));
    }
    loads
}

/// Bees and drives.
fn archive_cases(size: Size) -> Vec<Case> {
    let (changes, operations, drives): (&[usize], &[usize], usize) = match size {
        Size::Small => (&[0, 1, 2, 1000], &[0, 1, 2, 300], 2),
        Size::Full => (&[0, 1, 2, 1000, 20_000], &[0, 1, 2, 300, 3000], 5),
    };
    let mut cases = Vec::new();
    for direction in Direction::BOTH {
        for count in changes.iter().copied() {
            let name = format!("bee, {}, {count} changes", direction.name());
            cases.push(Case::new(name, move |meeting| {
                Box::pin(archives::bee(meeting, direction, count))
            }));
        }
        for number in 0..drives {
            let name = format!("drive, {}, number {number}", direction.name());
            cases.push(Case::new(name, move |meeting| {
                Box::pin(archives::drive(meeting, direction))
            }));
        }
    }
    for count in operations.iter().copied() {
        let name = format!("bee, the same {count} operations on both sides");
        cases.push(Case::new(name, move |meeting| {
            Box::pin(equality::bee(meeting, count))
        }));
    }
    for number in 0..drives {
        let name = format!("drive, the same operations on both sides, number {number}");
        cases.push(Case::new(name, |meeting| Box::pin(equality::drive(meeting))));
    }
    cases
}
