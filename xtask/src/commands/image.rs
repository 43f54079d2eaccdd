//! `cargo xtask image`: static images of the product, without a container daemon.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};
use cumulet_e2e::cluster::Cluster;
use cumulet_e2e::image::Architecture;
use cumulet_e2e::process;
use cumulet_e2e::product::{self, Built, NODE, OPERATOR, S3_SERVER, Tag};
use cumulet_e2e::progress::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Amd64,
    Arm64,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    /// The containerd of k3s.
    K3s,
    /// The cluster of `cargo xtask cluster up`.
    Cluster,
}

/// Arguments of the command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask image
  cargo xtask image --arch all --tag 0.1.0
  sudo cargo xtask image --import k3s")]
pub(crate) struct Arguments {
    /// For which processors; the machine's own by default.
    #[arg(long, value_enum)]
    arch: Option<Choice>,
    /// Tag of the images.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Add the S3 server of the tests.
    #[arg(long)]
    with_test_server: bool,
    /// Bring the images into a container store on this machine.
    #[arg(long, value_enum)]
    import: Option<Store>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let progress = Progress::new();
    let host = Architecture::host()?;
    let architectures = match arguments.arch {
        None => vec![host],
        Some(Choice::Amd64) => vec![Architecture::Amd64],
        Some(Choice::Arm64) => vec![Architecture::Arm64],
        Some(Choice::All) => vec![Architecture::Amd64, Architecture::Arm64],
    };
    let mut programs = vec![OPERATOR, NODE];
    if arguments.with_test_server {
        programs.push(S3_SERVER);
    }
    for architecture in architectures {
        let built = product::images(
            &programs,
            architecture,
            &Tag::Named(arguments.tag.clone()),
            &progress,
        )?;
        if architecture != host {
            progress.step(
                format_args!("{architecture} cumulet-node under emulation"),
                || product::try_out(architecture),
            )?;
        }
        for image in &built {
            report(image, architecture);
            match arguments.import {
                Some(store) if architecture == host => bring(image, store)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn report(image: &Built, architecture: Architecture) {
    let mebibytes = image.bytes.div_ceil(1 << 20);
    println!(
        "{} {architecture} {mebibytes} MiB {}",
        image.reference,
        image.archive.display()
    );
}

fn bring(image: &Built, store: Store) -> Result<()> {
    match store {
        Store::K3s => process::run_shown(
            Command::new("k3s")
                .args(["ctr", "images", "import"])
                .arg(&image.archive),
        ),
        Store::Cluster => Cluster::named(super::cluster::DEFAULT_NAME)?.import_image(&image.archive),
    }
}
