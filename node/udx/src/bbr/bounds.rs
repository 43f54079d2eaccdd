//! How much may fly on a path whose queue overflows: the bounds of BBR version 3 (draft-ietf-ccwg-bbr-04, the `ProbeBW` phases of section
//! 5.3.3 and the bounds of section 5.5.10). Without them BBR keeps twice what fills the path in flight and takes nearly all of a short queue
//! from streams that give way when they lose.
//!
//! - The long-term bound is what flew when too much of it was lost. A stream cruises below it, with some room for others, and looks for
//!   more every two or three seconds, or as often as a Reno stream of the same size would.
//! - The short-term bound follows what is delivered while losses go on between two such looks.
//!
//! Four things differ from the draft. Homes lose packets at random: a loss counts only if packets also wait in a queue, and if more are lost
//! than the path loses when none wait; or if it is as large as no radio link's ([`PLAIN_SHARE`]). libudx's version 1 never gives way, and
//! would leave a tenth to a stream that always does: who still loses in many rounds below its bound does without one for a while. And a
//! bound that nothing comes up against is forgotten. Without a bound the stream is one of version 1.

use super::{MIN_WINDOW, Micros};
use crate::clock::{MILLISECOND, SECOND};

/// Share of what flew that may be lost: the draft's `LossThresh`.
const LOSS_SHARE: f64 = 0.02;
/// Share that is congestion although nobody seems to wait: a queue too short to be seen.
const PLAIN_SHARE: f64 = 0.1;
/// One packet of a few is more than any share.
const LEAST_LOST: u32 = 2;
/// What is kept of the window when too much is lost: the draft's `Beta`.
const KEPT: f64 = 0.7;
/// What a stream leaves to others between looks: the draft's `Headroom`.
const HEADROOM: f64 = 0.15;
/// Time between two looks for more bandwidth, and what chance adds.
const PROBE_WAIT: Micros = 2 * SECOND;
const PROBE_WAIT_CHANCE: Micros = SECOND;
/// Rounds after which a stream looks for more although the time has not come: a Reno stream of so many packets has grown by as many.
const MOST_ROUNDS: u32 = 63;
/// Rounds that a look lasts at most: an application with nothing to send, or a peer's window, may never fill the path.
const LOOK_ROUNDS: u32 = 8;
/// A queue is there when packets take so many times as long as the fastest did, and longer by what timers are late or by as many packets.
const QUEUED: f64 = 1.05;
const QUEUED_LEAST: Micros = MILLISECOND;
const QUEUED_PACKETS: f64 = 2.0;
/// Packets, about, over which the path's own losses are remembered, and as how many without a loss nothing is known of them.
const REMEMBERED: f64 = 2_000.0;
const UNKNOWN: f64 = 20.0;
/// Chance makes some flights lose more than others.
const DEVIATIONS: f64 = 3.0;
/// Looks in a row without a loss after which the bound is forgotten.
const FREE_LOOKS: u32 = 3;
/// Losses in so many of the rounds below the bound, of so many at least, are those of a stream that does not give way. Beside one of version 1
/// simulations see a third of all rounds, beside a Reno or CUBIC stream one in thirty.
const STUBBORN_SHARE: f64 = 0.2;
const STUBBORN_ROUNDS: u32 = 16;
/// Rounds of which the older half is then forgotten.
const STUBBORN_MEMORY: u32 = 64;
/// How long a stream does without a bound beside such a one.
const STUBBORN_TIME: Micros = 10 * SECOND;
/// How fast a stream sends in a phase, beside the bandwidth it knows: as in version 1.
const DOWN_GAIN: f64 = 0.75;
const UP_GAIN: f64 = 1.25;

/// Phases of a stream with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Empties what the last look left in the queue.
    Down,
    Cruise,
    /// Fills the path up to the bound, so that what is lost afterwards is the bound's fault.
    Refill,
    Up,
}

/// Packets lost since one of them was sent, and how many flew then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) since_sent: u32,
    pub(crate) flew: u32,
}

impl Lost {
    /// The first of many that were lost together is as good as the last: what counts is the largest share.
    pub(crate) fn worse(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let share = |lost: &Self| f64::from(lost.since_sent) / f64::from(lost.flew.max(1));
        one.into_iter()
            .chain(other)
            .max_by(|a, b| share(a).total_cmp(&share(b)))
    }
}

/// What the path loses when nothing waits in its queue.
#[derive(Clone, Copy, Debug, Default)]
struct Alone {
    lost: f64,
    packets: f64,
}

