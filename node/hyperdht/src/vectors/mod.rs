//! Rebuilding recorded cases about what is private in this crate: messages, tables, rules. For conformance tests; see
//! the crate `cumulet-vectors` for what rebuilding means.

mod messages;
mod noise_payload;
mod router;
mod rpc;
mod rules;
mod signed;

use std::net::SocketAddrV4;

use cumulet_vectors::{Fields, Reason, Rebuilt};
use serde_json::{Value, json};

/// What rebuilds a case of the file of this name; none if the file is not about this crate.
pub fn rebuilder(file: &str) -> Option<fn(&Value) -> Rebuilt> {
    Some(match file {
        "announce-signatures" => signed::announcement,
        "dht-rpc-ids" => rpc::id,
        "dht-rpc-requests" => rpc::request,
        "dht-rpc-responses" => rpc::response,
        "dht-rpc-tokens" => rpc::tokens,
        "holepunch-secure-payload" => signed::holepunch,
        "hyperdht-address" => messages::shared_address,
        "hyperdht-constants" => rules::constants,
        "hyperdht-messages" => messages::rebuild,
        "lan-match" => rules::lan_match,
        "mutable-immutable" => signed::value,
        "nat-classify" => rules::nat_class,
        "nat-sampler" => rules::nat_sampler,
        "noise-payload" => noise_payload::rebuild,
        "router" => router::rebuild,
        "routing-table" => rpc::table,
        _ => return None,
    })
}

fn address(value: &Value) -> Result<SocketAddrV4, Reason> {
    let port = u16::try_from(value.uint("port")?)?;
    Ok(SocketAddrV4::new(value.text("host")?.parse()?, port))
}

fn optional_address(fields: &Value, name: &str) -> Result<Option<SocketAddrV4>, Reason> {
    fields.given(name).map(address).transpose()
}

fn addresses(fields: &Value, name: &str) -> Result<Vec<SocketAddrV4>, Reason> {
    fields.list(name)?.iter().map(address).collect()
}

fn written(address: SocketAddrV4) -> Value {
    json!({"host": address.ip().to_string(), "port": address.port()})
}

fn written_all(addresses: &[SocketAddrV4]) -> Value {
    addresses.iter().copied().map(written).collect()
}
