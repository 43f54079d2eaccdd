//! `secret-stream.json` of the data plane: Noise, Diffie-Hellman and whole streams.

use cumulet_hypercore::crypto::{keyed_hash, namespace};
use cumulet_secret_stream::datagrams::sending_key;
use cumulet_secret_stream::noise::{Handshake, KeyPair};
use cumulet_secret_stream::{Event, SecretStream, Seeds};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, fixed, hexed, keep, unhex, unknown};
use serde_json::{Value, json};

use super::super::network::noise::{Exchange, Pattern};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "noise-XX" => handshake(case, Pattern::Xx),
        "noise-IK" => handshake(case, Pattern::Ik),
        "dh" => {
            let secret = case.bytes("a")?;
            let seed = secret.get(..32).ok_or_else(|| Reason::new("a is too short"))?;
            let own = KeyPair::from_seed(fixed(&hexed(seed))?);
            let mut ours = keep(case, &["kind", "bPublic"]);
            ours["a"] = hexed([seed, &own.public_key()[..]].concat());
            ours["shared"] = hexed(*own.dh(&case.fixed("bPublic")?)?);
            Ok(ours)
        }
        "dh-refuse" => {
            let mut ours = keep(case, &["kind", "publicKey"]);
            ours["refused"] = KeyPair::from_seed([7; 32])
                .dh(&case.fixed("publicKey")?)
                .is_err()
                .into();
            Ok(ours)
        }
        "stream" => stream(case),
        "tamper" => tamper(case),
        kind => unknown("kind", kind),
    }
}

fn pair_shape(pair: &KeyPair) -> Value {
    let secret = [&pair.seed()[..], &pair.public_key()[..]].concat();
    json!({"seed": hexed(pair.seed()), "publicKey": hexed(pair.public_key()), "secretKey": hexed(secret)})
}

fn handshake(case: &Value, pattern: Pattern) -> Rebuilt {
    let pair =
        |name: &str| -> Result<KeyPair, Reason> { Ok(KeyPair::from_seed(case.at(name)?.fixed("seed")?)) };
    let statics = [pair("initiatorStatic")?, pair("responderStatic")?];
    let ephemerals = [pair("initiatorEphemeral")?, pair("responderEphemeral")?];
    let payloads = case
        .list("messages")?
        .iter()
        .map(|message| message.bytes("payload"));
    let exchange = Exchange {
        pattern,
        prologue: case.bytes("prologue")?,
        statics: statics.clone(),
        ephemerals: [*ephemerals[0].seed(), *ephemerals[1].seed()],
        payloads: payloads.collect::<Result<_, _>>()?,
    };
    let done = exchange.run()?;
    let [a, b] = &done.results;
    let messages =
        done.messages
            .iter()
            .zip(&exchange.payloads)
            .enumerate()
            .map(|(index, (message, payload))| {
                let from = ["initiator", "responder"][index % 2];
                json!({"from": from, "payload": hexed(payload), "message": hexed(&message.bytes)})
            });
    let mut ours = keep(case, &["kind"]);
    ours["protocolName"] = pattern.protocol_name().into();
    ours["prologue"] = hexed(&exchange.prologue);
    for (name, pair) in [("initiatorStatic", &statics[0]), ("responderStatic", &statics[1])] {
        ours[name] = pair_shape(pair);
    }
    for (name, pair) in [
        ("initiatorEphemeral", &ephemerals[0]),
        ("responderEphemeral", &ephemerals[1]),
    ] {
        ours[name] = pair_shape(pair);
    }
    ours["messages"] = messages.collect();
    ours["initiatorTx"] = hexed(a.tx);
    ours["initiatorRx"] = hexed(a.rx);
    ours["handshakeHash"] = hexed(a.handshake_hash);
    ours["responderTxMatches"] = (b.tx == a.rx && b.rx == a.tx).into();
    Ok(ours)
}

fn streams(case: &Value) -> Result<[SecretStream; 2], Reason> {
    let pair = |name: &str| -> Result<KeyPair, Reason> { Ok(KeyPair::from_seed(case.fixed(name)?)) };
    let (initiator, responder) = (pair("initiatorStaticSeed")?, pair("responderStaticSeed")?);
    let (e1, e2) = (
        case.fixed("initiatorEphemeralSeed")?,
        case.fixed("responderEphemeralSeed")?,
    );
    let [a, b] = match case.text("pattern")? {
        "XX" => [
            Handshake::xx(true, initiator, e1, &[]),
            Handshake::xx(false, responder, e2, &[]),
        ],
        "IK" => {
            let remote = *responder.public_key();
            [
                Handshake::ik_initiator(initiator, e1, remote, &[]),
                Handshake::ik_responder(responder, e2, &[]),
            ]
        }
        other => return unknown("pattern", other),
    };
    Ok([
        SecretStream::begin(a, case.fixed("initiatorHeader")?)?,
        SecretStream::begin(b, case.fixed("responderHeader")?)?,
    ])
}

