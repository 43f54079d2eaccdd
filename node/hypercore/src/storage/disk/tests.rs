//! The disk storage against the one in memory, with crashes at every byte.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::storage::MemoryStorage;

const DISCOVERY_KEY: Hash = [5; 32];

fn open(dir: &TempDir) -> DiskStorage {
    DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap()
}

fn log(dir: &TempDir) -> PathBuf {
    dir.path().join("core/head.log")
}

/// Appends blocks as a core does: leaf, parents, head.
fn append(storage: &mut dyn Storage, fork: u64, blocks: &[Vec<u8>]) {
    let length = storage.head().length;
    let roots = flat_tree::roots(length)
        .map(|root| storage.node(root).unwrap().unwrap())
        .collect();
    let mut roots = crate::roots::Roots::from_nodes(length, roots).unwrap();
    let mut changes = Changes::default();
    for (index, block) in (length..).zip(blocks) {
        roots.push(Node::leaf(index, block), &mut changes.nodes).unwrap();
        changes.blocks.push((index, Bytes::from(block.clone())));
    }
    let signature = Some(Bytes::from(vec![roots.length() as u8; 68]));
    changes.head = Some(Head {
        fork,
        length: roots.length(),
        signature,
    });
    storage.apply(changes).unwrap();
}

fn truncate(storage: &mut dyn Storage, length: u64) {
    let fork = storage.head().fork + 1;
    let head = Some(Head {
        fork,
        length,
        signature: None,
    });
    storage
        .apply(Changes {
            truncate: Some(length),
            head,
            ..Changes::default()
        })
        .unwrap();
}

/// Everything that can be asked of a storage of up to `length` blocks.
fn everything(storage: &dyn Storage, length: u64) -> (Head, Vec<Option<Bytes>>, Vec<Option<Node>>) {
    let blocks = (0..length).map(|i| storage.block(i).unwrap()).collect();
    let nodes = (0..2 * length).map(|i| storage.node(i).unwrap()).collect();
    (storage.head().clone(), blocks, nodes)
}

#[test]
fn flushed_changes_are_there_after_opening_again() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &[b"one".to_vec(), Vec::new(), vec![3; 70_000]]);
    storage.flush().unwrap();
    let before = everything(&storage, 4);
    drop(storage);
    assert_eq!(everything(&open(&dir), 4), before);
    assert_eq!(before.1[1], Some(Bytes::new()));
}

#[test]
fn a_log_torn_at_any_byte_opens_with_a_prefix_of_the_changes_and_keeps_what_it_cut() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    let mut states = vec![(storage.log_bytes(), everything(&storage, 6))];
    for i in 0..6_u8 {
        append(&mut storage, 0, &[vec![i; usize::from(i) * 7]]);
        states.push((storage.log_bytes(), everything(&storage, 6)));
    }
    drop(storage);
    let whole = fs::read(log(&dir)).unwrap();
    for end in FILE_HEADER_BYTES..=whole.len() {
        fs::write(log(&dir), &whole[..end]).unwrap();
        let storage = open(&dir);
        let (length, state) = states
            .iter()
            .rev()
            .find(|(bytes, _)| *bytes <= end as u64)
            .unwrap();
        assert_eq!(everything(&storage, 6), *state, "torn at {end}");
        assert_eq!(storage.cut_bytes(), end as u64 - length);
        drop(storage);
        assert_eq!(fs::metadata(log(&dir)).unwrap().len(), *length);
    }
}

#[test]
fn a_changed_byte_that_was_durable_is_an_error_that_names_the_record() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &[vec![1; 50]]);
    let first_end = storage.log_bytes();
    storage.flush().unwrap();
    append(&mut storage, 0, &[vec![2; 50]]);
    drop(storage);
    let whole = fs::read(log(&dir)).unwrap();
    for position in FILE_HEADER_BYTES..first_end as usize {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(log(&dir), &changed).unwrap();
        let error =
            DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap_err();
        let expected = FILE_HEADER_BYTES as u64;
        assert!(
            matches!(error, StorageError::Damaged { offset, .. } if offset == expected),
            "{position}: {error}"
        );
        assert_eq!(fs::read(log(&dir)).unwrap(), changed, "nothing is cut");
    }
}

