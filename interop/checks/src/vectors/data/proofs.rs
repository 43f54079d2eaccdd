//! `proofs.json`: what a clone accepts, ignores and refuses, and what a seeder proves, byte for byte.

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_hypercore::core::{Core, Reorg};
use cumulet_hypercore::crypto::{KeyPair, hash};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Data, Message, Request};
use cumulet_hypercore::storage::MemoryStorage;
use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, ensure, hexed, keep, unhex};
use serde_json::{Value, json};

type MemoryCore = Core<MemoryStorage>;

/// Kinds of cases; each is rebuilt the same way.
const KINDS: [&str; 18] = [
    "good",
    "upgrade-steps",
    "block+upgrade",
    "seek+upgrade",
    "hash+seek",
    "seek-exact",
    "empty-blocks",
    "compat",
    "fork",
    "reorg",
    "bad-upgrade",
    "bad-block",
    "bad-hash",
    "bad-block-upgrade",
    "multisig",
    "multisig-bad",
    "prologue",
    "prologue-bad",
];

/// The head names the public key. Its secret one is known if the file was made with the usual seed, and then what our
/// seeder proves is compared as well.
pub(crate) fn checker(head: &Value) -> Result<Checker, Reason> {
    let public_key: [u8; 32] = head.fixed("publicKey")?;
    let usual = KeyPair::from_seed(&hash(&[b"seed:proofs", &[0; 4]]));
    let pair = (usual.public_key() == public_key).then_some(usual);
    Ok(Box::new(move |case| match case.text("kind")? {
        "big-block" => big_block(case),
        kind if KINDS.contains(&kind) => exchange(case, pair.as_ref()),
        kind => cumulet_vectors::unknown("kind", kind),
    }))
}

/// A reorganisation on its way.
#[derive(Default)]
struct Reorganising {
    started: Option<Reorg>,
    /// Blocks that both forks share, as far as is known.
    ancestors: Option<u64>,
}

fn exchange(case: &Value, pair: Option<&KeyPair>) -> Rebuilt {
    let mut ours = keep(
        case,
        &[
            "kind",
            "tag",
            "sourceLength",
            "sourceFork",
            "blocks",
            "truncatedTo",
        ],
    );
    let mut core = Core::open(MemoryStorage::new(), case.fixed("key")?)?;
    if let Some(manifest) = case.optional_bytes("manifest")? {
        let manifest = Manifest::decode(&mut Reader::new(&manifest))?;
        ours["key"] = hexed(manifest.key());
        ours["manifest"] = hexed(manifest.to_bytes());
    } else {
        ours["key"] = hexed(core.key());
        ours["manifest"] = Value::Null;
    }
    let (mut reorg, mut steps) = (Reorganising::default(), Vec::new());
    for step in case.list("steps")? {
        let at = |reason: Reason| Reason::new(format!("step {}: {reason}", steps.len()));
        let step = take(case, &mut core, &mut reorg, step, pair).map_err(at)?;
        steps.push(step);
    }
    ours["steps"] = steps.into();
    if case.given("blocks").is_some() {
        ensure(
            case.list("blocks")?.len() as u64 == case.uint("sourceLength")?,
            "sourceLength is not that of blocks",
        )?;
    }
    if case.given("ancestors").is_some() {
        // Both sides have the blocks before the cut in common, and no others.
        ours["ancestors"] = reorg.ancestors.into();
        ours["truncatedTo"] = reorg.ancestors.into();
        ensure(
            core.length() == case.uint("sourceLength")?,
            "sourceLength is not the final length",
        )?;
        ensure(
            core.fork() == case.uint("sourceFork")?,
            "sourceFork is not the final fork",
        )?;
    }
    Ok(ours)
}

fn take(
    case: &Value,
    core: &mut MemoryCore,
    reorg: &mut Reorganising,
    step: &Value,
    pair: Option<&KeyPair>,
) -> Rebuilt {
    let asked = request(step.bytes("request")?)?;
    let before = Core::open(core.storage().clone(), *core.key())?;
    let result = receive(core, reorg, step.bytes("data")?)?;
    let recorded = step.text("result")?;
    let mut ours = keep(step, &["note", "data", "jsError"]);
    ours["request"] = hexed(Message::Request(asked).encode());
    // A plain "reorg" may end at once; "ignored" is about verification alone, which a lower or higher fork skips.
    let equivalent = matches!(
        (recorded, result.as_str()),
        ("reorg", "reorg-finished") | ("ignored", "reorg-finished" | "refused")
    );
    ours["result"] = if equivalent {
        recorded.into()
    } else {
        result.into()
    };
    if recorded == "ignored" {
        *core = before;
    }
    ours["after"] = state(core);
    if let Some(data) = proven(case, step, &asked, pair)? {
        ours["data"] = data;
    }
    Ok(ours)
}

