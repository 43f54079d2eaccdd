//! `hyperdht-messages.json` and `hyperdht-address.json`.

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, hexed_or_null, keep, unhex, unknown};
use serde_json::{Value, json};

use super::{address, addresses, optional_address, written, written_all};
use crate::crypto::hash;
use crate::messages::{
    Announce, Firewall, Handshake, HolepunchMessage, HolepunchPayload, LookupReply, MutablePut,
    MutableRecord, PeerRecord, PluginRequest, SharedAddress, mutable_signable,
};

pub(super) fn rebuild(case: &Value) -> Rebuilt {
    let (kind, input, hex) = (case.text("kind")?, case.at("input")?, case.bytes("hex")?);
    let (encoded, decoded) = match kind {
        "handshake" => (
            handshake(input)?.encode(),
            handshake_shape(&Handshake::decode(&hex)?),
        ),
        "holepunch" => (
            holepunch(input)?.encode(),
            holepunch_shape(&HolepunchMessage::decode(&hex)?),
        ),
        "holepunchPayload" => (
            payload(input)?.encode().into(),
            payload_shape(&HolepunchPayload::decode(&hex)?),
        ),
        "peer" => (peer(input)?.encode(), peer_shape(&PeerRecord::decode(&hex)?)),
        "lookupRawReply" => {
            let records = input
                .list("peers")?
                .iter()
                .map(|peer| unhex(peer).map(Bytes::from));
            let read = LookupReply::decode(&hex)?;
            let peers: Value = read.peers.iter().map(peer_shape).collect();
            (
                LookupReply::encode(&records.collect::<Result<Vec<_>, _>>()?, input.uint("bump")?),
                json!({"peers": peers, "bump": read.bump}),
            )
        }
        "announce" => (
            announce(input)?.encode(),
            announce_shape(&Announce::decode(&hex)?),
        ),
        "mutableSignable" => {
            // Only the hash of these bytes is ever made.
            let signable = mutable_signable(input.uint("seq")?, &input.bytes("value")?);
            ensure(
                signable.ends_with(&hash(&[&hex])),
                "what is signed is not the hash of hex",
            )?;
            let mut reader = Reader::new(&hex);
            let decoded = json!({"seq": reader.uint()?, "value": hexed(reader.buffer()?)});
            (hex.into(), decoded)
        }
        "mutablePutRequest" => {
            let made = MutablePut {
                public_key: input.fixed("publicKey")?,
                record: record(input)?,
            };
            let read = MutablePut::decode(&hex)?;
            let mut decoded = record_shape(&read.record);
            decoded["publicKey"] = hexed(read.public_key);
            (made.encode(), decoded)
        }
        "mutableGetResponse" => (
            record(input)?.encode(),
            record_shape(&MutableRecord::decode(&hex)?),
        ),
        "pluginRequest" => plugin(input, &hex)?,
        kind => return unknown("kind", kind),
    };
    let mut ours = keep(case, &["kind"]);
    // What was encoded has the fields of what was decoded, but for records that are passed on as they are.
    ours["input"] = match kind {
        "lookupRawReply" => keep(input, &["peers", "bump"]),
        _ => decoded.clone(),
    };
    ours["hex"] = hexed(encoded);
    ours["decoded"] = decoded;
    Ok(ours)
}

pub(super) fn handshake(fields: &Value) -> Result<Handshake, Reason> {
    Ok(Handshake {
        mode: fields.uint("mode")?,
        noise: fields.optional_bytes("noise")?.map(Bytes::from),
        peer_address: optional_address(fields, "peerAddress")?,
        relay_address: optional_address(fields, "relayAddress")?,
    })
}

pub(super) fn handshake_shape(message: &Handshake) -> Value {
    json!({
        "mode": message.mode, "noise": hexed_or_null(message.noise.as_ref()),
        "peerAddress": message.peer_address.map(written), "relayAddress": message.relay_address.map(written),
    })
}

pub(super) fn holepunch(fields: &Value) -> Result<HolepunchMessage, Reason> {
    Ok(HolepunchMessage {
        mode: fields.uint("mode")?,
        id: fields.uint("id")?,
        payload: fields.optional_bytes("payload")?.map(Bytes::from),
        peer_address: optional_address(fields, "peerAddress")?,
    })
}

