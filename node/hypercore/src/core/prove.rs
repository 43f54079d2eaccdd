//! Making proofs, node for node as JS makes them (npm hypercore 11.37 `lib/merkle-tree.js`).

use super::{Core, seek};
use crate::flat_tree;
use crate::messages::{Request, RequestUpgrade};
use crate::node::Node;
use crate::proof::{BlockProof, HashProof, Proof, SeekProof, UpgradeProof};
use crate::roots::{MAX_LENGTH, upgrade_path};
use crate::storage::{Storage, StorageError};

/// Why a request cannot be answered with a proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The request is about another fork than ours: NoData reason 1.
    #[error("the request is for fork {asked}, the core is at fork {ours}")]
    OtherFork {
        /// The request's fork.
        asked: u64,
        /// The core's fork.
        ours: u64,
    },
    /// The block is not held: NoData reason 1.
    #[error("block {index} is not held")]
    NotHeld {
        /// The block.
        index: u64,
    },
    /// A tree node that the proof needs is not held: NoData reason 1.
    #[error("tree node {index} is not held")]
    MissingNode {
        /// Flat-tree index.
        index: u64,
    },
    /// The request's numbers make no sense: NoData reason 2, and count it.
    #[error("the request is invalid: {0}")]
    Invalid(&'static str),
    /// The storage failed.
    #[error("failed to make a proof")]
    Storage(#[from] StorageError),
}

/// The node of a block or hash request.
#[derive(Clone, Copy)]
struct Target {
    index: u64,
    /// Whether the asker computes the node itself from the block.
    is_block: bool,
    /// Levels that the asker is missing.
    levels: u64,
}

/// The lists of a proof while they are collected.
#[derive(Default)]
struct Parts {
    node: Option<Vec<Node>>,
    seek: Option<Vec<Node>>,
}

impl<S: Storage> Core<S> {
    /// The proof that answers a request.
    pub fn create_proof(&self, request: &Request) -> Result<Proof, ProveError> {
        if request.fork != self.fork() {
            return Err(ProveError::OtherFork {
                asked: request.fork,
                ours: self.fork(),
            });
        }
        let manifest = if request.manifest {
            self.public_manifest().cloned()
        } else {
            None
        };
        let target = self.target(request)?;
        let mut parts = Parts::default();
        let mut upgrade = None;
        match request.upgrade {
            Some(asked) => upgrade = Some(self.prove_upgrade(request, asked, target, &mut parts)?),
            None => {
                if let Some(target) = target {
                    self.prove_below(request, target, self.length(), &mut parts)?;
                }
            }
        }
        let mut proof = Proof {
            fork: self.fork(),
            upgrade,
            manifest,
            ..Proof::default()
        };
        if let Some(target) = target {
            let nodes = parts
                .node
                .ok_or(ProveError::Invalid("the block lies outside the upgrade"))?;
            if target.is_block {
                let index = target.index / 2;
                let value = self.storage.block(index)?.ok_or(ProveError::NotHeld { index })?;
                proof.block = Some(BlockProof { index, value, nodes });
            } else {
                proof.hash = Some(HashProof {
                    index: target.index,
                    nodes,
                });
            }
        }
        if let (Some(seek), Some(nodes)) = (request.seek, parts.seek) {
            proof.seek = Some(SeekProof {
                bytes: seek.bytes,
                nodes,
            });
        }
        Ok(proof)
    }

    fn target(&self, request: &Request) -> Result<Option<Target>, ProveError> {
        if let Some(block) = request.block {
            if !self.has(block.index) {
                return Err(ProveError::NotHeld { index: block.index });
            }
            return Ok(Some(Target {
                index: 2 * block.index,
                is_block: true,
                levels: block.nodes,
            }));
        }
        let Some(hash) = request.hash else { return Ok(None) };
        if hash.index > 2 * MAX_LENGTH || flat_tree::end_block(hash.index) > self.length() {
            return Err(ProveError::Invalid("the node lies beyond the tree"));
        }
        Ok(Some(Target {
            index: hash.index,
            is_block: false,
            levels: hash.nodes,
        }))
    }

    fn needed(&self, index: u64) -> Result<Node, ProveError> {
        self.storage.node(index)?.ok_or(ProveError::MissingNode { index })
    }

    /// A block or hash below what the asker has; a seek may share the path.
    fn prove_below(
        &self,
        request: &Request,
        target: Target,
        length: u64,
        parts: &mut Parts,
    ) -> Result<(), ProveError> {
        let mut top = target.index;
        for _ in 0..target.levels {
            top = flat_tree::parent(top);
            if flat_tree::contains(top, 2 * length) || flat_tree::first_block(top) >= length {
                return Err(ProveError::Invalid("more levels asked for than the tree has"));
            }
        }
        let seek_node = match request.seek {
            Some(asked) => Some(seek::below(self, top, asked.bytes, asked.padding)?),
            None => None,
        };
        self.node_path(target, seek_node, top, parts)
    }

    /// Lists the siblings from the target up to `top`; where one of them covers the seek's node, the way from that node
    /// up to it takes its place.
    fn node_path(
        &self,
        target: Target,
        seek_node: Option<u64>,
        top: u64,
        parts: &mut Parts,
    ) -> Result<(), ProveError> {
        let mut nodes = Vec::new();
        if !target.is_block {
            nodes.push(self.needed(target.index)?);
        }
        let mut at = target.index;
        while at != top {
            let sibling = flat_tree::sibling(at);
            match seek_node {
                Some(seek) if flat_tree::contains(sibling, seek) && sibling != seek => {
                    parts.seek = Some(self.path(seek, sibling)?);
                }
                _ => nodes.push(self.needed(sibling)?),
            }
            at = flat_tree::parent(at);
        }
        parts.node = Some(nodes);
        Ok(())
    }

    /// A node and the siblings on its way up to `top`.
    fn path(&self, from: u64, top: u64) -> Result<Vec<Node>, ProveError> {
        let mut nodes = vec![self.needed(from)?];
        let mut at = from;
        while at != top {
            nodes.push(self.needed(flat_tree::sibling(at))?);
            at = flat_tree::parent(at);
        }
        Ok(nodes)
    }

    fn prove_upgrade(
        &self,
        request: &Request,
        asked: RequestUpgrade,
        target: Option<Target>,
        parts: &mut Parts,
    ) -> Result<UpgradeProof, ProveError> {
        let end = asked
            .start
            .checked_add(asked.length)
            .filter(|end| *end <= self.length());
        let end = end
            .filter(|_| asked.length > 0)
            .ok_or(ProveError::Invalid("no such upgrade"))?;
        let prologue = self
            .manifest()
            .and_then(|manifest| manifest.prologue)
            .map_or(0, |prologue| prologue.length);
        let (start, end) = if asked.start < prologue {
            (0, prologue.min(self.length()))
        } else {
            (asked.start, end)
        };
        let beyond = target.filter(|target| flat_tree::end_block(target.index) > start);
        if request.seek.is_some() && target.is_some_and(|target| target.index >= 2 * start) {
            return Err(ProveError::Invalid(
                "an upgrade takes a seek or a block, not both",
            ));
        }
        let mut below = None;
        if let Some(target) = target.filter(|_| beyond.is_none()) {
            self.prove_below(request, target, end, parts)?;
        } else if let Some(asked) = request.seek {
            below = seek::from_roots(self, end, asked.bytes, asked.padding)?;
        } else {
            below = beyond.map(|target| target.index);
        }
        let mut nodes = Vec::new();
        for index in upgrade_path(start, end) {
            let unlisted = parts.node.is_none() && parts.seek.is_none();
            match below.filter(|below| unlisted && flat_tree::contains(index, *below)) {
                Some(below) => match beyond {
                    Some(target) => self.node_path(target, None, index, parts)?,
                    None => parts.seek = Some(self.path(below, index)?),
                },
                None => nodes.push(self.needed(index)?),
            }
        }
        let additional = upgrade_path(end, self.length());
        let additional_nodes = additional
            .into_iter()
            .map(|index| self.needed(index))
            .collect::<Result<_, _>>()?;
        let signature = self.signature().cloned();
        Ok(UpgradeProof {
            start,
            length: end - start,
            nodes,
            additional_nodes,
            signature,
        })
    }
}
