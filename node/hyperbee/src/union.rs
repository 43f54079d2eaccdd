//! Many bees read as one: a sorted, read-only view of all their keys.
//!
//! Any number of sources, of any mix of places ([`crate::AnyBlocks`]). Keys that several have are settled by a [`Rule`].
//!
//! **Deletions.** A bee holds no trace of a key that was deleted from it; so a source without a key says nothing about
//! it, and a key deleted from one source shows the entry of the next that has it. Who wants deletions to count across
//! sources writes a value that means "deleted" and names it with [`Union::hiding`]: if the entry that wins is
//! such a tombstone, the view does not have the key.
//!
//! **Failures.** A source that can't be read fails the view, by name, or is left out of it and listed, as
//! [`OnFailure`] says; it is never just missing. A core of which not even the first block is known looks like an empty bee
//! and is one only if the caller says so ([`Source::may_be_empty`]); otherwise it counts as unavailable.
//!
//! Memory: one entry for each source, and each source's cache. Sources are read side by side, so that many remote ones
//! cost the slowest and not the sum. Every view is fixed when it is opened.
//!
//! ```
//! # futures::executor::block_on(async {
//! use cumulet_hyperbee::union::{Rule, Source, Union};
//! use cumulet_hyperbee::{BeeWriter, MemoryBlocks, Range, WriteOptions};
//!
//! let mut sources = Vec::new();
//! for (name, keys) in [("desk", ["a", "c"]), ("phone", ["a", "b"])] {
//!     let mut writer = BeeWriter::new(MemoryBlocks::default(), WriteOptions::default());
//!     for key in keys {
//!         writer.put(key, Some(name.as_bytes())).await?;
//!     }
//!     sources.push(Source::new(name, writer.bee().clone()));
//! }
//! let union = Union::new(sources, Rule::First);
//! let mut cursor = union.range(Range::all());
//! let mut seen = Vec::new();
//! while let Some(merged) = cursor.next().await? {
//!     seen.push((merged.key().clone(), union.name(merged.winner().source).to_owned()));
//! }
//! assert_eq!(seen.iter().map(|(key, from)| (&key[..], &from[..])).collect::<Vec<_>>(),
//!     [(&b"a"[..], "desk"), (b"b", "phone"), (b"c", "desk")]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod cursor;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::entry::{BeeError, Entry, ErrorKind};
use crate::{Bee, Blocks, Range};

pub use cursor::UnionCursor;

/// One bee of a union.
#[derive(Debug)]
pub struct Source<B> {
    name: String,
    bee: Bee<B>,
    may_be_empty: bool,
}

impl<B> Clone for Source<B> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            bee: self.bee.clone(),
            may_be_empty: self.may_be_empty,
        }
    }
}

impl<B: Blocks> Source<B> {
    /// A bee, or a sub-bee or version of one, under a name for errors.
    pub fn new(name: impl Into<String>, bee: Bee<B>) -> Self {
        Self {
            name: name.into(),
            bee,
            may_be_empty: false,
        }
    }

    /// A core without any block is a bee without entries here, not one that has not arrived yet.
    #[must_use]
    pub fn may_be_empty(self) -> Self {
        Self {
            may_be_empty: true,
            ..self
        }
    }

    /// The bee, if anything of it is known.
    fn opened(&self, index: usize) -> Result<&Bee<B>, UnionError> {
        if self.bee.blocks().length() == 0 && !self.may_be_empty {
            return Err(UnionError::NotArrived {
                index,
                name: self.name.clone(),
            });
        }
        Ok(&self.bee)
    }

    async fn ask(&self, index: usize, key: &[u8]) -> Result<Option<Found>, UnionError> {
        let found = self.opened(index)?.get(key).await;
        let found = found.map_err(|error| self.failed(index, error))?;
        Ok(found.map(|entry| Found { source: index, entry }))
    }

    fn failed(&self, index: usize, source: BeeError) -> UnionError {
        UnionError::Source {
            index,
            name: self.name.clone(),
            source,
        }
    }
}

/// An entry with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Number of the source, in the order in which they were given.
    pub source: usize,
    /// The entry.
    pub entry: Entry,
}

/// Which of two entries of one key is newer: [`Ordering::Greater`] if the first is.
pub type Newer = Arc<dyn Fn(&Found, &Found) -> Ordering + Send + Sync>;

/// What becomes of a key that several sources have.
#[derive(Clone)]
pub enum Rule {
    /// The first source that has it, in the order in which they were given. Look-ups don't ask the others.
    First,
    /// The newest entry, as the caller compares them; of equally new ones that of the first source. Block numbers of
    /// different cores say nothing about time, so the rule has to look into the values.
    Newest(Newer),
    /// All entries, in the order of the sources. Nothing is hidden.
    All,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "First",
            Self::Newest(_) => "Newest",
            Self::All => "All",
        })
    }
}

/// What becomes of a view when one of its sources can't be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The step fails and names the source. The same step can be tried again.
    #[default]
    Fail,
    /// The source is left out from there on, and listed with its error.
    Skip,
}

/// Why a union can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UnionError {
    /// A source failed.
    #[error("failed to read the source {name}")]
    Source {
        /// Number of the source.
        index: usize,
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: BeeError,
    },
    /// Not even the first block of a source is known.
    #[error("failed to read the source {name}: nothing of it has arrived yet")]
    NotArrived {
        /// Number of the source.
        index: usize,
        /// Its name.
        name: String,
    },
}

impl UnionError {
    /// Number of the source that failed.
    pub fn source_index(&self) -> usize {
        match self {
            Self::Source { index, .. } | Self::NotArrived { index, .. } => *index,
        }
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source { source, .. } => source.kind(),
            Self::NotArrived { .. } => ErrorKind::Unavailable,
        }
    }
}

