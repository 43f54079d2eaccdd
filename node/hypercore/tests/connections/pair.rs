//! Stores, and pipes between them.

use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::corestore::{CoreHandle, CoreState, Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::driver::{ReplicateError, Session, replicate};
use cumulet_hypercore::manifest::Manifest;
use cumulet_secret_stream::Seeds;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest that anything here may take; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// What a pipe holds: less than a frame, so that partial reads and writes happen.
const PIPE_BYTES: usize = 50_000;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub(crate) fn config() -> CorestoreConfig {
    CorestoreConfig {
        read_timeout: Duration::from_secs(20),
        ..CorestoreConfig::default()
    }
}

pub(crate) fn memory() -> Corestore {
    Corestore::in_memory(config())
}

/// The tasks of a test, which end with it.
#[derive(Default)]
pub(crate) struct Wires {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Wires {
    pub(crate) fn run<Io>(
        &self,
        store: &Corestore,
        io: Io,
        is_initiator: bool,
    ) -> JoinHandle<Result<(), ReplicateError>>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let seeds = Seeds {
            ephemeral: random(),
            header: random(),
        };
        let key_pair = cumulet_secret_stream::noise::KeyPair::from_seed(random());
        let session = Session::Xx {
            is_initiator,
            key_pair,
            seeds,
        };
        self.tasks
            .spawn(replicate(store.clone(), io, session, self.cancel.child_token()))
    }

    pub(crate) fn connect(
        &self,
        a: &Corestore,
        b: &Corestore,
    ) -> [JoinHandle<Result<(), ReplicateError>>; 2] {
        let (to_b, to_a) = tokio::io::duplex(PIPE_BYTES);
        [self.run(a, to_b, true), self.run(b, to_a, false)]
    }

    pub(crate) async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
    }
}

pub(crate) async fn writer(store: &Corestore, seed: u8) -> CoreHandle {
    let pair = KeyPair::from_seed(&[seed; 32]);
    store
        .create(Manifest::single(pair.public_key()), Some(pair))
        .await
        .unwrap()
}

pub(crate) fn block(index: u64, size: usize) -> Bytes {
    (0..size as u64)
        .map(|i| (index * 31 + i * 7 + (i >> 8)) as u8)
        .collect::<Vec<_>>()
        .into()
}

pub(crate) async fn append(core: &CoreHandle, sizes: &[usize]) {
    let length = core.state().length;
    let blocks = sizes
        .iter()
        .zip(length..)
        .map(|(size, index)| block(index, *size));
    core.append(blocks.collect()).await.unwrap();
}

/// Waits until the core is durably what `condition` says.
pub(crate) async fn until(core: &CoreHandle, what: &str, condition: impl Fn(&CoreState) -> bool) {
    let mut state = core.watch_durable();
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(|state| condition(state))).await;
    assert!(matches!(waited, Ok(Ok(_))), "{what}: is {:?}", core.state());
}

pub(crate) async fn assert_same(a: &CoreHandle, b: &CoreHandle) {
    assert_eq!(
        (a.state().length, a.state().fork),
        (b.state().length, b.state().fork)
    );
    for index in 0..a.state().length {
        let (one, other) = (
            a.get_local(index).await.unwrap(),
            b.get_local(index).await.unwrap(),
        );
        assert!(one.is_some() && one == other, "block {index}");
    }
}
