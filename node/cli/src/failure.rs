//! What a command says when it can't: one sentence, a hint, and an exit code that scripts can rely on.

use std::error::Error;
use std::fmt::Display;

use cumulet_hyperbee::union::UnionError;
use cumulet_hyperbee::{BeeError, BlocksError, ErrorKind};
use cumulet_hypercore::corestore::CorestoreError;
use cumulet_hypercore::storage::{self, StorageError};
use cumulet_hyperdrive::mirror::MirrorError;
use cumulet_hyperdrive::{BlobError, DriveError};
use serde::Serialize;

/// The exit codes, as `docs/cli.md` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such name, core, key or file.
    NotFound = 3,
    /// Stored bytes are not what was signed.
    Damaged = 4,
    /// Blocks are not here, and no peer gave them in time.
    Unavailable = 5,
    /// Another process has the store open.
    InUse = 6,
    /// Ctrl-C or a request to end.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
}

/// What a command gives back.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// A failure as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct FailureJson<'a> {
    error: &'a str,
    hint: Option<&'a str>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    /// Adds what the user can do; the first hint stays.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    pub(crate) fn code(&self) -> u8 {
        self.kind as u8
    }

    pub(crate) fn as_json(&self) -> FailureJson<'_> {
        FailureJson {
            error: &self.text,
            hint: self.hint.as_deref(),
            code: self.code(),
        }
    }
}

/// Adds to a failure what was being done.
pub(crate) trait Context<T> {
    /// Puts `text` before the failure's own.
    fn context(self, text: impl Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for std::result::Result<T, E> {
    fn context(self, text: impl Display) -> Result<T> {
        self.map_err(|error| {
            let failure: Failure = error.into();
            Failure {
                text: format!("{text}: {}", failure.text),
                ..failure
            }
        })
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = String::new();
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        let mut kind = None;
        while let Some(error) = next {
            kind = kind.or_else(|| kind_of(error));
            let part = error.to_string();
            // A transparent error says what its source says.
            if !text.ends_with(&part) {
                let colon = if text.is_empty() { "" } else { ": " };
                text = format!("{text}{colon}{part}");
            }
            next = error.source();
        }
        let kind = kind.unwrap_or(Kind::Failed);
        let failure = Self::new(kind, text);
        match kind {
            Kind::InUse => failure.hint(IN_USE_HINT),
            Kind::Unavailable => failure.hint(UNAVAILABLE_HINT),
            Kind::Damaged => failure.hint("`cumulet core verify` names every damaged block"),
            _ => failure,
        }
    }
}

/// What to do about a store that somebody else has open.
pub(crate) const IN_USE_HINT: &str =
    "end the node or the other `cumulet` that uses it, or choose another one with --store";
const UNAVAILABLE_HINT: &str =
    "name a peer that has it with --peer HOST:PORT, wait longer with --timeout, or leave out --offline";

fn kind_of(error: &(dyn Error + 'static)) -> Option<Kind> {
    let of_archive = |kind| match kind {
        ErrorKind::Damaged => Some(Kind::Damaged),
        ErrorKind::Unavailable => Some(Kind::Unavailable),
        ErrorKind::Invalid => Some(Kind::Failed),
        // What failed is further down.
        ErrorKind::Failed => None,
    };
    if let Some(error) = error.downcast_ref::<StorageError>() {
        (error.kind() == storage::ErrorKind::Damaged).then_some(Kind::Damaged)
    } else if let Some(CorestoreError::InUse { .. }) = error.downcast_ref() {
        Some(Kind::InUse)
    } else if let Some(error) = error.downcast_ref::<BlocksError>() {
        of_archive(ErrorKind::of_blocks(error))
    } else if let Some(error) = error.downcast_ref::<BeeError>() {
        of_archive(error.kind())
    } else if let Some(error) = error.downcast_ref::<UnionError>() {
        of_archive(error.kind())
    } else if let Some(error) = error.downcast_ref::<DriveError>() {
        of_archive(error.kind())
    } else if let Some(error) = error.downcast_ref::<BlobError>() {
        of_archive(error.kind())
    } else if let Some(MirrorError::Drive(error)) = error.downcast_ref() {
        of_archive(error.kind())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_block_below_three_layers_is_told_as_damage_with_its_file() {
        let disk = StorageError::Damaged {
            what: "a block",
            path: "/x/head.log".into(),
            offset: 7,
        };
        let block = BlocksError::Failed {
            index: 3,
            source: Box::new(disk),
        };
        let failure = Failure::from(DriveError::Bee(BeeError::Block {
            seq: 3,
            source: block,
        }));
        assert_eq!(failure.kind, Kind::Damaged);
        assert_eq!(
            failure.text,
            "failed to read block 3: damaged: a block in /x/head.log at offset 7"
        );
        assert!(failure.hint.is_some());
    }

    #[test]
    fn a_block_that_nobody_has_is_unavailable_and_no_damage() {
        let failure = Failure::from(BlocksError::NotAvailable { index: 3 });
        assert_eq!(failure.kind, Kind::Unavailable);
    }
}
