//! Cores of all kinds that we make, sign and write.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cumulet_hypercore::core::{Core, Draft};
use cumulet_hypercore::corestore::{BoxedCore, CoreHandle};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::{Manifest, Prologue};
use cumulet_hypercore::multisig::{assemble, assemble_v0};
use cumulet_hypercore::storage::MemoryStorage;

use super::cells::Kind;
use super::js::PROLOGUE_SIZES;
use super::meeting::Meeting;
use super::node::{BATCH, append, block, blocks};
use super::random::Random;

/// A core of ours, and what signs it.
pub(super) struct Writer {
    pub(super) core: CoreHandle,
    kind: Kind,
    /// Of a multisig core: two of three, in the order in which their parts are assembled.
    quorum: Vec<KeyPair>,
}

impl Writer {
    pub(super) async fn new(kind: Kind, name: &str, meeting: &mut Meeting) -> Result<Self> {
        let (store, random) = (&meeting.node.store, &mut meeting.random);
        let pair = KeyPair::from_seed(&random.bytes());
        let own = Manifest::single(pair.public_key());
        let mut quorum = Vec::new();
        let core = match kind {
            Kind::Default | Kind::Encrypted => store.create(own, Some(pair)).await?,
            Kind::Compat => store.create_compat(pair).await?,
            Kind::Prologue => {
                let blocks = (0..).zip(PROLOGUE_SIZES).map(|(at, size)| block(name, at, size));
                let blocks: Vec<Bytes> = blocks.collect();
                let origin = Core::create(MemoryStorage::new(), own.clone(), None)?;
                let origin = origin.draft(blocks.clone())?;
                let prologue = Some(Prologue {
                    hash: origin.tree_hash(),
                    length: origin.length(),
                });
                let core = store.create(Manifest { prologue, ..own }, Some(pair)).await?;
                core.append(blocks).await?;
                core
            }
            Kind::Multisig => {
                let manifest;
                (manifest, quorum) = signers(random);
                store.create(manifest, None).await?
            }
        };
        Ok(Self { core, kind, quorum })
    }

    /// Appends blocks of these sizes in a few batches.
    pub(super) async fn append(&self, name: &str, sizes: &[usize]) -> Result<()> {
        if self.kind != Kind::Multisig {
            return append(&self.core, name, sizes, self.kind.is_encrypted()).await;
        }
        for sizes in sizes.chunks(BATCH) {
            let blocks = blocks(&self.core, name, sizes, false);
            let (draft, signature) = self.core.with_core(|core| self.sign(core, &blocks)).await?;
            self.core.append_signed(draft, signature.into()).await?;
        }
        Ok(())
    }

    /// What a quorum makes of new blocks. Where the manifest allows it, the last signer has a longer tree and gives a patch.
    fn sign(&self, core: &BoxedCore, blocks: &[Bytes]) -> Result<(Draft, Vec<u8>)> {
        let manifest = core.manifest().context("a core without manifest")?;
        let draft = core.draft(blocks.to_vec())?;
        let mut parts = Vec::new();
        for (place, signer) in self.quorum.iter().enumerate() {
            let is_ahead = manifest.allow_patch && place + 1 == self.quorum.len();
            let longer = blocks
                .iter()
                .cloned()
                .chain(is_ahead.then(|| Bytes::from_static(b"ahead")));
            let seen = core.draft(longer.collect())?;
            parts.push(core.partial_signature(&seen, signer, draft.length())?);
        }
        let signature = match manifest.version {
            0 => assemble_v0(&parts),
            _ => assemble(&parts),
        };
        Ok((draft, signature))
    }
}

/// A manifest of two out of three, and the two that will sign.
fn signers(random: &mut Random) -> (Manifest, Vec<KeyPair>) {
    let mut pairs: Vec<_> = (0..3).map(|_| KeyPair::from_seed(&random.bytes())).collect();
    let manifest = Manifest {
        version: u8::from(random.flip()),
        allow_patch: random.flip(),
        ..Manifest::of_signers(pairs.iter().map(KeyPair::public_key).collect(), Some(2))
    };
    pairs.remove(random.below(3));
    if random.flip() {
        pairs.reverse();
    }
    (manifest, pairs)
}
