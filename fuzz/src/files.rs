//! Files that a disk may have changed, opened as a store opens them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arbitrary::Unstructured;
use cumulet_hypercore::corestore::{Corestore, CorestoreConfig};
use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::storage::{Changes, DiskOptions, DiskStorage, Storage};

/// Blocks and nodes that are read of a storage that opened: enough to reach everything that a few records can name.
const READ_LIMIT: u64 = 64;

const KEY: [u8; 32] = [7; 32];

/// A directory of this process, in memory if there is such a place.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let path = base.join(format!("cumulet-fuzz-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for the files");
        path
    })
}

/// Records with right checksums (most of them) and any content, in the form of `docs/format/head-log.md`.
fn head_log_of(data: &[u8]) -> arbitrary::Result<Vec<u8>> {
    let mut input = Unstructured::new(data);
    let generation = 1_u64;
    let mut log = b"CMLTLOG\x02".to_vec();
    log.extend_from_slice(&generation.to_le_bytes());
    log.extend_from_slice(&discovery_key(&KEY));
    let crc = crc32c::crc32c(&log);
    log.extend_from_slice(&crc.to_le_bytes());
    log.extend_from_slice(&[0; 12]);
    while !input.is_empty() {
        let (kind, how): (u8, u8) = (input.arbitrary::<u8>()? % 10, input.arbitrary()?);
        let argument: u64 = if how & 4 == 0 {
            input.arbitrary::<u8>()?.into()
        } else {
            input.arbitrary()?
        };
        let payload = if how & 8 == 0 {
            let length = usize::from(input.arbitrary::<u8>()?);
            input.bytes(length.min(input.len()))?.to_vec()
        } else {
            // Three numbers: what most payloads begin with.
            let mut numbers = Vec::new();
            for _ in 0..3 {
                numbers.extend_from_slice(&u64::from(input.arbitrary::<u8>()?).to_le_bytes());
            }
            numbers.extend_from_slice(&[how; 32][..usize::from(how & 32)]);
            numbers
        };
        let mut record = (payload.len() as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&[kind, how & 1, 0, 0]);
        record.extend_from_slice(&argument.to_le_bytes());
        let wrong = u32::from(how == 255);
        record.extend_from_slice(&(crc32c::crc32c(&payload) ^ wrong).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&generation.to_le_bytes()), &record);
        record.extend_from_slice(&crc.to_le_bytes());
        log.extend_from_slice(&record);
        log.extend_from_slice(&payload);
    }
    Ok(log)
}

/// The first byte says whether the rest is a log as it is, or records to make one of.
pub fn head_log(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let log = if how & 1 == 0 {
        let Ok(log) = head_log_of(rest) else { return };
        log
    } else {
        rest.to_vec()
    };
    let directory = scratch().join("core");
    let path = directory.join("head.log");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory for the log");
    for salvage in [true, false] {
        fs::write(&path, &log).expect("the log is written");
        let options = DiskOptions {
            salvage,
            ..DiskOptions::default()
        };
        let Ok(mut storage) = DiskStorage::open(&directory, discovery_key(&KEY), options) else {
            continue;
        };
        let runs: Vec<_> = storage.bitfield().runs().take(8).collect();
        for run in runs {
            for block in run.take(READ_LIMIT as usize) {
                let _ = storage.block(block);
            }
        }
        for node in 0..READ_LIMIT {
            let _ = storage.node(node);
        }
        let cut = Changes {
            truncate: Some(3),
            ..Changes::default()
        };
        if storage.apply(cut).is_ok() {
            let _ = storage.flush();
            let _ = storage.compact();
        }
    }
}

/// A key file, found by the name that its key would have.
pub fn key_file(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let mut key = [0; 32];
    let body = data.get(8..).unwrap_or_default();
    let length = body.len().min(32);
    key[..length].copy_from_slice(&body[..length]);
    let mut bytes = data.to_vec();
    if bytes.len() == 45 {
        // One byte too many asks for a right checksum, which no fuzzer guesses.
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes.truncate(40);
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
    let name = discovery_key(&key);
    let hex = cumulet_hypercore::key::to_hex(&name);
    let root = scratch().join("store");
    let folder = root.join(&hex[..2]);
    fs::create_dir_all(&folder).expect("a directory for the file");
    fs::write(folder.join(format!("{hex}.key")), bytes).expect("the file is written");
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let store = Corestore::open(&root, CorestoreConfig::default()).expect("a store");
            if let Ok(Some(core)) = store.find(&name).await {
                assert_eq!(*core.key(), key);
            }
            let _ = store.close().await;
        });
    });
    let _ = fs::remove_dir_all(&root);
}
