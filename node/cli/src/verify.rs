//! Hashing what is stored and comparing it with what was signed.
//!
//! For every core: the signature over the roots of its tree, then for every block that is held its leaf, and the path from
//! there up to a root. A path ends early where it meets one that was climbed before, so the work is one hash per block and one
//! per tree node in use, whatever is missing. Nothing is changed, nobody is asked.

use std::fmt;

use cumulet_hypercore::corestore::{BoxedCore, CoreHandle};
use cumulet_hypercore::flat_tree;
use cumulet_hypercore::key::to_hex;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::storage::StorageError;
use cumulet_hypercore::verifier::Verifier;
use serde::Serialize;

use crate::core::name_or_key;
use crate::failure::{Failure, Kind, Result};
use crate::output::Unit;
use crate::session::Session;

/// Damaged places that are named per core; more are only counted.
const MAX_NAMED: usize = 1000;
/// Blocks hashed before others may use the core, and Ctrl-C is looked at.
const BLOCKS_AT_ONCE: u64 = 64;

/// One damaged place.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Damage {
    /// The block; none if it is the tree or a file as a whole.
    pub(crate) block: Option<u64>,
    /// The file it lies in, where that is known.
    pub(crate) file: Option<String>,
    /// Where in the file.
    pub(crate) offset: Option<u64>,
    pub(crate) what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block {
            Some(block) => write!(f, "block {block}: {}", self.what)?,
            None => f.write_str(&self.what)?,
        }
        if let Some(file) = &self.file {
            write!(f, ", in {file}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        Ok(())
    }
}

/// What was found in one core.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verified {
    pub(crate) name: String,
    pub(crate) key: Option<String>,
    pub(crate) discovery_key: String,
    pub(crate) length: u64,
    pub(crate) checked_blocks: u64,
    pub(crate) checked_bytes: u64,
    pub(crate) damaged_count: u64,
    pub(crate) damaged: Vec<Damage>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = match self.damaged_count {
            0 => "sound".to_owned(),
            count => format!("{count} DAMAGED"),
        };
        write!(
            f,
            "{}: {found}, {} of {} blocks and {} bytes checked",
            self.name, self.checked_blocks, self.length, self.checked_bytes
        )?;
        for damage in &self.damaged {
            write!(f, "\n  {damage}")?;
        }
        if self.damaged_count > self.damaged.len() as u64 {
            write!(
                f,
                "\n  and {} more",
                self.damaged_count - self.damaged.len() as u64
            )?;
        }
        Ok(())
    }
}

impl Verified {
    fn add(&mut self, damage: Damage) {
        self.damaged_count += 1;
        if self.damaged.len() < MAX_NAMED {
            self.damaged.push(damage);
        }
    }

    /// The failure that the command ends with, if anything is damaged.
    pub(crate) fn into_result(self) -> Result {
        damaged(self.damaged_count, &self.name)
    }
}

fn damaged(count: u64, shown: &str) -> Result {
    if count == 0 {
        return Ok(());
    }
    let text = format!("{count} damaged places in {shown}");
    Err(Failure::new(Kind::Damaged, text).hint(
        "the blocks can come again from a peer or a backup: `cumulet core clear` the damaged ones, then read them with --peer",
    ))
}

/// Verifies the named cores, or all.
pub(crate) async fn cores(session: &mut Session, wanted: &[String]) -> Result {
    session.options.offline = true;
    let store = session.existing_store()?;
    let names = store.names()?;
    let mut topics = Vec::new();
    for text in wanted {
        topics.push(cumulet_hypercore::crypto::discovery_key(
            &session.target(text)?.key,
        ));
    }
    if wanted.is_empty() {
        topics = store.cores.list().await?;
        topics.sort_unstable();
    }
    let mut count = 0;
    for (number, topic) in topics.iter().enumerate() {
        let verified = match store.cores.find(topic).await {
            Ok(Some(core)) => {
                let name = name_or_key(&names, core.key());
                core_of(session, &core, name).await?
            }
            Ok(None) => {
                let text = wanted.get(number).cloned().unwrap_or_else(|| to_hex(topic));
                return Err(Failure::not_found(format!("the store does not hold {text}")));
            }
            Err(error) => {
                let failure = Failure::from(error);
                if failure.kind != Kind::Damaged {
                    return Err(failure);
                }
                let mut verified = Verified {
                    name: wanted.get(number).cloned().unwrap_or_else(|| to_hex(topic)),
                    discovery_key: to_hex(topic),
                    ..Verified::default()
                };
                verified.add(Damage {
                    block: None,
                    file: None,
                    offset: None,
                    what: failure.text,
                });
                verified
            }
        };
        session.out.show(&verified)?;
        count += verified.damaged_count;
    }
    damaged(count, "the store")
}

