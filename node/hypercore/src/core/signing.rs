//! Changing a core by its own key, or by signatures that others made.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::{Core, MAX_BLOCK_BYTES, WriteError};
use crate::crypto::{Hash, KeyPair, leaf_hashes};
use crate::flat_tree;
use crate::multisig::PartialSignature;
use crate::node::Node;
use crate::roots::{MAX_LENGTH, Roots, upgrade_path};
use crate::storage::{Changes, Head, Storage};

/// The tree that appending some blocks would make. Nothing is stored yet: it is signed first, here or elsewhere.
#[derive(Debug, Clone)]
pub struct Draft {
    base: Roots,
    fork: u64,
    roots: Roots,
    blocks: Vec<Bytes>,
    nodes: Vec<Node>,
}

impl Draft {
    /// Number of the first new block.
    pub fn start(&self) -> u64 {
        self.base.length()
    }

    /// Number of blocks of the whole tree.
    pub fn length(&self) -> u64 {
        self.roots.length()
    }

    /// The fork that it belongs to.
    pub fn fork(&self) -> u64 {
        self.fork
    }

    /// The hash that a signature binds.
    pub fn tree_hash(&self) -> Hash {
        self.roots.tree_hash()
    }
}

impl<S: Storage> Core<S> {
    /// Appends one block. Returns its number.
    ///
    /// # Errors
    /// Those of [`Core::append_batch`].
    pub fn append(&mut self, block: Bytes) -> Result<u64, WriteError> {
        self.append_batch(vec![block]).map(|blocks| blocks.start)
    }

    /// Appends blocks under one signature. Returns their numbers. The blocks of a prologue, which nobody signs, come first and
    /// in one batch.
    ///
    /// # Errors
    /// [`WriteError::ReadOnly`] without a key pair, [`WriteError::Sign`] if the manifest wants another or more,
    /// [`WriteError::Refused`] for blocks that end within the prologue or are not its own, [`WriteError::BlockTooLarge`],
    /// [`WriteError::Storage`]. Nothing is appended then.
    pub fn append_batch(&mut self, blocks: Vec<Bytes>) -> Result<Range<u64>, WriteError> {
        if blocks.is_empty() {
            return Ok(self.length()..self.length());
        }
        let draft = self.draft(blocks)?;
        let head = self.signed_head(&draft.roots, draft.fork)?;
        self.store_draft(draft, head)
    }

    /// The tree that appending these blocks would make; of no blocks, the tree as it is. Needs no key.
    ///
    /// # Errors
    /// [`WriteError::BlockTooLarge`], [`WriteError::Tree`] if the core would leave the protocol's numbers.
    pub fn draft(&self, blocks: Vec<Bytes>) -> Result<Draft, WriteError> {
        if let Some(block) = blocks.iter().find(|block| block.len() > MAX_BLOCK_BYTES) {
            return Err(WriteError::BlockTooLarge { length: block.len() });
        }
        let mut roots = self.roots.clone();
        let mut nodes = Vec::with_capacity(2 * blocks.len());
        let hashes = leaf_hashes(blocks.iter().map(|block| &block[..]));
        for ((index, block), hash) in (self.length()..).zip(&blocks).zip(hashes) {
            let leaf = Node {
                index: 2 * index,
                size: block.len() as u64,
                hash,
            };
            roots.push(leaf, &mut nodes)?;
        }
        Ok(Draft {
            base: self.roots.clone(),
            fork: self.fork(),
            roots,
            blocks,
            nodes,
        })
    }

    /// Signs a draft as one of the manifest's signers, for a core that will have `length` blocks: the draft's own length, or
    /// a shorter one, whose tree is then proven by a patch (the manifest must allow that).
    ///
    /// # Errors
    /// [`WriteError::ReadOnly`] while the manifest is unknown, [`WriteError::Sign`] if the key pair is none of its signers',
    /// [`WriteError::MissingNode`] if the patch needs a node that is not held, [`WriteError::Moved`] for a length beyond the
    /// draft's.
    pub fn partial_signature(
        &self,
        draft: &Draft,
        key_pair: &KeyPair,
        length: u64,
    ) -> Result<PartialSignature, WriteError> {
        let verifier = self.verifier.as_ref().ok_or(WriteError::ReadOnly)?;
        let (signer, signature) = verifier.sign_alone(&draft.roots, draft.fork, key_pair)?;
        let patch = draft.length().checked_sub(length).ok_or(WriteError::Moved)?;
        let drafted: HashMap<u64, &Node> = draft.nodes.iter().map(|node| (node.index, node)).collect();
        let mut nodes = Vec::new();
        if patch > 0 {
            for index in upgrade_path(length, draft.length()) {
                let node = match drafted.get(&index) {
                    Some(node) => **node,
                    None => self
                        .storage
                        .node(index)?
                        .ok_or(WriteError::MissingNode { index })?,
                };
                nodes.push(node);
            }
        }
        Ok(PartialSignature {
            signer,
            signature,
            patch,
            nodes,
        })
    }

