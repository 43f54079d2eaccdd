//! Our programs: the same arguments and output as `bench.js` of `interop/udx`, `interop/dht` and `interop/relay`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use cumulet_hyperdht::{ConnectOptions, Connection, Dht, DhtConfig, ListenOptions};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event, SecretStream};
use cumulet_udx::{Endpoint, Socket, StreamOptions, UdxStream};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crowd::{self, Work};
use crate::{keeping, pouring, relaying};

pub(crate) const CHUNK: usize = 64 * 1024;
/// Both sides' stream.
pub(crate) const ID: u32 = 2;
/// Between connections, so that nobody's ration of handshakes is the measure.
const PAUSE: Duration = Duration::from_millis(10);

/// What one side does.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Task {
    /// Take a stream.
    Receive,
    /// Send a stream.
    Send {
        /// Where to, on loopback.
        port: u16,
        /// How much.
        bytes: usize,
    },
    /// Take a stream for as long as somebody asks how much came.
    Take(pouring::Taker),
    /// Send a stream until whoever started this ends it.
    Pour(pouring::Pourer),
    /// Echo on a key.
    Serve {
        /// A DHT node.
        bootstrap: String,
    },
    /// Connect again and again.
    Connect(Clients),
    /// Connect, and stay.
    Hold(Clients),
    /// Connect, many at once.
    Crowd(Clients),
    /// Look the server's announcement up, many at once.
    Lookups(Clients),
    /// Be a blind relay.
    Relay {
        /// A DHT node.
        bootstrap: String,
    },
    /// Link pairs of streams at a blind relay.
    Links(Clients),
    /// Be a blind peer.
    Keep {
        /// A DHT node.
        bootstrap: String,
    },
}

/// Connections to open.
#[derive(Debug, clap::Args)]
pub(crate) struct Clients {
    /// A DHT node.
    pub(crate) bootstrap: String,
    /// The server's public key.
    key: String,
    /// How many.
    pub(crate) count: usize,
}

impl Clients {
    pub(crate) fn key(&self) -> Result<[u8; 32]> {
        let key = hex::decode(&self.key)?;
        key.try_into().map_err(|_| anyhow!("not a public key"))
    }
}

pub(crate) async fn run(task: Task) -> Result<()> {
    match task {
        Task::Receive => receive().await,
        Task::Send { port, bytes } => send(port, bytes).await,
        Task::Take(taker) => pouring::take(&taker).await,
        Task::Pour(pourer) => pouring::pour(&pourer).await,
        Task::Serve { bootstrap } => serve(bootstrap).await,
        Task::Connect(clients) => connect(clients, false).await,
        Task::Hold(clients) => connect(clients, true).await,
        Task::Crowd(clients) => crowd::run(clients, Work::Connect).await,
        Task::Lookups(clients) => crowd::run(clients, Work::LookUp).await,
        Task::Relay { bootstrap } => relaying::serve(bootstrap).await,
        Task::Links(clients) => relaying::clients(clients).await,
        Task::Keep { bootstrap } => keeping::serve(bootstrap).await,
    }
}

/// A stream on a new socket, whose port is printed.
pub(crate) fn stream(host: Ipv4Addr) -> Result<(Endpoint, Socket, UdxStream)> {
    let endpoint = Endpoint::with_system_entropy();
    let (socket, _) = endpoint.bind(SocketAddr::from((host, 0)))?;
    let options = StreamOptions {
        local_id: Some(ID),
        ..StreamOptions::default()
    };
    let stream = endpoint.create_stream(options)?;
    println!("{}", socket.local_addr().port());
    Ok((endpoint, socket, stream))
}

async fn receive() -> Result<()> {
    let (_endpoint, _socket, mut stream) = stream(Ipv4Addr::LOCALHOST)?;
    let source = stream.first_packet().await.context("nothing came")?;
    let before = processor_seconds()?;
    stream.connect(&source.socket, ID, source.address)?;
    let (mut chunk, mut total) = (vec![0; 4 * CHUNK], 0);
    loop {
        match stream.read(&mut chunk).await? {
            0 => break,
            read => total += read,
        }
    }
    println!(
        "{}",
        json!({ "bytes": total, "cpu": processor_seconds()? - before })
    );
    stream.shutdown().await?;
    Ok(())
}

async fn send(port: u16, bytes: usize) -> Result<()> {
    let (_endpoint, socket, mut stream) = stream(Ipv4Addr::LOCALHOST)?;
    let (started, before) = (Instant::now(), processor_seconds()?);
    stream.connect(&socket, ID, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let chunk = vec![7; CHUNK];
    for _ in 0..bytes / CHUNK {
        stream.write_all(&chunk).await?;
    }
    // Until the peer has every byte.
    stream.shutdown().await?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "seconds": seconds, "cpu": processor_seconds()? - before })
    );
    Ok(())
}

