//! A core's signed head without its blocks can be taken over, a changed one can't; and a reader that seals eagerly keeps what
//! it was given.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::core::{AdoptError, Core, HeadStateError};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::segment::{ContentCipher, Place, SegmentId, decode, encode};
use cumulet_hypercore::storage::{DiskOptions, DiskStorage, ImportedSegment, Limits, MemoryStorage, Storage};
use proptest::prelude::*;
use tempfile::TempDir;

fn block(seed: u64) -> Bytes {
    Bytes::from(vec![seed as u8; 1 + (seed % 700) as usize])
}

fn writer<S: Storage>(storage: S, length: u64) -> Core<S> {
    let pair = KeyPair::from_seed(&[5; 32]);
    let mut core = Core::create(storage, Manifest::single(pair.public_key()), Some(pair)).unwrap();
    core.append_batch((0..length).map(block).collect()).unwrap();
    core
}

fn disk(dir: &TempDir, cipher: Option<ContentCipher>) -> DiskStorage {
    let limits = Limits {
        seal_bytes: 1 << 12,
        spill_bytes: 1 << 13,
        spill_min_bytes: 64,
        seal_nodes: 64,
        dead_bytes: 4096,
        direct_bytes: u64::MAX,
    };
    let key = *writer(MemoryStorage::new(), 0).discovery_key();
    let options = DiskOptions {
        cipher,
        limits,
        ..DiskOptions::default()
    };
    DiskStorage::open(dir.path(), key, options).unwrap()
}

#[test]
fn a_core_given_as_a_head_and_segments_is_whole_whether_the_segments_are_encrypted_as_the_store_is_or_not() {
    let origin = writer(MemoryStorage::new(), 60);
    let segments: Vec<SegmentId> = [(5, 0), (4, 2), (3, 6), (2, 14)]
        .into_iter()
        .map(|(level, index)| SegmentId { level, index })
        .collect();
    let ciphers = [None, Some(ContentCipher::new(&[3; 32]))];
    for (given, own) in ciphers
        .iter()
        .flat_map(|given| ciphers.iter().map(move |own| (given, own)))
    {
        let dir = TempDir::new().unwrap();
        let mut restored = Core::open(disk(&dir, own.clone()), *origin.key()).unwrap();
        assert!(
            restored
                .adopt_head(origin.head_state(&segments).unwrap().unwrap())
                .unwrap()
        );
        for id in segments.iter().copied() {
            let place = Place {
                discovery_key: *origin.discovery_key(),
                fork: 0,
                id,
            };
            let blocks: Vec<Bytes> = id.blocks().map(block).collect();
            let bytes = encode(&place, given.as_ref(), &blocks).unwrap().bytes;
            let decoded = decode(&bytes, &place, given.as_ref()).unwrap();
            assert_eq!(Some(decoded.root), restored.node(id.node()).unwrap());
            let as_file = given == own;
            restored
                .storage_mut()
                .import(ImportedSegment {
                    place,
                    bytes: as_file.then(|| bytes.clone()),
                    decoded,
                })
                .unwrap();
            if as_file {
                let stored = restored.storage().sealed_segment(id).unwrap();
                assert_eq!(stored, Some((0, bytes)), "the same bytes again");
            }
        }
        restored.flush().unwrap();
        let restored = Core::open(disk(&dir, own.clone()), *origin.key()).unwrap();
        assert_eq!(restored.contiguous_length(), 60);
        assert_eq!(restored.roots(), origin.roots());
        for index in 0..60 {
            assert_eq!(restored.get(index).unwrap(), Some(block(index)));
            let request = Request {
                block: Some(RequestBlock { index, nodes: 3 }),
                ..Request::default()
            };
            let proof = origin.create_proof(&request);
            assert_eq!(restored.create_proof(&request).ok(), proof.ok());
        }
    }
}

#[test]
fn a_changed_head_is_refused() {
    let origin = writer(MemoryStorage::new(), 13);
    let segments = [SegmentId { level: 0, index: 2 }, SegmentId { level: 1, index: 4 }];
    let good = origin.head_state(&segments).unwrap().unwrap();
    assert!(good.verify(origin.key()).is_ok());
    assert_eq!(good.verify(&[9; 32]), Err(HeadStateError::Manifest));
    for node in 0..good.nodes.len() {
        let mut bad = good.clone();
        bad.nodes[node].hash[0] ^= 1;
        assert!(matches!(
            bad.verify(origin.key()),
            Err(HeadStateError::Disconnected { .. })
        ));
        let mut bad = good.clone();
        bad.nodes.remove(node);
        assert!(matches!(
            bad.verify(origin.key()),
            Err(HeadStateError::Disconnected { .. })
        ));
    }
    let mut bad = good.clone();
    bad.roots[0].size += 1;
    assert!(matches!(
        bad.verify(origin.key()),
        Err(HeadStateError::Signature(_))
    ));
    let mut bad = good;
    bad.fork = 1;
    assert!(matches!(
        bad.verify(origin.key()),
        Err(HeadStateError::Signature(_))
    ));
}

