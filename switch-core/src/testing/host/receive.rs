//! The receive buffer of a socket, counted as a kernel counts it: by the memory of segments, not by their bytes.

use std::collections::VecDeque;

/// How a socket's receive buffer is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receive {
    /// Memory that it may take.
    pub limit: usize,
    /// Bytes of stream in one segment at most.
    pub segment: usize,
    /// Memory of a segment beside its bytes. All of it is in use until the last byte has been discarded:
    /// a peek frees nothing. Source: Linux's skb truesize, of which net/ipv4/tcp_input.c speaks at tcp_grow_window.
    pub overhead: usize,
}

impl Default for Receive {
    fn default() -> Self {
        Self {
            limit: 256 * 1024,
            segment: 64 * 1024,
            overhead: 0,
        }
    }
}

/// The buffer.
#[derive(Debug)]
pub(super) struct Buffer {
    how: Receive,
    /// The bytes of each segment that are not yet discarded, and its memory.
    segments: VecDeque<(usize, usize)>,
    memory: usize,
}

impl Buffer {
    pub(super) fn new(how: Receive) -> Self {
        Self {
            how,
            segments: VecDeque::new(),
            memory: 0,
        }
    }

    /// Whether another segment finds room, even a small one.
    pub(super) fn has_room(&self) -> bool {
        self.memory + self.how.overhead < self.how.limit
    }

    /// Takes what has room of so many bytes that are there to be sent. Returns how many that is.
    pub(super) fn arrive(&mut self, bytes: usize) -> usize {
        let mut taken = 0;
        while taken < bytes && self.has_room() {
            let room = self.how.limit - self.memory - self.how.overhead;
            let n = (bytes - taken).min(self.how.segment).min(room);
            self.segments.push_back((n, n + self.how.overhead));
            self.memory += n + self.how.overhead;
            taken += n;
        }
        taken
    }

    /// Discards bytes from the front. Panics: where there are fewer.
    pub(super) fn discard(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some((left, memory)) = self.segments.front_mut() else {
                panic!("discarded {bytes} bytes more than had arrived");
            };
            let n = bytes.min(*left);
            *left -= n;
            bytes -= n;
            if *left == 0 {
                self.memory -= *memory;
                self.segments.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_free_again_when_the_last_byte_of_a_segment_is_discarded() {
        let mut buffer = Buffer::new(Receive {
            limit: 128 * 1024,
            segment: 1024,
            overhead: 12 * 1024,
        });
        // Nine whole segments of 13 KB, and one that the rest of 11 KB has no room for.
        assert_eq!(buffer.arrive(100_000), 9 * 1024);
        buffer.discard(1023);
        assert_eq!(buffer.arrive(100_000), 0);
        buffer.discard(1);
        assert_eq!(buffer.arrive(100_000), 1024);
    }
}
