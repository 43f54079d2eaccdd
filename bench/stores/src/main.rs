//! Measures what could keep a core's head (manifest, signed head, tree nodes, blocks that are not sealed): our own log, or
//! a table of redb or fjall that all cores of a store share. The decision is in `docs/adr/0004-plain-head-log.md`.
//!
//! `cargo run --release -p cumulet-bench-stores -- [--rounds N] [--cores N] [--dir DIR]`. The stores take turns, each task
//! runs in a process of its own, and what was written is read again and compared.
#![expect(clippy::cast_precision_loss, reason = "what is measured is far below 2^52")]

mod plain;
mod table;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use cumulet_hypercore::storage::Changes;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Our own log per core.
    Plain,
    /// One redb file.
    Redb,
    /// One fjall directory.
    Fjall,
}

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Cores of the task with many.
    #[arg(long, default_value_t = 10_000)]
    cores: u32,
    /// Where files are made and deleted again.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Do one task of one store and print what was measured: what the other processes do.
    #[arg(long, num_args = 2, value_names = ["KIND", "TASK"], hide = true)]
    task: Option<Vec<String>>,
}

/// A keeper of heads.
trait Store {
    /// Opens a core, or makes an empty one. Gives its length.
    fn open_core(&mut self, core: u32) -> Result<u64>;
    /// Makes changes, all or none of them; they need not be durable yet.
    fn apply(&mut self, core: u32, changes: Changes) -> Result<()>;
    /// Makes what was applied to these cores durable.
    fn sync(&mut self, cores: &[u32]) -> Result<()>;
    /// A block's bytes.
    fn block(&self, core: u32, index: u64) -> Result<Option<bytes::Bytes>>;
    /// A tree node's size and hash.
    fn node(&self, core: u32, index: u64) -> Result<Option<(u64, [u8; 32])>>;
}

fn open(kind: Kind, dir: &Path) -> Result<Box<dyn Store>> {
    Ok(match kind {
        Kind::Plain => Box::new(plain::Plain::open(dir)),
        Kind::Redb => Box::new(table::TableStore::open(table::Redb::open(dir)?)),
        Kind::Fjall => Box::new(table::TableStore::open(table::Fjall::open(dir)?)),
    })
}

fn run_task(arguments: &Arguments, kind: Kind, task: &str) -> Result<BTreeMap<String, f64>> {
    let name = kind.to_possible_value().context("a kind has a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args([
            "--task",
            name.get_name(),
            task,
            "--cores",
            &arguments.cores.to_string(),
        ])
        .arg("--dir")
        .arg(&arguments.dir)
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{kind:?} failed in {task}: {error}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn compare(arguments: &Arguments) -> Result<()> {
    let mut measured: BTreeMap<(String, String), BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for _ in 0..arguments.rounds {
        // A task's store lies there for the tasks behind it.
        let dir = tempfile::tempdir_in(&arguments.dir)?;
        let inside = Arguments {
            dir: dir.path().to_owned(),
            task: None,
            ..*arguments
        };
        for task in work::TASKS {
            for (place, kind) in Kind::value_variants().iter().enumerate() {
                for (what, value) in run_task(&inside, *kind, task)? {
                    let row = measured.entry((task.to_string(), what)).or_default();
                    row.entry(place).or_default().push(value);
                }
            }
        }
    }
    println!("| task | what | plain | redb | fjall |\n|---|---|---|---|---|");
    for task in work::TASKS {
        for ((_, what), row) in measured.iter().filter(|((of, _), _)| of == task) {
            print!("| {task} | {what} |");
            for values in row.values() {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                let (first, middle, last) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
                print!(" {middle:.1} ({first:.1}–{last:.1}) |");
            }
            println!();
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.task {
        Some(words) => {
            let kind = Kind::from_str(&words[0], true).map_err(anyhow::Error::msg)?;
            let measured = work::run(kind, &words[1], arguments.cores, &arguments.dir)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        None => compare(&arguments),
    }
}
