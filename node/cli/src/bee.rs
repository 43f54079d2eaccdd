//! `cumulet bee`: keys and values.

use std::fmt;
use std::io::Read;

use bytes::Bytes;
use clap::{Args, Subcommand};
use cumulet_hyperbee::union::{Found, Rule, Source, Union};
use cumulet_hyperbee::{Bee, BeeWriter, Entry, Operation, Range, WriteOptions};
use cumulet_hypercore::key::to_hex;
use serde::Serialize;

use crate::failure::{Context, Failure, Kind, Result};
use crate::names::ArchiveKind;
use crate::output::{readable, text_or_base64};
use crate::plain::PlainCore;
use crate::serve::{self, ServeOptions};
use crate::session::Session;
use crate::verify;

/// Largest value that is read from stdin: a block's limit less its key and index.
const MAX_VALUE_BYTES: u64 = 14 << 20;

/// What can be done with bees.
#[derive(Debug, Subcommand)]
pub(crate) enum BeeCommand {
    /// Sets a key; makes the bee if the name is new.
    #[command(
        after_help = "Examples:\n  cumulet bee put settings colour blue\n  cumulet bee put settings logo < logo.png"
    )]
    Put {
        /// The bee: a name.
        bee: String,
        /// The key.
        key: String,
        /// The value; none: read from stdin.
        value: Option<String>,
    },
    /// Writes a key's value to stdout.
    #[command(after_help = "Example:\n  cumulet bee get settings colour")]
    Get {
        /// The bee: a name, key or link.
        bee: String,
        /// The key.
        key: String,
        #[command(flatten)]
        view: View,
    },
    /// Removes a key.
    #[command(after_help = "Example:\n  cumulet bee del settings colour")]
    Del {
        /// The bee: a name.
        bee: String,
        /// The key.
        key: String,
    },
    /// Lists entries in the order of their keys.
    #[command(
        after_help = "Examples:\n  cumulet bee ls settings --prefix user/\n  cumulet bee ls pear://<key> --gte a --lt n --reverse --limit 10"
    )]
    Ls {
        /// The bee: a name, key or link.
        bee: String,
        #[command(flatten)]
        view: View,
        #[command(flatten)]
        keys: Keys,
    },
    /// Lists what changed between two versions.
    #[command(after_help = "Example:\n  cumulet bee diff settings 10 20")]
    Diff {
        /// The bee: a name, key or link.
        bee: String,
        /// The older version.
        older: u64,
        /// The newer version; none: the newest.
        newer: Option<u64>,
        #[command(flatten)]
        keys: Keys,
    },
    /// Lists all puts and deletes in the order they were made.
    #[command(after_help = "Example:\n  cumulet bee history settings --reverse --limit 5")]
    History {
        /// The bee: a name, key or link.
        bee: String,
        /// The first version to list.
        #[arg(long, value_name = "VERSION", default_value_t = 1)]
        from: u64,
        /// The newest first.
        #[arg(long, conflicts_with = "from")]
        reverse: bool,
        /// At most so many.
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Lists changes as they come, until Ctrl-C.
    #[command(after_help = "Example:\n  cumulet bee watch pear://<key> --prefix user/ --json")]
    Watch {
        /// The bee: a name, key or link.
        bee: String,
        #[command(flatten)]
        keys: Keys,
    },
    /// Reads several bees as one: of a key that many have, the first bee's entry counts.
    #[command(
        subcommand_precedence_over_arg = true,
        after_help = "Examples:\n  cumulet bee union mine pear://<key> ls --prefix user/\n  cumulet bee union mine pear://<key> get colour"
    )]
    Union {
        /// The bees: names, keys or links, the one that counts most first.
        #[arg(required = true)]
        bees: Vec<String>,
        #[command(subcommand)]
        read: UnionRead,
    },
    /// Hashes what is stored, and walks the tree.
    #[command(after_help = "Example:\n  cumulet bee verify settings\nEnds with 4 when something is damaged.")]
    Verify {
        /// The bee: a name, key or link.
        bee: String,
    },
    /// Says what is known of a bee.
    #[command(after_help = "Example:\n  cumulet bee info settings")]
    Info {
        /// The bee: a name, key or link.
        bee: String,
    },
    /// Lets peers have what the store holds, until Ctrl-C.
    #[command(visible_alias = "share", after_help = serve::EXAMPLES)]
    Serve(ServeOptions),
}

/// How to read a union.
#[derive(Debug, Subcommand)]
pub(crate) enum UnionRead {
    /// Lists entries in the order of their keys.
    Ls {
        #[command(flatten)]
        keys: Keys,
    },
    /// Writes a key's value to stdout.
    Get {
        /// The key.
        key: String,
    },
}

