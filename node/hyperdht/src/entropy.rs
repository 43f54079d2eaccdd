//! Randomness, passed in.

use std::fmt;

/// A source of random bytes: the operating system's in production, a seeded one in tests and simulations.
pub struct Entropy(Fill);

type Fill = Box<dyn FnMut(&mut [u8]) + Send>;

impl fmt::Debug for Entropy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Entropy")
    }
}

impl Entropy {
    /// Takes a function that fills a slice with random bytes.
    pub fn new(fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        Self(Box::new(fill))
    }

    /// A reproducible source for tests and simulations: the hash of a counter under `seed`. Never for keys that live.
    pub fn seeded(seed: u64) -> Self {
        let mut counter = 0_u64;
        Self::new(move |target| {
            for chunk in target.chunks_mut(32) {
                counter += 1;
                let block = crate::crypto::hash(&[&seed.to_le_bytes(), &counter.to_le_bytes()]);
                chunk.copy_from_slice(&block[..chunk.len()]);
            }
        })
    }

    /// An independent source, seeded once from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let key: [u8; 32] = self.array();
        let mut counter = 0_u64;
        Self::new(move |target| {
            for chunk in target.chunks_mut(32) {
                counter += 1;
                let block = crate::crypto::keyed_hash(&key, &counter.to_le_bytes());
                chunk.copy_from_slice(&block[..chunk.len()]);
            }
        })
    }

    /// Random bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }

    pub(crate) fn uint16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn uint32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number below `limit`, which is small enough here that the bias of a remainder does not matter.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(u64::from_le_bytes(self.array()) % (limit.max(1) as u64)).unwrap_or(0)
    }
}
