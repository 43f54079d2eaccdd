//! `cargo xtask cluster`: a real Kubernetes on this machine, up, down, and in use.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use cumulet_e2e::cluster::lifecycle::Reexec;
use cumulet_e2e::cluster::{Cluster, Layout, init};
use cumulet_e2e::forward::Forward;
use cumulet_e2e::process;
use cumulet_e2e::progress::Progress;

/// Name of the cluster that commands mean when none is given.
pub(crate) const DEFAULT_NAME: &str = "demo";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the cluster; one that runs is left alone.
    #[command(
        after_help = "Example:\n  cargo xtask cluster up && export KUBECONFIG=/var/lib/cumulet-demo/kubeconfig"
    )]
    Up {
        /// The cluster's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Stop the cluster and remove what it left on the machine.
    Down {
        /// The cluster's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// Keep the cluster's folder, so that the next `up` continues with its state.
        #[arg(long)]
        keep_state: bool,
    },
    /// List what is on the machine because of the cluster.
    Leftovers {
        /// The cluster's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Run kubectl against the cluster.
    #[command(after_help = "Example:\n  cargo xtask cluster kubectl get pods --all-namespaces")]
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Bring an image archive into the cluster.
    Import {
        /// The archive.
        archive: PathBuf,
        /// The cluster's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// The first process in a cluster's namespaces; `up` starts it.
    #[command(hide = true)]
    Init {
        #[arg(long)]
        name: String,
        #[arg(long)]
        dir: PathBuf,
    },
    /// A port that leads into a network namespace; `up` starts it.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        namespace: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        target: SocketAddr,
    },
}

/// How `up` starts this executable again.
pub(crate) fn reexec() -> Reexec {
    Reexec {
        init: vec!["cluster".into(), "init".into()],
        forward: vec!["cluster".into(), "forward".into()],
    }
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { name } => {
            let cluster = Cluster::named(&name)?;
            cluster.up(&reexec(), &Progress::new())?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            Ok(())
        }
        Command::Down { name, keep_state } => {
            let progress = Progress::new();
            Cluster::named(&name)?.down(keep_state)?;
            progress.say(format_args!(
                "cluster {name} is down, nothing of it is left on the machine"
            ));
            Ok(())
        }
        Command::Leftovers { name } => {
            for left in Cluster::named(&name)?.leftovers()? {
                println!("{left}");
            }
            Ok(())
        }
        Command::Kubectl { arguments } => {
            let kubectl = Cluster::named(DEFAULT_NAME)?.kubectl();
            process::run_shown(kubectl.command().args(arguments))
        }
        Command::Import { archive, name } => Cluster::named(&name)?.import_image(&archive),
        Command::Init { name, dir } => init::run(&Layout::new(&name, &dir)),
        Command::Forward {
            namespace,
            port,
            target,
        } => Forward::bind(port, &namespace, target)?.serve(),
    }
}
