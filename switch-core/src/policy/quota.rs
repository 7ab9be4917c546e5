//! Stage 5: Shares of what there is only so much of: whoever has a part holds a value that gives it back when dropped.

use std::sync::Arc;

use crate::sync::facade::{AtomicU64, Ordering};
use crate::sync::tally::Tallies;

/// So many at most, held by workers that share it.
#[derive(Debug)]
pub struct Quota {
    most: AtomicU64,
    /// Where they are counted, among what else of that kind is.
    held: Arc<Tallies>,
    at: usize,
}

/// One part, given back when dropped.
#[derive(Debug)]
pub struct Held(Arc<Quota>);

impl Quota {
    /// Nothing is held yet.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self::of(most, Arc::new(Tallies::new(1)), 0)
    }

    /// So many of what is counted in that place, by others too.
    #[must_use]
    pub fn of(most: u64, held: Arc<Tallies>, at: usize) -> Self {
        Self {
            most: AtomicU64::new(most),
            held,
            at,
        }
    }

    /// Takes a part, if one is left. Cost: an exchange; no allocation.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Held> {
        let taken = self.held.add_below(self.at, || self.most());
        taken.then(|| Held(Arc::clone(self)))
    }

    /// Takes a part, if more are left than `own`, which is how many the one has for whom it is. So of any number that
    /// want all, each comes to have what is left over for one more, who need not be there yet.
    /// Source: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998, with a factor of one.
    #[must_use]
    pub fn take_fairly(self: &Arc<Self>, own: u64) -> Option<Held> {
        let most = || self.most().saturating_sub(own);
        let taken = self.held.add_below(self.at, most);
        taken.then(|| Held(Arc::clone(self)))
    }

    /// Changes how many there may be. Who holds one above it keeps it.
    pub fn set_most(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many there may be.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// How many are held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.get(self.at)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.sub(self.0.at);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn who_wants_all_gets_a_share() {
        let quota = Arc::new(Quota::new(120));
        let greedy = |held: &mut Vec<Held>| {
            while let Some(more) = quota.take_fairly(held.len() as u64) {
                held.push(more);
            }
        };
        let mut all = [const { Vec::new() }; 5];
        greedy(&mut all[0]);
        assert_eq!(all[0].len(), 60, "alone it has half");
        // Where they come at once, each has as much as is left.
        all[0].clear();
        for _ in 0..120 {
            for held in &mut all {
                held.extend(quota.take_fairly(held.len() as u64));
            }
        }
        assert_eq!(all.each_ref().map(Vec::len), [20; 5]);
        let mut late = Vec::new();
        greedy(&mut late);
        assert_eq!(late.len(), 10, "who comes late has some");
        drop(all);
        assert_eq!(quota.held(), 10);
    }

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let quota = Arc::new(Quota::new(2));
        let first = quota.take();
        let second = quota.take();
        assert!(first.is_some() && second.is_some() && quota.take().is_none());
        drop(first);
        assert_eq!(quota.held(), 1);
        assert!(quota.take().is_some());
        quota.set_most(1);
        assert!(quota.take().is_none(), "the second is held still");
        drop(second);
        assert!(quota.take().is_some());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;

    #[test]
    fn no_two_get_the_last_one() {
        loom::model(|| {
            let quota = Arc::new(Quota::new(1));
            let other = Arc::clone(&quota);
            let there = loom::thread::spawn(move || other.take());
            let here = quota.take();
            let there = there.join().unwrap();
            assert!(here.is_some() != there.is_some());
            drop((here, there));
            assert_eq!(quota.held(), 0);
        });
    }
}
