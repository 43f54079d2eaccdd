//! A blind peer of ours: the node's executable, as it is deployed. The app that stores with it, and has its cores announced, is
//! `bench.js store` of `interop/relay` for both sides.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use cumulet_secret_stream::noise::KeyPair;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::side::{processor_seconds_of, random, resident_of};

/// The app's seed, as in `bench.js`: the word again and again.
const APP: &[u8; 3] = b"app";
/// The node's line about its blind peer, in which the public key follows this.
const KEY_IN_LOG: &str = "keeping cores for apps public_key=";
const ANY_PORT: &str = "127.0.0.1:0";

/// The folder of one run, gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let name = format!("cumulet-bench-{}", hex::encode(random::<8>()?));
        Ok(Self(std::env::temp_dir().join(name)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the executable beside this one. Prints its blind peer's public key, then, for every line on stdin, `{"cpu", "rss"}`.
pub(crate) async fn serve(bootstrap: String) -> Result<()> {
    let folder = Folder::new()?;
    let app = KeyPair::from_seed(std::array::from_fn(|at| APP[at % APP.len()]));
    let executable = std::env::current_exe()?.with_file_name("cumulet-node");
    let mut node = Command::new(&executable)
        .arg("--data-dir")
        .arg(&folder.0)
        .args(["--swarm-port", "0", "--bootstrap", &bootstrap])
        .args([
            "--api-listen",
            ANY_PORT,
            "--gateway-listen",
            ANY_PORT,
            "--ops-listen",
            ANY_PORT,
        ])
        .args(["--blind-peer", "--member", &hex::encode(app.public_key())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {}", executable.display()))?;
    let mut log = BufReader::new(node.stderr.take().context("a node without a log")?).lines();
    let key = loop {
        let line = log.next_line().await?.context("the node ended")?;
        if let Some((_, key)) = line.split_once(KEY_IN_LOG) {
            break key.trim().to_owned();
        }
    };
    println!("{}", json!(key));
    let process = node.id().context("the node ended")?.to_string();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = log.next_line() => { line?.context("the node ended")?; }
            line = lines.next_line() => match line? {
                Some(_) => println!(
                    "{}",
                    json!({ "cpu": processor_seconds_of(&process)?, "rss": resident_of(&process)? })
                ),
                None => break,
            },
        }
    }
    node.kill().await?;
    Ok(())
}
