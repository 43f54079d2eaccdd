//! The two ends of a stream that lasts until nobody wants it any longer: ours over UDX, or the kernel's TCP.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket};

use crate::side::{CHUNK, ID, stream, until_input_ends};

/// Who takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Taker {
    /// Where it listens.
    host: Ipv4Addr,
    /// Take TCP.
    #[arg(long)]
    tcp: bool,
}

/// Who sends.
#[derive(Debug, clap::Args)]
pub(crate) struct Pourer {
    /// Where to.
    host: Ipv4Addr,
    port: u16,
    /// Send over TCP with this congestion control.
    #[arg(long, value_name = "NAME")]
    tcp: Option<String>,
}

/// Prints its port; then, for every line on standard input, how many bytes came so far.
pub(crate) async fn take(taker: &Taker) -> Result<()> {
    if taker.tcp {
        let listener = TcpListener::bind((taker.host, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        let (stream, _) = listener.accept().await?;
        return count(stream).await;
    }
    let (_endpoint, _socket, stream) = stream(taker.host)?;
    let source = stream.first_packet().await.context("nothing came")?;
    stream.connect(&source.socket, ID, source.address)?;
    count(stream).await
}

async fn count(mut stream: impl AsyncRead + Unpin) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        tokio::select! {
            read = stream.read(&mut chunk) => match read {
                // Whoever measures ends the sender first, with or without a goodbye.
                Ok(0) | Err(_) => return until_input_ends().await,
                Ok(read) => bytes += read,
            },
            line = lines.next_line() => match line? {
                Some(_) => println!("{}", json!({ "bytes": bytes })),
                None => return Ok(()),
            },
        }
    }
}

/// Prints its port, and sends.
pub(crate) async fn pour(pourer: &Pourer) -> Result<()> {
    let address = SocketAddr::from((pourer.host, pourer.port));
    if let Some(name) = &pourer.tcp {
        let socket = TcpSocket::new_v4()?;
        setsockopt(&socket, sockopt::TcpCongestion, &OsString::from(name))
            .with_context(|| format!("the kernel has no {name}"))?;
        let stream = socket.connect(address).await?;
        println!("{}", stream.local_addr()?.port());
        return fill(stream).await;
    }
    let (_endpoint, socket, stream) = stream(Ipv4Addr::UNSPECIFIED)?;
    stream.connect(&socket, ID, address)?;
    fill(stream).await
}

async fn fill(mut stream: impl AsyncWrite + Unpin) -> Result<()> {
    let chunk = vec![7; CHUNK];
    let full = async {
        loop {
            if let Err(error) = stream.write_all(&chunk).await {
                return Err(error.into());
            }
        }
    };
    tokio::select! {
        failed = full => failed,
        ended = until_input_ends() => ended,
    }
}
