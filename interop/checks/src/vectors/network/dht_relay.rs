//! `dht-relay.json`.

use std::net::SocketAddrV4;

use bytes::Bytes;
use cumulet_relay::dht_relay::{Custody, Handshaken, Message, PROTOCOL, Signee};
use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, ensure, hexed, hexed_or_null, keep, unhex, unknown};
use serde_json::{Value, json};

/// The messages' names, by their numbers.
const NAMES: [&str; 28] = [
    "handshake",
    "ping",
    "pong",
    "connect",
    "connection",
    "connected",
    "incoming",
    "deny",
    "accept",
    "destroy",
    "listen",
    "listening",
    "close",
    "closed",
    "open",
    "end",
    "data",
    "result",
    "finished",
    "lookup",
    "announce",
    "unannounce",
    "signAnnounce",
    "signUnannounce",
    "signature",
    "noiseSend",
    "noiseReceive",
    "noiseReply",
];

/// The head names the protocol and numbers its messages.
pub(crate) fn checker(head: &Value) -> Result<Checker, Reason> {
    ensure(head.text("protocol")? == PROTOCOL, "protocol is another one")?;
    let numbers: Value = NAMES
        .iter()
        .zip(0..)
        .map(|(name, number)| ((*name).to_owned(), Value::from(number)))
        .collect();
    ensure(
        *head.at("message_type")? == numbers,
        "message_type is another numbering",
    )?;
    Ok(Box::new(rebuild))
}

fn rebuild(case: &Value) -> Rebuilt {
    let (kind, input) = (case.text("kind")?, case.at("input")?);
    let Some(number) = NAMES.iter().position(|name| *name == kind) else {
        return unknown("kind", kind);
    };
    let made = described(kind, input)?;
    ensure(made.number() == number as u64, "another message")?;
    let read = Message::decode(number as u64, &case.bytes("hex")?)?;
    let mut ours = keep(case, &["kind"]);
    ours["type"] = number.into();
    ours["decoded"] = shape(&read);
    ours["input"] = ours["decoded"].clone();
    match kind {
        // The family of an address is not the sender's to tell.
        "listening" => {
            if let Some(fields) = ours["input"].as_object_mut() {
                fields.remove("family");
            }
        }
        "signAnnounce" | "signUnannounce" => {
            let addresses = ours["input"]["relayAddresses"].as_array_mut();
            for fields in addresses.into_iter().flatten().filter_map(Value::as_object_mut) {
                fields.remove("family");
            }
        }
        // Senders have all parts, and send those that the step needs.
        "noiseReply" => {
            for part in ["remotePublicKey", "remoteId", "holepunchSecret"] {
                if ours["input"][part].is_null() {
                    ours["input"][part] = hexed_or_null(input.optional_bytes(part)?);
                }
            }
        }
        _ => {}
    }
    ours["hex"] = hexed(made.encode());
    Ok(ours)
}

fn number(fields: &Value, name: &str) -> Result<u32, Reason> {
    Ok(fields.uint(name)?.try_into()?)
}

fn optional_number(fields: &Value, name: &str) -> Result<Option<u32>, Reason> {
    fields.given(name).map(|_| number(fields, name)).transpose()
}

fn buffer(fields: &Value, name: &str) -> Result<Bytes, Reason> {
    Ok(fields.bytes(name)?.into())
}

fn custody(fields: &Value) -> Result<Custody, Reason> {
    let secret_key: Option<[u8; 64]> = fields.optional_fixed("secretKey")?;
    ensure(
        fields.flag("custodial")? == secret_key.is_some(),
        "custodial without secret key, or the other way round",
    )?;
    Ok(Custody {
        public_key: fields.fixed("publicKey")?,
        secret_key,
    })
}

fn handshaken(fields: &Value) -> Result<Handshaken, Reason> {
    Ok(if fields.flag("custodial")? {
        Handshaken::Hash(fields.fixed("handshakeHash")?)
    } else {
        Handshaken::Id(number(fields, "handshakeId")?)
    })
}

fn address(fields: &Value) -> Result<SocketAddrV4, Reason> {
    Ok(SocketAddrV4::new(
        fields.text("host")?.parse()?,
        fields.uint("port")?.try_into()?,
    ))
}

fn signee(fields: &Value) -> Result<Signee, Reason> {
    Ok(Signee {
        id: number(fields, "id")?,
        signee: number(fields, "signee")?,
        token: fields.fixed("token")?,
        peer_id: buffer(fields, "peerId")?,
        relay_addresses: fields
            .list("relayAddresses")?
            .iter()
            .map(address)
            .collect::<Result<_, _>>()?,
    })
}

