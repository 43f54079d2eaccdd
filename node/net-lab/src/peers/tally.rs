//! What many peers saw, added up.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cumulet_hyperdht::PeerRecord;
use serde::Serialize;

/// Times to a first connection that are kept, 4 MB of them. Beyond, further ones change nothing.
const MAX_TIMES: usize = 1 << 20;
/// Keys of our own peers that are remembered, to tell others from them: 4 MB. Once there were more, nobody is told from them.
const MAX_KEYS: usize = 1 << 17;

/// What became of lookups that have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookups {
    /// How many there were.
    pub asked: u64,
    /// Nodes answered them.
    pub answered: u64,
    /// And named a peer that was looked for.
    pub found: u64,
    /// How long the longest took, milliseconds.
    pub longest_ms: u64,
}

impl Lookups {
    /// Counts one that took so long; `peers` is its answer, if there was one. Says whether one of them is `wanted`.
    pub fn count(
        &mut self,
        took: Duration,
        peers: Option<&[PeerRecord]>,
        wanted: impl Fn(&PeerRecord) -> bool,
    ) -> bool {
        let found = peers.is_some_and(|peers| peers.iter().any(wanted));
        self.asked += 1;
        self.answered += u64::from(peers.is_some());
        self.found += u64::from(found);
        self.longest_ms = self.longest_ms.max(millis(took));
        found
    }
}

/// The smallest, the middle and the largest but one in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// As many are smaller as are larger.
    pub median: u64,
    /// 99 of 100 are not larger.
    pub p99: u64,
}

impl Spread {
    /// Of times in milliseconds; none of none.
    fn of(mut times: Vec<u32>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share).div_ceil(100).max(1) - 1);
        Some(Self {
            min: u64::from(*times.first()?),
            median: u64::from(*at(50)?),
            p99: u64::from(*at(99)?),
        })
    }
}

/// Connections that peers had. One between two of them counts for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Those that they dialled.
    pub dialled: u64,
    /// Those that came to them.
    pub accepted: u64,
    /// Of both, those that began through a blind relay.
    pub relayed: u64,
    /// Of both, those with others: the programs. `None` where there were too many peers to tell.
    pub with_others: Option<u64>,
}

/// What came of many peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How many there are at a time.
    pub peers: usize,
    /// The longest that the first ones took until all of them were in, milliseconds; `None` if they are not.
    pub in_ms: Option<u64>,
    /// Those that came, the first ones too.
    pub came: u64,
    /// Those that left.
    pub left: u64,
    /// And said goodbye.
    pub goodbyes: u64,
    /// Those that could not be started, after the first ones.
    pub failed: u64,
    /// Of the topic, by all of them.
    pub lookups: Lookups,
    /// That they had.
    pub connections: Connections,
    /// How long after its start a peer had its first connection, milliseconds; of those that had one.
    pub first_connection_ms: Option<Spread>,
    /// Peers that are or were there without ever having had a connection.
    pub unconnected: u64,
}

/// Counts of all peers together.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Peers that have joined the DHT and looked the topic up (and announced themselves) once.
    pub(super) arrived: u64,
    /// When the last of them had.
    pub(super) last_arrival: Option<Instant>,
    pub(super) in_ms: Option<u64>,
    came: u64,
    left: u64,
    goodbyes: u64,
    lookups: Lookups,
    connections: Connections,
    others: u64,
    first_ms: Vec<u32>,
    connected: u64,
    keys: HashSet<[u8; 32]>,
    keys_overflow: bool,
    failed: u64,
    /// The last one's reason.
    pub(super) failure: Option<String>,
}

impl Tally {
    pub(super) fn came(&mut self, key: [u8; 32]) {
        self.came += 1;
        if self.keys.len() < MAX_KEYS {
            self.keys.insert(key);
        } else {
            self.keys_overflow = true;
        }
    }

