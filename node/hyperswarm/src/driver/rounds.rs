//! How often a topic was looked up, for those who wait for the next time. A watch channel of tokio's would do, and takes several hundred
//! bytes, for each of thousands of topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The topic was left.
const LEFT: u64 = u64::MAX;

#[derive(Debug, Default)]
struct State {
    count: AtomicU64,
    counted: Notify,
}

/// Counts; those who wait give up when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Rounds(Arc<State>);

impl Rounds {
    pub(super) fn count_one(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.counted.notify_waiters();
    }

    pub(super) fn after_now(&self) -> SinceJoin {
        SinceJoin {
            joined_at: self.0.count.load(Ordering::Acquire),
            state: Arc::clone(&self.0),
        }
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.0.count.store(LEFT, Ordering::Release);
        self.0.counted.notify_waiters();
    }
}

/// The lookups after one join.
#[derive(Debug)]
pub(super) struct SinceJoin {
    state: Arc<State>,
    joined_at: u64,
}

impl SinceJoin {
    /// Waits until one has ended, or the topic was left.
    pub(super) async fn first(&self) {
        loop {
            // It hears of all that comes from here on, also before it is waited for.
            let counted = self.state.counted.notified();
            if self.state.count.load(Ordering::Acquire) > self.joined_at {
                return;
            }
            counted.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_the_next_round_of_one_that_was_meanwhile_and_of_the_end() {
        let rounds = Rounds::default();
        rounds.count_one();
        let early = rounds.after_now();
        rounds.count_one();
        early.first().await;
        let waiting = rounds.after_now();
        tokio::join!(waiting.first(), async {
            tokio::task::yield_now().await;
            rounds.count_one();
        });
        let left = rounds.after_now();
        tokio::join!(left.first(), async {
            tokio::task::yield_now().await;
            drop(rounds);
        });
        left.first().await;
    }
}
