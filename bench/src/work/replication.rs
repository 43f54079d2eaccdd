//! One core over TCP on loopback.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cumulet_hypercore::corestore::Corestore;
use cumulet_hypercore::driver::{Session, replicate};
use cumulet_secret_stream::Seeds;
use cumulet_secret_stream::noise::KeyPair;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::{CORE, writer};
use super::{amount, open};
use crate::content::Content;
use crate::measure::Measure;
use crate::random;

/// Serves the core that an append left, until standard input ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Serve {
    pub(crate) dir: PathBuf,
}

/// What a task that serves says when it can be reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) port: u16,
    /// Of the core, in hex.
    pub(crate) key: String,
}

impl Serve {
    pub(super) async fn run(self) -> Result<()> {
        let store = open(&self.dir, false)?;
        let core = writer(&store, CORE).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let ready = Ready {
            port: listener.local_addr()?.port(),
            key: cumulet_hypercore::key::to_hex(core.key()),
        };
        println!("{}", serde_json::json!({ "ready": ready }));
        let wires = Wires::default();
        accept_all(&listener, &store, &wires).await?;
        wires.end().await;
        Ok(store.close().await?)
    }
}

/// Takes connections until standard input ends.
async fn accept_all(listener: &TcpListener, store: &Corestore, wires: &Wires) -> Result<()> {
    let mut end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    loop {
        tokio::select! {
            ended = &mut end => {
                ended??;
                return Ok(());
            }
            accepted = listener.accept() => wires.carry(store, accepted?.0, false)?,
        }
    }
}

/// Gets all of a served core: from connecting until every block is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) key: String,
    pub(crate) size: usize,
    pub(crate) count: u32,
    pub(crate) unit: String,
}

impl Fetch {
    pub(super) async fn run(self, measure: &mut Measure) -> Result<()> {
        let content = Content::new();
        let store = open(&self.dir, false)?;
        let key = cumulet_hypercore::key::parse(&self.key).context("failed to understand the key")?;
        let core = store.get(key).await?;
        let wires = Wires::default();
        let fetch = async {
            let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            wires.carry(&store, socket, true)?;
            core.update().await?;
            core.download(0..core.state().length).await.done().await?;
            Ok(())
        };
        measure
            .time(amount(&self.unit, self.size, self.count), fetch)
            .await?;
        wires.end().await;
        if core.state().length != u64::from(self.count) {
            bail!("{} blocks instead of {}", core.state().length, self.count);
        }
        for index in 0..self.count {
            let block = core.get_local(index.into()).await?;
            content.check(&block.context("a block is missing")?, index, self.size)?;
        }
        Ok(store.close().await?)
    }
}

/// The connections of a task.
#[derive(Default)]
struct Wires {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Wires {
    fn carry(&self, store: &Corestore, socket: TcpStream, is_initiator: bool) -> Result<()> {
        socket.set_nodelay(true)?;
        let session = Session::Xx {
            is_initiator,
            key_pair: KeyPair::from_seed(random()?),
            seeds: Seeds {
                ephemeral: random()?,
                header: random()?,
            },
        };
        let connection = replicate(store.clone(), socket, session, self.cancel.child_token());
        self.tasks.spawn(async move {
            // The other side ends it by going away, which is no failure; what is missing then is noticed.
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        });
        Ok(())
    }

    async fn end(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