/// One key of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    winner: Found,
    others: Vec<Found>,
}

impl Merged {
    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.winner.entry.key
    }

    /// The entry that the rule chose; with [`Rule::All`] the first one.
    pub fn winner(&self) -> &Found {
        &self.winner
    }

    /// The entry that the rule chose.
    pub fn into_winner(self) -> Found {
        self.winner
    }

    /// The entries after the first; none but with [`Rule::All`].
    pub fn others(&self) -> &[Found] {
        &self.others
    }
}

/// The answer to a look-up.
#[derive(Debug)]
pub struct Lookup {
    /// The key, if the view has it.
    pub merged: Option<Merged>,
    /// Sources that could not be asked, with [`OnFailure::Skip`]: with them the answer might be another.
    pub skipped: Vec<UnionError>,
}

type Tombstone = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// The union of any number of bees. Cheap to clone.
pub struct Union<B> {
    sources: Arc<[Source<B>]>,
    rule: Rule,
    hiding: Option<Tombstone>,
    on_failure: OnFailure,
}

impl<B> Clone for Union<B> {
    fn clone(&self) -> Self {
        Self {
            sources: Arc::clone(&self.sources),
            rule: self.rule.clone(),
            hiding: self.hiding.clone(),
            on_failure: self.on_failure,
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for Union<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Union")
            .field("sources", &self.sources)
            .field("rule", &self.rule)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

impl<B: Blocks> Union<B> {
    /// A view of these bees.
    pub fn new(sources: impl IntoIterator<Item = Source<B>>, rule: Rule) -> Self {
        Self {
            sources: sources.into_iter().collect(),
            rule,
            hiding: None,
            on_failure: OnFailure::default(),
        }
    }

    /// What to do about sources that fail.
    #[must_use]
    pub fn on_failure(self, on_failure: OnFailure) -> Self {
        Self { on_failure, ..self }
    }

    /// Which entries mean "deleted": a key whose winner is one is not in the view.
    #[must_use]
    pub fn hiding(self, tombstone: impl Fn(&Entry) -> bool + Send + Sync + 'static) -> Self {
        Self {
            hiding: Some(Arc::new(tombstone)),
            ..self
        }
    }

    /// The union of the sources' sub-bees of this name.
    #[must_use]
    pub fn sub(&self, name: impl AsRef<[u8]>) -> Self {
        self.map(|bee| bee.sub(&name))
    }

    /// The union as it is now, unmoved by later appends.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.map(Bee::snapshot)
    }

    fn map(&self, change: impl Fn(&Bee<B>) -> Bee<B>) -> Self {
        let sources = self.sources.iter().map(|source| Source {
            name: source.name.clone(),
            bee: change(&source.bee),
            may_be_empty: source.may_be_empty,
        });
        Self {
            sources: sources.collect(),
            rule: self.rule.clone(),
            hiding: self.hiding.clone(),
            on_failure: self.on_failure,
        }
    }

    /// Number of sources.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none: a view without keys.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The name of a source; empty if there are not so many.
    pub fn name(&self, source: usize) -> &str {
        self.sources.get(source).map_or("", |source| &source.name)
    }

    /// The bee of a source.
    pub fn bee(&self, source: usize) -> Option<&Bee<B>> {
        self.sources.get(source).map(|source| &source.bee)
    }

    /// What the view says about a key. With [`Rule::First`] the sources are asked one after the other until one has it,
    /// otherwise all at once.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Lookup, UnionError> {
        let key = key.as_ref();
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        let mut take = |answer: Result<Option<Found>, UnionError>| match answer {
            Ok(answer) => {
                found.extend(answer);
                Ok(!found.is_empty())
            }
            Err(error) if self.on_failure == OnFailure::Skip => {
                skipped.push(error);
                Ok(false)
            }
            Err(error) => Err(error),
        };
        if matches!(self.rule, Rule::First) {
            for (index, source) in self.sources.iter().enumerate() {
                if take(source.ask(index, key).await)? {
                    break;
                }
            }
        } else {
            let asked = self.sources.iter().enumerate();
            for answer in join_all(asked.map(|(index, source)| source.ask(index, key))).await {
                take(answer)?;
            }
        }
        Ok(Lookup {
            merged: self.settle(found),
            skipped,
        })
    }

    /// Keys in order. Every source's version is fixed when it is first read.
    pub fn range(&self, range: Range) -> UnionCursor<B> {
        UnionCursor::new(self.clone(), range)
    }

    /// The first key of a range. What was skipped is not told: use [`Union::range`] for that.
    pub async fn peek(&self, range: Range) -> Result<Option<Merged>, UnionError> {
        self.range(range.limit(1)).next().await
    }

    /// One key from its entries, which are in the order of the sources; none if there are none, or if it is hidden.
    fn settle(&self, found: Vec<Found>) -> Option<Merged> {
        let mut found = found.into_iter();
        let mut merged = Merged {
            winner: found.next()?,
            others: Vec::new(),
        };
        match &self.rule {
            Rule::First => {}
            Rule::All => merged.others = found.collect(),
            Rule::Newest(newer) => {
                for other in found {
                    if newer(&other, &merged.winner) == Ordering::Greater {
                        merged.winner = other;
                    }
                }
            }
        }
        let hidden = |hiding: &Tombstone| !matches!(self.rule, Rule::All) && hiding(&merged.winner.entry);
        if self.hiding.as_ref().is_some_and(hidden) {
            return None;
        }
        Some(merged)
    }
}
