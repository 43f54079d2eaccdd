//! What truncations took, while somebody reads it.

use super::*;

/// A storage that seals and compacts whenever it can.
fn eager(dir: &TempDir) -> DiskStorage {
    let options = DiskOptions {
        limits: EAGER,
        ..DiskOptions::default()
    };
    DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap()
}

fn segment_files(dir: &TempDir) -> usize {
    fs::read_dir(dir.path().join("core/segments")).unwrap().count()
}

#[test]
fn files_that_a_truncation_left_behind_stay_while_they_are_read_and_go_afterwards() {
    let dir = TempDir::new().unwrap();
    let mut storage = eager(&dir);
    for index in 0..64 {
        append(&mut storage, 0, &[vec![index; 100]]);
    }
    storage.flush().unwrap();
    let before = everything(&storage, 64);
    assert!(storage.sealed_segments().count() > 0);
    storage.keep_remains(64);
    truncate(&mut storage, 21);
    let remains = storage.take_remains(21).unwrap();
    assert!(storage.take_remains(21).is_none(), "given out once");
    for index in 0..200 {
        append(&mut storage, 1, &[vec![!index; 100]]);
        storage.flush().unwrap();
    }
    storage.compact().unwrap();
    for index in 21..64 {
        assert_eq!(remains.block(index).unwrap(), before.1[index as usize]);
    }
    assert_eq!(remains.block(20).unwrap(), None);
    let kept = segment_files(&dir);
    drop(remains);
    append(&mut storage, 1, &[b"more".to_vec()]);
    storage.flush().unwrap();
    assert!(segment_files(&dir) < kept);
    assert_eq!(segment_files(&dir), 2 * storage.sealed_segments().count());
}

#[test]
fn files_that_were_read_when_the_process_ended_are_removed_at_the_next_opening() {
    let dir = TempDir::new().unwrap();
    let mut storage = eager(&dir);
    for index in 0..64 {
        append(&mut storage, 0, &[vec![index; 100]]);
    }
    storage.keep_remains(64);
    truncate(&mut storage, 1);
    let remains = storage.take_remains(1);
    storage.flush().unwrap();
    assert!(segment_files(&dir) > 2 * storage.sealed_segments().count());
    drop(storage);
    let storage = eager(&dir);
    assert_eq!(segment_files(&dir), 2 * storage.sealed_segments().count());
    drop(remains);
}

#[test]
fn the_oldest_remains_are_given_up_for_the_seventeenth() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    let mut all = Vec::new();
    for fork in 0..17_u8 {
        append(&mut storage, u64::from(fork), &[b"kept".to_vec(), vec![fork]]);
        storage.keep_remains(u64::MAX);
        let length = storage.head().length - 1;
        truncate(&mut storage, length);
        all.push((length, storage.take_remains(length).unwrap()));
    }
    for (fork, (length, remains)) in all.iter().enumerate() {
        let expected = (fork > 0).then(|| Bytes::from(vec![fork as u8]));
        assert_eq!(remains.block(*length).unwrap(), expected);
    }
}
