//! The file that keeps a core frozen: the evidence that its writer signed two trees of one fork and length.
//!
//! It lies beside the core's directory, as `<discovery key in hex>.conflict`: the eight bytes `CUMCFL\0\1` (name and version of the
//! format), then our proof and theirs, each as u32 length (little endian) and the payload of a Data message of request 0, then
//! CRC-32C of all before (u32, little endian). While it exists the core is not opened; whether it is sound is for those who look
//! into the matter.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::{CorestoreError, failed};
use crate::core::Conflict;
use crate::messages::{Data, Message};

const MAGIC: &[u8; 8] = b"CUMCFL\0\x01";

fn encode(conflict: &Conflict) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    for proof in [&conflict.ours, &conflict.theirs] {
        let (request, proof) = (0, proof.clone());
        let payload = Message::Data(Data { request, proof }).encode();
        // A proof came in a frame, which is shorter than 2^24 bytes.
        file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(&payload);
    }
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

/// Writes the evidence, durably, unless there is some.
pub(super) fn write(path: &Path, conflict: &Conflict) -> Result<(), CorestoreError> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("conflict.new");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(&encode(conflict))?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent()
            .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{Proof, UpgradeProof};

    #[test]
    fn the_evidence_is_written_as_it_is_described() {
        let proof = |length| Proof {
            upgrade: Some(UpgradeProof {
                start: 0,
                length,
                nodes: Vec::new(),
                additional_nodes: Vec::new(),
                signature: None,
            }),
            ..Proof::default()
        };
        let (ours, theirs) = (proof(1), proof(2));
        let conflict = Conflict {
            fork: 0,
            length: 1,
            ours,
            theirs,
        };
        let file = encode(&conflict);
        assert_eq!(&file[..8], MAGIC);
        // Flags (upgrade), request, fork, start, length, no nodes, no additional nodes, no signature.
        assert_eq!(file[8..20], [8, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(file[20..32], [8, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(file[32..], crc32c::crc32c(&file[..32]).to_le_bytes());
    }
}
