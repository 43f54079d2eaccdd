//! Files about numbers and rules: constants, addresses in a local network, what kind of NAT we are behind.

use cumulet_vectors::{Fields, Rebuilt, hexed, keep, unknown};
use serde_json::{Value, json};

use super::{address, addresses, written, written_all};
use crate::address::match_local;
use crate::crypto::{hash, namespace};
use crate::messages::{Firewall, command, error_code};
use crate::node::nat_class::NatClass;
use crate::rpc::nat::NatSampler;

/// The command of extensions, which we don't serve.
const PLUGIN: u64 = 10;

pub(super) fn constants(case: &Value) -> Rebuilt {
    let mut ours = keep(case, &["name", "rule"]);
    ours["values"] = match case.text("name")? {
        "commands" => json!({
            "PEER_HANDSHAKE": command::PEER_HANDSHAKE, "PEER_HOLEPUNCH": command::PEER_HOLEPUNCH,
            "FIND_PEER": command::FIND_PEER, "LOOKUP": command::LOOKUP, "ANNOUNCE": command::ANNOUNCE,
            "UNANNOUNCE": command::UNANNOUNCE, "MUTABLE_PUT": command::MUTABLE_PUT, "MUTABLE_GET": command::MUTABLE_GET,
            "IMMUTABLE_PUT": command::IMMUTABLE_PUT, "IMMUTABLE_GET": command::IMMUTABLE_GET, "PLUGIN": PLUGIN,
        }),
        "firewall" => json!({
            "UNKNOWN": Firewall::Unknown.code(), "OPEN": Firewall::Open.code(),
            "CONSISTENT": Firewall::Consistent.code(), "RANDOM": Firewall::Random.code(),
        }),
        "errors" => json!({
            "NONE": error_code::NONE, "ABORTED": error_code::ABORTED, "VERSION_MISMATCH": error_code::VERSION_MISMATCH,
            "TRY_LATER": error_code::TRY_LATER, "SEQ_REUSED": error_code::SEQ_REUSED,
            "SEQ_TOO_LOW": error_code::SEQ_TOO_LOW,
        }),
        "namespaces" => {
            ours["base"] = hexed(hash(&[b"hyperswarm/dht"]));
            let of = |command: u64| hexed(namespace(command as u8));
            json!({
                "ANNOUNCE": of(command::ANNOUNCE), "UNANNOUNCE": of(command::UNANNOUNCE),
                "MUTABLE_PUT": of(command::MUTABLE_PUT), "PEER_HANDSHAKE": of(command::PEER_HANDSHAKE),
                "PEER_HOLEPUNCH": of(command::PEER_HOLEPUNCH), "PLUGIN": of(PLUGIN),
            })
        }
        name => return unknown("constants", name),
    };
    Ok(ours)
}

pub(super) fn lan_match(case: &Value) -> Rebuilt {
    let (local, remote) = (addresses(case, "local")?, addresses(case, "remote")?);
    Ok(json!({
        "local": written_all(&local), "remote": written_all(&remote), "match": match_local(&local, &remote).map(written),
    }))
}

pub(super) fn nat_class(case: &Value) -> Rebuilt {
    let is_firewalled = case.flag("dht_firewalled")?;
    let mut class = NatClass::new(!is_firewalled);
    let mut steps = Vec::new();
    for step in case.list("steps")? {
        let (observed, from) = (address(step.at("observed")?)?, address(step.at("from")?)?);
        class.add(observed, from);
        let mut ours = json!({"observed": written(observed), "from": written(from)});
        ours["sampled"] = class.sampled().into();
        ours["firewall"] = class.firewall().code().into();
        ours["addresses"] = class
            .addresses()
            .map_or(Value::Null, |addresses| written_all(addresses));
        steps.push(ours);
    }
    Ok(json!({"dht_firewalled": is_firewalled, "steps": steps}))
}

pub(super) fn nat_sampler(case: &Value) -> Rebuilt {
    let mut sampler = NatSampler::default();
    let mut steps = Vec::new();
    for step in case.list("steps")? {
        let added = address(step.at("add")?)?;
        let hits = sampler.add(added);
        let host = sampler.host().map(|host| host.to_string());
        steps.push(json!({"add": written(added), "hits": hits, "host": host, "port": sampler.port()}));
    }
    let mut ours = keep(case, &["name"]);
    ours["steps"] = steps.into();
    Ok(ours)
}