    pub(super) fn arrived(&mut self, now: Instant) {
        self.arrived += 1;
        self.last_arrival = Some(now);
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failed += 1;
        self.failure = Some(why);
    }

    pub(super) fn left(&mut self, goodbye: bool) {
        self.left += 1;
        self.goodbyes += u64::from(goodbye);
    }

    pub(super) fn looked_up(&mut self, took: Duration, peers: Option<&[PeerRecord]>, own: &[u8; 32]) {
        self.lookups.count(took, peers, |peer| peer.public_key != *own);
    }

    /// `first`: how long after its start, if it is the peer's first one.
    pub(super) fn connected(&mut self, with: &Met, first: Option<Duration>) {
        let kind = if with.dialled {
            &mut self.connections.dialled
        } else {
            &mut self.connections.accepted
        };
        *kind += 1;
        self.connections.relayed += u64::from(with.relayed);
        self.others += u64::from(!self.keys.contains(&with.key));
        if let Some(first) = first {
            self.connected += 1;
            if self.first_ms.len() < MAX_TIMES {
                self.first_ms
                    .push(u32::try_from(first.as_millis()).unwrap_or(u32::MAX));
            }
        }
    }

    pub(super) fn summary(&self, peers: usize) -> Summary {
        Summary {
            peers,
            in_ms: self.in_ms,
            came: self.came,
            left: self.left,
            goodbyes: self.goodbyes,
            failed: self.failed,
            lookups: self.lookups.clone(),
            connections: Connections {
                with_others: (!self.keys_overflow).then_some(self.others),
                ..self.connections
            },
            first_connection_ms: Spread::of(self.first_ms.clone()),
            unconnected: self.came.saturating_sub(self.connected),
        }
    }
}

/// A connection as a peer saw it come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub(super) key: [u8; 32],
    pub(super) dialled: bool,
    pub(super) relayed: bool,
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u8) -> PeerRecord {
        PeerRecord {
            public_key: [key; 32],
            relay_addresses: Vec::new(),
        }
    }

    #[test]
    fn a_lookup_is_answered_without_a_peer_and_found_only_with_another_one() {
        let mut tally = Tally::default();
        let took = Duration::from_millis(30);
        tally.looked_up(took, None, &[1; 32]);
        tally.looked_up(2 * took, Some(&[]), &[1; 32]);
        tally.looked_up(took, Some(&[record(1)]), &[1; 32]);
        tally.looked_up(took, Some(&[record(1), record(2)]), &[1; 32]);
        let expected = Lookups {
            asked: 4,
            answered: 3,
            found: 1,
            longest_ms: 60,
        };
        assert_eq!(tally.summary(1).lookups, expected);
    }

    #[test]
    fn the_first_connections_times_are_spread_out_and_who_had_none_is_counted() {
        let mut tally = Tally::default();
        for number in 1..=200_u8 {
            tally.came([number; 32]);
            let met = Met {
                key: [1; 32],
                dialled: number % 2 == 0,
                relayed: number > 190,
            };
            if number > 100 {
                let first = Duration::from_millis(u64::from(number) - 100);
                tally.connected(&met, Some(first));
                tally.connected(&met, None);
            }
        }
        tally.connected(
            &Met {
                key: [255; 32],
                dialled: false,
                relayed: false,
            },
            None,
        );
        let summary = tally.summary(200);
        let spread = Spread {
            min: 1,
            median: 50,
            p99: 99,
        };
        assert_eq!(summary.first_connection_ms, Some(spread));
        assert_eq!((summary.came, summary.unconnected), (200, 100));
        let connections = Connections {
            dialled: 100,
            accepted: 101,
            relayed: 20,
            with_others: Some(1),
        };
        assert_eq!(summary.connections, connections);
        assert_eq!(Tally::default().summary(0).first_connection_ms, None);
        let one = Spread::of(vec![5]).unwrap();
        assert_eq!((one.min, one.median, one.p99), (5, 5, 5));
    }
}
