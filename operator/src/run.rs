//! Puts the parts together and runs them until a signal, or until the Lease is lost.

use crate::apply::Server;
use crate::context::{Context, Pins, RECONCILE_TIMEOUT, RETRY, ReconcileError, WAKE_UPS};
use crate::lease::{Contender, LeaseError};
use crate::ops_server::{self, Ops};
use crate::options::Options;
use crate::telemetry::Metrics;
use crate::{archive_controller, cloud_controller, watch};
use cumulet_crds::{DatArchive, PersonalCloud};
use cumulet_plan::build::API_PORT;
use cumulet_plan::names::{FIELD_MANAGER, MANAGED_BY_LABEL};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use prometheus_client::registry::Registry;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events of one object within this time are one reconcile: a rollout makes dozens.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long running reconciles may take to end after a signal.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No cluster.
    #[error("failed to find a cluster; needs a kubeconfig or a pod's service account: {0}")]
    Cluster(Box<kube::Error>),
    /// The port is taken.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No signals.
    #[error("failed to wait for signals: {0}")]
    Signal(std::io::Error),
    /// Another operator leads now.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// Runs the operator.
pub async fn run(options: Options) -> Result<(), RunError> {
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_default()
        .await
        .map_err(|error| RunError::Cluster(Box::new(error)))?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let ops = Arc::new(Ops {
        registry,
        ready: AtomicBool::new(true),
    });
    let address = options.ops_listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address, source })?;
    tasks.spawn(ops_server::serve(listener, Arc::clone(&ops), stop.child_token()));
    tasks.spawn(stop_on_signal(stop.clone())?);

    let contender = Contender::new(
        client.clone(),
        &options.namespace,
        &options.lease_name,
        &options.identity,
        Timestamp::now,
    );
    let result = match contender.acquire(&stop).await {
        None => Ok(()),
        Some(holding) => {
            metrics.leads(true);
            let release = CancellationToken::new();
            let work = async {
                lead(client, &options, &metrics, &ops, &stop).await;
                // Only after the last write.
                release.cancel();
                std::future::pending::<()>().await;
            };
            let held = tokio::select! {
                held = contender.hold(holding, &release) => held,
                // Never ends; dropping it stops every reconcile at once when the Lease is lost.
                () = work => Ok(()),
            };
            metrics.leads(false);
            held.map_err(RunError::from)
        }
    };
    stop.cancel();
    tasks.close();
    let _ = tokio::time::timeout(SHUTDOWN_LIMIT, tasks.wait()).await;
    result
}

fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping"),
            _ = interrupt.recv() => tracing::info!("stopping"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}

/// Runs both controllers until `stop`, and lets running reconciles end.
async fn lead(client: Client, options: &Options, metrics: &Metrics, ops: &Ops, stop: &CancellationToken) {
    // Ready means: the caches are warm. Who stands by is ready too.
    ops.ready.store(false, Ordering::Relaxed);
    let (cloud_stream, clouds) = watch::watch::<PersonalCloud>(client.clone());
    let (archive_stream, archives) = watch::watch::<DatArchive>(client.clone());
    let (wake_cloud, cloud_wakes) = mpsc::channel(WAKE_UPS);
    let (wake_archive, archive_wakes) = mpsc::channel(WAKE_UPS);
    let context = Arc::new(Context {
        server: Server::new(client.clone(), metrics.clone()),
        settings: options.settings(),
        default_cloud: options.default_cloud.clone(),
        clouds: clouds.clone(),
        archives: archives.clone(),
        wake_cloud,
        wake_archive,
        pins: Pins::default(),
        api_port: API_PORT,
        now: Timestamp::now,
        metrics: metrics.clone(),
        client: client.clone(),
    });
    let config = Config::default()
        .debounce(DEBOUNCE)
        .concurrency(options.concurrency);
    let cloud_controller = Controller::for_stream(cloud_stream, clouds.clone())
        .with_config(config.clone())
        .owns_stream(stateful_sets(client))
        .reconcile_on(received(cloud_wakes))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile_cloud, retry, Arc::clone(&context));
    let archive_controller = Controller::for_stream(archive_stream, archives.clone())
        .with_config(config)
        .reconcile_on(received(archive_wakes))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile_archive, retry, Arc::clone(&context));
    let warm = async {
        wait(&clouds).await;
        wait(&archives).await;
        ops.ready.store(true, Ordering::Relaxed);
        tracing::info!(
            clouds = clouds.len(),
            archives = archives.len(),
            "caches are warm"
        );
    };
    let controllers = futures::future::join3(logged(cloud_controller), logged(archive_controller), warm);
    let stopping = async {
        stop.cancelled().await;
        tokio::time::sleep(SHUTDOWN_LIMIT).await;
    };
    tokio::select! {
        _ = controllers => {}
        () = stopping => tracing::warn!("some reconciles did not end in time"),
    }
}

