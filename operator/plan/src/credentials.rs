//! The secrets of a cloud: API token, TLS certificate, content key, and one device seed per replica.
//!
//! Invariant: what exists is kept, byte for byte. Reconciling only ever adds what is missing, so a lost cache, a
//! second operator or a scale-up never changes a key. A value that is there but has the wrong shape is an error
//! and not a reason to overwrite it: it may be the only copy of a content key.

use crate::names::CloudNames;
use crate::validate::Cloud;
use ed25519_dalek::SigningKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Secret key of the API's bearer token: ASCII text.
pub const API_TOKEN: &str = "api-token";
/// Secret key of the authority's certificate, PEM. Its private key is thrown away after one signature.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// Secret key of the API's certificate, PEM.
pub const TLS_CERTIFICATE: &str = "tls.crt";
/// Secret key of the API's private key, PEM.
pub const TLS_PRIVATE_KEY: &str = "tls.key";
/// Secret key of the content key: 32 bytes.
pub const CONTENT_KEY: &str = "content-key";

/// Secret key of a replica's device seed: 32 bytes, the seed of an Ed25519 key pair.
pub fn seed_name(index: u8) -> String {
    format!("seed-{index}")
}

/// A certificate for the replicas' API.
pub struct Tls {
    /// The authority, PEM; the operator trusts this one alone.
    pub ca_certificate: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub private_key: Zeroizing<String>,
}

/// Where new secrets come from.
pub trait Entropy {
    /// 32 random bytes.
    fn bytes(&mut self) -> Result<[u8; 32], EntropyError>;
    /// A certificate for these host names, under an authority of its own.
    fn tls(&mut self, hosts: &[String]) -> Result<Tls, EntropyError>;
}

/// The system gave no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to make a secret: {0}")]
pub struct EntropyError(pub String);

/// Why a cloud's secrets are not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// A value has the wrong shape. It is never overwritten.
    #[error(
        "the Secret's {key} must be {expected}; restore it from a copy, or delete that key of the Secret to get a new one"
    )]
    Damaged {
        /// Key in the Secret.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No new secrets.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// All secrets of a cloud. Shown without the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    data: BTreeMap<String, Vec<u8>>,
    seeds: usize,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, seeds } = self;
        let keys: Vec<_> = data.keys().collect();
        f.debug_struct("Credentials")
            .field("data", &keys)
            .field("seeds", seeds)
            .finish()
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Credentials {
    /// Keeps what `existing` holds and makes what `cloud` still needs.
    pub fn complete(
        cloud: &Cloud,
        existing: Option<&Secret>,
        entropy: &mut impl Entropy,
    ) -> Result<Self, CredentialsError> {
        let data = existing
            .and_then(|secret| secret.data.clone())
            .unwrap_or_default();
        let mut data: BTreeMap<String, Vec<u8>> = data
            .into_iter()
            .map(|(key, ByteString(value))| (key, value))
            .collect();
        if !data.contains_key(API_TOKEN) {
            let token = data_encoding::HEXLOWER.encode(&entropy.bytes()?);
            data.insert(API_TOKEN.into(), token.into_bytes());
        }
        if [CA_CERTIFICATE, TLS_CERTIFICATE, TLS_PRIVATE_KEY]
            .iter()
            .any(|key| !data.contains_key(*key))
        {
            let tls = entropy.tls(&cloud.names.certificate_hosts())?;
            data.insert(CA_CERTIFICATE.into(), tls.ca_certificate.into_bytes());
            data.insert(TLS_CERTIFICATE.into(), tls.certificate.into_bytes());
            data.insert(TLS_PRIVATE_KEY.into(), tls.private_key.as_bytes().to_vec());
        }
        let seeds = (0..cloud.replicas).map(seed_name);
        for key in std::iter::once(CONTENT_KEY.to_owned()).chain(seeds) {
            if let Entry::Vacant(place) = data.entry(key) {
                place.insert(entropy.bytes()?.to_vec());
            }
        }
        let credentials = Self {
            data,
            seeds: usize::from(cloud.replicas),
        };
        credentials.check()?;
        Ok(credentials)
    }

    fn check(&self) -> Result<(), CredentialsError> {
        let keys = (0..self.seeds)
            .map(|index| format!("seed-{index}"))
            .chain([CONTENT_KEY.to_owned()]);
        for key in keys {
            if self.data.get(&key).is_none_or(|value| value.len() != 32) {
                return Err(CredentialsError::Damaged {
                    key,
                    expected: "32 bytes",
                });
            }
        }
        for key in [API_TOKEN, CA_CERTIFICATE, TLS_CERTIFICATE, TLS_PRIVATE_KEY] {
            let text = self
                .data
                .get(key)
                .and_then(|value| std::str::from_utf8(value).ok());
            if text.is_none_or(|text| text.trim().is_empty()) {
                return Err(CredentialsError::Damaged {
                    key: key.into(),
                    expected: "text",
                });
            }
        }
        Ok(())
    }

    /// Every value, as it goes into the Secret.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        self.data
            .iter()
            .map(|(key, value)| (key.clone(), ByteString(value.clone())))
            .collect()
    }

    /// The public key of the replica's device: the Ed25519 public key of its seed.
    pub fn device_public_key(&self, index: u8) -> Option<[u8; 32]> {
        let seed: &[u8; 32] = self.data.get(&seed_name(index))?.as_slice().try_into().ok()?;
        Some(SigningKey::from_bytes(seed).verifying_key().to_bytes())
    }
}

