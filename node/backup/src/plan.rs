//! What to ship next: the decisions of one core's backup, without I/O.
//!
//! [`CorePlan`] is told what changed, what the store has and what was put, and says the next [`Step`]. Time comes in as
//! the duration since any fixed start.
//!
//! Invariants:
//! - a head is put only after every segment it names is known to be in the store;
//! - nothing that the store has is put again, also after a restart: the first step is to list what is there;
//! - a failure loses nothing: what to ship is always derived from the core, so the plan waits and looks again;
//! - what is waiting is bounded by the core itself: references to segments, never their bytes.
//!
//! Merkle subtrees that are still being filled (a download in any order) are held back until they are quiet, so that a
//! download does not leave thousands of one-block objects behind. A log that grows at its end has none of those.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::names::{HeadName, MAX_REPAIRS, SegmentName};

/// Objects of one core that are put at the same time. Each costs one request's round trip and up to 16 MiB of memory; the
/// driver bounds them over all cores too.
pub const PARALLEL_PUTS: usize = 4;
/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failures: an outage that ends is noticed within a minute.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Held-back subtrees are shipped after this many `max_lag`s even if they never become quiet.
const HOLD_BACK_LAGS: u32 = 12;

/// What changes when a core changes: two equal marks mean that there is nothing new to ship.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeMark {
    /// Fork counter.
    pub fork: u64,
    /// Signed length in blocks.
    pub length: u64,
    /// Any number that changes whenever a block is stored or cleared, for example the count of changes so far.
    pub changes: u64,
}

/// What a core wants in the store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The core when the snapshot was taken.
    pub mark: ChangeMark,
    /// Segments that the head names.
    pub segments: Vec<SegmentName>,
    /// The head.
    pub head: HeadName,
    /// Blocks are held that the head does not name, because their subtrees are still being filled.
    pub held_back: bool,
}

/// What the driver shall do. It reports each with the method of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// List the core's objects: [`CorePlan::listed`].
    List,
    /// Look at the core: [`CorePlan::snapshot`]. `everything`: also subtrees that are still being filled.
    Snapshot {
        /// Hold nothing back.
        everything: bool,
    },
    /// Put one segment under the name with this repair suffix: [`CorePlan::segment_put`].
    PutSegment(SegmentName, u8),
    /// Put the head of the last snapshot: [`CorePlan::head_put`].
    PutHead(HeadName, u8),
    /// Nothing before this time, unless [`CorePlan::changed`] or another input comes.
    WaitUntil(Duration),
    /// Nothing until an input comes.
    Wait,
}

/// How far the backup of one core is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durable {
    /// Fork of [`Self::length`].
    pub fork: u64,
    /// The largest signed length whose held blocks are all in the store.
    pub length: u64,
}

enum Phase {
    /// The store was not listed yet.
    Unlisted,
    Listing,
    Idle,
    Snapshotting,
    Shipping(Shipping),
}

struct Shipping {
    snapshot: Snapshot,
    queue: VecDeque<SegmentName>,
    /// With the repair suffix.
    in_flight: HashMap<SegmentName, u8>,
    head_in_flight: bool,
    /// A step failed: finish what is in flight, start nothing, look at the core again after the pause.
    failed: bool,
}

/// The plan for one core.
pub struct CorePlan {
    max_lag: Duration,
    random: u64,
    phase: Phase,
    mark: ChangeMark,
    shipped: Option<ChangeMark>,
    durable: Durable,
    /// When the oldest change came that no snapshot has seen.
    changed_since: Option<Duration>,
    /// When the oldest change of the snapshot being shipped came.
    shipping_since: Option<Duration>,
    /// When the oldest change came that is held back.
    held_back_since: Option<Duration>,
    last_change: Duration,
    flush: bool,
    failures: u32,
    not_before: Duration,
    segments: Copies<SegmentName>,
    heads: Copies<HeadName>,
}

impl CorePlan {
    /// A plan that ships each change within about `max_lag`. `seed` spreads the retries of many cores and nodes.
    pub fn new(max_lag: Duration, seed: u64) -> Self {
        Self {
            max_lag,
            random: seed,
            phase: Phase::Unlisted,
            mark: ChangeMark::default(),
            shipped: None,
            durable: Durable::default(),
            changed_since: None,
            shipping_since: None,
            held_back_since: None,
            last_change: Duration::ZERO,
            flush: false,
            failures: 0,
            not_before: Duration::ZERO,
            segments: Copies::default(),
            heads: Copies::default(),
        }
    }

    /// The core is in this state now; may be called as often as one likes.
    pub fn changed(&mut self, mark: ChangeMark, now: Duration) {
        if mark != self.mark
            || (self.shipped.is_none() && self.changed_since.is_none() && self.shipping_since.is_none())
        {
            self.mark = mark;
            self.last_change = now;
            self.changed_since.get_or_insert(now);
        }
    }