/// Archives must be known before a cloud is looked at, or its gateway would be closed for a moment.
async fn reconcile_cloud(cloud: Arc<PersonalCloud>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    wait(&context.archives).await;
    let reconcile = cloud_controller::reconcile(cloud, Arc::clone(&context));
    limited("PersonalCloud", &context.metrics, Box::pin(reconcile)).await
}

/// Clouds must be known before an archive is looked at, or its cloud would be taken for missing.
async fn reconcile_archive(
    archive: Arc<DatArchive>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    wait(&context.clouds).await;
    let reconcile = archive_controller::reconcile(archive, Arc::clone(&context));
    limited("DatArchive", &context.metrics, Box::pin(reconcile)).await
}

/// Waits until a cache holds what the cluster holds. The only error is that the cache is gone, with the process.
async fn wait<K>(store: &Store<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let _ = store.wait_until_ready().await;
}

/// Metadata of the operator's own StatefulSets; their status is read when it counts.
fn stateful_sets(
    client: Client,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<StatefulSet>>> + Send + 'static {
    let mine = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}"));
    watcher::watcher(Api::<PartialObjectMeta<StatefulSet>>::all(client), mine)
        .default_backoff()
        .modify(|set| set.managed_fields_mut().clear())
        .touched_objects()
}

fn received<T: Send + 'static>(mut wakes: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    futures::stream::poll_fn(move |context| wakes.poll_recv(context))
}

/// Runs a reconcile within its time limit, and counts it.
async fn limited(
    kind: &'static str,
    metrics: &Metrics,
    reconcile: impl Future<Output = Result<Action, ReconcileError>>,
) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let result = tokio::time::timeout(RECONCILE_TIMEOUT, reconcile).await;
    let result = result.unwrap_or(Err(ReconcileError::Timeout));
    let label = match &result {
        Ok(_) => "ok",
        Err(ReconcileError::Timeout) => "timeout",
        Err(_) => "error",
    };
    metrics.reconciled(kind, label, began.elapsed());
    result
}

#[allow(clippy::needless_pass_by_value)] // The controller gives it by value.
fn retry<K: ResourceExt>(object: Arc<K>, error: &ReconcileError, _: Arc<Context>) -> Action {
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, "reconcile failed");
    Action::requeue(RETRY)
}

/// Drives a controller; its errors are logged where they arise or are about its watch.
async fn logged<K, E, Q>(
    controller: impl Stream<Item = Result<(ObjectRef<K>, Action), kube::runtime::controller::Error<E, Q>>>,
) where
    K: Resource<DynamicType = ()> + Debug,
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    controller
        .for_each(|result| {
            match result {
                Ok((object, _)) => tracing::debug!(object = %object, "reconciled"),
                Err(error @ kube::runtime::controller::Error::QueueError(_)) => {
                    tracing::warn!(%error, "failed to watch");
                }
                Err(error) => tracing::debug!(%error, "reconcile ended with an error"),
            }
            futures::future::ready(())
        })
        .await;
}
