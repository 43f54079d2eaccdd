//! Kinds of cores, written on one side and read whole on the other.

use anyhow::{Result, ensure};
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde_json::json;

use super::js::JsPeer;
use super::node::{Node, append, held, same, state, until};
use super::random::Random;
use super::{Direction, Load};

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

    fn is_encrypted(self) -> bool {
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
pub(super) async fn plain(kind: Kind, direction: Direction, load: Load, mut random: Random) -> Result<()> {
    let sizes = load.sizes(&mut random);
    match (direction, kind) {
        (Direction::JsWrites, _) => js_writes(kind, &sizes, random).await,
        // A store makes no writable cores of these kinds: we serve what JavaScript wrote.
        (Direction::WeWrite, Kind::Multisig | Kind::Compat | Kind::Prologue) => {
            we_pass_on(kind, &sizes, random).await
        }
        (Direction::WeWrite, _) => we_write(kind, &sizes, random).await,
    }
}

async fn js_writes(kind: Kind, sizes: &[usize], mut random: Random) -> Result<()> {
    let (mut js, node) = (JsPeer::start()?, Node::new()?);
    let core = from_js(&mut js, &node, kind, sizes, &mut random).await?;
    compare(&mut js, "core", &core, kind.is_encrypted()).await?;
    node.close().await?;
    js.close().await
}

/// A core that JavaScript writes and we read whole.
async fn from_js(
    js: &mut JsPeer,
    node: &Node,
    kind: Kind,
    sizes: &[usize],
    random: &mut Random,
) -> Result<CoreHandle> {
    let key = js.create("core", kind.name()).await?;
    js.append("core", sizes).await?;
    let written = js.ask("state", json!({"name": "core"})).await?["length"].as_u64();
    let core = node.store.get(key).await?;
    let _download = core.download(0..u64::MAX).await;
    node.connect(js, random).await?;
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

async fn we_write(kind: Kind, sizes: &[usize], mut random: Random) -> Result<()> {
    let (mut js, node) = (JsPeer::start()?, Node::new()?);
    let core = create(&node, &mut random).await?;
    append(&core, "core", sizes, kind.is_encrypted()).await?;
    js.open("core", core.key(), kind.name()).await?;
    node.connect(&mut js, &mut random).await?;
    compare(&mut js, "core", &core, kind.is_encrypted()).await?;
    node.close().await?;
    js.close().await
}

async fn we_pass_on(kind: Kind, sizes: &[usize], mut random: Random) -> Result<()> {
    let (mut writer, mut reader, node) = (JsPeer::start()?, JsPeer::start()?, Node::new()?);
    let core = from_js(&mut writer, &node, kind, sizes, &mut random).await?;
    writer.close().await?;
    reader.open("core", core.key(), kind.name()).await?;
    node.connect(&mut reader, &mut random).await?;
    compare(&mut reader, "core", &core, kind.is_encrypted()).await?;
    node.close().await?;
    reader.close().await
}

/// Cores of a store.
const CORES: usize = 50;

/// Many cores over one stream.
pub(super) async fn many_cores(direction: Direction, loads: Vec<Load>, mut random: Random) -> Result<()> {
    let (mut js, node) = (JsPeer::start()?, Node::new()?);
    let (mut cores, mut downloads) = (Vec::new(), Vec::new());
    for number in 0..CORES {
        let name = format!("core {number}");
        let sizes = loads[number % loads.len()].sizes(&mut random);
        let core = match direction {
            Direction::JsWrites => {
                let key = js.create(&name, "default").await?;
                js.append(&name, &sizes).await?;
                let core = node.store.get(key).await?;
                downloads.push(core.download(0..u64::MAX).await);
                core
            }
            Direction::WeWrite => {
                let core = create(&node, &mut random).await?;
                append(&core, &name, &sizes, false).await?;
                js.open(&name, core.key(), "default").await?;
                core
            }
        };
        cores.push((name, sizes.len() as u64, core));
    }
    node.connect(&mut js, &mut random).await?;
    for (name, length, core) in &cores {
        until(core, name, |state| state.contiguous_length == *length).await?;
    }
    for (name, _, core) in &cores {
        compare(&mut js, name, core, false).await?;
    }
    drop((downloads, cores));
    node.close().await?;
    js.close().await
}
