//! `merkle.json`: trees, their hashes and signatures, and the arithmetic of flat trees.

use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::flat_tree;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hypercore::verifier::{Verifier, compat_signable, signable};
use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, ensure, fixed, hexed, keep, unhex, unknown};
use serde_json::{Value, json};

/// The head names the key pair that signs.
pub(crate) fn checker(head: &Value) -> Result<Checker, Reason> {
    let secret = head.bytes("secretKey")?;
    let seed = secret
        .get(..32)
        .ok_or_else(|| Reason::new("secretKey is too short"))?;
    let pair = KeyPair::from_seed(&fixed(&hexed(seed))?);
    ensure(
        hexed(pair.secret_key()) == head["secretKey"],
        "secretKey is not that of its seed",
    )?;
    ensure(
        hexed(pair.public_key()) == *head.at("publicKey")?,
        "publicKey is not that of secretKey",
    )?;
    Ok(Box::new(move |case| match case.text("kind")? {
        "tree" | "tree-large" => tree(&pair, case),
        "flat" => flat(case),
        "fullRoots" => {
            let mut ours = keep(case, &["kind", "length"]);
            ours["roots"] = flat_tree::roots(case.uint("length")?).collect::<Vec<_>>().into();
            Ok(ours)
        }
        kind => unknown("kind", kind),
    }))
}

fn tree(pair: &KeyPair, case: &Value) -> Rebuilt {
    let manifest = Manifest::single(pair.public_key());
    let key = manifest.key();
    let (mut roots, mut nodes, mut offsets) = (Roots::new(), Vec::new(), Vec::new());
    for (index, block) in case.list("blocks")?.iter().enumerate() {
        // The generator left some offsets open (null).
        let is_open = case["byteOffsets"].get(index).is_some_and(Value::is_null);
        offsets.push(if is_open {
            Value::Null
        } else {
            roots.byte_length().into()
        });
        roots.push(Node::leaf(index as u64, &unhex(block)?), &mut nodes)?;
    }
    nodes.sort_by_key(|node| node.index);
    let verifier = |key, manifest| {
        Verifier::new(key, manifest).ok_or_else(|| Reason::new("the manifest has another key"))
    };
    let (default, compat) = (
        verifier(key, manifest)?,
        verifier(pair.public_key(), Manifest::compat(pair.public_key()))?,
    );
    let (length, tree_hash) = (roots.length(), roots.tree_hash());
    let mut ours = keep(case, &["kind", "tag", "blocks"]);
    ours["length"] = length.into();
    ours["byteLength"] = roots.byte_length().into();
    ours["byteOffsets"] = offsets.into();
    ours["fullRoots"] = roots
        .nodes()
        .iter()
        .map(|root| root.index)
        .collect::<Vec<_>>()
        .into();
    ours["roots"] = (roots.nodes().iter())
        .map(|root| json!({"index": root.index, "size": root.size, "hash": hexed(root.hash)}))
        .collect();
    ours["nodes"] = (nodes.iter())
        .map(|node| json!([node.index, node.size, hexed(node.hash)]))
        .collect();
    ours["treeHash"] = hexed(tree_hash);
    ours["key"] = hexed(key);
    ours["signable"] = hexed(signable(&key, &tree_hash, length, 0));
    ours["compatSignable"] = hexed(compat_signable(&tree_hash, length, 0));
    let sign = |verifier: &Verifier| -> Rebuilt {
        let signature = verifier.sign(&roots, 0, pair)?;
        verifier.verify(&roots, 0, Some(&signature))?;
        ensure(
            verifier.verify(&roots, 1, Some(&signature)).is_err(),
            "the signature holds for another fork",
        )?;
        Ok(hexed(signature))
    };
    // JS signs no empty core of the default kind.
    ours["signature"] = if length == 0 { Value::Null } else { sign(&default)? };
    ours["compatSignature"] = sign(&compat)?;
    Ok(ours)
}

fn flat(case: &Value) -> Rebuilt {
    let index = case.uint("index")?;
    let (depth, offset) = (flat_tree::depth(index), flat_tree::offset(index));
    ensure(
        flat_tree::index(depth, offset) == index,
        "depth and offset do not give the index",
    )?;
    Ok(json!({
        "kind": "flat", "index": index, "depth": depth, "offset": offset,
        "parent": flat_tree::parent(index), "sibling": flat_tree::sibling(index),
        "children": flat_tree::children(index).map(|(left, right)| vec![left, right]),
        "spans": [flat_tree::left_span(index), flat_tree::right_span(index)],
        "countLeaves": flat_tree::leaf_count(index),
    }))
}
