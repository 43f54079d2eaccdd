//! `cumulet core`: logs, block by block.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use cumulet_hyperbee::Blocks;
use cumulet_hypercore::corestore::{CoreHandle, CoreState};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::key::{to_hex, to_z32};
use data_encoding::BASE64;
use serde::Serialize;

use crate::append::{self, Cut};
use crate::failure::{Failure, Kind, Result};
use crate::names::{self, ArchiveKind};
use crate::output::Unit;
use crate::plain::PlainCore;
use crate::ranges::Span;
use crate::serve::{self, ServeOptions};
use crate::session::{Session, Target};
use crate::verify;

/// What can be done with cores.
#[derive(Debug, Subcommand)]
pub(crate) enum CoreCommand {
    /// Makes a core of your own under a name.
    #[command(after_help = "\
Example:
  cumulet core create notes
The name leads to the same key in any store with the same primary key: `a/b` is the core b in the namespace a.")]
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        secret: ShowSecret,
    },
    /// Appends blocks from files or stdin.
    #[command(after_help = "\
Examples:
  cumulet core append notes chapter-1.txt chapter-2.txt
  journalctl -f | cumulet core append log --lines
What was read is appended in groups, each durable; with --lines as soon as lines come.")]
    Append {
        /// The core: a name.
        core: String,
        /// Files to append, one after the other; - or none: stdin.
        #[arg(value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// One block per line, without the line's end.
        #[arg(long, conflicts_with = "block_size")]
        lines: bool,
        /// Bytes per block, except the last of each file.
        #[arg(long, value_name = "BYTES", default_value_t = append::DEFAULT_BLOCK_BYTES)]
        block_size: usize,
    },
    /// Writes the blocks to stdout, one after the other.
    #[command(
        after_help = "Examples:\n  cumulet core cat notes\n  cumulet core cat pear://<key> --range 10..20 --lines"
    )]
    Cat {
        /// The core: a name, key or link.
        core: String,
        /// Blocks to write: START..END, START.., ..END or one number.
        #[arg(long, value_name = "BLOCKS")]
        range: Option<Span>,
        /// Ends each block with a line's end.
        #[arg(long)]
        lines: bool,
    },
    /// Says what is known of a core.
    #[command(after_help = "Example:\n  cumulet core info notes --json")]
    Info {
        /// The core: a name, key or link.
        core: String,
        #[command(flatten)]
        secret: ShowSecret,
    },
    /// Writes one block to stdout.
    #[command(after_help = "Example:\n  cumulet core get notes 3")]
    Get {
        /// The core: a name, key or link.
        core: String,
        /// Number of the block, from 0.
        index: u64,
    },
    /// Cuts a core of your own to a length. Its readers forget the rest as well.
    #[command(after_help = "Example:\n  cumulet core truncate notes 10")]
    Truncate {
        /// The core: a name.
        core: String,
        /// Blocks to keep.
        length: u64,
    },
    /// Forgets blocks here to save space. Peers that have them still do.
    #[command(after_help = "Example:\n  cumulet core clear pear://<key> 0..100")]
    Clear {
        /// The core: a name, key or link.
        core: String,
        /// Blocks to forget: START..END, START.., ..END or one number.
        range: Span,
    },
    /// Hashes everything that is stored, and compares it with what was signed.
    #[command(after_help = "\
Examples:
  cumulet core verify
  cumulet core verify notes --json
Ends with 4 when something is damaged, and names each block with the file it lies in.")]
    Verify {
        /// The cores: names, keys or links; none: all that the store holds.
        cores: Vec<String>,
    },
    /// Lists the cores of the store.
    #[command(after_help = "Example:\n  cumulet core ls")]
    Ls,
    /// Lets peers have what the store holds, until Ctrl-C.
    #[command(visible_alias = "share", after_help = serve::EXAMPLES)]
    Serve(ServeOptions),
}

/// Whether to print a secret.
#[derive(Debug, Args)]
pub(crate) struct ShowSecret {
    /// Prints the secret key too. Whoever has it can write the archive.
    #[arg(long)]
    show_secret: bool,
}

