//! What is written and read back: the same bytes as `bench/js/content.mjs` makes, so either side can check the other's.
//!
//! Blocks are slices of a pool of pseudo-random bytes with their number in front: nothing compresses, all differ, and
//! making or checking one costs little more than a copy.

use anyhow::{Result, bail};
use bytes::Bytes;

/// Far more than a compressor looks back.
const POOL_BYTES: usize = 8 << 20;
/// The longest block.
const LONGEST: usize = 64 << 10;
/// Bytes of the number in front.
const NUMBER_BYTES: usize = 4;

/// Xorshift with 32 bits of state.
#[derive(Debug)]
pub(crate) struct Random(u32);

impl Random {
    /// A sequence of its own for each seed that is not zero.
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u32 {
        let mut x = self.0;
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.0 = x;
        x
    }
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Content(Vec<u8>);

impl Content {
    pub(crate) fn new() -> Self {
        let mut random = Random::new(0x9e37_79b9);
        let words = (POOL_BYTES + LONGEST) / 4;
        Self((0..words).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    fn slice(&self, index: u32, size: usize) -> &[u8] {
        let offset = (index as usize * size) % POOL_BYTES;
        self.0.get(offset..offset + size).unwrap_or_default()
    }

    /// Block `index` of `size` bytes, 4 to 65,536.
    pub(crate) fn block(&self, index: u32, size: usize) -> Bytes {
        let mut block = self.slice(index, size).to_vec();
        if let Some(number) = block.first_chunk_mut::<NUMBER_BYTES>() {
            *number = index.to_le_bytes();
        }
        block.into()
    }

    /// Whether a block is that one.
    pub(crate) fn check(&self, block: &[u8], index: u32, size: usize) -> Result<()> {
        let number = block.first_chunk::<NUMBER_BYTES>() == Some(&index.to_le_bytes());
        if block.len() != size
            || !number
            || block.get(NUMBER_BYTES..) != self.slice(index, size).get(NUMBER_BYTES..)
        {
            bail!("block {index} is not what was written");
        }
        Ok(())
    }
}

/// Key of a bee: distinct, of equal length, in no order.
pub(crate) fn key(index: u32) -> String {
    format!("{:08x}", index.wrapping_mul(0x9e37_79b1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that `bench/js/content.mjs` made.
    #[test]
    fn content_is_the_same_bytes_as_in_javascript() {
        let content = Content::new();
        let number = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
        assert_eq!(
            number(&content.block(3, 16)),
            0x0300_0000_3c51_2f47_b870_180c_5f46_e143
        );
        let large = content.block(130, LONGEST);
        assert_eq!(
            number(&large[LONGEST - 16..]),
            0x4e3c_930b_2382_43ef_a019_f27f_a3ff_06a4
        );
        assert_eq!(key(7), "538453d7");
        let mut random = Random::new(2);
        assert_eq!((random.next(), random.next()), (540_738, 134_253_570));
    }

    #[test]
    fn a_block_that_is_another_or_changed_or_cut_is_noticed() {
        let content = Content::new();
        let block = content.block(5, 1024);
        assert!(content.check(&block, 5, 1024).is_ok());
        assert!(content.check(&block, 6, 1024).is_err());
        assert!(content.check(&block[..1023], 5, 1024).is_err());
        assert!(content.check(&[], 5, 1024).is_err());
        for changed in [0, 4, 1023] {
            let mut block = block.to_vec();
            block[changed] ^= 1;
            assert!(content.check(&block, 5, 1024).is_err(), "byte {changed}");
        }
    }
}
