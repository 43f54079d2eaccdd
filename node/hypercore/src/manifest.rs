//! The manifest: who may sign a core. Its hash is the core's key.
//!
//! Decoding keeps the logical fields only, so encoding gives the minimal bytes that are hashed. Decoding does not
//! apply the checks of [`Manifest::check`]: JS does not either, and a manifest whose quorum can't be met is simply
//! never satisfied. Source: npm hypercore 11.37 `lib/messages.js`, `lib/verifier.js`.

use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::crypto::{Hash, Key, NAMESPACES, PublicKey, hash};

const ALLOW_PATCH: u64 = 1;
const PROLOGUE: u64 = 2;
const LINKED: u64 = 4;
const USER_DATA: u64 = 8;
/// Bytes of an encoded signer: signature id, namespace, public key.
const SIGNER_BYTES: usize = 65;
/// Newest manifest version that is understood.
const NEWEST_VERSION: u64 = 3;

/// One of the keys that sign a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Context of its signatures in version 0; since version 1 it only makes the key different.
    pub namespace: Hash,
    /// Ed25519 public key.
    pub public_key: PublicKey,
}

/// A tree that every copy of the core starts with, unsigned because its hash is part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prologue {
    /// Tree hash at `length`.
    pub hash: Hash,
    /// Number of blocks.
    pub length: u64,
}

/// The rules of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 0 to 3.
    pub version: u8,
    /// Whether a signer may have signed a longer tree than the one being proven.
    pub allow_patch: bool,
    /// How many signers must agree.
    pub quorum: u64,
    /// The keys, in the order that signatures name them by.
    pub signers: Vec<Signer>,
    /// A start that needs no signature.
    pub prologue: Option<Prologue>,
    /// Keys of other cores, carried without meaning here.
    pub linked: Option<Vec<Key>>,
    /// Bytes carried without meaning here.
    pub user_data: Option<Vec<u8>>,
}

/// A manifest that may not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More signatures wanted than there are signers.
    #[error("the quorum {quorum} is larger than the number of signers {signers}")]
    Quorum {
        /// Signatures wanted.
        quorum: u64,
        /// Signers named.
        signers: usize,
    },
    /// `linked` and `userData` exist since version 2.
    #[error("a manifest of version {version} cannot carry linked keys or user data")]
    Version {
        /// The version asked for.
        version: u8,
    },
}

impl Manifest {
    /// What a core made for one local key pair uses: version 1, that signer, the default namespace.
    pub fn single(public_key: PublicKey) -> Self {
        Self::of_signers(vec![public_key], None)
    }

    /// The manifest of a compat core, whose key is its signer's public key. It is not hashed and never sent.
    pub fn compat(key: Key) -> Self {
        Self {
            version: 0,
            ..Self::single(key)
        }
    }

    /// Version 1 with the default namespace for each signer; the default quorum is a majority.
    pub fn of_signers(public_keys: Vec<PublicKey>, quorum: Option<u64>) -> Self {
        let majority = if public_keys.is_empty() {
            0
        } else {
            public_keys.len() as u64 / 2 + 1
        };
        let signers = public_keys
            .into_iter()
            .map(|public_key| Signer {
                namespace: NAMESPACES.default_signer,
                public_key,
            })
            .collect();
        Self {
            version: 1,
            allow_patch: false,
            quorum: quorum.unwrap_or(majority),
            signers,
            prologue: None,
            linked: None,
            user_data: None,
        }
    }

