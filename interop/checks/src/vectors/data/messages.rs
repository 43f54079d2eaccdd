//! `messages.json`: the messages of a Hypercore channel.

use bytes::Bytes;
use cumulet_hypercore::crypto::{hash, leaf_hash};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Data, Handshake, Message, Request};
use cumulet_hypercore::node::Node;
use cumulet_hypercore::proof::{BlockProof, Proof};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, hexed_or_null, keep, unknown};
use serde_json::{Value, json};

/// The messages' names in the vectors, by their numbers.
pub(super) const NAMES: [&str; 10] = [
    "sync",
    "request",
    "cancel",
    "data",
    "noData",
    "want",
    "unwant",
    "bitfield",
    "range",
    "extension",
];

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "handshake" => {
            let value = case.at("value")?;
            let made = Handshake {
                seeks: value.flag("seeks")?,
                capability: value.fixed("capability")?,
            };
            let mut ours = keep(case, &["kind"]);
            ours["type"] = Value::Null;
            ours["value"] = handshake_shape(&Handshake::decode(&case.bytes("hex")?)?);
            ours["hex"] = hexed(made.encode());
            Ok(ours)
        }
        "data-big-block" => big_block(case),
        "refuse" => {
            let message = Message::decode(number(case.text("message")?)?, &case.bytes("hex")?.into());
            ensure(message.is_err(), "was decoded, should be refused")?;
            Ok(keep(case, &["kind", "message", "hex", "error"]))
        }
        "noData-legacy" => {
            let mut ours = keep(case, &["kind", "hex", "note"]);
            ours["type"] = 4.into();
            ours["value"] = shape(&Message::decode(4, &case.bytes("hex")?.into())?);
            Ok(ours)
        }
        "trailing-bytes-ignored" => {
            let number = number(case.text("message")?)?;
            let mut ours = keep(case, &["kind", "message", "hex"]);
            ours["value"] = shape(&Message::decode(number, &case.bytes("hex")?.into())?);
            Ok(ours)
        }
        name => {
            let number = number(name)?;
            let message = Message::decode(number, &case.bytes("hex")?.into())?;
            ensure(message.kind() == number, "decodes to another message")?;
            let mut ours = keep(case, &["kind"]);
            ours["type"] = number.into();
            ours["value"] = shape(&message);
            ours["hex"] = hexed(message.encode());
            Ok(ours)
        }
    }
}

fn number(name: &str) -> Result<u64, Reason> {
    match NAMES.iter().position(|known| *known == name) {
        Some(number) => Ok(number as u64),
        None => unknown("message", name),
    }
}

pub(super) fn handshake_shape(handshake: &Handshake) -> Value {
    json!({"seeks": handshake.seeks, "capability": hexed(handshake.capability)})
}

fn node_shapes(nodes: &[Node]) -> Value {
    (nodes.iter())
        .map(|node| json!({"index": node.index, "size": node.size, "hash": hexed(node.hash)}))
        .collect()
}

/// A manifest in the JSON shape of the vectors.
pub(super) fn manifest_shape(manifest: &Manifest) -> Value {
    let signers: Value = (manifest.signers.iter())
        .map(|signer| {
            json!({"signature": "ed25519", "namespace": hexed(signer.namespace), "publicKey": hexed(signer.public_key)})
        })
        .collect();
    json!({
        "version": manifest.version, "hash": "blake2b", "allowPatch": manifest.allow_patch, "quorum": manifest.quorum,
        "signers": signers,
        "prologue": manifest.prologue.map(|prologue| json!({"hash": hexed(prologue.hash), "length": prologue.length})),
        "linked": manifest.linked.as_ref().map(|linked| linked.iter().map(hexed).collect::<Vec<_>>()),
        "userData": hexed_or_null(manifest.user_data.as_ref()),
    })
}

