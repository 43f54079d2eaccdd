//! `blind-peer.json`.

use cumulet_relay::blind_peer::{
    AddCore, CoreRecord, Cores, Count, DeleteCore, Deleted, Mailbox, PostToMailbox, ResolvePeers,
    ResolvedPeer, ResolvedPeers, TopK,
};
use cumulet_relay::wakeup::CoreHint;
use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, hexed_or_null, keep, unknown};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    let (input, hex) = (case.at("input")?, case.bytes("hex")?);
    let (encoded, decoded) = match case.text("kind")? {
        "add-core-request" => (add_core(input)?.encode(), add_core_shape(&AddCore::decode(&hex)?)),
        "core-record" => (record(input)?.encode(), record_shape(&CoreRecord::decode(&hex)?)),
        "delete-core-request" => (
            DeleteCore {
                key: input.fixed("key")?,
            }
            .encode(),
            json!({"key": hexed(DeleteCore::decode(&hex)?.key)}),
        ),
        "delete-core-response" => {
            let existed = input
                .as_bool()
                .ok_or_else(|| Reason::new("input is not a boolean"))?;
            (
                Deleted { existed }.encode(),
                Deleted::decode(&hex)?.existed.into(),
            )
        }
        "muxer-cores" => (cores(input)?.encode(), cores_shape(&Cores::decode(&hex)?)),
        "post-to-mailbox-request" => {
            let (mailbox, message) = (input.bytes("mailbox")?.into(), input.bytes("message")?.into());
            let read = PostToMailbox::decode(&hex)?;
            (
                PostToMailbox { mailbox, message }.encode(),
                json!({"mailbox": hexed(read.mailbox), "message": hexed(read.message)}),
            )
        }
        "mailbox" => mailbox(input, &hex)?,
        "router-resolve-peers-request" => (
            ResolvePeers {
                key: input.fixed("key")?,
            }
            .encode(),
            json!({"key": hexed(ResolvePeers::decode(&hex)?.key)}),
        ),
        "router-resolve-peers-response" => resolved(input, &hex)?,
        "admin-query-top-k-response" => top_k(input, &hex)?,
        kind => return unknown("kind", kind),
    };
    let mut ours = keep(case, &["kind"]);
    ours["input"] = decoded.clone();
    for unused in ["deprecatedAutobase", "deprecatedAutobaseBlockKey"] {
        // Clients no longer name these; decoders do.
        if let (Some(fields), None) = (ours["input"].as_object_mut(), input.get(unused)) {
            fields.remove(unused);
        }
    }
    ours["hex"] = hexed(encoded);
    ours["decoded"] = decoded;
    Ok(ours)
}

fn add_core(fields: &Value) -> Result<AddCore, Reason> {
    Ok(AddCore {
        key: fields.fixed("key")?,
        referrer: fields.optional_fixed("referrer")?,
        deprecated_autobase: fields.optional_fixed("deprecatedAutobase")?,
        deprecated_autobase_block_key: fields.optional_fixed("deprecatedAutobaseBlockKey")?,
        priority: fields.uint("priority")?,
        announce: fields.flag("announce")?,
    })
}

fn add_core_shape(request: &AddCore) -> Value {
    json!({
        "key": hexed(request.key), "referrer": hexed_or_null(request.referrer),
        "deprecatedAutobase": hexed_or_null(request.deprecated_autobase),
        "deprecatedAutobaseBlockKey": hexed_or_null(request.deprecated_autobase_block_key),
        "priority": request.priority, "announce": request.announce,
    })
}

fn record(fields: &Value) -> Result<CoreRecord, Reason> {
    Ok(CoreRecord {
        key: fields.fixed("key")?,
        length: fields.uint("length")?,
        bytes_allocated: fields.uint("bytesAllocated")?,
        updated: fields.uint("updated")?,
        active: fields.uint("active")?,
        priority: fields.uint("priority")?,
        announce: fields.flag("announce")?,
        referrer: fields.optional_fixed("referrer")?,
        blocks_cleared: fields.uint("blocksCleared")?,
        bytes_cleared: fields.uint("bytesCleared")?,
    })
}

