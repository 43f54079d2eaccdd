//! Who signed what: signables, signature envelopes, and the check of a tree against a manifest.
//!
//! Only the first `quorum` proofs of an envelope count, in JS as here; later ones are ignored, and one bad among the
//! first refuses everything. Source: npm hypercore 11.37 `lib/caps.js`, `lib/verifier.js`, `lib/multisig.js`.

use std::collections::HashMap;

use cumulet_encoding::{DecodeError, Reader, Writer};

use crate::crypto::{self, Hash, Key, KeyPair, NAMESPACES};
use crate::manifest::Manifest;
use crate::node::Node;
use crate::roots::{MAX_LENGTH, NodeQueue, Roots, upgrade_path};

/// Why a signature does not prove a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The manifest wants a signature and there is none.
    #[error("the tree is not signed")]
    Missing,
    /// The bytes are no signature envelope.
    #[error("failed to read the signature")]
    Malformed(#[from] DecodeError),
    /// Fewer proofs than the quorum, or a manifest that nobody can satisfy.
    #[error("the signature does not reach the quorum of {quorum}")]
    Quorum {
        /// Signatures wanted.
        quorum: u64,
    },
    /// A proof names a signer that does not exist or was named before.
    #[error("signer {signer} does not exist or is named twice")]
    Signer {
        /// Position in the manifest.
        signer: u64,
    },
    /// A proof's patch does not lead to a tree.
    #[error("the patch of signer {signer} does not fit")]
    Patch {
        /// Position in the manifest.
        signer: u64,
    },
    /// A signature that does not fit the tree.
    #[error("the signature of signer {signer} is wrong")]
    Wrong {
        /// Position in the manifest.
        signer: u64,
    },
    /// A tree within the prologue that is not the prologue.
    #[error("the tree is not the one in the manifest's prologue")]
    Prologue,
}

/// The local key pair cannot sign this core alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to sign the core: the key pair is not a signer of the manifest, or more signers are needed")]
pub struct SignError;

/// One signer's part of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerProof {
    /// Position in the manifest.
    pub signer: u64,
    /// Ed25519 signature.
    pub signature: [u8; 64],
    /// How many blocks longer than the proven tree the tree is that was signed.
    pub patch: u64,
}

/// What stands in a signature field, except for a bare single signature of version 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The signatures, in the order in which they count.
    pub proofs: Vec<SignerProof>,
    /// The nodes that the patches need, shared by all.
    pub patch_nodes: Vec<Node>,
}

impl Envelope {
    /// Reads the envelope of manifest version 1 and later.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(bytes, |reader| {
            Ok(SignerProof {
                signer: reader.uint()?,
                signature: reader.fixed()?,
                patch: reader.uint()?,
            })
        })
    }

    /// Reads the envelope of manifest version 0; of a patch only the length is kept.
    pub fn decode_v0(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(bytes, |reader| {
            let flags = reader.uint()?;
            let (signer, signature) = (reader.uint()?, reader.fixed()?);
            let mut patch = 0;
            if flags & 1 != 0 {
                let _start = reader.uint()?;
                patch = reader.uint()?;
                for _ in 0..reader.array_len(1)? {
                    reader.uint()?;
                }
            }
            Ok(SignerProof {
                signer,
                signature,
                patch,
            })
        })
    }

    fn read(
        bytes: &[u8],
        proof: impl Fn(&mut Reader<'_>) -> Result<SignerProof, DecodeError>,
    ) -> Result<Self, DecodeError> {
        /// Signer, signature and patch or flags.
        const MIN_PROOF_BYTES: usize = 66;
        let mut reader = Reader::new(bytes);
        let count = reader.array_len(MIN_PROOF_BYTES)?;
        let proofs = (0..count).map(|_| proof(&mut reader)).collect::<Result<_, _>>()?;
        Ok(Self {
            proofs,
            patch_nodes: Node::decode_array(&mut reader)?,
        })
    }

    /// Writes the envelope of manifest version 1 and later.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(2 + 66 * self.proofs.len());
        writer.array_len(self.proofs.len());
        for proof in &self.proofs {
            writer
                .uint(proof.signer)
                .fixed(&proof.signature)
                .uint(proof.patch);
        }
        Node::encode_array(&self.patch_nodes, &mut writer);
        writer.into_vec()
    }

    /// Writes the envelope of manifest version 0, without patches.
    fn encode_v0(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array_len(self.proofs.len());
        for proof in &self.proofs {
            writer.uint(0).uint(proof.signer).fixed(&proof.signature);
        }
        Node::encode_array(&[], &mut writer);
        writer.into_vec()
    }
}