#[test]
fn a_head_never_takes_a_core_back_nor_onto_another_tree() {
    let mut core = writer(MemoryStorage::new(), 6);
    let older = core.head_state(&[]).unwrap().unwrap();
    core.append_batch((6..11).map(block).collect()).unwrap();
    assert!(!core.adopt_head(older).unwrap());
    assert_eq!(core.length(), 11);
    let mut forked = writer(MemoryStorage::new(), 3);
    forked.append_batch((70..78).map(block).collect()).unwrap();
    let other = forked.head_state(&[]).unwrap().unwrap();
    assert!(matches!(
        core.adopt_head(other),
        Err(AdoptError::Conflict { length: 11, .. })
    ));
    forked.append(block(1)).unwrap();
    let longer = forked.head_state(&[]).unwrap().unwrap();
    assert!(matches!(core.adopt_head(longer), Err(AdoptError::NotConnected)));
    let mut same = writer(MemoryStorage::new(), 6);
    core.append(block(11)).unwrap();
    let cut = [SegmentId { level: 2, index: 0 }, SegmentId { level: 1, index: 2 }];
    assert!(same.adopt_head(core.head_state(&cut).unwrap().unwrap()).unwrap());
    assert_eq!(same.roots(), core.roots());
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Fetch(u64),
    Truncate(u64),
    Clear(u64, u64),
    Ship,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..30u64).prop_map(Step::Append),
        4 => any::<u64>().prop_map(Step::Fetch),
        1 => any::<u64>().prop_map(Step::Truncate),
        1 => (any::<u64>(), 1..40u64).prop_map(|(start, count)| Step::Clear(start, count)),
        1 => Just(Step::Ship),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// A writer in memory and a sparse reader on disk that seals eagerly: whatever happens, what the reader holds is what
    /// the writer wrote, and it can prove it.
    #[test]
    fn a_sparse_reader_on_disk_equals_the_writer(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = TempDir::new().unwrap();
        let mut writer = writer(MemoryStorage::new(), 5);
        let key = *writer.key();
        let mut reader = Core::open(disk(&dir, None), key).unwrap();
        let upgrade = |writer: &Core<MemoryStorage>, start: u64| {
            let upgrade = Some(RequestUpgrade { start, length: writer.length() - start });
            let request = Request { fork: writer.fork(), upgrade, manifest: true, ..Request::default() };
            writer.create_proof(&request).unwrap()
        };
        reader.verify_and_apply(upgrade(&writer, 0)).unwrap();
        for step in steps {
            match step {
                Step::Append(count) => {
                    let start = writer.length();
                    writer.append_batch((start..start + count).map(block).collect()).unwrap();
                    reader.verify_and_apply(upgrade(&writer, start)).unwrap();
                }
                Step::Fetch(seed) => for offset in 0..6 {
                    let index = (seed % writer.length() + offset) % writer.length();
                    let nodes = reader.missing_nodes(index).unwrap();
                    let block = Some(RequestBlock { index, nodes });
                    let request = Request { fork: writer.fork(), block, ..Request::default() };
                    reader.verify_and_apply(writer.create_proof(&request).unwrap()).unwrap();
                }
                Step::Truncate(seed) => {
                    let length = 1 + seed % writer.length();
                    writer.truncate(length, None).unwrap();
                    // Signed state of a core that was cut: the reader follows by a reorganisation.
                    let mut reorg = reader.begin_reorg(&upgrade(&writer, 0)).unwrap();
                    while let Some(want) = reorg.want().cloned() {
                        let hash = cumulet_hypercore::messages::RequestHash { index: 2 * want.blocks.start, nodes: want.nodes };
                        let request = Request { fork: writer.fork(), hash: Some(hash), ..Request::default() };
                        reader.continue_reorg(&mut reorg, &writer.create_proof(&request).unwrap()).unwrap();
                    }
                    reader.apply_reorg(reorg).unwrap();
                }
                Step::Clear(seed, count) => {
                    let start = seed % writer.length();
                    reader.clear(start..start + count).unwrap();
                }
                Step::Ship => for id in reader.storage().sealed_segments().collect::<Vec<_>>() {
                    let Some((fork, bytes)) = reader.storage().sealed_segment(id).unwrap() else { continue };
                    let place = Place { discovery_key: *reader.discovery_key(), fork, id };
                    let again = decode(&bytes, &place, None).unwrap();
                    prop_assert_eq!(Some(again.root), writer.node(id.node()).unwrap());
                }
                Step::Reopen => {
                    reader.flush().unwrap();
                    drop(reader);
                    reader = Core::open(disk(&dir, None), key).unwrap();
                }
            }
            prop_assert!(reader.storage().maintenance_error().is_none());
            prop_assert_eq!(reader.roots(), writer.roots());
            for index in 0..writer.length() {
                if let Some(held) = reader.get(index).unwrap() {
                    prop_assert_eq!(Some(held), writer.get(index).unwrap());
                    let nodes = reader.missing_nodes(index).unwrap();
                    prop_assert!(nodes == 0, "the leaf of a held block is held");
                }
            }
        }
    }
}
