//! Sequences of changes, with crashes, against the storage in memory.

use proptest::prelude::*;

use super::*;

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
        steps in proptest::collection::vec(step(), 1..25), eager: bool, direct: bool,
    ) {
        let dir = TempDir::new().unwrap();
        let open = |dir: &TempDir| {
            let limits = if eager { EAGER } else { Limits::default() };
            let limits = Limits { direct_bytes: if direct { 8 } else { u64::MAX }, ..limits };
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
