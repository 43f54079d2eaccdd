//! Requests to one replica's API: HTTPS with the cloud's own authority and bearer token, to the pod's address.
//!
//! A connection per request: a cloud is asked every few seconds, and an idle connection to every replica of
//! thousands of clouds would cost more than the handshakes.

use cumulet_api::{ArchiveSpec, ArchiveStatus, Devices, NodeStatus, Problem};
use cumulet_plan::credentials::ApiAccess;
use cumulet_plan::key::ArchiveKey;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Limit of one request with its connection; a replica answers these from memory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read. An archive's status is about a kilobyte.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why a replica did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The Secret's authority or host is unusable.
    #[error("failed to trust the cloud's certificate authority: {0}")]
    Trust(String),
    /// No connection, or it broke.
    #[error("failed to reach the replica at {address}: {why}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// The replica answered with an error.
    #[error("the replica refuses ({status}): {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The problem's title, detail and hint.
        detail: String,
    },
    /// The answer is not what the API says.
    #[error("failed to read the replica's answer: {0}")]
    Answer(String),
}

impl NodeError {
    /// The replica says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The replica was reached and said no for good: asking again with the same words is useless.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400..=499,
                ..
            }
        ) && !self.is_not_found()
    }
}

/// A way to talk to the replicas of one cloud.
pub struct NodeClient {
    tls: TlsConnector,
    host: ServerName<'static>,
    access: ApiAccess,
    port: u16,
}

impl NodeClient {
    /// A client for the replicas of the cloud with this access, on TCP `port`.
    pub fn new(access: ApiAccess, port: u16) -> Result<Self, NodeError> {
        let trust = |error: &dyn std::fmt::Display| NodeError::Trust(error.to_string());
        let mut roots = RootCertStore::empty();
        let authority =
            CertificateDer::from_pem_slice(access.ca_certificate.as_bytes()).map_err(|e| trust(&e))?;
        roots.add(authority).map_err(|e| trust(&e))?;
        // Named, because a process may have more than one provider compiled in.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| trust(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = ServerName::try_from(access.host.clone()).map_err(|e| trust(&e))?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            host,
            access,
            port,
        })
    }

    /// `GET /api/v1/status`.
    pub async fn status(&self, replica: IpAddr) -> Result<NodeStatus, NodeError> {
        parse(&self.send(replica, Method::GET, "/api/v1/status", None).await?)
    }

    /// `GET /api/v1/archives/{key}`.
    pub async fn archive(&self, replica: IpAddr, key: ArchiveKey) -> Result<ArchiveStatus, NodeError> {
        parse(
            &self
                .send(replica, Method::GET, &format!("/api/v1/archives/{key}"), None)
                .await?,
        )
    }

    /// `PUT /api/v1/archives/{key}`: idempotent.
    pub async fn pin(
        &self,
        replica: IpAddr,
        key: ArchiveKey,
        pin: &ArchiveSpec,
    ) -> Result<ArchiveStatus, NodeError> {
        let body = serde_json::to_vec(pin).map_err(|error| NodeError::Answer(error.to_string()))?;
        parse(
            &self
                .send(
                    replica,
                    Method::PUT,
                    &format!("/api/v1/archives/{key}"),
                    Some(body),
                )
                .await?,
        )
    }

    /// `PUT /api/v1/devices`: idempotent.
    pub async fn set_devices(&self, replica: IpAddr, devices: &Devices) -> Result<Devices, NodeError> {
        let body = serde_json::to_vec(devices).map_err(|error| NodeError::Answer(error.to_string()))?;
        parse(
            &self
                .send(replica, Method::PUT, "/api/v1/devices", Some(body))
                .await?,
        )
    }

    /// `DELETE /api/v1/archives/{key}`, with the blocks or without. An archive that is not there is well deleted.
    pub async fn unpin(&self, replica: IpAddr, key: ArchiveKey, delete_data: bool) -> Result<(), NodeError> {
        let data = if delete_data { "delete" } else { "retain" };
        match self
            .send(
                replica,
                Method::DELETE,
                &format!("/api/v1/archives/{key}?data={data}"),
                None,
            )
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn send(
        &self,
        replica: IpAddr,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, NodeError> {
        let address = SocketAddr::new(replica, self.port);
        let unreachable = |why: String| NodeError::Unreachable { address, why };
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(address, method, path, body))
            .await
            .unwrap_or_else(|_| {
                Err(unreachable(format!(
                    "no answer within {} s",
                    REQUEST_TIMEOUT.as_secs()
                )))
            })
    }

    async fn exchange(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, NodeError> {
        let broken = |error: &dyn std::fmt::Display| NodeError::Unreachable {
            address,
            why: error.to_string(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.access.host.as_str())
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.access.token.as_str()),
            )
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| broken(&e))?;
        let tcp = TcpStream::connect(address).await.map_err(|e| broken(&e))?;
        let stream = self
            .tls
            .connect(self.host.clone(), tcp)
            .await
            .map_err(|e| broken(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await;
            let body = body.map_err(|e| broken(&e))?.to_bytes();
            if status.is_success() {
                Ok(body)
            } else {
                Err(refused(status, &body))
            }
        };
        // The connection is driven beside the exchange and dropped with it: nothing outlives the request.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(broken(&error)),
            },
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, NodeError> {
    serde_json::from_slice(body).map_err(|error| NodeError::Answer(error.to_string()))
}

fn refused(status: StatusCode, body: &[u8]) -> NodeError {
    let detail = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {}{hint}", problem.title, problem.detail)
        }
        Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    NodeError::Refused {
        status: status.as_u16(),
        detail,
    }
}
