//! `cumulet-s3d`: the S3 server of the end-to-end tests as a program. See the library for what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use cumulet_s3d::{Conditional, Config, Server, shutdown_signal};

/// A small S3 server for tests, with atomic conditional writes.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Address to listen on.
    #[arg(long, env = "S3D_LISTEN", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Directory of the data.
    #[arg(long, env = "S3D_ROOT")]
    root: PathBuf,
    /// Buckets made at the start, separated by commas.
    #[arg(long, env = "S3D_BUCKETS", value_delimiter = ',', default_value = "cumulet")]
    bucket: Vec<String>,
    /// The access key (environment only, so that it shows in no process list).
    #[arg(env = "S3D_ACCESS_KEY", hide_env_values = true, hide = true, long)]
    access_key: String,
    /// The secret key (environment only).
    #[arg(env = "S3D_SECRET_KEY", hide_env_values = true, hide = true, long)]
    secret_key: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let level = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let server = Server::start(Config {
        listen: options.listen,
        root: options.root,
        buckets: options.bucket,
        access_key: options.access_key,
        secret_key: options.secret_key,
        conditional: Conditional::Honoured,
    })
    .await?;
    tracing::info!(endpoint = server.endpoint(), "listening");
    shutdown_signal().await?;
    server.stop().await;
    Ok(())
}
