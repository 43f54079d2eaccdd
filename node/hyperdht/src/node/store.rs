//! What a persistent node keeps for others: who is reachable through it, who is in which topic, and small values.
//!
//! Pure. Nothing is stored without a valid signature over a token of ours (or, for immutable values, the hash), and
//! everything is bounded in number and age (npm `hyperdht` `lib/persistent.js`).

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Hash;
use crate::crypto::{hash, verify};
use crate::expiring::Expiring;
use crate::messages::{
    Announce, LookupReply, MutablePut, MutableRecord, announce_signable, error_code, unannounce_signable,
    verify_mutable,
};

const RECORD_AGE: Duration = Duration::from_mins(20);
const VALUE_AGE: Duration = Duration::from_hours(48);
const MAX_RECORDS: usize = 65_536;
const MAX_VALUES: usize = 32_768;
/// Records of one topic in one reply.
const MAX_REPLY: usize = 20;
/// Records kept of one topic: enough that a reply is a fair sample, too few for one topic to push out all others.
const MAX_PER_TOPIC: usize = 1_024;
/// Relay addresses kept of one record.
const MAX_RELAYS: usize = 3;
/// How far in the future a bump may lie, milliseconds.
const MAX_BUMP_DRIFT_MS: u64 = 60_000;

/// A peer that announced itself here: handshakes for it go to `relay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) relay: SocketAddrV4,
    pub(super) record: Bytes,
}

/// A request as the store needs it: the token was valid, `node_id` is ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) from: SocketAddrV4,
    pub(super) target: &'a Hash,
    pub(super) token: &'a Hash,
    pub(super) node_id: &'a Hash,
    pub(super) value: &'a [u8],
    pub(super) unix_ms: u64,
}

