//! Which numbers of a key have come: the newest, and a bit for each of the [`WINDOW`] before it.

/// How far behind the newest a datagram may come and still be taken.
/// Units: datagrams. Source: the value of the Linux WireGuard module; datagrams of one key leave by several workers.
pub const WINDOW: u64 = 8192;

const BITS: u64 = u64::BITS as u64;

/// One word more than the window has, so that a word may be cleared whole when the newest number enters it.
/// Source: RFC 6479 section 2.
const WORDS: usize = (WINDOW / BITS) as usize + 1;

/// Why a number is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// It has come before.
    Replayed,
    /// It is too far behind to know.
    Old,
}

/// A window over the numbers of one key, with one owner.
#[derive(Debug)]
pub(super) struct Window {
    /// One more than the newest number seen; 0 before the first.
    next: u64,
    words: Box<[u64; WORDS]>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            words: Box::new([0; WORDS]),
        }
    }

    fn place(number: u64) -> (usize, u64) {
        let word = (number / BITS) % (WORDS as u64);
        // Below WORDS, so it fits.
        (usize::try_from(word).unwrap_or(0), 1 << (number % BITS))
    }

    /// Whether `number` may be taken: not yet seen, and not too old. Changes nothing: who sent it is not known yet.
    /// Cost: O(1).
    #[inline]
    pub(super) fn check(&self, number: u64) -> Result<(), Stale> {
        if number >= self.next {
            return Ok(());
        }
        if self.next - number > WINDOW {
            return Err(Stale::Old);
        }
        let (word, bit) = Self::place(number);
        match self.words.get(word) {
            Some(seen) if seen & bit == 0 => Ok(()),
            Some(_) | None => Err(Stale::Replayed),
        }
    }

    /// Notes an authenticated `number` that was checked; says whether it is the newest.
    /// Cost: O(1), and a word to clear for each 64 numbers skipped, at most the window.
    #[inline]
    pub(super) fn note(&mut self, number: u64) -> bool {
        let newest = number >= self.next;
        if newest {
            // Words between the old newest and this one hold bits of numbers long past.
            let now = number / BITS;
            let before = self.next.checked_sub(1).map_or(0, |last| last / BITS);
            let steps = (now - before).min(WORDS as u64);
            for step in 0..steps {
                let (word, _) = Self::place((now - step) * BITS);
                if let Some(word) = self.words.get_mut(word) {
                    *word = 0;
                }
            }
            self.next = number.saturating_add(1);
        }
        let (word, bit) = Self::place(number);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
        newest
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_edge_of_the_window() {
        let mut window = Window::new();
        assert!(window.note(WINDOW + 100));
        assert_eq!(window.check(101), Ok(()));
        assert_eq!(window.check(100), Err(Stale::Old));
        assert!(!window.note(101));
        assert_eq!(window.check(101), Err(Stale::Replayed));
        assert_eq!(window.check(102), Ok(()));
    }

    #[test]
    fn a_long_leap_forgets_all() {
        let mut window = Window::new();
        for number in 0..300 {
            assert!(window.note(number));
        }
        assert!(window.note(u64::MAX / 2));
        assert_eq!(window.check(299), Err(Stale::Old));
        for back in 1..WINDOW {
            assert_eq!(window.check(u64::MAX / 2 - back), Ok(()));
        }
    }

    proptest! {
        /// The window against a set of everything that ever came.
        #[test]
        fn as_a_set_would(steps in prop::collection::vec((0u64..3, 0u64..20_000), 1..400)) {
            let mut window = Window::new();
            let mut seen = BTreeSet::new();
            let mut newest: Option<u64> = None;
            for (kind, by) in steps {
                let number = match (kind, newest) {
                    (_, None) => by,
                    (0, Some(n)) => n.saturating_sub(by),
                    (1, Some(n)) => n + by,
                    (_, Some(n)) => n.saturating_sub(by % 130) + 1,
                };
                let expected = if seen.contains(&number)
                    && newest.is_none_or(|n| n - number < WINDOW) {
                    Err(Stale::Replayed)
                } else if newest.is_some_and(|n| n >= number + WINDOW) {
                    Err(Stale::Old)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(number), expected, "{} after {:?}", number, newest);
                if expected.is_ok() {
                    prop_assert_eq!(window.note(number), newest.is_none_or(|n| number > n));
                    seen.insert(number);
                    newest = newest.max(Some(number));
                }
            }
        }
    }
}
