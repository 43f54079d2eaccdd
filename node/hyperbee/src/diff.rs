//! What changed between two versions of a bee.
//!
//! Two walks side by side; subtrees that both versions share are stepped over unread, so the cost follows the size of the
//! change and not of the bee.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use crate::entry::{BeeError, Entry};
use crate::walk::{Item, Walk};
use crate::{Bee, Blocks, Range};

/// One key whose entry differs. At least one side is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The entry in the newer version; none: deleted.
    pub left: Option<Entry>,
    /// The entry in the older version; none: added.
    pub right: Option<Entry>,
}

/// Reads the changes in key order. An entry counts as changed when another block holds it, even with an equal value.
#[derive(Debug)]
pub struct Diff<B> {
    left: Walk<B>,
    right: Walk<B>,
    end: Bound<Bytes>,
    done: bool,
    left_over: Option<u64>,
}

impl<B: Blocks> Diff<B> {
    pub(crate) fn new(left: &Bee<B>, right: &Bee<B>, range: Range) -> Self {
        let left_over = range.limit_entries();
        let (start, end) = range.stored(left);
        let walk = |bee: &Bee<B>| Walk::new(bee.clone(), start.clone(), false);
        Self {
            left: walk(left),
            right: walk(right),
            end,
            done: false,
            left_over,
        }
    }

    /// The next change, none at the end. After an error the same step can be tried again.
    pub async fn next(&mut self) -> Result<Option<Change>, BeeError> {
        while !self.done && self.left_over != Some(0) {
            let change = match (self.left.peek().await?, self.right.peek().await?) {
                (None, None) => break,
                (left, right) if left == right => {
                    self.left.skip();
                    self.right.skip();
                    continue;
                }
                (Some(Item::Child(_)), Some(Item::Child(_))) => {
                    self.descend_wider().await?;
                    continue;
                }
                (Some(Item::Child(_)), _) => {
                    self.left.descend().await?;
                    continue;
                }
                (_, Some(Item::Child(_))) => {
                    self.right.descend().await?;
                    continue;
                }
                (Some(Item::Key(_)), None) => Change {
                    left: self.left.take_key().await?,
                    right: None,
                },
                (None, Some(Item::Key(_))) => Change {
                    left: None,
                    right: self.right.take_key().await?,
                },
                (Some(Item::Key(left)), Some(Item::Key(right))) => self.take_smaller(left, right).await?,
            };
            self.left_over = self.left_over.map(|left| left - 1);
            return Ok(self.inside(change));
        }
        Ok(None)
    }

    /// All changes left, at most `limit` of them.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<Change>, BeeError> {
        let mut changes = Vec::new();
        while changes.len() < limit {
            let Some(change) = self.next().await? else { break };
            changes.push(change);
        }
        Ok(changes)
    }

    /// Enters the subtree that reaches further, or both: a shared one below is found at the same position only so.
    async fn descend_wider(&mut self) -> Result<(), BeeError> {
        let (left, right) = (self.left.upper_key().await?, self.right.upper_key().await?);
        let order = match (left, right) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(left), Some(right)) => left.cmp(&right),
        };
        if order != Ordering::Less {
            self.left.descend().await?;
        }
        if order == Ordering::Less || order == Ordering::Equal {
            self.right.descend().await?;
        }
        Ok(())
    }

    async fn take_smaller(&mut self, left: u64, right: u64) -> Result<Change, BeeError> {
        let bee = self.left.bee();
        let (left, right) = (bee.block(left).await?, bee.block(right).await?);
        // Nothing is awaited from here on: a dropped step loses no side.
        let order = left.key().cmp(right.key());
        let change = Change {
            left: (order != Ordering::Greater)
                .then(|| self.left.take(&left))
                .transpose()?,
            right: (order != Ordering::Less)
                .then(|| self.right.take(&right))
                .transpose()?,
        };
        Ok(change)
    }

    fn inside(&mut self, change: Change) -> Option<Change> {
        let key = change
            .left
            .as_ref()
            .or(change.right.as_ref())
            .map(|entry| &entry.key);
        let inside = match (key, &self.end) {
            (None, _) => false,
            (_, Bound::Unbounded) => true,
            (Some(key), Bound::Included(end)) => key <= end,
            (Some(key), Bound::Excluded(end)) => key < end,
        };
        self.done = !inside;
        let strip = |entry: Option<Entry>| entry.map(|entry| self.left.bee().strip(entry));
        inside.then(|| Change {
            left: strip(change.left),
            right: strip(change.right),
        })
    }
}
