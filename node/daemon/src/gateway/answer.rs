//! Responses: representations with their tags and ranges, problems, and the headers that all have.

use std::future::ready;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cumulet_api::Problem;
use cumulet_hyperbee::{Blocks, ErrorKind};
use cumulet_hyperdrive::{BlobError, BlobReader};
use futures::{StreamExt, TryStreamExt, stream};
use headers::{ContentLength, ContentRange, ETag, HeaderMapExt};
use tokio::time::timeout;

use super::conditional::{Part, Precondition, part, precondition};

/// Where the bytes of an answer come from.
pub(super) enum Source<B> {
    /// They are here.
    Bytes(Bytes),
    /// They are read block by block.
    Blob(BlobReader<B>),
}

/// What an answer is before anybody asked for a part of it.
pub(super) struct Representation {
    pub(super) etag: ETag,
    pub(super) content_type: HeaderValue,
    /// Bytes.
    pub(super) length: u64,
}

/// Answers preconditions and HEAD alone, and asks `open` for the bytes of the part wanted.
pub(super) async fn represent<B: Blocks + 'static, E: Into<ErrorKind>>(
    request: &Parts,
    of: &Representation,
    patience: Duration,
    open: impl AsyncFnOnce(std::ops::Range<u64>) -> Result<Source<B>, E>,
) -> Response {
    let mut headers = HeaderMap::new();
    headers.typed_insert(of.etag.clone());
    // Fresh only after asking: a version may come at any time, and asking costs no bytes.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    match precondition(&request.headers, &of.etag) {
        Precondition::Proceed => {}
        Precondition::NotModified => return (StatusCode::NOT_MODIFIED, headers).into_response(),
        Precondition::Failed => {
            return problem(
                StatusCode::PRECONDITION_FAILED,
                "The tag is another one now.",
                None,
            );
        }
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A range means something to GET only.
    let wanted = if request.method == Method::GET {
        part(&request.headers, &of.etag, of.length)
    } else {
        Part::Whole
    };
    let (status, range) = match wanted {
        Part::Whole => (StatusCode::OK, 0..of.length),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unsatisfiable => {
            let detail = format!("There are {} bytes.", of.length);
            let mut response = problem(StatusCode::RANGE_NOT_SATISFIABLE, &detail, None);
            response
                .headers_mut()
                .typed_insert(ContentRange::unsatisfied_bytes(of.length));
            return response;
        }
    };
    headers.insert(header::CONTENT_TYPE, of.content_type.clone());
    headers.typed_insert(ContentLength(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(content_range) = ContentRange::bytes(range.clone(), of.length)
    {
        headers.typed_insert(content_range);
    }
    if request.method == Method::HEAD || range.is_empty() {
        return (status, headers).into_response();
    }
    let begun = timeout(patience, async {
        begin(open(range).await.map_err(Into::into)?, patience).await
    })
    .await;
    match begun {
        Ok(Ok(body)) => (status, headers, body).into_response(),
        Ok(Err(kind)) => failure(kind),
        Err(_) => failure(ErrorKind::Unavailable),
    }
}

/// A body whose first bytes are here, so that their absence can still be told in the status.
async fn begin<B: Blocks + 'static>(source: Source<B>, patience: Duration) -> Result<Body, ErrorKind> {
    let mut reader = match source {
        Source::Bytes(bytes) => return Ok(Body::from(bytes)),
        Source::Blob(reader) => reader,
    };
    let first = reader.next().await.map_err(|error| error.kind())?;
    let rest = reader.into_stream().map_err(Stalled::Blob);
    // A dropped body drops the reader: nothing is fetched for a client that has gone.
    let rest = stream::unfold(Box::pin(rest), move |mut rest| async move {
        let next = timeout(patience, rest.next())
            .await
            .unwrap_or(Some(Err(Stalled::Waited(patience))));
        next.map(|next| (next, rest))
    });
    // After its first error the stream is over; hyper then breaks the connection off.
    let mut failed = false;
    let rest = rest.take_while(move |next| ready(!std::mem::replace(&mut failed, next.is_err())));
    Ok(Body::from_stream(stream::iter(first.map(Ok)).chain(rest)))
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
enum Stalled {
    #[error(transparent)]
    Blob(BlobError),
    #[error("failed to get the next block within {0:?}")]
    Waited(Duration),
}

/// The one answer for everything that the world can't read here, whatever the reason.
pub(super) fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "Nothing is served at this address.", None)
}

/// The answer for an archive that can't be read now.
pub(super) fn failure(kind: ErrorKind) -> Response {
    match kind {
        ErrorKind::Unavailable => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "The archive is pinned, but the blocks of this answer are not here yet.",
            Some("Try again later, or bring a peer online that has them."),
        ),
        ErrorKind::Damaged => problem(
            StatusCode::BAD_GATEWAY,
            "The archive's own data is damaged.",
            Some("Only its writer can repair it."),
        ),
        ErrorKind::Invalid => not_found(),
        ErrorKind::Failed => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Storage or network of this node failed.",
            Some("The node's log says what happened."),
        ),
    }
}

/// An error as RFC 9457 problem details.
pub(super) fn problem(status: StatusCode, detail: &str, hint: Option<&str>) -> Response {
    let problem = Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        hint: hint.map(str::to_owned),
    };
    let content_type = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    )];
    (status, content_type, Json(problem)).into_response()
}

/// Adds what every answer has.
pub(super) fn secure(headers: &mut HeaderMap) {
    for (name, value) in [
        // What is not HTML must not become it.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Pages of all archives come from one host. Without an origin of their own they can't read each other, nor share
        // cookies or storage. On every type: SVG and XML run scripts as well.
        (
            header::CONTENT_SECURITY_POLICY,
            "sandbox allow-scripts allow-forms allow-popups allow-downloads",
        ),
        // The address holds the key, which is the right to read.
        (header::REFERRER_POLICY, "no-referrer"),
        // Keys in addresses are for those who have them.
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
