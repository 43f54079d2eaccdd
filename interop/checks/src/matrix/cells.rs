//! Kinds of cores, written on one side and read whole on the other.

use anyhow::{Result, ensure};
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde_json::json;

use super::js::JsPeer;
use super::meeting::Meeting;
use super::node::{Node, append, held, same, state, until};
use super::random::Random;
use super::writer::Writer;
use super::{Direction, Load};

/// The core's name in JavaScript, of which its blocks are made.
const NAME: &str = "core";

/// A kind of core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Default,
    Multisig,
    Compat,
    Prologue,
    Encrypted,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::Default,
        Self::Multisig,
        Self::Compat,
        Self::Prologue,
        Self::Encrypted,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Multisig => "multisig",
            Self::Compat => "compat",
            Self::Prologue => "prologue",
            Self::Encrypted => "encrypted",
        }
    }

    pub(super) fn is_encrypted(self) -> bool {
        self == Self::Encrypted
    }
}

/// A writable core of ours.
pub(super) async fn create(node: &Node, random: &mut Random) -> Result<CoreHandle> {
    let pair = KeyPair::from_seed(&random.bytes());
    Ok(node
        .store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await?)
}

/// Holds our copy of a core against a JavaScript peer's, block by block.
pub(super) async fn compare(
    js: &mut JsPeer,
    name: &str,
    core: &CoreHandle,
    is_encrypted: bool,
) -> Result<()> {
    let ours = state(core, is_encrypted).await?;
    let (indexes, digest) = held(core, is_encrypted).await?;
    let arguments = json!({
        "name": name, "length": ours["length"], "fork": ours["fork"], "count": indexes.len(),
    });
    let theirs = js.ask("sync", arguments).await?;
    ensure!(
        theirs["held"] == json!(indexes),
        "other blocks are held: {} here, {} in JavaScript",
        indexes.len(),
        theirs["held"].as_array().map_or(0, Vec::len)
    );
    ensure!(theirs["sha256"] == digest, "the blocks differ");
    same(&ours, &js.ask("state", json!({"name": name})).await?)
}

/// One core of a kind, whole.
pub(super) async fn plain(meeting: &mut Meeting, kind: Kind, direction: Direction, load: Load) -> Result<()> {
    let sizes = load.sizes(&mut meeting.random);
    let core = match direction {
        Direction::JsWrites => from_js(meeting, kind, &sizes).await?,
        Direction::WeWrite => {
            let writer = Writer::new(kind, NAME, meeting).await?;
            writer.append(NAME, &sizes).await?;
            meeting.js.open(NAME, writer.core.key(), kind.name()).await?;
            meeting.connect().await?;
            writer.core
        }
    };
    compare(&mut meeting.js, NAME, &core, kind.is_encrypted()).await
}

/// A core that JavaScript writes and we read whole.
async fn from_js(meeting: &mut Meeting, kind: Kind, sizes: &[usize]) -> Result<CoreHandle> {
    let key = meeting.js.create(NAME, kind.name()).await?;
    meeting.js.append(NAME, sizes).await?;
    let written = meeting.js.ask("state", json!({"name": NAME})).await?["length"].as_u64();
    let core = meeting.node.store.get(key).await?;
    let _download = core.download(0..u64::MAX).await;
    meeting.connect().await?;
    until(&core, "all blocks", |state| {
        Some(state.contiguous_length) == written
    })
    .await?;
    if written == Some(0) {
        // Nothing arrives; that the peer has nothing must.
        core.update().await?;
    }
    Ok(core)
}

/// Cores of a store.
const CORES: usize = 50;

/// Many cores over one stream.
pub(super) async fn many_cores(meeting: &mut Meeting, direction: Direction, loads: Vec<Load>) -> Result<()> {
    let (mut cores, mut downloads) = (Vec::new(), Vec::new());
    for number in 0..CORES {
        let name = format!("core {number}");
        let sizes = loads[number % loads.len()].sizes(&mut meeting.random);
        let core = match direction {
            Direction::JsWrites => {
                let key = meeting.js.create(&name, "default").await?;
                meeting.js.append(&name, &sizes).await?;
                let core = meeting.node.store.get(key).await?;
                downloads.push(core.download(0..u64::MAX).await);
                core
            }
            Direction::WeWrite => {
                let core = create(&meeting.node, &mut meeting.random).await?;
                append(&core, &name, &sizes, false).await?;
                meeting.js.open(&name, core.key(), "default").await?;
                core
            }
        };
        cores.push((name, sizes.len() as u64, core));
    }
    meeting.connect().await?;
    for (name, length, core) in &cores {
        until(core, name, |state| state.contiguous_length == *length).await?;
    }
    for (name, _, core) in &cores {
        compare(&mut meeting.js, name, core, false).await?;
    }
    Ok(())
}