pub(super) fn holepunch_shape(message: &HolepunchMessage) -> Value {
    json!({
        "mode": message.mode, "id": message.id, "payload": hexed_or_null(message.payload.as_ref()),
        "peerAddress": message.peer_address.map(written),
    })
}

pub(super) fn payload(fields: &Value) -> Result<HolepunchPayload, Reason> {
    let list = fields.given("addresses").map(|_| addresses(fields, "addresses"));
    Ok(HolepunchPayload {
        error: fields.uint("error")?,
        firewall: Firewall::from_code(fields.uint("firewall")?),
        round: fields.uint("round")?,
        connected: fields.flag("connected")?,
        punching: fields.flag("punching")?,
        addresses: list.transpose()?,
        remote_address: optional_address(fields, "remoteAddress")?,
        token: fields.optional_fixed("token")?,
        remote_token: fields.optional_fixed("remoteToken")?,
    })
}

pub(super) fn payload_shape(message: &HolepunchPayload) -> Value {
    json!({
        "error": message.error, "firewall": message.firewall.code(), "round": message.round,
        "connected": message.connected, "punching": message.punching,
        "addresses": message.addresses.as_deref().map(written_all),
        "remoteAddress": message.remote_address.map(written),
        "token": hexed_or_null(message.token), "remoteToken": hexed_or_null(message.remote_token),
    })
}

pub(super) fn peer(fields: &Value) -> Result<PeerRecord, Reason> {
    Ok(PeerRecord {
        public_key: fields.fixed("publicKey")?,
        relay_addresses: addresses(fields, "relayAddresses")?,
    })
}

pub(super) fn peer_shape(record: &PeerRecord) -> Value {
    json!({"publicKey": hexed(record.public_key), "relayAddresses": written_all(&record.relay_addresses)})
}

fn announce(fields: &Value) -> Result<Announce, Reason> {
    Ok(Announce {
        peer: fields.given("peer").map(peer).transpose()?,
        refresh: fields.optional_fixed("refresh")?,
        signature: fields.optional_fixed("signature")?,
        bump: fields.uint("bump")?,
    })
}

fn announce_shape(message: &Announce) -> Value {
    json!({
        "peer": message.peer.as_ref().map(peer_shape), "refresh": hexed_or_null(message.refresh),
        "signature": hexed_or_null(message.signature), "bump": message.bump,
    })
}

fn record(fields: &Value) -> Result<MutableRecord, Reason> {
    Ok(MutableRecord {
        seq: fields.uint("seq")?,
        value: fields.bytes("value")?.into(),
        signature: fields.fixed("signature")?,
    })
}

fn record_shape(record: &MutableRecord) -> Value {
    json!({"seq": record.seq, "value": hexed(&record.value), "signature": hexed(record.signature)})
}

fn plugin(input: &Value, hex: &[u8]) -> Result<(Bytes, Value), Reason> {
    let made = PluginRequest {
        plugin: input.text("plugin")?.to_owned(),
        version: input.uint("version")?,
        command: input.uint("command")?,
        value: input.optional_bytes("value")?.map(Bytes::from),
    };
    let read = PluginRequest::decode(hex)?;
    let decoded = json!({
        "plugin": read.plugin, "version": read.version, "command": read.command, "value": hexed_or_null(read.value),
    });
    Ok((made.encode().into(), decoded))
}

pub(super) fn shared_address(case: &Value) -> Rebuilt {
    let nodes = match case.at("nodes")? {
        Value::Null => None,
        nodes => Some(
            cumulet_vectors::items(nodes)?
                .iter()
                .map(address)
                .collect::<Result<_, _>>()?,
        ),
    };
    let made = SharedAddress {
        key: case.fixed("key")?,
        nodes,
    };
    let read = SharedAddress::decode(&case.bytes("hex")?)?;
    Ok(json!({
        "key": hexed(read.key), "nodes": read.nodes.as_deref().map(written_all), "hex": hexed(made.encode()),
    }))
}
