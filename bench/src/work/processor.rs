//! What one core of the processor can hash and encrypt: nothing that hashes or encrypts every byte can be faster.

use std::hint::black_box;

use anyhow::{Result, bail};
use bytes::Bytes;
use cumulet_hypercore::crypto::leaf_hash;
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event, SecretStream, Seeds};
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::measure::Measure;
use crate::random;

/// Bytes of a block of a file.
const BLOCK_BYTES: usize = 64 << 10;
/// Different blocks that are worked on: as many as the content has before it repeats.
const BLOCKS: u32 = 128;
/// Blocks of a MiB.
const PER_MIB: usize = (1 << 20) / BLOCK_BYTES;

/// `mib` MiB of blocks of 64 KiB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) mib: u32,
}

impl Work {
    /// Leaf hashes: BLAKE2b-256.
    pub(super) async fn hash(self, measure: &mut Measure) -> Result<()> {
        let blocks = blocks();
        let work = async {
            for block in blocks.iter().cycle().take(self.mib as usize * PER_MIB) {
                black_box(leaf_hash(block));
            }
            Ok(())
        };
        measure.time(f64::from(self.mib), work).await
    }

    /// The secret stream's frames, sealed and opened again: XChaCha20-Poly1305, as libsodium's secretstream. Counted is
    /// what is sealed and what is opened.
    pub(super) async fn encrypt(self, measure: &mut Measure) -> Result<()> {
        let blocks = blocks();
        let (mut sender, mut receiver) = connected()?;
        let work = async {
            for block in blocks.iter().cycle().take(self.mib as usize * PER_MIB / 2) {
                sender.send(block)?;
                receiver.receive(&sender.take_output());
                match receiver.poll_event()? {
                    Some(Event::Message(message)) if message.len() == block.len() => black_box(message),
                    _ => bail!("the stream did not carry a message"),
                };
            }
            Ok(())
        };
        measure.time(f64::from(self.mib), work).await
    }
}

fn blocks() -> Vec<Bytes> {
    let content = Content::new();
    (0..BLOCKS)
        .map(|index| content.block(index, BLOCK_BYTES))
        .collect()
}

/// Both ends of a stream that is open.
fn connected() -> Result<(SecretStream, SecretStream)> {
    let end = |is_initiator| -> Result<SecretStream> {
        let seeds = Seeds {
            ephemeral: random()?,
            header: random()?,
        };
        Ok(SecretStream::xx(
            is_initiator,
            KeyPair::from_seed(random()?),
            &seeds,
        )?)
    };
    let (mut one, mut other) = (end(true)?, end(false)?);
    // Three messages of the handshake and two headers.
    for _ in 0..3 {
        other.receive(&one.take_output());
        while other.poll_event()?.is_some() {}
        one.receive(&other.take_output());
        while one.poll_event()?.is_some() {}
    }
    Ok((one, other))
}
