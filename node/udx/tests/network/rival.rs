//! A stream that halves when it loses: what fairness is measured against. It counts packets, not bytes of a file, so that
//! nothing but its congestion control matters: Reno (RFC 5681) and CUBIC (RFC 9438), with a selective acknowledgement
//! per packet.

use std::collections::BTreeMap;

use super::bbr1::Model;

/// How it grows and gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    Reno,
    Cubic,
    /// Does not give way to losses.
    Bbr1,
    /// The same as libudx has it, which also sends faster than it means to.
    Libudx,
}

const SECOND: f64 = 1e6;
const MIN_TIMEOUT: u64 = 1_000_000;
/// Later packets that arrived before one counts as lost.
const REORDERING: u64 = 3;
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;

#[derive(Debug)]
struct Flying {
    sent_at: u64,
    /// What had been delivered then, and when the last of it was.
    delivered: (u64, u64),
}

#[derive(Debug)]
pub(crate) struct Rival {
    law: Law,
    window: f64,
    threshold: f64,
    next: u64,
    flying: BTreeMap<u64, Flying>,
    /// Losses of packets below this number are of the same event.
    recovered_at: u64,
    heard_at: u64,
    rtt: f64,
    /// CUBIC: when the present growth began, and the windows before the loss and of a Reno stream since.
    epoch: Option<u64>,
    before_loss: f64,
    as_reno: f64,
    model: Model,
    delivered_at: u64,
    paced_until: Option<u64>,
}

impl Rival {
    pub(crate) fn new(law: Law) -> Self {
        Self {
            law,
            window: 10.0,
            threshold: f64::INFINITY,
            next: 0,
            flying: BTreeMap::new(),
            recovered_at: 0,
            heard_at: 0,
            rtt: 0.0,
            epoch: None,
            before_loss: 0.0,
            as_reno: 0.0,
            model: if law == Law::Libudx {
                Model::by_the_millisecond()
            } else {
                Model::new()
            },
            delivered_at: 0,
            paced_until: None,
        }
    }

    fn is_bbr(&self) -> bool {
        matches!(self.law, Law::Bbr1 | Law::Libudx)
    }

    /// The number of the next packet, if one may leave.
    pub(crate) fn send(&mut self, now: u64) -> Option<u64> {
        self.paced_until = None;
        if self.flying.len() as f64 >= self.window {
            return None;
        }
        if self.is_bbr() {
            self.paced_until = self.model.paced_until(now);
            if self.paced_until.is_some() {
                return None;
            }
            self.model.on_sent();
        }
        if self.flying.is_empty() {
            self.heard_at = now;
            self.delivered_at = now;
        }
        let delivered = (self.model.delivered(), self.delivered_at);
        let sent_at = now;
        self.flying.insert(self.next, Flying { sent_at, delivered });
        self.next += 1;
        Some(self.next - 1)
    }

    pub(crate) fn acknowledged(&mut self, number: u64, now: u64) {
        let Some(Flying { sent_at, delivered }) = self.flying.remove(&number) else {
            return;
        };
        self.heard_at = now;
        self.delivered_at = now;
        let rtt = (now - sent_at) as f64 / SECOND;
        self.rtt = if self.rtt > 0.0 {
            0.875 * self.rtt + 0.125 * rtt
        } else {
            rtt
        };
        let kept = self.flying.split_off(&number.saturating_sub(REORDERING - 1));
        let lost = std::mem::replace(&mut self.flying, kept);
        if self.is_bbr() {
            self.model.on_ack(now, rtt, delivered, self.flying.len());
            self.window = self.model.window();
            return;
        }
        if lost.keys().any(|lost| *lost >= self.recovered_at) {
            self.back_off();
        } else if self.window < self.threshold {
            self.window += 1.0;
        } else {
            self.grow(now);
        }
    }

    fn back_off(&mut self) {
        self.recovered_at = self.next;
        self.epoch = None;
        let share = match self.law {
            Law::Reno => 0.5,
            Law::Cubic | Law::Bbr1 | Law::Libudx => CUBIC_BETA,
        };
        // Fast convergence: who loses below the last peak leaves room for newcomers.
        self.before_loss = if self.window < self.before_loss {
            self.window * (1.0 + share) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * share).max(2.0);
        self.threshold = self.window;
    }

    fn grow(&mut self, now: u64) {
        if self.law == Law::Reno {
            self.window += 1.0 / self.window;
            return;
        }
        let began = *self.epoch.get_or_insert(now);
        if began == now {
            self.as_reno = self.window;
            self.before_loss = self.before_loss.max(self.window);
        }
        let depth = ((self.before_loss - self.threshold).max(0.0) / CUBIC_C).cbrt();
        let elapsed = (now - began) as f64 / SECOND + self.rtt;
        let target = CUBIC_C * (elapsed - depth).powi(3) + self.before_loss;
        let target = target.clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window;
        self.as_reno += 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA) / self.window;
        self.window = self.window.max(self.as_reno);
    }

    pub(crate) fn next_timeout(&self) -> Option<u64> {
        let wait = MIN_TIMEOUT.max((3.0 * self.rtt * SECOND) as u64);
        (!self.flying.is_empty()).then_some(self.heard_at + wait)
    }

    /// When something happens although nothing arrives.
    pub(crate) fn next_moment(&self) -> Option<u64> {
        self.next_timeout().into_iter().chain(self.paced_until).min()
    }

    pub(crate) fn on_timeout(&mut self, now: u64) {
        if self.next_timeout().is_some_and(|at| at <= now) {
            self.back_off();
            self.flying.clear();
            self.window = 2.0;
        }
    }
}
