//! Stage 6: Sequence numbers: 32 bits that wrap. Source: RFC 9293 section 3.4.

/// How far `b` lies behind `a`; negative if `a` is the older. Right while they are less than 2^31 apart.
#[must_use]
#[inline]
pub(super) fn diff(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// True if `a` comes before `b`.
#[must_use]
#[inline]
pub(super) fn lt(a: u32, b: u32) -> bool {
    diff(a, b) < 0
}

/// True if `a` is `b` or comes before it.
#[must_use]
#[inline]
pub(super) fn le(a: u32, b: u32) -> bool {
    diff(a, b) <= 0
}

/// The later of two.
#[must_use]
#[inline]
pub(super) fn max(a: u32, b: u32) -> u32 {
    if lt(a, b) { b } else { a }
}

/// The earlier of two.
#[must_use]
#[inline]
pub(super) fn min(a: u32, b: u32) -> u32 {
    if lt(a, b) { a } else { b }
}

/// A `usize` as a distance. Everything here is far below 2^31.
#[must_use]
#[inline]
pub(super) fn dist(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX >> 1)
}

/// A few disjoint ranges of sequence numbers in order: what lies beyond a hole.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges(arrayvec::ArrayVec<(u32, u32), 32>);

impl Ranges {
    /// Adds `[start, end)`. False if that would need more ranges than there is room for.
    pub(super) fn add(&mut self, mut start: u32, mut end: u32) -> bool {
        let mut merged: arrayvec::ArrayVec<(u32, u32), 32> = arrayvec::ArrayVec::new();
        let mut placed = false;
        for &(s, e) in &self.0 {
            if lt(e, start) {
                if merged.try_push((s, e)).is_err() {
                    return false;
                }
            } else if lt(end, s) {
                if !placed {
                    placed = true;
                    if merged.try_push((start, end)).is_err() {
                        return false;
                    }
                }
                if merged.try_push((s, e)).is_err() {
                    return false;
                }
            } else {
                start = min(start, s);
                end = max(end, e);
            }
        }
        if !placed && merged.try_push((start, end)).is_err() {
            return false;
        }
        self.0 = merged;
        true
    }

    /// Forgets everything before `seq`.
    pub(super) fn trim(&mut self, seq: u32) {
        self.0.retain(|&mut (_, e)| lt(seq, e));
        if let Some(first) = self.0.first_mut() {
            first.0 = max(first.0, seq);
        }
    }

    /// Takes the first range if it starts at `seq` or before, and returns its end.
    pub(super) fn join(&mut self, seq: u32) -> Option<u32> {
        let &(s, e) = self.0.first()?;
        if lt(seq, s) {
            return None;
        }
        self.0.remove(0);
        Some(max(seq, e))
    }

    /// The first hole at or after `from`: its start and, if a range follows, its end.
    pub(super) fn hole(&self, from: u32) -> (u32, Option<u32>) {
        let mut at = from;
        for &(s, e) in &self.0 {
            if lt(at, s) {
                return (at, Some(s));
            }
            at = max(at, e);
        }
        (at, None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }

    /// Bytes in all ranges.
    pub(super) fn bytes(&self) -> u32 {
        self.0.iter().map(|&(s, e)| e.wrapping_sub(s)).sum()
    }
}

/// What has arrived beyond a hole, and in which order.
#[derive(Debug, Clone, Default)]
pub(super) struct Ahead {
    ranges: Ranges,
    /// Where the last segments began, the newest first.
    newest: arrayvec::ArrayVec<u32, 4>,
}

impl Ahead {
    /// Adds `[start, end)`, if there is room for it. Gives the part of it that was there before.
    pub(super) fn add(&mut self, start: u32, end: u32) -> Option<(u32, u32)> {
        let known = self
            .ranges
            .iter()
            .find(|&(s, e)| lt(start, e) && lt(s, end));
        if self.ranges.add(start, end) {
            self.newest.retain(|&mut at| at != start);
            if self.newest.is_full() {
                self.newest.pop();
            }
            self.newest.insert(0, start);
        }
        known.map(|(s, e)| (max(s, start), min(e, end)))
    }

    /// Takes the first range if it starts at `seq` or before, and returns its end.
    pub(super) fn join(&mut self, seq: u32) -> Option<u32> {
        self.ranges.join(seq)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges to tell, the newest first. Source: RFC 2018 section 4.
    pub(super) fn blocks(&self) -> arrayvec::ArrayVec<(u32, u32), 4> {
        let mut blocks = arrayvec::ArrayVec::new();
        let of = |&at: &u32| self.ranges.iter().find(|&(s, e)| le(s, at) && lt(at, e));
        for range in self.newest.iter().filter_map(of).chain(self.ranges.iter()) {
            if !blocks.contains(&range) && blocks.try_push(range).is_err() {
                break;
            }
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_holds_across_the_wrap() {
        assert!(lt(u32::MAX, 0));
        assert!(lt(0xffff_fff0, 0x10));
        assert_eq!(max(u32::MAX, 3), 3);
    }

    #[test]
    fn the_newest_range_is_told_first() {
        let mut ahead = Ahead::default();
        for at in [100, 900, 300, 700, 500] {
            assert_eq!(ahead.add(at, at + 10), None);
        }
        let starts = |ahead: &Ahead| ahead.blocks().iter().map(|b| b.0).collect::<Vec<_>>();
        assert_eq!(starts(&ahead), [500, 700, 300, 900]);
        assert_eq!(ahead.add(910, 920), None);
        assert_eq!(ahead.blocks()[..2], [(900, 920), (500, 510)]);
        // What was there before, in whole or in part.
        assert_eq!(ahead.add(305, 320), Some((305, 310)));
        assert_eq!(ahead.add(500, 510), Some((500, 510)));
        assert_eq!(ahead.blocks()[..2], [(500, 510), (300, 320)]);
        // What has been joined is told no more.
        assert_eq!(ahead.join(100), Some(110));
        assert_eq!(ahead.blocks().len(), 4);
        assert!(ahead.blocks().iter().all(|b| b.0 != 100));
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_set(base in any::<u32>(), ops in prop::collection::vec((0u32..200, 1u32..30), 1..40)) {
            let mut ranges = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (at, len) in ops {
                if ranges.add(base.wrapping_add(at), base.wrapping_add(at + len)) {
                    set.extend(at..at + len);
                }
            }
            let got: Vec<u32> = ranges.iter()
                .flat_map(|(s, e)| (s.wrapping_sub(base)..e.wrapping_sub(base)).collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(got, set.into_iter().collect::<Vec<_>>());
        }
    }
}
