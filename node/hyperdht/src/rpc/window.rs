//! The congestion window: how many requests may leave per 750 ms.

/// Requests per bucket; two buckets' worth may be outstanding in all.
const MAX_PER_BUCKET: u32 = 80;

#[derive(Debug, Default)]
pub(crate) struct CongestionWindow {
    buckets: [u32; 4],
    current: usize,
    total: u32,
}

impl CongestionWindow {
    fn bucket(&mut self) -> &mut u32 {
        &mut self.buckets[self.current & 3]
    }

    pub(crate) fn is_full(&self) -> bool {
        self.total >= 2 * MAX_PER_BUCKET || self.buckets[self.current & 3] >= MAX_PER_BUCKET
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.total == 0
    }

    pub(crate) fn sent(&mut self) {
        *self.bucket() += 1;
        self.total += 1;
    }

    pub(crate) fn settled(&mut self) {
        if *self.bucket() > 0 {
            *self.bucket() -= 1;
            self.total -= 1;
        }
    }

    /// Called each 750 ms: forgets the oldest bucket.
    pub(crate) fn advance(&mut self) {
        self.current = (self.current + 1) & 3;
        self.total -= std::mem::take(self.bucket());
    }
}
