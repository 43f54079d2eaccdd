//! The object stores that tests run on: a directory, and a real S3 server in this process.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on shall say where"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cumulet_backup::store::ObjectStore;
use cumulet_backup::store::file::FileStore;
use cumulet_backup::store::s3::{S3Config, S3Store};
use cumulet_s3d::{Conditional, Config, Server};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub const BUCKET: &str = "cloud";
pub const PREFIX: &str = "some/prefix";

/// A store, and what must live as long as it.
pub struct TestStore {
    pub name: &'static str,
    pub store: Arc<dyn ObjectStore>,
    server: Option<Server>,
    directory: TempDir,
}

impl TestStore {
    /// The URL of the S3 server.
    pub fn endpoint(&self) -> String {
        self.server.as_ref().expect("only S3 has an endpoint").endpoint()
    }

    /// The file that holds an object, in both kinds of store.
    pub fn path(&self, object: &str) -> PathBuf {
        self.objects().join(object)
    }

    /// The directory below which the objects lie.
    pub fn objects(&self) -> PathBuf {
        if self.server.is_some() {
            self.directory.path().join(BUCKET).join(PREFIX)
        } else {
            self.directory.path().into()
        }
    }
}

/// One store of each kind, both empty.
pub async fn both() -> [TestStore; 2] {
    [file(), s3().await]
}

pub fn file() -> TestStore {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::open(directory.path()).unwrap());
    TestStore {
        name: "file",
        store,
        server: None,
        directory,
    }
}

pub async fn s3() -> TestStore {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let store = Arc::new(S3Store::new(s3_config(&server.endpoint())).unwrap());
    TestStore {
        name: "s3",
        store,
        server: Some(server),
        directory,
    }
}

pub async fn server(root: &Path, listen: SocketAddr) -> Server {
    Server::start(config(root, listen, Conditional::Honoured))
        .await
        .unwrap()
}

/// A server that does not do conditional writes as it should.
pub async fn weak_server(root: &Path, conditional: Conditional) -> Server {
    Server::start(config(root, SocketAddr::from(([127, 0, 0, 1], 0)), conditional))
        .await
        .unwrap()
}

fn config(root: &Path, listen: SocketAddr, conditional: Conditional) -> Config {
    Config {
        listen,
        root: root.into(),
        buckets: vec![BUCKET.into()],
        access_key: "access".into(),
        secret_key: "secret".into(),
        conditional,
    }
}

pub fn s3_config(endpoint: &str) -> S3Config {
    S3Config {
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        endpoint: Some(endpoint.into()),
        region: "us-east-1".into(),
        force_path_style: true,
        access_key: "access".into(),
        secret_key: Zeroizing::new("secret".into()),
        session_token: None,
    }
}
