//! Which topics are joined, in which mode, and when each is looked up next. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::{Mode, Topic};

/// Between lookups of a topic where somebody was found and is connected (npm `hyperswarm`), plus up to a fifth.
const REFRESH: Duration = Duration::from_mins(10);
/// While peers of the topic are known, but none is connected: a newcomer may be there by now.
const REFRESH_UNCONNECTED: Duration = Duration::from_mins(1);
/// While nobody was ever found: first wait, doubled up to the second value; after [`FRUITLESS`] lookups the third. JS waits
/// ten minutes, and a peer that announces itself a second too late is not found before.
const LONELY_FIRST: Duration = Duration::from_secs(2);
const LONELY_LAST: Duration = Duration::from_secs(30);
const LONELY_PATIENT: Duration = Duration::from_mins(2);
const FRUITLESS: u32 = 20;
/// Lookups at a time. Hundreds of topics joined at once must not flood the DHT.
const MAX_RUNNING: usize = 8;

#[derive(Debug)]
struct Entry {
    servers: usize,
    clients: usize,
    /// The mode of the lookup under way.
    running: Option<Mode>,
    /// The mode changed while a lookup ran: run again at once.
    stale: bool,
    next_at: Instant,
    fruitless: u32,
    /// We may be announced under it.
    announced: bool,
}

impl Entry {
    fn mode(&self) -> Mode {
        Mode {
            server: self.servers > 0,
            client: self.clients > 0,
        }
    }
}

/// What a topic wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Announce and look up.
    Announce,
    /// Look up only.
    LookUp,
    /// Withdraw the announcement, then look up: the topic went back from server to client.
    Withdraw,
}

/// All joined topics.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    topics: HashMap<Topic, Entry>,
}

impl Topics {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn is_client(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|entry| entry.clients > 0)
    }

    pub(crate) fn join(&mut self, now: Instant, topic: Topic, mode: Mode) {
        let entry = self.topics.entry(topic).or_insert(Entry {
            servers: 0,
            clients: 0,
            running: None,
            stale: false,
            next_at: now,
            fruitless: 0,
            announced: false,
        });
        entry.servers += usize::from(mode.server);
        entry.clients += usize::from(mode.client);
        entry.next_at = now;
        entry.fruitless = 0;
        entry.stale = entry.running.is_some_and(|running| running != entry.mode());
    }

    /// Takes one join back. True: that was the last one, the topic is left.
    pub(crate) fn release(&mut self, now: Instant, topic: &Topic, mode: Mode) -> Option<Left> {
        let entry = self.topics.get_mut(topic)?;
        entry.servers = entry.servers.saturating_sub(usize::from(mode.server));
        entry.clients = entry.clients.saturating_sub(usize::from(mode.client));
        if entry.servers + entry.clients == 0 {
            return self.leave(topic);
        }
        if entry.servers == 0 && entry.announced {
            entry.next_at = now;
            entry.stale = entry.running.is_some();
        }
        None
    }

    pub(crate) fn leave(&mut self, topic: &Topic) -> Option<Left> {
        self.topics.remove(topic).map(|entry| Left {
            announced: entry.announced,
        })
    }

    pub(crate) fn refresh(&mut self, now: Instant, topic: &Topic) {
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.next_at = now;
        }
    }

    /// Lookups under way are broken off. Returns the topics that are announced, which are taken for withdrawn from now on.
    pub(crate) fn suspend(&mut self) -> Vec<Topic> {
        let mut announced = Vec::new();
        for (topic, entry) in &mut self.topics {
            entry.running = None;
            if std::mem::take(&mut entry.announced) {
                announced.push(*topic);
            }
        }
        announced
    }

    /// Looks up everything now.
    pub(crate) fn resume(&mut self, now: Instant) {
        for entry in self.topics.values_mut() {
            (entry.next_at, entry.fruitless, entry.stale) = (now, 0, false);
        }
    }

    /// Every topic joined, and whether we may be announced under it.
    pub(crate) fn drain(&mut self) -> Vec<(Topic, Left)> {
        self.topics
            .drain()
            .map(|(topic, entry)| {
                (
                    topic,
                    Left {
                        announced: entry.announced,
                    },
                )
            })
            .collect()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let mut running = 0;
        let mut next = None;
        for entry in self.topics.values() {
            if entry.running.is_some() {
                running += 1;
            } else {
                next = Some(next.map_or(entry.next_at, |at: Instant| at.min(entry.next_at)));
            }
        }
        next.filter(|_| running < MAX_RUNNING)
    }

    /// The next topic to look up now.
    pub(crate) fn next_task(&mut self, now: Instant) -> Option<(Topic, Task)> {
        if self
            .topics
            .values()
            .filter(|entry| entry.running.is_some())
            .count()
            >= MAX_RUNNING
        {
            return None;
        }
        let due = self
            .topics
            .iter_mut()
            .filter(|(_, entry)| entry.running.is_none() && entry.next_at <= now);
        let (topic, entry) = due.min_by_key(|(_, entry)| entry.next_at)?;
        let mode = entry.mode();
        entry.running = Some(mode);
        entry.stale = false;
        let task = match (mode.server, entry.announced) {
            (true, _) => Task::Announce,
            (false, true) => Task::Withdraw,
            (false, false) => Task::LookUp,
        };
        entry.announced = mode.server;
        Some((*topic, task))
    }

    /// A lookup ended. `found`: peers named, ourselves not counted; `stored`: nodes that took our announcement.
    pub(crate) fn finished(&mut self, now: Instant, topic: &Topic, outcome: Outcome, random: u8) {
        let Some(entry) = self.topics.get_mut(topic) else {
            return;
        };
        let Some(mode) = entry.running.take() else { return };
        let lonely = (mode.client && outcome.found == 0) || (mode.server && outcome.stored == 0);
        let wait = if entry.stale {
            Duration::ZERO
        } else if lonely {
            entry.fruitless = entry.fruitless.saturating_add(1);
            let doubled = LONELY_FIRST * 2_u32.pow((entry.fruitless - 1).min(8));
            if entry.fruitless > FRUITLESS {
                LONELY_PATIENT
            } else {
                doubled.min(LONELY_LAST)
            }
        } else {
            entry.fruitless = 0;
            if mode.client && !outcome.connected {
                REFRESH_UNCONNECTED
            } else {
                REFRESH
            }
        };
        entry.next_at = now + wait + wait * u32::from(random) / 1_280;
    }
}

