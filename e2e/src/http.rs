//! Plain HTTP, as a browser would ask the gateway.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

/// A gateway that has to fetch from a peer answers within seconds; one that hangs is a failure.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest body that is read: above the largest file of the tests.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers by lower-case name; of a repeated one, the last.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
}

/// Asks for a URL, with further headers.
pub fn get(url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    ask(url, headers, ureq::Agent::config_builder())
}

/// As [`get`], over TLS, trusting this authority (PEM) alone.
pub fn get_tls(url: &str, headers: &[(&str, &str)], authority: &[u8]) -> Result<Answer> {
    let authority =
        ureq::tls::Certificate::from_pem(authority).context("failed to read the authority's certificate")?;
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[authority]))
        .build();
    ask(url, headers, ureq::Agent::config_builder().tls_config(tls))
}

fn ask(
    url: &str,
    headers: &[(&str, &str)],
    configuration: ureq::config::ConfigBuilder<ureq::typestate::AgentScope>,
) -> Result<Answer> {
    let agent: ureq::Agent = configuration
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.call().with_context(|| format!("failed to get {url}"))?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_BODY_BYTES)
        .read_to_vec();
    Ok(Answer {
        status,
        headers,
        body: body.with_context(|| format!("failed to read {url}"))?,
    })
}

/// A path of an archive as it stands in a URL: every byte but unreserved ones and slashes is escaped (RFC 3986).
pub fn escape_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}"); // Writing into a String cannot fail.
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_script_become_plain_urls() {
        assert_eq!(escape_path("/a b/ü%.txt"), "/a%20b/%C3%BC%25.txt");
    }
}
