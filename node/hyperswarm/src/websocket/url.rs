//! Where a host listens for WebSockets.

use std::fmt;
use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::http::uri::{Authority, Scheme};

/// Longest URL, bytes: what HTTP servers take for a request line.
const MAX_BYTES: usize = 2_048;

/// `ws://host[:port][/path][?query]`, or `wss://` with TLS.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebSocketUrl {
    uri: Uri,
    is_tls: bool,
}

/// A text that is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no WebSocket address, {problem}: write ws://host:port/path or wss://host/path")]
pub struct WebSocketUrlError {
    text: String,
    problem: &'static str,
}

impl FromStr for WebSocketUrl {
    type Err = WebSocketUrlError;

    fn from_str(text: &str) -> Result<Self, WebSocketUrlError> {
        let wrong = |problem| WebSocketUrlError {
            text: text.chars().take(64).collect(),
            problem,
        };
        if text.len() > MAX_BYTES {
            return Err(wrong("it is too long"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("it can't be read"))?;
        let is_tls = match uri.scheme().map(Scheme::as_str) {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(wrong("it starts neither with ws:// nor with wss://")),
        };
        let authority = uri.authority().map(Authority::as_str);
        let authority = authority.ok_or_else(|| wrong("it names no host"))?;
        if authority.contains('@') {
            return Err(wrong("a user has no place in it"));
        }
        // A port that is no number is taken for none.
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, after)| !after.ends_with(']'));
        if uri.host().is_none_or(str::is_empty) || has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("it names no host or no good port"));
        }
        Ok(Self { uri, is_tls })
    }
}

impl WebSocketUrl {
    /// The host's name or address, the latter without brackets.
    pub fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port: that of HTTP, or of HTTPS, where none is written.
    pub fn port(&self) -> u16 {
        let default = if self.is_tls { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    /// Whether it starts with `wss://`.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }
}

impl fmt::Display for WebSocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl fmt::Debug for WebSocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_and_default_as_http_does() {
        for (text, host, port, is_tls) in [
            ("ws://cloud.example", "cloud.example", 80, false),
            ("wss://cloud.example/swarm?x=1", "cloud.example", 443, true),
            ("ws://127.0.0.1:8090/", "127.0.0.1", 8090, false),
            ("wss://[2001:db8::1]:8443/", "2001:db8::1", 8443, true),
            ("ws://[::1]", "::1", 80, false),
        ] {
            let url: WebSocketUrl = text.parse().unwrap();
            assert_eq!(
                (url.host(), url.port(), url.is_tls()),
                (host, port, is_tls),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_fit() {
        for text in [
            "",
            "cloud.example",
            "/path",
            "http://cloud.example/",
            "ws://",
            "ws:///path",
            "ws://user:word@cloud.example/",
            "ws://cloud.example:0/",
            "ws://cloud.example:port/",
            "ws://cloud.example:66000/",
            "ws://cloud example/",
            &format!("ws://{}/", "a".repeat(MAX_BYTES)),
        ] {
            let error = text.parse::<WebSocketUrl>().unwrap_err().to_string();
            assert!(error.contains("wss://host/path") && error.len() < 256, "{error}");
        }
    }
}
