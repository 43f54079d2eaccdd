//! `transcripts.json`: recordings of two JavaScript peers. Their interleaving is informative; every frame must decode to
//! the recorded messages and encode to itself, and every capability must prove the key that the channel is about.

use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};
use cumulet_hypercore::crypto::{Key, capability, discovery_key};
use cumulet_hypercore::encryption::BlockCipher;
use cumulet_hypercore::messages::{Handshake, Message, PROTOCOL};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, fixed, hexed, items, keep, unknown};
use serde_json::{Map, Value, json};

use super::messages;

/// Fields that tell what the run was about and are not in its frames.
const INFORMATIVE: [&str; 10] = [
    "kind",
    "tag",
    "handshakeHash",
    "sourceLength",
    "received",
    "after",
    "seek",
    "readerHas",
    "closed",
    "encryptionKey",
];

/// Numbers of the control messages on channel 0.
const OPEN: u64 = 1;
const REJECT: u64 = 2;
const CLOSE: u64 = 3;

struct Session {
    handshake_hash: [u8; 64],
    keys: Vec<Key>,
    /// The run in which one side lies about the key, so that its capability is for another one.
    has_wrong_key: bool,
    /// Blocks seen, as they were sent.
    blocks: Vec<(u64, Bytes)>,
}

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    if case.text("kind")? != "session" {
        return unknown("kind", case.text("kind")?);
    }
    let keys: Vec<Key> = match case.given("keys") {
        Some(keys) => items(keys)?.iter().map(fixed).collect::<Result<_, _>>()?,
        None => vec![case.fixed("key")?],
    };
    let mut session = Session {
        handshake_hash: case.fixed("handshakeHash")?,
        has_wrong_key: case.given("closed").is_some(),
        keys,
        blocks: vec![],
    };
    let mut frames = Vec::new();
    for (index, recorded) in case.list("frames")?.iter().enumerate() {
        let frame = frame(&mut session, recorded)
            .map_err(|reason| Reason::new(format!("frame {index}: {reason}")))?;
        frames.push(frame);
    }
    let mut ours = keep(case, &INFORMATIVE);
    ours["frames"] = frames.into();
    let seeder = case.text("seederIs")?;
    ensure(
        ["initiator", "responder"].contains(&seeder),
        "seederIs is neither side",
    )?;
    ours["seederIs"] = seeder.into();
    if case.given("keys").is_some() {
        ours["keys"] = session.keys.iter().map(hexed).collect();
    } else if let [key] = &session.keys[..] {
        ours["key"] = hexed(key);
        if case.given("discoveryKey").is_some() {
            ours["discoveryKey"] = hexed(discovery_key(key));
        }
        if let Some(encryption_key) = case.optional_fixed("encryptionKey")? {
            ours["plaintext"] = plaintext(case, &session, &BlockCipher::new(key, &encryption_key, false))?;
        }
    }
    Ok(ours)
}

/// The recorded plaintexts, each of which must be that of a block that was sent.
fn plaintext(case: &Value, session: &Session, cipher: &BlockCipher) -> Rebuilt {
    let mut decrypted = Vec::new();
    for (index, block) in &session.blocks {
        decrypted.push(hexed(cipher.decrypt(*index, block)?));
    }
    let recorded = case.list("plaintext")?;
    let is_sent = |text: &Value| decrypted.contains(text);
    Ok(recorded
        .iter()
        .map(|text| if is_sent(text) { text.clone() } else { Value::Null })
        .collect())
}

fn frame(session: &mut Session, recorded: &Value) -> Rebuilt {
    if recorded.get("note").is_some() {
        return Ok(keep(recorded, &["note"]));
    }
    let from = recorded.text("from")?;
    ensure(["initiator", "responder"].contains(&from), "from is neither side")?;
    if recorded.get("hex").is_none() {
        // Long frames give only their length and what was in them.
        recorded.uint("length")?;
        return Ok(keep(recorded, &["from", "length", "messages"]));
    }
    let bytes = Bytes::from(recorded.bytes("hex")?);
    let mut taken = Taken {
        messages: vec![],
        encoded: Writer::new(),
    };
    take_frame(session, &bytes, from == "initiator", &mut taken)?;
    Ok(json!({"from": from, "hex": hexed(taken.encoded.as_slice()), "messages": taken.messages}))
}

