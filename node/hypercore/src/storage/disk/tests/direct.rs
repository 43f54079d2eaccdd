//! Appends that go straight into segments.

use super::*;

/// Blocks of an append, and their size: together one segment.
const COUNT: u8 = 128;
const SIZE: usize = 64 << 10;

fn bulk(fill: u8) -> Vec<Vec<u8>> {
    (0..COUNT)
        .map(|index| [vec![index], vec![fill; SIZE - 1]].concat())
        .collect()
}

fn segment(dir: &TempDir, index: u64, fork: u64) -> PathBuf {
    dir.path().join(format!("core/segments/7-{index}-{fork}.seg"))
}

#[test]
fn what_is_appended_in_bulk_is_written_once_and_there_after_opening_again() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &bulk(1));
    append(&mut storage, 0, &bulk(2));
    append(&mut storage, 0, &[b"small".to_vec()]);
    assert_eq!(storage.sealed_segments().count(), 2);
    assert!(storage.log_bytes() < 4096, "{}", storage.log_bytes());
    let state = everything(&storage, 258);
    assert_eq!(state.1[130].as_ref().unwrap()[..], bulk(2)[2]);
    drop(storage);
    let mut storage = open(&dir);
    assert_eq!(everything(&storage, 258), state);
    assert_eq!(storage.unsynced.len(), 2, "nothing says that they are durable");
    append(&mut storage, 0, &[b"more".to_vec()]);
    storage.flush().unwrap();
    assert!(storage.unsynced.is_empty());
    let state = everything(&storage, 259);
    drop(storage);
    let storage = open(&dir);
    assert_eq!(everything(&storage, 259), state);
    assert!(storage.unsynced.is_empty());
}

#[test]
fn blocks_that_wait_in_the_log_go_into_the_segment_that_an_append_completes() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir).defer_work();
    let blocks = bulk(3);
    append(&mut storage, 0, &blocks[..50]);
    append(&mut storage, 0, &blocks[50..]);
    append(&mut storage, 0, &blocks[..70]);
    assert_eq!(storage.sealed_segments().count(), 1);
    append(&mut storage, 0, &blocks[70..]);
    assert_eq!(storage.sealed_segments().count(), 1, "the smaller part came last");
    let state = everything(&storage, 256);
    storage.flush().unwrap();
    drop(storage);
    assert_eq!(everything(&open(&dir), 256), state);
}

#[test]
fn an_append_whose_segment_a_loss_of_power_took_is_cut_with_what_came_after_it() {
    for torn in [0, 1] {
        for damage in [None, Some(0), Some(SIZE as u64), Some(8 << 20)] {
            let dir = TempDir::new().unwrap();
            let mut storage = open(&dir);
            append(&mut storage, 0, &[b"first".to_vec()]);
            truncate(&mut storage, 0);
            storage.flush().unwrap();
            let empty = everything(&storage, 256);
            append(&mut storage, 1, &bulk(1));
            let one = everything(&storage, 256);
            append(&mut storage, 1, &bulk(2));
            drop(storage);
            match damage {
                None => fs::remove_file(segment(&dir, torn, 1)).unwrap(),
                Some(length) => {
                    let file = fs::OpenOptions::new()
                        .write(true)
                        .open(segment(&dir, torn, 1))
                        .unwrap();
                    let whole = file.metadata().unwrap().len();
                    file.set_len(length).unwrap();
                    file.set_len(whole).unwrap();
                }
            }
            let storage = open(&dir);
            assert_eq!(everything(&storage, 256), if torn == 0 { empty } else { one });
            assert!(storage.cut_bytes() > 0);
            drop(storage);
            assert_eq!(open(&dir).cut_bytes(), 0);
        }
    }
}

#[test]
fn a_segment_that_was_acknowledged_and_is_gone_is_damage() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &bulk(1));
    storage.flush().unwrap();
    drop(storage);
    fs::remove_file(segment(&dir, 0, 0)).unwrap();
    let error =
        DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn a_segment_that_was_dropped_is_not_missed_where_the_mark_of_the_last_flush_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &bulk(1));
    truncate(&mut storage, 0);
    append(&mut storage, 1, &[b"kept".to_vec()]);
    let end = storage.log_bytes();
    storage.flush().unwrap();
    let state = everything(&storage, 128);
    drop(storage);
    assert!(!segment(&dir, 0, 0).exists());
    let log = fs::OpenOptions::new().write(true).open(log(&dir)).unwrap();
    log.set_len(end).unwrap();
    assert_eq!(everything(&open(&dir), 128), state);
}

#[test]
fn segments_are_made_durable_at_a_quiet_moment_and_their_failure_closes_the_storage() {
    let dir = TempDir::new().unwrap();
    let faults = Faults::recording();
    let options = DiskOptions {
        files: Files::with_faults(8, faults.clone()),
        ..DiskOptions::default()
    };
    let storage = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap();
    let mut storage = storage.defer_work();
    append(&mut storage, 0, &bulk(1));
    assert!(storage.take_work(false).is_none());
    let mut work = storage.take_work(true).unwrap();
    append(&mut storage, 0, &bulk(2));
    work.run();
    storage.end_work(work);
    assert_eq!(storage.unsynced.len(), 1);
    faults.fail_syncs();
    let mut work = storage.take_work(true).unwrap();
    work.run();
    storage.end_work(work);
    assert!(matches!(
        storage.apply(Changes::default()),
        Err(StorageError::Closed)
    ));
}
