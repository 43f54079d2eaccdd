//! Measures streams over loopback: ours to ours, ours to `udx-native` and back, `udx-native` to itself; in turns, so that
//! all see the same machine.
//!
//! ```sh
//! cargo run --release -p cumulet-udx --example throughput -- [MiB] [rounds]
//! ```
//! JS sides run `interop/udx/bench.js` (after `npm ci` there); without node only ours is measured.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use cumulet_udx::{Endpoint, Socket, StreamOptions, StreamStats, UdxStream};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

type Failure = Box<dyn std::error::Error>;

const CHUNK: usize = 64 * 1024;
const JS_ID: u32 = 2;
const OUR_ID: u32 = 1;

struct Row {
    name: &'static str,
    rates: Vec<f64>,
    last: Option<StreamStats>,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mib = arguments.next().transpose()?.unwrap_or(128);
    let rounds = arguments.next().transpose()?.unwrap_or(3);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(mib << 20, rounds))
}

async fn measure(bytes: usize, rounds: usize) -> Result<(), Failure> {
    let names = ["ours -> ours", "ours -> js", "js -> ours", "js -> js"];
    let mut rows: Vec<Row> = names
        .map(|name| Row {
            name,
            rates: Vec::new(),
            last: None,
        })
        .into();
    let js = js_directory().join("node_modules/udx-native").exists();
    for _ in 0..rounds {
        for row in &mut rows {
            let (rate, stats) = match row.name {
                "ours -> ours" => ours_to_ours(bytes).await?,
                _ if !js => continue,
                "ours -> js" => ours_to_js(bytes).await?,
                "js -> ours" => js_to_ours(bytes).await?,
                _ => (js_to_js(bytes).await?, None),
            };
            row.rates.push(rate);
            row.last = stats;
        }
    }
    println!(
        "{} MiB over loopback, {rounds} rounds in turns, MiB/s",
        bytes >> 20
    );
    for row in &mut rows {
        row.rates.sort_by(f64::total_cmp);
        if let (Some(min), Some(max)) = (row.rates.first(), row.rates.last()) {
            let median = row.rates[row.rates.len() / 2];
            println!(
                "{:<14} median {median:>7.1}  min {min:>7.1}  max {max:>7.1}",
                row.name
            );
        }
        if let Some(stats) = row.last {
            println!(
                "{:14} sent {} packets, {} again; {} received; window {} packets, rtt {:?} (min {:?}), mtu {}",
                "",
                stats.packets_sent,
                stats.retransmits,
                stats.packets_received,
                stats.congestion_window,
                stats.rtt,
                stats.min_rtt,
                stats.mtu
            );
        }
    }
    if !js {
        println!("udx-native is not installed in interop/udx: the JS rows were not measured");
    }
    Ok(())
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn side() -> Result<(Endpoint, Socket), Failure> {
    let endpoint = Endpoint::with_system_entropy();
    let (socket, _) = endpoint.bind(localhost(0))?;
    Ok((endpoint, socket))
}

fn stream(endpoint: &Endpoint, local_id: u32) -> Result<UdxStream, Failure> {
    Ok(endpoint.create_stream(StreamOptions {
        local_id: Some(local_id),
        ..StreamOptions::default()
    })?)
}

fn rate(bytes: usize, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a printed rate")]
    let mib = bytes as f64 / f64::from(1 << 20);
    mib / time.as_secs_f64()
}

async fn send(stream: &mut UdxStream, bytes: usize) -> Result<(), Failure> {
    let chunk = vec![7; CHUNK];
    for _ in 0..bytes / CHUNK {
        stream.write_all(&chunk).await?;
    }
    stream.shutdown().await?;
    Ok(())
}

async fn receive(stream: &mut UdxStream) -> Result<usize, Failure> {
    let mut chunk = vec![0; 4 * CHUNK];
    let mut total = 0;
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

async fn ours_to_ours(bytes: usize) -> Result<(f64, Option<StreamStats>), Failure> {
    let ((a, a_socket), (b, b_socket)) = (side()?, side()?);
    let (mut left, mut right) = (stream(&a, OUR_ID)?, stream(&b, JS_ID)?);
    left.connect(&a_socket, JS_ID, b_socket.local_addr())?;
    right.connect(&b_socket, OUR_ID, a_socket.local_addr())?;
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let total = receive(&mut right).await.unwrap_or(0);
        drop(right.shutdown().await);
        total
    });
    send(&mut left, bytes).await?;
    let time = started.elapsed();
    let total = tasks.join_next().await.ok_or("no receiver")??;
    check(total, bytes)?;
    Ok((rate(bytes, time), Some(left.stats())))
}

fn check(total: usize, bytes: usize) -> Result<(), Failure> {
    if total == bytes {
        Ok(())
    } else {
        Err(format!("{total} of {bytes} bytes arrived").into())
    }
}

async fn ours_to_js(bytes: usize) -> Result<(f64, Option<StreamStats>), Failure> {
    let (endpoint, socket) = side()?;
    let mut stream = stream(&endpoint, OUR_ID)?;
    let (mut js, port) = Js::start(&["receive", &socket.local_addr().port().to_string()]).await?;
    stream.connect(&socket, JS_ID, localhost(port))?;
    let started = Instant::now();
    send(&mut stream, bytes).await?;
    let time = started.elapsed();
    check(js.number().await?, bytes)?;
    Ok((rate(bytes, time), Some(stream.stats())))
}

async fn js_to_ours(bytes: usize) -> Result<(f64, Option<StreamStats>), Failure> {
    let (endpoint, socket) = side()?;
    let mut stream = stream(&endpoint, OUR_ID)?;
    let (_js, port) = Js::start(&[
        "send",
        &socket.local_addr().port().to_string(),
        &bytes.to_string(),
    ])
    .await?;
    let source = stream.first_packet().await.ok_or("JS sent nothing")?;
    let started = Instant::now();
    stream.connect(&source.socket, JS_ID, localhost(port))?;
    check(receive(&mut stream).await?, bytes)?;
    let time = started.elapsed();
    stream.shutdown().await?;
    Ok((rate(bytes, time), Some(stream.stats())))
}

/// Two node processes; the sender says how many milliseconds it took until everything was acknowledged.
async fn js_to_js(bytes: usize) -> Result<f64, Failure> {
    let (mut receiver, port) = Js::start(&["receive", "0"]).await?;
    let (mut sender, _) =
        Js::start(&["send", &port.to_string(), &bytes.to_string(), &JS_ID.to_string()]).await?;
    let millis = sender.number().await?;
    check(receiver.number().await?, bytes)?;
    Ok(rate(bytes, Duration::from_millis(millis as u64)))
}

/// A node process; it prints its port, later one number.
struct Js {
    _process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

fn js_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/udx")
}

impl Js {
    async fn start(arguments: &[&str]) -> Result<(Self, u16), Failure> {
        let mut process = Command::new("node")
            .arg("bench.js")
            .args(arguments)
            .current_dir(js_directory())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut js = Self {
            _process: process,
            output: BufReader::new(output).lines(),
        };
        let port = u16::try_from(js.number().await?)?;
        Ok((js, port))
    }

    async fn number(&mut self) -> Result<usize, Failure> {
        let line = self.output.next_line().await?.ok_or("node ended early")?;
        Ok(line.trim().parse()?)
    }
}