    /// Appends a draft with a signature from elsewhere (see [`crate::multisig`]), in the form in which peers get it. Needs no
    /// key; the signature is checked. Returns the numbers of the new blocks.
    ///
    /// # Errors
    /// [`WriteError::Moved`] if the core is not as it was when the draft was made, [`WriteError::Refused`] if the signature
    /// does not prove the draft, [`WriteError::Storage`]. Nothing is appended then.
    pub fn append_signed(&mut self, draft: Draft, signature: Bytes) -> Result<Range<u64>, WriteError> {
        if draft.base != self.roots || draft.fork != self.fork() {
            return Err(WriteError::Moved);
        }
        if draft.blocks.is_empty() {
            return Ok(self.length()..self.length());
        }
        let head = self.checked_head(&draft.roots, draft.fork, signature)?;
        self.store_draft(draft, head)
    }

    fn store_draft(&mut self, draft: Draft, head: Head) -> Result<Range<u64>, WriteError> {
        let start = draft.start();
        self.storage.apply(Changes {
            nodes: draft.nodes,
            blocks: (start..).zip(draft.blocks).collect(),
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = draft.roots;
        Ok(start..self.length())
    }

    fn signed_head(&self, roots: &Roots, fork: u64) -> Result<Head, WriteError> {
        let (Some(verifier), Some(key_pair)) = (&self.verifier, &self.key_pair) else {
            return Err(WriteError::ReadOnly);
        };
        let signature = match verifier.prologue_verdict(roots) {
            Some(verdict) => verdict.map(|()| None)?,
            None => Some(verifier.sign(roots, fork, key_pair)?.into()),
        };
        Ok(Head {
            fork,
            length: roots.length(),
            signature,
        })
    }

    fn checked_head(&self, roots: &Roots, fork: u64, signature: Bytes) -> Result<Head, WriteError> {
        let verifier = self.verifier.as_ref().ok_or(WriteError::ReadOnly)?;
        verifier.verify(roots, fork, Some(&signature))?;
        Ok(Head {
            fork,
            length: roots.length(),
            signature: Some(signature),
        })
    }

    /// The roots that the tree had when the core had `length` blocks.
    ///
    /// # Errors
    /// [`WriteError::MissingNode`] if one of them is not held, [`WriteError::Moved`] for a length that the core does not have.
    pub fn roots_at(&self, length: u64) -> Result<Roots, WriteError> {
        if length > self.length() {
            return Err(WriteError::Moved);
        }
        let mut nodes = Vec::new();
        for index in flat_tree::roots(length) {
            nodes.push(
                self.storage
                    .node(index)?
                    .ok_or(WriteError::MissingNode { index })?,
            );
        }
        Ok(Roots::from_nodes(length, nodes)?)
    }

    /// Forgets everything from block `length` on and signs the shorter tree at the next fork, or at a given higher one.
    ///
    /// # Errors
    /// [`WriteError::Truncate`] for a length or fork that is not possible, [`WriteError::ReadOnly`], [`WriteError::Sign`],
    /// [`WriteError::MissingNode`], [`WriteError::Storage`]. Nothing is changed then.
    pub fn truncate(&mut self, length: u64, fork: Option<u64>) -> Result<(), WriteError> {
        let fork = fork.unwrap_or(self.fork() + 1);
        let roots = self.roots_to_cut_to(length, fork)?;
        let head = self.signed_head(&roots, fork)?;
        self.store_cut(roots, head)
    }

    /// As [`Core::truncate`], with a signature from elsewhere of the tree with `length` blocks at this fork.
    ///
    /// # Errors
    /// As [`Core::truncate`]; [`WriteError::Refused`] if the signature does not prove that tree.
    pub fn truncate_signed(&mut self, length: u64, fork: u64, signature: Bytes) -> Result<(), WriteError> {
        let roots = self.roots_to_cut_to(length, fork)?;
        let head = self.checked_head(&roots, fork, signature)?;
        self.store_cut(roots, head)
    }

    fn roots_to_cut_to(&self, length: u64, fork: u64) -> Result<Roots, WriteError> {
        let prologue = self
            .manifest()
            .and_then(|manifest| manifest.prologue)
            .map_or(0, |prologue| prologue.length);
        if length > self.length() || length < prologue || fork <= self.fork() || fork > MAX_LENGTH {
            return Err(WriteError::Truncate { length, fork });
        }
        self.roots_at(length)
    }

    fn store_cut(&mut self, roots: Roots, head: Head) -> Result<(), WriteError> {
        self.storage.apply(Changes {
            truncate: Some(roots.length()),
            head: Some(head),
            ..Changes::default()
        })?;
        self.roots = roots;
        Ok(())
    }
}
