//! Executables behind NATs that drop UDP: replicas of one cloud sync through the one that can be reached, over TCP. Needs root,
//! `ip` and `nft`; not Node.js.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "programs are waited for")]

mod replicas;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cumulet_net_lab::{Lab, Namespace, Topology};
use replicas::{BLOCKS, prepare, public_key, write_core};

const SWARM_PORT: u16 = 49_737;
const OPS_PORT: u16 = 9_090;
/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Says why not; fails where nothing may be skipped.
fn can_run() -> bool {
    let Some(missing) = cumulet_net_lab::missing() else {
        return true;
    };
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "nothing is skipped in CI, but {missing}");
    eprintln!("skipped: {missing}; hint: {}", missing.hint());
    false
}

/// Ends with the test, also when it fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn replica(place: &Namespace, data_dir: &Path, key: &str, others: &[String]) -> Running {
    let mut command = place.command(env!("CARGO_BIN_EXE_cumulet-node"));
    command
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--pin", key, "--replicas-peers", &others.join(",")])
        // Nobody answers there: nothing is found but who is named.
        .args(["--bootstrap", "127.0.0.1:9"])
        .stdin(Stdio::null());
    Running(command.spawn().unwrap())
}

/// A metric of a replica, once it says one.
fn metric(place: &Namespace, name: &'static str) -> Option<u64> {
    let ask = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, OPS_PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = place.run(ask).unwrap().join().unwrap().unwrap().ok()?;
    let line = answer.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_behind_nats_that_drop_udp_sync_over_tcp_through_the_one_that_can_be_reached() {
    if !can_run() {
        return;
    }
    let lab = Lab::up(Topology::parse("udp-blocked:udp-blocked", 1).unwrap()).unwrap();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    for (number, folder) in (1..).zip(&folders) {
        prepare(folder.path(), number);
    }
    let key = hex::encode(write_core(folders[1].path()).await);
    let middle = format!("{}@{}:{SWARM_PORT}", public_key(1), Topology::service_address(0));
    // It can not dial them: they are behind NATs.
    let behind = [2, 3].map(|number| format!("{}@127.0.0.1:9", public_key(number)));
    let places = [lab.internet(), lab.host(0, 0), lab.host(1, 0)];
    let _middle = replica(&places[0], folders[0].path(), &key, &behind);
    let _writer = replica(&places[1], folders[1].path(), &key, std::slice::from_ref(&middle));
    let _reader = replica(&places[2], folders[2].path(), &key, std::slice::from_ref(&middle));
    for place in &places {
        until("all blocks are at every replica", || {
            metric(place, "cumulet_node_archive_stored_blocks{") == Some(BLOCKS)
        });
    }
    for place in &places[1..] {
        assert!(metric(place, "cumulet_node_swarm_over_tcp_total") >= Some(1));
    }
    assert!(metric(&places[0], "cumulet_node_swarm_over_tcp_total") >= Some(2));
    let traffic = lab.traffic(1, 0).unwrap();
    assert_eq!(
        traffic.sites.values().sum::<u64>(),
        0,
        "nothing went directly: {traffic:?}"
    );
}