/// What the operator needs to talk to a cloud's replicas.
pub struct ApiAccess {
    /// Bearer token.
    pub token: Zeroizing<String>,
    /// The only authority to trust, PEM.
    pub ca_certificate: String,
    /// The name to ask the certificate for.
    pub host: String,
}

impl ApiAccess {
    /// Reads a cloud's Secret.
    pub fn read(names: &CloudNames, secret: &Secret) -> Result<Self, CredentialsError> {
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            let text = value
                .and_then(|ByteString(value)| std::str::from_utf8(value).ok())
                .map(str::trim);
            text.filter(|text| !text.is_empty())
                .map(str::to_owned)
                .ok_or_else(|| CredentialsError::Damaged {
                    key: key.into(),
                    expected: "text",
                })
        };
        Ok(Self {
            token: text(API_TOKEN)?.into(),
            ca_certificate: text(CA_CERTIFICATE)?,
            host: names.service_host(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, cloud, parsed};

    fn secret(credentials: &Credentials) -> Secret {
        Secret {
            data: Some(credentials.data()),
            ..Secret::default()
        }
    }

    #[test]
    fn what_exists_is_kept_byte_for_byte_when_replicas_are_added() {
        let mut resource = cloud();
        resource.spec.replicas = 1;
        let first = Credentials::complete(&parsed(&resource), None, &mut Counting::default()).unwrap();
        resource.spec.replicas = 3;
        let second =
            Credentials::complete(&parsed(&resource), Some(&secret(&first)), &mut Counting(100)).unwrap();
        let (first, second) = (first.data(), second.data());
        assert!(first.iter().all(|(key, value)| second.get(key) == Some(value)));
        let added: Vec<_> = second.keys().filter(|key| !first.contains_key(*key)).collect();
        assert_eq!(added, ["seed-1", "seed-2"]);
    }

    #[test]
    fn scaling_down_forgets_no_seed() {
        let mut resource = cloud();
        let two = Credentials::complete(&parsed(&resource), None, &mut Counting::default()).unwrap();
        resource.spec.replicas = 0;
        let none =
            Credentials::complete(&parsed(&resource), Some(&secret(&two)), &mut Counting(100)).unwrap();
        assert_eq!(none.data(), two.data());
    }

    #[test]
    fn a_damaged_value_is_reported_and_not_replaced() {
        let complete = Credentials::complete(&parsed(&cloud()), None, &mut Counting::default()).unwrap();
        for (key, value) in [
            (CONTENT_KEY, vec![1; 31]),
            ("seed-1", vec![]),
            (API_TOKEN, b" ".to_vec()),
            (CA_CERTIFICATE, vec![0xff]),
        ] {
            let mut broken = secret(&complete);
            broken
                .data
                .as_mut()
                .unwrap()
                .insert(key.into(), ByteString(value));
            let error =
                Credentials::complete(&parsed(&cloud()), Some(&broken), &mut Counting(100)).unwrap_err();
            assert!(
                matches!(&error, CredentialsError::Damaged { key: found, .. } if found == key),
                "{error}"
            );
        }
    }

    #[test]
    fn every_replica_has_a_key_of_its_own() {
        let complete = Credentials::complete(&parsed(&cloud()), None, &mut Counting::default()).unwrap();
        let keys = [
            complete.device_public_key(0).unwrap(),
            complete.device_public_key(1).unwrap(),
        ];
        assert_ne!(keys[0], keys[1]);
        assert_eq!(complete.device_public_key(2), None);
    }

    #[test]
    fn a_device_public_key_is_the_ed25519_key_of_its_seed() {
        // RFC 8032, section 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut existing = Secret::default();
        let seed = data_encoding::HEXLOWER.decode(seed.as_bytes()).unwrap();
        existing
            .data
            .get_or_insert_default()
            .insert("seed-0".into(), ByteString(seed));
        let complete =
            Credentials::complete(&parsed(&cloud()), Some(&existing), &mut Counting::default()).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&complete.device_public_key(0).unwrap()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn debugging_shows_no_secret() {
        let complete = Credentials::complete(&parsed(&cloud()), None, &mut Counting::default()).unwrap();
        let token = String::from_utf8(complete.data()[API_TOKEN].0.clone()).unwrap();
        assert!(!format!("{complete:?}").contains(&token));
    }
}
