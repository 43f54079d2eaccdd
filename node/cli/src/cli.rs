//! The options that all commands share, and the shape of the command line.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::bee::BeeCommand;
use crate::core::CoreCommand;
use crate::drive::DriveCommand;
use crate::failure::{Context, Result};
use crate::net::NetCommand;

/// Cores, bees and drives of the Hypercore network, on the command line.
#[derive(Debug, Parser)]
#[command(name = "cumulet", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Archives are named by a local name, by a key (64 hex digits or 52 letters of z-base-32) or by a link
(pear://, hyper:// or dat://).

Examples:
  Write a folder into a drive and let others have it:
    cumulet drive mirror ./photos photos
    cumulet drive serve photos
  Read it elsewhere:
    cumulet drive mirror pear://<key> ./photos

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 damaged, 5 not available from any peer,
6 the store is in use, 130 interrupted.";

/// Options of all commands.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "a switch each")]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// Where archives are kept [default: cumulet in the user's data directory].
    #[arg(long, global = true, env = "CUMULET_STORE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
    /// Connects to this peer over TCP and asks it for news; may be given again.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) peer: Vec<String>,
    /// Nodes to join the DHT through, instead of the public ones.
    #[arg(
        long,
        global = true,
        env = "CUMULET_BOOTSTRAP",
        value_name = "HOST:PORT,…",
        value_delimiter = ','
    )]
    pub(crate) bootstrap: Vec<String>,
    /// Uses only what is in the store.
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Asks the network for news of an archive that is held already.
    #[arg(long, global = true)]
    pub(crate) update: bool,
    /// How long to wait for peers.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    /// The key that the archive's blocks are encrypted with: a file of 32 bytes, raw or as hex digits.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) encryption_key_file: Option<PathBuf>,
    /// Prints results as JSON, one object per line, and failures as JSON on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Leaves out progress and notes.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Signed append-only logs.
    #[command(subcommand)]
    Core(CoreCommand),
    /// Key-value trees.
    #[command(subcommand)]
    Bee(BeeCommand),
    /// Files and folders.
    #[command(subcommand)]
    Drive(DriveCommand),
    /// How this machine is connected, and networks to try programs in.
    #[command(subcommand)]
    Net(NetCommand),
    /// Makes a file with a random encryption key, for --encryption-key-file.
    #[command(
        after_help = "Example:\n  cumulet keygen diary.key\n  cumulet core create diary --encryption-key-file diary.key"
    )]
    Keygen {
        /// The file to make; one that is there is left alone.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Prints a completion script for a shell.
    #[command(
        alias = "completion",
        after_help = "Examples:
  cumulet completions bash > ~/.local/share/bash-completion/completions/cumulet
  cumulet completions zsh > ~/.zfunc/_cumulet
  cumulet completions fish > ~/.config/fish/completions/cumulet.fish"
    )]
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Writes manual pages into a directory.
    #[command(after_help = "Example:\n  cumulet man ~/.local/share/man/man1")]
    Man {
        /// The directory, which must be there.
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cumulet", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).context("failed to write to stdout")
}

/// Writes one page per command.
pub(crate) fn man(directory: &Path) -> Result {
    let context = format!("failed to write manual pages into {}", directory.display());
    clap_mangen::generate_to(Cli::command(), directory).context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions_and_every_command_shows_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        let mut shown = 0;
        // The `help` commands, one per group, only show what the others say.
        let is_help = |command: &clap::Command| command.get_name() == "help";
        for group in command.get_subcommands_mut().filter(|command| !is_help(command)) {
            let own = group.render_long_help().to_string();
            let mut commands = group
                .get_subcommands_mut()
                .filter(|command| !is_help(command))
                .peekable();
            assert!(
                commands.peek().is_some() || own.contains("Example"),
                "{own} shows no example"
            );
            for command in commands {
                let help = command.render_long_help().to_string();
                assert!(
                    help.contains("Example"),
                    "{} shows no example",
                    command.get_name()
                );
                shown += 1;
            }
        }
        assert!(shown > 20, "{shown} commands");
    }
}
