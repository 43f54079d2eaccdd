//! Laws of proofs and segments: what a core proves verifies, and no changed bit does.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::core::Core;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{
    Data, Message, Request, RequestBlock, RequestHash, RequestSeek, RequestUpgrade,
};
use cumulet_hypercore::node::Node;
use cumulet_hypercore::proof::Proof;
use cumulet_hypercore::segment::{self, ContentCipher, Place, SegmentId};
use cumulet_hypercore::storage::MemoryStorage;
use proptest::prelude::*;
use proptest::sample::Index;

type MemoryCore = Core<MemoryStorage>;

fn block(index: u64) -> Bytes {
    Bytes::from(vec![index as u8; (index * 7 % 13) as usize])
}

/// A core of one signer, or of two of whom one is enough.
fn writer(length: u64, signers: usize) -> MemoryCore {
    let pair = KeyPair::from_seed(&[5; 32]);
    let manifest = if signers == 1 {
        Manifest::single(pair.public_key())
    } else {
        Manifest::of_signers(
            vec![KeyPair::from_seed(&[6; 32]).public_key(), pair.public_key()],
            Some(1),
        )
    };
    let mut core = Core::create(MemoryStorage::new(), manifest, Some(pair)).unwrap();
    core.append_batch((0..length).map(block).collect()).unwrap();
    core
}

/// What a reader knows before the proof, and what it asks for.
#[derive(Debug, Clone)]
struct Case {
    length: u64,
    signers: usize,
    /// Length that the reader knows.
    known: u64,
    kind: Kind,
    upgrade: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Block(u64),
    Hash(u64),
    Seek(u64),
    Nothing,
}

fn case() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![
        3 => any::<u64>().prop_map(Kind::Block),
        2 => any::<u64>().prop_map(Kind::Hash),
        2 => any::<u64>().prop_map(Kind::Seek),
        1 => Just(Kind::Nothing),
    ];
    (2..40u64, 1..3usize, any::<u64>(), kind, any::<bool>()).prop_map(
        |(length, signers, known, kind, upgrade)| Case {
            length,
            signers,
            // Somebody who knows nothing needs an upgrade first.
            known: if upgrade { known % length } else { length },
            kind,
            upgrade,
        },
    )
}

impl Case {
    /// The writer, a reader that knows `known` blocks' tree, and the request for the rest.
    fn sides(&self) -> (MemoryCore, MemoryCore, Request) {
        let mut source = writer(self.known, self.signers);
        let mut reader = Core::open(MemoryStorage::new(), *source.key()).unwrap();
        if self.known > 0 {
            reader
                .verify_and_apply(prove(&source, &upgrade(0, self.known)))
                .unwrap();
        }
        source
            .append_batch((self.known..self.length).map(block).collect())
            .unwrap();
        let mut request = Request::default();
        if self.upgrade {
            request = upgrade(self.known, self.length - self.known);
            request.manifest = self.known == 0;
        }
        match self.kind {
            Kind::Block(index) => {
                let index = index % self.length;
                let nodes = reader.missing_nodes(index).unwrap();
                request.block = Some(RequestBlock { index, nodes });
            }
            Kind::Hash(index) => {
                let index = 2 * (index % self.length);
                let nodes = reader.missing_nodes_above(index).unwrap();
                request.hash = Some(RequestHash { index, nodes });
            }
            Kind::Seek(bytes) => {
                // A seek travels with the block that it is thought to end in.
                let bytes = bytes % (source.byte_length() + 1);
                request.seek = Some(RequestSeek { bytes, padding: 0 });
            }
            Kind::Nothing => {}
        }
        (source, reader, request)
    }
}

fn upgrade(start: u64, length: u64) -> Request {
    Request {
        upgrade: Some(RequestUpgrade { start, length }),
        manifest: true,
        ..Request::default()
    }
}

fn prove(source: &MemoryCore, request: &Request) -> Proof {
    source.create_proof(request).unwrap()
}

/// Everything that a core holds.
type Everything = (u64, u64, Vec<Option<Bytes>>, Vec<Option<Node>>, Option<Manifest>);

