//! Measures streams over loopback: ours to ours, ours to `udx-native` and back, `udx-native` to itself; in turns, so that
//! all see the same machine.
//!
//! ```sh
//! cargo run --release -p cumulet-udx --example throughput -- [MiB] [rounds]
//! cargo run --release -p cumulet-udx --example throughput -- paths [MiB] [rounds]
//! ```
//! With `paths` the two of a kind talk through slow, long, lossy paths made in user space instead.
//!
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

mod path;

use path::{Profile, Route};

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
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let paths = arguments.first().is_some_and(|first| first == "paths");
    if paths {
        arguments.remove(0);
    }
    let number = |index: usize, default: usize| {
        arguments
            .get(index)
            .map_or(Ok(default), |argument| argument.parse::<usize>())
    };
    let (mib, rounds) = (number(0, if paths { 16 } else { 128 })?, number(1, 3)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if paths {
            measure_paths(mib << 20, rounds).await
        } else {
            measure(mib << 20, rounds).await
        }
    })
}

const PATHS: [Profile; 5] = [
    path("50 Mbit/s, 20 ms", 50, 10, 100, 0.0),
    path("50 Mbit/s, 20 ms, 1 % loss", 50, 10, 100, 0.01),
    path("50 Mbit/s, 20 ms, 5 % loss", 50, 10, 100, 0.05),
    path("50 Mbit/s, 20 ms, shallow queue", 50, 10, 5, 0.0),
    path("20 Mbit/s, 160 ms", 20, 80, 200, 0.001),
];

const fn path(name: &'static str, mbit: u32, delay_ms: u64, queue_ms: u64, loss: f64) -> Profile {
    Profile {
        name,
        rate: mbit as f64 * 125_000.0,
        delay: Duration::from_millis(delay_ms),
        queue: Duration::from_millis(queue_ms),
        loss,
    }
}

async fn measure_paths(bytes: usize, rounds: usize) -> Result<(), Failure> {
    let js = js_directory().join("node_modules/udx-native").exists();
    println!(
        "{} MiB, medians of {rounds} rounds in turns, MiB/s (share of the path), packets sent again",
        bytes >> 20
    );
    for profile in PATHS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut again = 0.0;
        for _ in 0..rounds {
            let (rate, stats) = ours_to_ours(bytes, Some(profile)).await?;
            ours.push(rate);
            if let Some(stats) = stats {
                again = ratio(stats.retransmits, stats.packets_sent);
            }
            if js {
                theirs.push(js_to_js(bytes, Some(profile)).await?);
            }
        }
        let share = |rate: f64| rate * f64::from(1 << 20) / profile.rate * 100.0;
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        println!(
            "{:<34} ours {ours:>5.2} ({:>3.0} %, again {again:.3})   js {theirs:>5.2} ({:>3.0} %)",
            profile.name,
            share(ours),
            share(theirs)
        );
    }
    Ok(())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss, reason = "a printed share")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
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
                "ours -> ours" => ours_to_ours(bytes, None).await?,
                _ if !js => continue,
                "ours -> js" => ours_to_js(bytes).await?,
                "js -> ours" => js_to_ours(bytes).await?,
                _ => (js_to_js(bytes, None).await?, None),
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

async fn ours_to_ours(bytes: usize, profile: Option<Profile>) -> Result<(f64, Option<StreamStats>), Failure> {
    let ((a, a_socket), (b, b_socket)) = (side()?, side()?);
    let (mut left, mut right) = (stream(&a, OUR_ID)?, stream(&b, JS_ID)?);
    let right_port = b_socket.local_addr().port();
    let route = profile
        .map(|profile| Route::start(profile, right_port))
        .transpose()?;
    let (to_right, to_left) = match &route {
        Some(route) => (route.left, route.right),
        None => (right_port, a_socket.local_addr().port()),
    };
    left.connect(&a_socket, JS_ID, localhost(to_right))?;
    right.connect(&b_socket, OUR_ID, localhost(to_left))?;
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
async fn js_to_js(bytes: usize, profile: Option<Profile>) -> Result<f64, Failure> {
    let (mut receiver, port) = Js::start(&["receive", "0"]).await?;
    let route = profile.map(|profile| Route::start(profile, port)).transpose()?;
    let port = route.as_ref().map_or(port, |route| route.left);
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
