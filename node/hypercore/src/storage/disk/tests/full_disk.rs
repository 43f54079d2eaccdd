//! A disk that has no room: what could not be written whole takes none of it.

use super::*;

/// The files whose writing was begun and not ended.
fn unfinished(dir: &TempDir) -> Vec<PathBuf> {
    let core = dir.path().join("core");
    let files = [core.clone(), core.join("segments")].into_iter();
    let files = files.flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    files
        .filter(|path| path.extension().is_some_and(|kind| kind == "tmp"))
        .collect()
}

/// A core that seals and compacts with every change, on a disk that is full after some operations.
fn filled_after(dir: &TempDir, operations: i64) -> (Arc<Faults>, Option<DiskStorage>) {
    let faults = Faults::with(Fault::NoSpace, operations);
    let options = DiskOptions {
        files: Files::with_faults(8, faults.clone()),
        limits: EAGER,
        ..DiskOptions::default()
    };
    let storage = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options);
    (faults, storage.ok())
}

#[test]
fn nothing_is_left_of_what_a_full_disk_did_not_take_whole() {
    let (mut operations, mut refused) = (0, 0);
    loop {
        let dir = TempDir::new().unwrap();
        let (faults, storage) = filled_after(&dir, operations);
        let mut model = MemoryStorage::new();
        if let Some(mut storage) = storage {
            for fill in 0..6_u8 {
                let changes = appended(&model, &[vec![fill; 90], vec![fill; 9]]);
                if storage.apply(changes.clone()).is_ok() {
                    model.apply(changes).unwrap();
                }
                refused += usize::from(storage.maintenance_error().is_some());
                assert!(unfinished(&dir).is_empty(), "after {operations} operations");
                assert_eq!(everything(&storage, 12), everything(&model, 12));
            }
        }
        assert!(unfinished(&dir).is_empty(), "after {operations} operations");
        if !faults.hit() {
            break;
        }
        operations += 1;
    }
    assert!(
        refused > 20,
        "only {refused} sealings or compactions were refused"
    );
}

#[test]
fn nothing_is_left_of_segments_that_were_written_and_not_made_durable() {
    let dir = TempDir::new().unwrap();
    let (faults, storage) = filled_after(&dir, i64::MAX);
    let mut storage = storage.unwrap().defer_work();
    for fill in 0..40_u8 {
        append(&mut storage, 0, &[vec![fill; 100]]);
    }
    let mut work = storage.take_work(true).unwrap();
    faults.fail_syncs();
    work.run();
    storage.end_work(work);
    assert!(storage.maintenance_error().is_some());
    assert!(unfinished(&dir).is_empty());
}
