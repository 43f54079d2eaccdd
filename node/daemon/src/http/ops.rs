//! Health and metrics, for the kubelet and for Prometheus: `/livez`, `/readyz`, `/metrics`.
//!
//! Labels are bounded: an archive's discovery key, of which a cloud has at most its quota. The key itself is
//! a capability to read and stays out of metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use cumulet_api::{ArchiveStatus, NodeStatus};
use cumulet_hyperswarm::SwarmStats;

use crate::node::Node;
use crate::services::ServiceCounters;

/// The router of the ops listener.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    match node.not_ready() {
        None => "ok".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let mut registry = Registry::with_prefix("cumulet_node");
    registry.register_collector(Box::new(Snapshot {
        node: node.status().await,
        archives: node.archives().await,
        swarm: node.swarm_stats(),
        services: node.service_counters(),
    }));
    let mut body = String::new();
    if text::encode(&mut body, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        body,
    )
        .into_response()
}

/// A metric's name, its help text, and where an archive has it.
type Row = (&'static str, &'static str, fn(&ArchiveStatus) -> u64);

/// Reads the node's numbers at the moment of the scrape: no second set of counters to keep in step.
#[derive(Debug)]
struct Snapshot {
    node: NodeStatus,
    archives: Vec<ArchiveStatus>,
    swarm: SwarmStats,
    services: ServiceCounters,
}

/// A metric of a service, or of the swarm: its name, its help text, its unit, and where its counters have it.
type ServiceRow<C> = (&'static str, &'static str, Option<Unit>, fn(&C) -> u64);

/// Gauges and counters of one service.
type ServiceRows<C> = (&'static [ServiceRow<C>], &'static [ServiceRow<C>]);

const SWARM: ServiceRows<SwarmStats> = (
    &[
        ("swarm_known_peers", "Peers remembered.", None, |s| {
            s.known_peers as u64
        }),
        ("swarm_connecting", "Dials under way.", None, |s| {
            s.connecting as u64
        }),
        ("swarm_topics", "Topics joined.", None, |s| s.topics as u64),
    ],
    &[
        ("swarm_dialled", "Dials that succeeded.", None, |s| s.dialled),
        ("swarm_dial_failures", "Dials that failed.", None, |s| {
            s.dial_failures
        }),
        ("swarm_accepted", "Connections accepted.", None, |s| s.accepted),
        ("swarm_duplicates", "Double connections resolved.", None, |s| {
            s.duplicates
        }),
        (
            "swarm_over_tcp",
            "Connections dialled or accepted over TCP.",
            None,
            |s| s.over_tcp,
        ),
        (
            "swarm_over_websocket",
            "Connections dialled or accepted in WebSockets.",
            None,
            |s| s.over_websocket,
        ),
    ],
);

const RELAY: ServiceRows<cumulet_relay::blind_relay::Counters> = (
    &[
        ("relay_sessions", "Control connections of the relay.", None, |c| {
            c.sessions
        }),
        (
            "relay_pending",
            "Requests that wait for their other side.",
            None,
            |c| c.pending,
        ),
        ("relay_links", "Links that the relay carries.", None, |c| c.links),
    ],
    &[
        ("relay_links_opened", "Links made.", None, |c| c.links_opened),
        (
            "relay_sessions_refused",
            "Control connections turned away.",
            None,
            |c| c.sessions_refused,
        ),
        (
            "relay_links_exhausted",
            "Links ended by a quota or a duration.",
            None,
            |c| c.links_exhausted,
        ),
        (
            "relay_forwarded",
            "UDP payload that the relay forwarded.",
            Some(Unit::Bytes),
            |c| c.bytes,
        ),
        (
            "relay_packets_dropped",
            "Packets dropped by a rate or a quota.",
            None,
            |c| c.packets_dropped,
        ),
    ],
);

const WEBSOCKET: ServiceRows<cumulet_dht_relay::Counters> = (
    &[
        ("websocket_clients", "WebSockets open.", None, |c| c.clients),
        (
            "websocket_streams",
            "Streams of their clients to peers.",
            None,
            |c| c.streams,
        ),
    ],
    &[
        ("websocket_clients_opened", "Clients admitted.", None, |c| {
            c.clients_opened
        }),
        ("websocket_clients_refused", "Clients turned away.", None, |c| {
            c.clients_refused
        }),
        (
            "websocket_to_peers",
            "Bytes from clients to peers.",
            Some(Unit::Bytes),
            |c| c.bytes_to_peers,
        ),
        (
            "websocket_to_clients",
            "Bytes from peers to clients.",
            Some(Unit::Bytes),
            |c| c.bytes_to_clients,
        ),
    ],
);

