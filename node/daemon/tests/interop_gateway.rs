//! A JavaScript drive, replicated over TCP and read through the gateway while its blocks arrive. Needs Node.js and
//! `npm ci` in `interop/data`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use cumulet_hyperbee::Bee;
use cumulet_hypercore::corestore::{CoreHandle, Corestore, CorestoreConfig};
use cumulet_hypercore::driver::{ReplicateError, Session, replicate};
use cumulet_hyperdrive::{Drive, content};
use cumulet_node::gateway::{Archive, ArchiveName, ArchiveSource, Limits, Served, SourceError, router};
use cumulet_secret_stream::Seeds;
use cumulet_secret_stream::noise::KeyPair;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Ends the process, and by the end of its stdin the JavaScript side cleans up.
struct JsDrive {
    child: Child,
    said: Value,
}

impl JsDrive {
    fn serve(seed: &str) -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/data");
        let mut child = Command::new("node")
            .args(["archives.js", "serve-drive", seed])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("is `npm ci` done in interop/data?"));
        Self { child, said }
    }
}

impl Drop for JsDrive {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Serves one drive to whoever asks.
#[derive(Debug, Clone)]
struct One(Drive<CoreHandle>);

impl ArchiveSource for One {
    type Blocks = CoreHandle;

    async fn resolve(&self, _: &ArchiveName) -> Result<Option<Served<CoreHandle>>, SourceError> {
        Ok(Some(Served {
            key: [0; 32],
            epoch: 0,
            archive: Archive::Drive(self.0.clone()),
        }))
    }
}

async fn get(gateway: &Router, path: &str, range: Option<&str>) -> (StatusCode, Bytes) {
    let mut request = Request::get(format!("/x{path}"));
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    let response = gateway
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    (
        response.status(),
        to_bytes(response.into_body(), 1 << 24).await.unwrap(),
    )
}

/// A connection to the JavaScript side, and a gateway over the drive that arrives through it.
struct World {
    js: JsDrive,
    gateway: Router,
    blobs: CoreHandle,
    cancel: CancellationToken,
    connection: JoinSet<Result<(), ReplicateError>>,
}

impl World {
    async fn connect() -> Self {
        let js = JsDrive::serve("5");
        let store = Corestore::in_memory(CorestoreConfig::default());
        let port = u16::try_from(js.said["port"].as_u64().unwrap()).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let session = Session::Xx {
            is_initiator: true,
            key_pair: KeyPair::from_seed([1; 32]),
            seeds: Seeds {
                ephemeral: [2; 32],
                header: [3; 24],
            },
        };
        let cancel = CancellationToken::new();
        let mut connection = JoinSet::new();
        connection.spawn(replicate(store.clone(), socket, session, cancel.clone()));

        let key: [u8; 32] = hex::decode(js.said["key"].as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap();
        let db = store.get(key).await.unwrap();
        let mut state = db.watch();
        let arrived = state.wait_for(|state| state.length > 0);
        drop(
            tokio::time::timeout(Duration::from_secs(30), arrived)
                .await
                .unwrap()
                .unwrap(),
        );
        let manifest = db.manifest().await.unwrap();
        let bee = Bee::new(db.clone());
        let content = content::content(&bee.header().await.unwrap(), &key, &manifest).unwrap();
        let blobs = store.get(content.key).await.unwrap();
        let mut state = blobs.watch();
        let arrived = state.wait_for(|state| state.length > 0);
        drop(
            tokio::time::timeout(Duration::from_secs(30), arrived)
                .await
                .unwrap()
                .unwrap(),
        );
        let gateway = router(One(Drive::new(&bee, blobs.clone())), Limits::default());
        Self {
            js,
            gateway,
            blobs,
            cancel,
            connection,
        }
    }

    /// Reads a hundred bytes from each start on, in a file of uneven blocks of which nothing is here.
    async fn read_parts(&self, starts: impl Fn(u64) -> Vec<u64>) {
        let size = self.js.said["big"]["size"].as_u64().unwrap();
        let byte = |at: u64| ((at % 251) as u8) ^ ((at >> 8) as u8);
        let starts = starts(size);
        for &start in &starts {
            let end = (start + 99).min(size - 1);
            let range = format!("bytes={start}-{end}");
            let (status, part) = get(&self.gateway, "/big%20file.bin", Some(&range)).await;
            assert_eq!(status, StatusCode::PARTIAL_CONTENT, "from {start}: {part:?}");
            assert_eq!(part, (start..=end).map(byte).collect::<Vec<_>>(), "from {start}");
        }
        // What is announced ahead may have arrived as well, but no more.
        let (held, most) = (self.blobs.state().held_blocks, 16 * starts.len() as u64);
        assert!(
            held <= most,
            "{held} of {} blocks are here after {} reads",
            self.js.said["blobs"],
            starts.len()
        );
    }

    async fn end(mut self) {
        self.cancel.cancel();
        while self.connection.join_next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_javascript_drive_is_read_while_it_arrives() {
    let world = World::connect().await;
    world.read_parts(|size| vec![size - 10, 0]).await;
    let (js, gateway) = (&world.js, &world.gateway);
    let files = js.said["files"].as_array().unwrap();
    let with_bytes = files.iter().filter(|file| file["sha256"].is_string());
    let mut read = 0;
    for file in with_bytes {
        let path = file["key"].as_str().unwrap();
        let path: String = path
            .split('/')
            .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect::<Vec<_>>()
            .join("/");
        let (status, body) = get(gateway, &path, None).await;
        assert_eq!(
            (status, hex::encode(Sha256::digest(&body))),
            (StatusCode::OK, file["sha256"].as_str().unwrap().to_owned()),
            "{path}"
        );
        read += 1;
    }
    assert!(read > 5, "{read}");
    world.end().await;
}

/// Without the tree nodes around a byte, peers are asked where it lies.
#[tokio::test]
async fn any_part_of_a_javascript_file_is_found_without_the_rest() {
    let world = World::connect().await;
    world
        .read_parts(|size| vec![size / 2, 1_234_567, 100_000, size / 3])
        .await;
    world.end().await;
}
