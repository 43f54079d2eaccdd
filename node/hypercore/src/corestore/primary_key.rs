//! Key pairs by name: what a store's owner writes with, derived from one secret.
//!
//! Namespaces nest: each is the hash of the one it lies in and its name. Source: npm corestore 7.12 `index.js`
//! (generateNamespace, deriveSeed, createKeyPair). The store itself keeps no primary key; its owner does.

use crate::crypto::{Hash, KeyPair, hash, keyed_hash, namespace};

/// The secret that a store's own key pairs follow from.
#[derive(Clone)]
pub struct PrimaryKey([u8; 32]);

impl PrimaryKey {
    /// From 32 random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The key pair of a name in nested namespaces, outermost first; none for the root.
    pub fn key_pair<S: AsRef<str>>(&self, namespaces: &[S], name: &str) -> KeyPair {
        let inside: Hash = namespaces
            .iter()
            .fold([0; 32], |outer, inner| hash(&[&outer, inner.as_ref().as_bytes()]));
        let seed = keyed_hash(&self.0, &[&namespace("corestore", 0), &inside, name.as_bytes()]);
        KeyPair::from_seed(&seed)
    }
}

impl std::fmt::Debug for PrimaryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrimaryKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::key::to_hex;
    use crate::manifest::Manifest;

    #[test]
    fn names_lead_to_the_key_pairs_and_keys_of_the_javascript_package() {
        let vectors = include_str!("../../../../vectors/data/corestore.json");
        let vectors: Value = serde_json::from_str(vectors).unwrap();
        let mut checked = 0;
        for case in vectors["cases"].as_array().unwrap() {
            if case["kind"] != "keypair" || case["manifestVersion"] != 1 {
                continue;
            }
            let text = |field: &str| case[field].as_str().unwrap();
            let namespaces: Vec<&str> = case["namespaces"]
                .as_array()
                .unwrap()
                .iter()
                .map(|namespace| namespace.as_str().unwrap())
                .collect();
            let primary = PrimaryKey::new(crate::key::parse(text("primaryKey")).unwrap());
            let pair = primary.key_pair(&namespaces, text("name"));
            assert_eq!(hex::encode(pair.secret_key()), text("secretKey"), "{case}");
            assert_eq!(to_hex(&Manifest::single(pair.public_key()).key()), text("key"));
            checked += 1;
        }
        assert!(checked > 5, "{checked}");
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", PrimaryKey::new([7; 32])), "PrimaryKey { .. }");
    }
}