/// The 112 bytes that a signer signs: TREE ‖ context ‖ tree hash ‖ length ‖ fork. The context is the manifest hash, or
/// in version 0 the signer's namespace.
pub fn signable(context: &Hash, tree_hash: &Hash, length: u64, fork: u64) -> [u8; 112] {
    let mut bytes = [0; 112];
    bytes[..32].copy_from_slice(&NAMESPACES.tree);
    bytes[32..64].copy_from_slice(context);
    bytes[64..96].copy_from_slice(tree_hash);
    bytes[96..104].copy_from_slice(&length.to_le_bytes());
    bytes[104..].copy_from_slice(&fork.to_le_bytes());
    bytes
}

/// The 80 bytes that the signer of a compat core signs: no context.
pub fn compat_signable(tree_hash: &Hash, length: u64, fork: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[..32].copy_from_slice(&NAMESPACES.tree);
    bytes[32..64].copy_from_slice(tree_hash);
    bytes[64..72].copy_from_slice(&length.to_le_bytes());
    bytes[72..].copy_from_slice(&fork.to_le_bytes());
    bytes
}

/// The 48 bytes that the signer of one of the first compat cores signs: no namespace.
pub fn legacy_signable(tree_hash: &Hash, length: u64, fork: u64) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(tree_hash);
    bytes[32..40].copy_from_slice(&length.to_le_bytes());
    bytes[40..].copy_from_slice(&fork.to_le_bytes());
    bytes
}

/// Checks and makes signatures by one core's manifest.
#[derive(Debug, Clone)]
pub struct Verifier {
    key: Key,
    manifest: Manifest,
    compat: bool,
    /// A compat core whose signatures have no namespace.
    legacy: bool,
}

impl Verifier {
    /// The verifier of a core, if the manifest belongs to its key.
    pub fn new(key: Key, manifest: Manifest) -> Option<Self> {
        let compat = manifest.is_compat(&key);
        (compat || manifest.key() == key).then_some(Self {
            key,
            manifest,
            compat,
            legacy: false,
        })
    }