fn described(kind: &str, f: &Value) -> Result<Message, Reason> {
    let (id, alias) = (|| number(f, "id"), || number(f, "alias"));
    Ok(match kind {
        "handshake" => Message::Handshake { custody: custody(f)? },
        "ping" => Message::Ping,
        "pong" => Message::Pong,
        "connect" => {
            let remote_public_key = f.fixed("remotePublicKey")?;
            Message::Connect {
                alias: alias()?,
                custody: custody(f)?,
                remote_public_key,
            }
        }
        "connection" => Message::Connection {
            alias: alias()?,
            server_alias: number(f, "serverAlias")?,
            remote_public_key: f.fixed("remotePublicKey")?,
            handshake: handshaken(f)?,
        },
        "connected" => Message::Connected {
            alias: alias()?,
            remote_alias: number(f, "remoteAlias")?,
        },
        "incoming" => Message::Incoming {
            id: id()?,
            server_alias: number(f, "serverAlias")?,
            remote_public_key: f.fixed("remotePublicKey")?,
            payload: buffer(f, "payload")?,
        },
        "deny" => Message::Deny { id: id()? },
        "accept" => Message::Accept { id: id()? },
        "destroy" => {
            let error = f
                .given("error")
                .map(|_| f.text("error").map(str::to_owned))
                .transpose()?;
            let (alias, remote_alias) = (optional_number(f, "alias")?, optional_number(f, "remoteAlias")?);
            ensure(
                f.flag("paired")? == alias.is_some(),
                "paired without alias, or the other way round",
            )?;
            Message::Destroy {
                alias,
                remote_alias,
                error,
            }
        }
        "listen" => Message::Listen {
            alias: alias()?,
            custody: custody(f)?,
        },
        "listening" => {
            let remote_alias = number(f, "remoteAlias")?;
            Message::Listening {
                alias: alias()?,
                remote_alias,
                address: address(f)?,
            }
        }
        "close" => Message::Close { alias: alias()? },
        "closed" => Message::Closed { alias: alias()? },
        _ => return streamed(kind, f),
    })
}

/// The second half: what streams carry, and what is asked of the DHT.
fn streamed(kind: &str, f: &Value) -> Result<Message, Reason> {
    let (id, alias) = (|| number(f, "id"), || number(f, "alias"));
    Ok(match kind {
        "open" => {
            let remote_alias = number(f, "remoteAlias")?;
            Message::Open {
                alias: alias()?,
                remote_alias,
                handshake: handshaken(f)?,
            }
        }
        "end" => Message::End { alias: alias()? },
        "data" => {
            let data = f.list("data")?.iter().map(|part| unhex(part).map(Bytes::from));
            Message::Data {
                alias: alias()?,
                data: data.collect::<Result<_, _>>()?,
            }
        }
        "result" => Message::Result {
            id: id()?,
            data: buffer(f, "data")?,
        },
        "finished" => Message::Finished { id: id()? },
        "lookup" => Message::Lookup {
            id: id()?,
            topic: f.fixed("topic")?,
        },
        "announce" => Message::Announce {
            id: id()?,
            topic: f.fixed("topic")?,
            custody: custody(f)?,
        },
        "unannounce" => Message::Unannounce {
            id: id()?,
            topic: f.fixed("topic")?,
            custody: custody(f)?,
        },
        "signAnnounce" => Message::SignAnnounce(signee(f)?),
        "signUnannounce" => Message::SignUnannounce(signee(f)?),
        "signature" => Message::Signature {
            id: id()?,
            signature: buffer(f, "signature")?,
        },
        _ => return noise(kind, f),
    })
}

fn noise(kind: &str, f: &Value) -> Result<Message, Reason> {
    let (is_initiator, id, payload) = (f.flag("isInitiator")?, number(f, "id")?, buffer(f, "payload")?);
    Ok(match kind {
        "noiseSend" => {
            let remote_stream_alias = optional_number(f, "remoteStreamAlias")?;
            ensure(
                remote_stream_alias.is_some() == is_initiator,
                "remoteStreamAlias is the initiator's",
            )?;
            Message::NoiseSend {
                id,
                remote_stream_alias,
                payload,
            }
        }
        "noiseReceive" => {
            let server_alias = optional_number(f, "serverAlias")?;
            ensure(
                server_alias.is_none() == is_initiator,
                "serverAlias is the responder's",
            )?;
            Message::NoiseReceive {
                id,
                server_alias,
                payload,
            }
        }
        _ => Message::NoiseReply {
            is_initiator,
            id,
            payload,
            remote_public_key: f.optional_fixed("remotePublicKey")?,
            complete: if f.flag("complete")? {
                Some((f.fixed("remoteId")?, f.fixed("holepunchSecret")?))
            } else {
                None
            },
        },
    })
}

fn with_custody(mut shape: Value, custody: &Custody) -> Value {
    shape["custodial"] = custody.secret_key.is_some().into();
    shape["publicKey"] = hexed(custody.public_key);
    shape["secretKey"] = hexed_or_null(custody.secret_key);
    shape
}

