//! Which cores are kept, for whom, and what is given back. In: requests, states of cores, time. Out: [`Order`]s.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use cumulet_hypercore::crypto::discovery_key;
use cumulet_relay::Key;
use cumulet_relay::blind_peer::{AddCore, CoreRecord};
use cumulet_relay::wakeup::CoreHint;

/// Hints told to a peer that wakes up a group: as many as JavaScript tells.
const HINTS: usize = 32;
/// Highest priority that a request may ask for.
const MAX_PRIORITY: u64 = 1;
/// An announced core that lacks more blocks than this looks for peers itself: JavaScript's threshold.
const MAX_LAG: u64 = 100;

/// What one identity may have kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Cores; further ones are refused.
    pub cores: usize,
    /// Bytes of blocks; beyond, its own least active cores give their blocks back.
    pub bytes: u64,
}

impl Default for Quota {
    /// 1024 cores, 10 GiB.
    fn default() -> Self {
        Self {
            cores: 1_024,
            bytes: 10 << 30,
        }
    }
}

/// What the peer makes of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may read what is kept, and have nothing kept.
    Reader,
    /// It may have cores kept.
    Member(Quota),
    /// It may also delete cores, anybody's, and have them announced and so pinned.
    Trusted(Quota),
}

/// Decides about identities (Ed25519 public keys, authenticated). Asked for every request. Must return at once.
pub trait Policy: Send + Sync + 'static {
    /// What this identity is.
    fn admission(&self, identity: &Key) -> Admission;
}

impl<F: Fn(&Key) -> Admission + Send + Sync + 'static> Policy for F {
    fn admission(&self, identity: &Key) -> Admission {
        self(identity)
    }
}

/// Bounds of the whole peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Cores. A record takes about 300 bytes of memory.
    pub cores: usize,
    /// Bytes of blocks of all cores that are not pinned.
    pub bytes: u64,
}

impl Default for Limits {
    /// 100,000 cores, 100 GB as JavaScript.
    fn default() -> Self {
        Self {
            cores: 100_000,
            bytes: 100_000_000_000,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is kept for this identity.
    #[error("Nothing is kept for peers that this blind peer does not know")]
    NotAdmitted,
    /// The identity has as many cores as it may.
    #[error("The quota of cores is used up")]
    QuotaUsed,
    /// The peer keeps as many cores as it can.
    #[error("This blind peer keeps as many cores as it can")]
    Full,
    /// In JavaScript's words.
    #[error("Only trusted peers can delete cores")]
    NotTrusted,
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Write the record to the journal.
    Persist(Key),
    /// Note in the journal that the record is gone.
    Forget(Key),
    /// Open the core and follow it, from this block on.
    Follow(Key, u64),
    /// Forget its blocks before this one; follow it from there.
    Clear(Key, u64),
    /// Delete the core from the store.
    Delete(Key),
    /// Tell those that wake up this group.
    Wake(Key, CoreHint),
    /// Which cores are announced has changed.
    Announced,
}

/// A core to be announced on the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Its key; the topic is its discovery key.
    pub key: Key,
    /// It is empty or far behind: look for peers of the topic as well, until everything is here.
    pub seeks_peers: bool,
}

/// A core as it stands in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoreSize {
    pub(crate) length: u64,
    pub(crate) byte_length: u64,
    pub(crate) contiguous_length: u64,
    /// Blocks held, wherever they are.
    pub(crate) held_blocks: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    record: CoreRecord,
    owner: Key,
    byte_length: u64,
    /// Blocks held from the first on.
    contiguous_length: u64,
    /// Blocks that are to be here and were not, when it was looked at last.
    lag: u64,
    /// Whether it looks for peers, if it is announced.
    seeks_peers: bool,
}

impl Kept {
    /// Sees what lies in the store; true if the core is announced and begins or ends to look for peers.
    fn compare(&mut self, size: &CoreSize) -> bool {
        self.contiguous_length = size.contiguous_length;
        self.byte_length = size.byte_length;
        let here = self.record.blocks_cleared.saturating_add(size.held_blocks);
        self.lag = size.length.saturating_sub(here);
        let seeks_peers = match self.lag {
            0 => size.length == 0,
            lag => lag > MAX_LAG || self.seeks_peers,
        };
        let has_changed = std::mem::replace(&mut self.seeks_peers, seeks_peers) != seeks_peers;
        has_changed && self.record.announce
    }
}

#[derive(Debug, Default)]
struct Account {
    cores: HashSet<Key>,
    bytes: u64,
}

