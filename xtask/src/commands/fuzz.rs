//! `cargo xtask fuzz`: coverage-guided fuzzing of every decoder and state machine, for so many seconds each.
//!
//! The targets are the programs of `fuzz/`, a workspace of its own. cargo-fuzz builds them with the compiler's coverage
//! instrumentation and AddressSanitizer, which the stable compiler has and hides: `RUSTC_BOOTSTRAP=1` lets it out. Where
//! the sanitizer's runtime is missing they are built without it; panics are found all the same.
//!
//! What a run finds on its way is kept in `fuzz/target/corpus/`, so that the next run goes on from there; the seeds in
//! `fuzz/corpus/` are only read. `fuzz/README.md` says more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use cumulet_e2e::cache::Key;
use cumulet_e2e::progress::Progress;
use cumulet_e2e::{process, tools};

/// The version of cargo-fuzz that is installed.
const CARGO_FUZZ: &str = "0.13.1";

/// Memory that a target may take before that is a finding: no input is larger than libFuzzer's few kilobytes.
const MEMORY_MEBIBYTES: u32 = 2048;

/// Seconds that one input may take before that is a finding.
const INPUT_SECONDS: u32 = 10;

/// The feature of targets that take long to build.
const NODE_FEATURE: &str = "node";

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                                 every target, 30 seconds each
  cargo xtask fuzz --list                          which targets there are
  cargo xtask fuzz --seconds 2 --without-node      a quick look, without the backup's and the daemon's targets
  cargo xtask fuzz replicator proof --seconds 600  two of them for longer
  cargo xtask fuzz proof --input FILE              one input again, e.g. one that a run found")]
pub(crate) struct Arguments {
    /// Which targets; all when absent.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Leave out the targets of the backup and the daemon, which take minutes to build.
    #[arg(long)]
    without_node: bool,
    /// Give one target this file, once, instead of fuzzing.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Tell the targets and end.
    #[arg(long)]
    list: bool,
    /// Which sanitizer the targets are built with; AddressSanitizer if the compiler has its runtime.
    #[arg(long, value_enum)]
    sanitizer: Option<Sanitizer>,
}

/// A sanitizer of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sanitizer {
    /// Wrong uses of memory, in libraries with unsafe code; leaks.
    Address,
    /// Only what panics.
    None,
}

/// A program of `fuzz/`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    needs_node: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    if arguments.list {
        for target in &known {
            println!("{}", target.name);
        }
        return Ok(());
    }
    let chosen = choose(&known, &arguments.targets, arguments.without_node)?;
    if arguments.input.is_some() && chosen.len() != 1 {
        bail!("--input needs the one target that it is for; hint: cargo xtask fuzz TARGET --input FILE");
    }
    let progress = Progress::new();
    let executables = build(&chosen, sanitizer(arguments)?, &progress)?;
    if let Some(input) = &arguments.input {
        return process::run_shown(Command::new(&executables[0]).arg(input))
            .with_context(|| format!("{} fails on {}", chosen[0].name, input.display()));
    }
    let mut failed = Vec::new();
    let mut total = 0;
    for (target, executable) in chosen.iter().zip(&executables) {
        let outcome = fuzz(target, executable, arguments.seconds)?;
        total += outcome.inputs;
        println!("{}", outcome.line(target));
        if let Some(found) = outcome.found {
            failed.push((target.name.clone(), found));
        }
    }
    println!(
        "{} targets, {total} inputs tried, {} with a crash",
        chosen.len(),
        failed.len()
    );
    if failed.is_empty() {
        return Ok(());
    }
    for (name, found) in &failed {
        println!("again: cargo xtask fuzz {name} --input {}", found.input.display());
        println!("       its output: {}", found.log.display());
    }
    bail!("fuzzing found inputs that crash; the lines above say how to try each again");
}

fn folder() -> PathBuf {
    tools::repository().join("fuzz")
}

