//! Failing files, for tests of what a crash, a full disk or a broken one leaves behind.
//!
//! [`Faults`] sits in front of every changing file operation of a storage: it lets it run, makes it fail, and writes down
//! what was done. From what was written down a test can make every state of the disk that a loss of power at any moment
//! may leave, without cutting any power.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// A changing file operation that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOperation {
    /// A file was made, or emptied if it was there.
    Create {
        /// The file.
        path: PathBuf,
    },
    /// Bytes were written.
    Write {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// The length was set.
    Cut {
        /// The file.
        path: PathBuf,
        /// The length from now on, in bytes.
        length: u64,
    },
    /// The file's data is on the disk.
    Sync {
        /// The file.
        path: PathBuf,
    },
    /// The file has another name, and what had that name is gone.
    Rename {
        /// The name it had.
        from: PathBuf,
        /// The name it has.
        to: PathBuf,
    },
    /// The file is gone.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// The names in the directory are on the disk.
    SyncDirectory {
        /// The directory.
        path: PathBuf,
    },
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process ends: the operation writes half of its bytes, every later one does nothing.
    Stop,
    /// The disk is full: a write stops after half of its bytes, no file can be made; [`Faults::heal`] makes room.
    NoSpace,
    /// One write puts nothing on the disk and reports an I/O error.
    WriteError,
    /// One sync reports an I/O error; what it should have synced may be gone.
    SyncError,
}

/// Makes one of a storage's file operations fail, and writes down those that were done.
#[derive(Debug)]
pub struct Faults {
    left: AtomicI64,
    fault: Fault,
    hit: AtomicBool,
    healed: AtomicBool,
    fail_syncs: AtomicBool,
    done: Mutex<Vec<FileOperation>>,
}

/// How far an operation may go.
pub(super) enum Step {
    Run,
    Half(io::Error),
    Fail(io::Error),
}

impl Faults {
    /// Allows `operations` changes and stops then.
    pub fn after(operations: i64) -> Arc<Self> {
        Self::with(Fault::Stop, operations)
    }

    /// Allows everything, and writes it down.
    pub fn recording() -> Arc<Self> {
        Self::with(Fault::Stop, i64::MAX)
    }

    /// Allows `operations` changes; of the later ones, the first that this can happen to meets it.
    pub fn with(fault: Fault, operations: i64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(operations),
            fault,
            hit: AtomicBool::new(false),
            healed: AtomicBool::new(false),
            fail_syncs: AtomicBool::new(false),
            done: Mutex::default(),
        })
    }

    /// Whether an operation failed.
    pub fn hit(&self) -> bool {
        self.hit.load(Ordering::SeqCst)
    }

    /// From now on no file is synced, as on a disk that lost its connection.
    pub fn fail_syncs(&self) {
        self.fail_syncs.store(true, Ordering::SeqCst);
    }

    /// How many times a file was synced.
    pub fn syncs(&self) -> usize {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.iter()
            .filter(|operation| matches!(operation, FileOperation::Sync { .. }))
            .count()
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::SeqCst);
    }

    /// Number of operations done so far.
    pub fn count(&self) -> usize {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The operations done so far, in order.
    pub fn done(&self) -> Vec<FileOperation> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn next(&self, mut operation: FileOperation) -> Step {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let unplugged = self.fail_syncs.load(Ordering::SeqCst);
        let step = if unplugged && matches!(operation, FileOperation::Sync { .. }) {
            Step::Fail(broken())
        } else if left > 0 || self.healed.load(Ordering::SeqCst) {
            Step::Run
        } else {
            self.failure(&operation, left == 0)
        };
        match &step {
            Step::Run => {}
            Step::Half(_) => {
                if let FileOperation::Write { bytes, .. } = &mut operation {
                    bytes.truncate(bytes.len() / 2);
                }
            }
            Step::Fail(_) => return step,
        }
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(operation);
        step
    }

    fn failure(&self, operation: &FileOperation, first: bool) -> Step {
        let before = self.hit();
        let step = match (self.fault, operation) {
            (Fault::Stop, FileOperation::Write { .. }) if first => Step::Half(stopped()),
            (Fault::Stop, _) => Step::Fail(stopped()),
            (Fault::NoSpace, FileOperation::Write { .. }) => {
                Step::Half(io::Error::from(io::ErrorKind::StorageFull))
            }
            (Fault::NoSpace, FileOperation::Create { .. }) => {
                Step::Fail(io::Error::from(io::ErrorKind::StorageFull))
            }
            (Fault::WriteError, FileOperation::Write { .. })
            | (Fault::SyncError, FileOperation::Sync { .. } | FileOperation::SyncDirectory { .. })
                if !before =>
            {
                Step::Fail(broken())
            }
            _ => Step::Run,
        };
        if !matches!(step, Step::Run) {
            self.hit.store(true, Ordering::SeqCst);
        }
        step
    }
}

fn stopped() -> io::Error {
    io::Error::other("stopped by a test")
}

fn broken() -> io::Error {
    io::Error::other("an I/O error made by a test")
}