/// A blind peer without its IO.
pub struct Keeper {
    limits: Limits,
    policy: Arc<dyn Policy>,
    kept: HashMap<Key, Kept>,
    accounts: HashMap<Key, Account>,
    /// Cores of each group; groups by their discovery key.
    groups: HashMap<Key, HashSet<Key>>,
    group_keys: HashMap<Key, Key>,
    bytes: u64,
    cleared_bytes: u64,
    orders: VecDeque<Order>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("cores", &self.kept.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// A peer that keeps nothing yet.
    pub fn new(limits: Limits, policy: Arc<dyn Policy>) -> Self {
        Self {
            limits,
            policy,
            kept: HashMap::new(),
            accounts: HashMap::new(),
            groups: HashMap::new(),
            group_keys: HashMap::new(),
            bytes: 0,
            cleared_bytes: 0,
            orders: VecDeque::new(),
        }
    }

    /// The next thing to be done.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// A record that was kept before; for the start.
    pub fn restore(&mut self, owner: Key, record: CoreRecord) {
        self.insert(owner, record);
    }

    /// A record of a backup, whatever quotas say now; nothing happens to a core that is kept.
    pub fn revive(&mut self, owner: Key, record: CoreRecord) {
        let key = record.key;
        if self.kept.contains_key(&key) {
            return;
        }
        if record.announce {
            self.orders.push_back(Order::Announced);
        }
        self.orders.push_back(Order::Persist(key));
        self.orders.push_back(Order::Follow(key, record.blocks_cleared));
        self.insert(owner, record);
    }

    /// Cores kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes of the blocks of all kept cores, by their own account: what they have or are about to have here.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Cores that lack blocks, of those that were looked at since the start.
    pub fn behind(&self) -> usize {
        self.kept.values().filter(|kept| kept.lag > 0).count()
    }

    /// Bytes given back since the start.
    pub fn cleared_bytes(&self) -> u64 {
        self.cleared_bytes
    }

    /// A core's record and who pays for it.
    pub fn record(&self, key: &Key) -> Option<(&CoreRecord, &Key)> {
        self.kept.get(key).map(|kept| (&kept.record, &kept.owner))
    }

    /// Everything that is kept.
    pub fn records(&self) -> impl Iterator<Item = (&CoreRecord, &Key)> {
        self.kept.values().map(|kept| (&kept.record, &kept.owner))
    }

    /// What is to be announced.
    pub fn announced(&self) -> impl Iterator<Item = Announced> {
        let announced = self.kept.values().filter(|kept| kept.record.announce);
        announced.map(|kept| Announced {
            key: kept.record.key,
            seeks_peers: kept.seeks_peers,
        })
    }

    /// What this identity is.
    pub fn admission(&self, identity: &Key) -> Admission {
        self.policy.admission(identity)
    }

    /// The group whose discovery key this is.
    pub fn group(&self, discovery_key: &Key) -> Option<Key> {
        self.group_keys.get(discovery_key).copied()
    }

    /// The cores of a group that had news last, at most 32.
    pub fn hints(&self, group: &Key) -> Vec<CoreHint> {
        let cores = self.groups.get(group).into_iter().flatten();
        let mut records: Vec<&CoreRecord> = cores
            .filter_map(|key| self.kept.get(key))
            .map(|kept| &kept.record)
            .filter(|record| record.length > 0)
            .collect();
        records.sort_unstable_by_key(|record| std::cmp::Reverse((record.updated, record.key)));
        let hint = |record: &&CoreRecord| CoreHint {
            key: record.key,
            length: record.length,
        };
        records.iter().take(HINTS).map(hint).collect()
    }

    /// Keeps a core. Who named it first pays; later requests only raise its priority, and announce it if they may.
    pub fn add(&mut self, now_ms: u64, identity: Key, request: &AddCore) -> Result<CoreRecord, Refusal> {
        let (quota, is_trusted) = match self.policy.admission(&identity) {
            Admission::Reader => return Err(Refusal::NotAdmitted),
            Admission::Member(quota) => (quota, false),
            Admission::Trusted(quota) => (quota, true),
        };
        let announce = request.announce && is_trusted;
        let priority = request.priority.min(MAX_PRIORITY);
        let key = request.key;
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.record.priority = kept.record.priority.max(priority);
            kept.record.active = now_ms;
            if announce && !kept.record.announce {
                kept.record.announce = true;
                self.orders.push_back(Order::Announced);
            }
            self.orders.push_back(Order::Persist(key));
        } else {
            let used = self
                .accounts
                .get(&identity)
                .map_or(0, |account| account.cores.len());
            if used >= quota.cores {
                return Err(Refusal::QuotaUsed);
            }
            if self.kept.len() >= self.limits.cores {
                return Err(Refusal::Full);
            }
            let record = CoreRecord {
                key,
                updated: now_ms,
                active: now_ms,
                priority,
                announce,
                referrer: request.referrer,
                ..CoreRecord::default()
            };
            self.insert(identity, record);
            self.orders.push_back(Order::Persist(key));
            if announce {
                self.orders.push_back(Order::Announced);
            }
        }
        let record = self
            .kept
            .get(&key)
            .map(|kept| kept.record.clone())
            .unwrap_or_default();
        self.orders.push_back(Order::Follow(key, record.blocks_cleared));
        Ok(record)
    }

