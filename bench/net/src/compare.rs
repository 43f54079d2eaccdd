//! Running the comparison: rounds, in which the sides take turns, and a table.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process::{Places, Side};
use crate::rows::{self, Better, Measured, Row};
use crate::shares::Times;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The repository's root, with the JavaScript packages of `interop` installed.
    #[arg(long)]
    repository: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// How often each row is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only rows whose name contains this, or any of several with | between.
    #[arg(long, value_name = "PATTERN")]
    row: Option<String>,
    /// How long two streams share a path before and while their shares are measured.
    #[arg(long, value_name = "SECONDS", num_args = 2, default_values_t = [8, 24])]
    share_seconds: Vec<u64>,
}

impl Arguments {
    fn times(&self) -> Times {
        let seconds = |index| Duration::from_secs(self.share_seconds.get(index).copied().unwrap_or(1));
        Times {
            before: seconds(0),
            measured: seconds(1),
        }
    }
}

/// All rounds of one line of the table.
struct Line {
    name: String,
    unit: &'static str,
    better: Better,
    ours: Vec<f64>,
    js: Vec<f64>,
}

impl Line {
    /// Ours beside JavaScript's round by round; more than 1 is better for us.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.js);
        let ratio = |(ours, js): (&f64, &f64)| match self.better {
            Better::More => ours / js,
            Better::Less => js / ours,
        };
        sorted(pairs.map(ratio).collect())
    }

    fn to_json(&self) -> Value {
        let ratios = self.ratios();
        json!({
            "name": self.name, "unit": self.unit, "ours": self.ours, "js": self.js,
            "ratio": { "min": ratios.first(), "median": middle(&ratios), "max": ratios.last() },
        })
    }

    fn print(&self) {
        let ratios = self.ratios();
        let ends = (
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
        println!(
            "| {:<44} | {:<10} | {:>8} | {:>8} | {:.2} / {:.2} / {:.2} |",
            self.name,
            self.unit,
            short(middle(&sorted(self.ours.clone()))),
            short(middle(&sorted(self.js.clone()))),
            ends.0,
            middle(&ratios),
            ends.1
        );
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The median of sorted values, the upper one of two.
fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits, as much as such measurements are worth.
fn short(value: f64) -> String {
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let places = Places {
        ours: std::env::current_exe().context("failed to find this executable")?,
        interop: arguments.repository.join("interop"),
    };
    let wanted = |row: &Row| {
        let patterns = arguments.row.as_deref().unwrap_or("");
        patterns.split('|').any(|pattern| row.name().contains(pattern))
    };
    let mut rows: Vec<Row> = Row::ALL.into_iter().filter(wanted).collect();
    if let Some(missing) = cumulet_net_lab::missing()
        && rows.iter().any(Row::needs_lab)
    {
        eprintln!("shares are left out: {missing}; hint: {}", missing.hint());
        rows.retain(|row| !row.needs_lab());
    }
    let before = load();
    let mut lines: Vec<Line> = Vec::new();
    for round in 1..=arguments.rounds {
        for row in &rows {
            eprintln!("round {round}: {}", row.name());
            // Whoever comes second finds the machine as the first left it.
            let order = if round % 2 == 1 {
                [Side::Ours, Side::Js]
            } else {
                [Side::Js, Side::Ours]
            };
            for side in order {
                let measured = rows::measure(&places, *row, side, round as u64, arguments.times())
                    .await
                    .with_context(|| format!("{}, {side:?}", row.name()))?;
                for value in measured {
                    record(&mut lines, side, &value);
                }
            }
        }
    }
    let after = load();
    if arguments.json {
        let rows: Vec<Value> = lines.iter().map(Line::to_json).collect();
        println!(
            "{}",
            json!({ "load": [before, after], "rounds": arguments.rounds, "rows": rows })
        );
        return Ok(());
    }
    println!(
        "{} rounds in turns; load {before} at the start, {after} at the end\n",
        arguments.rounds
    );
    println!(
        "| {:<44} | {:<10} | {:>8} | {:>8} | ratio min / median / max |",
        "row", "unit", "ours", "JS"
    );
    println!("|{:-<46}|{:-<12}|{:->10}|{:->10}|{:-<26}|", "", "", "", "", "");
    for line in &lines {
        line.print();
    }
    Ok(())
}

fn record(lines: &mut Vec<Line>, side: Side, measured: &Measured) {
    let index = lines.iter().position(|line| line.name == measured.name);
    let index = index.unwrap_or_else(|| {
        lines.push(Line {
            name: measured.name.clone(),
            unit: measured.unit,
            better: measured.better,
            ours: Vec::new(),
            js: Vec::new(),
        });
        lines.len() - 1
    });
    if let Some(line) = lines.get_mut(index) {
        match side {
            Side::Ours => line.ours.push(measured.value),
            Side::Js => line.js.push(measured.value),
        }
    }
}