/// Runs one of them.
pub(crate) async fn run(session: &mut Session, command: CoreCommand) -> Result {
    match command {
        CoreCommand::Create { name, secret } => {
            let target = session.create(&name, ArchiveKind::Core)?;
            let core = session.core(&target).await?;
            show_info(session, &target, &core, secret.show_secret).await
        }
        CoreCommand::Append {
            core,
            files,
            lines,
            block_size,
        } => {
            let target = session.target(&core)?;
            let core = session.writable(&target).await?;
            let cut = if lines { Cut::Lines } else { Cut::Bytes(block_size) };
            append::run(session, &target, &core, &files, cut).await
        }
        CoreCommand::Cat { core, range, lines } => {
            let target = session.target(&core)?;
            let core = session.core(&target).await?;
            cat(session, &core, range.unwrap_or(Span::ALL), lines).await
        }
        CoreCommand::Info { core, secret } => {
            let target = session.target(&core)?;
            let core = session.core(&target).await?;
            show_info(session, &target, &core, secret.show_secret).await
        }
        CoreCommand::Get { core, index } => {
            let target = session.target(&core)?;
            let core = session.core(&target).await?;
            in_range(Span::ALL, &core, Some(index))?;
            let block = core.get(index).await?;
            if session.out.json {
                session.out.show(&BlockShown::new(index, &block))
            } else {
                session.out.bytes(&block)
            }
        }
        CoreCommand::Truncate { core, length } => {
            let target = session.target(&core)?;
            let core = session.writable(&target).await?;
            let now = core.handle().state().length;
            if length > now {
                return Err(Failure::not_found(format!(
                    "{} has only {now} blocks",
                    target.text
                )));
            }
            if length < now {
                core.handle().truncate(length).await?;
            }
            show_info(session, &target, &core, false).await
        }
        CoreCommand::Clear { core, range } => {
            session.options.offline = true;
            let target = session.target(&core)?;
            let core = session.core(&target).await?;
            let blocks = in_range(range, &core, None)?;
            core.handle().clear(blocks).await?;
            show_info(session, &target, &core, false).await
        }
        CoreCommand::Verify { cores } => verify::cores(session, &cores).await,
        CoreCommand::Ls => list(session).await,
        CoreCommand::Serve(options) => serve::run(session, options).await,
    }
}

fn in_range(span: Span, core: &PlainCore, index: Option<u64>) -> Result<std::ops::Range<u64>> {
    let length = core.length();
    let inside = index.is_none_or(|index| index < length);
    span.within(length).filter(|_| inside).ok_or_else(|| {
        Failure::not_found(format!("the core has {length} blocks, fewer than asked for"))
            .hint("--update asks peers whether it is longer by now")
    })
}

/// One block in JSON.
#[derive(Debug, Serialize)]
struct BlockShown {
    index: u64,
    length: usize,
    data: String,
}

impl BlockShown {
    fn new(index: u64, block: &[u8]) -> Self {
        Self {
            index,
            length: block.len(),
            data: BASE64.encode(block),
        }
    }
}

impl fmt::Display for BlockShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.data)
    }
}

async fn cat(session: &Session, core: &PlainCore, span: Span, lines: bool) -> Result {
    let blocks = in_range(span, core, None)?;
    // All of them are wished for at once, so that peers send while we write.
    let wish = if session.is_online() {
        Some(core.handle().download(blocks.clone()).await)
    } else {
        None
    };
    let progress = session
        .out
        .progress(Some(blocks.end - blocks.start), Unit::Blocks);
    for index in blocks {
        let block = core.get(index).await?;
        if session.out.json {
            session.out.show(&BlockShown::new(index, &block))?;
        } else {
            session.out.bytes(&block)?;
            if lines {
                session.out.bytes(b"\n")?;
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    drop(wish);
    Ok(())
}

/// What is known of a core.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: Option<String>,
    kind: &'static str,
    key: String,
    link: String,
    discovery_key: String,
    length: u64,
    byte_length: u64,
    fork: u64,
    contiguous_length: u64,
    held_blocks: u64,
    writable: bool,
    encrypted: bool,
    directory: String,
    manifest: Option<ManifestShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<String>,
}

#[derive(Debug, Serialize)]
struct ManifestShown {
    version: u8,
    quorum: u64,
    signers: Vec<String>,
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            writeln!(f, "name           {name} ({})", self.kind)?;
        }
        writeln!(f, "key            {}", self.key)?;
        writeln!(f, "link           {}", self.link)?;
        writeln!(f, "discovery key  {}", self.discovery_key)?;
        writeln!(
            f,
            "length         {} blocks, {} bytes",
            self.length, self.byte_length
        )?;
        writeln!(
            f,
            "held           {} blocks, the first {} without a gap",
            self.held_blocks, self.contiguous_length
        )?;
        writeln!(f, "fork           {}", self.fork)?;
        let yes = |is| if is { "yes" } else { "no" };
        writeln!(
            f,
            "writable       {}, encrypted: {}",
            yes(self.writable),
            yes(self.encrypted)
        )?;
        if let Some(manifest) = &self.manifest {
            writeln!(
                f,
                "manifest       version {}, {} of {} signers: {}",
                manifest.version,
                manifest.quorum,
                manifest.signers.len(),
                manifest.signers.join(" ")
            )?;
        }
        if let Some(secret) = &self.secret_key {
            writeln!(f, "secret key     {secret}")?;
        }
        write!(f, "directory      {}", self.directory)
    }
}

