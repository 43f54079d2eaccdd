//! `corestore.json`: namespaces and the keys of named cores.

use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::derivation::{ROOT_NAMESPACE, child_namespace, named_key_pair};
use cumulet_hypercore::manifest::Manifest;
use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, keep, unknown};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "keypair" => key_pair(case),
        "manifestVersion2" => {
            let pair = named_key_pair(&case.fixed("primaryKey")?, &ROOT_NAMESPACE, case.text("name")?);
            let mut ours = keep(case, &["kind", "primaryKey", "name"]);
            ours["publicKey"] = hexed(pair.public_key());
            let mut manifest = Manifest::single(pair.public_key());
            manifest.version = 2;
            ours["key"] = hexed(manifest.key());
            ours["discoveryKey"] = hexed(discovery_key(&manifest.key()));
            Ok(ours)
        }
        kind => unknown("kind", kind),
    }
}

fn key_pair(case: &Value) -> Rebuilt {
    let mut namespace = ROOT_NAMESPACE;
    for name in case.list("namespaces")? {
        let name = name.as_str().ok_or_else(|| Reason::new("namespaces: not text"))?;
        namespace = child_namespace(&namespace, name);
    }
    let pair = named_key_pair(&case.fixed("primaryKey")?, &namespace, case.text("name")?);
    let mut ours = keep(case, &["kind", "primaryKey", "namespaces", "name"]);
    ours["namespace"] = hexed(namespace);
    ours["publicKey"] = hexed(pair.public_key());
    ours["secretKey"] = hexed(pair.secret_key());
    if case.at("key")?.is_null() {
        // A pair that no core was opened for.
        ours["key"] = Value::Null;
        ours["discoveryKey"] = Value::Null;
    } else {
        let manifest = Manifest::single(pair.public_key());
        ours["key"] = hexed(manifest.key());
        ours["discoveryKey"] = hexed(discovery_key(&manifest.key()));
        ours["manifestVersion"] = json!(manifest.version);
    }
    Ok(ours)
}