/// A topic that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) announced: bool,
}

/// What a lookup brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) found: usize,
    pub(crate) stored: usize,
    pub(crate) connected: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Topic = [1; 32];

    /// Runs the task that is due and returns how long the topic then rests.
    fn rest_after(topics: &mut Topics, now: Instant, outcome: Outcome) -> Duration {
        topics.next_task(now).unwrap();
        topics.finished(now, &TOPIC, outcome, 0);
        topics.poll_timeout().unwrap().saturating_duration_since(now)
    }

    #[test]
    fn a_lonely_topic_is_looked_up_soon_and_less_and_less_often() {
        let mut now = Instant::now();
        let mut topics = Topics::default();
        topics.join(now, TOPIC, Mode::CLIENT);
        let mut rests = Vec::new();
        for _ in 0..25 {
            let rest = rest_after(&mut topics, now, Outcome::default());
            rests.push(rest.as_secs());
            now += rest;
        }
        assert_eq!(rests[..6], [2, 4, 8, 16, 30, 30]);
        assert_eq!(rests[24], 120);
        let found = Outcome {
            found: 1,
            stored: 0,
            connected: true,
        };
        assert_eq!(rest_after(&mut topics, now, found), REFRESH);
        now += REFRESH;
        assert_eq!(
            rest_after(
                &mut topics,
                now,
                Outcome {
                    connected: false,
                    ..found
                }
            ),
            REFRESH_UNCONNECTED
        );
        now += REFRESH_UNCONNECTED;
        assert_eq!(
            rest_after(&mut topics, now, Outcome::default()),
            LONELY_FIRST,
            "and starts soon again"
        );
    }

    #[test]
    fn a_client_never_announces_and_a_server_that_stops_withdraws() {
        let now = Instant::now();
        let mut topics = Topics::default();
        topics.join(now, TOPIC, Mode::CLIENT);
        assert_eq!(topics.next_task(now), Some((TOPIC, Task::LookUp)));
        topics.join(now, TOPIC, Mode::SERVER);
        assert_eq!(topics.next_task(now), None, "one lookup of a topic at a time");
        topics.finished(now, &TOPIC, Outcome::default(), 0);
        assert_eq!(
            topics.next_task(now),
            Some((TOPIC, Task::Announce)),
            "the new mode runs at once"
        );
        topics.finished(
            now,
            &TOPIC,
            Outcome {
                found: 1,
                stored: 3,
                connected: true,
            },
            0,
        );
        assert_eq!(topics.release(now, &TOPIC, Mode::SERVER), None);
        assert_eq!(topics.next_task(now), Some((TOPIC, Task::Withdraw)));
        topics.finished(
            now,
            &TOPIC,
            Outcome {
                found: 1,
                stored: 0,
                connected: true,
            },
            0,
        );
        assert_eq!(
            topics.release(now, &TOPIC, Mode::CLIENT),
            Some(Left { announced: false })
        );
        assert_eq!(topics.len(), 0);
    }

    #[test]
    fn what_was_announced_is_withdrawn_for_a_pause_and_announced_again_after_it() {
        let now = Instant::now();
        let mut topics = Topics::default();
        topics.join(now, TOPIC, Mode::SERVER);
        assert_eq!(topics.next_task(now), Some((TOPIC, Task::Announce)));
        assert_eq!(topics.suspend(), [TOPIC]);
        assert_eq!(topics.suspend(), [[0; 32]; 0]);
        topics.resume(now);
        assert_eq!(topics.next_task(now), Some((TOPIC, Task::Announce)));
    }

    #[test]
    fn many_topics_are_looked_up_a_few_at_a_time() {
        let now = Instant::now();
        let mut topics = Topics::default();
        for byte in 0..100 {
            topics.join(now, [byte; 32], Mode::BOTH);
        }
        let started: Vec<_> = std::iter::from_fn(|| topics.next_task(now)).collect();
        assert_eq!(started.len(), MAX_RUNNING);
        assert_eq!(topics.poll_timeout(), None);
        topics.finished(
            now,
            &started[0].0,
            Outcome {
                found: 1,
                stored: 1,
                connected: true,
            },
            0,
        );
        assert!(topics.next_task(now).is_some());
    }
}
