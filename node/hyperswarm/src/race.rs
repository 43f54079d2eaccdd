//! Which way to a peer is tried when, and which attempts are cancelled. Pure: time is passed in.
//!
//! | way | begins | what it is |
//! |---|---|---|
//! | UDP | at once | one handshake, by the DHT node: direct first; as the answer to it says, the short way through a local network, a hole, and a blind relay beside them |
//! | TCP, for each known address | 250 ms after the one before it, or at once when an attempt failed | a Noise XX handshake with the address |
//! | WebSocket, for each known URL | likewise, after all of TCP | the same handshake in the binary messages of a WebSocket |
//!
//! The first success wins and all others are cancelled, also those that have not begun ("Happy Eyeballs", RFC 8305). Holes
//! and relays are not ways of their own, since they need the same handshake and stream as the direct one: the server would see
//! a second connection. UDP is given the first moments, as it is what peers can always be reached by when nothing is in the
//! way; TCP is for networks that let no UDP through, and WebSockets, the dearest, for those that let only HTTP through.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::direct::KnownHost;
use crate::websocket::WebSocketUrl;

/// Between the beginnings of two attempts: RFC 8305's recommendation.
pub(crate) const STAGGER: Duration = Duration::from_millis(250);
/// TCP addresses tried in one race.
pub(crate) const MAX_TCP_ADDRESSES: usize = 8;
/// WebSockets tried in one race.
pub(crate) const MAX_WEBSOCKETS: usize = 8;

/// A way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// Whatever the DHT node finds.
    Udp,
    /// To this address.
    Tcp(SocketAddr),
    /// To this URL.
    WebSocket(WebSocketUrl),
}

/// What a race came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Attempts are under way, or will be.
    Open,
    /// Won; these attempts are to be cancelled.
    Won { cancel: Vec<Way> },
    /// Every way failed.
    Lost,
}

/// One race for a connection to one peer.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<Way>,
    running: Vec<Way>,
    /// When the next way begins, at the latest.
    next_at: Instant,
}

impl Race {
    /// A race over UDP, if `udp` says so, and to the host's addresses for TCP and WebSockets.
    pub(crate) fn new(now: Instant, udp: bool, host: &KnownHost) -> Self {
        let mut waiting = VecDeque::new();
        let mut add = |ways: &mut dyn Iterator<Item = Way>, most: usize| {
            let most = waiting.len() + most;
            for way in ways {
                if waiting.len() < most && !waiting.contains(&way) {
                    waiting.push_back(way);
                }
            }
        };
        add(&mut udp.then_some(Way::Udp).into_iter(), 1);
        add(&mut host.tcp.iter().copied().map(Way::Tcp), MAX_TCP_ADDRESSES);
        add(
            &mut host.websocket.iter().cloned().map(Way::WebSocket),
            MAX_WEBSOCKETS,
        );
        Self {
            waiting,
            running: Vec::new(),
            next_at: now,
        }
    }