/// Verifies one core.
pub(crate) async fn core_of(session: &Session, core: &CoreHandle, name: String) -> Result<Verified> {
    let state = core.state();
    let mut verified = Verified {
        name,
        key: Some(to_hex(core.key())),
        discovery_key: to_hex(core.discovery_key()),
        length: state.length,
        ..Verified::default()
    };
    if let Some(what) = core.with_core(signature).await {
        verified.add(Damage {
            block: None,
            file: None,
            offset: None,
            what,
        });
    }
    let progress = session.out.progress(Some(state.held_blocks), Unit::Blocks);
    let mut climber = Climber::default();
    let mut next = 0;
    loop {
        let before = verified.checked_blocks;
        let step = core
            .with_core(|core| climber.some(core, next, &mut verified))
            .await?;
        progress.inc(verified.checked_blocks - before);
        match step {
            Some(index) => next = index,
            None => break,
        }
        tokio::task::yield_now().await;
    }
    progress.finish_and_clear();
    Ok(verified)
}

/// What is wrong with the signature, if anything is.
fn signature(core: &BoxedCore) -> Option<String> {
    if core.length() == 0 {
        return None;
    }
    let Some(manifest) = core.manifest() else {
        return Some("the manifest is missing".to_owned());
    };
    let Some(verifier) = Verifier::new(*core.key(), manifest.clone()) else {
        return Some("the manifest belongs to another key".to_owned());
    };
    let signature = core.signature().map(AsRef::as_ref);
    verifier
        .verify(core.roots(), core.fork(), signature)
        .err()
        .map(|_| "the signature does not prove the tree".to_owned())
}

/// Climbs from each held block to its root.
#[derive(Default)]
struct Climber {
    /// The block before, up from which everything was looked at.
    last: Option<u64>,
}

impl Climber {
    /// Verifies some held blocks from `next` on. Returns where to go on.
    fn some(&mut self, core: &BoxedCore, mut next: u64, verified: &mut Verified) -> Result<Option<u64>> {
        for _ in 0..BLOCKS_AT_ONCE {
            let Some(index) = core
                .bitfield()
                .first_set(next)
                .filter(|index| *index < core.length())
            else {
                return Ok(None);
            };
            self.block(core, index, verified)?;
            next = index + 1;
        }
        Ok(Some(next))
    }

    fn block(&mut self, core: &BoxedCore, index: u64, verified: &mut Verified) -> Result {
        let missing = |what: &str| Damage {
            block: Some(index),
            file: None,
            offset: None,
            what: what.to_owned(),
        };
        verified.checked_blocks += 1;
        match core.get(index) {
            Ok(Some(block)) => {
                verified.checked_bytes += block.len() as u64;
                match core.node(2 * index) {
                    Ok(Some(leaf)) if leaf == Node::leaf(index, &block) => {}
                    Ok(Some(_)) => verified.add(missing("its hash is another than the signed tree's")),
                    Ok(None) => verified.add(missing("the tree has no hash of it")),
                    Err(error) => verified.add(of_storage(index, error)?),
                }
            }
            Ok(None) => verified.add(missing("it should be held and is not there")),
            Err(error) => verified.add(of_storage(index, error)?),
        }
        match self.climb(core, index) {
            Ok(None) => {}
            Ok(Some(what)) => verified.add(missing(&what)),
            Err(error) => verified.add(of_storage(index, error)?),
        }
        self.last = Some(index);
        Ok(())
    }

    /// Hashes the stored nodes above a block, up to the root or to where the block before came by. Returns what is wrong.
    fn climb(&self, core: &BoxedCore, index: u64) -> std::result::Result<Option<String>, StorageError> {
        let Some(root) = flat_tree::root_of(index, core.length()) else {
            return Ok(Some("it lies beyond the tree".to_owned()));
        };
        let mut at = 2 * index;
        while at != root {
            let parent = flat_tree::parent(at);
            let (own, sibling) = (core.node(at)?, core.node(flat_tree::sibling(at))?);
            let (Some(own), Some(sibling)) = (own, sibling) else {
                return Ok(Some(format!("the tree has no node beside {at} to prove it by")));
            };
            if core.node(parent)? != Some(Node::parent(&own, &sibling)) {
                return Ok(Some(format!(
                    "tree node {parent} is not the hash of its children"
                )));
            }
            // The block before climbed through the parent too, and compared it with what is above.
            if self
                .last
                .is_some_and(|last| flat_tree::contains(parent, 2 * last))
            {
                return Ok(None);
            }
            at = parent;
        }
        let signed: Option<&Node> = core.roots().nodes().iter().find(|node| node.index == root);
        Ok(match core.node(root)? {
            Some(node) if Some(&node) == signed => None,
            _ => Some(format!("tree node {root} is another than the signed root")),
        })
    }
}

/// A storage's failure as damage of a block; other failures end the command.
fn of_storage(index: u64, error: StorageError) -> Result<Damage> {
    match error {
        StorageError::Damaged { what, path, offset } => Ok(Damage {
            block: Some(index),
            file: Some(path.display().to_string()),
            offset: Some(offset),
            what: format!("{what} has changed"),
        }),
        StorageError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            Ok(Damage {
                block: Some(index),
                file: Some(path.display().to_string()),
                offset: None,
                what: "the file ends too early".to_owned(),
            })
        }
        other => Err(other.into()),
    }
}