/// Carries bytes until both are quiet, in pieces of `chunk`; adds the bytes that each side wrote and its messages.
fn converse(
    sides: &mut [SecretStream; 2],
    chunk: usize,
    wire: &mut [Vec<u8>; 2],
    heard: &mut [Vec<Value>; 2],
) -> Result<(), Reason> {
    loop {
        let mut is_quiet = true;
        for from in 0..2 {
            let out = sides[from].take_output();
            wire[from].extend_from_slice(&out);
            for piece in out.chunks(chunk) {
                is_quiet = false;
                sides[1 - from].receive(piece);
                while let Some(event) = sides[1 - from].poll_event()? {
                    if let Event::Message(message) = event {
                        heard[1 - from].push(hexed(message));
                    }
                }
            }
        }
        if is_quiet {
            return Ok(());
        }
    }
}

fn stream(case: &Value) -> Rebuilt {
    let mut first: Option<Value> = None;
    // The segments in which bytes arrive must not matter.
    for chunk in [1, 7, 100_000] {
        let ours = stream_in_pieces(case, chunk)?;
        ensure(
            first.as_ref().is_none_or(|first| *first == ours),
            "the size of segments matters",
        )?;
        first = Some(ours);
    }
    first.ok_or_else(|| Reason::new("nothing was run"))
}

fn stream_in_pieces(case: &Value, chunk: usize) -> Rebuilt {
    let mut sides = streams(case)?;
    let (mut wire, mut heard) = <([Vec<u8>; 2], [Vec<Value>; 2])>::default();
    converse(&mut sides, chunk, &mut wire, &mut heard)?;
    for (side, name) in sides.iter_mut().zip(["initiatorMessages", "responderMessages"]) {
        for message in case.list(name)? {
            side.send(&unhex(message)?)?;
        }
    }
    converse(&mut sides, chunk, &mut wire, &mut heard)?;
    let session = sides[0].session().ok_or_else(|| Reason::new("no session"))?;
    let hash = session.handshake_hash;
    let [initiator_heard, responder_heard] = heard;
    let mut ours = keep(
        case,
        &[
            "kind",
            "pattern",
            "initiatorStaticSeed",
            "responderStaticSeed",
            "initiatorEphemeralSeed",
            "responderEphemeralSeed",
            "initiatorHeader",
            "responderHeader",
        ],
    );
    ours["handshakeHash"] = hexed(hash);
    ours["initiatorMessages"] = responder_heard.into();
    ours["responderMessages"] = initiator_heard.into();
    for (role, index) in [("initiator", 0), ("responder", 1_u8)] {
        let id = keyed_hash(&hash, &[&namespace("hyperswarm/secret-stream", index)]);
        let bytes = &wire[usize::from(index)];
        let is_sent = bytes.windows(id.len()).any(|window| window == id);
        ensure(is_sent, "a stream's id is not in what it sends")?;
        ours[format!("{role}Id")] = hexed(id);
        ours[format!("{role}Bytes")] = hexed(bytes);
    }
    ours["udpSendKeyInitiator"] = hexed(sending_key(&hash, true));
    ours["udpSendKeyResponder"] = hexed(sending_key(&hash, false));
    Ok(ours)
}

/// A stream of which one bit was changed on the way: the receiver must fail, as JS does.
fn tamper(case: &Value) -> Rebuilt {
    let side = |is_initiator, byte: u8| {
        let seeds = Seeds {
            ephemeral: [byte; 32],
            header: [byte; cumulet_secret_stream::HEADER_BYTES],
        };
        SecretStream::xx(is_initiator, KeyPair::from_seed([byte + 1; 32]), &seeds)
    };
    let mut sides = [side(true, 1)?, side(false, 3)?];
    let in_data = match case.text("tag")? {
        "flip in first handshake message" => false,
        "flip in a data frame" => true,
        tag => return unknown("tag", tag),
    };
    if in_data {
        converse(
            &mut sides,
            1000,
            &mut <[Vec<u8>; 2]>::default(),
            &mut <[Vec<Value>; 2]>::default(),
        )?;
        sides[0].send(b"message")?;
    }
    let mut bytes = sides[0].take_output().to_vec();
    // A bit of the ephemeral key, or of the ciphertext. A changed key is noticed when its first use fails.
    if let Some(byte) = bytes.get_mut(6) {
        *byte ^= 1;
    }
    sides[1].receive(&bytes);
    let mut destroyed = sides[1].poll_event().is_err();
    if !destroyed && !in_data {
        let answer = sides[1].take_output();
        sides[0].receive(&answer);
        destroyed = sides[0].poll_event().is_err();
    }
    let mut ours = keep(case, &["kind", "tag", "jsError"]);
    ours["destroyed"] = destroyed.into();
    Ok(ours)
}
