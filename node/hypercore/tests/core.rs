//! What a core promises its owner and its readers.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::core::{Core, SeekResult, VerifyError, WriteError};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::{Manifest, Prologue};
use cumulet_hypercore::messages::{Request, RequestBlock, RequestHash, RequestUpgrade};
use cumulet_hypercore::proof::Proof;
use cumulet_hypercore::storage::{MemoryStorage, Storage};
use cumulet_hypercore::verifier::SignatureError;
use proptest::prelude::*;

type MemoryCore = Core<MemoryStorage>;

fn block(seed: u64) -> Bytes {
    Bytes::from(vec![seed as u8; (seed % 7) as usize])
}

fn writer(length: u64) -> MemoryCore {
    let pair = KeyPair::from_seed(&[5; 32]);
    let manifest = Manifest::single(pair.public_key());
    let mut core = Core::create(MemoryStorage::new(), manifest, Some(pair)).unwrap();
    core.append_batch((0..length).map(block).collect()).unwrap();
    core
}

fn reader_of(source: &MemoryCore) -> MemoryCore {
    Core::open(MemoryStorage::new(), *source.key()).unwrap()
}

fn upgrade(source: &MemoryCore, start: u64) -> Proof {
    let length = source.length() - start;
    let upgrade = Some(RequestUpgrade { start, length });
    let request = Request {
        fork: source.fork(),
        upgrade,
        manifest: true,
        ..Request::default()
    };
    source.create_proof(&request).unwrap()
}

fn fetch(source: &MemoryCore, reader: &mut MemoryCore, index: u64) {
    let nodes = reader.missing_nodes(index).unwrap();
    let request = Request {
        fork: source.fork(),
        block: Some(RequestBlock { index, nodes }),
        ..Request::default()
    };
    let applied = reader
        .verify_and_apply(source.create_proof(&request).unwrap())
        .unwrap();
    assert_eq!(applied.block, Some(index));
}

#[test]
fn a_reopened_core_is_the_same_core() {
    let core = writer(11);
    let reopened = Core::open(core.storage().clone(), *core.key()).unwrap();
    assert_eq!(reopened.roots(), core.roots());
    assert_eq!(reopened.signature(), core.signature());
    assert_eq!(reopened.manifest(), core.manifest());
    assert!(!reopened.is_writable());
    assert!(
        Core::open(core.storage().clone(), [1; 32]).is_err(),
        "the manifest belongs to another key"
    );
}

#[test]
fn only_the_owner_of_the_key_appends() {
    let source = writer(2);
    let mut reader = reader_of(&source);
    reader.verify_and_apply(upgrade(&source, 0)).unwrap();
    assert!(matches!(reader.append(block(1)), Err(WriteError::ReadOnly)));
    reader.set_key_pair(KeyPair::from_seed(&[6; 32]));
    assert!(matches!(reader.append(block(1)), Err(WriteError::Sign(_))));
    assert_eq!(reader.length(), 2);
    reader.set_key_pair(KeyPair::from_seed(&[5; 32]));
    assert_eq!(reader.append(block(1)).unwrap(), 2);
}

#[test]
fn byte_positions_and_blocks_agree() {
    let core = writer(20);
    let mut offset = 0;
    for index in 0..20 {
        assert_eq!(core.byte_offset(index, 0).unwrap(), Some(offset));
        for within in 0..block(index).len() as u64 {
            assert_eq!(
                core.seek(offset + within, 0).unwrap(),
                SeekResult::Found {
                    // The first block is empty, and byte 0 is before it, as in JavaScript.
                    block: if offset == 0 { 0 } else { index },
                    offset: within
                }
            );
        }
        offset += block(index).len() as u64;
    }
    assert_eq!(
        core.seek(offset, 0).unwrap(),
        SeekResult::Found { block: 20, offset: 0 }
    );
    assert_eq!(core.seek(offset + 1, 0).unwrap(), SeekResult::Beyond);
    assert_eq!(core.byte_offset(20, 0).unwrap(), Some(core.byte_length()));
    assert_eq!(core.byte_offset(21, 0).unwrap(), None);
}

#[test]
fn a_sparse_reader_seeks_as_far_as_it_knows() {
    let source = writer(16);
    let mut reader = reader_of(&source);
    reader.verify_and_apply(upgrade(&source, 0)).unwrap();
    assert_eq!(
        reader.seek(3, 0).unwrap(),
        SeekResult::Within { start: 0, end: 16 }
    );
    fetch(&source, &mut reader, 3);
    assert_eq!(reader.seek(3, 0).unwrap(), source.seek(3, 0).unwrap());
}

