//! One operator works at a time: a Lease that is truly compare-and-swap, and fails stop.
//!
//! Every write of the Lease carries the resource version that was read, so of two operators that want it at once the
//! API server lets one win. Expiry is judged by this process's own monotonic clock, from when it last saw the Lease
//! change, so clocks that differ between nodes do not matter. A holder that cannot renew within [`RENEW_DEADLINE`]
//! stops all its work at once, well before another may take over at [`LEASE_DURATION`].
//!
//! `decision` is pure; this file is its driver. It does not fence writes that are already on their way when the
//! deadline passes: those are server-side applies of the same field manager, which the next leader repairs.

mod decision;

use decision::{Decision, Held, decide};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a lease that is not renewed is respected by others.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long the holder tries to renew before it stops working.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews, and others look.
pub const RENEW_PERIOD: Duration = Duration::from_secs(3);
/// Limit of one request, so that one that hangs does not use up the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The holder could not renew in time, or another took it.
    #[error("lost the lease {name}: {why}")]
    Lost {
        /// The Lease's name.
        name: String,
        /// What happened.
        why: String,
    },
}

/// A contender for a Lease.
pub struct Contender {
    api: Api<Lease>,
    name: String,
    identity: String,
    now: fn() -> Timestamp,
}

impl Contender {
    /// A contender for the Lease `name` in `namespace`; `identity` is unique among contenders.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, now: fn() -> Timestamp) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.into(),
            identity: identity.into(),
            now,
        }
    }

    /// Waits until this contender holds the Lease, or until `stop`: then `None`.
    pub async fn acquire(&self, stop: &CancellationToken) -> Option<Holding> {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return Some(Holding {
                        lease,
                        renewed: Instant::now(),
                    });
                }
                Ok(None) => {}
                Err(why) => tracing::warn!(lease = self.name, why, "failed to get the lease"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(RENEW_PERIOD) => {}
            }
        }
    }

    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> Result<Option<Lease>, String> {
        let current = limited(self.api.get_opt(&self.name)).await?;
        let unchanged = current
            .as_ref()
            .map_or(Duration::ZERO, |lease| observe(lease, seen));
        let held = current.as_ref().map(|lease| Held::read(lease, unchanged));
        let written = match (decide(held.as_ref(), &self.identity, LEASE_DURATION), current) {
            (Decision::Wait, _) => return Ok(None),
            (Decision::Create, _) => {
                let lease = self.lease(None, 0, true);
                limited(self.api.create(&PostParams::default(), &lease)).await
            }
            (Decision::Take { transitions }, current) => {
                let lease = self.lease(current, transitions, true);
                limited(self.api.replace(&self.name, &PostParams::default(), &lease)).await
            }
        };
        written.map(Some)
    }

    /// Renews until `stop`, then gives the Lease back. Ends with an error when it is lost.
    pub async fn hold(&self, mut holding: Holding, stop: &CancellationToken) -> Result<(), LeaseError> {
        loop {
            let deadline = holding.renewed + RENEW_DEADLINE;
            tokio::select! {
                () = stop.cancelled() => {
                    self.release(holding).await;
                    return Ok(());
                }
                () = tokio::time::sleep_until(deadline.min(Instant::now() + RENEW_PERIOD)) => {}
            }
            let lost = |why: String| LeaseError::Lost {
                name: self.name.clone(),
                why,
            };
            let started = Instant::now();
            match tokio::time::timeout_at(deadline, self.renew(&holding)).await {
                Ok(Ok(lease)) => {
                    holding = Holding {
                        lease,
                        renewed: started,
                    }
                }
                Ok(Err(Renewal::Taken)) => return Err(lost("another operator holds it".into())),
                Ok(Err(Renewal::Failed(why))) if Instant::now() < deadline => {
                    tracing::warn!(lease = self.name, why, "failed to renew the lease");
                }
                Ok(Err(Renewal::Failed(why))) => return Err(lost(why)),
                Err(_) => return Err(lost("renewing took too long".into())),
            }
        }
    }

    async fn renew(&self, holding: &Holding) -> Result<Lease, Renewal> {
        let transitions = holding
            .lease
            .spec
            .as_ref()
            .and_then(|spec| spec.lease_transitions)
            .unwrap_or(0);
        let lease = self.lease(Some(holding.lease.clone()), transitions, false);
        match limited(self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(lease) => Ok(lease),
            // The write may have arrived and only its answer been lost: what is there decides.
            Err(why) => match limited(self.api.get_opt(&self.name)).await {
                Ok(Some(lease)) if Held::read(&lease, Duration::ZERO).is_by(&self.identity) => {
                    let again = self.lease(Some(lease), transitions, false);
                    limited(self.api.replace(&self.name, &PostParams::default(), &again))
                        .await
                        .map_err(Renewal::Failed)
                }
                Ok(_) => Err(Renewal::Taken),
                Err(_) => Err(Renewal::Failed(why)),
            },
        }
    }

    async fn release(&self, holding: Holding) {
        let mut lease = holding.lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime((self.now)()));
        }
        // Best effort: who cannot release lets it expire.
        if let Err(why) = limited(self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            tracing::debug!(lease = self.name, why, "failed to release the lease");
        }
    }

    fn lease(&self, current: Option<Lease>, transitions: i32, acquired: bool) -> Lease {
        let now = MicroTime((self.now)());
        let mut lease = current.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if acquired {
                Some(now.clone())
            } else {
                before.acquire_time
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease
    }
}

/// A Lease that is held, as it was last written.
pub struct Holding {
    lease: Lease,
    renewed: Instant,
}

enum Renewal {
    Taken,
    Failed(String),
}

/// How long the lease has not changed, as far as this process saw.
fn observe(lease: &Lease, seen: &mut Option<(String, Instant)>) -> Duration {
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    match seen {
        Some((before, since)) if *before == version => since.elapsed(),
        _ => {
            *seen = Some((version, Instant::now()));
            Duration::ZERO
        }
    }
}

async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
