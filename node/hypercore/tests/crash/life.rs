//! A core's life on a disk that may fail, and what may be found afterwards.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_hypercore::core::{Core, WriteError};
use cumulet_hypercore::crypto::{KeyPair, discovery_key};
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::storage::{
    DiskOptions, DiskStorage, Faults, Files, Limits, MemoryStorage, Storage, StorageError,
};
use tempfile::TempDir;

pub(crate) type DiskCore = Core<DiskStorage>;

/// Seals and compacts whenever there is anything to seal or compact.
pub(crate) const EAGER: Limits = Limits {
    seal_bytes: 0,
    spill_bytes: 0,
    spill_min_bytes: 8,
    seal_nodes: 0,
    dead_bytes: 64,
    direct_bytes: u64::MAX,
};

/// As [`EAGER`], and what an append completes goes straight into a segment.
pub(crate) const DIRECT: Limits = Limits {
    direct_bytes: 8,
    ..EAGER
};

/// Nothing is sealed or compacted but what an append completes: that goes straight into a segment.
pub(crate) const STRAIGHT: Limits = Limits {
    direct_bytes: 8,
    seal_bytes: u64::MAX / 4,
    spill_bytes: u64::MAX / 4,
    spill_min_bytes: u64::MAX,
    seal_nodes: usize::MAX,
    dead_bytes: u64::MAX / 4,
};

/// A directory for tests that sync thousands of times: in memory if there is such a place.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

pub(crate) fn key_pair() -> KeyPair {
    KeyPair::from_seed(&[5; 32])
}

fn manifest() -> Manifest {
    Manifest::single(key_pair().public_key())
}

/// Opens the core in `root`, or makes it when the disk holds none.
pub(crate) fn open(root: &Path, limits: Limits, faults: Option<Arc<Faults>>) -> Result<DiskCore, WriteError> {
    let files = faults.map_or_else(Files::default, |faults| Files::with_faults(8, faults));
    let options = DiskOptions {
        files,
        limits,
        ..DiskOptions::default()
    };
    let key = manifest().key();
    let storage = DiskStorage::open(&root.join("core"), discovery_key(&key), options)?;
    let core = if storage.manifest().is_none() {
        Core::create(storage, manifest(), Some(key_pair()))
    } else {
        Core::open(storage, key).map(|mut core| {
            core.set_key_pair(key_pair());
            core
        })
    };
    core.map_err(|error| match error {
        cumulet_hypercore::core::OpenError::Storage(error) => WriteError::Storage(error),
        error => panic!("{error}"),
    })
}

/// Everything that a core says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    fork: u64,
    blocks: Vec<Option<Bytes>>,
}

impl State {
    pub(crate) fn of<S: Storage>(core: &Core<S>) -> Self {
        Self {
            fork: core.fork(),
            blocks: (0..core.length()).map(|i| core.get(i).unwrap()).collect(),
        }
    }

    pub(crate) fn blocks(&self) -> &[Option<Bytes>] {
        &self.blocks
    }
}

/// One change of the owner, or a flush.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Append(Vec<Bytes>),
    Truncate(u64),
    Clear(Range<u64>),
    Flush,
}

impl Act {
    pub(crate) fn run<S: Storage>(&self, core: &mut Core<S>) -> Result<(), WriteError> {
        match self {
            Self::Append(blocks) => core.append_batch(blocks.clone()).map(|_| ()),
            Self::Truncate(length) => core.truncate(*length, None),
            Self::Clear(blocks) => Ok(core.clear(blocks.clone())?),
            Self::Flush => Ok(core.flush()?),
        }
    }
}

/// A life with everything in it: small and large batches, truncations into sealed and unsealed blocks, cleared blocks in
/// both, changes with and without a flush behind them.
pub(crate) fn acts() -> Vec<Act> {
    let mut acts = Vec::new();
    let mut fill = 0_u8;
    let mut append = |acts: &mut Vec<Act>, sizes: &[usize]| {
        let blocks = sizes.iter().map(|size| {
            fill = fill.wrapping_add(1);
            Bytes::from(vec![fill; *size])
        });
        acts.push(Act::Append(blocks.collect()));
    };
    append(&mut acts, &[10]);
    acts.push(Act::Flush);
    append(&mut acts, &[20, 0, 30, 700]);
    append(&mut acts, &[5]);
    acts.push(Act::Flush);
    append(&mut acts, &[40, 40, 40, 40, 1500, 3]);
    acts.extend([Act::Clear(2..4), Act::Flush, Act::Truncate(9)]);
    append(&mut acts, &[1, 2]);
    acts.extend([Act::Flush, Act::Clear(0..1), Act::Truncate(5), Act::Flush]);
    append(&mut acts, &[600, 8, 9]);
    append(&mut acts, &[11, 12, 13, 14, 15, 16, 17, 18]);
    acts.extend([Act::Clear(6..9), Act::Flush, Act::Truncate(0)]);
    append(&mut acts, &[21, 22]);
    acts.push(Act::Flush);
    append(&mut acts, &[23]);
    acts
}

