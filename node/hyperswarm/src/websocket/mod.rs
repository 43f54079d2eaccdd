//! Secret streams in WebSockets, for networks that let only HTTP through, and for hosts behind an Ingress or a proxy.
//!
//! A client asks for the subprotocol [`SUBPROTOCOL`] (RFC 6455, section 1.9); then the binary messages of both sides, whatever
//! their lengths, are one stream of bytes each, and it carries what TCP carries: a Noise XX handshake in frames of a 24-bit
//! little-endian length, then the secret stream. So JavaScript's secret stream over a duplex of a WebSocket speaks it. By the
//! subprotocol, and not by a path, it shares a listener with the DHT for browsers (npm `@hyperswarm/dht-relay`, whose clients ask
//! for none): proxies rewrite paths, and a server that does not know the subprotocol does not confirm it, so that the client
//! knows at once.
//!
//! - A message has at most [`MAX_MESSAGE_BYTES`]; one such, and as much in a buffer, waits in each direction. Who does not read is
//!   not sent to.
//! - Both sides ping every 15 s, for proxies cut what is silent; a peer that says nothing for 45 s is gone.
//! - Ending the bytes closes the WebSocket. There is no half of it that stays open: what the peer had said by then still comes.
//!
//! TLS is the envelope only: who the peer is, the handshake inside says. Proxies that want to be asked (`CONNECT`) are not.

mod bytes;
mod url;

pub use self::bytes::WebSocketBytes;
pub use self::url::{WebSocketUrl, WebSocketUrlError};

use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config, client_async_with_config};
use tokio_util::task::TaskTracker;

use crate::connection::set_up;
use crate::direct::DirectError;
use crate::watched::Watched;

/// What a client asks for in `Sec-WebSocket-Protocol`, and the server confirms.
pub const SUBPROTOCOL: &str = "v1.secret-stream.cumulet.io";

/// Longest message that is sent, and taken.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How a WebSocket for a secret stream is set up.
pub fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(16 * 1024)
        // Nothing waits for more to come; what does not fit the connection waits, one message beside a pong.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE_BYTES + 1024)
}

/// Whether the request of a WebSocket's client asks for a secret stream. If so, the answer must [`confirm`] it.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let asked = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    asked
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}

/// Tells the client that it gets a secret stream.
pub fn confirm(headers: &mut HeaderMap) {
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
}

/// Opens a WebSocket to a host.
pub(crate) async fn open(
    url: &WebSocketUrl,
    tls: Option<&Arc<ClientConfig>>,
    tasks: &TaskTracker,
) -> Result<Watched<WebSocketBytes>, DirectError> {
    let stream = TcpStream::connect((url.host(), url.port())).await?;
    set_up(&stream)?;
    if !url.is_tls() {
        return ask(url, stream, tasks).await;
    }
    let tls = tls.ok_or(DirectError::NoTls)?;
    let stream = TlsConnector::from(tls.clone())
        .connect(server_name(url.host())?, stream)
        .await?;
    ask(url, stream, tasks).await
}

fn server_name(host: &str) -> Result<ServerName<'static>, DirectError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.into());
    }
    ServerName::try_from(host.to_owned()).map_err(|_| DirectError::NoTls)
}

async fn ask<Io>(
    url: &WebSocketUrl,
    io: Io,
    tasks: &TaskTracker,
) -> Result<Watched<WebSocketBytes>, DirectError>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let request = ClientRequestBuilder::new(url.uri().clone()).with_sub_protocol(SUBPROTOCOL);
    let opening = client_async_with_config(request, io, Some(socket_config()));
    let (socket, _) = opening.await.map_err(Box::new)?;
    Ok(bytes::carry(socket, tasks))
}

/// Takes a WebSocket on a connection on which nothing but secret streams is offered.
pub(crate) async fn accept(
    stream: TcpStream,
    tasks: &TaskTracker,
) -> Result<Watched<WebSocketBytes>, DirectError> {
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let answer = |request: &Request, mut response: Response| {
        if is_asked_for(request.headers()) {
            confirm(response.headers_mut());
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some(format!("ask for the subprotocol {SUBPROTOCOL}\n")));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        Err(refusal)
    };
    let accepting = accept_hdr_async_with_config(stream, answer, Some(socket_config()));
    let socket = accepting.await.map_err(Box::new)?;
    Ok(bytes::carry(socket, tasks))
}

/// Takes a WebSocket that a web server has upgraded.
pub(crate) fn take<Io>(socket: WebSocketStream<Io>, tasks: &TaskTracker) -> Watched<WebSocketBytes>
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    bytes::carry(socket, tasks)
}