#[test]
fn truncation_drops_blocks_and_every_node_above_them() {
    let mut core = writer(13);
    core.truncate(5, None).unwrap();
    assert_eq!((core.length(), core.fork(), core.contiguous_length()), (5, 1, 5));
    let expected = writer(5);
    for index in 0..32 {
        assert_eq!(
            core.node(index).unwrap(),
            expected.node(index).unwrap(),
            "node {index}"
        );
    }
    assert_eq!(core.get(5).unwrap(), None);
    assert!(matches!(core.truncate(6, None), Err(WriteError::Truncate { .. })));
    assert!(matches!(
        core.truncate(1, Some(1)),
        Err(WriteError::Truncate { .. })
    ));
}

#[test]
fn a_cleared_block_is_gone_and_its_neighbours_still_prove_themselves() {
    let mut core = writer(8);
    core.clear(1..4).unwrap();
    assert_eq!(core.get(2).unwrap(), None);
    assert_eq!(core.contiguous_length(), 1);
    let mut reader = reader_of(&core);
    reader.verify_and_apply(upgrade(&core, 0)).unwrap();
    for index in [0, 4, 7] {
        fetch(&core, &mut reader, index);
    }
    let asked = Some(RequestBlock { index: 2, nodes: 0 });
    assert!(
        core.create_proof(&Request {
            block: asked,
            ..Request::default()
        })
        .is_err()
    );
}

#[test]
fn a_prologue_is_appended_whole_and_unsigned_or_not_at_all() {
    let origin = writer(6);
    let pair = KeyPair::from_seed(&[9; 32]);
    let mut manifest = Manifest::single(pair.public_key());
    manifest.prologue = Some(Prologue {
        hash: origin.roots().tree_hash(),
        length: 6,
    });
    let mut heir = Core::create(MemoryStorage::new(), manifest, Some(pair)).unwrap();
    let own: Vec<Bytes> = (0..6).map(|index| origin.get(index).unwrap().unwrap()).collect();
    let mut other = own.clone();
    other[5] = Bytes::from_static(b"another one");
    for wrong in [own[..5].to_vec(), other] {
        assert!(matches!(
            heir.append_batch(wrong),
            Err(WriteError::Refused(SignatureError::Prologue))
        ));
        assert_eq!(heir.length(), 0);
    }
    assert_eq!(heir.append_batch(own).unwrap(), 0..6);
    assert_eq!(heir.signature(), None);
    let mut reader = reader_of(&heir);
    reader.verify_and_apply(upgrade(&heir, 0)).unwrap();
    assert_eq!(reader.length(), 6);
    heir.append(block(3)).unwrap();
    assert!(heir.signature().is_some());
    reader.verify_and_apply(upgrade(&heir, 6)).unwrap();
    assert_eq!(reader.length(), 7);
}

#[test]
fn a_prologue_is_read_unsigned_and_never_truncated() {
    let origin = writer(6);
    let pair = KeyPair::from_seed(&[9; 32]);
    let mut manifest = Manifest::single(pair.public_key());
    manifest.prologue = Some(Prologue {
        hash: origin.roots().tree_hash(),
        length: 6,
    });
    let mut heir = Core::create(MemoryStorage::new(), manifest, Some(pair)).unwrap();
    let mut proof = upgrade(&origin, 0);
    proof.manifest = None;
    assert!(heir.verify_and_apply(proof).unwrap().upgraded());
    heir.append(block(3)).unwrap();
    assert!(matches!(heir.truncate(5, None), Err(WriteError::Truncate { .. })));
    let mut reader = reader_of(&heir);
    reader.verify_and_apply(upgrade(&heir, 0)).unwrap();
    assert_eq!(reader.length(), 7);
}

#[test]
fn two_signed_trees_of_one_length_are_a_conflict_and_equal_ones_are_not() {
    let honest = writer(8);
    let mut forked = writer(4);
    forked.append_batch((10..14).map(block).collect()).unwrap();
    let conflict = honest
        .check_conflict(&upgrade(&forked, 0))
        .unwrap()
        .expect("a conflict");
    assert_eq!((conflict.fork, conflict.length), (0, 8));
    assert!(
        forked.check_conflict(&conflict.ours).unwrap().is_some(),
        "either side's proof convinces the other"
    );
    assert!(honest.check_conflict(&upgrade(&writer(8), 0)).unwrap().is_none());
    assert!(honest.check_conflict(&upgrade(&writer(5), 0)).unwrap().is_none());
    assert!(
        honest.check_conflict(&upgrade(&writer(9), 0)).unwrap().is_none(),
        "longer than ours says nothing"
    );
    let mut unsigned = upgrade(&forked, 0);
    unsigned.upgrade.as_mut().unwrap().signature = None;
    assert!(matches!(
        honest.check_conflict(&unsigned),
        Err(VerifyError::Signature(_))
    ));
}

