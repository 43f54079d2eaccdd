//! Names of bootstrap nodes to addresses, and the addresses of our own interfaces.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Addresses taken from one name.
const MAX_PER_NAME: usize = 4;

/// Resolves `host:port` (or `ip@host:port`, where the address saves the lookup) to IPv4 addresses. Names that do not
/// resolve now are left out; the caller tries again later.
pub(super) async fn resolve(names: Vec<String>) -> Vec<SocketAddrV4> {
    let mut addresses = Vec::new();
    for name in names {
        let (suggested, name) = match name.split_once('@') {
            Some((address, host)) => (address.parse::<Ipv4Addr>().ok(), host.to_owned()),
            None => (None, name),
        };
        let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        if let (Some(host), Some(port)) = (suggested, port) {
            addresses.push(SocketAddrV4::new(host, port));
            continue;
        }
        match tokio::net::lookup_host(&name).await {
            Ok(found) => {
                let ipv4 = found.filter_map(|address| {
                    if let SocketAddr::V4(v4) = address {
                        Some(v4)
                    } else {
                        None
                    }
                });
                addresses.extend(ipv4.take(MAX_PER_NAME));
            }
            Err(error) => tracing::debug!(%name, %error, "bootstrap name does not resolve"),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Our addresses in the local networks, at the server socket's port: only the bound one if bound to one.
pub(super) fn local_addresses(bound: SocketAddrV4) -> Vec<SocketAddrV4> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<SocketAddrV4> = interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .filter_map(|interface| {
            if let std::net::IpAddr::V4(host) = interface.ip() {
                Some(host)
            } else {
                None
            }
        })
        .map(|host| SocketAddrV4::new(host, bound.port()))
        .collect();
    if addresses.is_empty() {
        addresses.push(SocketAddrV4::new(Ipv4Addr::LOCALHOST, bound.port()));
    }
    addresses
}