fn request(payload: Vec<u8>) -> Result<Request, Reason> {
    match Message::decode(1, &payload.into())? {
        Message::Request(request) => Ok(request),
        _ => Err(Reason::new("no request")),
    }
}

/// Takes a Data message as the replicator would; gives the result in the words of the vectors.
fn receive(core: &mut MemoryCore, reorg: &mut Reorganising, payload: Vec<u8>) -> Result<String, Reason> {
    let Ok(Message::Data(Data { proof, .. })) = Message::decode(3, &payload.into()) else {
        return Ok("refused".into());
    };
    let started = match reorg.started.take() {
        Some(mut known) => match core.continue_reorg(&mut known, &proof) {
            Ok(()) => Some(known),
            Err(_) => return Ok("refused".into()),
        },
        None if proof.fork > core.fork() => core.begin_reorg(&proof).ok(),
        None => None,
    };
    let Some(started) = started else {
        return Ok(match core.verify_and_apply(proof) {
            Ok(applied) if applied.other_fork => "ignored".into(),
            Ok(_) => "accepted".into(),
            Err(_) => "refused".into(),
        });
    };
    reorg.ancestors = Some(started.ancestors());
    let Some(want) = started.want().cloned() else {
        core.apply_reorg(started)?;
        return Ok("reorg-finished".into());
    };
    reorg.started = Some(started);
    let (nodes, blocks) = (want.nodes, want.blocks);
    Ok(format!(
        r#"reorg-want {{"nodes":{nodes},"start":{},"end":{}}}"#,
        blocks.start, blocks.end
    ))
}

fn state(core: &MemoryCore) -> Value {
    let tree_hash = (core.length() > 0).then(|| hexed(core.roots().tree_hash()));
    json!({
        "fork": core.fork(), "length": core.length(), "byteLength": core.byte_length(), "treeHash": tree_hash,
        "has": core.bitfield().runs().flatten().collect::<Vec<_>>(), "hasManifest": core.manifest().is_some(),
    })
}

/// The answer of our own seeder to the step's request; none where the file's key pair alone can't make the source, or
/// where the recorded answer is a forged one.
fn proven(
    case: &Value,
    step: &Value,
    asked: &Request,
    pair: Option<&KeyPair>,
) -> Result<Option<Value>, Reason> {
    let (Some(pair), true) = (pair, case.given("blocks").is_some()) else {
        return Ok(None);
    };
    if case.text("kind")?.contains("bad") {
        return Ok(None);
    }
    // A seeder proves all it has, so the asker ends at the seeder's length (some seeders are shorter).
    let Some(source) = source(case, step.at("after")?.uint("length")?, pair)? else {
        return Ok(None);
    };
    if asked.fork != source.fork() {
        return Ok(None);
    }
    let proof = source.create_proof(asked)?;
    Ok(Some(hexed(
        Message::Data(Data {
            request: asked.id,
            proof,
        })
        .encode(),
    )))
}

/// The seeder of a case with its first `length` blocks.
fn source(case: &Value, length: u64, pair: &KeyPair) -> Result<Option<MemoryCore>, Reason> {
    let mut core = match case.optional_bytes("manifest")? {
        None => Core::create_compat(MemoryStorage::new(), pair.clone())?,
        Some(manifest) => {
            let manifest = Manifest::decode(&mut Reader::new(&manifest))?;
            if manifest.prologue.is_some() || manifest.signers.len() != 1 {
                return Ok(None);
            }
            Core::create(MemoryStorage::new(), manifest, Some(pair.clone()))?
        }
    };
    for fork in 0..case.uint("sourceFork")? {
        core.truncate(0, Some(fork + 1))?;
    }
    let blocks = case.list("blocks")?.iter().take(length.try_into()?);
    core.append_batch(
        blocks
            .map(|block| unhex(block).map(Bytes::from))
            .collect::<Result<_, _>>()?,
    )?;
    Ok(Some(core))
}

/// One block too long to be written out in the file.
fn big_block(case: &Value) -> Rebuilt {
    let asked = request(case.bytes("request")?)?;
    let (mut data, tail) = (case.bytes("dataPrefix")?, case.bytes("dataTail")?);
    data.resize(case.uint("dataLength")?.try_into()?, 1);
    let at = data.len().checked_sub(tail.len());
    let at = at.ok_or_else(|| Reason::new("dataTail is longer than dataLength"))?;
    data[at..].copy_from_slice(&tail);
    let mut core = Core::open(MemoryStorage::new(), case.fixed("key")?)?;
    let mut ours = keep(
        case,
        &["kind", "tag", "key", "dataPrefix", "dataLength", "dataTail"],
    );
    ours["request"] = hexed(Message::Request(asked).encode());
    ours["dataHash"] = hexed(hash(&[&data]));
    ours["result"] = receive(&mut core, &mut Reorganising::default(), data)?.into();
    ours["after"] = state(&core);
    Ok(ours)
}
