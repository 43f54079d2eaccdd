//! `noise-xx.json`, `noise-ik.json` and `noise-dh.json`.

use cumulet_hypercore::crypto::{keyed_hash, namespace};
use cumulet_secret_stream::datagrams::sending_key;
use cumulet_secret_stream::noise::{Handshake, HandshakeResult, KeyPair, NoiseError};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, keep};
use serde_json::{Value, json};

/// A handshake pattern.
#[derive(Clone, Copy)]
pub(crate) enum Pattern {
    /// Both sides send their static keys.
    Xx,
    /// The initiator knows the responder's.
    Ik,
}

impl Pattern {
    pub(crate) fn protocol_name(self) -> &'static str {
        match self {
            Self::Xx => "Noise_XX_Ed25519_ChaChaPoly_BLAKE2b",
            Self::Ik => "Noise_IK_Ed25519_ChaChaPoly_BLAKE2b",
        }
    }
}

/// A handshake to be run.
pub(crate) struct Exchange {
    pub(crate) pattern: Pattern,
    pub(crate) prologue: Vec<u8>,
    /// Initiator's and responder's.
    pub(crate) statics: [KeyPair; 2],
    pub(crate) ephemerals: [[u8; 32]; 2],
    pub(crate) payloads: Vec<Vec<u8>>,
}

/// A message on its way, and what its receiver had afterwards.
pub(crate) struct Passed {
    pub(crate) bytes: Vec<u8>,
    hash: [u8; 64],
    chaining_key: [u8; 64],
}

/// A handshake that was run.
pub(crate) struct Done {
    pub(crate) messages: Vec<Passed>,
    pub(crate) results: [HandshakeResult; 2],
}

impl Exchange {
    pub(crate) fn run(&self) -> Result<Done, Reason> {
        let [initiator, responder] = self.statics.clone();
        let ([e1, e2], prologue) = (self.ephemerals, &self.prologue);
        let mut sides = match self.pattern {
            Pattern::Xx => [
                Handshake::xx(true, initiator, e1, prologue),
                Handshake::xx(false, responder, e2, prologue),
            ],
            Pattern::Ik => {
                let remote = *responder.public_key();
                [
                    Handshake::ik_initiator(initiator, e1, remote, prologue),
                    Handshake::ik_responder(responder, e2, prologue),
                ]
            }
        };
        let mut messages = Vec::new();
        for (index, payload) in self.payloads.iter().enumerate() {
            let from = index % 2;
            let out_of_turn = sides[1 - from].write(payload) == Err(NoiseError::OutOfTurn);
            ensure(out_of_turn, "a side may write out of turn")?;
            let bytes = sides[from].write(payload)?;
            ensure(
                sides[1 - from].read(&bytes)? == *payload,
                "a payload is read otherwise",
            )?;
            let (hash, chaining_key) = sides[1 - from].chaining_state();
            messages.push(Passed {
                bytes,
                hash,
                chaining_key,
            });
        }
        let [a, b] = sides;
        let results = [a.finish()?, b.finish()?];
        let [a, b] = &results;
        ensure(
            a.handshake_hash == b.handshake_hash,
            "the sides differ in the handshake hash",
        )?;
        ensure(
            a.remote_public_key == *self.statics[1].public_key(),
            "the initiator met another key",
        )?;
        ensure(
            b.remote_public_key == *self.statics[0].public_key(),
            "the responder met another key",
        )?;
        Ok(Done { messages, results })
    }
}

pub(crate) fn xx(case: &Value) -> Rebuilt {
    handshake(case, Pattern::Xx)
}

pub(crate) fn ik(case: &Value) -> Rebuilt {
    handshake(case, Pattern::Ik)
}

fn side(case: &Value, name: &str) -> Result<(KeyPair, KeyPair), Reason> {
    let fields = case.at(name)?;
    let pair = |field| Ok::<_, Reason>(KeyPair::from_seed(fields.fixed(field)?));
    Ok((pair("static_seed")?, pair("ephemeral_seed")?))
}

fn side_shape((own, ephemeral): &(KeyPair, KeyPair)) -> Value {
    json!({
        "static_seed": hexed(own.seed()), "static_public": hexed(own.public_key()),
        "ephemeral_seed": hexed(ephemeral.seed()), "ephemeral_public": hexed(ephemeral.public_key()),
    })
}

fn handshake(case: &Value, pattern: Pattern) -> Rebuilt {
    let sides = [side(case, "initiator")?, side(case, "responder")?];
    let payloads = case
        .list("messages")?
        .iter()
        .map(|message| message.bytes("payload"));
    let exchange = Exchange {
        pattern,
        prologue: case.bytes("prologue")?,
        statics: [sides[0].0.clone(), sides[1].0.clone()],
        ephemerals: [*sides[0].1.seed(), *sides[1].1.seed()],
        payloads: payloads.collect::<Result<_, _>>()?,
    };
    let done = exchange.run()?;
    let [a, b] = &done.results;
    ensure((a.tx, a.rx) == (b.rx, b.tx), "the sides' keys do not fit")?;
    let last = done.messages.len().saturating_sub(1);
    let messages = (done.messages.iter().zip(&exchange.payloads).enumerate()).map(|(index, (message, payload))| {
        // After the last message the chaining key has been split into the two keys.
        let chaining_key = (index < last).then(|| hexed(message.chaining_key));
        json!({
            "from": (["initiator", "responder"][index % 2]), "payload": hexed(payload), "hex": hexed(&message.bytes),
            "receiver_h_after": hexed(message.hash), "receiver_ck_after": chaining_key,
        })
    });
    let mut ours = keep(case, &["name", "prologue", "hyperdht_payloads"]);
    ours["messages"] = messages.collect();
    ours["initiator"] = side_shape(&sides[0]);
    ours["responder"] = side_shape(&sides[1]);
    ours["handshake_hash"] = hexed(a.handshake_hash);
    ours["initiator_tx"] = hexed(a.tx);
    ours["initiator_rx"] = hexed(a.rx);
    let hash = &a.handshake_hash;
    let stream_id = |index| hexed(keyed_hash(hash, &[&namespace("hyperswarm/secret-stream", index)]));
    ours["derived"] = json!({
        // The DHT's namespaces count its commands; hole punching is the second.
        "holepunch_secret": hexed(keyed_hash(hash, &[&namespace("hyperswarm/dht", 1)])),
        "stream_id_initiator": stream_id(0), "stream_id_responder": stream_id(1),
        "send_key_initiator": hexed(sending_key(hash, true)), "send_key_responder": hexed(sending_key(hash, false)),
    });
    Ok(ours)
}

pub(crate) fn dh(case: &Value) -> Rebuilt {
    let (a, b) = (
        KeyPair::from_seed(case.fixed("a_seed")?),
        KeyPair::from_seed(case.fixed("b_seed")?),
    );
    let shared = a.dh(b.public_key())?;
    ensure(*shared == *b.dh(a.public_key())?, "the two ends differ")?;
    Ok(json!({
        "a_seed": hexed(a.seed()), "a_public": hexed(a.public_key()), "b_seed": hexed(b.seed()),
        "b_public": hexed(b.public_key()), "shared": hexed(*shared),
    }))
}