    /// The way to begin now, if there is one. To be asked again until there is none.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Way> {
        if now < self.next_at {
            return None;
        }
        let way = self.waiting.pop_front()?;
        self.running.push(way.clone());
        self.next_at = now + STAGGER;
        Some(way)
    }

    /// When [`Race::begin`] has something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }

    /// An attempt failed: the next one need not wait.
    pub(crate) fn failed(&mut self, now: Instant, way: &Way) -> Verdict {
        self.running.retain(|running| running != way);
        self.next_at = self.next_at.min(now);
        if self.running.is_empty() && self.waiting.is_empty() {
            Verdict::Lost
        } else {
            Verdict::Open
        }
    }

    /// An attempt came through. One that was cancelled meanwhile changes nothing.
    pub(crate) fn succeeded(&mut self, way: &Way) -> Verdict {
        if !self.running.contains(way) {
            return Verdict::Open;
        }
        self.waiting.clear();
        let mut cancel = std::mem::take(&mut self.running);
        cancel.retain(|running| running != way);
        Verdict::Won { cancel }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn url(number: u16) -> WebSocketUrl {
        format!("ws://host-{number}/").parse().unwrap()
    }

    fn host(tcp: &[SocketAddr], websocket: &[WebSocketUrl]) -> KnownHost {
        KnownHost {
            tcp: tcp.to_vec(),
            websocket: websocket.to_vec(),
            ..KnownHost::default()
        }
    }

    fn all_now(race: &mut Race, now: Instant) -> Vec<Way> {
        std::iter::from_fn(|| race.begin(now)).collect()
    }

    #[test]
    fn udp_begins_at_once_and_tcp_a_stagger_after_the_way_before_it() {
        let start = Instant::now();
        let mut race = Race::new(start, true, &host(&[tcp(1), tcp(2)], &[]));
        assert_eq!(all_now(&mut race, start), [Way::Udp]);
        assert_eq!(race.poll_timeout(), Some(start + STAGGER));
        assert_eq!(all_now(&mut race, start + STAGGER * 9 / 10), []);
        assert_eq!(all_now(&mut race, start + STAGGER), [Way::Tcp(tcp(1))]);
        assert_eq!(race.poll_timeout(), Some(start + 2 * STAGGER));
        assert_eq!(all_now(&mut race, start + 5 * STAGGER), [Way::Tcp(tcp(2))]);
        assert_eq!(race.poll_timeout(), None);
    }

    #[test]
    fn a_failure_lets_the_next_way_begin_at_once_and_the_last_failure_loses_the_race() {
        let start = Instant::now();
        let mut race = Race::new(start, true, &host(&[tcp(1)], &[]));
        assert_eq!(all_now(&mut race, start), [Way::Udp]);
        let soon = start + Duration::from_millis(3);
        assert_eq!(race.failed(soon, &Way::Udp), Verdict::Open);
        assert_eq!(race.poll_timeout(), Some(soon));
        assert_eq!(all_now(&mut race, soon), [Way::Tcp(tcp(1))]);
        assert_eq!(race.failed(soon, &Way::Tcp(tcp(1))), Verdict::Lost);
    }

    #[test]
    fn the_first_success_cancels_what_runs_and_what_waits() {
        let start = Instant::now();
        let mut race = Race::new(start, true, &host(&[tcp(1), tcp(2), tcp(3)], &[]));
        let mut now = start;
        for _ in 0..3 {
            assert_eq!(all_now(&mut race, now).len(), 1);
            now += STAGGER;
        }
        let cancel = vec![Way::Udp, Way::Tcp(tcp(2))];
        assert_eq!(race.succeeded(&Way::Tcp(tcp(1))), Verdict::Won { cancel });
        assert_eq!(all_now(&mut race, now + 10 * STAGGER), []);
        assert_eq!(race.poll_timeout(), None);
        assert_eq!(race.succeeded(&Way::Udp), Verdict::Open, "it was cancelled");
    }

    #[test]
    fn websockets_begin_after_all_of_tcp_and_lose_to_it_as_to_udp() {
        let start = Instant::now();
        let known = host(&[tcp(1), tcp(2)], &[url(1), url(2), url(1)]);
        let mut race = Race::new(start, true, &known);
        let order = [
            Way::Udp,
            Way::Tcp(tcp(1)),
            Way::Tcp(tcp(2)),
            Way::WebSocket(url(1)),
            Way::WebSocket(url(2)),
        ];
        for (number, way) in (0..).zip(&order) {
            let turn = STAGGER * number;
            assert_eq!(race.poll_timeout(), Some(start + turn));
            if number > 0 {
                assert_eq!(race.begin(start + turn * 99 / 100), None, "{way:?} has its turn");
            }
            assert_eq!(race.begin(start + turn).as_ref(), Some(way));
        }
        let now = start + STAGGER * 9;
        assert_eq!(race.poll_timeout(), None);
        assert_eq!(race.failed(now, &order[3]), Verdict::Open);
        let cancel = vec![order[0].clone(), order[1].clone(), order[4].clone()];
        assert_eq!(race.succeeded(&order[2]), Verdict::Won { cancel });
        assert_eq!(race.succeeded(&order[4]), Verdict::Open, "it was cancelled");
    }

    #[test]
    fn where_everything_else_fails_a_websocket_begins_at_once_and_wins() {
        let start = Instant::now();
        let mut race = Race::new(start, true, &host(&[tcp(1)], &[url(1)]));
        assert_eq!(all_now(&mut race, start), [Way::Udp]);
        assert_eq!(race.failed(start, &Way::Udp), Verdict::Open);
        assert_eq!(all_now(&mut race, start), [Way::Tcp(tcp(1))]);
        assert_eq!(race.failed(start, &Way::Tcp(tcp(1))), Verdict::Open);
        let last = Way::WebSocket(url(1));
        assert_eq!(all_now(&mut race, start), std::slice::from_ref(&last));
        let cancel = Vec::new();
        assert_eq!(race.succeeded(&last), Verdict::Won { cancel });
    }

    #[test]
    fn one_way_alone_begins_at_once_and_nothing_is_tried_twice_or_beyond_the_bound() {
        let start = Instant::now();
        let addresses: Vec<SocketAddr> = (1..20).flat_map(|port| [tcp(port), tcp(port)]).collect();
        let urls: Vec<WebSocketUrl> = (1..20).flat_map(|number| [url(number), url(number)]).collect();
        let mut race = Race::new(start, false, &host(&addresses, &urls));
        let (mut begun, mut now) = (Vec::new(), start);
        while race.poll_timeout().is_some() {
            begun.extend(all_now(&mut race, now));
            now += STAGGER;
        }
        let expected = (1..=8).map(|port| Way::Tcp(tcp(port)));
        let expected = expected.chain((1..=8).map(|number| Way::WebSocket(url(number))));
        assert_eq!(begun, expected.collect::<Vec<_>>());
        let mut nowhere = Race::new(start, false, &KnownHost::default());
        assert_eq!((nowhere.begin(start), nowhere.poll_timeout()), (None, None));
    }
}
