//! The merge of the sources' ranges.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use bytes::Bytes;
use futures::future::join_all;

use super::{Found, Merged, OnFailure, Union, UnionError};
use crate::entry::Entry;
use crate::{Blocks, Cursor, Range};

/// Reads a [`Union`] key by key.
///
/// After an error the same step can be tried again. A step whose future is dropped has yielded nothing.
#[derive(Debug)]
pub struct UnionCursor<B> {
    union: Union<B>,
    /// The range of every source: without the limit, which counts merged keys.
    range: Range,
    left: Option<u64>,
    slots: Vec<Slot<B>>,
    /// Next key of every source that has one.
    heap: BinaryHeap<Reverse<Head>>,
    skipped: Vec<UnionError>,
}

/// Where one source stands.
#[derive(Debug)]
struct Slot<B> {
    /// None until the source is first read.
    cursor: Option<Cursor<B>>,
    head: Option<Entry>,
    /// Whether the head is in the heap.
    queued: bool,
    done: bool,
}

impl<B: Blocks> Slot<B> {
    async fn fill(&mut self, union: &Union<B>, index: usize, range: &Range) -> Result<(), UnionError> {
        let Some(source) = union.sources.get(index) else {
            return Ok(());
        };
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            none => none.insert(source.opened(index)?.range(range.clone())),
        };
        let head = cursor.next().await;
        self.head = head.map_err(|error| source.failed(index, error))?;
        self.done = self.head.is_none();
        Ok(())
    }
}

/// A key in the order of the merge; of equal ones the first source's comes first.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    key: Bytes,
    source: usize,
    backwards: bool,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = self.key.cmp(&other.key);
        let keys = if self.backwards { keys.reverse() } else { keys };
        keys.then(self.source.cmp(&other.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<B: Blocks> UnionCursor<B> {
    pub(super) fn new(union: Union<B>, range: Range) -> Self {
        let slot = |_| Slot {
            cursor: None,
            head: None,
            queued: false,
            done: false,
        };
        Self {
            slots: (0..union.len()).map(slot).collect(),
            left: range.limit_entries(),
            range: range.unlimited(),
            heap: BinaryHeap::new(),
            skipped: Vec::new(),
            union,
        }
    }

    /// The next key, none at the end.
    pub async fn next(&mut self) -> Result<Option<Merged>, UnionError> {
        while self.left != Some(0) {
            self.fill().await?;
            // Nothing is awaited from here on.
            let Some(Reverse(first)) = self.heap.pop() else {
                break;
            };
            let mut found = Vec::new();
            self.take(first.source, &mut found);
            while self
                .heap
                .peek()
                .is_some_and(|Reverse(head)| head.key == first.key)
            {
                if let Some(Reverse(equal)) = self.heap.pop() {
                    self.take(equal.source, &mut found);
                }
            }
            if let Some(merged) = self.union.settle(found) {
                self.left = self.left.map(|left| left - 1);
                return Ok(Some(merged));
            }
        }
        Ok(None)
    }

    /// The sources left out so far, with [`OnFailure::Skip`].
    pub fn skipped(&self) -> &[UnionError] {
        &self.skipped
    }

    /// All keys left, at most `limit` of them.
    pub async fn collect(&mut self, limit: usize) -> Result<Vec<Merged>, UnionError> {
        let mut all = Vec::new();
        while all.len() < limit {
            let Some(merged) = self.next().await? else { break };
            all.push(merged);
        }
        Ok(all)
    }

    fn take(&mut self, source: usize, found: &mut Vec<Found>) {
        if let Some(slot) = self.slots.get_mut(source) {
            slot.queued = false;
            let entry = slot.head.take();
            found.extend(entry.map(|entry| Found { source, entry }));
        }
    }

    /// Reads the next entry of every source that lacks one, side by side. Heads stay if this is dropped half way.
    async fn fill(&mut self) -> Result<(), UnionError> {
        let (union, range) = (&self.union, &self.range);
        let lacking = self.slots.iter_mut().enumerate();
        let mut lacking: Vec<_> = lacking
            .filter(|(_, slot)| slot.head.is_none() && !slot.done)
            .collect();
        // The usual case is one source, without company and without the list of futures.
        let results = match lacking.as_mut_slice() {
            [(index, slot)] => vec![slot.fill(union, *index, range).await],
            several => {
                join_all(
                    several
                        .iter_mut()
                        .map(|(index, slot)| slot.fill(union, *index, range)),
                )
                .await
            }
        };
        let mut failure = None;
        for error in results.into_iter().filter_map(Result::err) {
            if self.union.on_failure == OnFailure::Fail {
                failure.get_or_insert(error);
            } else {
                if let Some(slot) = self.slots.get_mut(error.source_index()) {
                    slot.done = true;
                }
                self.skipped.push(error);
            }
        }
        for (source, slot) in self.slots.iter_mut().enumerate() {
            if let Some(entry) = slot.head.as_ref().filter(|_| !slot.queued) {
                self.heap.push(Reverse(Head {
                    key: entry.key.clone(),
                    source,
                    backwards: self.range.is_reverse(),
                }));
                slot.queued = true;
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