    /// The rules that a locally made manifest must keep.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.quorum > self.signers.len() as u64 {
            return Err(ManifestError::Quorum {
                quorum: self.quorum,
                signers: self.signers.len(),
            });
        }
        if self.version < 2 && (self.linked.is_some() || self.user_data.is_some()) {
            return Err(ManifestError::Version {
                version: self.version,
            });
        }
        Ok(())
    }

    /// H(MANIFEST namespace ‖ encoded manifest): the core's key, unless it is a compat core.
    pub fn key(&self) -> Key {
        hash(&[&NAMESPACES.manifest, &self.to_bytes()])
    }

    /// Whether a core with this key and manifest is a compat core: its key is its only signer's public key.
    pub fn is_compat(&self, key: &Key) -> bool {
        matches!(&self.signers[..], [signer] if signer.public_key == *key)
    }

    /// Whether this manifest belongs to the key.
    pub fn belongs_to(&self, key: &Key) -> bool {
        self.is_compat(key) || self.key() == *key
    }

    /// The encoded manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(8 + SIGNER_BYTES * self.signers.len());
        self.encode(&mut writer);
        writer.into_vec()
    }

    /// Reads a manifest of any version; it has no length of its own.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.uint()? {
            0 => Self::decode_v0(reader),
            version if version <= NEWEST_VERSION => Self::decode_v1(version as u8, reader),
            _ => Err(DecodeError::Invalid("unknown manifest version")),
        }
    }

    fn decode_v0(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        decode_hash_id(reader)?;
        let mut manifest = Self {
            version: 0,
            ..Self::of_signers(Vec::new(), Some(0))
        };
        match reader.uint()? {
            0 => {
                manifest.prologue = Some(Prologue {
                    hash: reader.fixed()?,
                    length: 0,
                });
            }
            1 => {
                manifest.quorum = 1;
                manifest.signers.push(Signer::decode(reader)?);
            }
            2 => {
                manifest.allow_patch = reader.uint()? & ALLOW_PATCH != 0;
                manifest.quorum = reader.uint()?;
                manifest.signers = Signer::decode_array(reader)?;
            }
            _ => return Err(DecodeError::Invalid("unknown manifest type")),
        }
        Ok(manifest)
    }

    fn decode_v1(version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.uint()?;
        decode_hash_id(reader)?;
        let quorum = reader.uint()?;
        let signers = Signer::decode_array(reader)?;
        let prologue = if flags & PROLOGUE != 0 {
            Some(Prologue {
                hash: reader.fixed()?,
                length: reader.uint()?,
            })
        } else {
            None
        };
        let linked = if flags & LINKED != 0 {
            let count = reader.array_len(32)?;
            Some((0..count).map(|_| reader.fixed()).collect::<Result<_, _>>()?)
        } else {
            None
        };
        let user_data = if flags & USER_DATA != 0 {
            Some(reader.buffer()?.to_vec())
        } else {
            None
        };
        Ok(Self {
            version,
            allow_patch: flags & ALLOW_PATCH != 0,
            quorum,
            signers,
            prologue,
            linked,
            user_data,
        })
    }

    /// Writes the minimal encoding.
    pub fn encode(&self, writer: &mut Writer) {
        writer.uint(u64::from(self.version));
        if self.version == 0 {
            self.encode_v0(writer);
        } else {
            self.encode_v1(writer);
        }
    }

    fn encode_v0(&self, writer: &mut Writer) {
        writer.uint(0);
        match (&self.prologue, &self.signers[..]) {
            (Some(prologue), []) => {
                writer.uint(0).fixed(&prologue.hash);
            }
            (_, [signer]) if self.quorum == 1 && !self.allow_patch => {
                writer.uint(1);
                signer.encode(writer);
            }
            (_, signers) => {
                writer.uint(2).uint(u64::from(self.allow_patch)).uint(self.quorum);
                Signer::encode_array(signers, writer);
            }
        }
    }

    fn encode_v1(&self, writer: &mut Writer) {
        let flag = |set: bool, bit| if set { bit } else { 0 };
        let flags = flag(self.allow_patch, ALLOW_PATCH)
            | flag(self.prologue.is_some(), PROLOGUE)
            | flag(self.linked.is_some(), LINKED)
            | flag(self.user_data.is_some(), USER_DATA);
        writer.uint(flags).uint(0).uint(self.quorum);
        Signer::encode_array(&self.signers, writer);
        if let Some(prologue) = &self.prologue {
            writer.fixed(&prologue.hash).uint(prologue.length);
        }
        if let Some(linked) = &self.linked {
            writer.array_len(linked.len());
            for key in linked {
                writer.fixed(key);
            }
        }
        if let Some(user_data) = &self.user_data {
            writer.buffer(user_data);
        }
    }
}

impl Signer {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.uint()? != 0 {
            return Err(DecodeError::Invalid("unknown signature id"));
        }
        Ok(Self {
            namespace: reader.fixed()?,
            public_key: reader.fixed()?,
        })
    }

    fn decode_array(reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let count = reader.array_len(SIGNER_BYTES)?;
        (0..count).map(|_| Self::decode(reader)).collect()
    }

    fn encode(&self, writer: &mut Writer) {
        writer.uint(0).fixed(&self.namespace).fixed(&self.public_key);
    }

    fn encode_array(signers: &[Self], writer: &mut Writer) {
        writer.array_len(signers.len());
        for signer in signers {
            signer.encode(writer);
        }
    }
}

fn decode_hash_id(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.uint()? {
        0 => Ok(()),
        _ => Err(DecodeError::Invalid("unknown hash id")),
    }
}
