//! A small real S3 server for tests: `s3s-fs` over HTTP, with atomic conditional writes.
//!
//! `s3s-fs` checks `If-None-Match: *` and writes the object in two steps, so two creators can both win. Here every
//! request that can write is taken in whole first and then served behind one lock, which makes the check and the
//! write one step, and keeps a slow or broken client from holding the lock.
//!
//! Objects are plain files below `<root>/<bucket>`, so a test can look at them and damage them.
//! It does no TLS, no versioning and no access rules beyond one key pair; it is not for production.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::PutObjectInput;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, S3Request, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest request body taken in, in bytes: four times the largest object that a backup writes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// How long open requests may take to finish at shutdown before they are cut off.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a [`Server`] listens, what it keeps, and who may talk to it.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Directory of the data; made when it is not there.
    pub root: PathBuf,
    /// Buckets that exist from the start.
    pub buckets: Vec<String>,
    /// The one access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// How conditional writes are treated.
    pub conditional: Conditional,
}

/// How a server treats `If-None-Match` on a write: not all that speak S3 do it right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conditional {
    /// As AWS does.
    #[default]
    Honoured,
    /// The header is ignored.
    Ignored,
    /// The request is refused with 501.
    Refused,
}

/// A server that is running; [`Server::stop`] ends it and waits for the end.
pub struct Server {
    address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Makes the directory and the buckets, listens, and serves until [`Server::stop`] or drop.
    pub async fn start(config: Config) -> Result<Self> {
        for bucket in &config.buckets {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            ensure!(
                bucket.chars().all(plain) && !bucket.starts_with('.'),
                "bad bucket name {bucket:?}"
            );
            let path = config.root.join(bucket);
            tokio::fs::create_dir_all(&path)
                .await
                .with_context(|| format!("failed to make {}", path.display()))?;
        }
        let files = s3s_fs::FileSystem::new(&config.root)
            .map_err(|error| anyhow::anyhow!("failed to open {}: {error:?}", config.root.display()))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(config.access_key, config.secret_key));
        builder.set_access(Weakness(config.conditional));
        let service = Arc::new(Service {
            s3: builder.build(),
            writes: Mutex::new(()),
        });

        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("failed to listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let cancel = CancellationToken::new();
        let tracker = TaskTracker::new();
        let task = tracker.spawn(accept(listener, service, cancel.clone()));
        Ok(Self {
            address,
            cancel,
            task,
        })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for an S3 client's `endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets open requests finish for a short while, then closes everything.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    loop {
        let socket = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file descriptors is the only lasting cause; give open requests time to end.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = socket.set_nodelay(true);
        let service = Arc::clone(&service);
        let connection = http.serve_connection(
            TokioIo::new(socket),
            hyper::service::service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { service.serve(request).await }
            }),
        );
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, async {
        graceful.shutdown().await;
        connections.wait().await;
    })
    .await;
}

struct Service {
    s3: S3Service,
    writes: Mutex<()>,
}

impl Service {
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.s3.call(request.map(Body::from)).await;
        }
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let too_large = error.is::<http_body_util::LengthLimitError>();
                let status = if too_large {
                    StatusCode::PAYLOAD_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                };
                return Ok(empty(status));
            }
        };
        let _one_writer = self.writes.lock().await;
        self.s3.call(Request::from_parts(head, Body::from(body))).await
    }
}

/// Makes a server as weak as the configuration says, after the signature was checked.
struct Weakness(Conditional);

#[async_trait]
impl S3Access for Weakness {
    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        match self.0 {
            Conditional::Ignored => request.input.if_none_match = None,
            Conditional::Refused if request.input.if_none_match.is_some() => {
                return Err(s3_error!(
                    NotImplemented,
                    "A header you provided implies functionality that is not implemented."
                ));
            }
            Conditional::Refused | Conditional::Honoured => {}
        }
        Ok(())
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Waits for the interrupt or terminate signal.
pub async fn shutdown_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