/// The programs of `fuzz/`, as cargo knows them.
fn targets() -> Result<Vec<Target>> {
    let text = process::output(
        Command::new("cargo")
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
            ])
            .arg(folder().join("Cargo.toml")),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("failed to understand cargo's metadata")?;
    let listed = metadata["packages"][0]["targets"]
        .as_array()
        .context("fuzz/ has no targets")?;
    let bins = listed.iter().filter(|target| target["kind"][0] == "bin");
    let mut found: Vec<Target> = bins
        .map(|target| Target {
            name: target["name"].as_str().unwrap_or_default().to_owned(),
            needs_node: target["required-features"]
                .as_array()
                .is_some_and(|features| features.iter().any(|feature| feature == NODE_FEATURE)),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The targets with these names, or all.
fn choose(known: &[Target], names: &[String], without_node: bool) -> Result<Vec<Target>> {
    if names.is_empty() {
        let mut all = known.to_vec();
        all.retain(|target| !(without_node && target.needs_node));
        return Ok(all);
    }
    let chosen = names.iter().map(|name| {
        known
            .iter()
            .find(|target| target.name == *name)
            .cloned()
            .with_context(|| {
                let all: Vec<&str> = known.iter().map(|target| target.name.as_str()).collect();
                format!("there is no target {name}; there are: {}", all.join(", "))
            })
    });
    chosen.collect()
}

/// What was asked for, or what the compiler can do.
fn sanitizer(arguments: &Arguments) -> Result<Sanitizer> {
    if let Some(asked) = arguments.sanitizer {
        return Ok(asked);
    }
    let libraries = process::output(
        Command::new("rustc")
            .args(["--print", "target-libdir"])
            .current_dir(tools::repository()),
    )?;
    let runtime = fs::read_dir(libraries.trim())
        .with_context(|| format!("failed to list {}", libraries.trim()))?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a"));
    Ok(if runtime {
        Sanitizer::Address
    } else {
        Sanitizer::None
    })
}

fn cargo_fuzz() -> Result<PathBuf> {
    let root = Key::new("cargo-fuzz").with(CARGO_FUZZ).get_or_build(|folder| {
        let log = folder.join("install.log");
        let mut command = Command::new("cargo");
        command
            .args([
                "install",
                "cargo-fuzz",
                "--locked",
                "--version",
                CARGO_FUZZ,
                "--root",
            ])
            .arg(folder)
            .arg("--target-dir")
            .arg(folder.join("build"))
            .current_dir(folder);
        process::run_logged(&mut command, &log).context("failed to install cargo-fuzz")?;
        fs::remove_dir_all(folder.join("build")).context("failed to clear the build of cargo-fuzz")
    })?;
    Ok(root.join("bin/cargo-fuzz"))
}

/// The programs, built, in the order of the targets.
fn build(chosen: &[Target], sanitizer: Sanitizer, progress: &Progress) -> Result<Vec<PathBuf>> {
    let cargo_fuzz = progress.step("cargo-fuzz", cargo_fuzz)?;
    let triple = host()?;
    let sanitizer = match sanitizer {
        Sanitizer::Address => "address",
        Sanitizer::None => "none",
    };
    let mut command = Command::new(cargo_fuzz);
    command
        .args([
            "build",
            "--release",
            "--sanitizer",
            sanitizer,
            "--target",
            &triple,
        ])
        .current_dir(tools::repository())
        .env("RUSTC_BOOTSTRAP", "1")
        // Incremental builds and the instrumentation do not go together.
        .env("CARGO_INCREMENTAL", "0");
    if chosen.iter().any(|target| target.needs_node) {
        command.args(["--features", NODE_FEATURE]);
    }
    if let [only] = chosen {
        command.arg(&only.name);
    }
    let target = folder().join("target");
    fs::create_dir_all(&target).with_context(|| format!("failed to create {}", target.display()))?;
    progress.step(
        format!("{} targets, sanitizer: {sanitizer}", chosen.len()),
        || process::run_logged(&mut command, &target.join("build.log")),
    )?;
    let programs = target.join(triple).join("release");
    Ok(chosen.iter().map(|target| programs.join(&target.name)).collect())
}

fn host() -> Result<String> {
    let text = process::output(Command::new("rustc").arg("-vV").current_dir(tools::repository()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say what it compiles for")
}

/// An input that crashes.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    input: PathBuf,
    log: PathBuf,
}

/// What a run of a target came to.
#[derive(Debug)]
struct Outcome {
    inputs: u64,
    coverage: u64,
    seconds: u64,
    found: Option<Found>,
}

impl Outcome {
    fn line(&self, target: &Target) -> String {
        let result = match &self.found {
            None => "no crash".to_owned(),
            Some(found) => format!("CRASH: {}", found.input.display()),
        };
        format!(
            "{:<18} {:>10} inputs tried in {:>4} s, {:>6} places reached, {result}",
            target.name, self.inputs, self.seconds, self.coverage
        )
    }
}

/// Runs one target for so many seconds, or until it finds something.
fn fuzz(target: &Target, executable: &Path, seconds: u32) -> Result<Outcome> {
    let corpus = folder().join("target/corpus").join(&target.name);
    let artifacts = folder().join("artifacts").join(&target.name);
    let seeds = folder().join("corpus").join(&target.name);
    for path in [&corpus, &artifacts] {
        fs::create_dir_all(path).with_context(|| format!("failed to create {}", path.display()))?;
    }
    let log = folder().join("target").join(format!("{}.log", target.name));
    let file = fs::File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
    let mut command = Command::new(executable);
    command.arg(&corpus);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MEBIBYTES}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let started = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", executable.display()))?;
    let text =
        String::from_utf8_lossy(&fs::read(&log).context("failed to read what a target said")?).into_owned();
    let found = (!status.success()).then(|| Found {
        input: artifact(&text).unwrap_or_else(|| artifacts.clone()),
        log: log.clone(),
    });
    Ok(Outcome {
        inputs: inputs(&text),
        coverage: coverage(&text),
        seconds: started.elapsed().as_secs(),
        found,
    })
}

/// Where libFuzzer says that it wrote the input that crashed.
fn artifact(text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once("Test unit written to ")?;
    Some(PathBuf::from(rest.lines().next()?.trim()))
}

/// Inputs tried: of the final statistics, or after a crash of the last line that begins with their number.
fn inputs(text: &str) -> u64 {
    let number = |text: &str| text.trim().parse().ok();
    let last = text.lines().rev().find_map(|line| {
        line.strip_prefix("stat::number_of_executed_units:")
            .and_then(number)
            .or_else(|| {
                let (first, _) = line
                    .strip_prefix('#')?
                    .split_once(|c: char| !c.is_ascii_digit())?;
                number(first)
            })
    });
    last.unwrap_or_default()
}

/// Places in the code that any input reached.
fn coverage(text: &str) -> u64 {
    let last = text.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        rest.split(' ').next()?.parse().ok()
    });
    last.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "INFO: seed corpus: files: 3\n#3\tINITED cov: 40 ft: 40 corp: 3/9b\n\
        #262144\tpulse  cov: 66 ft: 66 corp: 18/102b lim: 2589 exec/s: 131072 rss: 61Mb\n\
        #863756\tDONE   cov: 67 ft: 66 corp: 18/102b lim: 4096 exec/s: 143959 rss: 109Mb\n\
        Done 863756 runs in 6 second(s)\nstat::number_of_executed_units: 863757\nstat::peak_rss_mb: 109\n";
    const CRASH: &str = "#8192\tpulse  cov: 12 ft: 14 corp: 5/20b\n==1== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='/a/'; Test unit written to /a/crash-0f\nBase64: AAE=\n";

    fn target(name: &str, needs_node: bool) -> Target {
        Target {
            name: name.into(),
            needs_node,
        }
    }

    #[test]
    fn what_libfuzzer_says_is_understood() {
        assert_eq!((inputs(RUN), coverage(RUN), artifact(RUN)), (863_757, 67, None));
        assert_eq!(
            (inputs(CRASH), coverage(CRASH), artifact(CRASH)),
            (8192, 12, Some("/a/crash-0f".into()))
        );
        assert_eq!((inputs(""), coverage("")), (0, 0));
    }

    #[test]
    fn an_unknown_target_is_an_error_that_names_those_there_are() {
        let known = [target("backup_head", true), target("proof", false)];
        let error = choose(&known, &["prof".into()], false).unwrap_err().to_string();
        assert_eq!(error, "there is no target prof; there are: backup_head, proof");
        assert_eq!(choose(&known, &[], true).unwrap(), [target("proof", false)]);
        assert_eq!(choose(&known, &["backup_head".into()], true).unwrap().len(), 1);
    }
}
