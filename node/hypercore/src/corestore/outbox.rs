//! What the cores of a store have to say on one connection, until the connection takes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::cell::Shared;
use crate::messages::Message;
use crate::replication::PeerId;

/// A connection stops reading while this much waits to be said on it: a peer can't make us answer faster than it listens.
pub(crate) const OUTBOX_BUDGET_BYTES: usize = 1 << 20;
/// What a peer that does not listen may cost; then its connection is given up. Announcements made meanwhile are merged, so an
/// honest slow peer stays far below.
const OUTBOX_LIMIT_BYTES: usize = 8 << 20;
/// How far back a message is merged with one that waits.
const MERGE_WINDOW: usize = 4;
/// Charged per message besides its variable part.
const MESSAGE_BYTES: usize = 64;

#[derive(Default)]
struct Queue {
    messages: VecDeque<(PeerId, Message)>,
    attach: Vec<Arc<Shared>>,
    serve: Vec<PeerId>,
    bytes: usize,
    overflowed: bool,
}

/// The queue between cores and one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    notify: Notify,
}

impl Outbox {
    pub(crate) fn push(&self, peer: PeerId, message: Message) {
        let mut queue = self.lock();
        if !merge(&mut queue.messages, peer, &message) {
            queue.bytes += size(&message);
            if queue.bytes > OUTBOX_LIMIT_BYTES {
                queue.overflowed = true;
                queue.messages.clear();
                queue.bytes = 0;
            }
            queue.messages.push_back((peer, message));
        }
        drop(queue);
        self.notify.notify_one();
    }

    /// Asks the connection to open a channel for a core.
    pub(crate) fn attach(&self, core: Arc<Shared>) {
        self.lock().attach.push(core);
        self.notify.notify_one();
    }

    pub(crate) fn pop(&self) -> Option<(PeerId, Message)> {
        let mut queue = self.lock();
        let (peer, message) = queue.messages.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(size(&message));
        Some((peer, message))
    }

    pub(crate) fn take_attach(&self) -> Vec<Arc<Shared>> {
        std::mem::take(&mut self.lock().attach)
    }

    /// Tells the connection that something is to be pushed to a peer.
    pub(crate) fn serve(&self, peer: PeerId) {
        let mut queue = self.lock();
        if !queue.serve.contains(&peer) {
            queue.serve.push(peer);
        }
        drop(queue);
        self.notify.notify_one();
    }

    pub(crate) fn take_serve(&self) -> Vec<PeerId> {
        std::mem::take(&mut self.lock().serve)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let queue = self.lock();
        queue.messages.is_empty() && queue.attach.is_empty()
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// Wakes the connection without having anything for it.
    pub(crate) fn nudge(&self) {
        self.notify.notify_one();
    }

    /// Returns when something was added since the last call returned.
    pub(crate) async fn added(&self) {
        self.notify.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing panics while the queue is being changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins a message to one that waits for the same peer and says less: an older Sync, or a Range that it continues.
fn merge(messages: &mut VecDeque<(PeerId, Message)>, to: PeerId, message: &Message) -> bool {
    for (peer, waiting) in messages.iter_mut().rev().take(MERGE_WINDOW) {
        if *peer != to {
            continue;
        }
        match (waiting, message) {
            (Message::Sync(old), Message::Sync(new)) => {
                *old = *new;
                return true;
            }
            (Message::Range(old), Message::Range(new)) if !old.drop && !new.drop => {
                let (old_end, new_end) = (
                    old.start.saturating_add(old.length),
                    new.start.saturating_add(new.length),
                );
                if new.start > old_end || old.start > new_end {
                    return false;
                }
                old.start = old.start.min(new.start);
                old.length = old_end.max(new_end) - old.start;
                return true;
            }
            // Announcements do not depend on the order between these two; anything else does.
            (Message::Sync(_), Message::Range(_)) | (Message::Range(_), Message::Sync(_)) => {}
            _ => return false,
        }
    }
    false
}

fn size(message: &Message) -> usize {
    MESSAGE_BYTES
        + match message {
            Message::Bitfield(bitfield) => 4 * bitfield.words.len(),
            Message::Data(data) => data.proof.size_hint(),
            Message::Extension(extension) => extension.name.len() + extension.payload.len(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Range, Sync};

    fn range(start: u64, length: u64) -> Message {
        Message::Range(Range {
            drop: false,
            start,
            length,
        })
    }

    fn sync(length: u64) -> Message {
        Message::Sync(Sync {
            length,
            ..Sync::default()
        })
    }

    #[test]
    fn a_thousand_appends_while_a_peer_is_slow_are_two_messages() {
        let outbox = Outbox::default();
        for length in 1..=1000 {
            outbox.push(PeerId(1), range(0, length));
            outbox.push(PeerId(1), sync(length));
        }
        assert_eq!(outbox.pop(), Some((PeerId(1), range(0, 1000))));
        assert_eq!(outbox.pop(), Some((PeerId(1), sync(1000))));
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn what_is_said_to_one_peer_is_not_merged_into_what_is_said_to_another_nor_over_a_drop() {
        let outbox = Outbox::default();
        let drop = Message::Range(Range {
            drop: true,
            start: 3,
            length: 1,
        });
        for (peer, message) in [
            (1, range(0, 5)),
            (2, range(5, 1)),
            (1, drop.clone()),
            (1, range(3, 1)),
        ] {
            outbox.push(PeerId(peer), message);
        }
        let all: Vec<_> = std::iter::from_fn(|| outbox.pop())
            .map(|(_, message)| message)
            .collect();
        assert_eq!(all, [range(0, 5), range(5, 1), drop, range(3, 1)]);
    }

    #[test]
    fn a_peer_that_never_listens_costs_a_bounded_amount() {
        let outbox = Outbox::default();
        for start in 0..1_000_000 {
            outbox.push(PeerId(1), range(3 * start, 1));
            assert!(outbox.bytes() <= OUTBOX_LIMIT_BYTES);
        }
        assert!(outbox.overflowed());
    }
}