/// Which state of a bee to look at.
#[derive(Debug, Args)]
pub(crate) struct View {
    /// The bee as it was at this version.
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
    /// Only the sub-bee of this name.
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
}

/// Which keys.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// Keys that begin with this.
    #[arg(long, conflicts_with_all = ["gt", "gte", "lt", "lte"])]
    prefix: Option<String>,
    /// Keys greater than this.
    #[arg(long, value_name = "KEY", conflicts_with = "gte")]
    gt: Option<String>,
    /// This key and greater ones.
    #[arg(long, value_name = "KEY")]
    gte: Option<String>,
    /// Keys less than this.
    #[arg(long, value_name = "KEY", conflicts_with = "lte")]
    lt: Option<String>,
    /// This key and lesser ones.
    #[arg(long, value_name = "KEY")]
    lte: Option<String>,
    /// From the greatest key down.
    #[arg(long)]
    reverse: bool,
    /// At most so many.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

impl Keys {
    fn range(&self) -> Range {
        let mut range = Range::all();
        if let Some(prefix) = &self.prefix {
            range = range.gte(prefix);
            // The least text above all that begin so: UTF-8 has no byte 255.
            range = range.lt([prefix.as_bytes(), &[u8::MAX]].concat());
        }
        if let Some(key) = &self.gt {
            range = range.gt(key);
        }
        if let Some(key) = &self.gte {
            range = range.gte(key);
        }
        if let Some(key) = &self.lt {
            range = range.lt(key);
        }
        if let Some(key) = &self.lte {
            range = range.lte(key);
        }
        if self.reverse {
            range = range.reverse();
        }
        if let Some(limit) = self.limit {
            range = range.limit(limit);
        }
        range
    }
}

/// An entry as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryShown {
    seq: u64,
    key: String,
    key_encoding: &'static str,
    value: Option<String>,
    value_encoding: Option<&'static str>,
    #[serde(skip)]
    text: String,
}

impl EntryShown {
    pub(crate) fn new(entry: &Entry) -> Self {
        Self::of(entry.seq, &entry.key, entry.value.as_ref())
    }

    fn of(seq: u64, key: &[u8], value: Option<&Bytes>) -> Self {
        let text = value.map_or_else(
            || readable(key),
            |value| format!("{}\t{}", readable(key), readable(value)),
        );
        let (key, key_encoding) = text_or_base64(key);
        let (value, value_encoding) = value.map(|value| text_or_base64(value)).unzip();
        Self {
            seq,
            key,
            key_encoding,
            value,
            value_encoding,
            text,
        }
    }
}

impl fmt::Display for EntryShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A change of one key: `new` is none for a delete, `old` for a key that is new.
#[derive(Debug, Serialize)]
pub(crate) struct ChangeShown {
    new: Option<EntryShown>,
    old: Option<EntryShown>,
}

impl ChangeShown {
    pub(crate) fn new(newer: Option<&Entry>, older: Option<&Entry>) -> Self {
        Self {
            new: newer.map(EntryShown::new),
            old: older.map(EntryShown::new),
        }
    }
}

impl fmt::Display for ChangeShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.new, &self.old) {
            (Some(new), None) => write!(f, "+ {new}"),
            (Some(new), Some(_)) => write!(f, "~ {new}"),
            (None, Some(old)) => write!(f, "- {old}"),
            (None, None) => Ok(()),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryShown {
    operation: &'static str,
    #[serde(flatten)]
    entry: EntryShown,
}

impl fmt::Display for HistoryShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}", self.entry.seq, self.operation, self.entry)
    }
}

/// What a put or delete wrote.
#[derive(Debug, Serialize)]
struct Written {
    key: String,
    seq: u64,
    version: u64,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.version)
    }
}

