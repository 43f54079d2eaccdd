//! `cargo xtask test`: every layer of the tests, or one, and one line at the end that counts.
//!
//! A layer says what it needs. What a laptop lacks (root, Go, Node.js) skips the layer there, with a word; under
//! `CI=true` it fails, because nothing may be skipped where changes are let in.

mod layers;
mod summary;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use cumulet_e2e::progress::Progress;

use self::summary::Summary;

/// A layer of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Formatting, lints, licences, generated files, tests that need nothing but Rust.
    Unit,
    /// Against the real JavaScript packages.
    Interop,
    /// Seeded simulations.
    Sim,
    /// Against a real S3 server.
    S3,
    /// The Helm chart.
    Chart,
    /// The documentation.
    Docs,
    /// Static executables for the other processor.
    Image,
    /// On a real Kubernetes.
    E2e,
}

impl Layer {
    const ALL: [Self; 8] = [
        Self::Unit,
        Self::Interop,
        Self::Sim,
        Self::S3,
        Self::Chart,
        Self::Docs,
        Self::E2e,
        Self::Image,
    ];
}

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask test              everything
  cargo xtask test unit         what a change to one crate usually needs
  sudo -E cargo xtask test e2e  on a real Kubernetes")]
pub(crate) struct Arguments {
    /// Which layer; all when absent.
    #[arg(value_enum)]
    layer: Option<Layer>,
    /// Leave the cluster of the end-to-end tests up, to look at it.
    #[arg(long)]
    keep_cluster: bool,
    /// Only end-to-end tests whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let progress = Progress::new();
    let mut summary = Summary::default();
    let chosen = arguments
        .layer
        .map_or_else(|| Layer::ALL.to_vec(), |layer| vec![layer]);
    for layer in chosen {
        match layer {
            Layer::Unit => layers::unit(&mut summary, &progress),
            Layer::Interop => layers::interop(&mut summary, &progress),
            Layer::Sim => layers::sim(&mut summary, &progress),
            Layer::S3 => layers::s3(&mut summary, &progress),
            Layer::Chart => layers::chart(&mut summary, &progress),
            Layer::Docs => layers::docs(&mut summary, &progress),
            Layer::Image => layers::image(&mut summary, &progress),
            Layer::E2e => layers::e2e(
                &mut summary,
                &progress,
                arguments.keep_cluster,
                arguments.only.as_deref(),
            ),
        }
    }
    progress.say("all layers ended");
    summary.print();
    if summary.has_failures() {
        bail!("tests failed; the lines marked FAIL above say which");
    }
    Ok(())
}
