//! The disk storage: what it keeps over an opening, a torn or damaged log, sealed segments.

#![allow(clippy::single_range_in_vec_init)] // one cleared range is what is meant

use tempfile::TempDir;

use super::log::{HEADER_BYTES, RECORD_BYTES};
use super::*;
use crate::storage::MemoryStorage;

mod direct;
mod full_disk;
mod golden;
mod model;
mod remains;

const DISCOVERY_KEY: Hash = [5; 32];

/// Seals and compacts whenever there is anything to seal or compact.
const EAGER: Limits = Limits {
    seal_bytes: 0,
    spill_bytes: 0,
    spill_min_bytes: 8,
    seal_nodes: 0,
    dead_bytes: 64,
    direct_bytes: u64::MAX,
};

pub(super) fn open(dir: &TempDir) -> DiskStorage {
    DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()).unwrap()
}

fn log(dir: &TempDir) -> PathBuf {
    dir.path().join("core/head.log")
}

/// Appends blocks as a core does: leaf, parents, head.
pub(super) fn append(storage: &mut dyn Storage, fork: u64, blocks: &[Vec<u8>]) {
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

/// What appending these blocks changes.
fn appended(storage: &MemoryStorage, blocks: &[Vec<u8>]) -> Changes {
    let mut copy = storage.clone();
    let fork = storage.head().fork;
    append(&mut copy, fork, blocks);
    let length = storage.head().length;
    let mut changes = Changes {
        head: Some(copy.head().clone()),
        ..Changes::default()
    };
    for node in 0..2 * copy.head().length {
        if let Some(node) = copy
            .node(node)
            .unwrap()
            .filter(|node| flat_tree::end_block(node.index) > length)
        {
            changes.nodes.push(node);
        }
    }
    changes.blocks = (length..).zip(blocks.iter().cloned().map(Bytes::from)).collect();
    changes
}

pub(super) fn truncate(storage: &mut dyn Storage, length: u64) {
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

/// The head, blocks, nodes and user data.
type State = (
    Head,
    Vec<Option<Bytes>>,
    Vec<Option<Node>>,
    BTreeMap<String, Bytes>,
);

/// Everything that can be asked of a storage of up to `length` blocks.
pub(super) fn everything(storage: &dyn Storage, length: u64) -> State {
    let blocks = (0..length).map(|i| storage.block(i).unwrap()).collect();
    let nodes = (0..2 * length).map(|i| storage.node(i).unwrap()).collect();
    (storage.head().clone(), blocks, nodes, storage.user_data().clone())
}

fn keep(storage: &mut dyn Storage, name: &str, value: Option<&[u8]>) {
    let user_data = vec![(name.to_owned(), value.map(Bytes::copy_from_slice))];
    storage
        .apply(Changes {
            user_data,
            ..Changes::default()
        })
        .unwrap();
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
        keep(
            &mut storage,
            ["a", "b"][usize::from(i % 2)],
            (i != 4).then_some(&[i; 9]),
        );
        states.push((storage.log_bytes(), everything(&storage, 6)));
    }
    drop(storage);
    let whole = fs::read(log(&dir)).unwrap();
    for end in HEADER_BYTES as usize..=whole.len() {
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
fn a_changed_byte_that_was_durable_is_an_error_that_names_the_place_and_nothing_is_cut() {
    let dir = TempDir::new().unwrap();
    let mut storage = open(&dir);
    append(&mut storage, 0, &[vec![1; 50]]);
    storage.flush().unwrap();
    let first_end = storage.durable_bytes;
    append(&mut storage, 0, &[vec![2; 50]]);
    drop(storage);
    let whole = fs::read(log(&dir)).unwrap();
    for position in HEADER_BYTES as usize..first_end as usize {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(log(&dir), &changed).unwrap();
        // The bytes of a durable block are checked when it is read, so that opening need not read all blocks.
        let error = match DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, DiskOptions::default()) {
            Err(error) => error,
            Ok(storage) => storage.block(0).unwrap_err(),
        };
        assert!(
            matches!(error, StorageError::Damaged { offset, .. } if (HEADER_BYTES..=position as u64).contains(&offset)),
            "{position}: {error}"
        );
        assert_eq!(fs::read(log(&dir)).unwrap(), changed, "nothing is cut");
        let options = DiskOptions {
            salvage: true,
            ..DiskOptions::default()
        };
        let mut salvaged = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap();
        if salvaged.closed {
            assert!(matches!(
                salvaged.apply(Changes::default()),
                Err(StorageError::Closed)
            ));
        }
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
    bytes[(HEADER_BYTES + RECORD_BYTES) as usize + 9] ^= 1;
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
                fs::remove_file(&path).unwrap();
            } else {
                fs::write(&path, [1; 50]).unwrap();
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
        ..DiskOptions::default()
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
    assert!(
        cores
            .iter()
            .all(|storage| storage.block(1).unwrap() == Some(vec![1; 100].into()))
    );
    assert!(options.files.open_count() <= 8);
}
#[test]
fn a_sparse_core_spills_what_it_holds_and_its_log_stays_bounded() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        seal_bytes: 1 << 16,
        spill_bytes: 1 << 17,
        spill_min_bytes: 1 << 12,
        ..Limits::default()
    };
    let limits = Limits {
        dead_bytes: 1 << 16,
        ..limits
    };
    let options = DiskOptions {
        limits,
        ..DiskOptions::default()
    };
    let path = dir.path().join("core");
    let mut disk = DiskStorage::open(&path, DISCOVERY_KEY, options.clone()).unwrap();
    let mut source = MemoryStorage::new();
    append(
        &mut source,
        0,
        &(0..256_u32).map(|i| vec![i as u8; 4096]).collect::<Vec<_>>(),
    );
    let head = Some(source.head().clone());
    let roots = flat_tree::roots(256)
        .map(|root| source.node(root).unwrap().unwrap())
        .collect();
    disk.apply(Changes {
        head,
        nodes: roots,
        ..Changes::default()
    })
    .unwrap();
    // Three blocks of every four, so that no subtree above two blocks is ever whole.
    for index in (0..256).filter(|index| index % 4 != 3) {
        let mut changes = Changes {
            blocks: vec![(index, source.block(index).unwrap().unwrap())],
            ..Changes::default()
        };
        let mut node = 2 * index;
        while flat_tree::end_block(node) <= 256 && node != 255 {
            changes
                .nodes
                .extend([node, flat_tree::sibling(node)].map(|node| source.node(node).unwrap().unwrap()));
            node = flat_tree::parent(node);
        }
        disk.apply(changes).unwrap();
        assert!(disk.log_bytes() < 1 << 19, "{}", disk.log_bytes());
    }
    assert!(disk.maintenance_error().is_none());
    assert!(disk.sealed_segments().count() > 40);
    for index in 0..256 {
        let expected = if index % 4 == 3 {
            None
        } else {
            source.block(index).unwrap()
        };
        assert_eq!(disk.block(index).unwrap(), expected);
    }
    for index in (3..256).step_by(4) {
        let block = source.block(index).unwrap().unwrap();
        disk.apply(Changes {
            blocks: vec![(index, block)],
            ..Changes::default()
        })
        .unwrap();
    }
    // What was sealed piece by piece grows together.
    assert!(disk.sealed_segments().any(|id| id.level >= 4));
    disk.flush().unwrap();
    drop(disk);
    let disk = DiskStorage::open(&path, DISCOVERY_KEY, options).unwrap();
    assert_eq!(everything(&disk, 256), everything(&source, 256));
}

#[test]
fn a_changed_bit_of_a_segment_is_told_and_not_served() {
    let (dir, storage) = large(None);
    let id = storage.sealed_segments().next().unwrap();
    let path = fs::read_dir(dir.path().join("core/segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let path = path
        .into_iter()
        .find(|path| path.ends_with(format!("{}-{}-0.seg", id.level, id.index)))
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let results: Vec<_> = id.blocks().map(|index| storage.block(index)).collect();
    let damaged = results
        .iter()
        .filter(|result| matches!(result, Err(StorageError::Damaged { .. })))
        .count();
    assert_eq!(damaged, 1);
    assert_eq!(results.iter().flatten().flatten().count(), results.len() - 1);
}

#[test]
fn more_nodes_and_blocks_than_one_array_of_the_protocol_may_have_come_back() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        seal_nodes: usize::MAX,
        ..Limits::default()
    };
    let options = DiskOptions {
        limits,
        ..DiskOptions::default()
    };
    let mut storage = DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap();
    let nodes = (0..1_100_000)
        .map(|index| Node {
            index,
            size: 1,
            hash: [1; 32],
        })
        .collect();
    let head = Some(Head {
        fork: 0,
        length: 550_000,
        signature: None,
    });
    storage
        .apply(Changes {
            nodes,
            head,
            ..Changes::default()
        })
        .unwrap();
    storage.compact().unwrap();
    drop(storage);
    assert_eq!(open(&dir).node(1_099_999).unwrap().map(|node| node.size), Some(1));
}
