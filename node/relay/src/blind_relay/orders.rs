//! What a control connection's task is told: answers for its peer, and that it is to end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Pair;

/// Answers on their way to one connection. A peer has at most 16 requests waiting; one that reads none of their answers goes.
const MAX_ANSWERS: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    answers: VecDeque<Pair>,
    is_closed: bool,
}

/// The orders of one connection, for one task that takes them. A channel of tokio's would do, but makes room for 32 as soon as it
/// exists, and most connections are told one thing in their life.
#[derive(Debug, Default)]
pub(super) struct Orders {
    queue: Mutex<Queue>,
    news: Notify,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer over; false if too many wait.
    pub(super) fn answer(&self, pair: Pair) -> bool {
        let mut queue = self.lock();
        let has_room = queue.answers.len() < MAX_ANSWERS;
        if has_room {
            queue.answers.push_back(pair);
            self.news.notify_one();
        }
        has_room
    }

    /// Ends the connection, once it has the answers before.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.news.notify_one();
    }

    /// The next answer; `None`: the connection is to end. Cancel safe.
    pub(super) async fn next(&self) -> Option<Pair> {
        loop {
            {
                let mut queue = self.lock();
                if let Some(pair) = queue.answers.pop_front() {
                    if queue.answers.is_empty() {
                        queue.answers = VecDeque::new();
                    }
                    return Some(pair);
                }
                if queue.is_closed {
                    return None;
                }
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: u64) -> Pair {
        Pair {
            is_initiator: true,
            token: [0; 32],
            id,
            seq: 0,
        }
    }

    #[tokio::test]
    async fn answers_come_in_order_before_the_end_and_only_so_many_wait() {
        let orders = Orders::default();
        let taken = (0..100).filter(|id| orders.answer(pair(*id))).count();
        assert_eq!(taken, MAX_ANSWERS);
        orders.close();
        for id in 0..MAX_ANSWERS as u64 {
            assert_eq!(orders.next().await.map(|pair| pair.id), Some(id));
        }
        assert!(orders.next().await.is_none() && orders.next().await.is_none());
    }
}