/// Shows a core as `core info` does.
pub(crate) async fn show_info(
    session: &mut Session,
    target: &Target,
    core: &PlainCore,
    show_secret: bool,
) -> Result {
    let handle = core.handle();
    let state = handle.state();
    let store = session.store()?;
    let secret_key = match (&target.own, show_secret) {
        (Some((name, named)), true) => Some(hex::encode(store.key_pair(name, named.kind)?.secret_key())),
        (None, true) => {
            return Err(Failure::new(
                Kind::Failed,
                format!("the secret key of {} is not here", target.text),
            ));
        }
        _ => None,
    };
    let manifest = handle.manifest().await.map(|manifest| ManifestShown {
        version: manifest.version,
        quorum: manifest.quorum,
        signers: manifest
            .signers
            .iter()
            .map(|signer| to_hex(&signer.public_key))
            .collect(),
    });
    let (name, named) = target.own.clone().unzip();
    session.out.show(&Info {
        name,
        kind: named.map_or("core", |named| named.kind.as_str()),
        key: to_hex(handle.key()),
        link: format!("pear://{}", to_z32(handle.key())),
        discovery_key: to_hex(handle.discovery_key()),
        length: state.length,
        byte_length: core.plain_bytes(),
        fork: state.fork,
        contiguous_length: state.contiguous_length,
        held_blocks: state.held_blocks,
        writable: handle.with_core(cumulet_hypercore::core::Core::is_writable).await,
        encrypted: session.options.encryption_key_file.is_some(),
        directory: store.core_directory(handle.discovery_key()).display().to_string(),
        manifest,
        secret_key,
    })
}

/// One core of the store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: Option<String>,
    kind: &'static str,
    key: Option<String>,
    discovery_key: String,
    length: u64,
    byte_length: u64,
    fork: u64,
    held_blocks: u64,
    error: Option<String>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("-");
        match (&self.key, &self.error) {
            (_, Some(error)) => write!(f, "{}\t{name}\t{error}", self.discovery_key),
            (key, None) => write!(
                f,
                "{}\t{name}\t{}\t{} of {} blocks\t{} bytes",
                key.as_deref().unwrap_or("-"),
                self.kind,
                self.held_blocks,
                self.length,
                self.byte_length
            ),
        }
    }
}

async fn list(session: &mut Session) -> Result {
    let store = session.existing_store()?;
    let names = store.names()?;
    let mut topics = store.cores.list().await?;
    topics.sort_unstable();
    let mut damaged = None;
    for topic in topics {
        let own = names.iter().find(|(_, known)| {
            cumulet_hypercore::key::parse(&known.key).is_ok_and(|key| discovery_key(&key) == topic)
        });
        let (core, error) = match store.cores.find(&topic).await {
            Ok(core) => (core, None),
            Err(error) => (None, Some(Failure::from(error))),
        };
        let state: CoreState = core.as_ref().map(CoreHandle::state).unwrap_or_default();
        let shown = Listed {
            name: own.map(|(name, _)| name.clone()),
            kind: own.map_or("core", |(_, known)| known.kind.as_str()),
            key: core.as_ref().map(|core| to_hex(core.key())),
            discovery_key: to_hex(&topic),
            length: state.length,
            byte_length: state.byte_length,
            fork: state.fork,
            held_blocks: state.held_blocks,
            error: error.as_ref().map(|failure| failure.text.clone()),
        };
        session.out.show(&shown)?;
        damaged = damaged.or(error);
    }
    damaged.map_or(Ok(()), Err)
}

/// The name of a key among our own, for messages.
pub(crate) fn name_or_key(
    names: &std::collections::BTreeMap<String, names::Named>,
    key: &cumulet_hypercore::crypto::Key,
) -> String {
    names::of_key(names, key).map_or_else(|| to_hex(key), |(name, _)| name.to_owned())
}