/// What happened when, counted in file operations.
#[derive(Default)]
pub(crate) struct Trace {
    /// The states that the core went through.
    pub(crate) states: Vec<State>,
    /// Number of operations done when the change that leads to a state began.
    begun: Vec<usize>,
    /// Number of operations done when a flush returned, and the state it was for.
    acknowledged: Vec<(usize, usize)>,
}

impl Trace {
    /// Before the core was made.
    pub(crate) fn new() -> Self {
        let empty = State {
            fork: 0,
            blocks: Vec::new(),
        };
        Self {
            states: vec![empty],
            begun: vec![0],
            acknowledged: Vec::new(),
        }
    }

    /// From a state that is on the disk.
    pub(crate) fn from(state: State) -> Self {
        Self {
            states: vec![state],
            ..Self::new()
        }
    }

    pub(crate) fn begin(&mut self, state: State, operations: usize) {
        self.states.push(state);
        self.begun.push(operations);
    }

    pub(crate) fn acknowledge(&mut self, operations: usize) {
        self.acknowledge_state(operations, self.last());
    }

    /// A flush returned that was begun in this state.
    pub(crate) fn acknowledge_state(&mut self, operations: usize, state: usize) {
        self.acknowledged.push((operations, state));
    }

    /// Number of the state that the core is in.
    pub(crate) fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// The change that began last failed, and so did not happen.
    pub(crate) fn undo(&mut self) {
        self.states.pop();
        self.begun.pop();
    }

    /// What may be found when the disk stopped after this many operations: what was acknowledged last, or what came after
    /// it.
    pub(crate) fn allowed(&self, operations: usize) -> &[State] {
        let acknowledged = self.acknowledged.iter();
        let first = acknowledged
            .filter(|(at, _)| *at <= operations)
            .map(|(_, state)| *state)
            .max()
            .unwrap_or(0);
        let end = self.begun.iter().take_while(|at| **at < operations).count();
        &self.states[first..end.max(first + 1)]
    }
}

/// Holds a disk against what may be on it: opens the core, verifies all of it, and writes on.
pub(crate) fn check(root: &Path, limits: Limits, allowed: &[State], what: &str) {
    let mut core = open(root, limits, None).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found = State::of(&core);
    assert!(
        allowed.contains(&found),
        "{what}: found fork {} and blocks of {:?} bytes; acknowledged was fork {} and {:?}",
        found.fork,
        sizes(&found),
        allowed[0].fork,
        sizes(&allowed[0])
    );
    verify(&core, what);
    let mut expected = found;
    for round in 0..2 {
        let block = Bytes::from(vec![round; 33]);
        core.append(block.clone())
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        core.flush().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        expected.blocks.push(Some(block));
    }
    drop(core);
    let core = open(root, limits, None).unwrap_or_else(|error| panic!("{what}, written on: {error:?}"));
    assert_eq!(State::of(&core), expected, "{what}, written on");
    verify(&core, what);
}

fn sizes(state: &State) -> Vec<Option<usize>> {
    state
        .blocks
        .iter()
        .map(|block| block.as_ref().map(Bytes::len))
        .collect()
}

/// Every block that is held is proven to a reader who knows the key alone.
pub(crate) fn verify<S: Storage>(core: &Core<S>, what: &str) {
    if core.length() == 0 {
        return;
    }
    let mut reader = Core::open(MemoryStorage::new(), *core.key()).unwrap();
    let mut request = Request {
        fork: core.fork(),
        upgrade: Some(RequestUpgrade {
            start: 0,
            length: core.length(),
        }),
        manifest: true,
        ..Request::default()
    };
    // A reader of nothing follows any fork.
    let proof = core
        .create_proof(&request)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    if core.fork() == 0 {
        reader
            .verify_and_apply(proof)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    } else {
        let reorg = reader
            .begin_reorg(&proof)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        reader
            .apply_reorg(reorg)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert_eq!(reader.length(), core.length(), "{what}");
    request.upgrade = None;
    request.manifest = false;
    for index in (0..core.length()).filter(|index| core.has(*index)) {
        let nodes = reader.missing_nodes(index).unwrap();
        request.block = Some(RequestBlock { index, nodes });
        let proof = core
            .create_proof(&request)
            .unwrap_or_else(|error| panic!("{what}: block {index}: {error}"));
        reader
            .verify_and_apply(proof)
            .unwrap_or_else(|error| panic!("{what}: block {index}: {error}"));
        assert_eq!(reader.get(index).unwrap(), core.get(index).unwrap());
    }
}

/// Whether the storage takes no more changes until it is opened again.
pub(crate) fn is_closed(error: &WriteError) -> bool {
    matches!(error, WriteError::Storage(StorageError::Closed))
}
