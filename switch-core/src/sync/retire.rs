//! The end of what workers may still use: who changes the configuration takes a thing out of what is published,
//! waits until every worker has begun anew since, and only then closes or frees it.
//!
//! A worker keeps nothing of what is published across the start of a batch, and says at each start which epoch it
//! has seen. One that sleeps uses nothing and holds nobody up.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::facade::{AtomicU64, Ordering};

/// The epoch of a worker that sleeps.
const ASLEEP: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    now: CachePadded<AtomicU64>,
    seen: Box<[CachePadded<AtomicU64>]>,
}

/// A worker's side. There is one for each worker.
#[derive(Debug)]
pub struct Passing {
    shared: Arc<Shared>,
    worker: usize,
}

/// The side of the one who changes the configuration, with what waits to be ended.
#[derive(Debug)]
pub struct Retired<T> {
    shared: Arc<Shared>,
    waiting: VecDeque<(u64, T)>,
}

/// Both sides for `workers` workers, all asleep.
#[must_use]
pub fn epochs<T>(workers: usize) -> (Retired<T>, Vec<Passing>) {
    let asleep = |_| CachePadded::new(AtomicU64::new(ASLEEP));
    let shared = Arc::new(Shared {
        now: CachePadded::new(AtomicU64::new(0)),
        seen: (0..workers).map(asleep).collect(),
    });
    let passing = |worker| Passing {
        shared: Arc::clone(&shared),
        worker,
    };
    let passings = (0..workers).map(passing).collect();
    let retired = Retired {
        shared,
        waiting: VecDeque::new(),
    };
    (retired, passings)
}

impl Passing {
    /// Begins a batch: what was published before is used no more, what is published now may be loaded.
    #[inline]
    pub fn pass(&mut self) {
        let now = self.shared.now.load(Ordering::Acquire);
        let Some(seen) = self.shared.seen.get(self.worker) else {
            return;
        };
        // Nothing new: the release of the last time still stands.
        if seen.load(Ordering::Relaxed) != now {
            // An exchange, not a store: it reads what the other side's look left there. If that look found this
            // worker asleep, what was unpublished before it is unpublished for the loads that follow.
            seen.swap(now, Ordering::AcqRel);
        }
    }

    /// Goes to sleep: nothing published is used until the next `pass`.
    pub fn sleep(&mut self) {
        if let Some(seen) = self.shared.seen.get(self.worker) {
            // An exchange too, so that all that writes this cell stands in one order.
            seen.swap(ASLEEP, Ordering::AcqRel);
        }
    }
}

/// A worker that has ended uses nothing.
impl Drop for Passing {
    fn drop(&mut self) {
        self.sleep();
    }
}

impl<T> Retired<T> {
    /// Takes over a thing that has just been taken out of what is published.
    pub fn retire(&mut self, thing: T) {
        let epoch = self.shared.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.waiting.push_back((epoch, thing));
    }

    /// Returns a thing that no worker can use any more, oldest first; none if all are still waited for.
    pub fn ended(&mut self) -> Option<T> {
        let &(epoch, _) = self.waiting.front()?;
        // The look writes (see `pass`), but only into cells of workers that are asleep or late.
        let passed = |seen: &CachePadded<AtomicU64>| {
            let at = seen.load(Ordering::Acquire);
            if at == ASLEEP {
                seen.fetch_add(0, Ordering::AcqRel) >= epoch
            } else {
                at >= epoch
            }
        };
        if !self.shared.seen.iter().all(passed) {
            return None;
        }
        self.waiting.pop_front().map(|(_, thing)| thing)
    }

    /// How many things wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn waits_for_those_who_work_and_not_for_those_who_sleep() {
        let (mut retired, mut workers) = epochs::<&str>(3);
        retired.retire("a");
        assert_eq!(retired.ended(), Some("a"), "all sleep");
        workers[0].pass();
        workers[1].pass();
        retired.retire("b");
        assert_eq!(retired.ended(), None);
        workers[0].pass();
        assert_eq!(retired.ended(), None, "one is left");
        retired.retire("c");
        workers[1].pass();
        assert_eq!(retired.ended(), Some("b"));
        assert_eq!(retired.ended(), None, "the first has not passed the second");
        workers[0].sleep();
        assert_eq!(retired.ended(), Some("c"));
        assert_eq!(retired.ended(), None);
        assert_eq!(retired.waiting(), 0);
    }

    #[test]
    fn a_worker_that_has_ended_holds_nobody_up() {
        let (mut retired, mut workers) = epochs::<u8>(1);
        workers[0].pass();
        retired.retire(1);
        assert_eq!(retired.ended(), None);
        workers.clear();
        assert_eq!(retired.ended(), Some(1));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// What a worker uses between two passes has not been ended: the published number is the index of a cell that
    /// becomes zero at its end.
    fn model(sleeps: bool) {
        loom::model(move || {
            let (mut retired, mut workers) = epochs::<usize>(1);
            let mut worker = workers.pop().unwrap();
            let published = Arc::new(AtomicU64::new(0));
            let alive = Arc::new([AtomicU64::new(1), AtomicU64::new(1)]);
            if !sleeps {
                worker.pass();
            }
            let (its_published, its_alive) = (Arc::clone(&published), Arc::clone(&alive));
            let thread = thread::spawn(move || {
                for _ in 0..2 {
                    worker.pass();
                    let index = its_published.load(Ordering::Relaxed) as usize;
                    assert_eq!(
                        its_alive[index].load(Ordering::Relaxed),
                        1,
                        "used at its end"
                    );
                    if sleeps {
                        worker.sleep();
                    }
                }
            });
            published.store(1, Ordering::Relaxed);
            retired.retire(0);
            if let Some(index) = retired.ended() {
                alive[index].store(0, Ordering::Relaxed);
            }
            thread.join().unwrap();
            assert!(retired.waiting() == 0 || retired.ended() == Some(0));
        });
    }

    #[test]
    fn a_busy_worker_is_waited_for() {
        model(false);
    }

    #[test]
    fn a_worker_that_wakes_uses_nothing_old() {
        model(true);
    }
}
