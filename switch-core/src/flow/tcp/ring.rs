//! Stage 6: What a flow has acknowledged to the sandbox but the host's socket has not taken yet, and what
//! arrived ahead of a hole. Addressed by sequence number; blocks come from the pool and go back to it.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;

use super::seq::{diff, dist};
use crate::frame::Pool;

/// Bytes a block. Small, so that a flow with little in it costs little: with 16 KB, 200 blocked flows emptied the
/// pool while two thirds of its bytes were free, and what the next ones had been offered was dropped.
pub(super) const BLOCK: usize = 4 * 1024;

/// Empty rings that are kept, and the room for blocks that one of them may have: 64 KB in all.
const KEEP: usize = 16;
const KEEP_BLOCKS: usize = 256;

/// The ring of one flow.
#[derive(Debug)]
pub(super) struct Ring {
    /// Sequence number of the first byte of the first block.
    start: u32,
    /// First byte not yet taken by the host.
    head: u32,
    blocks: VecDeque<Option<Box<[u8]>>>,
}

impl Ring {
    /// An empty ring whose first byte will be `head`.
    pub(super) fn new(head: u32) -> Self {
        Self {
            start: head,
            head,
            blocks: VecDeque::new(),
        }
    }

    /// The first byte not yet taken.
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// Puts bytes at their place. Returns how many were stored: fewer than given if the pool is empty.
    pub(super) fn write(&mut self, seq: u32, mut data: &[u8], pool: &mut Pool) -> usize {
        let Ok(mut at) = usize::try_from(diff(seq, self.start)) else {
            return 0;
        };
        let mut stored = 0;
        while !data.is_empty() {
            let (index, offset) = (at / BLOCK, at % BLOCK);
            while self.blocks.len() <= index {
                self.blocks.push_back(None);
            }
            let Some(slot) = self.blocks.get_mut(index) else {
                break;
            };
            if slot.is_none() {
                *slot = pool.take();
            }
            let Some(room) = slot.as_mut().and_then(|b| b.get_mut(offset..)) else {
                break;
            };
            let n = room.len().min(data.len());
            let (now, later) = data.split_at(n);
            if let Some(to) = room.get_mut(..n) {
                to.copy_from_slice(now);
            }
            data = later;
            at += n;
            stored += n;
        }
        stored
    }

    /// The bytes from the head up to `end`, in order, as far as 16 pieces reach.
    pub(super) fn pieces(&self, end: u32) -> ArrayVec<IoSlice<'_>, 16> {
        let mut out = ArrayVec::new();
        let (Ok(mut at), Ok(end)) = (
            usize::try_from(diff(self.head, self.start)),
            usize::try_from(diff(end, self.start)),
        ) else {
            return out;
        };
        while at < end && !out.is_full() {
            let (index, offset) = (at / BLOCK, at % BLOCK);
            let upto = (offset + (end - at)).min(BLOCK);
            let Some(piece) = self
                .blocks
                .get(index)
                .and_then(Option::as_ref)
                .and_then(|b| b.get(offset..upto))
            else {
                break;
            };
            out.push(IoSlice::new(piece));
            at += piece.len();
        }
        out
    }

    /// Takes `n` bytes off the head and gives empty blocks back.
    pub(super) fn consume(&mut self, n: usize, pool: &mut Pool) {
        self.head = self.head.wrapping_add(dist(n));
        while usize::try_from(diff(self.head, self.start)).is_ok_and(|d| d >= BLOCK) {
            if let Some(Some(block)) = self.blocks.pop_front() {
                pool.give(block);
            }
            self.start = self.start.wrapping_add(dist(BLOCK));
        }
    }

    /// Gives every block back.
    fn free(&mut self, pool: &mut Pool) {
        for block in self.blocks.drain(..).flatten() {
            pool.give(block);
        }
    }
}

/// Empty rings that wait for the next flow in need of one: a host that takes most of what comes would otherwise have
/// one made and freed for each frame.
#[derive(Debug, Default)]
#[allow(
    clippy::vec_box,
    reason = "the boxes themselves are what is kept: flows hold a ring by its box, to be small without one"
)]
pub(super) struct Rings(Vec<Box<Ring>>);

impl Rings {
    /// An empty ring whose first byte will be `head`.
    pub(super) fn take(&mut self, head: u32) -> Box<Ring> {
        let Some(mut ring) = self.0.pop() else {
            return Box::new(Ring::new(head));
        };
        (ring.start, ring.head) = (head, head);
        ring
    }

    /// Takes a ring back, and gives its blocks back to the pool.
    pub(super) fn give(&mut self, mut ring: Box<Ring>, pool: &mut Pool) {
        ring.free(pool);
        if self.0.len() < KEEP && ring.blocks.capacity() <= KEEP_BLOCKS {
            self.0.push(ring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_whatever_the_order_in() {
        let mut pool = Pool::new(BLOCK, 64 * BLOCK);
        let base = u32::MAX - 20_000;
        let data: Vec<u8> = (0..100_000u32)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect();
        let mut ring = Ring::new(base);
        for (start, end) in [(60_000, 100_000), (0, 10), (30_000, 60_000), (10, 30_000)] {
            let n = ring.write(base.wrapping_add(dist(start)), &data[start..end], &mut pool);
            assert_eq!(n, end - start);
        }
        let mut got = Vec::new();
        let end = base.wrapping_add(100_000);
        while got.len() < data.len() {
            let take: Vec<u8> = ring
                .pieces(end)
                .iter()
                .flat_map(|p| p.to_vec())
                .take(7_777)
                .collect();
            assert!(!take.is_empty());
            ring.consume(take.len(), &mut pool);
            got.extend(take);
        }
        assert_eq!(got, data);
        ring.free(&mut pool);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_ring_that_is_used_again_is_empty() {
        let mut pool = Pool::new(BLOCK, 64 * BLOCK);
        let mut rings = Rings::default();
        let mut ring = rings.take(7);
        assert_eq!(ring.write(7, &[1; 100], &mut pool), 100);
        rings.give(ring, &mut pool);
        assert_eq!(pool.in_use(), 0);
        let ring = rings.take(1_000_000);
        assert_eq!((ring.head(), ring.pieces(1_000_100).len()), (1_000_000, 0));
        let many: Vec<_> = (0..KEEP + 5).map(|_| rings.take(0)).collect();
        many.into_iter().for_each(|r| rings.give(r, &mut pool));
        assert_eq!(rings.0.len(), KEEP);
    }

    #[test]
    fn an_empty_pool_takes_what_fits() {
        let mut pool = Pool::new(BLOCK, BLOCK);
        let mut ring = Ring::new(0);
        assert_eq!(ring.write(0, &vec![1; 3 * BLOCK], &mut pool), BLOCK);
    }
}
