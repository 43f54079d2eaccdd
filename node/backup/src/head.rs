//! The head object: what a core was when it was shipped, signed by its writer, and where its blocks are.
//!
//! Content, in compact-encoding, then sealed (see [`crate::sealing`]) with the discovery key as context:
//!
//! | field | codec |
//! |---|---|
//! | version | uint, 1 |
//! | key | fixed32 |
//! | manifest | buffer, as hypercore encodes it |
//! | fork, length | uint, uint |
//! | signature | buffer, empty if the prologue proves the tree |
//! | roots | array of { uint index, uint size, fixed32 hash } |
//! | segments | array of the same: subtrees whose blocks are in segment objects |
//! | absent | array of the same: the other subtrees, so that both together make up the roots |
//!
//! A head that was decoded by [`Head::open`] is proven: the manifest belongs to the key, the signature to the roots, the
//! subtrees make up the roots. Nothing else is handed out.

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};
use cumulet_hypercore::crypto::{Hash, Key, discovery_key};
use cumulet_hypercore::flat_tree;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::{Roots, TreeError};
use cumulet_hypercore::verifier::{SignatureError, Verifier};

use crate::held::{Selection, SelectionError};
use crate::names::{HeadName, SegmentName};
use crate::sealing::{ContentKey, Kind, OpenError, content_hash, open, seal};

const VERSION: u64 = 1;

/// A core's signed length: its key, its manifest, and a tree with a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The core's key.
    pub key: Key,
    /// The manifest that belongs to the key.
    pub manifest: Manifest,
    /// Fork counter that the signature binds.
    pub fork: u64,
    /// The tree's roots, and with them length and byte length.
    pub roots: Roots,
    /// The signature as hypercore stores it; empty if the manifest's prologue proves the tree.
    pub signature: Vec<u8>,
}

/// A head with the places of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The signed length.
    pub signed: SignedHead,
    /// Which segments are in the store.
    pub selection: Selection,
}

/// A head that was read and proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenHead {
    /// The head.
    pub head: Head,
    /// All tree nodes that it proves: those of the selection, and all between them and the roots.
    pub nodes: Vec<Node>,
}

/// Why a head object was refused.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// It could not be decrypted.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The hash in its name is not the hash of its bytes.
    #[error("its bytes do not have the hash that its name says")]
    Name,
    /// The content is not as this version writes it.
    #[error("its content can't be read")]
    Decode(#[from] DecodeError),
    /// The content was written by a newer program.
    #[error("its content version {0} is newer than this program")]
    NewerVersion(u64),
    /// Bytes follow the content.
    #[error("{0} bytes follow its content")]
    Trailing(usize),
    /// It is of another core, or of another fork or length than its name says.
    #[error("it is not the head that its name says")]
    OtherHead,
    /// The manifest is not the key's.
    #[error("its manifest does not belong to the core's key")]
    Manifest,
    /// The roots are not those of a tree of this length.
    #[error("its roots do not fit its length")]
    Roots(#[from] TreeError),
    /// The signature does not prove the roots.
    #[error("its signature does not prove its tree")]
    Signature(#[from] SignatureError),
    /// The segments do not make up the roots.
    #[error("its segments do not make up its tree")]
    Selection(#[from] SelectionError),
}

impl SignedHead {
    /// Length in blocks.
    pub fn length(&self) -> u64 {
        self.roots.length()
    }

    /// The core's discovery key.
    pub fn discovery_key(&self) -> Hash {
        discovery_key(&self.key)
    }

    /// Checks manifest and signature.
    pub fn verify(&self) -> Result<(), HeadError> {
        let verifier = Verifier::new(self.key, self.manifest.clone()).ok_or(HeadError::Manifest)?;
        let signature = (!self.signature.is_empty()).then_some(&self.signature[..]);
        Ok(verifier.verify(&self.roots, self.fork, signature)?)
    }
}

impl Head {
    /// Encodes and seals it. The same head gives the same bytes and the same name on every replica.
    pub fn seal(&self, key: &ContentKey) -> (HeadName, Bytes) {
        let mut writer = Writer::new();
        writer
            .uint(VERSION)
            .fixed(&self.signed.key)
            .buffer(&self.signed.manifest.to_bytes());
        writer
            .uint(self.signed.fork)
            .uint(self.signed.length())
            .buffer(&self.signed.signature);
        Node::encode_array(self.signed.roots.nodes(), &mut writer);
        Node::encode_array(&self.selection.segments, &mut writer);
        Node::encode_array(&self.selection.absent, &mut writer);
        let bytes = seal(key, Kind::Head, &self.signed.discovery_key(), writer.as_slice());
        let name = HeadName {
            fork: self.signed.fork,
            length: self.signed.length(),
            hash: content_hash(&bytes),
        };
        (name, bytes)
    }

    /// Decrypts, decodes and proves the head with this name of the core with this discovery key.
    pub fn open(
        key: &ContentKey,
        discovery: &Hash,
        name: &HeadName,
        bytes: &[u8],
    ) -> Result<ProvenHead, HeadError> {
        // Opened first: another content key is a better answer than "damaged", and the tag finds any damage too.
        let content = open(key, Kind::Head, discovery, bytes)?;
        if content_hash(bytes) != name.hash {
            return Err(HeadError::Name);
        }
        let head = Self::decode(&content)?;
        let signed = &head.signed;
        if signed.discovery_key() != *discovery || signed.fork != name.fork || signed.length() != name.length
        {
            return Err(HeadError::OtherHead);
        }
        signed.verify()?;
        let nodes = head.selection.check(&signed.roots)?;
        Ok(ProvenHead { head, nodes })
    }

    fn decode(content: &[u8]) -> Result<Self, HeadError> {
        let mut reader = Reader::new(content);
        let version = reader.uint()?;
        if version != VERSION {
            return Err(HeadError::NewerVersion(version));
        }
        let key = reader.fixed()?;
        let manifest = Manifest::decode(&mut Reader::new(reader.buffer()?))?;
        let (fork, length) = (reader.uint()?, reader.uint()?);
        let signature = reader.buffer()?.to_vec();
        let roots = Roots::from_nodes(length, Node::decode_array(&mut reader)?)?;
        let segments = Node::decode_array(&mut reader)?;
        let absent = Node::decode_array(&mut reader)?;
        if reader.remaining() > 0 {
            return Err(HeadError::Trailing(reader.remaining()));
        }
        let signed = SignedHead {
            key,
            manifest,
            fork,
            roots,
            signature,
        };
        Ok(Self {
            signed,
            selection: Selection {
                segments,
                absent,
                held_back: false,
            },
        })
    }
}

/// The name of the segment object that holds a subtree's blocks.
pub fn segment_name(fork: u64, node: &Node) -> SegmentName {
    let mut hash = [0; 8];
    hash.copy_from_slice(&node.hash[..8]);
    SegmentName {
        fork,
        level: flat_tree::depth(node.index),
        index: flat_tree::offset(node.index),
        hash,
    }
}
