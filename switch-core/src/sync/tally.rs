//! What each endpoint has of something that several tables share: a number for each, changed by whoever gives it a part
//! or takes one back.

use core::fmt;

use super::facade::{AtomicU64, Ordering};

/// Endpoints are numbered below this.
#[cfg(not(any(loom, all(shuttle, test))))]
pub const PORTS: usize = 1 << 16;
/// Few, as each is a thing to be modelled.
#[cfg(any(loom, all(shuttle, test)))]
pub const PORTS: usize = 64;

/// A number for each endpoint. Who is numbered higher than there are has none, and nothing of it is counted.
pub struct Tallies(Box<[AtomicU64]>);

impl Tallies {
    /// All are zero. Cost: address space; memory is used as numbers are.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self(Self::zeroed(ports.max(1)))
    }

    #[cfg(not(any(loom, all(shuttle, test))))]
    fn zeroed(n: usize) -> Box<[AtomicU64]> {
        <[AtomicU64] as zerocopy::FromZeros>::new_box_zeroed_with_elems(n).unwrap_or_default()
    }

    #[cfg(any(loom, all(shuttle, test)))]
    fn zeroed(n: usize) -> Box<[AtomicU64]> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    /// The number of now.
    #[inline]
    #[must_use]
    pub fn get(&self, at: usize) -> u64 {
        self.0
            .get(at)
            .map_or(0, |n| whole(n.load(Ordering::Relaxed)))
    }

    /// One more.
    pub fn add(&self, at: usize) {
        if let Some(n) = self.0.get(at) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One more, while it is below `most`. False if it is not. Cost: an exchange.
    #[must_use]
    pub fn add_below(&self, at: usize, most: impl Fn() -> u64) -> bool {
        let Some(n) = self.0.get(at) else {
            return true;
        };
        let mut seen = n.load(Ordering::Relaxed);
        while whole(seen) < most() {
            match n.compare_exchange(
                seen,
                seen.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                // Another worker was faster.
                Err(other) => seen = other,
            }
        }
        false
    }

    /// One less.
    pub fn sub(&self, at: usize) {
        if let Some(n) = self.0.get(at) {
            n.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A number that was less than nothing for a moment, as where one is taken back before its giver has counted it.
const fn whole(n: u64) -> u64 {
    if n > u64::MAX / 2 { 0 } else { n }
}

impl fmt::Debug for Tallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tallies")
            .field("ports", &self.0.len())
            .finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own() {
        let tallies = Tallies::new(2);
        assert!(tallies.add_below(0, || 1) && !tallies.add_below(0, || 1));
        tallies.add(0);
        tallies.add(1);
        tallies.sub(0);
        assert_eq!((tallies.get(0), tallies.get(1)), (1, 1));
        // There is no third, which is not counted.
        tallies.add(2);
        assert!(tallies.add_below(2, || 0));
        assert_eq!(tallies.get(2), 0);
    }
}
