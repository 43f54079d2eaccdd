//! Numbers from a seed.

use cumulet_hypercore::crypto::hash;

/// SplitMix64: not for secrets.
pub(super) struct Random(u64);

impl Random {
    /// The numbers of one case under a seed: other cases' numbers do not change them.
    pub(super) fn new(seed: u64, case: &str) -> Self {
        let digest = hash(&[&seed.to_le_bytes(), case.as_bytes()]);
        let state = digest.first_chunk().copied().map_or(seed, u64::from_le_bytes);
        Self(state)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`; 0 if that is 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }

    pub(super) fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