fn with_handshake(mut shape: Value, handshake: Handshaken) -> Value {
    let (hash, id) = match handshake {
        Handshaken::Hash(hash) => (Some(hash), None),
        Handshaken::Id(id) => (None, Some(id)),
    };
    shape["custodial"] = hash.is_some().into();
    shape["handshakeHash"] = hexed_or_null(hash);
    shape["handshakeId"] = id.into();
    shape
}

fn signee_shape(signee: &Signee) -> Value {
    let address = |address: &SocketAddrV4| json!({"host": address.ip().to_string(), "port": address.port()});
    let mut relay_addresses: Vec<Value> = signee.relay_addresses.iter().map(address).collect();
    for address in &mut relay_addresses {
        address["family"] = 4.into();
    }
    json!({
        "id": signee.id, "signee": signee.signee, "token": hexed(signee.token), "peerId": hexed(&signee.peer_id),
        "relayAddresses": relay_addresses,
    })
}

fn shape(message: &Message) -> Value {
    match message {
        Message::Ping | Message::Pong => Value::Null,
        Message::Handshake { custody } => with_custody(json!({}), custody),
        Message::Connect {
            alias,
            custody,
            remote_public_key,
        } => with_custody(
            json!({"alias": alias, "remotePublicKey": hexed(remote_public_key)}),
            custody,
        ),
        Message::Connection {
            alias,
            server_alias,
            remote_public_key,
            handshake,
        } => with_handshake(
            json!({"alias": alias, "serverAlias": server_alias, "remotePublicKey": hexed(remote_public_key)}),
            *handshake,
        ),
        Message::Connected { alias, remote_alias } => json!({"alias": alias, "remoteAlias": remote_alias}),
        Message::Incoming {
            id,
            server_alias,
            remote_public_key,
            payload,
        } => json!({
            "id": id, "serverAlias": server_alias, "remotePublicKey": hexed(remote_public_key),
            "payload": hexed(payload),
        }),
        Message::Deny { id } | Message::Accept { id } => json!({"id": id}),
        Message::Destroy {
            alias,
            remote_alias,
            error,
        } => {
            json!({"paired": alias.is_some(), "alias": alias, "remoteAlias": remote_alias, "error": error})
        }
        Message::Listen { alias, custody } => with_custody(json!({"alias": alias}), custody),
        Message::Listening {
            alias,
            remote_alias,
            address,
        } => json!({
            "alias": alias, "remoteAlias": remote_alias, "host": address.ip().to_string(), "family": 4,
            "port": address.port(),
        }),
        Message::Close { alias } | Message::Closed { alias } => json!({"alias": alias}),
        _ => streamed_shape(message),
    }
}

fn streamed_shape(message: &Message) -> Value {
    match message {
        Message::Open {
            alias,
            remote_alias,
            handshake,
        } => with_handshake(json!({"alias": alias, "remoteAlias": remote_alias}), *handshake),
        Message::Data { alias, data } => {
            json!({"alias": alias, "data": data.iter().map(hexed).collect::<Value>()})
        }
        Message::End { alias } => json!({"alias": alias}),
        Message::Finished { id } => json!({"id": id}),
        Message::Result { id, data } => json!({"id": id, "data": hexed(data)}),
        Message::Lookup { id, topic } => json!({"id": id, "topic": hexed(topic)}),
        Message::Announce { id, topic, custody } | Message::Unannounce { id, topic, custody } => {
            with_custody(json!({"id": id, "topic": hexed(topic)}), custody)
        }
        Message::SignAnnounce(signee) | Message::SignUnannounce(signee) => signee_shape(signee),
        Message::Signature { id, signature } => json!({"id": id, "signature": hexed(signature)}),
        _ => noise_shape(message),
    }
}

fn noise_shape(message: &Message) -> Value {
    match message {
        Message::NoiseSend {
            id,
            remote_stream_alias: alias,
            payload,
        } => json!({
            "isInitiator": alias.is_some(), "id": id, "remoteStreamAlias": alias, "payload": hexed(payload),
        }),
        Message::NoiseReceive {
            id,
            server_alias: alias,
            payload,
        } => {
            json!({"isInitiator": alias.is_none(), "id": id, "serverAlias": alias, "payload": hexed(payload)})
        }
        Message::NoiseReply {
            is_initiator,
            id,
            payload,
            remote_public_key,
            complete,
        } => json!({
            "isInitiator": is_initiator, "complete": complete.is_some(), "id": id, "payload": hexed(payload),
            "remotePublicKey": hexed_or_null(*remote_public_key),
            "remoteId": hexed_or_null(complete.map(|parts| parts.0)),
            "holepunchSecret": hexed_or_null(complete.map(|parts| parts.1)),
        }),
        _ => Value::Null,
    }
}
