//! The bytes of logs, held against golden files of every version.

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// What the golden logs hold, the first as far as its version can.
fn golden_content(storage: &mut dyn Storage, version: u8) {
    let manifest = Some(Manifest::single([7; 32]));
    storage
        .apply(Changes {
            manifest,
            ..Changes::default()
        })
        .unwrap();
    append(storage, 0, &[b"one".to_vec(), Vec::new(), b"three".to_vec()]);
    storage.flush().unwrap();
    storage
        .apply(Changes {
            clear: vec![0..1],
            ..Changes::default()
        })
        .unwrap();
    truncate(storage, 2);
    if version >= log::USER_DATA_VERSION {
        keep(storage, "name", Some(b"value"));
        keep(storage, "gone", Some(b""));
        keep(storage, "gone", None);
    }
}

/// A directory with one of the golden logs in it.
fn with_golden_log(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("core")).unwrap();
    fs::copy(golden(name), log(&dir)).unwrap();
    dir
}

#[test]
fn the_log_has_the_bytes_of_the_golden_file() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    golden_content(&mut storage, log::VERSION);
    let path = golden("head-log-v2.bin");
    let bytes = fs::read(log(&dir)).unwrap();
    if std::env::var_os("CUMULET_WRITE_GOLDEN").is_some() {
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(
        bytes,
        fs::read(&path).unwrap(),
        "a changed format needs a new version"
    );
    let other = with_golden_log("head-log-v2.bin");
    assert_eq!(everything(&open(&other), 3), everything(&storage, 3));
}

#[test]
fn a_log_of_version_1_goes_on_and_becomes_one_of_version_2_before_it_holds_user_data() {
    let mut model = MemoryStorage::new();
    golden_content(&mut model, 1);
    let dir = with_golden_log("head-log-v1.bin");
    let mut storage = open(&dir);
    assert_eq!(everything(&storage, 3), everything(&model, 3));
    assert_eq!(storage.manifest(), model.manifest());
    // Blocks go to it as it is.
    append(&mut storage, 1, &[b"more".to_vec()]);
    append(&mut model, 1, &[b"more".to_vec()]);
    storage.flush().unwrap();
    drop(storage);
    let version = || fs::read(log(&dir)).unwrap()[7];
    assert_eq!(version(), 1);
    let mut storage = open(&dir);
    assert_eq!(everything(&storage, 3), everything(&model, 3));
    // An older program must not take a record that it does not know for a torn end, and cut it.
    keep(&mut storage, "name", Some(b"value"));
    keep(&mut model, "name", Some(b"value"));
    assert_eq!(version(), 2);
    append(&mut storage, 1, &[b"and more".to_vec()]);
    append(&mut model, 1, &[b"and more".to_vec()]);
    storage.flush().unwrap();
    drop(storage);
    let storage = open(&dir);
    assert_eq!(everything(&storage, 4), everything(&model, 4));
    assert_eq!(storage.cut_bytes(), 0);
}

#[test]
fn a_log_of_version_1_is_one_of_version_2_when_it_was_written_anew() {
    let dir = with_golden_log("head-log-v1.bin");
    let mut storage = open(&dir);
    let before = everything(&storage, 3);
    storage.compact().unwrap();
    drop(storage);
    assert_eq!(fs::read(log(&dir)).unwrap()[7], 2);
    assert_eq!(everything(&open(&dir), 3), before);
}

#[test]
fn a_log_of_a_later_version_is_refused_and_left_alone() {
    let dir = with_golden_log("head-log-v2.bin");
    let mut bytes = fs::read(log(&dir)).unwrap();
    bytes[7] = 3;
    let crc = crc32c::crc32c(&bytes[..48]).to_le_bytes();
    bytes[48..52].copy_from_slice(&crc);
    fs::write(log(&dir), &bytes).unwrap();
    let refused = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default());
    assert!(matches!(refused, Err(StorageError::Foreign { .. })));
    assert_eq!(fs::read(log(&dir)).unwrap(), bytes);
}
