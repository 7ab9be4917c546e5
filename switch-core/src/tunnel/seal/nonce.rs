//! Numbers for the datagrams of one key: each is given out once, to whichever worker asks first.

use crossbeam::utils::CachePadded;

use crate::sync::facade::{AtomicU64, Ordering};

/// The longest datagram that counts as one unit of a key's volume.
/// Units: bytes. Source: RFC 9001 appendix B.1, which bounds packets of at most 2^11 bytes.
pub const UNIT: usize = 1 << 11;

/// Units that one key may seal: the bound at which an attacker's advantage against AES-GCM reaches 2^-57.
/// ChaCha20-Poly1305 would allow more; one number for both is one number to check.
/// Source: RFC 9001 appendix B.1.1, 2^28 packets of at most 2^11 bytes (2^23 of at most 2^16, the same in bytes).
pub const REJECT_AFTER_UNITS: u64 = 1 << 28;

/// Units after which a new key is made: half of them leave a minute at 25 Gbit/s to agree on it.
pub const REKEY_AFTER_UNITS: u64 = REJECT_AFTER_UNITS / 2;

/// The counter of one sending key.
#[derive(Debug)]
pub(super) struct Counter {
    /// Written by every worker that sends, so nothing else shares its line.
    next: CachePadded<AtomicU64>,
    /// Units that long datagrams count beyond one each.
    excess: AtomicU64,
}

impl Counter {
    pub(super) fn new() -> Self {
        Self {
            next: CachePadded::new(AtomicU64::new(0)),
            excess: AtomicU64::new(0),
        }
    }

    /// Takes `n` numbers in a row for datagrams of at most `len` bytes: the first of them, or none when the
    /// volume is spent. Cost: one locked instruction, two where datagrams are longer than [`UNIT`].
    #[inline]
    pub(super) fn take(&self, n: u16, len: usize) -> Option<u64> {
        let n = u64::from(n);
        // A read-modify-write of one atomic is in one order for all threads, so relaxed gives each its own range.
        // It also runs on when refused: at most 2^16 a call, it would need 2^48 refused calls to come around.
        let first = self.next.fetch_add(n, Ordering::Relaxed);
        let excess = if len <= UNIT {
            self.excess.load(Ordering::Relaxed)
        } else {
            let more = u64::try_from(len.div_ceil(UNIT) - 1).unwrap_or(u64::MAX);
            let more = more.saturating_mul(n).min(REJECT_AFTER_UNITS);
            self.excess.fetch_add(more, Ordering::Relaxed) + more
        };
        let spent = first.saturating_add(n).saturating_add(excess);
        (spent <= REJECT_AFTER_UNITS).then_some(first)
    }

    /// Numbers given out. Units: datagrams.
    pub(super) fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Volume given out. Units: [`UNIT`].
    pub(super) fn spent(&self) -> u64 {
        let excess = self.excess.load(Ordering::Relaxed);
        self.taken().saturating_add(excess)
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self) {
        self.excess.fetch_add(REJECT_AFTER_UNITS, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_given_and_none_after() {
        let counter = Counter::new();
        counter
            .next
            .store(REJECT_AFTER_UNITS - 3, Ordering::Relaxed);
        assert_eq!(counter.take(2, 100), Some(REJECT_AFTER_UNITS - 3));
        assert_eq!(counter.take(1, 100), Some(REJECT_AFTER_UNITS - 1));
        assert_eq!(counter.take(1, 100), None);
        assert_eq!(counter.take(1, 100), None, "for good");
    }

    #[test]
    fn long_datagrams_count_as_the_bytes_they_are() {
        let counter = Counter::new();
        assert_eq!(counter.take(4, UNIT), Some(0));
        assert_eq!(counter.spent(), 4);
        assert_eq!(counter.take(2, UNIT + 1), Some(4));
        assert_eq!(counter.spent(), 8, "two units each");
        assert_eq!(counter.take(1, 65_507), Some(6));
        assert_eq!(counter.spent(), 8 + 32);
        assert_eq!(counter.taken(), 7);
    }

    #[test]
    fn a_closed_counter_gives_nothing() {
        let counter = Counter::new();
        assert!(counter.take(1, 1).is_some());
        counter.close();
        assert_eq!(counter.take(1, 1), None);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use super::*;

    /// Two workers take ranges, one of them for long datagrams: no number is in two ranges.
    #[test]
    fn loom_no_number_is_given_twice() {
        loom::model(|| {
            let counter = Arc::new(Counter::new());
            let other = Arc::clone(&counter);
            let take = |counter: &Counter, n: u16, len: usize| {
                let first = counter.take(n, len).unwrap();
                first..first + u64::from(n)
            };
            let there =
                loom::thread::spawn(move || [take(&other, 1, 1), take(&other, 3, UNIT * 2)]);
            let here = [take(&counter, 2, 100), take(&counter, 1, 100)];
            let there = there.join().unwrap();
            let mut all: Vec<u64> = here.into_iter().chain(there).flatten().collect();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6], "each once");
            assert_eq!(counter.spent(), 7 + 3);
        });
    }

    /// At the end of a key's volume, workers at once get no number beyond it.
    #[test]
    fn loom_the_volume_is_never_exceeded() {
        loom::model(|| {
            let counter = Arc::new(Counter::new());
            counter
                .next
                .store(REJECT_AFTER_UNITS - 3, Ordering::Relaxed);
            let other = Arc::clone(&counter);
            let there = loom::thread::spawn(move || (other.take(2, 1), other.take(2, 1)));
            let here = (counter.take(2, 1), counter.take(2, 1));
            let there = there.join().unwrap();
            let given: Vec<u64> = [here.0, here.1, there.0, there.1]
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(given, [REJECT_AFTER_UNITS - 3], "one of them, once");
        });
    }
}
