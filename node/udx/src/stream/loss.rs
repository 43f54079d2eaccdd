//! Finding losses: RACK by time, tail loss probes, the retransmission timeout (RFC 8985), and every other timer.

use super::{Closed, MAX_TIMEOUTS, Micros, Stream};
use crate::{
    bbr::{Lost, Recovery},
    clock::{MILLISECOND, SECOND},
    send::Fate,
};

/// Tail probes without a round trip estimate.
const TAIL_PROBE_INITIAL: Micros = SECOND;
/// A peer may delay the acknowledgement of a single packet by this much.
const TAIL_PROBE_ACK_DELAY: Micros = 2 * MILLISECOND;
/// Selectively acknowledged packets after which reordering is no excuse, unless it was seen on this path.
const DUPLICATE_THRESHOLD: u32 = 3;

impl Stream {
    /// The next moment at which [`on_timeout`](Self::on_timeout) must be called; may change with every input.
    pub fn poll_timeout(&self) -> Option<Micros> {
        let timers = &self.timers;
        [
            timers.retransmit,
            timers.tail_probe,
            timers.reordering,
            timers.window_probe,
            timers.keep_alive,
            timers.pacing,
            timers.linger,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Runs the timers that are due. Calling it early does nothing.
    pub fn on_timeout(&mut self, now: Micros) {
        let due = |timer: &mut Option<Micros>| timer.take_if(|at| *at <= now).is_some();
        due(&mut self.timers.pacing); // poll_transmit looks for itself
        if due(&mut self.timers.linger) {
            if self.detached && self.closed.is_none() {
                self.destroy();
            }
            return;
        }
        if due(&mut self.timers.reordering) {
            self.detect_losses(now);
        }
        if due(&mut self.timers.tail_probe) && !self.board.is_empty() {
            self.on_tail_probe_timer(now);
        }
        if due(&mut self.timers.retransmit) && !self.board.is_empty() {
            match self.oldest_may_still_answer(now) {
                Some(at) => self.timers.retransmit = Some(at),
                None => self.on_retransmission_timeout(now),
            }
        }
        if due(&mut self.timers.window_probe) {
            self.heartbeat_needed = true;
            self.timers.window_probe = Some(now + 2 * self.rtt.rto());
        }
        if due(&mut self.timers.keep_alive) {
            self.heartbeat_needed |= self.board.is_empty();
            self.arm_keep_alive(now);
        }
    }

    /// The cumulative acknowledgement moved on.
    pub(super) fn on_ack_advanced(&mut self, now: Micros) {
        self.timers.tail_probe = None;
        if self.board.is_empty() {
            self.timers.retransmit = None;
            self.timers.reordering = None;
            self.arm_keep_alive(now);
            return;
        }
        self.timers.retransmit = Some(now + self.rtt.rto());
        self.arm_tail_probe(now);
    }

    /// While all is well this is the tail loss probe of RFC 8985. It is armed during recovery too (as QUIC's probe timeout is):
    /// a retransmission that is lost as the last packet would otherwise cost a whole timeout.
    pub(super) fn arm_tail_probe(&mut self, now: Micros) {
        if self.board.is_empty() {
            self.timers.tail_probe = None;
            return;
        }
        let mut wait = TAIL_PROBE_INITIAL;
        if let Some(smoothed) = self.rtt.smoothed() {
            // A timer fires up to a millisecond late; a path faster than that would be probed all the time.
            wait = (2 * smoothed).max(2 * MILLISECOND);
            if self.is_repairing() {
                wait = wait.max(self.rtt.patient());
            }
            if self.board.in_flight() == 1 {
                wait += TAIL_PROBE_ACK_DELAY;
            }
        }
        let at = now + wait;
        self.timers.tail_probe = Some(self.timers.retransmit.map_or(at, |timeout| at.min(timeout)));
    }

    /// Something is known to be missing.
    pub(super) fn is_repairing(&self) -> bool {
        self.recovery != Recovery::Open || self.board.sacked() > 0
    }

    fn on_tail_probe_timer(&mut self, now: Micros) {
        let one_flies = self.tail_probe.in_flight_until.is_some() && !self.is_repairing();
        if self.tail_probe.permitted && !one_flies {
            self.tail_probe.due = true;
            if !self.is_repairing() {
                self.timers.retransmit = Some(now + self.rtt.rto());
            }
        }
    }

    pub(super) fn note_tail_probe_acked(&mut self, ack: u64) {
        let Some(end) = self.tail_probe.in_flight_until else {
            return;
        };
        if ack > end || (ack == end && !self.tail_probe.retransmission) {
            self.tail_probe.in_flight_until = None;
        }
    }

    fn reset_tail_probe(&mut self) {
        self.tail_probe.in_flight_until = None;
        self.tail_probe.retransmission = false;
        self.tail_probe.due = false;
        self.timers.tail_probe = None;
    }

    fn reordering_window(&self) -> Micros {
        let in_trouble = self.recovery != Recovery::Open || self.board.sacked() >= DUPLICATE_THRESHOLD;
        if !self.rack.reordering && in_trouble {
            return 0;
        }
        (self.rtt.min().unwrap_or(0) / 4).min(self.rtt.smoothed().unwrap_or(0))
    }

    /// RACK: what was sent before a delivered packet, and has had its round trip and some reordering since, is lost.
    pub(super) fn detect_losses(&mut self, now: Micros) {
        let allowance = self.rack.rtt + self.reordering_window();
        self.timers.reordering = None;
        let (mut lost, mut lost_probes, mut worst) = (0, 0, self.batch.worst);
        while let Some((seq, sent_at)) = self.board.oldest_in_flight() {
            if (sent_at, seq + 1) >= (self.rack.sent_at, self.rack.end_seq) {
                break;
            }
            let deadline = sent_at + allowance;
            if deadline > now {
                self.timers.reordering = Some(deadline);
                break;
            }
            lost += 1;
            match self.board.mark_lost(seq) {
                None => {
                    self.mtu.on_probe_lost();
                    lost_probes += 1;
                }
                found => worst = Lost::worse(worst, found),
            }
        }
        self.batch.worst = worst;
        self.batch.lost += lost;
        // A probe too large for the path says nothing about congestion.
        if lost > lost_probes && self.recovery == Recovery::Open {
            self.bbr.on_losses_begin();
            self.recovery = Recovery::Fast;
            self.recovery_until = self.board.next();
            self.reset_tail_probe();
        }
    }

    /// The timer runs since the acknowledgement last advanced; on a long path the oldest packet may have been sent again, and its answer
    /// be on the way. (Not if it goes to an earlier remote: then the timeout is what brings it to the present one.)
    fn oldest_may_still_answer(&self, now: Micros) -> Option<Micros> {
        let oldest = self.board.get(self.board.acked())?;
        let at = oldest.sent_at + self.rtt.rto();
        let waits = oldest.fate == Fate::InFlight && oldest.remote == self.remote_epoch && at > now;
        waits.then_some(at)
    }

    fn on_retransmission_timeout(&mut self, now: Micros) {
        self.counters.timeouts += 1;
        if self.recovery == Recovery::Open {
            self.bbr.on_losses_begin();
        }
        self.recovery = Recovery::Loss;
        self.recovery_until = self.board.next();
        self.reset_tail_probe();
        self.timers.reordering = None;
        self.timers.retransmit = Some(now + 2 * self.rtt.rto());

        let allowance = self.rack.rtt + self.reordering_window();
        let first = self.board.acked();
        let due: Vec<u64> = self
            .board
            .packets()
            .filter(|(seq, sent)| {
                sent.fate == Fate::InFlight && (*seq == first || sent.sent_at + allowance < now)
            })
            .map(|(seq, _)| seq)
            .collect();
        for seq in due {
            if self.board.count_timeout(seq) >= MAX_TIMEOUTS {
                self.on_peer_gone(now);
                return;
            }
            if self.board.mark_lost(seq).is_none() {
                self.mtu.on_probe_lost();
            }
        }
        self.board.sort_lost();
        self.tail_probe.permitted = true;
        self.arm_tail_probe(now);
        self.bbr.on_timeout(self.board.in_flight());
    }

    fn on_peer_gone(&mut self, now: Micros) {
        if self.only_end_unanswered() {
            self.end_acked = true;
            self.close_if_ended(now);
        } else {
            self.close(Closed::TimedOut);
        }
    }
    /// All our bytes arrived, all of the peer's too; only our END was not answered. libudx forgets a stream the moment both
    /// sides ended, so when its last acknowledgement is lost nobody is left to repeat it: this is an end, not a failure.
    /// (It is why END travels alone: together with bytes nobody could tell whether those arrived.)
    pub(super) fn only_end_unanswered(&self) -> bool {
        self.end_sent
            && self.receiver.ended()
            && self
                .board
                .packets()
                .all(|(_, sent)| sent.end && sent.timeouts > 0)
    }
}