/// What came of a frame: its messages in the vectors' shape, and the frame encoded anew.
struct Taken {
    messages: Vec<Value>,
    encoded: Writer,
}

fn take_frame(
    session: &mut Session,
    frame: &Bytes,
    by_initiator: bool,
    taken: &mut Taken,
) -> Result<(), Reason> {
    let mut reader = Reader::new(frame);
    if !frame.starts_with(&[0, 0]) {
        let channel = reader.uint()?;
        taken.encoded.uint(channel);
        let encoded = take(
            session,
            channel,
            &frame.slice_ref(reader.rest()),
            by_initiator,
            taken,
        )?;
        taken.encoded.raw(&encoded);
        return Ok(());
    }
    reader.take(2)?;
    let mut channel = reader.uint()?;
    taken.encoded.raw(&[0, 0]).uint(channel);
    while !reader.is_empty() {
        let item = reader.buffer()?;
        if item.is_empty() {
            channel = reader.uint()?;
            taken.encoded.uint(0).uint(channel);
            continue;
        }
        let encoded = take(session, channel, &frame.slice_ref(item), by_initiator, taken)?;
        taken.encoded.buffer(&encoded);
    }
    Ok(())
}

/// Takes one message (type and body); returns it encoded anew.
fn take(
    session: &mut Session,
    channel: u64,
    item: &Bytes,
    by_initiator: bool,
    taken: &mut Taken,
) -> Result<Vec<u8>, Reason> {
    let mut reader = Reader::new(item);
    let number = reader.uint()?;
    let mut writer = Writer::new();
    writer.uint(number);
    match (channel, number) {
        (0, OPEN) => {
            let (id, protocol) = (reader.uint()?, reader.string()?.into_owned());
            let name = reader.buffer()?.to_vec();
            let handshake = Handshake::decode(reader.rest())?;
            ensure(protocol == PROTOCOL, "a channel of another protocol")?;
            session.check(&name, &handshake, by_initiator)?;
            writer
                .uint(id)
                .string(&protocol)
                .buffer(&name)
                .raw(&handshake.encode());
            taken.messages.push(json!({
                "open": id, "protocol": protocol, "id": hexed(&name), "handshake": messages::handshake_shape(&handshake),
            }));
        }
        (0, REJECT | CLOSE) => {
            let id = reader.uint()?;
            writer.uint(id);
            let name = if number == REJECT { "reject" } else { "close" };
            taken.messages.push(json!({name: id}));
        }
        (0, other) => return Err(Reason::new(format!("unknown control message {other}"))),
        (channel, number) => {
            let message = Message::decode(number, &item.slice_ref(reader.rest()))?;
            if let Message::Data(data) = &message
                && let Some(block) = &data.proof.block
            {
                session.blocks.push((block.index, block.value.clone()));
            }
            writer.raw(&message.encode());
            taken.messages.push(shape(channel, &message));
        }
    }
    Ok(writer.into_vec())
}

fn shape(channel: u64, message: &Message) -> Value {
    let name = usize::try_from(message.kind())
        .ok()
        .and_then(|kind| messages::NAMES.get(kind));
    let mut body = messages::shape(message);
    if let Message::Bitfield(bitfield) = message {
        body["words"] = bitfield.words.len().into();
    }
    let mut shape = Map::new();
    shape.insert("channel".into(), channel.into());
    shape.insert((*name.unwrap_or(&"unknown")).into(), body);
    shape.into()
}

impl Session {
    /// A side that opens a channel must prove that it knows the key behind the channel's id.
    fn check(&self, id: &[u8], handshake: &Handshake, by_initiator: bool) -> Result<(), Reason> {
        let Some(key) = self.keys.iter().find(|key| discovery_key(key) == id) else {
            // A core that the other side does not have; its key is in no field.
            return Ok(());
        };
        let is_proof = capability(key, &self.handshake_hash, by_initiator) == handshake.capability;
        ensure(
            is_proof || self.has_wrong_key,
            "the capability is not that of the key",
        )
    }
}
