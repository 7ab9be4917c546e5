//! `[7]` So many in a time, and some more at once.

use core::time::Duration;

use crate::time::Tick;

/// Units that come back with time.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Until one comes back.
    every: Duration,
    burst: u32,
    /// When the bucket is full again.
    full: Tick,
}

impl Bucket {
    pub(super) fn new(now: Tick, every: Duration, burst: u32) -> Self {
        Self {
            every,
            burst,
            full: now,
        }
    }

    /// Takes units. False, and none taken, where there are not enough. A burst is always enough for itself.
    pub(super) fn take(&mut self, now: Tick, units: u32) -> bool {
        let full = self.full.max(now) + self.every * units.min(self.burst);
        let fits = full.since(now) <= self.every * self.burst;
        if fits {
            self.full = full;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_back() {
        let at = |ms| Tick::from_millis(ms);
        let mut bucket = Bucket::new(at(0), Duration::from_millis(10), 5);
        assert!(bucket.take(at(0), 5));
        assert!(!bucket.take(at(9), 1));
        assert!(bucket.take(at(10), 1));
        assert!(!bucket.take(at(30), 3));
        assert!(bucket.take(at(30), 2));
        // A clock that goes back takes nothing away for good.
        assert!(!bucket.take(at(0), 1));
        assert!(bucket.take(at(1_000), 5));
        assert!(!bucket.take(at(1_000), 1));
    }
}