    /// Ship everything now, without waiting for more changes or for subtrees to become quiet.
    pub fn flush(&mut self, now: Duration) {
        self.flush = true;
        self.not_before = self.not_before.min(now);
        if self.dirty_since().is_none() && self.shipped.is_none() {
            self.changed_since = Some(now);
        }
    }

    /// An object that the store has is damaged: if it has no good copy, one shall go beside it, if the core holds the
    /// blocks.
    pub fn damaged_segment(&mut self, name: SegmentName, repair: u8, now: Duration) {
        if self.segments.damaged(name, repair) {
            self.changed_since.get_or_insert(now);
        }
    }

    /// A head object is damaged: a good copy shall go beside it, if it is still the core's head.
    pub fn damaged_head(&mut self, name: HeadName, repair: u8, now: Duration) {
        if self.heads.damaged(name, repair) {
            self.changed_since.get_or_insert(now);
        }
    }

    /// How far the backup is.
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Everything that the core holds is in the store, as far as the plan was told.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.dirty_since().is_none() && !self.flush
    }

    /// Every change that came until this time is in the store, as far as the plan was told.
    pub fn has_shipped_until(&self, time: Duration) -> bool {
        self.dirty_since().is_none_or(|since| since > time)
    }

    /// How long the oldest change waits that is not in the store yet.
    pub fn lag(&self, now: Duration) -> Duration {
        self.dirty_since()
            .map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Segments that wait for their turn or are on their way.
    pub fn backlog(&self) -> usize {
        match &self.phase {
            Phase::Shipping(shipping) => shipping.queue.len() + shipping.in_flight.len(),
            _ => 0,
        }
    }

    fn dirty_since(&self) -> Option<Duration> {
        [self.changed_since, self.shipping_since, self.held_back_since]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do. Call again until it answers [`Step::Wait`] or [`Step::WaitUntil`].
    pub fn poll(&mut self, now: Duration) -> Step {
        if let Phase::Shipping(_) = self.phase {
            return self.poll_shipping();
        }
        if now < self.not_before {
            return Step::WaitUntil(self.not_before);
        }
        match self.phase {
            Phase::Unlisted if self.dirty_since().is_some() => {
                self.phase = Phase::Listing;
                Step::List
            }
            Phase::Idle => self.poll_idle(now),
            _ => Step::Wait,
        }
    }

    fn poll_idle(&mut self, now: Duration) -> Step {
        if self.dirty_since().is_none() {
            self.flush = false;
            return Step::Wait;
        }
        let due = if self.flush { now } else { self.due() };
        if now < due {
            return Step::WaitUntil(due);
        }
        let quiet = now >= self.last_change + self.max_lag;
        let waited = self
            .held_back_since
            .is_some_and(|since| now >= since + self.max_lag * HOLD_BACK_LAGS);
        self.phase = Phase::Snapshotting;
        Step::Snapshot {
            everything: self.flush || quiet || waited,
        }
    }

    /// Half of the lag is for collecting changes, the other half for shipping them.
    fn due(&self) -> Duration {
        let changed = self.changed_since.map(|since| since + self.max_lag / 2);
        let held_back = self
            .held_back_since
            .map(|since| (self.last_change + self.max_lag).min(since + self.max_lag * HOLD_BACK_LAGS));
        [changed, held_back]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_default()
    }

    fn poll_shipping(&mut self) -> Step {
        let Phase::Shipping(shipping) = &mut self.phase else {
            return Step::Wait;
        };
        if shipping.failed || shipping.head_in_flight || shipping.in_flight.len() >= PARALLEL_PUTS {
            return Step::Wait;
        }
        if let Some(segment) = shipping.queue.pop_front() {
            let repair = self.segments.next(&segment);
            shipping.in_flight.insert(segment, repair);
            return Step::PutSegment(segment, repair);
        }
        if !shipping.in_flight.is_empty() {
            return Step::Wait;
        }
        let head = shipping.snapshot.head;
        if self.heads.has(&head) {
            self.shipped_all();
            return Step::Wait;
        }
        shipping.head_in_flight = true;
        Step::PutHead(head, self.heads.next(&head))
    }

    /// What the store has: the names of this core, with their repair suffixes.
    pub fn listed(
        &mut self,
        segments: impl IntoIterator<Item = (SegmentName, u8)>,
        heads: impl IntoIterator<Item = (HeadName, u8)>,
    ) {
        for (name, repair) in segments {
            self.segments.found(name, repair);
        }
        for (name, repair) in heads {
            self.heads.found(name, repair);
        }
        self.failures = 0;
        self.phase = Phase::Idle;
    }

    /// What the core wants in the store; `None`: the core has no signed head, so there is nothing to ship.
    pub fn snapshot(&mut self, snapshot: Option<Snapshot>) {
        let since = self.dirty_since();
        self.changed_since = None;
        let Some(snapshot) = snapshot else {
            self.held_back_since = None;
            self.shipped = Some(self.mark);
            self.flush = false;
            self.phase = Phase::Idle;
            return;
        };
        self.shipping_since = since;
        let mut wanted = BTreeSet::new();
        wanted.extend(
            snapshot
                .segments
                .iter()
                .filter(|segment| !self.segments.has(segment)),
        );
        let shipping = Shipping {
            snapshot,
            queue: wanted.into_iter().collect(),
            in_flight: HashMap::new(),
            head_in_flight: false,
            failed: false,
        };
        self.phase = Phase::Shipping(shipping);
    }

    /// A segment is in the store: put just now, or found there.
    pub fn segment_put(&mut self, segment: SegmentName) {
        self.failures = 0;
        if let Phase::Shipping(shipping) = &mut self.phase
            && let Some(repair) = shipping.in_flight.remove(&segment)
        {
            self.segments.found(segment, repair);
        }
        self.end_failed();
    }

    /// The head is in the store.
    pub fn head_put(&mut self, head: HeadName) {
        self.heads.found(head, self.heads.next(&head));
        self.failures = 0;
        self.shipped_all();
    }

    fn shipped_all(&mut self) {
        let Phase::Shipping(shipping) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        let Snapshot {
            mark,
            head,
            held_back,
            ..
        } = shipping.snapshot;
        if held_back {
            self.held_back_since = self.held_back_since.or(self.shipping_since);
        } else {
            self.held_back_since = None;
            self.shipped = Some(mark);
            self.durable = Durable {
                fork: head.fork,
                length: head.length,
            };
            // A flush is over when nothing came after the snapshot that shipped everything.
            self.flush &= self.changed_since.is_some();
        }
        self.shipping_since = None;
    }

    /// A step failed. `segment` names it if it was a put of a segment. The plan waits, longer each time, and then looks
    /// at the core again.
    pub fn failed(&mut self, segment: Option<SegmentName>, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_PAUSE);
        // Between a half and all of the pause, so that many cores and nodes do not come back at once.
        let jitter = pause / 2 * (self.next_random() >> 40) as u32 / (1 << 24);
        self.not_before = self.not_before.max(now + pause / 2 + jitter);
        match &mut self.phase {
            Phase::Unlisted | Phase::Listing => self.phase = Phase::Unlisted,
            Phase::Idle | Phase::Snapshotting => self.phase = Phase::Idle,
            Phase::Shipping(shipping) => {
                shipping.failed = true;
                shipping.head_in_flight = false;
                if let Some(segment) = segment {
                    shipping.in_flight.remove(&segment);
                }
            }
        }
        self.end_failed();
    }

    fn end_failed(&mut self) {
        let done = matches!(&self.phase, Phase::Shipping(s) if s.failed && s.in_flight.is_empty() && !s.head_in_flight);
        if done {
            self.phase = Phase::Idle;
            self.changed_since = [self.changed_since, self.shipping_since.take()]
                .into_iter()
                .flatten()
                .min();
        }
    }

    /// SplitMix64: enough to spread retries.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Which copies of objects the store has, by repair suffix, one bit each.
struct Copies<N>(HashMap<N, Known>);

#[derive(Default)]
struct Known {
    seen: u128,
    damaged: u128,
}

impl<N> Default for Copies<N> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<N: Eq + Hash> Copies<N> {
    fn found(&mut self, name: N, repair: u8) {
        self.0.entry(name).or_default().seen |= bit(repair);
    }

    /// Whether the last good copy is gone by this.
    fn damaged(&mut self, name: N, repair: u8) -> bool {
        let known = self.0.entry(name).or_default();
        let had = known.seen & !known.damaged != 0;
        known.damaged |= bit(repair);
        had && known.seen & !known.damaged == 0
    }

    fn has(&self, name: &N) -> bool {
        self.0
            .get(name)
            .is_some_and(|known| known.seen & !known.damaged != 0)
    }

    /// The next free suffix.
    fn next(&self, name: &N) -> u8 {
        let taken = self.0.get(name).map_or(0, |known| known.seen | known.damaged);
        // At most 128 fits a byte.
        ((u128::BITS - taken.leading_zeros()) as u8).min(MAX_REPAIRS)
    }
}

fn bit(repair: u8) -> u128 {
    1 << repair.min(MAX_REPAIRS)
}