impl Alone {
    fn note(&mut self, lost: u32, delivered: u32) {
        self.lost += f64::from(lost);
        self.packets += f64::from(lost) + f64::from(delivered);
        if self.packets > REMEMBERED {
            let kept = REMEMBERED / self.packets;
            self.lost *= kept;
            self.packets *= kept;
        }
    }

    fn share(&self) -> f64 {
        (self.lost / (self.packets + UNKNOWN)).min(PLAIN_SHARE)
    }
}

/// Whether packets wait in a queue.
pub(super) fn is_queued(smoothed: Micros, min: Micros, bandwidth: f64) -> bool {
    let packets = QUEUED_PACKETS / bandwidth;
    smoothed as f64 > min as f64 * QUEUED + packets.max(QUEUED_LEAST as f64)
}

#[derive(Debug)]
pub(super) struct Bounds {
    alone: Alone,
    was_queued: bool,
    /// Rounds below the bound, and how many of them lost too much.
    cruised: u32,
    congested_rounds: u32,
    /// Nobody gave way: until then losses don't bound.
    stubborn_until: Micros,
    pub(super) phase: Phase,
    phase_at: Micros,
    long_term: Option<u32>,
    short_term: Option<u32>,
    /// Losses speak about the long-term bound: it was looked for more, and nothing lost yet.
    judges: bool,
    round_congested: bool,
    probe_wait: Micros,
    /// Rounds since the last look ended, or this one began.
    rounds: u32,
    /// Rounds in which the bound was raised, and packets that count for the next step.
    raise: u32,
    raised_acks: u32,
    looks_without_loss: u32,
}

/// What the bounds need to know of the rest of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) now: Micros,
    pub(super) round_start: bool,
    pub(super) in_flight: u32,
    pub(super) acked: u32,
    /// Packets delivered in the round before.
    pub(super) delivered: u32,
    pub(super) window: u32,
    /// Packets that fill the path, and with what a look adds.
    pub(super) full: u32,
    pub(super) over_full: u32,
    pub(super) rtt: Micros,
}

impl Bounds {
    pub(super) fn new() -> Self {
        Self {
            alone: Alone::default(),
            was_queued: false,
            cruised: 0,
            congested_rounds: 0,
            stubborn_until: 0,
            phase: Phase::Down,
            phase_at: 0,
            long_term: None,
            short_term: None,
            judges: true,
            round_congested: false,
            probe_wait: PROBE_WAIT,
            rounds: 0,
            raise: 0,
            raised_acks: 0,
            looks_without_loss: 0,
        }
    }

    pub(super) fn apply(&self) -> bool {
        self.long_term.is_some()
    }

    /// Whether these losses mean that a queue overflowed: more is lost than the path loses when no packets wait, and packets wait now;
    /// or much more.
    pub(super) fn is_congestion(&self, lost: Lost, queued: bool) -> bool {
        let flew = f64::from(lost.flew);
        let alone = self.alone.share();
        let more = if queued { LOSS_SHARE } else { PLAIN_SHARE };
        let allowed = flew * (alone + more) + DEVIATIONS * (flew * alone).sqrt();
        lost.since_sent >= LEAST_LOST && f64::from(lost.since_sent) > allowed
    }

    /// A round ended in which so many were lost and delivered.
    pub(super) fn note_round(&mut self, lost: u32, delivered: u32, queued: bool) {
        if !queued && !self.was_queued {
            self.alone.note(lost, delivered);
        }
        self.was_queued = queued;
    }

    /// More was lost than a path loses by itself.
    pub(super) fn on_congestion(&mut self, lost: Lost, path: &Path) {
        self.round_congested = true;
        if self.long_term.is_none() && path.now > self.stubborn_until {
            self.judges = true;
        }
        if !self.judges {
            return;
        }
        self.judges = false;
        let kept = f64::from(path.full.min(path.window)) * KEPT;
        self.long_term = Some(lost.flew.max(kept as u32).max(MIN_WINDOW));
        self.looks_without_loss = 0;
        self.go_down(path);
    }

    fn go_down(&mut self, path: &Path) {
        self.phase = Phase::Down;
        self.phase_at = path.now;
        self.rounds = 0;
        // Not all streams of a path at the same time: the packets they delivered differ.
        let chance = u64::from(path.delivered.wrapping_mul(2_654_435_761)) % PROBE_WAIT_CHANCE;
        self.probe_wait = PROBE_WAIT + chance;
    }

