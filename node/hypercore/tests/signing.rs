//! Cores that several keys sign, or an old one: the bytes are those that JavaScript makes, and nothing else is taken.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cumulet_hypercore::core::{Core, WriteError};
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Request, RequestBlock, RequestUpgrade};
use cumulet_hypercore::multisig::{assemble, assemble_v0};
use cumulet_hypercore::storage::MemoryStorage;

type MemoryCore = Core<MemoryStorage>;

/// Made by npm hypercore 11.37.1: `lib/multisig.js` on a manifest of three signers (the key pairs of 32 bytes of 1, 2 and 3)
/// with quorum 2 and patches. The first signed seven blocks, the third five, five were appended.
const KEY_V0: &str = "7416b782cde0797f7526e69e25625349b13257dea06655d224bf46f162b84bac";
const SIGNATURE_V0: &str = "020100197938225ccf015dd099d908495a79ab8c9cc57545b9853255dee04bac0cc08fc657fb85bcba69ece54944494d22e7c3acd7a7acded8a744a898248fa8fb240e07020200010002a2aa5b0f2807d9898872a72e795191f2b91142d810b8fea6701b28b942420b4733a174e9bd6fe58bd5d7f75411e2090190bbc420620332e124dde096348f310f020a061462d977f216c85e9bb43c4abd0d076c1f1da1abc695bd4e2ca4dda4825520b30c077feaa6737688106d44aa3214c6122edfee0c5b6a9ca38753d676239dfc6747ae";
const KEY_V1: &str = "e724201fcce1d822a5a63941f42c9ba89952de961497712eda0f74f2e08b3717";
const SIGNATURE_V1: &str = "0200c0bedb67c8490898e372dcde4e514168aa9c8e44dc7909880b23e7d51ac7bdc7890e800b48adacf5290d2e81a33dcd9d773ff08474ced8718c53c6a22000e60c0202ac1585d8e3145faead8e1f3f84cbffc32eb7987cea13fe310a8af32d5947ff5b911f9051e03678b555c8721c74ea373cd93c42d43dc1f329528f8bf51058530c00020a061462d977f216c85e9bb43c4abd0d076c1f1da1abc695bd4e2ca4dda4825520b30c077feaa6737688106d44aa3214c6122edfee0c5b6a9ca38753d676239dfc6747ae";
const TREE_HASH: &str = "f619c35de5449c6e3ebb085f069d4c0816df0173fa93841d911ec40665cc67f7";

/// As well, of compat cores whose key pair is that of 32 bytes of 7, with the blocks one, two, three.
const COMPAT_SIGNATURE: &str = "ff9b8613c5c0aa88da348ba8e06df971bc0589fa0312c2db2cbea8fa2f4a70f640abeccd86702ad4f96ee86a36996b70e4009f063cb854c0b44bcdb7bf2c6208";
const LEGACY_SIGNATURE: &str = "105ef0c61d0ebf6d9fa9fe268bdfd25b9e464df8d36266edf5378861c333631fae5cfdc849d2725c0430d61a589b9dd34732b1a1f2a8b4f40895e88c774d5f0b";

fn blocks(count: u8) -> Vec<Bytes> {
    (0..count)
        .map(|i| Bytes::from(vec![i; usize::from(i) + 1]))
        .collect()
}

fn signers() -> [KeyPair; 3] {
    [1, 2, 3].map(|seed| KeyPair::from_seed(&[seed; 32]))
}

fn manifest(version: u8, allow_patch: bool) -> Manifest {
    let keys = signers().iter().map(KeyPair::public_key).collect();
    Manifest {
        version,
        allow_patch,
        ..Manifest::of_signers(keys, Some(2))
    }
}

fn multisig(version: u8, allow_patch: bool) -> MemoryCore {
    Core::create(MemoryStorage::new(), manifest(version, allow_patch), None).unwrap()
}

/// A core with the whole of another, which it got by proofs.
fn copy_of(core: &MemoryCore) -> MemoryCore {
    let mut copy = Core::open(MemoryStorage::new(), *core.key()).unwrap();
    let length = core.length();
    let upgrade = Request {
        fork: core.fork(),
        upgrade: Some(RequestUpgrade { start: 0, length }),
        manifest: true,
        ..Request::default()
    };
    copy.verify_and_apply(core.create_proof(&upgrade).unwrap())
        .unwrap();
    for index in 0..length {
        let nodes = copy.missing_nodes(index).unwrap();
        let block = Request {
            fork: core.fork(),
            block: Some(RequestBlock { index, nodes }),
            ..Request::default()
        };
        copy.verify_and_apply(core.create_proof(&block).unwrap()).unwrap();
    }
    copy
}

