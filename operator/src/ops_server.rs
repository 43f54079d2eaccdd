//! `/livez`, `/readyz`, `/metrics` on plain HTTP. No secrets, no actions, nothing but GET.

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at once; probes and one or two scrapers need a handful.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send its request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server shows.
#[derive(Debug)]
pub struct Ops {
    /// The metrics.
    pub registry: Registry,
    /// Whether the operator leads with warm caches, or stands by.
    pub ready: AtomicBool,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, ops: Arc<Ops>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (ops, stop) = (Arc::clone(&ops), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let answer = answer(&ops, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection to the ops port ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

fn answer(ops: &Ops, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") if ops.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        (&Method::GET, "/metrics") => {
            let mut text = String::new();
            match encode(&mut text, &ops.registry) {
                Ok(()) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if request.uri().path() == "/metrics" {
        let kind =
            http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use http_body_util::{BodyExt, Empty};

    async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let request = Request::get(path)
            .header("host", "ops")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let exchange = async {
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            drop(sender);
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_answered_and_nothing_else_is() {
        let mut registry = Registry::default();
        Metrics::new(&mut registry).reconciled("DatArchive", "ok", Duration::from_millis(3));
        let ops = Arc::new(Ops {
            registry,
            ready: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let asked = async {
            assert_eq!(get(address, "/livez").await.0, 200);
            assert_eq!(get(address, "/readyz").await.0, 503);
            ops.ready.store(true, Ordering::Relaxed);
            assert_eq!(get(address, "/readyz").await.0, 200);
            let metrics = get(address, "/metrics").await.1;
            assert!(
                metrics.contains(r#"cumulet_operator_reconciles_total{kind="DatArchive",result="ok"} 1"#),
                "{metrics}"
            );
            assert_eq!(get(address, "/secrets").await.0, 404);
            stop.cancel();
        };
        tokio::join!(serve(listener, Arc::clone(&ops), stop.clone()), asked);
    }
}
