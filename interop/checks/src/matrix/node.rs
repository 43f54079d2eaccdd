//! Our side: a store and its connections.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cumulet_hypercore::corestore::{CoreHandle, CoreState, Corestore, CorestoreConfig};
use cumulet_hypercore::driver::{ReplicateError, Session, replicate};
use cumulet_hypercore::encryption::{BlockCipher, PADDING};
use cumulet_hypercore::verifier::Verifier;
use cumulet_secret_stream::Seeds;
use cumulet_secret_stream::noise::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::js::{JsPeer, PATIENCE, seed};
use super::random::Random;

pub(super) type Connection = JoinHandle<Result<(), ReplicateError>>;

pub(super) struct Node {
    pub(super) store: Corestore,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _directory: tempfile::TempDir,
}

/// The bytes that the JavaScript peer makes for a block.
pub(super) fn block(name: &str, index: u64, size: usize) -> Bytes {
    let start = seed(name).wrapping_mul(31).wrapping_add(index.wrapping_mul(7));
    let byte = |i: u64| start.wrapping_add(i * 13).wrapping_add((i >> 8) * 17) as u8;
    (0..size as u64).map(byte).collect::<Vec<_>>().into()
}

/// The key under which the JavaScript peer encrypts.
fn encryption_key() -> [u8; 32] {
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(b"encryption".iter().cycle()) {
        *to = *from;
    }
    key
}

fn cipher(core: &CoreHandle) -> BlockCipher {
    BlockCipher::new(core.key(), &encryption_key(), false)
}

impl Node {
    pub(super) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = CorestoreConfig {
            read_timeout: PATIENCE,
            ..CorestoreConfig::default()
        };
        Ok(Self {
            store: Corestore::open(directory.path(), config)?,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            _directory: directory,
        })
    }

    fn run(&self, io: TcpStream, is_initiator: bool, random: &mut Random) -> Result<Connection> {
        io.set_nodelay(true)?;
        let seeds = Seeds {
            ephemeral: random.bytes(),
            header: random.bytes(),
        };
        let session = Session::Xx {
            is_initiator,
            key_pair: KeyPair::from_seed(random.bytes()),
            seeds,
        };
        let cancel = self.cancel.child_token();
        Ok(self
            .tasks
            .spawn(replicate(self.store.clone(), io, session, cancel)))
    }

    /// Connects with a peer; the seed decides who dials.
    pub(super) async fn connect(&self, js: &mut JsPeer, random: &mut Random) -> Result<Connection> {
        if random.flip() {
            let io = TcpStream::connect(("127.0.0.1", js.port().await?)).await?;
            return self.run(io, true, random);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (accepted, asked) = tokio::join!(listener.accept(), js.ask("connect", json!({"port": port})));
        asked?;
        self.run(accepted?.0, false, random)
    }

    pub(super) async fn close(self) -> Result<()> {
        self.cancel.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(PATIENCE, self.tasks.wait()).await;
        ended.context("connections do not end")?;
        Ok(self.store.close().await?)
    }
}

/// Blocks in a batch: large enough to be quick, small enough that 100,000 are several.
pub(super) const BATCH: usize = 4096;

/// The next blocks of a core, encrypted if asked.
pub(super) fn blocks(core: &CoreHandle, name: &str, sizes: &[usize], is_encrypted: bool) -> Vec<Bytes> {
    let (cipher, state) = (is_encrypted.then(|| cipher(core)), core.state());
    let made = (sizes.iter().zip(state.length..)).map(|(size, index)| {
        let block = block(name, index, *size);
        match &cipher {
            Some(cipher) => cipher.encrypt(index, state.fork, &block).into(),
            None => block,
        }
    });
    made.collect()
}

/// Appends blocks of these sizes, encrypted if asked, in a few batches.
pub(super) async fn append(core: &CoreHandle, name: &str, sizes: &[usize], is_encrypted: bool) -> Result<()> {
    for sizes in sizes.chunks(BATCH) {
        core.append(blocks(core, name, sizes, is_encrypted)).await?;
    }
    Ok(())
}

/// Waits until the core is durably what `condition` says, as long as it changes.
pub(super) async fn until(
    core: &CoreHandle,
    what: &str,
    condition: impl Fn(&CoreState) -> bool,
) -> Result<()> {
    let mut states = core.watch_durable();
    loop {
        if condition(&states.borrow_and_update()) {
            return Ok(());
        }
        // A busy machine is slow; what is wrong is when nothing happens any more.
        match tokio::time::timeout(PATIENCE, states.changed()).await {
            Ok(Ok(())) => {}
            _ => bail!("{what}: our core is {:?}", core.state()),
        }
    }
}

/// Digest of the blocks that the core has, decrypted if asked, and which these are.
pub(super) async fn held(core: &CoreHandle, is_encrypted: bool) -> Result<(Vec<u64>, String)> {
    let cipher = is_encrypted.then(|| cipher(core));
    let (mut hash, mut indexes) = (Sha256::new(), Vec::new());
    for index in 0..core.state().length {
        let Some(mut block) = core.get_local(index).await? else {
            continue;
        };
        if let Some(cipher) = &cipher {
            block = cipher.decrypt(index, &block)?.into();
        }
        hash.update(format!("{}:", block.len()));
        hash.update(&block);
        indexes.push(index);
    }
    Ok((indexes, hex::encode(hash.finalize())))
}

/// What a core is, in the words of the JavaScript peer; the signature is verified once more.
pub(super) async fn state(core: &CoreHandle, is_encrypted: bool) -> Result<Value> {
    let described = core.with_core(|core| {
        let tree_hash = (core.length() > 0).then(|| hex::encode(core.roots().tree_hash()));
        if core.length() > 0 {
            let manifest = core.manifest().context("a core without manifest")?.clone();
            let verifier = Verifier::new(*core.key(), manifest).context("a manifest of another core")?;
            let signature = core.signature().map(AsRef::as_ref);
            verifier
                .verify(core.roots(), core.fork(), signature)
                .context("the signature does not hold")?;
        }
        let padding = if is_encrypted { PADDING as u64 * core.length() } else { 0 };
        let key = hex::encode(core.key());
        Ok::<_, anyhow::Error>(json!({
            "key": key, "length": core.length(), "fork": core.fork(), "byteLength": core.byte_length() - padding,
            "treeHash": tree_hash,
        }))
    });
    described.await
}

/// Holds the two sides against each other, in all that both say.
pub(super) fn same(ours: &Value, theirs: &Value) -> Result<()> {
    for field in ["key", "length", "fork", "byteLength", "treeHash"] {
        ensure!(
            ours[field] == theirs[field],
            "{field} is {} here and {} in JavaScript",
            ours[field],
            theirs[field]
        );
    }
    Ok(())
}

/// A moment for whatever should not happen.
pub(super) const MOMENT: Duration = Duration::from_millis(200);
