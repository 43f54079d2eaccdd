//! Laws of the channel's messages: what is sent is what is read.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_encoding::MAX_UINT;
use cumulet_hypercore::manifest::{Manifest, Prologue, Signer};
use cumulet_hypercore::messages::{
    BitfieldMessage, Cancel, Data, Extension, Message, NoData, Range, Request, RequestBlock, RequestHash,
    RequestSeek, RequestUpgrade, Sync, Unwant, Want,
};
use cumulet_hypercore::node::Node;
use cumulet_hypercore::proof::{BlockProof, HashProof, Proof, SeekProof, UpgradeProof};
use cumulet_hypercore::verifier::{Envelope, SignerProof};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 0..=MAX_UINT]
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

prop_compose! {
    fn node()(index in number(), size in number(), hash: [u8; 32]) -> Node {
        Node { index, size, hash }
    }
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    vec(node(), 0..5)
}

prop_compose! {
    fn manifest()(
        version in 1..4u8, allow_patch: bool, quorum in 0..5u64, keys in vec(any::<([u8; 32], [u8; 32])>(), 0..4),
        prologue in option::of(any::<([u8; 32], u32)>()), linked in option::of(vec(any::<[u8; 32]>(), 1..3)),
        user_data in option::of(vec(any::<u8>(), 1..20)),
    ) -> Manifest {
        let signers = keys.into_iter().map(|(namespace, public_key)| Signer { namespace, public_key }).collect();
        Manifest {
            version,
            allow_patch,
            quorum,
            signers,
            prologue: prologue.map(|(hash, length)| Prologue { hash, length: length.into() }),
            // Each field came with a version.
            linked: linked.filter(|_| version >= 2),
            user_data: user_data.filter(|_| version >= 3),
        }
    }
}

prop_compose! {
    fn proof()(
        fork in number(), block in option::of((number(), bytes(200), nodes())),
        hash in option::of((number(), nodes())), seek in option::of((number(), nodes())),
        upgrade in option::of((number(), number(), nodes(), nodes(), option::of(bytes(80)))),
        manifest in option::of(manifest()),
    ) -> Proof {
        Proof {
            fork,
            block: block.map(|(index, value, nodes)| BlockProof { index, value, nodes }),
            hash: hash.map(|(index, nodes)| HashProof { index, nodes }),
            seek: seek.map(|(bytes, nodes)| SeekProof { bytes, nodes }),
            upgrade: upgrade.map(|(start, length, nodes, additional_nodes, signature)| UpgradeProof {
                start,
                length,
                nodes,
                additional_nodes,
                // An empty signature and none are the same on the wire.
                signature: signature.filter(|signature| !signature.is_empty()),
            }),
            manifest,
        }
    }
}

prop_compose! {
    fn request()(
        id in number(), fork in number(), block in option::of((number(), number())),
        hash in option::of((number(), number())), seek in option::of((number(), number())),
        upgrade in option::of((number(), number())), manifest: bool, priority in number(),
    ) -> Request {
        Request {
            id,
            fork,
            block: block.map(|(index, nodes)| RequestBlock { index, nodes }),
            hash: hash.map(|(index, nodes)| RequestHash { index, nodes }),
            seek: seek.map(|(bytes, padding)| RequestSeek { bytes, padding }),
            upgrade: upgrade.map(|(start, length)| RequestUpgrade { start, length }),
            manifest,
            priority,
        }
    }
}

prop_compose! {
    fn sync()(fork in number(), length in number(), remote_length in number(), flags: [bool; 5]) -> Sync {
        let [can_upgrade, uploading, downloading, has_manifest, allow_push] = flags;
        Sync { fork, length, remote_length, can_upgrade, uploading, downloading, has_manifest, allow_push }
    }
}

fn message() -> impl Strategy<Value = Message> {
    let range = || (number(), number(), any::<bool>());
    prop_oneof![
        sync().prop_map(Message::Sync),
        request().prop_map(Message::Request),
        number().prop_map(|request| Message::Cancel(Cancel { request })),
        (number(), proof()).prop_map(|(request, proof)| Message::Data(Data { request, proof })),
        (number(), 0..4u64).prop_map(|(request, reason)| Message::NoData(NoData { request, reason })),
        range().prop_map(|(start, length, any)| Message::Want(Want { start, length, any })),
        range().prop_map(|(start, length, any)| Message::Unwant(Unwant { start, length, any })),
        (number(), vec(any::<u32>(), 0..40))
            .prop_map(|(start, words)| Message::Bitfield(BitfieldMessage { start, words })),
        range().prop_map(|(start, length, drop)| Message::Range(Range { drop, start, length })),
        ("[a-z/]{0,12}", bytes(60))
            .prop_map(|(name, payload)| Message::Extension(Extension { name, payload })),
    ]
}

proptest! {
    #[test]
    fn a_message_reads_as_it_was_sent(message in message()) {
        let bytes = Bytes::from(message.encode());
        let (head, value, tail) = message.encode_in_pieces();
        prop_assert_eq!([&head[..], &value, &tail].concat(), &bytes[..]);
        prop_assert_eq!(Message::decode(message.kind(), &bytes).unwrap(), message);
    }

    #[test]
    fn a_proof_that_ends_early_is_no_message(request in number(), proof in proof(), end: prop::sample::Index) {
        let message = Message::Data(Data { request, proof });
        let bytes = Bytes::from(message.encode());
        prop_assert!(Message::decode(3, &bytes.slice(..end.index(bytes.len()))).is_err());
    }

    #[test]
    fn a_manifest_and_its_key_come_back(manifest in manifest()) {
        let bytes = manifest.to_bytes();
        let read = Manifest::decode(&mut cumulet_encoding::Reader::new(&bytes)).unwrap();
        prop_assert_eq!(read.key(), manifest.key());
        prop_assert_eq!(read, manifest);
    }

    #[test]
    fn an_envelope_of_signatures_comes_back(
        proofs in vec((number(), vec(any::<u8>(), 64), number()), 0..4), patch_nodes in nodes(),
    ) {
        let proofs = proofs.into_iter().map(|(signer, signature, patch)| SignerProof {
            signer,
            signature: signature.try_into().unwrap(),
            patch,
        });
        let envelope = Envelope { proofs: proofs.collect(), patch_nodes };
        prop_assert_eq!(Envelope::decode(&envelope.encode()).unwrap(), envelope);
    }
}
