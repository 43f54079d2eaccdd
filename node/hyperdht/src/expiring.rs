//! A map that forgets: entries die of age, and the oldest make room when it is full.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Expiring<K, V> {
    entries: HashMap<K, (V, u64)>,
    /// Insertions in order of time; those overtaken by a newer insertion of the same key are skipped.
    order: VecDeque<(Instant, u64, K)>,
    next: u64,
    max_len: usize,
    max_age: Duration,
}

impl<K: Hash + Eq + Clone, V> Expiring<K, V> {
    pub(crate) fn new(max_len: usize, max_age: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            max_len,
            max_age,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Inserts or renews. Returns the keys that had to go.
    pub(crate) fn insert(&mut self, now: Instant, key: K, value: V) -> Vec<K> {
        self.next += 1;
        self.entries.insert(key.clone(), (value, self.next));
        self.order.push_back((now, self.next, key));
        let mut gone = self.expire(now);
        while self.entries.len() > self.max_len {
            let Some((_, number, key)) = self.order.pop_front() else {
                break;
            };
            gone.extend(self.remove_if(number, key));
        }
        // A key renewed again and again leaves old places behind: sweep them before they outnumber the entries.
        if self.order.len() > 2 * self.entries.len() + 16 {
            let entries = &self.entries;
            self.order
                .retain(|(_, number, key)| entries.get(key).is_some_and(|(_, last)| last == number));
        }
        gone
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(value, _)| value)
    }

    fn remove_if(&mut self, number: u64, key: K) -> Option<K> {
        if self.entries.get(&key).is_some_and(|(_, last)| *last == number) {
            self.entries.remove(&key);
            return Some(key);
        }
        None
    }

    /// Drops what is too old; returns the keys.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<K> {
        let mut gone = Vec::new();
        while self
            .order
            .front()
            .is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= self.max_age)
        {
            let Some((_, number, key)) = self.order.pop_front() else {
                break;
            };
            gone.extend(self.remove_if(number, key));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_die_renewed_ones_live_and_the_oldest_makes_room() {
        let (start, age) = (Instant::now(), Duration::from_secs(10));
        let mut map = Expiring::new(2, age);
        assert!(map.insert(start, 1, "a").is_empty());
        map.insert(start + age / 2, 2, "b");
        map.insert(start + age / 2, 1, "c");
        assert!(map.expire(start + age).is_empty(), "1 was renewed");
        assert_eq!(map.insert(start + age, 3, "d"), [2], "2 was the oldest");
        assert_eq!(map.expire(start + 2 * age).len(), 2);
        assert_eq!(map.len(), 0);
    }

    #[test]
    fn renewing_one_key_for_ever_does_not_grow_the_map() {
        let start = Instant::now();
        let mut map = Expiring::new(8, Duration::from_hours(1));
        for _ in 0..10_000 {
            map.insert(start, 1, ());
        }
        assert!(map.order.len() < 64);
    }
}