    /// Moves on; call it for each acknowledgement while bandwidth is probed for and the bounds apply.
    pub(super) fn update(&mut self, path: &Path) {
        if path.round_start {
            self.rounds += 1;
            self.end_round(path);
        }
        let Some(bound) = self.long_term else { return };
        match self.phase {
            Phase::Down | Phase::Cruise => {
                let reno = path.full.min(path.window).min(MOST_ROUNDS);
                if path.now.saturating_sub(self.phase_at) > self.probe_wait || self.rounds >= reno {
                    self.refill(path);
                } else if self.phase == Phase::Down && path.in_flight <= below(bound).min(path.full) {
                    self.phase = Phase::Cruise;
                }
            }
            Phase::Refill if path.round_start => {
                self.phase = Phase::Up;
                self.phase_at = path.now;
                self.judges = true;
                (self.rounds, self.raise, self.raised_acks) = (0, 0, 0);
            }
            Phase::Refill => {}
            Phase::Up => {
                self.raise_bound(bound, path);
                let long = path.now.saturating_sub(self.phase_at) > path.rtt;
                if long && path.in_flight >= path.over_full || self.rounds >= LOOK_ROUNDS {
                    self.end_probe(path);
                }
            }
        }
    }

    fn refill(&mut self, path: &Path) {
        if self.cruised >= STUBBORN_ROUNDS
            && f64::from(self.congested_rounds) > f64::from(self.cruised) * STUBBORN_SHARE
        {
            self.forget();
            self.judges = false;
            self.stubborn_until = path.now + STUBBORN_TIME;
            return;
        }
        if self.cruised >= STUBBORN_MEMORY {
            self.cruised /= 2;
            self.congested_rounds /= 2;
        }
        self.phase = Phase::Refill;
        self.phase_at = path.now;
        self.short_term = None;
        self.round_congested = false;
    }

    /// Twice as much per round as in the round before, as long as the bound is what holds the stream back.
    fn raise_bound(&mut self, bound: u32, path: &Path) {
        if path.in_flight + path.acked < bound {
            return;
        }
        self.raised_acks += path.acked;
        let per_packet = (path.window >> self.raise.min(30)).max(1);
        self.long_term = Some(bound + self.raised_acks / per_packet);
        self.raised_acks %= per_packet;
        if path.round_start {
            self.raise += 1;
        }
    }

    /// A look ended without a loss. After a few of these what overflowed is gone.
    fn end_probe(&mut self, path: &Path) {
        self.looks_without_loss += 1;
        if self.looks_without_loss >= FREE_LOOKS {
            self.forget();
        } else {
            self.go_down(path);
        }
    }

    /// As if there had never been a bound.
    fn forget(&mut self) {
        *self = Self {
            alone: self.alone,
            was_queued: self.was_queued,
            ..Self::new()
        };
    }

    fn end_round(&mut self, path: &Path) {
        let congested = std::mem::take(&mut self.round_congested);
        if self.long_term.is_none() || !matches!(self.phase, Phase::Down | Phase::Cruise) {
            return;
        }
        self.cruised += 1;
        self.congested_rounds += u32::from(congested);
        if congested {
            let kept = f64::from(self.short_term.unwrap_or(path.window)) * KEPT;
            self.short_term = Some(path.delivered.max(kept as u32));
        }
    }

    /// How fast a stream with a bound sends, beside the bandwidth it knows.
    pub(super) fn gain(&self) -> f64 {
        match self.phase {
            Phase::Down => DOWN_GAIN,
            Phase::Cruise | Phase::Refill => 1.0,
            Phase::Up => UP_GAIN,
        }
    }

    /// Most packets that may fly.
    pub(super) fn most(&self) -> u32 {
        let long_term = match (self.long_term, self.phase) {
            (Some(bound), Phase::Cruise) => below(bound),
            (Some(bound), _) => bound,
            (None, _) => u32::MAX,
        };
        long_term.min(self.short_term.unwrap_or(u32::MAX)).max(MIN_WINDOW)
    }

    pub(super) fn scale(&mut self, factor: f64) {
        let scaled = |bound: u32| ((f64::from(bound) * factor) as u32).max(MIN_WINDOW);
        self.long_term = self.long_term.map(scaled);
        self.short_term = self.short_term.map(scaled);
    }
}

fn below(bound: u32) -> u32 {
    bound - ((f64::from(bound) * HEADROOM) as u32).clamp(1, bound)
}
