//! Files about what is signed or sealed: announcements, mutable and immutable values, hole punch payloads.

use cumulet_encoding::Writer;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, keep, unknown};
use ed25519_dalek::SigningKey;
use serde_json::Value;

use super::messages::{payload, payload_shape, peer, peer_shape};
use crate::crypto::{hash, sign, verify};
use crate::messages::{
    Announce, HolepunchPayload, MutablePut, announce_signable, mutable_signable, sign_mutable,
    unannounce_signable, verify_mutable,
};
use crate::node::secure_payload::SecurePayload;

pub(super) fn announcement(case: &Value) -> Rebuilt {
    let key = SigningKey::from_bytes(&case.fixed("seed")?);
    let public_key = key.verifying_key().to_bytes();
    let signable = match case.text("kind")? {
        "announce" => announce_signable,
        "unannounce" => unannounce_signable,
        kind => return unknown("kind", kind),
    };
    let mut announce = Announce {
        peer: Some(peer(case.at("peer")?)?),
        refresh: case.optional_fixed("refresh")?,
        signature: None,
        bump: case.uint("bump")?,
    };
    let target = case.fixed("target")?;
    let signable = signable(&target, &case.fixed("node_id")?, &case.fixed("token")?, &announce);
    let signature = sign(&key, &signable);
    ensure(
        verify(&public_key, &signable, &signature),
        "the signature does not hold",
    )?;
    announce.signature = Some(signature);
    let record = announce.peer.clone().ok_or_else(|| Reason::new("no peer"))?;
    let mut ours = keep(
        case,
        &["kind", "seed", "target", "token", "node_id", "refresh", "bump"],
    );
    ours["self_announce"] = (target == hash(&[&public_key])).into();
    ours["public_key"] = hexed(public_key);
    ours["peer"] = peer_shape(&record);
    ours["peer_encoding"] = hexed(record.encode());
    ours["signable"] = hexed(signable);
    ours["signature"] = hexed(signature);
    ours["value"] = hexed(announce.encode());
    Ok(ours)
}

pub(super) fn value(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "mutable" => mutable(case),
        "immutable" => {
            let value = case.bytes("put_request_value")?;
            let mut ours = keep(case, &["kind"]);
            ours["target"] = hexed(hash(&[&value]));
            ours["get_response_value"] = hexed(&value);
            ours["put_request_value"] = hexed(value);
            Ok(ours)
        }
        kind => unknown("kind", kind),
    }
}

fn mutable(case: &Value) -> Rebuilt {
    let key = SigningKey::from_bytes(&case.fixed("seed")?);
    let public_key = key.verifying_key().to_bytes();
    let (seq, value) = (case.uint("seq")?, case.bytes("value")?);
    let record = sign_mutable(&key, seq, &value);
    ensure(
        verify_mutable(&public_key, &record),
        "the signature does not hold",
    )?;
    let mut other = record.clone();
    other.seq += 1;
    ensure(
        !verify_mutable(&public_key, &other),
        "the signature holds for another seq",
    )?;
    // A get asks for any value that is at least as new.
    let mut newest = Writer::new();
    newest.uint(seq);
    let mut ours = keep(case, &["kind", "seed", "seq", "value"]);
    ours["public_key"] = hexed(public_key);
    ours["target"] = hexed(hash(&[&public_key]));
    ours["signable"] = hexed(mutable_signable(seq, &value));
    ours["signature"] = hexed(record.signature);
    ours["get_request_value"] = hexed(newest.as_slice());
    ours["get_response_value"] = hexed(record.encode());
    ours["put_request_value"] = hexed(MutablePut { public_key, record }.encode());
    Ok(ours)
}

pub(super) fn holepunch(case: &Value) -> Rebuilt {
    let secure = SecurePayload::with_secret(&case.fixed("holepunch_secret")?, case.fixed("local_secret")?);
    let described = payload(case.at("payload")?)?;
    let sealed = secure.seal(&described, case.fixed("nonce")?);
    ensure(
        secure.open(&sealed).as_ref() == Some(&described),
        "does not open to what was sealed",
    )?;
    let plain = HolepunchPayload::decode(&case.bytes("plain")?)?;
    let mut ours = keep(case, &["holepunch_secret", "nonce", "local_secret", "token_host"]);
    ours["payload"] = payload_shape(&plain);
    ours["plain"] = hexed(described.encode());
    ours["hex"] = hexed(sealed);
    ours["token"] = hexed(secure.token(case.text("token_host")?.parse()?));
    Ok(ours)
}
