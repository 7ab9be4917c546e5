//! Counters that each worker writes in cells of its own, and anyone may sum.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::facade::{AtomicU64, Ordering};

/// One worker's cells, `N` of them, on cache lines that no other worker writes.
type Cells<const N: usize> = CachePadded<[AtomicU64; N]>;

/// `N` counters of some workers.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    workers: Box<[Arc<Cells<N>>]>,
}

/// The right to count for one worker: there is one for each, so a plain load and store make no lost update.
#[derive(Debug)]
pub struct Writer<const N: usize> {
    cells: Arc<Cells<N>>,
}

impl<const N: usize> Counters<N> {
    /// Counters at zero, and the writers of `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> (Self, Vec<Writer<N>>) {
        let cells = |_| Arc::new(CachePadded::new([const { 0 }; N].map(AtomicU64::new)));
        let workers: Box<[_]> = (0..workers).map(cells).collect();
        let writer = |cells| Writer {
            cells: Arc::clone(cells),
        };
        let writers = workers.iter().map(writer).collect();
        (Self { workers }, writers)
    }

    /// What all workers have counted. Sums wrap, as the cells do; a sum never goes back otherwise.
    #[must_use]
    pub fn sum(&self, counter: usize) -> u64 {
        let cells = self.workers.iter().filter_map(|c| c.get(counter));
        cells.fold(0, |sum, cell| {
            sum.wrapping_add(cell.load(Ordering::Relaxed))
        })
    }

    /// What one worker has counted; zero for one that there is not.
    #[must_use]
    pub fn of(&self, worker: usize, counter: usize) -> u64 {
        let cell = self.workers.get(worker).and_then(|c| c.get(counter));
        cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

impl<const N: usize> Writer<N> {
    /// Adds to a counter below `N`. Cost: a load and a store, no locked instruction.
    #[inline]
    pub fn add(&mut self, counter: usize, n: u64) {
        if let Some(cell) = self.cells.get(counter) {
            let sum = cell.load(Ordering::Relaxed).wrapping_add(n);
            cell.store(sum, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn sums_over_workers() {
        let (counters, mut writers) = Counters::<3>::new(2);
        writers[0].add(0, 1);
        writers[1].add(0, 10);
        writers[1].add(2, u64::MAX);
        writers[1].add(2, 2);
        writers[1].add(3, 1);
        assert_eq!([0, 1, 2, 3].map(|c| counters.sum(c)), [11, 0, 1, 0]);
        assert_eq!(counters.of(1, 0), 10);
        assert_eq!(counters.of(2, 0), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::thread;

    /// No count is lost, and a reader never sees a sum go back.
    #[test]
    fn writers_and_a_reader() {
        loom::model(|| {
            let (counters, mut writers) = Counters::<1>::new(2);
            let counters = Arc::new(counters);
            let mut other = writers.pop().unwrap();
            let other = thread::spawn(move || other.add(0, 1));
            let reader = Arc::clone(&counters);
            let reader = thread::spawn(move || {
                let first = reader.sum(0);
                let second = reader.sum(0);
                assert!(first <= second && second <= 3);
            });
            for mut writer in writers {
                writer.add(0, 1);
                writer.add(0, 1);
            }
            other.join().unwrap();
            reader.join().unwrap();
            assert_eq!(counters.sum(0), 3);
        });
    }
}
