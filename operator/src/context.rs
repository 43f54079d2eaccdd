//! What every reconcile works with, and the errors it may end with.

use crate::apply::Server;
use crate::node_client::NodeError;
use crate::telemetry::Metrics;
use cumulet_api::ArchiveSpec;
use cumulet_crds::{DatArchive, PersonalCloud, PersonalCloudSpec};
use cumulet_plan::settings::Settings;
use jiff::Timestamp;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Limit of one reconcile: a dozen requests to the API server and one round to the replicas take far less.
pub const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);
/// How soon a reconcile that failed is tried again.
pub const RETRY: Duration = Duration::from_secs(5);
/// Wake-ups that wait for the other controller. More are dropped: both controllers look again by themselves.
pub const WAKE_UPS: usize = 256;

/// What every reconcile works with.
pub struct Context {
    /// Reads.
    pub client: Client,
    /// Writes.
    pub server: Server,
    /// What all clouds share.
    pub settings: Settings,
    /// The cloud that is made on demand.
    pub default_cloud: PersonalCloudSpec,
    /// All clouds, as last seen.
    pub clouds: Store<PersonalCloud>,
    /// All archives, as last seen.
    pub archives: Store<DatArchive>,
    /// Wakes a cloud's reconcile.
    pub wake_cloud: mpsc::Sender<ObjectRef<PersonalCloud>>,
    /// Wakes an archive's reconcile.
    pub wake_archive: mpsc::Sender<ObjectRef<DatArchive>>,
    /// What was last asked of which container.
    pub pins: Pins,
    /// TCP port of the replicas' API.
    pub api_port: u16,
    /// The clock.
    pub now: fn() -> Timestamp,
    /// Counters.
    pub metrics: Metrics,
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server said no, or nothing.
    #[error("failed to {verb} {what}: {source}")]
    Server {
        /// `read`, `apply`, …
        verb: &'static str,
        /// Kind and name.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The replicas could not be told to forget an archive.
    #[error("failed to take back the pin from {replica}: {source}")]
    Unpin {
        /// The pod.
        replica: String,
        /// Its answer.
        #[source]
        source: NodeError,
    },
    /// The replicas cannot be talked to yet.
    #[error("failed to take back the pin: {0}")]
    NotNow(String),
    /// Too slow.
    #[error("no end within {} s", RECONCILE_TIMEOUT.as_secs())]
    Timeout,
}

impl ReconcileError {
    /// An error of the API server.
    pub fn server(verb: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        Self::Server {
            verb,
            what: what.into(),
            source: Box::new(source),
        }
    }
}

/// What was last asked of each container, so that only changes are asked again.
///
/// A container that restarted has another id, and is asked anew: whether it kept the pin is its own business.
#[derive(Debug, Default)]
pub struct Pins(Mutex<HashMap<(String, String), ArchiveSpec>>);

impl Pins {
    /// Whether `container` was asked for exactly this for the archive with `uid`.
    pub fn has(&self, uid: &str, container: &str, pin: &ArchiveSpec) -> bool {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(&(uid.to_owned(), container.to_owned())) == Some(pin)
    }

    /// Remembers what a container accepted.
    pub fn accepted(&self, uid: &str, container: &str, pin: &ArchiveSpec) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.insert((uid.to_owned(), container.to_owned()), pin.clone());
    }

    /// Forgets what was asked of containers other than `containers` for the archive with `uid`.
    pub fn keep_only(&self, uid: &str, containers: &[String]) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|(archive, container), _| archive != uid || containers.contains(container));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_container_or_a_changed_wish_is_asked_anew() {
        let pins = Pins::default();
        let pin = ArchiveSpec::default();
        pins.accepted("archive", "container-1", &pin);
        assert!(pins.has("archive", "container-1", &pin));
        assert!(!pins.has("archive", "container-2", &pin));
        assert!(!pins.has(
            "archive",
            "container-1",
            &ArchiveSpec {
                gateway: true,
                ..pin.clone()
            }
        ));
        pins.accepted("other", "container-1", &pin);
        pins.keep_only("archive", &[]);
        assert!(!pins.has("archive", "container-1", &pin) && pins.has("other", "container-1", &pin));
    }
}