const BLIND_PEER: ServiceRows<cumulet_blind_peer::Counters> = (
    &[
        ("blind_peer_connections", "Connections of apps.", None, |c| {
            c.connections
        }),
        ("blind_peer_cores", "Cores kept for apps.", None, |c| c.cores),
        (
            "blind_peer_announced",
            "Cores kept for apps and announced.",
            None,
            |c| c.announced,
        ),
        (
            "blind_peer_behind",
            "Cores kept for apps that are followed and lack blocks.",
            None,
            |c| c.behind,
        ),
        (
            "blind_peer_stored",
            "Bytes of their blocks, had or promised.",
            Some(Unit::Bytes),
            |c| c.bytes,
        ),
    ],
    &[
        (
            "blind_peer_added",
            "Requests to keep a core that were granted.",
            None,
            |c| c.added,
        ),
        (
            "blind_peer_refused",
            "Requests to keep a core that were refused.",
            None,
            |c| c.refused,
        ),
        (
            "blind_peer_cleared",
            "Bytes given back.",
            Some(Unit::Bytes),
            |c| c.cleared_bytes,
        ),
    ],
);

fn encode_service<C>(
    counters: Option<&C>,
    (gauges, totals): ServiceRows<C>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let Some(counters) = counters else {
        return Ok(());
    };
    for (name, help, unit, read) in gauges {
        let metric = ConstGauge::new(i64::try_from(read(counters)).unwrap_or(i64::MAX));
        let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?;
        metric.encode(encoder)?;
    }
    for (name, help, unit, read) in totals {
        let metric = ConstCounter::new(read(counters));
        let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?;
        metric.encode(encoder)?;
    }
    Ok(())
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let node = &self.node;
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?;
            metric.encode(encoder)
        };
        gauge("peers", "Connections open.", None, node.peers.into())?;
        gauge("archives", "Archives pinned.", None, node.archives.into())?;
        gauge(
            "stored",
            "Bytes of blocks held.",
            Some(Unit::Bytes),
            node.bytes_stored,
        )?;
        gauge(
            "durable_lag",
            "Age of the oldest block without backup.",
            Some(Unit::Seconds),
            node.durable_lag_seconds,
        )?;
        encode_service(Some(&self.swarm), SWARM, &mut encoder)?;
        encode_service(self.services.relay.as_ref(), RELAY, &mut encoder)?;
        encode_service(self.services.websocket.as_ref(), WEBSOCKET, &mut encoder)?;
        encode_service(self.services.blind_peer.as_ref(), BLIND_PEER, &mut encoder)?;
        let rows: [Row; 4] = [
            ("archive_length", "Blocks of the archive's own core.", |a| {
                a.length
            }),
            (
                "archive_stored_blocks",
                "Blocks held over all of the archive's cores.",
                |a| a.stored_blocks,
            ),
            (
                "archive_durable_length",
                "Length up to which everything held is backed up.",
                |a| a.durable_length,
            ),
            (
                "archive_peers",
                "Peers that opened one of the archive's cores.",
                |a| a.peers.into(),
            ),
        ];
        for (name, help, read) in rows {
            let kind = ConstGauge::new(0_i64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for archive in &self.archives {
                let metric = ConstGauge::new(i64::try_from(read(archive)).unwrap_or(i64::MAX));
                metric.encode(family.encode_family(&[("discovery_key", archive.discovery_key.as_str())])?)?;
            }
        }
        let counters: [Row; 2] = [
            ("archive_uploaded", "Block payload bytes sent to peers.", |a| {
                a.uploaded_bytes
            }),
            (
                "archive_downloaded",
                "Block payload bytes accepted from peers.",
                |a| a.downloaded_bytes,
            ),
        ];
        for (name, help, read) in counters {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?;
            for archive in &self.archives {
                let metric = ConstCounter::new(read(archive));
                metric.encode(family.encode_family(&[("discovery_key", archive.discovery_key.as_str())])?)?;
            }
        }
        Ok(())
    }
}
