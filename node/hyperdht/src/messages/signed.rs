//! What announcements and mutable values sign.

use cumulet_encoding::Writer;
use ed25519_dalek::SigningKey;

use super::{Announce, MutableRecord, PeerRecord, command};
use crate::Hash;
use crate::crypto::{hash, namespace, sign, verify};

fn record_signable(
    namespace: &Hash,
    target: &Hash,
    node_id: &Hash,
    token: &Hash,
    announce: &Announce,
) -> Vec<u8> {
    let peer = announce.peer.as_ref().map(PeerRecord::encode).unwrap_or_default();
    let refresh = announce.refresh.as_ref().map_or(&[][..], |refresh| &refresh[..]);
    [
        namespace.as_slice(),
        &hash(&[target, node_id, token, &peer, refresh]),
    ]
    .concat()
}

/// What an ANNOUNCE to the node `node_id` under its `token` signs. `bump` is not part of it.
pub(crate) fn announce_signable(target: &Hash, node_id: &Hash, token: &Hash, announce: &Announce) -> Vec<u8> {
    record_signable(
        &namespace(command::ANNOUNCE as u8),
        target,
        node_id,
        token,
        announce,
    )
}

/// The same for UNANNOUNCE.
pub(crate) fn unannounce_signable(
    target: &Hash,
    node_id: &Hash,
    token: &Hash,
    announce: &Announce,
) -> Vec<u8> {
    record_signable(
        &namespace(command::UNANNOUNCE as u8),
        target,
        node_id,
        token,
        announce,
    )
}

/// A signed value for ANNOUNCE (`announcing`) or UNANNOUNCE.
pub(crate) fn sign_announce(
    key: &SigningKey,
    announcing: bool,
    target: &Hash,
    node: (&Hash, &Hash),
    relay_addresses: &[std::net::SocketAddrV4],
) -> Announce {
    let (node_id, token) = node;
    let public_key = key.verifying_key().to_bytes();
    let peer = PeerRecord {
        public_key,
        relay_addresses: relay_addresses.to_vec(),
    };
    let mut announce = Announce {
        peer: Some(peer),
        refresh: None,
        signature: None,
        bump: 0,
    };
    let signable = if announcing {
        announce_signable
    } else {
        unannounce_signable
    };
    announce.signature = Some(sign(key, &signable(target, node_id, token, &announce)));
    announce
}

/// What a mutable value's signature covers.
pub(crate) fn mutable_signable(seq: u64, value: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.uint(seq).buffer(value);
    [namespace(command::MUTABLE_PUT as u8), hash(&[writer.as_slice()])].concat()
}

pub(crate) fn sign_mutable(key: &SigningKey, seq: u64, value: &[u8]) -> MutableRecord {
    let signature = sign(key, &mutable_signable(seq, value));
    MutableRecord {
        seq,
        value: bytes::Bytes::copy_from_slice(value),
        signature,
    }
}

pub(crate) fn verify_mutable(public_key: &Hash, record: &MutableRecord) -> bool {
    verify(
        public_key,
        &mutable_signable(record.seq, &record.value),
        &record.signature,
    )
}
