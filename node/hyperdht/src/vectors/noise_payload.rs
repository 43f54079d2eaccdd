//! `noise-payload.json`.

use std::net::SocketAddrV6;

use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, keep};
use serde_json::{Value, json};

use super::{address, addresses, written, written_all};
use crate::messages::{Firewall, Holepunch, NoisePayload, Relay, RelayThrough, Udx};

pub(super) fn rebuild(case: &Value) -> Rebuilt {
    let read = NoisePayload::decode(&case.bytes("hex")?)?;
    let decoded = shape(&read);
    // Encoders take no versions: they write the only one there is.
    let mut input = decoded.clone();
    let mut parts = vec![&mut input];
    while let Some(part) = parts.pop() {
        if let Some(fields) = part.as_object_mut() {
            fields.remove("version");
            parts.extend(fields.values_mut());
        }
    }
    let mut ours = keep(case, &["name"]);
    ours["hex"] = hexed(described(case.at("input")?)?.encode());
    ours["input"] = input;
    ours["decoded"] = decoded;
    Ok(ours)
}

fn address6(value: &Value) -> Result<SocketAddrV6, Reason> {
    let port = u16::try_from(value.uint("port")?)?;
    Ok(SocketAddrV6::new(value.text("host")?.parse()?, port, 0, 0))
}

/// JavaScript writes all eight groups.
fn written6(address: &SocketAddrV6) -> Value {
    let groups = address.ip().segments().map(|group| format!("{group:x}"));
    json!({"host": groups.join(":"), "port": address.port()})
}

fn described(fields: &Value) -> Result<NoisePayload, Reason> {
    let relay = |relay: &Value| -> Result<Relay, Reason> {
        let (relay_address, peer_address) = (
            address(relay.at("relayAddress")?)?,
            address(relay.at("peerAddress")?)?,
        );
        Ok(Relay {
            relay_address,
            peer_address,
        })
    };
    let holepunch = |fields: &Value| -> Result<Holepunch, Reason> {
        let relays = fields
            .list("relays")?
            .iter()
            .map(relay)
            .collect::<Result<_, _>>()?;
        Ok(Holepunch {
            id: fields.uint("id")?,
            relays,
        })
    };
    let udx = |fields: &Value| -> Result<Udx, Reason> {
        Ok(Udx {
            reusable_socket: fields.flag("reusableSocket")?,
            id: fields.uint("id")?.try_into()?,
            seq: fields.uint("seq")?,
        })
    };
    let through = |fields: &Value| -> Result<RelayThrough, Reason> {
        Ok(RelayThrough {
            public_key: fields.fixed("publicKey")?,
            token: fields.fixed("token")?,
        })
    };
    let relays = fields
        .given("relayAddresses")
        .map(|_| addresses(fields, "relayAddresses"));
    Ok(NoisePayload {
        version: 1,
        error: fields.uint("error")?,
        firewall: Firewall::from_code(fields.uint("firewall")?),
        holepunch: fields.given("holepunch").map(holepunch).transpose()?,
        addresses4: addresses(fields, "addresses4")?,
        addresses6: fields
            .list("addresses6")?
            .iter()
            .map(address6)
            .collect::<Result<_, _>>()?,
        udx: fields.given("udx").map(udx).transpose()?,
        secret_stream: fields.given("secretStream").is_some(),
        relay_through: fields.given("relayThrough").map(through).transpose()?,
        relay_addresses: relays.transpose()?,
    })
}

fn shape(payload: &NoisePayload) -> Value {
    let relay = |relay: &Relay| json!({"relayAddress": written(relay.relay_address), "peerAddress": written(relay.peer_address)});
    let holepunch = payload.holepunch.as_ref().map(|holepunch| {
        json!({"id": holepunch.id, "relays": holepunch.relays.iter().map(relay).collect::<Value>()})
    });
    let udx = (payload.udx.as_ref()).map(
        |udx| json!({"version": 1, "reusableSocket": udx.reusable_socket, "id": udx.id, "seq": udx.seq}),
    );
    let through = (payload.relay_through.as_ref()).map(
        |relay| json!({"version": 1, "publicKey": hexed(relay.public_key), "token": hexed(relay.token)}),
    );
    json!({
        "version": payload.version, "error": payload.error, "firewall": payload.firewall.code(),
        "holepunch": holepunch, "addresses4": written_all(&payload.addresses4),
        "addresses6": payload.addresses6.iter().map(written6).collect::<Value>(), "udx": udx,
        "secretStream": payload.secret_stream.then(|| json!({"version": 1})), "relayThrough": through,
        "relayAddresses": payload.relay_addresses.as_deref().map(written_all),
    })
}
