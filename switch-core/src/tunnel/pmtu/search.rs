//! `[7]` Which size to try next.

use super::{BASE, LEAST};

/// Steps below this are not worth a probe. Source: what RFC 8899 section 5.3.2 leaves open; most options of headers are
/// multiples of it.
const STEP: u16 = 4;

/// What is known of sizes.
#[derive(Debug)]
pub(super) struct Search {
    /// The greatest that passes, as far as is known.
    low: u16,
    /// The least that does not.
    high: u16,
    /// The greatest that is left was named by the link or a router, or passed before: it is right more often than not,
    /// and tried first.
    named: bool,
    /// But not before it is known that at least [`BASE`] passes: it is relied on already.
    careful: bool,
}

impl Search {
    /// Up to a size that the link or a router has named, and above one that passes.
    pub(super) const fn up_to(top: u16, low: u16) -> Self {
        Self {
            low,
            high: top.saturating_add(1),
            named: true,
            careful: false,
        }
    }

    /// Up to a size that has passed and seems not to any more.
    pub(super) const fn again(top: u16) -> Self {
        Self {
            careful: true,
            ..Self::up_to(top, LEAST)
        }
    }

    pub(super) const fn low(&self) -> u16 {
        self.low
    }

    pub(super) fn passed(&mut self, size: u16) {
        self.low = self.low.max(size);
        self.high = self.high.max(self.low.saturating_add(1));
    }

    pub(super) fn failed(&mut self, size: u16) {
        self.high = self.high.min(size).max(self.low.saturating_add(1));
        self.named = false;
    }

    /// None: what is to be known is known.
    pub(super) fn next(&self) -> Option<u16> {
        let top = self.high.saturating_sub(1);
        let base = self.low < BASE && BASE < self.high;
        if self.low >= top {
            None
        } else if self.named && !(self.careful && base) {
            Some(top)
        } else if base {
            Some(BASE)
        } else {
            (top - self.low >= STEP).then(|| self.low.midpoint(self.high))
        }
    }
}
