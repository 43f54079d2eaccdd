//! How long a restore waits for a store that fails.

use std::future::Future;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::store::StoreError;

/// How often a failed request is tried again, and after which pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries in all.
    pub tries: u32,
    /// The first pause; each further one is twice as long.
    pub first_pause: Duration,
}

impl Default for Patience {
    /// Six tries over about half a minute, on top of the few that a store makes itself: a restart of the store is waited for, a
    /// longer outage is reported, and the restore can be started again without loss.
    fn default() -> Self {
        Self {
            tries: 6,
            first_pause: Duration::from_secs(1),
        }
    }
}

impl Patience {
    /// Does it again while its error may pass.
    pub(crate) async fn wait<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = self.first_pause;
        let mut tries = 1;
        loop {
            match work().await {
                Err(error) if error.kind == ErrorKind::Retry && tries < self.tries => {
                    tracing::debug!(%error, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    tries += 1;
                }
                done => return done,
            }
        }
    }
}