    /// Whether a core that a client has this much of needs to be opened: JavaScript's test, which saves work.
    pub fn is_behind(&self, key: &Key, length: u64) -> bool {
        self.kept.get(key).is_none_or(|kept| {
            let record = &kept.record;
            record.announce || record.length != length || kept.contiguous_length < record.length
        })
    }

    fn insert(&mut self, owner: Key, record: CoreRecord) {
        let key = record.key;
        self.remove(&key);
        let account = self.accounts.entry(owner).or_default();
        account.cores.insert(key);
        account.bytes += record.bytes_allocated;
        self.bytes += record.bytes_allocated;
        if let Some(group) = record.referrer {
            self.groups.entry(group).or_default().insert(key);
            self.group_keys.insert(discovery_key(&group), group);
        }
        let byte_length = record.bytes_cleared + record.bytes_allocated;
        let seeks_peers = record.length == 0;
        self.kept.insert(
            key,
            Kept {
                record,
                owner,
                byte_length,
                contiguous_length: 0,
                lag: 0,
                seeks_peers,
            },
        );
    }

    fn remove(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.kept.remove(key)?;
        self.bytes -= kept.record.bytes_allocated;
        if let Some(account) = self.accounts.get_mut(&kept.owner) {
            account.cores.remove(key);
            account.bytes -= kept.record.bytes_allocated;
            if account.cores.is_empty() {
                self.accounts.remove(&kept.owner);
            }
        }
        if let Some(group) = kept.record.referrer
            && let Some(cores) = self.groups.get_mut(&group)
        {
            cores.remove(key);
            if cores.is_empty() {
                self.groups.remove(&group);
                self.group_keys.remove(&discovery_key(&group));
            }
        }
        Some(kept)
    }

    /// Forgets a core; whether it was kept.
    pub fn delete(&mut self, identity: &Key, key: &Key) -> Result<bool, Refusal> {
        let Admission::Trusted(_) = self.policy.admission(identity) else {
            return Err(Refusal::NotTrusted);
        };
        let Some(kept) = self.remove(key) else {
            return Ok(false);
        };
        self.orders.push_back(Order::Forget(*key));
        self.orders.push_back(Order::Delete(*key));
        if kept.record.announce {
            self.orders.push_back(Order::Announced);
        }
        Ok(true)
    }

