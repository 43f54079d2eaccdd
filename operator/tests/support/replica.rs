//! A replica's API over real TLS, with the certificate of the cloud's own Secret.

use super::{Cluster, HEX, SECRET};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Requests that arrived, and what the replica keeps.
#[derive(Clone, Default)]
pub struct Replica(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    token: String,
    pinned: Option<Value>,
    requests: Vec<String>,
    synced: bool,
    refuses: bool,
}

impl Replica {
    /// Requests since this was last called.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    pub fn pinned(&self) -> Option<Value> {
        self.0.lock().unwrap().pinned.clone()
    }

    pub fn becomes_synced(&self) {
        self.0.lock().unwrap().synced = true;
    }

    pub fn refuses(&self) {
        self.0.lock().unwrap().refuses = true;
    }

    /// Forgets everything, as a container with an empty volume would.
    pub fn forgets(&self) {
        self.0.lock().unwrap().pinned = None;
    }

    fn answer(&self, request: &Request<Incoming>, body: &[u8]) -> (u16, Value) {
        let mut kept = self.0.lock().unwrap();
        let path = request.uri().path_and_query().unwrap().to_string();
        kept.requests.push(format!("{} {path}", request.method()));
        let token = request.headers()["authorization"].to_str().unwrap();
        if token != format!("Bearer {}", kept.token) {
            return (401, json!({}));
        }
        if kept.refuses {
            return (
                507,
                json!({"type": "about:blank", "title": "disk full", "status": 507, "detail": "no room"}),
            );
        }
        match (request.method().as_str(), path.as_str()) {
            ("GET", "/api/v1/status") => (200, node_status()),
            ("PUT", _) => {
                kept.pinned = Some(serde_json::from_slice(body).unwrap());
                (200, archive_status(kept.synced))
            }
            ("GET", _) if kept.pinned.is_some() => (200, archive_status(kept.synced)),
            ("DELETE", _) => {
                kept.pinned = None;
                (204, Value::Null)
            }
            _ => (
                404,
                json!({"type": "about:blank", "title": "not found", "status": 404, "detail": "no such archive"}),
            ),
        }
    }
}

fn node_status() -> Value {
    json!({"version": "1", "publicKey": HEX, "peers": 2, "bytesStored": 10, "archives": 1, "durableLagSeconds": 0,
        "conditions": [{"type": "StorageHealthy", "status": "True", "reason": "Verified", "message": ""}]})
}

fn archive_status(synced: bool) -> Value {
    let (status, reason, progress) = if synced {
        ("True", "Complete", 1.0)
    } else {
        ("False", "NoPeers", 0.25)
    };
    json!({"key": HEX, "discoveryKey": HEX, "type": "Drive", "length": 4, "byteLength": 40, "fork": 0, "storedBlocks": 4,
        "storedBytes": 40, "wantedBlocks": 4, "progress": progress, "peers": 1, "uploadedBytes": 0, "downloadedBytes": 40,
        "downloadedBlocks": 4, "durableLength": 0, "durableBytes": 0, "conditions": [
            {"type": "Ready", "status": "True", "reason": "Pinned", "message": ""},
            {"type": "Synced", "status": status, "reason": reason, "message": ""}]})
}

/// Starts one replica for each of `count` loopback addresses, all on one port, with the Secret that the cluster has.
pub async fn start(cluster: &Cluster, count: u8) -> (Vec<Replica>, u16) {
    let secret: Secret = serde_json::from_value(cluster.get(SECRET).unwrap()).unwrap();
    let data = secret.data.unwrap();
    let certificate = CertificateDer::from_pem_slice(&data["tls.crt"].0).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&data["tls.key"].0).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut port = 0;
    let mut replicas = Vec::new();
    for index in 0..count {
        let listener = TcpListener::bind((format!("127.0.0.{}", index + 1), port))
            .await
            .unwrap();
        port = listener.local_addr().unwrap().port();
        let replica = Replica::default();
        replica.0.lock().unwrap().token = String::from_utf8(data["api-token"].0.clone()).unwrap();
        replicas.push(replica.clone());
        #[allow(clippy::disallowed_methods)] // The test's runtime owns it.
        tokio::spawn(serve(listener, acceptor.clone(), replica));
    }
    (replicas, port)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, replica: Replica) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else {
            continue;
        };
        let replica = replica.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let replica = replica.clone();
            async move {
                let body = request.body_mut().collect().await.unwrap().to_bytes();
                let (code, answer) = replica.answer(&request, &body);
                let answer = if answer.is_null() {
                    Bytes::new()
                } else {
                    Bytes::from(answer.to_string())
                };
                Ok::<_, Infallible>(Response::builder().status(code).body(Full::new(answer)).unwrap())
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A client that hangs up is no error of this test.
        let _ = connection.await;
    }
}