/// Runs one of them.
pub(crate) async fn run(session: &mut Session, command: BeeCommand) -> Result {
    match command {
        BeeCommand::Put { bee, key, value } => put(session, &bee, &key, value).await,
        BeeCommand::Get { bee, key, view } => get(session, &bee, &key, &view).await,
        BeeCommand::Del { bee, key } => del(session, &bee, &key).await,
        BeeCommand::Ls { bee, view, keys } => {
            let bee = open(session, &bee, &view).await?;
            let mut cursor = bee.range(keys.range());
            while let Some(entry) = cursor.next().await? {
                session.out.show(&EntryShown::new(&entry))?;
            }
            Ok(())
        }
        BeeCommand::Diff {
            bee,
            older,
            newer,
            keys,
        } => {
            let view = View {
                version: newer,
                sub: None,
            };
            let bee = open(session, &bee, &view).await?;
            let mut diff = bee.diff(older, keys.range());
            let mut left = keys.limit.unwrap_or(u64::MAX);
            while left > 0
                && let Some(change) = diff.next().await?
            {
                session
                    .out
                    .show(&ChangeShown::new(change.left.as_ref(), change.right.as_ref()))?;
                left -= 1;
            }
            Ok(())
        }
        BeeCommand::History {
            bee,
            from,
            reverse,
            limit,
        } => history(session, &bee, from, reverse, limit).await,
        BeeCommand::Watch { bee, keys } => watch(session, &bee, &keys).await,
        BeeCommand::Union { bees, read } => union(session, &bees, &read).await,
        BeeCommand::Verify { bee } => verify(session, &bee).await,
        BeeCommand::Info { bee } => {
            let target = session.target(&bee)?;
            let core = session.core(&target).await?;
            must_be_bee(&target.text, &core).await?;
            crate::core::show_info(session, &target, &core, false).await
        }
        BeeCommand::Serve(options) => serve::run(session, options).await,
    }
}

/// Opens a bee at the version that the option, or else the link, names.
async fn open(session: &mut Session, text: &str, view: &View) -> Result<Bee<PlainCore>> {
    let target = session.target(text)?;
    let core = session.core(&target).await?;
    must_be_bee(text, &core).await?;
    let newest = Bee::new(core);
    let mut bee = newest.clone();
    if let Some(version) = view.version.or(target.version) {
        if version > newest.version() {
            let text = format!("the newest version is {}", newest.version());
            return Err(Failure::not_found(text).hint("--update asks peers for newer ones"));
        }
        bee = bee.checkout(version);
    }
    Ok(match &view.sub {
        Some(name) => bee.sub(name),
        None => bee,
    })
}

/// An empty core may become a bee.
async fn must_be_bee(text: &str, core: &PlainCore) -> Result {
    if core.handle().state().length == 0 || Bee::new(core.clone()).is_bee().await? {
        return Ok(());
    }
    Err(
        Failure::new(Kind::Failed, format!("{text} is a core, but not a bee"))
            .hint("an encrypted bee needs --encryption-key-file; `cumulet core cat` reads plain cores"),
    )
}

async fn writer(session: &mut Session, text: &str) -> Result<(String, BeeWriter<PlainCore>)> {
    let target = session.target_or_new(text, ArchiveKind::Bee)?;
    if let Some((name, named)) = &target.own
        && named.kind == ArchiveKind::Drive
    {
        return Err(Failure::new(Kind::Failed, format!("{name} is a drive"))
            .hint("`cumulet drive put` writes files; a drive's own bee is not to be written by hand"));
    }
    let core = session.writable(&target).await?;
    must_be_bee(text, &core).await?;
    Ok((to_hex(&target.key), BeeWriter::new(core, WriteOptions::default())))
}

async fn put(session: &mut Session, text: &str, key: &str, value: Option<String>) -> Result {
    let value = match value {
        Some(value) => value.into_bytes(),
        None => stdin().await?,
    };
    let (core, mut writer) = writer(session, text).await?;
    let seq = writer.put(key, Some(&value)).await?.unwrap_or_default();
    session.out.show(&Written {
        key: core,
        seq,
        version: writer.bee().version(),
    })
}

/// All of stdin, if it fits into a block.
async fn stdin() -> Result<Vec<u8>> {
    let read = || {
        let mut value = Vec::new();
        let limit = MAX_VALUE_BYTES + 1;
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut value)
            .map(|_| value)
    };
    let value = tokio::task::spawn_blocking(read)
        .await?
        .context("failed to read stdin")?;
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failure::usage(format!(
            "a value has at most {MAX_VALUE_BYTES} bytes"
        )));
    }
    Ok(value)
}

async fn get(session: &mut Session, text: &str, key: &str, view: &View) -> Result {
    let bee = open(session, text, view).await?;
    let Some(entry) = bee.get(key).await? else {
        return Err(Failure::not_found(format!("{text} has no key {key}")));
    };
    if session.out.json {
        return session.out.show(&EntryShown::new(&entry));
    }
    session.out.bytes(entry.value.as_deref().unwrap_or_default())
}

async fn del(session: &mut Session, text: &str, key: &str) -> Result {
    session.target(text)?;
    let (core, mut writer) = writer(session, text).await?;
    let Some(seq) = writer.del(key).await? else {
        return Err(Failure::not_found(format!("{text} has no key {key}")));
    };
    session.out.show(&Written {
        key: core,
        seq,
        version: writer.bee().version(),
    })
}

