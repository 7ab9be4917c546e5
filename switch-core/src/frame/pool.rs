//! A bounded pool of equal blocks, for one owner.

/// Idle blocks kept for the next taker; more are given back to the allocator.
const KEEP: usize = 256;

/// Blocks of one size, at most so many bytes of them.
#[derive(Debug)]
pub struct Pool {
    block: usize,
    capacity: usize,
    out: usize,
    idle: Vec<Box<[u8]>>,
    refused: u64,
}

impl Pool {
    /// A pool of blocks of `block` bytes that never hands out more than `capacity` bytes at once.
    #[must_use]
    pub fn new(block: usize, capacity: usize) -> Self {
        Self {
            block,
            capacity: capacity / block.max(1),
            out: 0,
            idle: Vec::new(),
            refused: 0,
        }
    }

    /// Takes a block; none when all are out. Its bytes are of no meaning.
    pub fn take(&mut self) -> Option<Box<[u8]>> {
        if self.out >= self.capacity {
            self.refused += 1;
            return None;
        }
        self.out += 1;
        Some(
            self.idle
                .pop()
                .unwrap_or_else(|| vec![0; self.block].into_boxed_slice()),
        )
    }

    /// Gives a block back. One of another size, hence of another pool, is not handed out again.
    pub fn give(&mut self, block: Box<[u8]>) {
        self.out = self.out.saturating_sub(1);
        if self.idle.len() < KEEP && block.len() == self.block {
            self.idle.push(block);
        }
    }

    /// Blocks that are out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.out
    }

    /// How often there was none left.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_its_bytes_are_out() {
        let mut pool = Pool::new(1000, 2999);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((a.len(), b.len(), pool.in_use()), (1000, 1000, 2));
        assert!(pool.take().is_none());
        assert_eq!(pool.refused(), 1);
        pool.give(a);
        assert_eq!(pool.in_use(), 1);
        assert!(pool.take().is_some());
        assert!(Pool::new(0, 0).take().is_none());
    }

    #[test]
    fn idle_blocks_are_few_and_of_one_size() {
        let mut pool = Pool::new(10, 10_000);
        let out: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!(out.len(), 1000);
        for block in out {
            pool.give(block);
        }
        assert_eq!((pool.in_use(), pool.idle.len()), (0, KEEP));
        let mut pool = Pool::new(10, 100);
        pool.give(vec![0; 3].into_boxed_slice());
        assert_eq!(pool.take().map(|b| b.len()), Some(10));
    }
}