    /// The verifier of one of the first compat cores.
    pub fn legacy(key: Key) -> Self {
        Self {
            key,
            manifest: Manifest::compat(key),
            compat: true,
            legacy: true,
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the key is the only signer's public key; such a manifest is never sent.
    pub fn is_compat(&self) -> bool {
        self.compat
    }

    /// Whether a tree that is no longer than the prologue is the prologue; nothing for a tree that a signature must prove.
    pub(crate) fn prologue_verdict(&self, roots: &Roots) -> Option<Result<(), SignatureError>> {
        if self.compat || self.manifest.version == 0 {
            return None;
        }
        let prologue = self.manifest.prologue?;
        if roots.length() > prologue.length {
            return None;
        }
        let is_prologue = roots.length() == prologue.length && roots.tree_hash() == prologue.hash;
        Some(if is_prologue {
            Ok(())
        } else {
            Err(SignatureError::Prologue)
        })
    }

    /// Whether the signature proves this tree at this fork.
    pub fn verify(&self, roots: &Roots, fork: u64, signature: Option<&[u8]>) -> Result<(), SignatureError> {
        if let Some(verdict) = self.prologue_verdict(roots) {
            return verdict;
        }
        let version_0 = self.manifest.version == 0;
        let signature = signature.ok_or(SignatureError::Missing)?;
        if self.compat || (version_0 && !self.manifest.allow_patch && self.manifest.signers.len() == 1) {
            return self.check(0, roots, fork, signature);
        }
        if self.manifest.quorum == 0 {
            return Err(SignatureError::Quorum { quorum: 0 });
        }
        let envelope = if version_0 {
            Envelope::decode_v0(signature)?
        } else {
            Envelope::decode(signature)?
        };
        self.verify_envelope(roots, fork, &envelope)
    }

    fn verify_envelope(&self, roots: &Roots, fork: u64, envelope: &Envelope) -> Result<(), SignatureError> {
        let quorum = self.manifest.quorum;
        if (envelope.proofs.len() as u64) < quorum {
            return Err(SignatureError::Quorum { quorum });
        }
        let mut named = vec![false; self.manifest.signers.len()];
        let mut patch_nodes = HashMap::with_capacity(envelope.patch_nodes.len());
        for node in &envelope.patch_nodes {
            patch_nodes.entry(node.index).or_insert(*node);
        }
        // The quorum is at most the number of proofs, which the bytes of the message bound.
        for proof in &envelope.proofs[..quorum as usize] {
            let signer = proof.signer;
            let place = usize::try_from(signer).ok().and_then(|at| named.get_mut(at));
            match place {
                Some(place) if !*place => *place = true,
                _ => return Err(SignatureError::Signer { signer }),
            }
            if proof.patch > 0 && self.manifest.allow_patch {
                let grown = patched(roots, proof.patch, &patch_nodes);
                let grown = grown.ok_or(SignatureError::Patch { signer })?;
                self.check(signer as usize, &grown, fork, &proof.signature)?;
            } else {
                self.check(signer as usize, roots, fork, &proof.signature)?;
            }
        }
        Ok(())
    }

    fn check(&self, signer: usize, roots: &Roots, fork: u64, signature: &[u8]) -> Result<(), SignatureError> {
        let wrong = SignatureError::Wrong {
            signer: signer as u64,
        };
        let known = self.manifest.signers.get(signer).ok_or(SignatureError::Signer {
            signer: signer as u64,
        })?;
        let message = self.message(signer, &roots.tree_hash(), roots.length(), fork);
        if crypto::verify(&known.public_key, &message, signature) {
            Ok(())
        } else {
            Err(wrong)
        }
    }

    fn message(&self, signer: usize, tree_hash: &Hash, length: u64, fork: u64) -> Vec<u8> {
        if self.legacy {
            return legacy_signable(tree_hash, length, fork).to_vec();
        }
        if self.compat {
            return compat_signable(tree_hash, length, fork).to_vec();
        }
        let context = match self.manifest.signers.get(signer) {
            Some(signer) if self.manifest.version == 0 => &signer.namespace,
            _ => &self.key,
        };
        signable(context, tree_hash, length, fork).to_vec()
    }

    /// One signer's signature of a tree, and its position in the manifest: all that [`Verifier::sign`] needs where one is
    /// enough, and a part of it where more are wanted.
    ///
    /// # Errors
    /// [`SignError`] if the key pair is none of the signers'.
    pub fn sign_alone(
        &self,
        roots: &Roots,
        fork: u64,
        key_pair: &KeyPair,
    ) -> Result<(u64, [u8; 64]), SignError> {
        let public_key = key_pair.public_key();
        let mut signers = self.manifest.signers.iter();
        let signer = signers.position(|signer| signer.public_key == public_key);
        let signer = signer.ok_or(SignError)?;
        let message = self.message(signer, &roots.tree_hash(), roots.length(), fork);
        Ok((signer as u64, key_pair.sign(&message)))
    }

    /// Signs a tree, in the form that peers expect. Works only for cores that one signature satisfies.
    ///
    /// # Errors
    /// [`SignError`] if the key pair is none of the signers', or more than one must sign.
    pub fn sign(&self, roots: &Roots, fork: u64, key_pair: &KeyPair) -> Result<Vec<u8>, SignError> {
        let single = self.compat || (self.manifest.version == 0 && self.manifest.signers.len() == 1);
        if self.manifest.quorum != 1 && !single {
            return Err(SignError);
        }
        let (signer, signature) = self.sign_alone(roots, fork, key_pair)?;
        if self.compat || (single && !self.manifest.allow_patch) {
            return Ok(signature.to_vec());
        }
        let proofs = vec![SignerProof {
            signer,
            signature,
            patch: 0,
        }];
        let envelope = Envelope {
            proofs,
            patch_nodes: Vec::new(),
        };
        Ok(if self.manifest.version == 0 {
            envelope.encode_v0()
        } else {
            envelope.encode()
        })
    }
}

/// The tree that is `patch` blocks longer, by the nodes of an envelope.
fn patched(roots: &Roots, patch: u64, nodes: &HashMap<u64, Node>) -> Option<Roots> {
    let length = roots
        .length()
        .checked_add(patch)
        .filter(|length| *length <= MAX_LENGTH)?;
    let wanted = upgrade_path(roots.length(), length);
    let mut needed = Vec::with_capacity(wanted.len());
    for index in wanted {
        needed.push(*nodes.get(&index)?);
    }
    let mut grown = roots.clone();
    grown
        .upgrade(length, &mut NodeQueue::new(&needed, None), &mut Vec::new())
        .ok()?;
    Some(grown)
}
