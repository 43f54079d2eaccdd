//! `keys.json`: namespaces, key pairs, capabilities, what is signed, manifests, and keys as people write them.

use cumulet_encoding::Reader;
use cumulet_hypercore::crypto::{KeyPair, capability, discovery_key, hash, namespace, verify};
use cumulet_hypercore::key;
use cumulet_hypercore::manifest::{Manifest, Prologue, Signer};
use cumulet_hypercore::verifier::{compat_signable, signable};
use cumulet_hyperdrive::link::Link;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, fixed, hexed, keep, unknown};
use serde_json::Value;

use super::messages::manifest_shape;

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "namespace" => {
            let mut ours = keep(case, &["kind", "name", "index"]);
            ours["value"] = hexed(namespace(case.text("name")?, case.uint("index")?.try_into()?));
            Ok(ours)
        }
        "keypair" => key_pair(case),
        "capability" => {
            let (key, handshake_hash) = (case.fixed("key")?, case.fixed("handshakeHash")?);
            let mut ours = keep(case, &["kind", "key", "handshakeHash"]);
            ours["initiator"] = hexed(capability(&key, &handshake_hash, true));
            ours["responder"] = hexed(capability(&key, &handshake_hash, false));
            Ok(ours)
        }
        "signable" => signed(case),
        "manifest" => manifest(case),
        "compat-core" => {
            let key = case.fixed("publicKey")?;
            ensure(
                Manifest::single(key).is_compat(&key),
                "a compat core's manifest does not fit its key",
            )?;
            ensure(
                Manifest::compat(key).belongs_to(&key),
                "a compat manifest does not belong to its key",
            )?;
            let mut ours = keep(case, &["kind", "publicKey", "note"]);
            ours["key"] = hexed(key);
            ours["discoveryKey"] = hexed(discovery_key(&key));
            Ok(ours)
        }
        "manifest-refuse" => {
            let refused = Manifest::decode(&mut Reader::new(&case.bytes("hex")?)).is_err();
            ensure(refused, "was decoded, should be refused")?;
            Ok(keep(case, &["kind", "tag", "hex", "error"]))
        }
        "manifest-create-refuse" => {
            let refused = described(case.at("manifest")?)?.is_none_or(|manifest| manifest.check().is_err());
            ensure(refused, "was made, should be refused")?;
            Ok(keep(case, &["kind", "tag", "manifest", "error"]))
        }
        "z32" => written(case),
        "z32-refuse" => {
            // Years of published links say hyper://; this project takes them where JS does not.
            let input = case.text("input")?;
            let taken_here = input.starts_with("hyper://");
            ensure(
                key::parse(input).is_ok() == taken_here,
                "was parsed, should be refused",
            )?;
            ensure(
                input.parse::<Link>().is_ok() == taken_here,
                "was parsed as a link, should be refused",
            )?;
            Ok(keep(case, &["kind", "input", "error"]))
        }
        kind => unknown("kind", kind),
    }
}

fn key_pair(case: &Value) -> Rebuilt {
    let pair = KeyPair::from_seed(&case.fixed("seed")?);
    let message = case.bytes("message")?;
    let signature = pair.sign(&message);
    ensure(
        verify(&pair.public_key(), &message, &signature),
        "the signature does not hold",
    )?;
    ensure(
        !verify(&pair.public_key(), b"other", &signature),
        "the signature holds for another message",
    )?;
    let mut ours = keep(case, &["kind", "seed", "message"]);
    ours["publicKey"] = hexed(pair.public_key());
    ours["secretKey"] = hexed(pair.secret_key());
    ours["discoveryKey"] = hexed(discovery_key(&pair.public_key()));
    ours["signature"] = hexed(signature);
    ours["id"] = key::to_z32(&pair.public_key()).into();
    Ok(ours)
}

fn signed(case: &Value) -> Rebuilt {
    let tree_hash = case.fixed("treeHash")?;
    let (length, fork) = (case.uint("length")?, case.uint("fork")?);
    let compat = compat_signable(&tree_hash, length, fork);
    let mut ours = keep(case, &["kind", "manifestHash", "treeHash", "length", "fork"]);
    ours["signable"] = hexed(signable(&case.fixed("manifestHash")?, &tree_hash, length, fork));
    ours["compat"] = hexed(compat);
    ours["compatNoHeader"] = hexed(&compat[32..]);
    Ok(ours)
}

/// The manifest that fields describe, with the defaults of a locally made one. None where the types alone make it
/// impossible.
fn described(fields: &Value) -> Result<Option<Manifest>, Reason> {
    let signers = fields.list("signers")?;
    let quorum = fields.given("quorum").map(Value::as_u64);
    if quorum == Some(None) {
        return Ok(None);
    }
    let public_keys = signers.iter().map(|signer| signer.fixed("publicKey"));
    let mut manifest = Manifest::of_signers(public_keys.collect::<Result<_, _>>()?, quorum.flatten());
    manifest.allow_patch = fields.given("allowPatch") == Some(&Value::Bool(true));
    for (made, given) in manifest.signers.iter_mut().zip(signers) {
        if given.given("namespace").is_some() {
            *made = Signer {
                namespace: given.fixed("namespace")?,
                public_key: given.fixed("publicKey")?,
            };
        }
    }
    if let Some(prologue) = fields.given("prologue") {
        let Ok(hash) = prologue.fixed("hash") else {
            return Ok(None);
        };
        let Ok(length) = prologue.uint("length") else {
            return Ok(None);
        };
        manifest.prologue = Some(Prologue { hash, length });
    }
    if fields.given("linked").is_some() {
        let linked = fields.list("linked")?.iter().map(fixed);
        manifest.linked = Some(linked.collect::<Result<_, _>>()?);
    }
    manifest.user_data = fields.optional_bytes("userData")?;
    let implied = if manifest.linked.is_some() || manifest.user_data.is_some() {
        2
    } else {
        1
    };
    manifest.version = match fields.given("version") {
        Some(version) => match version.as_u64().map(u8::try_from) {
            Some(Ok(version)) => version,
            _ => return Ok(None),
        },
        None => implied,
    };
    Ok(Some(manifest))
}

fn manifest(case: &Value) -> Rebuilt {
    let made = described(case.at("manifest")?)?
        .ok_or_else(|| Reason::new("the manifest's fields are impossible"))?;
    made.check()?;
    let read = Manifest::decode(&mut Reader::new(&case.bytes("encoded")?))?;
    ensure(
        hash(&[&case.bytes("preimage")?]) == made.key(),
        "preimage does not hash to the key",
    )?;
    let mut ours = keep(case, &["kind", "tag", "preimage"]);
    ours["manifest"] = manifest_shape(&read);
    ours["encoded"] = hexed(made.to_bytes());
    ours["key"] = hexed(made.key());
    ours["discoveryKey"] = hexed(discovery_key(&made.key()));
    ours["id"] = key::to_z32(&made.key()).into();
    Ok(ours)
}

fn written(case: &Value) -> Rebuilt {
    let expected = case.fixed("key")?;
    for form in case.list("accepted")? {
        let text = form.as_str().ok_or_else(|| Reason::new("accepted: not text"))?;
        ensure(
            key::parse(text)? == expected,
            "an accepted form gives another key",
        )?;
        ensure(
            text.parse::<Link>()?.key == expected,
            "an accepted form gives a link to another key",
        )?;
    }
    let mut ours = keep(case, &["kind", "accepted"]);
    ours["key"] = key::to_hex(&expected).into();
    ours["id"] = key::to_z32(&expected).into();
    Ok(ours)
}