    /// A core has changed in the store.
    pub(crate) fn on_size(&mut self, now_ms: u64, key: &Key, size: CoreSize) {
        let Some(kept) = self.kept.get_mut(key) else {
            return;
        };
        if kept.compare(&size) {
            self.orders.push_back(Order::Announced);
        }
        let record = &mut kept.record;
        // All blocks that are promised count, as soon as they are: a core that says to be large pays before it is.
        let allocated = size.byte_length.saturating_sub(record.bytes_cleared);
        let grew = size.length > record.length;
        if !grew && allocated == record.bytes_allocated {
            return;
        }
        let before = std::mem::replace(&mut record.bytes_allocated, allocated);
        record.length = size.length;
        if grew {
            record.updated = now_ms;
            record.active = now_ms;
        }
        let hint = CoreHint {
            key: *key,
            length: size.length,
        };
        let (owner, group) = (kept.owner, record.referrer);
        self.bytes = self.bytes - before + allocated;
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.bytes = account.bytes - before + allocated;
        }
        self.orders.push_back(Order::Persist(*key));
        if let (true, Some(group)) = (grew, group) {
            self.orders.push_back(Order::Wake(group, hint));
        }
        self.collect_garbage(&owner);
    }

    /// First the account that grew, then everybody together.
    fn collect_garbage(&mut self, owner: &Key) {
        let quota = match self.policy.admission(owner) {
            Admission::Reader => 0,
            Admission::Member(quota) | Admission::Trusted(quota) => quota.bytes,
        };
        let used = self.accounts.get(owner).map_or(0, |account| account.bytes);
        if used > quota {
            let own = self.accounts.get(owner).map(|account| account.cores.clone());
            self.give_back(own.into_iter().flatten(), used - quota);
        }
        if self.bytes > self.limits.bytes {
            let excess = self.bytes - self.limits.bytes;
            self.give_back(self.kept.keys().copied().collect::<Vec<_>>().into_iter(), excess);
        }
    }

    /// Clears cores, those first that were active longest ago, until `excess` bytes are free or none is left.
    fn give_back(&mut self, cores: impl Iterator<Item = Key>, excess: u64) {
        let clearable: BTreeMap<(u64, Key), u64> = cores
            .filter_map(|key| self.kept.get(&key))
            .filter(|kept| !kept.record.announce && kept.record.bytes_allocated > 0)
            .map(|kept| ((kept.record.active, kept.record.key), kept.record.bytes_allocated))
            .collect();
        let mut freed = 0;
        for ((_, key), bytes) in clearable {
            if freed >= excess {
                break;
            }
            freed += bytes;
            self.clear(&key);
        }
    }

    fn clear(&mut self, key: &Key) {
        let Some(kept) = self.kept.get_mut(key) else {
            return;
        };
        let record = &mut kept.record;
        let freed = std::mem::take(&mut record.bytes_allocated);
        record.blocks_cleared = record.length;
        record.bytes_cleared = kept.byte_length;
        self.bytes -= freed;
        self.cleared_bytes += freed;
        let (owner, upto) = (kept.owner, record.length);
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.bytes -= freed;
        }
        self.orders.push_back(Order::Persist(*key));
        self.orders.push_back(Order::Clear(*key, upto));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ALICE: Key = [1; 32];
    const BOB: Key = [2; 32];
    const TRUSTED: Key = [8; 32];

    fn keeper(limits: Limits, quota: Quota) -> Keeper {
        let policy = move |identity: &Key| match identity[0] {
            8 => Admission::Trusted(quota),
            9 => Admission::Reader,
            _ => Admission::Member(quota),
        };
        Keeper::new(limits, Arc::new(policy))
    }

    fn core(number: u8) -> AddCore {
        AddCore {
            key: [100 + number; 32],
            ..AddCore::default()
        }
    }

    fn size(length: u64, byte_length: u64) -> CoreSize {
        CoreSize {
            length,
            byte_length,
            contiguous_length: length,
            held_blocks: length,
        }
    }

    fn cleared(keeper: &mut Keeper) -> Vec<u8> {
        let mut cores = Vec::new();
        while let Some(order) = keeper.poll_order() {
            if let Order::Clear(key, _) = order {
                cores.push(key[0] - 100);
            }
        }
        cores
    }

    #[test]
    fn a_flood_stays_within_its_quota_and_the_others_keep_working() {
        let quota = Quota { cores: 3, bytes: 100 };
        let mut keeper = keeper(Limits::default(), quota);
        let answers: Vec<_> = (0..200).map(|n| keeper.add(0, ALICE, &core(n % 100))).collect();
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6);
        assert_eq!(keeper.add(0, ALICE, &core(50)), Err(Refusal::QuotaUsed));
        keeper.add(0, BOB, &core(60)).unwrap();
        assert_eq!(keeper.len(), 4);
        assert_eq!(keeper.add(0, [9; 32], &core(61)), Err(Refusal::NotAdmitted));
    }

    #[test]
    fn the_least_active_blocks_of_ones_own_are_given_back_first_and_pinned_ones_stay() {
        let quota = Quota { cores: 9, bytes: 100 };
        let mut keeper = keeper(Limits::default(), quota);
        for number in 0..3 {
            keeper.add(u64::from(number), ALICE, &core(number)).unwrap();
            keeper.on_size(u64::from(number), &core(number).key, size(4, 30));
        }
        keeper.add(0, BOB, &core(7)).unwrap();
        keeper.on_size(0, &core(7).key, size(1, 90));
        assert_eq!(cleared(&mut keeper), Vec::<u8>::new());
        // 30 + 30 + 60: the oldest goes, and one is enough.
        keeper.on_size(9, &core(2).key, size(8, 60));
        assert_eq!(cleared(&mut keeper), [0]);
        let record = keeper.record(&core(0).key).unwrap().0;
        assert_eq!(
            (
                record.blocks_cleared,
                record.bytes_cleared,
                record.bytes_allocated
            ),
            (4, 30, 0)
        );
        // Growth after it counts from there.
        keeper.on_size(10, &core(0).key, size(5, 35));
        assert_eq!(keeper.record(&core(0).key).unwrap().0.bytes_allocated, 5);
        // A core that is larger than the quota alone gives itself back; Bob's stays.
        keeper.on_size(11, &core(0).key, size(6, 5_000));
        assert!(cleared(&mut keeper).contains(&0));
        assert_eq!(keeper.record(&core(7).key).unwrap().0.bytes_allocated, 90);
        assert!(keeper.bytes() <= 2 * quota.bytes);
    }

    #[test]
    fn when_the_whole_peer_is_full_pinned_cores_keep_their_blocks() {
        let limits = Limits {
            bytes: 100,
            ..Limits::default()
        };
        let mut keeper = keeper(limits, Quota::default());
        let pinned = AddCore {
            announce: true,
            ..core(0)
        };
        assert!(keeper.add(0, TRUSTED, &pinned).unwrap().announce);
        assert!(
            !keeper
                .add(
                    1,
                    ALICE,
                    &AddCore {
                        key: core(1).key,
                        ..pinned
                    }
                )
                .unwrap()
                .announce
        );
        keeper.on_size(0, &core(0).key, size(1, 80));
        keeper.on_size(1, &core(1).key, size(1, 15));
        assert_eq!(cleared(&mut keeper), Vec::<u8>::new());
        keeper.add(2, BOB, &core(2)).unwrap();
        keeper.on_size(2, &core(2).key, size(1, 15));
        assert_eq!(cleared(&mut keeper), [1]);
    }

    #[test]
    fn an_announced_core_looks_for_peers_while_it_is_empty_or_far_behind() {
        let mut keeper = keeper(Limits::default(), Quota::default());
        let request = AddCore {
            announce: true,
            ..core(0)
        };
        keeper.add(0, TRUSTED, &request).unwrap();
        keeper.add(0, TRUSTED, &core(1)).unwrap();
        let mut seen = Vec::new();
        let partly = |length, held_blocks| CoreSize {
            held_blocks,
            ..size(length, length)
        };
        for size in [
            partly(5, 0),
            partly(5, 5),
            partly(100, 5),
            partly(200, 5),
            partly(200, 199),
            partly(200, 200),
        ] {
            while keeper.poll_order().is_some() {}
            let before: Vec<_> = keeper.announced().collect();
            keeper.on_size(0, &core(0).key, size);
            keeper.on_size(0, &core(1).key, size);
            let now: Vec<_> = keeper.announced().collect();
            let is_told = std::iter::from_fn(|| keeper.poll_order()).any(|order| order == Order::Announced);
            assert_eq!(is_told, before != now);
            assert_eq!((now.len(), now[0].key), (1, core(0).key));
            seen.push(now[0].seeks_peers);
        }
        assert_eq!(seen, [true, false, false, true, true, false]);
        keeper.delete(&TRUSTED, &core(0).key).unwrap();
        assert_eq!(keeper.announced().count(), 0);
    }

    #[test]
    fn only_trusted_identities_delete() {
        let mut keeper = keeper(Limits::default(), Quota::default());
        keeper.add(0, ALICE, &core(0)).unwrap();
        assert_eq!(keeper.delete(&ALICE, &core(0).key), Err(Refusal::NotTrusted));
        assert_eq!(keeper.delete(&TRUSTED, &core(0).key), Ok(true));
        assert_eq!(keeper.delete(&TRUSTED, &core(0).key), Ok(false));
        assert!(keeper.is_empty() && keeper.accounts.is_empty());
    }

    #[test]
    fn a_group_is_woken_up_by_growth_and_hears_of_its_latest_cores() {
        let mut keeper = keeper(Limits::default(), Quota::default());
        let group = [50; 32];
        for number in 0..40 {
            let request = AddCore {
                referrer: Some(group),
                ..core(number)
            };
            keeper.add(0, ALICE, &request).unwrap();
            keeper.on_size(u64::from(number), &request.key, size(1, 1));
        }
        let wakes =
            std::iter::from_fn(|| keeper.poll_order()).filter(|order| matches!(order, Order::Wake(..)));
        assert_eq!(wakes.count(), 40);
        let hints = keeper.hints(&group);
        assert_eq!((hints.len(), hints[0].key), (HINTS, core(39).key));
        assert_eq!(keeper.group(&discovery_key(&group)), Some(group));
    }
}
