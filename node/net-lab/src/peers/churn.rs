//! Who of many peers goes when, and how. The same for the same seed.

use std::time::Duration;

use crate::impairment::mix;

/// One peer goes; another one comes in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// When, since the beginning.
    pub at: Duration,
    /// Which place is left, `0..places`.
    pub place: usize,
    /// Whether it says goodbye, or is gone as by a power cut. Half of them do.
    pub goodbye: bool,
}

/// Departures in the order of time, evenly spaced, for ever. Each is of any place, so some peers stay long and many do not.
#[derive(Debug, Clone)]
pub struct Churn {
    seed: u64,
    number: u64,
    places: usize,
    every: Duration,
    at: Duration,
}

impl Churn {
    /// A peer of one of `places` goes `every` so often.
    pub fn every(every: Duration, places: usize, seed: u64) -> Self {
        Self {
            seed: mix(seed),
            number: 0,
            places,
            every,
            at: Duration::ZERO,
        }
    }

    /// Peers of `places` stay for `stay`, on average.
    pub fn staying(stay: Duration, places: usize, seed: u64) -> Self {
        let count = u32::try_from(places.max(1)).unwrap_or(u32::MAX);
        Self::every(stay / count, places, seed)
    }
}

impl Iterator for Churn {
    type Item = Departure;

    /// `None` only if there is nobody.
    fn next(&mut self) -> Option<Departure> {
        let draw = mix(self.seed ^ mix(self.number));
        let place = (draw >> 1).checked_rem(self.places as u64)?;
        self.number += 1;
        self.at = self.at.saturating_add(self.every);
        Some(Departure {
            at: self.at,
            place: usize::try_from(place).unwrap_or(0),
            goodbye: draw & 1 == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_stay_as_long_as_asked_on_average_and_half_of_them_say_goodbye() {
        let (places, stay) = (40, Duration::from_secs(20));
        let departures: Vec<_> = Churn::staying(stay, places, 7).take(20_000).collect();
        let mut came = vec![Duration::ZERO; places];
        let stays = departures.iter().map(|gone| {
            let before = std::mem::replace(&mut came[gone.place], gone.at);
            gone.at.saturating_sub(before).as_secs_f64()
        });
        let average = stays.sum::<f64>() / 20_000.0;
        assert!((19.0..21.0).contains(&average), "{average}");
        let goodbyes = departures.iter().filter(|gone| gone.goodbye).count();
        assert!((9_700..10_300).contains(&goodbyes), "{goodbyes}");
        assert_eq!(departures[1].at, departures[0].at + Duration::from_millis(500));
    }

    #[test]
    fn the_same_peers_go_for_the_same_seed_and_others_for_another() {
        let first = |seed| {
            Churn::every(Duration::from_secs(1), 16, seed)
                .take(50)
                .collect::<Vec<_>>()
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn where_nobody_is_nobody_goes() {
        assert_eq!(Churn::staying(Duration::from_secs(1), 0, 1).next(), None);
    }
}
