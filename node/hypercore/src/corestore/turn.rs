//! A lock that is held for microseconds by many, most of the time.
//!
//! Whoever finds it free takes it, also when others wait. A lock that is handed to the one who has waited longest stays idle
//! until he is awake, and those who come meanwhile have to wait too: with sixty-four readers of one core all of them sleep
//! before every read. The price is that nobody knows how long he waits; he is woken again every time it gets free.

use std::ops::{Deref, DerefMut};
use std::pin::pin;

use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::task::yield_now;

/// How often somebody tries to take it before he goes to sleep: waking up costs more.
const TRIES: usize = 32;
/// How often he lets others go first, which may be the one who has it, and tries again.
const YIELDS: usize = 3;

/// What it guards. Not to be held while waiting for anything.
#[derive(Debug, Default)]
pub(crate) struct Turn<T> {
    // Only ever tried.
    inner: Mutex<T>,
    freed: Notify,
}

/// The right to use what is guarded, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    inner: MutexGuard<'a, T>,
    // Dropped after the guard: those who are woken find it free.
    _wake: Wake<'a>,
}

#[derive(Debug)]
struct Wake<'a>(&'a Notify);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<T> Turn<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            inner: Mutex::new(value),
            freed: Notify::new(),
        }
    }

    /// Waits for it.
    pub(crate) async fn lock(&self) -> Guard<'_, T> {
        loop {
            for _ in 0..YIELDS {
                for _ in 0..TRIES {
                    if let Some(guard) = self.try_lock() {
                        return guard;
                    }
                    std::hint::spin_loop();
                }
                yield_now().await;
            }
            let mut freed = pin!(self.freed.notified());
            // From here on nobody frees it without telling us (or somebody who waits, too); so a last try is not one too few.
            freed.as_mut().enable();
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            freed.await;
        }
    }

    fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = self.inner.try_lock().ok()?;
        Some(Guard {
            inner,
            _wake: Wake(&self.freed),
        })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::Turn;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn everybody_gets_it_also_when_some_who_wait_give_up() {
        let (turn, mut tasks) = (Arc::new(Turn::new(0_u64)), JoinSet::new());
        for lane in 0..48 {
            let turn = turn.clone();
            tasks.spawn(async move {
                for _ in 0..500 {
                    if lane % 4 == 0 {
                        // Gives up at once if it has to wait.
                        let _ = tokio::time::timeout(Duration::ZERO, turn.lock()).await;
                    }
                    let mut count = turn.lock().await;
                    let before = *count;
                    if lane % 8 == 0 {
                        // Longer than anybody tries.
                        std::thread::sleep(Duration::from_micros(5));
                    }
                    *count = before + 1;
                }
            });
        }
        let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(Duration::from_mins(1), all).await.unwrap();
        assert_eq!(*turn.lock().await, 48 * 500);
    }
}