#[test]
fn a_signature_of_two_signers_with_a_patch_has_the_bytes_of_javascript_and_proves_the_core_to_others() {
    for (version, key, signature) in [(0, KEY_V0, SIGNATURE_V0), (1, KEY_V1, SIGNATURE_V1)] {
        let mut core = multisig(version, true);
        assert_eq!(hex::encode(core.key()), key);
        let [first, _, third] = signers();
        let (longer, draft) = (core.draft(blocks(7)).unwrap(), core.draft(blocks(5)).unwrap());
        assert_eq!((draft.start(), draft.length(), draft.fork()), (0, 5, 0));
        assert_eq!(hex::encode(draft.tree_hash()), TREE_HASH);
        let parts = [
            core.partial_signature(&longer, &first, 5).unwrap(),
            core.partial_signature(&draft, &third, 5).unwrap(),
        ];
        assert_eq!((parts[0].signer, parts[0].patch), (0, 2));
        assert_eq!((parts[1].signer, parts[1].patch), (2, 0));
        let assembled = if version == 0 {
            assemble_v0(&parts)
        } else {
            assemble(&parts)
        };
        assert_eq!(hex::encode(&assembled), signature);
        assert_eq!(core.append_signed(draft, assembled.into()).unwrap(), 0..5);
        let copy = copy_of(&core);
        assert_eq!(copy.contiguous_length(), 5);
        assert_eq!(hex::encode(copy.roots().tree_hash()), TREE_HASH);
    }
}

#[test]
fn an_append_that_a_quorum_did_not_sign_is_refused_and_changes_nothing() {
    let mut core = multisig(1, false);
    let [first, second, _] = signers();
    let draft = core.draft(blocks(3)).unwrap();
    let (one, two) = (
        core.partial_signature(&draft, &first, 3).unwrap(),
        core.partial_signature(&draft, &second, 3).unwrap(),
    );
    let stranger = KeyPair::from_seed(&[9; 32]);
    assert!(matches!(
        core.partial_signature(&draft, &stranger, 3),
        Err(WriteError::Sign(_))
    ));
    assert!(matches!(
        core.partial_signature(&draft, &first, 4),
        Err(WriteError::Moved)
    ));
    let longer = core.draft(blocks(4)).unwrap();
    let patched = core.partial_signature(&longer, &second, 3).unwrap();
    let mut forged = two.clone();
    forged.signature[10] ^= 1;
    for bad in [
        vec![one.clone()],
        vec![one.clone(), one.clone()],
        vec![one.clone(), forged],
        // This manifest allows no patches.
        vec![one.clone(), patched],
    ] {
        let refused = core.append_signed(draft.clone(), assemble(&bad).into());
        assert!(matches!(refused, Err(WriteError::Refused(_))), "{bad:?}");
        assert_eq!(core.length(), 0);
    }
    let signature = Bytes::from(assemble(&[two, one]));
    assert_eq!(
        core.append_signed(draft.clone(), signature.clone()).unwrap(),
        0..3
    );
    assert!(matches!(
        core.append_signed(draft, signature),
        Err(WriteError::Moved)
    ));
    assert_eq!(core.length(), 3);
}

#[test]
fn a_core_of_several_signers_is_cut_when_they_signed_the_shorter_tree() {
    let mut core = multisig(1, false);
    let pairs = signers();
    let draft = core.draft(blocks(6)).unwrap();
    let sign = |core: &MemoryCore, draft| -> Bytes {
        let parts: Vec<_> = pairs[1..]
            .iter()
            .map(|pair| core.partial_signature(draft, pair, draft.length()).unwrap())
            .collect();
        assemble(&parts).into()
    };
    let signature = sign(&core, &draft);
    core.append_signed(draft, signature).unwrap();
    // The signers of the shorter tree sign it at the next fork.
    let roots = core.roots_at(2).unwrap();
    let verifier =
        cumulet_hypercore::verifier::Verifier::new(*core.key(), core.manifest().unwrap().clone()).unwrap();
    let parts: Vec<_> = pairs[..2]
        .iter()
        .map(|pair| {
            let (signer, signature) = verifier.sign_alone(&roots, 1, pair).unwrap();
            cumulet_hypercore::multisig::PartialSignature {
                signer,
                signature,
                patch: 0,
                nodes: Vec::new(),
            }
        })
        .collect();
    let signature = Bytes::from(assemble(&parts));
    assert!(matches!(
        core.truncate_signed(3, 1, signature.clone()),
        Err(WriteError::Refused(_))
    ));
    assert!(matches!(
        core.truncate_signed(2, 2, signature.clone()),
        Err(WriteError::Refused(_))
    ));
    assert_eq!((core.length(), core.fork()), (6, 0));
    core.truncate_signed(2, 1, signature).unwrap();
    assert_eq!((core.length(), core.fork()), (2, 1));
    assert_eq!(core.get(1).unwrap(), Some(blocks(2)[1].clone()));
    assert_eq!(core.get(2).unwrap(), None);
    assert_eq!(copy_of(&core).fork(), 0,);
}