#[derive(Debug)]
pub(super) struct Store {
    forwards: Expiring<Hash, Forward>,
    records: Expiring<(Hash, Hash), Bytes>,
    topics: HashMap<Hash, Vec<Hash>>,
    bumps: Expiring<Hash, u64>,
    mutables: Expiring<Hash, Bytes>,
    immutables: Expiring<Hash, Bytes>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            forwards: Expiring::new(MAX_RECORDS, RECORD_AGE),
            records: Expiring::new(MAX_RECORDS, RECORD_AGE),
            topics: HashMap::new(),
            bumps: Expiring::new(MAX_RECORDS, RECORD_AGE),
            mutables: Expiring::new(MAX_VALUES, VALUE_AGE),
            immutables: Expiring::new(MAX_VALUES, VALUE_AGE),
        }
    }

    /// Records and values kept now.
    pub(super) fn len(&self) -> usize {
        self.forwards.len() + self.records.len() + self.mutables.len() + self.immutables.len()
    }

    pub(super) fn forward(&self, target: &Hash) -> Option<&Forward> {
        self.forwards.get(target)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.forwards.expire(now);
        self.bumps.expire(now);
        self.mutables.expire(now);
        self.immutables.expire(now);
        let gone = self.records.expire(now);
        self.forget(gone);
    }

    fn forget(&mut self, gone: Vec<(Hash, Hash)>) {
        for (topic, public_key) in gone {
            if let Some(keys) = self.topics.get_mut(&topic) {
                keys.retain(|key| *key != public_key);
                if keys.is_empty() {
                    self.topics.remove(&topic);
                }
            }
        }
    }

    /// Up to 20 records of a topic, from a random place on; `own` is the record of a server that listens here.
    pub(super) fn lookup(&self, topic: &Hash, random: usize, own: Option<Bytes>) -> Option<Bytes> {
        let keys = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let start = random % keys.len().max(1);
        let (before, after) = keys.split_at(start.min(keys.len()));
        let mut records: Vec<Bytes> = after
            .iter()
            .chain(before)
            .filter_map(|key| self.records.get(&(*topic, *key)).cloned())
            .take(MAX_REPLY)
            .collect();
        if records.len() < MAX_REPLY {
            records.extend(own.or_else(|| self.forward(topic).map(|forward| forward.record.clone())));
        }
        let bump = self.bumps.get(topic).copied().unwrap_or(0);
        (!records.is_empty()).then(|| LookupReply::encode(&records, bump))
    }

    /// Stores an announcement; false when it is not valid, and then nothing is answered.
    pub(super) fn announce(&mut self, now: Instant, request: Signed<'_>) -> bool {
        let Ok(announce) = Announce::decode(request.value) else {
            return false;
        };
        let (Some(peer), Some(signature)) = (&announce.peer, &announce.signature) else {
            return false;
        };
        let signable = announce_signable(request.target, request.node_id, request.token, &announce);
        if !verify(&peer.public_key, &signable, signature) {
            return false;
        }
        let mut peer = peer.clone();
        peer.relay_addresses.truncate(MAX_RELAYS);
        let record = peer.encode();
        let (target, public_key) = (*request.target, peer.public_key);
        if hash(&[&public_key]) == target {
            self.forwards.insert(
                now,
                target,
                Forward {
                    relay: request.from,
                    record,
                },
            );
            self.remove_record(target, public_key);
            return true;
        }
        let current = self.bumps.get(&target).copied().unwrap_or(0);
        if announce.bump > current && announce.bump <= request.unix_ms + MAX_BUMP_DRIFT_MS {
            self.bumps.insert(now, target, announce.bump);
        }
        let keys = self.topics.entry(target).or_default();
        if !keys.contains(&public_key) {
            if keys.len() >= MAX_PER_TOPIC {
                let oldest = keys.remove(0);
                self.records.remove(&(target, oldest));
            }
            keys.push(public_key);
        }
        let gone = self.records.insert(now, (target, public_key), record);
        self.forget(gone);
        true
    }

    fn remove_record(&mut self, target: Hash, public_key: Hash) {
        if self.records.remove(&(target, public_key)).is_some() {
            self.forget(vec![(target, public_key)]);
        }
    }

    /// Removes an announcement; false when the request is not valid.
    pub(super) fn unannounce(&mut self, request: Signed<'_>) -> bool {
        let Ok(announce) = Announce::decode(request.value) else {
            return false;
        };
        let (Some(peer), Some(signature)) = (&announce.peer, &announce.signature) else {
            return false;
        };
        let signable = unannounce_signable(request.target, request.node_id, request.token, &announce);
        if !verify(&peer.public_key, &signable, signature) {
            return false;
        }
        if hash(&[&peer.public_key]) == *request.target {
            self.forwards.remove(request.target);
        }
        self.remove_record(*request.target, peer.public_key);
        true
    }

    /// Stores a signed value. `Ok(error code)` is answered, `Err` is not.
    pub(super) fn mutable_put(&mut self, now: Instant, target: &Hash, value: &[u8]) -> Result<u64, ()> {
        let put = MutablePut::decode(value).map_err(|_| ())?;
        let record = put.record;
        if hash(&[&put.public_key]) != *target
            || record.value.is_empty()
            || !verify_mutable(&put.public_key, &record)
        {
            return Err(());
        }
        if let Some(known) = self
            .mutables
            .get(target)
            .and_then(|known| MutableRecord::decode(known).ok())
        {
            if known.seq == record.seq && known.value != record.value {
                return Ok(error_code::SEQ_REUSED);
            }
            if record.seq < known.seq {
                return Ok(error_code::SEQ_TOO_LOW);
            }
        }
        self.mutables.insert(now, *target, record.encode());
        Ok(error_code::NONE)
    }

    /// The stored value, if its sequence number is at least `seq`.
    pub(super) fn mutable_get(&self, target: &Hash, seq: u64) -> Option<Bytes> {
        let value = self.mutables.get(target)?;
        MutableRecord::decode(value)
            .is_ok_and(|record| record.seq >= seq)
            .then(|| value.clone())
    }

    /// Stores a value under its hash; false when it does not match.
    pub(super) fn immutable_put(&mut self, now: Instant, target: &Hash, value: Bytes) -> bool {
        let matches = hash(&[&value]) == *target;
        if matches {
            self.immutables.insert(now, *target, value);
        }
        matches
    }

    pub(super) fn immutable_get(&self, target: &Hash) -> Option<Bytes> {
        self.immutables.get(target).cloned()
    }
}
