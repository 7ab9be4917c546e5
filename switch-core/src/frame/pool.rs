//! A bounded pool of equal blocks, for one owner.

/// Idle blocks kept for the next taker; more are given back to the allocator.
const KEEP: usize = 64;

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

    /// Gives a block back.
    pub fn give(&mut self, block: Box<[u8]>) {
        self.out = self.out.saturating_sub(1);
        if self.idle.len() < KEEP {
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
