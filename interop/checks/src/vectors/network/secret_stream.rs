//! `secret-stream.json` of the network plane and `secret-stream-datagrams.json`: streams and datagrams over finished
//! handshakes.

use cumulet_hypercore::crypto::{keyed_hash, namespace};
use cumulet_secret_stream::datagrams::{DatagramOpener, DatagramSealer, sending_key};
use cumulet_secret_stream::noise::HandshakeResult;
use cumulet_secret_stream::{Event, HEADER_BYTES, SecretStream};
use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, ensure, hexed, keep};
use serde_json::{Value, json};

/// The head names the namespaces.
pub(crate) fn checker(head: &Value) -> Result<Checker, Reason> {
    let of = |index| hexed(namespace("hyperswarm/secret-stream", index));
    let ours = json!({"initiator": of(0), "responder": of(1), "send": of(2)});
    ensure(*head.at("namespaces")? == ours, "namespaces are others")?;
    Ok(Box::new(stream))
}

fn stream(case: &Value) -> Rebuilt {
    let is_initiator = case.flag("sender_is_initiator")?;
    let (hash, key) = (case.fixed("handshake_hash")?, case.fixed("tx_key")?);
    let session = |is_initiator, tx, rx| HandshakeResult {
        tx,
        rx,
        handshake_hash: hash,
        remote_public_key: [0; 32],
        is_initiator,
    };
    let header = case.fixed("header")?;
    let mut sender = SecretStream::from_handshake(session(is_initiator, key, [1; 32]), header);
    let mut receiver = SecretStream::from_handshake(session(!is_initiator, [1; 32], key), [2; HEADER_BYTES]);
    let opened = sender.poll_event()? == Some(Event::Open) && receiver.poll_event()? == Some(Event::Open);
    ensure(opened, "a stream over a finished handshake is not open")?;
    let id_header_frame = sender.take_output();
    receiver.receive(&id_header_frame);
    ensure(
        receiver.poll_event()? == Some(Event::Connected),
        "the header is not accepted",
    )?;
    let (mut wire, mut frames) = (id_header_frame.to_vec(), Vec::new());
    for frame in case.list("frames")? {
        let plain = frame.bytes("plain")?;
        sender.send(&plain)?;
        let sealed = sender.take_output();
        wire.extend_from_slice(&sealed);
        receiver.receive(&sealed);
        let arrived = receiver.poll_event()? == Some(Event::Message(plain.clone().into()));
        ensure(arrived, "a message is received otherwise")?;
        frames.push(json!({"plain": hexed(plain), "frame": hexed(sealed)}));
    }
    let role = u8::from(!is_initiator);
    let mut ours = keep(
        case,
        &[
            "name",
            "sender_is_initiator",
            "handshake_hash",
            "tx_key",
            "header",
        ],
    );
    ours["stream_id"] = hexed(keyed_hash(&hash, &[&namespace("hyperswarm/secret-stream", role)]));
    ours["id_header_frame"] = hexed(id_header_frame);
    ours["frames"] = frames.into();
    ours["wire"] = hexed(wire);
    Ok(ours)
}

pub(crate) fn datagrams(case: &Value) -> Rebuilt {
    let (hash, is_initiator) = (case.fixed("handshake_hash")?, case.flag("sender_is_initiator")?);
    let counter = u64::from_le_bytes(case.fixed("initial_counter")?);
    let mut sealer = DatagramSealer::new(&hash, is_initiator, counter);
    let opener = DatagramOpener::new(&hash, is_initiator);
    let mut messages = Vec::new();
    for message in case.list("messages")? {
        let plain = message.bytes("plain")?;
        let datagram = sealer
            .seal(&plain)
            .ok_or_else(|| Reason::new("a message is too long"))?;
        ensure(
            opener.open(&datagram).as_ref() == Some(&plain),
            "a datagram opens otherwise",
        )?;
        let mut forged = datagram.clone();
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        ensure(opener.open(&forged).is_none(), "a forged datagram opens")?;
        messages.push(json!({"plain": hexed(plain), "hex": hexed(datagram)}));
    }
    let mut ours = keep(
        case,
        &["handshake_hash", "sender_is_initiator", "initial_counter"],
    );
    ours["key"] = hexed(sending_key(&hash, is_initiator));
    ours["messages"] = messages.into();
    Ok(ours)
}