#[test]
fn a_damaged_byte_of_a_compacted_log_is_found() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &[vec![1; 50], vec![2; 50]]);
    storage.flush().unwrap();
    storage.compact().unwrap();
    drop(storage);
    let mut bytes = fs::read(log(&dir)).unwrap();
    bytes[FILE_HEADER_BYTES + RECORD_HEADER_BYTES + 9] ^= 1;
    fs::write(log(&dir), bytes).unwrap();
    let error =
        DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn the_log_of_another_core_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let error = DiskStorage::open(&dir.path().join("core"), [6; 32], DiskOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
}

/// 40 blocks of 1 MiB: several segments of 8 MiB are settled.
fn large(cipher: Option<ContentCipher>) -> (TempDir, DiskStorage) {
    let dir = TempDir::new().unwrap();
    let options = DiskOptions {
        cipher,
        ..DiskOptions::default()
    };
    let mut storage = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap();
    for i in 0..40_u8 {
        append(&mut storage, 0, &[vec![i; 1 << 20]]);
        storage.flush().unwrap();
    }
    (dir, storage)
}

#[test]
fn settled_segments_leave_the_log_and_everything_stays_readable() {
    for cipher in [None, Some(ContentCipher::new(&[3; 32]))] {
        let (dir, storage) = large(cipher.clone());
        assert!(storage.sealed_segments().count() >= 2);
        assert!(storage.log_bytes() < 32 << 20, "{}", storage.log_bytes());
        let state = everything(&storage, 41);
        assert!((0..40).all(|i| state.1[i as usize].as_ref().unwrap()[..] == vec![i; 1 << 20][..]));
        drop(storage);
        let options = DiskOptions {
            cipher,
            ..DiskOptions::default()
        };
        let storage = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap();
        assert_eq!(everything(&storage, 41), state);
    }
}

#[test]
fn a_truncation_through_a_sealed_segment_keeps_the_blocks_before_it() {
    let (dir, mut storage) = large(None);
    truncate(&mut storage, 3);
    append(&mut storage, 1, &[b"new".to_vec()]);
    storage.flush().unwrap();
    let state = everything(&storage, 41);
    assert_eq!(state.1.iter().flatten().count(), 4);
    drop(storage);
    let storage = open(&dir);
    assert_eq!(everything(&storage, 41), state);
    assert_eq!(fs::read_dir(dir.path().join("core/segments")).unwrap().count(), 0);
}

#[test]
fn blocks_cleared_in_a_sealed_segment_stay_cleared_through_compaction_and_opening() {
    let (dir, mut storage) = large(None);
    storage
        .apply(Changes {
            clear: vec![2..5, 30..90],
            ..Changes::default()
        })
        .unwrap();
    storage.flush().unwrap();
    storage.compact().unwrap();
    let state = everything(&storage, 41);
    assert_eq!(state.1.iter().flatten().count(), 40 - 3 - 10);
    drop(storage);
    assert_eq!(everything(&open(&dir), 41), state);
}

#[test]
fn a_lost_or_damaged_tree_file_is_made_again() {
    let (dir, storage) = large(None);
    let state = everything(&storage, 41);
    drop(storage);
    for (i, entry) in fs::read_dir(dir.path().join("core/segments"))
        .unwrap()
        .enumerate()
    {
        let path = entry.unwrap().path();
        if path.extension().unwrap() == "tree" {
            if i % 2 == 0 {
                fs::remove_file(&path).unwrap()
            } else {
                fs::write(&path, [1; 50]).unwrap()
            }
        }
    }
    assert_eq!(everything(&open(&dir), 41), state);
}

