//! The disk storage against the one in memory, with crashes at every byte.

#![allow(clippy::single_range_in_vec_init)] // one cleared range is what is meant

use proptest::prelude::*;
use tempfile::TempDir;

use super::log::{HEADER_BYTES, RECORD_BYTES};
use super::*;
use crate::storage::MemoryStorage;

const DISCOVERY_KEY: Hash = [5; 32];

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

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Truncate(prop::sample::Index),
    Clear(prop::sample::Index, u64),
    Keep(String, Option<Vec<u8>>),
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
        1 => ("[ab]", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)))
            .prop_map(|(name, value)| Step::Keep(name, value)),
        2 => Just(Step::Flush),
        1 => Just(Step::Seal),
        1 => Just(Step::Compact),
        1 => any::<prop::sample::Index>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_with_crashes_equals_the_model(
        steps in proptest::collection::vec(step(), 1..25), eager: bool,
    ) {
        let dir = TempDir::new().unwrap();
        let open = |dir: &TempDir| {
            let limits = if eager { EAGER } else { Limits::default() };
            let options = DiskOptions { limits, ..DiskOptions::default() };
            DiskStorage::open(&dir.path().join("core"), DISCOVERY_KEY, options).unwrap()
        };
        let mut disk = open(&dir);
        let mut generation = disk.generation;
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
                Step::Keep(name, value) => {
                    keep(&mut disk, &name, value.as_deref());
                    keep(&mut model, &name, value.as_deref());
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
                    fs::OpenOptions::new().write(true).open(log(&dir)).unwrap().set_len(keep).unwrap();
                    disk = open(&dir);
                    // Sealing writes its own record behind the changes that led to it, so a cut between the two leaves
                    // the newer state.
                    let older = undurable.iter().rposition(|(bytes, _)| *bytes <= keep).unwrap();
                    let found = everything(&disk, 60);
                    let possible = &undurable[older..undurable.len().min(older + 2)];
                    let matching = possible.iter().find(|(_, model)| everything(model, 60) == found);
                    prop_assert!(matching.is_some(), "the log was cut at {keep}: {:?}", found.0);
                    model = matching.unwrap().1.clone();
                    undurable.clear();
                }
                Step::Truncate(_) => {}
            }
            prop_assert!(disk.maintenance_error().is_none());
            if std::mem::replace(&mut generation, disk.generation) != disk.generation {
                undurable.clear();
            }
            undurable.push((disk.log_bytes(), model.clone()));
            prop_assert_eq!(everything(&disk, 60), everything(&model, 60));
        }
        drop(disk);
        prop_assert_eq!(everything(&open(&dir), 60), everything(&model, 60));
    }
}

/// Seals and compacts whenever there is anything to seal or compact.
const EAGER: Limits = Limits {
    seal_bytes: 0,
    spill_bytes: 0,
    spill_min_bytes: 8,
    seal_nodes: 0,
    dead_bytes: 64,
};

/// A core's life, with the states it went through. Ends early when the storage stops; tells whether it did.
fn live(storage: &mut DiskStorage, states: &mut Vec<State>) -> Result<(), StorageError> {
    let mut model = MemoryStorage::new();
    for round in 0..9_u8 {
        let blocks: Vec<Vec<u8>> = (0..=round % 3)
            .map(|i| vec![round * 7 + i; 3 + usize::from(round)])
            .collect();
        let mut changes = appended(&model, &blocks);
        changes.user_data = vec![(format!("n{}", round % 2), Some(Bytes::from(vec![round; 5])))];
        if round == 4 {
            changes = Changes {
                truncate: Some(5),
                head: Some(Head {
                    fork: 1,
                    length: 5,
                    signature: None,
                }),
                ..Changes::default()
            };
        }
        if round == 3 {
            changes.clear = vec![0..2];
        }
        model.apply(changes.clone())?;
        states.push(everything(&model, 20));
        storage.apply(changes)?;
        storage.flush()?;
        states.drain(..states.len() - 1);
    }
    Ok(())
}

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

#[test]
fn stopping_at_any_file_operation_loses_nothing_that_was_flushed_and_invents_nothing() {
    let mut operations = 0;
    loop {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("core");
        let faults = Faults::after(operations);
        let files = Files::with_faults(8, faults.clone());
        let options = DiskOptions {
            files,
            limits: EAGER,
            ..DiskOptions::default()
        };
        let mut states = vec![everything(&MemoryStorage::new(), 20)];
        let ended = DiskStorage::open(&path, DISCOVERY_KEY, options)
            .and_then(|mut storage| live(&mut storage, &mut states));
        let options = DiskOptions {
            limits: EAGER,
            ..DiskOptions::default()
        };
        let storage = DiskStorage::open(&path, DISCOVERY_KEY, options)
            .unwrap_or_else(|error| panic!("after {operations} operations: {error}"));
        let state = everything(&storage, 20);
        assert!(states.contains(&state), "after {operations} operations");
        if !faults.hit() {
            ended.unwrap();
            assert!(storage.sealed_segments().count() > 0);
            assert_eq!(state, *states.last().unwrap());
            break;
        }
        operations += 1;
    }
    assert!(
        operations > 100,
        "the life is too short to prove anything: {operations} operations"
    );
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

/// A storage that seals and compacts whenever it can.
fn eager(dir: &TempDir) -> DiskStorage {
    let limits = Limits {
        seal_bytes: 0,
        spill_bytes: 0,
        spill_min_bytes: 1,
        seal_nodes: 0,
        dead_bytes: 64,
    };
    let options = DiskOptions {
        limits,
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
