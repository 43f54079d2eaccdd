//! Runs a node until it is told to stop: listeners, signals, an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use cumulet_api::{ArchiveSpec, SyncMode, SyncSpec};
use cumulet_hyperbee::ErrorKind;
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hyperdrive::Drive;
use cumulet_hyperdrive::link::Link;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::info;

use crate::archive::{Archive, Contents};
use crate::config::{Config, TlsFiles};
use crate::gateway::{self, ArchiveName, ArchiveSource, Limits, Served, SourceError};
use crate::http::{api, ops};
use crate::node::Node;
use crate::secrets;

/// How long requests under way may take when the node stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, or until a listener fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Two providers are compiled in by different libraries; the first one installed counts.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let links = parse_pins(&config)?;
    let node = Node::start(&config).await?;
    let token = if config.make_api_token {
        hex::encode(secrets::read_or_make_key(&config.api_token_file)?.0)
    } else {
        secrets::read_token(&config.api_token_file)?
    };
    let handle = Handle::new();
    let mut listeners = JoinSet::new();
    let source = GatewaySource(Arc::clone(&node));
    serve(
        &mut listeners,
        &handle,
        config.ops_listen,
        None,
        ops::router(Arc::clone(&node)),
    )
    .await?;
    serve(
        &mut listeners,
        &handle,
        config.api_listen,
        config.api_tls.as_ref(),
        api::router(Arc::clone(&node), token),
    )
    .await?;
    serve(
        &mut listeners,
        &handle,
        config.gateway_listen,
        None,
        gateway::router(source, Limits::default()),
    )
    .await?;
    for link in links {
        let mode = if config.sparse {
            SyncMode::Sparse
        } else {
            SyncMode::Full
        };
        let spec = ArchiveSpec {
            sync: SyncSpec {
                mode,
                ..SyncSpec::default()
            },
            announce: config.announce,
            gateway: true,
            backup: true,
            ..ArchiveSpec::default()
        };
        node.pin(link.key, spec).await?;
        info!(url = %format!("http://{}/{}/", config.gateway_listen, hex::encode(link.key)), "pinned");
    }
    info!(public_key = %hex::encode(node.public_key()), backup = %config.backup_url, "ready");
    let ended = wait_for_the_end(&mut listeners).await;
    info!("stopping");
    handle.graceful_shutdown(Some(DRAIN));
    node.shutdown().await;
    while listeners.join_next().await.is_some() {}
    ended
}

fn parse_pins(config: &Config) -> anyhow::Result<Vec<Link>> {
    let parse = |text: &String| {
        text.parse::<Link>().with_context(|| {
            format!("--pin {text}: write 64 hex digits, 52 characters of z-base-32, or a hyper://, pear:// or dat:// link")
        })
    };
    config
        .pin
        .iter()
        .filter(|text| !text.is_empty())
        .map(parse)
        .collect()
}

async fn serve(
    listeners: &mut JoinSet<std::io::Result<()>>,
    handle: &Handle<SocketAddr>,
    address: SocketAddr,
    tls: Option<&TlsFiles>,
    router: Router,
) -> anyhow::Result<()> {
    let listener =
        std::net::TcpListener::bind(address).with_context(|| format!("failed to listen on {address}"))?;
    listener
        .set_nonblocking(true)
        .context("failed to set up a listener")?;
    let (service, handle) = (router.into_make_service(), handle.clone());
    if let Some(files) = tls {
        let tls = RustlsConfig::from_pem_file(&files.cert, &files.key)
            .await
            .with_context(|| {
                format!(
                    "failed to read {} and {}",
                    files.cert.display(),
                    files.key.display()
                )
            })?;
        let server = axum_server::from_tcp_rustls(listener, tls)?.handle(handle);
        listeners.spawn(server.serve(service));
    } else {
        let server = axum_server::from_tcp(listener)?.handle(handle);
        listeners.spawn(server.serve(service));
    }
    Ok(())
}

async fn wait_for_the_end(listeners: &mut JoinSet<std::io::Result<()>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = listeners.join_next() => match ended {
            Ok(Ok(())) => bail!("a listener ended"),
            Ok(Err(error)) => Err(error).context("a listener failed"),
            Err(error) => Err(error).context("a listener broke"),
        },
    }
}

/// The archives that the gateway may show.
#[derive(Debug, Clone)]
struct GatewaySource(Arc<Node>);

impl GatewaySource {
    fn find(&self, name: &ArchiveName) -> Option<Arc<Archive>> {
        let archive = match name {
            ArchiveName::Key(key) => self.0.find(key)?,
            ArchiveName::Name(name) => {
                let named = |archive: &Arc<Archive>| archive.spec().name.as_deref() == Some(name.as_str());
                self.0.all().into_iter().find(named)?
            }
        };
        archive.spec().gateway.then_some(archive)
    }
}

impl ArchiveSource for GatewaySource {
    type Blocks = CoreHandle;

    async fn resolve(&self, name: &ArchiveName) -> Result<Option<Served<CoreHandle>>, SourceError> {
        let Some(archive) = self.find(name) else {
            return Ok(None);
        };
        let Some(core) = archive.core().cloned() else {
            return Err(SourceError(ErrorKind::Unavailable));
        };
        let epoch = archive.cores().iter().map(|core| core.state().fork).sum();
        let served = match archive.contents() {
            Contents::Unknown => return Err(SourceError(ErrorKind::Unavailable)),
            Contents::Core => gateway::Archive::Core(core),
            Contents::Bee => gateway::Archive::Bee(archive.bee(&core)),
            Contents::Drive(blobs) => gateway::Archive::Drive(Drive::new(&archive.bee(&core), blobs)),
        };
        Ok(Some(Served {
            key: *archive.key(),
            epoch,
            archive: served,
        }))
    }
}
