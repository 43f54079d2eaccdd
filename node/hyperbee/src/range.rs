//! Entries in key order.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, unfold};

use crate::entry::{BeeError, Entry};
use crate::walk::{Item, Walk};
use crate::{Bee, Blocks};

/// Which keys, in which direction, how many. Keys are compared bytewise, the shorter first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    lower: Bound<Bytes>,
    upper: Bound<Bytes>,
    reverse: bool,
    limit: Option<u64>,
}

impl Default for Range {
    fn default() -> Self {
        Self::all()
    }
}

impl Range {
    /// All keys, ascending.
    pub const fn all() -> Self {
        Self {
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
            reverse: false,
            limit: None,
        }
    }

    /// Keys greater than this.
    #[must_use]
    pub fn gt(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            lower: Bound::Excluded(Bytes::copy_from_slice(key.as_ref())),
            ..self
        }
    }

    /// This key and greater ones.
    #[must_use]
    pub fn gte(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            lower: Bound::Included(Bytes::copy_from_slice(key.as_ref())),
            ..self
        }
    }

    /// Keys less than this.
    #[must_use]
    pub fn lt(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            upper: Bound::Excluded(Bytes::copy_from_slice(key.as_ref())),
            ..self
        }
    }

    /// This key and lesser ones.
    #[must_use]
    pub fn lte(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            upper: Bound::Included(Bytes::copy_from_slice(key.as_ref())),
            ..self
        }
    }

    /// From the greatest key down.
    #[must_use]
    pub fn reverse(self) -> Self {
        Self {
            reverse: true,
            ..self
        }
    }

    /// At most so many entries.
    #[must_use]
    pub fn limit(self, entries: u64) -> Self {
        Self {
            limit: Some(entries),
            ..self
        }
    }

    pub(crate) fn unlimited(self) -> Self {
        Self { limit: None, ..self }
    }

    pub(crate) fn is_reverse(&self) -> bool {
        self.reverse
    }

    pub(crate) fn limit_entries(&self) -> Option<u64> {
        self.limit
    }

    /// The bounds as stored keys of a view. A sub-bee without bounds begins *after* `prefix 00` and ends before the
    /// prefix with its last byte raised: the JS package leaves out a key that is one zero byte or empty, and so do we.
    pub(crate) fn stored<B: Blocks>(self, bee: &Bee<B>) -> (Bound<Bytes>, Bound<Bytes>) {
        let (mut lower, mut upper) = (
            self.lower.map(|key| bee.prefixed(&key)),
            self.upper.map(|key| bee.prefixed(&key)),
        );
        if !bee.prefix().is_empty() {
            if lower == Bound::Unbounded {
                lower = Bound::Excluded(bee.prefixed(&[0]));
            }
            if upper == Bound::Unbounded {
                upper = raised(bee.prefix()).map_or(Bound::Unbounded, Bound::Excluded);
            }
        }
        (lower, upper)
    }
}

/// The least key greater than all that begin with `prefix`; none if there is none (all bytes are 255).
fn raised(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut key = BytesMut::from(prefix.get(..=last)?);
    if let Some(byte) = key.last_mut() {
        *byte += 1;
    }
    Some(key.freeze())
}

/// Reads a [`Range`] entry by entry.
///
/// After an error the same step can be tried again (a block may arrive later). A step whose future is dropped has
/// yielded nothing.
#[derive(Debug)]
pub struct Cursor<B> {
    walk: Walk<B>,
    end: Bound<Bytes>,
    reverse: bool,
    left: Option<u64>,
    /// Whether the walk has entered a node whose blocks will be read soon.
    fetch: bool,
}

impl<B: Blocks> Cursor<B> {
    pub(crate) fn new(bee: &Bee<B>, range: Range) -> Self {
        let (reverse, left) = (range.reverse, range.limit);
        let (lower, upper) = range.stored(bee);
        let (start, end) = if reverse { (upper, lower) } else { (lower, upper) };
        Self {
            walk: Walk::new(bee.clone(), start, reverse),
            end,
            reverse,
            left,
            fetch: left.is_none(),
        }
    }

    /// The next entry, none at the end.
    pub async fn next(&mut self) -> Result<Option<Entry>, BeeError> {
        while self.left != Some(0) {
            if self.fetch {
                self.walk.fetch_top().await;
                self.fetch = false;
            }
            let entry = match self.walk.peek().await? {
                None => break,
                Some(Item::Child(_)) => {
                    self.walk.descend().await?;
                    self.fetch = self.left.is_none();
                    continue;
                }
                Some(Item::Key(_)) => self.walk.take_key().await?,
            };
            let Some(entry) = entry else { break };
            if self.beyond_end(&entry.key) {
                break;
            }
            self.left = self.left.map(|left| left - 1);
            return Ok(Some(self.walk.bee().strip(entry)));
        }
        self.left = Some(0);
        Ok(None)
    }

    /// The entries as a stream, which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, BeeError>> + Send
    where
        B: 'static,
    {
        unfold(Some(self), |cursor| async {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(Some(entry)) => Some((Ok(entry), Some(cursor))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// All entries left, at most `limit` of them.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<Entry>, BeeError> {
        let mut entries = Vec::new();
        while entries.len() < limit {
            let Some(entry) = self.next().await? else { break };
            entries.push(entry);
        }
        Ok(entries)
    }

    fn beyond_end(&self, key: &Bytes) -> bool {
        match &self.end {
            Bound::Unbounded => false,
            Bound::Included(end) => {
                if self.reverse {
                    key < end
                } else {
                    key > end
                }
            }
            Bound::Excluded(end) => {
                if self.reverse {
                    key <= end
                } else {
                    key >= end
                }
            }
        }
    }
}