fn everything(core: &MemoryCore) -> Everything {
    let length = core.length();
    (
        core.fork(),
        length,
        (0..length).map(|index| core.get(index).unwrap()).collect(),
        (0..2 * length).map(|index| core.node(index).unwrap()).collect(),
        core.manifest().cloned(),
    )
}

/// The bits of a proof that say something which is checked.
fn bits(proof: &mut Proof) -> Vec<&mut [u8]> {
    let mut found: Vec<&mut [u8]> = Vec::new();
    let mut nodes: Vec<&mut Vec<Node>> = Vec::new();
    if let Some(block) = &mut proof.block {
        nodes.push(&mut block.nodes);
    }
    if let Some(hash) = &mut proof.hash {
        nodes.push(&mut hash.nodes);
    }
    if let Some(seek) = &mut proof.seek {
        nodes.push(&mut seek.nodes);
    }
    if let Some(upgrade) = &mut proof.upgrade {
        nodes.push(&mut upgrade.nodes);
        nodes.push(&mut upgrade.additional_nodes);
    }
    for node in nodes.into_iter().flatten() {
        found.push(&mut node.hash);
    }
    found
}

/// Bytes of one signer's part of a signature.
const PROOF_BYTES: usize = 66;

/// Changes one thing of a proof that its signature or its hashes cover. False if there is nothing of the kind.
fn change(proof: &mut Proof, what: u8, at: Index, bit: u8) -> bool {
    let mut nodes: Vec<&mut Node> = Vec::new();
    match what {
        0 => {
            let mut hashes = bits(proof);
            if hashes.is_empty() {
                return false;
            }
            let number = at.index(hashes.len() * 32);
            hashes[number / 32][number % 32] ^= 1 << bit;
            return true;
        }
        1 => {
            let Some(block) = proof.block.as_mut().filter(|block| !block.value.is_empty()) else {
                return false;
            };
            let mut value = block.value.to_vec();
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            block.value = value.into();
            return true;
        }
        2 => {
            let signature = proof
                .upgrade
                .as_mut()
                .and_then(|upgrade| upgrade.signature.as_mut());
            let Some(signature) = signature else { return false };
            let mut bytes = signature.to_vec();
            let at = at.index(bytes.len());
            // An envelope is a count, for each signer his number, 64 bytes and his patch, and a count of nodes. Where the
            // manifest allows no patches nobody looks at them, in JavaScript neither.
            if at.is_multiple_of(PROOF_BYTES) && (PROOF_BYTES..bytes.len() - 1).contains(&at) {
                return false;
            }
            bytes[at] ^= 1 << bit;
            *signature = bytes.into();
            return true;
        }
        3 => {
            let Some(block) = &mut proof.block else {
                return false;
            };
            let mut value = block.value.to_vec();
            value.push(bit);
            block.value = value.into();
            return true;
        }
        _ => {}
    }
    if let Some(block) = &mut proof.block {
        nodes.extend(&mut block.nodes);
    }
    if let Some(hash) = &mut proof.hash {
        nodes.extend(&mut hash.nodes);
    }
    if let Some(seek) = &mut proof.seek {
        nodes.extend(&mut seek.nodes);
    }
    if let Some(upgrade) = &mut proof.upgrade {
        nodes.extend(&mut upgrade.nodes);
        nodes.extend(&mut upgrade.additional_nodes);
    }
    if nodes.is_empty() {
        return false;
    }
    let number = at.index(nodes.len());
    if what == 4 {
        nodes[number].size ^= 1 << bit;
    } else {
        nodes[number].index ^= 1 << bit;
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_proof_of_any_kind_verifies_and_tells_the_truth(case in case()) {
        let (source, mut reader, request) = case.sides();
        let proof = prove(&source, &request);
        // As it travels.
        let bytes = Message::Data(Data { request: 1, proof: proof.clone() }).encode();
        let Ok(Message::Data(data)) = Message::decode(3, &bytes.into()) else {
            return Err(TestCaseError::fail("a proof that does not travel"));
        };
        prop_assert_eq!(&data.proof, &proof);
        let applied = reader.verify_and_apply(proof).unwrap();
        prop_assert_eq!(applied.length, case.length);
        prop_assert_eq!(reader.roots(), source.roots());
        if let Some(block) = request.block {
            prop_assert_eq!(applied.block, Some(block.index));
            prop_assert_eq!(reader.get(block.index).unwrap(), source.get(block.index).unwrap());
        }
        for index in 0..2 * case.length {
            if let Some(node) = reader.node(index).unwrap() {
                prop_assert_eq!(Some(node), source.node(index).unwrap());
            }
        }
    }

    #[test]
    fn a_proof_with_anything_changed_that_it_proves_is_refused_and_changes_nothing(
        case in case(), what in 0..6u8, at: Index, bit in 0..8u8,
    ) {
        let (source, mut reader, request) = case.sides();
        let mut proof = prove(&source, &request);
        prop_assume!(change(&mut proof, what, at, bit));
        let before = everything(&reader);
        let result = reader.verify_and_apply(proof.clone());
        prop_assert!(result.is_err(), "{proof:?} was taken: {result:?}");
        prop_assert_eq!(everything(&reader), before);
    }

    #[test]
    fn a_message_with_a_changed_bit_adds_nothing_that_the_writer_did_not_sign(
        case in case(), at: Index, bit in 0..8u8,
    ) {
        let (source, mut reader, request) = case.sides();
        let mut bytes = Message::Data(Data { request: 1, proof: prove(&source, &request) }).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(Message::Data(data)) = Message::decode(3, &bytes.into()) {
            let _ = reader.verify_and_apply(data.proof);
        }
        prop_assert!(reader.length() == case.known || reader.roots() == source.roots());
        prop_assert_eq!(reader.fork(), 0);
        for index in 0..reader.length() {
            if reader.has(index) {
                prop_assert_eq!(reader.get(index).unwrap(), source.get(index).unwrap());
            }
        }
        for index in 0..2 * reader.length() {
            if let Some(node) = reader.node(index).unwrap() {
                prop_assert_eq!(Some(node), source.node(index).unwrap());
            }
        }
    }

    #[test]
    fn a_manifest_with_a_changed_bit_is_not_the_cores(signers in 1..3usize, at: Index, bit in 0..8u8) {
        let source = writer(3, signers);
        let mut bytes = source.manifest().unwrap().to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(manifest) = Manifest::decode(&mut cumulet_encoding::Reader::new(&bytes)) {
            let mut proof = prove(&source, &upgrade(0, 3));
            let same = proof.manifest == Some(manifest.clone());
            proof.manifest = Some(manifest);
            let mut reader = Core::open(MemoryStorage::new(), *source.key()).unwrap();
            prop_assert_eq!(reader.verify_and_apply(proof).is_ok(), same);
        }
    }

    #[test]
    fn a_segment_comes_back_and_any_changed_bit_or_missing_end_is_refused(
        level in 0..5u32, index in 0..9u64, fork in 0..3u64, sealed: bool, at: Index, bit in 0..8u8,
        size in 0..50usize,
    ) {
        let cipher = sealed.then(|| ContentCipher::new(&[8; 32]));
        let place = Place { discovery_key: [4; 32], fork, id: SegmentId { level, index } };
        let blocks: Vec<Bytes> = (0..1_usize << level).map(|i| Bytes::from(vec![i as u8; (i * 31 + size) % 50])).collect();
        let encoded = segment::encode(&place, cipher.as_ref(), &blocks).unwrap();
        let decoded = segment::decode(&encoded.bytes, &place, cipher.as_ref()).unwrap();
        prop_assert_eq!(decoded.blocks, blocks);
        prop_assert_eq!(decoded.root, encoded.root);
        let mut changed = encoded.bytes.to_vec();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        prop_assert!(segment::decode(&changed.into(), &place, cipher.as_ref()).is_err(), "byte {at}");
        prop_assert!(segment::decode(&encoded.bytes.slice(..at), &place, cipher.as_ref()).is_err(), "cut at {at}");
    }
}