fn data_shape(data: &Data) -> Value {
    let proof = &data.proof;
    json!({
        "request": data.request, "fork": proof.fork,
        "block": proof.block.as_ref().map(|part| {
            json!({"index": part.index, "value": hexed(&part.value), "nodes": node_shapes(&part.nodes)})
        }),
        "hash": proof.hash.as_ref().map(|part| json!({"index": part.index, "nodes": node_shapes(&part.nodes)})),
        "seek": proof.seek.as_ref().map(|part| json!({"bytes": part.bytes, "nodes": node_shapes(&part.nodes)})),
        "upgrade": proof.upgrade.as_ref().map(|part| json!({
            "start": part.start, "length": part.length, "nodes": node_shapes(&part.nodes),
            "additionalNodes": node_shapes(&part.additional_nodes), "signature": hexed_or_null(part.signature.as_ref()),
        })),
        "manifest": proof.manifest.as_ref().map(manifest_shape),
    })
}

fn request_shape(request: &Request) -> Value {
    json!({
        "id": request.id, "fork": request.fork, "manifest": request.manifest, "priority": request.priority,
        "block": request.block.map(|part| json!({"index": part.index, "nodes": part.nodes})),
        "hash": request.hash.map(|part| json!({"index": part.index, "nodes": part.nodes})),
        "seek": request.seek.map(|part| json!({"bytes": part.bytes, "padding": part.padding})),
        "upgrade": request.upgrade.map(|part| json!({"start": part.start, "length": part.length})),
    })
}

/// A message in the JSON shape of the vectors.
pub(super) fn shape(message: &Message) -> Value {
    match message {
        Message::Sync(sync) => json!({
            "fork": sync.fork, "length": sync.length, "remoteLength": sync.remote_length,
            "canUpgrade": sync.can_upgrade, "uploading": sync.uploading, "downloading": sync.downloading,
            "hasManifest": sync.has_manifest, "allowPush": sync.allow_push,
        }),
        Message::Request(request) => request_shape(request),
        Message::Cancel(cancel) => json!({"request": cancel.request}),
        Message::Data(data) => data_shape(data),
        Message::NoData(no_data) => json!({"request": no_data.request, "reason": no_data.reason}),
        Message::Want(want) => json!({"start": want.start, "length": want.length, "any": want.any}),
        Message::Unwant(want) => json!({"start": want.start, "length": want.length, "any": want.any}),
        Message::Bitfield(bitfield) => json!({"start": bitfield.start, "bitfield": bitfield.words}),
        Message::Range(range) => json!({"drop": range.drop, "start": range.start, "length": range.length}),
        Message::Extension(extension) => {
            json!({"name": extension.name, "message": hexed(&extension.payload)})
        }
    }
}

/// A data message too long to be written out in the file.
fn big_block(case: &Value) -> Rebuilt {
    let byte = case.bytes("valueByte")?;
    let [byte] = byte[..] else {
        return Err(Reason::new("valueByte is not one byte"));
    };
    let value = vec![byte; case.uint("valueLength")?.try_into()?];
    let node = |node: &Value| -> Result<Node, Reason> {
        Ok(Node {
            index: node.uint("index")?,
            size: node.uint("size")?,
            hash: node.fixed("hash")?,
        })
    };
    let nodes = case
        .list("nodes")?
        .iter()
        .map(node)
        .collect::<Result<Vec<_>, _>>()?;
    let leaf = leaf_hash(&value);
    let block = BlockProof {
        index: case.uint("index")?,
        value: value.into(),
        nodes,
    };
    let proof = Proof {
        fork: case.uint("fork")?,
        block: Some(block),
        ..Proof::default()
    };
    let message = Message::Data(Data {
        request: case.uint("request")?,
        proof,
    });
    let encoded = Bytes::from(message.encode());
    ensure(
        Message::decode(3, &encoded)? == message,
        "does not decode to what was encoded",
    )?;
    let prefix = case.bytes("prefix")?.len().min(encoded.len());
    let mut ours = keep(
        case,
        &["kind", "valueLength", "valueByte", "index", "request", "fork"],
    );
    ours["type"] = 3.into();
    ours["nodes"] = match &message {
        Message::Data(data) => data
            .proof
            .block
            .as_ref()
            .map(|part| node_shapes(&part.nodes))
            .into(),
        _ => Value::Null,
    };
    ours["prefix"] = hexed(&encoded[..prefix]);
    ours["encodedLength"] = encoded.len().into();
    ours["encodedHash"] = hexed(hash(&[&encoded]));
    ours["leafHash"] = hexed(leaf);
    Ok(ours)
}
