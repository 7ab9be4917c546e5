//! Stage 6: Which backend a conversation goes to: the same for all workers, after a restart too, and another one for
//! as few as can be when backends come and go. Source: Eisenbud et al., "Maglev", NSDI 2016, section 3.4.

/// Entries of a table: a prime, so that every backend's order visits all. One size for all, for with another size
/// everything would move; shares of 100 backends differ by a hundredth, of 1,000 by a tenth.
const SIZE: u64 = 16_381;

/// Scatters a number. Source: Steele et al., "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
#[must_use]
pub const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A table of places in a list of backends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice(Box<[u16]>);

impl Choice {
    /// The table for backends with these identities and places. Cost: a few steps an entry; not for a packet's way.
    #[must_use]
    pub fn new(backends: &[(u64, u16)]) -> Self {
        if backends.is_empty() {
            return Self::default();
        }
        // Each backend visits all entries in an order of its own, and they take turns.
        let mut orders: Vec<_> = backends
            .iter()
            .map(|&(identity, place)| {
                let offset = mix(identity) % SIZE;
                let skip = mix(identity ^ u64::MAX) % (SIZE - 1) + 1;
                (offset, skip, place)
            })
            .collect();
        let mut table: Vec<Option<u16>> = (0..SIZE).map(|_| None).collect();
        let mut left = SIZE;
        while left > 0 {
            for (at, skip, place) in &mut orders {
                if left == 0 {
                    break;
                }
                loop {
                    let entry = usize::try_from(*at).ok().and_then(|at| table.get_mut(at));
                    *at = (*at + *skip) % SIZE;
                    if let Some(entry @ None) = entry {
                        *entry = Some(*place);
                        left -= 1;
                        break;
                    }
                }
            }
        }
        Self(table.into_iter().flatten().collect())
    }

    /// The place that a hash leads to; `None` where there are no backends.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Option<u16> {
        let at = hash.checked_rem(self.0.len() as u64)?;
        self.0.get(usize::try_from(at).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(identities: impl Iterator<Item = u64>) -> (Choice, Vec<u64>) {
        let list: Vec<u64> = identities.collect();
        let places: Vec<_> = list.iter().copied().zip(0..).collect();
        (Choice::new(&places), list)
    }

    #[test]
    fn shares_are_even_and_stay_when_one_goes() {
        for n in [1, 2, 3, 10, 100] {
            let (before, old) = table(0..n);
            let gone = n / 2;
            let (after, new) = table((0..n).filter(|i| *i != gone));
            let mut shares = vec![0_u64; old.len()];
            let (mut moved, mut rest) = (0, 0);
            for hash in 0..100_000 {
                let was = usize::from(before.pick(mix(hash)).unwrap());
                shares[was] += 1;
                if old[was] == gone {
                    continue;
                }
                rest += 1;
                let is = usize::from(after.pick(mix(hash)).unwrap());
                moved += u64::from(old[was] != new[is]);
            }
            let fair = 100_000 / n;
            assert!(
                shares.iter().all(|s| s.abs_diff(fair) * 5 < fair),
                "{n}: {shares:?}"
            );
            assert!(moved * 20 <= rest, "{n}: {moved} of {rest} have moved");
        }
        assert_eq!(Choice::new(&[]).pick(7), None);
    }
}