async fn history(session: &mut Session, text: &str, from: u64, reverse: bool, limit: Option<u64>) -> Result {
    let view = View {
        version: None,
        sub: None,
    };
    let bee = open(session, text, &view).await?;
    let mut history = if reverse {
        bee.history_reverse()
    } else {
        bee.history(from)
    };
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(entry) = history.next().await?
    {
        session.out.show(&HistoryShown {
            operation: match entry.operation {
                Operation::Put => "put",
                Operation::Delete => "del",
            },
            entry: EntryShown::of(entry.seq, &entry.key, entry.value.as_ref()),
        })?;
        left -= 1;
    }
    Ok(())
}

/// Shows changes until the command is interrupted.
async fn watch(session: &mut Session, text: &str, keys: &Keys) -> Result {
    let target = session.target(text)?;
    session.follow_news = true;
    let core = session.core(&target).await?;
    must_be_bee(text, &core).await?;
    // Blocks come with the news, so that they can be read when the peer is gone.
    let wish = core
        .handle()
        .download(core.handle().state().length..u64::MAX)
        .await;
    let bee = Bee::new(core);
    let mut watcher = bee.watch(keys.range());
    session
        .out
        .note(format_args!("watching {text} at version {}", bee.version()));
    loop {
        let change = watcher.next().await?;
        if change.forked {
            session
                .out
                .note("the bee was cut back or replaced; what changed can't be told");
            continue;
        }
        let mut diff = change.current.diff(change.previous.version(), keys.range());
        while let Some(change) = diff.next().await? {
            session
                .out
                .show(&ChangeShown::new(change.left.as_ref(), change.right.as_ref()))?;
        }
        session.out.flush()?;
        // The wish lives as long as the loop.
        let _ = &wish;
    }
}

/// An entry of a union, with the bee that it is from.
#[derive(Debug, Serialize)]
struct UnionEntryShown {
    source: String,
    #[serde(flatten)]
    entry: EntryShown,
}

impl fmt::Display for UnionEntryShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}", self.entry, self.source)
    }
}

async fn union(session: &mut Session, names: &[String], read: &UnionRead) -> Result {
    let mut sources = Vec::new();
    for name in names {
        let view = View {
            version: None,
            sub: None,
        };
        let bee = open(session, name, &view).await?;
        sources.push(Source::new(name.as_str(), bee).may_be_empty());
    }
    let union = Union::new(sources, Rule::First);
    let shown = |found: &Found| UnionEntryShown {
        source: union.name(found.source).to_owned(),
        entry: EntryShown::new(&found.entry),
    };
    match read {
        UnionRead::Ls { keys } => {
            let mut cursor = union.range(keys.range());
            while let Some(merged) = cursor.next().await? {
                session.out.show(&shown(merged.winner()))?;
            }
            Ok(())
        }
        UnionRead::Get { key } => {
            let Some(merged) = union.get(key).await?.merged else {
                return Err(Failure::not_found(format!("none of the bees has the key {key}")));
            };
            if session.out.json {
                return session.out.show(&shown(merged.winner()));
            }
            session
                .out
                .bytes(merged.winner().entry.value.as_deref().unwrap_or_default())
        }
    }
}

/// What verifying a bee found.
#[derive(Debug, Serialize)]
struct BeeVerified {
    #[serde(flatten)]
    core: verify::Verified,
    /// Entries of the newest version; none if its tree can't be walked.
    entries: Option<u64>,
    problem: Option<String>,
}

impl fmt::Display for BeeVerified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.core)?;
        match (&self.entries, &self.problem) {
            (_, Some(problem)) => write!(f, "\n  its tree can't be walked: {problem}"),
            (entries, None) => write!(f, "\n  its tree has {} entries", entries.unwrap_or_default()),
        }
    }
}

async fn verify(session: &mut Session, text: &str) -> Result {
    session.options.offline = true;
    let target = session.target(text)?;
    let core = session.core(&target).await?;
    let verified = verify::core_of(session, core.handle(), target.text.clone()).await?;
    let walked = match must_be_bee(text, &core).await {
        Ok(()) => count(&Bee::new(core)).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let result = walked.as_ref().map(|_| ()).map_err(|failure| {
        let text = format!("the tree of {text} can't be walked: {}", failure.text);
        Failure::new(failure.kind, text)
    });
    session.out.show(&BeeVerified {
        entries: walked.as_ref().ok().copied(),
        problem: walked.err().map(|failure| failure.text),
        core: verified.clone(),
    })?;
    verified.into_result().and(result)
}

async fn count(bee: &Bee<PlainCore>) -> std::result::Result<u64, cumulet_hyperbee::BeeError> {
    let mut cursor = bee.range(Range::all());
    let mut entries = 0;
    while cursor.next().await?.is_some() {
        entries += 1;
    }
    Ok(entries)
}