fn record_shape(record: &CoreRecord) -> Value {
    json!({
        "key": hexed(record.key), "length": record.length, "bytesAllocated": record.bytes_allocated,
        "updated": record.updated, "active": record.active, "priority": record.priority, "announce": record.announce,
        "referrer": hexed_or_null(record.referrer), "blocksCleared": record.blocks_cleared,
        "bytesCleared": record.bytes_cleared,
    })
}

fn cores(fields: &Value) -> Result<Cores, Reason> {
    let core = |core: &Value| {
        Ok(CoreHint {
            key: core.fixed("key")?,
            length: core.uint("length")?,
        })
    };
    Ok(Cores {
        referrer: fields.optional_fixed("referrer")?,
        priority: fields.uint("priority")?,
        announce: fields.flag("announce")?,
        cores: fields
            .list("cores")?
            .iter()
            .map(core)
            .collect::<Result<_, Reason>>()?,
    })
}

fn cores_shape(message: &Cores) -> Value {
    let cores: Value = (message.cores.iter())
        .map(|core| json!({"key": hexed(core.key), "length": core.length}))
        .collect();
    json!({
        "referrer": hexed_or_null(message.referrer), "priority": message.priority, "announce": message.announce,
        "cores": cores,
    })
}

fn mailbox(input: &Value, hex: &[u8]) -> Result<(Vec<u8>, Value), Reason> {
    let made = Mailbox {
        version: input.uint("version")?,
        seed: input.fixed("seed")?,
        referrer: input.optional_fixed("referrer")?,
        block_encryption_key: input.optional_fixed("blockEncryptionKey")?,
    };
    let read = Mailbox::decode(hex)?;
    let decoded = json!({
        "version": read.version, "seed": hexed(read.seed), "referrer": hexed_or_null(read.referrer),
        "blockEncryptionKey": hexed_or_null(read.block_encryption_key),
    });
    Ok((made.encode(), decoded))
}

fn resolved(input: &Value, hex: &[u8]) -> Result<(Vec<u8>, Value), Reason> {
    let peer = |peer: &Value| -> Result<ResolvedPeer, Reason> {
        let location = peer
            .given("location")
            .map(|_| peer.text("location").map(str::to_owned));
        Ok(ResolvedPeer {
            key: peer.fixed("key")?,
            location: location.transpose()?,
        })
    };
    let made = ResolvedPeers {
        peers: input.list("peers")?.iter().map(peer).collect::<Result<_, _>>()?,
    };
    let read = ResolvedPeers::decode(hex)?;
    let peers: Value = (read.peers.iter())
        .map(|peer| json!({"key": hexed(peer.key), "location": peer.location}))
        .collect();
    Ok((made.encode(), json!({"peers": peers})))
}

fn top_k(input: &Value, hex: &[u8]) -> Result<(Vec<u8>, Value), Reason> {
    let counts = |name: &str| -> Result<Vec<Count>, Reason> {
        let count = |count: &Value| {
            Ok(Count {
                key: count.text("key")?.to_owned(),
                count: count.uint("count")?,
            })
        };
        input.list(name)?.iter().map(count).collect()
    };
    let made = TopK {
        version: input.uint("version")?,
        ip: counts("ip")?,
        referrer: counts("referrer")?,
        peer_public_key: counts("peerPublicKey")?,
    };
    let read = TopK::decode(hex)?;
    let shape = |counts: &[Count]| -> Value {
        (counts.iter())
            .map(|count| json!({"key": count.key, "count": count.count}))
            .collect()
    };
    let decoded = json!({
        "version": read.version, "ip": shape(&read.ip), "referrer": shape(&read.referrer),
        "peerPublicKey": shape(&read.peer_public_key),
    });
    Ok((made.encode(), decoded))
}