pub(crate) async fn node(bootstrap: String) -> Result<Dht> {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        bootstrap: vec![bootstrap],
        firewalled: Some(false),
        share_local_addresses: false,
        ..DhtConfig::default()
    };
    let dht = Dht::spawn(config, &TaskTracker::new(), CancellationToken::new()).await?;
    dht.bootstrapped().await;
    Ok(dht)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("failed to get random bytes: {error}"))?;
    Ok(bytes)
}

async fn serve(bootstrap: String) -> Result<()> {
    let dht = node(bootstrap).await?;
    let key_pair = KeyPair::from_seed(random()?);
    let mut server = dht.listen(key_pair.clone(), ListenOptions::default()).await?;
    server.announced().await;
    println!("{}", json!(hex::encode(key_pair.public_key())));
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Some(connection) = server.accept().await {
            let open = counted.clone();
            echoes.spawn(async move {
                open.fetch_add(1, Ordering::Relaxed);
                let _ = Talk::new(connection).echo().await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        let open = open.load(Ordering::Relaxed);
        println!("{}", json!({ "open": open, "rss": resident()? }));
    }
    Ok(())
}

async fn connect(clients: Clients, hold: bool) -> Result<()> {
    let key = clients.key()?;
    let dht = node(clients.bootstrap).await?;
    let (mut kept, mut seconds) = (Vec::new(), Vec::new());
    let before = processor_seconds()?;
    for _ in 0..clients.count {
        let started = Instant::now();
        let options = ConnectOptions::new(KeyPair::from_seed(random()?));
        let mut talk = Talk::new(dht.connect(key, options).await?);
        talk.ask().await?;
        seconds.push(started.elapsed().as_secs_f64());
        if hold {
            kept.push(talk);
        }
        tokio::time::sleep(PAUSE).await;
    }
    if hold {
        println!("{}", json!({ "open": kept.len() }));
    } else {
        println!(
            "{}",
            json!({ "seconds": seconds, "cpu": processor_seconds()? - before })
        );
    }
    until_input_ends().await
}

/// Whoever started this program ends it.
pub(crate) async fn until_input_ends() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {}
    Ok(())
}

/// A connection with its secret stream.
pub(crate) struct Talk {
    stream: UdxStream,
    secret: SecretStream,
}

impl Talk {
    pub(crate) fn new(connection: Connection) -> Self {
        let seed = random().unwrap_or([7; 24]);
        Self {
            secret: SecretStream::from_handshake(connection.handshake, seed),
            stream: connection.stream,
        }
    }

    /// Sends a message and waits for one.
    pub(crate) async fn ask(&mut self) -> Result<()> {
        self.secret.send(b"hello")?;
        self.stream.write_all(&self.secret.take_output()).await?;
        loop {
            if let Some(message) = self.next().await? {
                return if message[..] == b"hello"[..] {
                    Ok(())
                } else {
                    Err(anyhow!("a wrong echo"))
                };
            }
        }
    }

    /// Reads once; a message, if one is whole.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        // Small, and not kept while waiting: an idle connection holds no buffer in JavaScript either.
        let mut buffer = [0; 2_048];
        let read = self.stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("the peer went away");
        }
        self.secret.receive(&buffer[..read]);
        let mut whole = None;
        while let Some(event) = self.secret.poll_event()? {
            if let Event::Message(message) = event
                && !message.is_empty()
            {
                whole = Some(message.to_vec());
            }
        }
        Ok(whole)
    }

    async fn echo(mut self) -> Result<()> {
        self.stream.write_all(&self.secret.take_output()).await?;
        loop {
            if let Some(message) = self.next().await? {
                self.secret.send(&message)?;
                self.stream.write_all(&self.secret.take_output()).await?;
            }
        }
    }
}

/// Resident memory, bytes.
pub(crate) fn resident() -> Result<u64> {
    resident_of("self")
}

/// Resident memory of a process, bytes.
pub(crate) fn resident_of(process: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// Processor time of this process so far, in hundredths of a second (Linux's clock tick).
pub(crate) fn processor_seconds() -> Result<f64> {
    processor_seconds_of("self")
}

/// The same, of any process.
pub(crate) fn processor_seconds_of(process: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat")?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / 100.0),
        _ => bail!("/proc/self/stat does not say how long the process ran"),
    }
}