/// Follows the source to its fork as a replicator would, asking for `pick` of each wanted range.
fn follow(source: &MemoryCore, reader: &mut MemoryCore, pick: u64) -> u64 {
    let mut reorg = reader.begin_reorg(&upgrade(source, 0)).unwrap();
    while let Some(want) = reorg.want().cloned() {
        let block = want.blocks.start + pick % (want.blocks.end - want.blocks.start);
        let hash = Some(RequestHash {
            index: 2 * block,
            nodes: want.nodes,
        });
        let request = Request {
            fork: source.fork(),
            hash,
            ..Request::default()
        };
        reader
            .continue_reorg(&mut reorg, &source.create_proof(&request).unwrap())
            .unwrap();
    }
    let ancestors = reorg.ancestors();
    reader.apply_reorg(reorg).unwrap();
    ancestors
}

proptest! {
    #[test]
    fn blocks_fetched_in_any_order_make_the_same_core(
        first in 1..40u64, more in 0..40u64, order in proptest::collection::vec(0..80u64, 1..60),
    ) {
        let mut source = writer(first);
        let mut reader = reader_of(&source);
        reader.verify_and_apply(upgrade(&source, 0)).unwrap();
        let (early, late) = order.split_at(order.len() / 2);
        for index in early {
            fetch(&source, &mut reader, index % first);
        }
        if more > 0 {
            source.append_batch((first..first + more).map(block).collect()).unwrap();
            prop_assert!(source.can_upgrade_from(first).unwrap());
            reader.verify_and_apply(upgrade(&source, first)).unwrap();
        }
        for index in late {
            fetch(&source, &mut reader, index % (first + more));
        }
        for index in 0..first + more {
            if !reader.has(index) {
                fetch(&source, &mut reader, index);
            }
            prop_assert_eq!(reader.get(index).unwrap(), Some(block(index)));
        }
        prop_assert_eq!(reader.roots(), source.roots());
        for index in 0..2 * (first + more) {
            prop_assert_eq!(reader.node(index).unwrap(), source.node(index).unwrap());
        }
    }

    #[test]
    fn a_reader_follows_a_fork_and_keeps_what_both_share(
        length in 1..40u64, held in any::<u64>(), cut in 0..40u64, more in 1..40u64, pick: u64,
    ) {
        let mut source = writer(length);
        let mut reader = reader_of(&source);
        reader.verify_and_apply(upgrade(&source, 0)).unwrap();
        for index in (0..length).filter(|index| held >> (index % 64) & 1 == 1) {
            fetch(&source, &mut reader, index);
        }
        let cut = cut.min(length);
        source.truncate(cut, None).unwrap();
        source.append_batch((100..100 + more).map(block).collect()).unwrap();
        let ancestors = follow(&source, &mut reader, pick);
        prop_assert!(ancestors <= source.length());
        prop_assert_eq!(reader.roots(), source.roots());
        prop_assert_eq!(reader.fork(), 1);
        for index in 0..source.length() {
            if !reader.has(index) {
                fetch(&source, &mut reader, index);
            }
            prop_assert_eq!(reader.get(index).unwrap(), source.get(index).unwrap());
        }
    }

    #[test]
    fn hostile_numbers_are_refused_without_panic_or_delay(
        index in any::<u64>(), nodes in any::<u64>(), start in any::<u64>(), length in any::<u64>(), seek in any::<u64>(), mask in 0..8u8,
    ) {
        let small = |value: u64| if mask & 4 == 0 { value % 20 } else { value >> 11 };
        let (index, nodes, start, length) = (small(index), small(nodes), small(start), small(length));
        let core = writer(9);
        let request = Request {
            block: (mask & 1 == 1).then_some(RequestBlock { index, nodes }),
            hash: (mask & 1 == 0).then_some(RequestHash { index, nodes }),
            seek: Some(cumulet_hypercore::messages::RequestSeek { bytes: small(seek), padding: index }),
            upgrade: (mask & 2 == 2).then_some(RequestUpgrade { start, length }),
            ..Request::default()
        };
        if let Ok(mut proof) = core.create_proof(&request) {
            let mut reader = reader_of(&core);
            if let Some(upgrade) = &mut proof.upgrade {
                upgrade.start = start;
                upgrade.length = length;
            }
            let _ = reader.verify_and_apply(proof);
        }
    }
}

#[test]
fn a_refused_append_stores_nothing() {
    let mut core = writer(3);
    let large = Bytes::from(vec![0; 15 * 1024 * 1024 + 1]);
    assert!(matches!(
        core.append_batch(vec![block(1), large]),
        Err(WriteError::BlockTooLarge { .. })
    ));
    assert_eq!(core.storage().head().length, 3);
    assert_eq!(core.length(), 3);
}
