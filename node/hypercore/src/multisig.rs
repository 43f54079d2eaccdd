//! Cores that several keys sign together: what each signer makes, and how it becomes one signature.
//!
//! Each signer signs the tree that it has, with [`Core::partial_signature`](crate::core::Core::partial_signature); somebody
//! collects as many as the manifest's quorum, assembles them, and appends with
//! [`Core::append_signed`](crate::core::Core::append_signed). Where the manifest allows patches, a signer may have signed a
//! longer tree than the one that is appended: its part then carries the nodes that lead there. Source: npm hypercore 11.37
//! `lib/multisig.js`.

use std::collections::HashSet;

use cumulet_encoding::Writer;

use crate::flat_tree;
use crate::node::Node;
use crate::verifier::{Envelope, SignerProof};

/// What one signer gives towards a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialSignature {
    /// Position in the manifest.
    pub signer: u64,
    /// Ed25519 signature of the tree that the signer has.
    pub signature: [u8; 64],
    /// How many blocks longer that tree is than the one to be proven.
    pub patch: u64,
    /// The nodes that lead from the one to the other, in the order in which a verifier takes them; empty without a patch.
    pub nodes: Vec<Node>,
}

/// The longest length that a quorum of signers has reached, by the lengths that they have signed; 0 if there are too few of
/// them. That is how much can be appended: the signers that are further on give patches.
pub fn signable_length(lengths: &[u64], quorum: u64) -> u64 {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let last = usize::try_from(quorum.max(1) - 1).unwrap_or(usize::MAX);
    lengths.get(last).copied().unwrap_or(0)
}

/// The signature of a core with manifest version 1 or later, in the order in which the parts count: the first `quorum` of them
/// must be good.
pub fn assemble(parts: &[PartialSignature]) -> Vec<u8> {
    let mut seen = HashSet::new();
    let nodes = parts.iter().flat_map(|part| &part.nodes);
    let patch_nodes = nodes.filter(|node| seen.insert(node.index)).copied().collect();
    let proofs = parts
        .iter()
        .map(|part| SignerProof {
            signer: part.signer,
            signature: part.signature,
            patch: part.patch,
        })
        .collect();
    Envelope { proofs, patch_nodes }.encode()
}

/// As [`assemble`], for cores with manifest version 0.
pub fn assemble_v0(parts: &[PartialSignature]) -> Vec<u8> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut writer = Writer::new();
    writer.array_len(parts.len());
    for part in parts {
        let last = part.nodes.last().filter(|_| part.patch > 0);
        writer
            .uint(u64::from(last.is_some()))
            .uint(part.signer)
            .fixed(&part.signature);
        let Some(last) = last else { continue };
        // JavaScript calls it the start, but writes where the patch ends; nobody reads it.
        writer.uint(flat_tree::end_block(last.index)).uint(part.patch);
        writer.array_len(part.nodes.len());
        for node in &part.nodes {
            let known = nodes.iter().position(|known| known == node);
            let place = known.unwrap_or_else(|| {
                nodes.push(*node);
                nodes.len() - 1
            });
            writer.uint(place as u64);
        }
    }
    Node::encode_array(&nodes, &mut writer);
    writer.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_signed_is_what_a_quorum_has_reached() {
        assert_eq!(signable_length(&[3, 9, 5], 1), 9);
        assert_eq!(signable_length(&[3, 9, 5], 2), 5);
        assert_eq!(signable_length(&[3, 9, 5], 3), 3);
        assert_eq!(signable_length(&[3, 9, 5], 4), 0);
        assert_eq!(signable_length(&[3, 9, 5], 0), 9);
        assert_eq!(signable_length(&[], 1), 0);
    }
}
