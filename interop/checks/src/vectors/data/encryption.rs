//! `encryption.json`: keys of block encryption, encrypted blocks, and the trees of encrypted cores.

use cumulet_hypercore::crypto::{KeyPair, hash};
use cumulet_hypercore::encryption::{BlockCipher, PADDING};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, keep, unhex, unknown};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "keys" => keys(case),
        "block" => block(case),
        "core" => core(case, false),
        "compat-core" => core(case, true),
        kind => unknown("kind", kind),
    }
}

fn keys(case: &Value) -> Rebuilt {
    let (core_key, encryption_key) = (case.fixed("hypercoreKey")?, case.fixed("encryptionKey")?);
    let shown = |cipher: &BlockCipher| json!({"block": hexed(cipher.block_key()), "blinding": hexed(cipher.blinding_key())});
    let normal = BlockCipher::new(&core_key, &encryption_key, false);
    let mut ours = keep(case, &["kind", "encryptionKey", "hypercoreKey"]);
    ours["normal"] = shown(&normal);
    ours["compat"] = shown(&BlockCipher::new(&core_key, &encryption_key, true));
    ours["isBlockKey"] = shown(&BlockCipher::from_block_key(encryption_key));
    ours["blockEncryptionKey"] = hexed(normal.block_key());
    Ok(ours)
}

fn block(case: &Value) -> Rebuilt {
    let cipher = BlockCipher::from_keys(case.fixed("blockKey")?, case.fixed("blindingKey")?);
    let (index, plaintext) = (case.uint("index")?, case.bytes("plaintext")?);
    let stored = cipher.encrypt(index, case.uint("fork")?, &plaintext);
    ensure(
        cipher.decrypt(index, &stored)? == plaintext,
        "does not decrypt to the plaintext",
    )?;
    let mut ours = keep(
        case,
        &["kind", "blockKey", "blindingKey", "index", "fork", "plaintext"],
    );
    ours["encrypted"] = hexed(stored);
    Ok(ours)
}

/// The tree of an encrypted core is made of the encrypted blocks.
fn core(case: &Value, compat: bool) -> Rebuilt {
    let label = case.text("keyPairSeedLabel")?;
    let pair = KeyPair::from_seed(&hash(&[b"seed:", label.as_bytes(), &[0; 4]]));
    let key = if compat {
        pair.public_key()
    } else {
        Manifest::single(pair.public_key()).key()
    };
    let cipher = BlockCipher::new(&key, &case.fixed("encryptionKey")?, compat);
    let (mut roots, mut stored, mut byte_length) = (Roots::new(), Vec::new(), 0);
    let forks = case.list("forkPerBlock")?;
    for (index, plaintext) in case.list("plaintext")?.iter().enumerate() {
        let fork = forks.get(index).and_then(Value::as_u64);
        let fork = fork.ok_or_else(|| Reason::new("forkPerBlock lacks a block"))?;
        let (index, plaintext) = (index as u64, unhex(plaintext)?);
        let block = cipher.encrypt(index, fork, &plaintext);
        ensure(
            cipher.decrypt(index, &block)? == plaintext,
            "does not decrypt to the plaintext",
        )?;
        roots.push(Node::leaf(index, &block), &mut Vec::new())?;
        byte_length += plaintext.len();
        stored.push(hexed(block));
    }
    let mut ours = keep(
        case,
        &[
            "kind",
            "keyPairSeedLabel",
            "encryptionKey",
            "plaintext",
            "forkPerBlock",
            "error",
        ],
    );
    // The last block was written on the core's last fork.
    let fork = forks.last().and_then(Value::as_u64).unwrap_or_default();
    ours["key"] = hexed(key);
    ours["length"] = roots.length().into();
    ours["fork"] = fork.into();
    ours["byteLengthOnWire"] = roots.byte_length().into();
    ours["byteLength"] = byte_length.into();
    ours["padding"] = PADDING.into();
    ours["encrypted"] = stored.into();
    ours["treeHash"] = hexed(roots.tree_hash());
    Ok(ours)
}