#[test]
fn compat_cores_are_signed_as_javascript_signs_them_and_the_first_ones_without_a_namespace() {
    let words = || ["one", "two", "three"].map(Bytes::from).to_vec();
    let pair = || KeyPair::from_seed(&[7; 32]);
    let mut compat = Core::create_compat(MemoryStorage::new(), pair()).unwrap();
    compat.append_batch(words()).unwrap();
    assert_eq!(hex::encode(compat.signature().unwrap()), COMPAT_SIGNATURE);

    let core = Core::create_compat(MemoryStorage::new(), pair()).unwrap();
    let mut legacy = core.with_legacy_signatures();
    legacy.append_batch(words()).unwrap();
    assert_eq!(hex::encode(legacy.signature().unwrap()), LEGACY_SIGNATURE);

    let upgrade = Request {
        upgrade: Some(RequestUpgrade { start: 0, length: 3 }),
        ..Request::default()
    };
    let proof = legacy.create_proof(&upgrade).unwrap();
    let open = || Core::open(MemoryStorage::new(), *legacy.key()).unwrap();
    assert!(open().verify_and_apply(proof.clone()).is_err());
    let mut reader = open().with_legacy_signatures();
    reader.verify_and_apply(proof).unwrap();
    assert_eq!(reader.length(), 3);
}

#[test]
fn a_checkout_is_the_core_as_it_was_when_it_was_shorter() {
    let pair = KeyPair::from_seed(&[4; 32]);
    let manifest = Manifest::single(pair.public_key());
    let mut core = Core::create(MemoryStorage::new(), manifest, Some(pair)).unwrap();
    let mut hashes = vec![core.checkout(0).unwrap().tree_hash()];
    for block in blocks(9) {
        core.append(block).unwrap();
        hashes.push(core.roots().tree_hash());
    }
    for length in 0..=9 {
        let view = core.checkout(length).unwrap();
        assert_eq!(view.length(), length);
        assert_eq!(view.byte_length(), (1..=length).sum::<u64>());
        assert_eq!(view.tree_hash(), hashes[length as usize]);
        assert_eq!(view.get(length).unwrap(), None);
        if length > 0 {
            assert_eq!(view.get(length - 1).unwrap().unwrap().len() as u64, length);
        }
    }
    assert!(matches!(core.checkout(10), Err(WriteError::Moved)));
    core.truncate(4, None).unwrap();
    assert_eq!(core.checkout(4).unwrap().fork(), 1);
    assert_eq!(core.checkout(4).unwrap().tree_hash(), hashes[4]);
}

#[test]
fn user_data_is_kept_under_names_within_its_bounds() {
    let mut core = Core::open(MemoryStorage::new(), [3; 32]).unwrap();
    assert_eq!(core.user_data("a"), None);
    core.set_user_data("a", Some(Bytes::from("one"))).unwrap();
    core.set_user_data("b", Some(Bytes::new())).unwrap();
    core.set_user_data("a", Some(Bytes::from("two"))).unwrap();
    assert_eq!(core.user_data("a"), Some(Bytes::from("two")));
    assert_eq!(core.user_data("b"), Some(Bytes::new()));
    core.set_user_data("a", None).unwrap();
    assert_eq!(core.user_data("a"), None);
    let huge = Bytes::from(vec![0; cumulet_hypercore::core::MAX_USER_DATA_BYTES]);
    for (name, value) in [("b", huge.clone()), (&"n".repeat(1025)[..], Bytes::new())] {
        let refused = core.set_user_data(name, Some(value));
        assert!(matches!(refused, Err(WriteError::UserData)));
    }
    core.set_user_data("b", Some(huge.slice(1..))).unwrap();
    assert!(matches!(
        core.set_user_data("c", Some(Bytes::new())),
        Err(WriteError::UserData)
    ));
}
