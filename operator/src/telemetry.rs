//! Metrics: one struct, every one of them incremented, labels from closed lists.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Labels of a reconcile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// `PersonalCloud` or `DatArchive`.
    pub kind: &'static str,
    /// `ok`, `error` or `timeout`.
    pub result: &'static str,
}

/// Labels of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// The Kubernetes kind.
    pub kind: String,
    /// `apply`, `status`, `create`, `delete`.
    pub verb: &'static str,
}

/// Labels of a request to a replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NodeLabels {
    /// `ok`, `refused` or `unreachable`.
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Everything that is counted.
#[derive(Debug, Clone)]
pub struct Metrics {
    reconciles: Family<ReconcileLabels, Counter>,
    durations: Family<KindLabel, Histogram, fn() -> Histogram>,
    writes: Family<WriteLabels, Counter>,
    node_requests: Family<NodeLabels, Counter>,
    leader: Gauge,
}

impl Metrics {
    /// Metrics that are shown by `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            // 5 ms to 40 s; a reconcile is cut off at 30 s.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 14))),
            writes: Family::default(),
            node_requests: Family::default(),
            leader: Gauge::default(),
        };
        registry.register(
            "cumulet_operator_reconciles",
            "Reconciles by kind and result",
            metrics.reconciles.clone(),
        );
        let help = "How long reconciles take";
        registry.register_with_unit(
            "cumulet_operator_reconcile_duration",
            help,
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "cumulet_operator_writes",
            "Writes to the API server",
            metrics.writes.clone(),
        );
        registry.register(
            "cumulet_operator_node_requests",
            "Requests to replicas",
            metrics.node_requests.clone(),
        );
        registry.register(
            "cumulet_operator_leader",
            "1 if this operator holds the Lease",
            metrics.leader.clone(),
        );
        metrics
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciles
            .get_or_create(&ReconcileLabels { kind, result })
            .inc();
        self.durations
            .get_or_create(&KindLabel { kind })
            .observe(took.as_secs_f64());
    }

    /// Counts a write to the API server.
    pub fn wrote(&self, kind: &str, verb: &'static str) {
        self.writes
            .get_or_create(&WriteLabels {
                kind: kind.to_owned(),
                verb,
            })
            .inc();
    }

    /// Counts a request to a replica.
    pub fn asked_node(&self, result: &'static str) {
        self.node_requests.get_or_create(&NodeLabels { result }).inc();
    }

    /// Shows whether this operator holds the Lease.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}