#[test]
fn a_lost_segment_file_is_damage_and_not_forgotten() {
    let (dir, storage) = large(None);
    drop(storage);
    let segments = fs::read_dir(dir.path().join("core/segments")).unwrap();
    let path = segments
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().unwrap() == "seg");
    fs::remove_file(path.unwrap()).unwrap();
    let error =
        DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn a_few_descriptors_are_enough_for_many_cores() {
    let dir = TempDir::new().unwrap();
    let options = DiskOptions {
        files: Files::new(8),
        cipher: None,
    };
    let mut cores: Vec<_> = (0..100_u8)
        .map(|i| DiskStorage::open(&dir.path().join(i.to_string()), [i; 32], options.clone()).unwrap())
        .collect();
    for round in 0..2_u8 {
        for storage in &mut cores {
            append(storage, 0, &[vec![round; 100]]);
            storage.flush().unwrap();
        }
    }
    let before = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(
        cores
            .iter()
            .all(|storage| storage.block(1).unwrap() == Some(vec![1; 100].into()))
    );
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() <= before + 8);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Truncate(prop::sample::Index),
    Clear(prop::sample::Index, u64),
    Flush,
    Seal,
    Compact,
    /// The end of the log that is not synced is lost from some byte on.
    Crash(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6).prop_map(Step::Append),
        1 => any::<prop::sample::Index>().prop_map(Step::Truncate),
        1 => (any::<prop::sample::Index>(), 1_u64..5).prop_map(|(index, length)| Step::Clear(index, length)),
        2 => Just(Step::Flush),
        1 => Just(Step::Seal),
        1 => Just(Step::Compact),
        1 => any::<prop::sample::Index>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_with_crashes_equals_the_model(steps in proptest::collection::vec(step(), 1..25)) {
        let dir = TempDir::new().unwrap();
        let mut disk = open(&dir);
        let mut model = MemoryStorage::new();
        // States that a crash may lead back to, with the log's length behind them.
        let mut undurable = vec![(disk.log_bytes(), model.clone())];
        for step in steps {
            match step {
                Step::Append(blocks) => {
                    let fork = model.head().fork;
                    append(&mut disk, fork, &blocks);
                    append(&mut model, fork, &blocks);
                }
                Step::Truncate(index) if model.head().length > 0 => {
                    let length = index.index(model.head().length as usize) as u64;
                    truncate(&mut disk, length);
                    truncate(&mut model, length);
                }
                Step::Clear(index, count) => {
                    let start = index.index(model.head().length as usize + 1) as u64;
                    let changes = Changes { clear: vec![start..start + count], ..Changes::default() };
                    disk.apply(changes.clone()).unwrap();
                    model.apply(changes).unwrap();
                }
                Step::Flush => disk.flush().unwrap(),
                Step::Seal => {
                    disk.flush().unwrap();
                    disk.seal_settled().unwrap();
                    disk.flush().unwrap();
                }
                Step::Compact => {
                    disk.flush().unwrap();
                    disk.compact().unwrap();
                    undurable.clear();
                }
                Step::Crash(index) => {
                    let (durable, end) = (disk.durable_bytes, disk.log_bytes);
                    drop(disk);
                    let keep = durable + index.index((end - durable) as usize + 1) as u64;
                    OpenOptions::new().write(true).open(log(&dir)).unwrap().set_len(keep).unwrap();
                    disk = open(&dir);
                    model = undurable.iter().rev().find(|(bytes, _)| *bytes <= keep).unwrap().1.clone();
                    undurable.clear();
                }
                Step::Truncate(_) => {}
            }
            undurable.push((disk.log_bytes(), model.clone()));
            prop_assert_eq!(everything(&disk, 60), everything(&model, 60));
        }
        drop(disk);
        prop_assert_eq!(everything(&open(&dir), 60), everything(&model, 60));
    }
}
