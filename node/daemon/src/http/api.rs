//! The owner's REST API, `/api/v1`: what the node keeps and how it is doing.
//!
//! Every request carries `Authorization: Bearer <token>`; the token is compared in constant time and never
//! logged. Everything that changes something is idempotent. Shapes: [`cumulet_api`].

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use cumulet_api::{ArchiveSpec, ArchiveStatus, Ban, Bans, Device, Devices, NodeStatus};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::problem::ProblemResponse;
use crate::bans::BansError;
use crate::members::{MembersError, parse_key};
use crate::node::{Node, NodeError};
use crate::pins::Key;

/// A body is one archive's spec, the devices or the bans: their lists are bounded by the custom resource to far less than this.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// The API's router; `token` is what clients must show.
pub fn router(node: Arc<Node>, token: String) -> Router {
    let token: Arc<str> = token.into();
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/archives", get(archives))
        .route(
            "/api/v1/archives/{key}",
            get(archive).put(put_archive).delete(delete_archive),
        )
        .route("/api/v1/devices", get(devices).put(put_devices))
        .route("/api/v1/bans", get(bans).put(put_bans))
        .fallback(|| async { ProblemResponse::new(StatusCode::NOT_FOUND, "there is no such resource") })
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(token, authorize))
        .with_state(node)
}

async fn authorize(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if bool::from(given.ct_eq(token.as_bytes())) {
        return next.run(request).await;
    }
    let mut response = ProblemResponse::new(StatusCode::UNAUTHORIZED, "this needs the node's API token")
        .hint("send it as 'Authorization: Bearer <token>'; a standalone node keeps it in api.token in its data folder")
        .into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    response
}

async fn status(State(node): State<Arc<Node>>) -> Json<NodeStatus> {
    Json(node.status().await)
}

async fn archives(State(node): State<Arc<Node>>) -> Json<Vec<ArchiveStatus>> {
    Json(node.archives().await)
}

async fn archive(
    State(node): State<Arc<Node>>,
    Path(key): Path<String>,
) -> Result<Json<ArchiveStatus>, ProblemResponse> {
    Ok(Json(
        node.archive(&archive_key(&key)?).await.ok_or_else(not_pinned)?,
    ))
}

async fn put_archive(
    State(node): State<Arc<Node>>,
    Path(key): Path<String>,
    body: Result<Json<ArchiveSpec>, JsonRejection>,
) -> Result<Json<ArchiveStatus>, ProblemResponse> {
    let key = archive_key(&key)?;
    let Json(spec) =
        body.map_err(|rejection| ProblemResponse::new(rejection.status(), rejection.body_text()))?;
    Ok(Json(node.pin(key, spec).await?))
}

async fn devices(State(node): State<Arc<Node>>) -> Json<Devices> {
    let devices = node.devices().into_iter().map(|key| Device {
        public_key: hex::encode(key),
    });
    Json(Devices {
        devices: devices.collect(),
    })
}

async fn put_devices(
    State(node): State<Arc<Node>>,
    body: Result<Json<Devices>, JsonRejection>,
) -> Result<Json<Devices>, ProblemResponse> {
    let Json(wanted) =
        body.map_err(|rejection| ProblemResponse::new(rejection.status(), rejection.body_text()))?;
    let keys = wanted.devices.iter().map(|device| {
        public_key(
            &device.public_key,
            "nothing was changed; send all devices again, each with the public key that it connects with",
        )
    });
    node.set_devices(keys.collect::<Result<_, _>>()?).await?;
    Ok(devices(State(node)).await)
}

async fn bans(State(node): State<Arc<Node>>) -> Json<Bans> {
    let bans = node.bans().into_iter().map(|key| Ban {
        public_key: hex::encode(key),
    });
    Json(Bans { bans: bans.collect() })
}

async fn put_bans(
    State(node): State<Arc<Node>>,
    body: Result<Json<Bans>, JsonRejection>,
) -> Result<Json<Bans>, ProblemResponse> {
    let Json(wanted) =
        body.map_err(|rejection| ProblemResponse::new(rejection.status(), rejection.body_text()))?;
    let keys = wanted.bans.iter().map(|ban| {
        public_key(
            &ban.public_key,
            "nothing was changed; send all bans again, each with the public key that the peer connects with",
        )
    });
    node.set_bans(keys.collect::<Result<_, _>>()?).await?;
    Ok(bans(State(node)).await)
}

fn public_key(text: &str, hint: &str) -> Result<Key, ProblemResponse> {
    parse_key(text).ok_or_else(|| {
        let problem = format!("publicKey: {text:?} is not 64 hex digits");
        ProblemResponse::new(StatusCode::UNPROCESSABLE_ENTITY, problem).hint(hint)
    })
}

/// What happens to an archive's blocks when its pin goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// They stay on the volume and in the backup.
    #[default]
    Retain,
    /// They are deleted from the volume; the backup stays.
    Delete,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    #[serde(default)]
    data: Data,
}

async fn delete_archive(
    State(node): State<Arc<Node>>,
    Path(key): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, ProblemResponse> {
    node.unpin(&archive_key(&key)?, query.data == Data::Delete)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn archive_key(text: &str) -> Result<Key, ProblemResponse> {
    parse_key(text).ok_or_else(|| ProblemResponse::new(StatusCode::BAD_REQUEST, "key: must be 64 hex digits"))
}

fn not_pinned() -> ProblemResponse {
    ProblemResponse::new(StatusCode::NOT_FOUND, "this archive is not pinned here")
        .hint("pin it with PUT /api/v1/archives/{key}")
}

impl From<NodeError> for ProblemResponse {
    fn from(error: NodeError) -> Self {
        let (status, hint) = match &error {
            NodeError::Spec { .. }
            | NodeError::Devices(MembersError::TooMany { .. })
            | NodeError::Bans(BansError::TooMany { .. } | BansError::Member { .. }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, None)
            }
            NodeError::Pin(_) | NodeError::Store(_) | NodeError::Devices(_) | NodeError::Bans(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                Some("look at the volume: is it full or read-only?"),
            ),
            NodeError::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                Some("try again when the node is back"),
            ),
        };
        let problem = Self::new(status, error.to_string());
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
