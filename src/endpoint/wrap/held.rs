//! Frames that a bad link holds back, in one direction, and when each goes on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use switch_core::wire::vnet_hdr::VnetHdr;

/// Frames held at most. One more is lost, as on a link whose queue is full.
const FRAMES: usize = 4096;
/// Bytes held at most, likewise.
const BYTES: usize = 16 << 20;
/// How long a frame waits for others to overtake it. Short beside the 200 ms after which a TCP sender gives it up.
const PATIENCE: Duration = Duration::from_millis(5);

/// A frame that is held back.
#[derive(Debug)]
pub(super) struct Held {
    /// When it goes on.
    due: Instant,
    /// How many others are to go on before it.
    behind: u8,
    /// What is still to be done to it.
    pub(super) vnet: VnetHdr,
    /// From the Ethernet header on.
    pub(super) frame: Vec<u8>,
}

impl Held {
    /// A frame that is held until `due`, and from then on until `behind` others have passed.
    pub(super) fn new(due: Instant, behind: u8, vnet: VnetHdr, frame: Vec<u8>) -> Self {
        Self {
            due,
            behind,
            vnet,
            frame,
        }
    }
}

/// The frames held in one direction.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Every frame is held equally long, so they are due in this order.
    delayed: VecDeque<Held>,
    /// Those that let others pass.
    late: Vec<Held>,
    bytes: usize,
    overflowed: u64,
}

impl Line {
    /// Takes a frame in. It is lost if too much is held already.
    pub(super) fn hold(&mut self, held: Held) {
        if self.delayed.len() + self.late.len() < FRAMES && self.bytes + held.frame.len() <= BYTES {
            self.bytes += held.frame.len();
            self.delayed.push_back(held);
        } else {
            self.overflowed += 1;
        }
    }

    /// How many were lost because too much was held.
    pub(super) const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Gives out the next frame that is due, which counts as passed.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Held> {
        while self.delayed.front().is_some_and(|h| h.due <= now) {
            // Late ones come back into line one by one, each as soon as it may.
            if self.late.iter().any(|h| h.due <= now) {
                break;
            }
            let mut held = self.delayed.pop_front()?;
            if held.behind == 0 {
                return Some(self.given(now, held));
            }
            held.due = now + PATIENCE;
            self.late.push(held);
        }
        let at = self.late.iter().position(|h| h.due <= now)?;
        let held = self.late.remove(at);
        Some(self.given(now, held))
    }

    fn given(&mut self, now: Instant, held: Held) -> Held {
        self.bytes -= held.frame.len();
        self.passed(now);
        held
    }

    /// Tells that a frame has gone on: those that waited for it may come nearer.
    pub(super) fn passed(&mut self, now: Instant) {
        for held in &mut self.late {
            held.behind = held.behind.saturating_sub(1);
            if held.behind == 0 {
                held.due = held.due.min(now);
            }
        }
    }

    /// When the next frame is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let late = self.late.iter().map(|h| h.due);
        late.chain(self.delayed.front().map(|h| h.due)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(due: Instant, behind: u8, name: u8) -> Held {
        Held::new(due, behind, VnetHdr::default(), vec![name])
    }

    fn names(line: &mut Line, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| line.pop(now))
            .map(|h| h.frame[0])
            .collect()
    }

    #[test]
    fn a_late_frame_lets_so_many_pass() {
        let now = Instant::now();
        let mut line = Line::default();
        for (name, behind) in (0..).zip([2, 0, 0, 0]) {
            line.hold(held(now, behind, name));
        }
        assert_eq!(names(&mut line, now), [1, 2, 0, 3]);
        assert_eq!((line.bytes, line.poll_timeout()), (0, None));
    }

    #[test]
    fn nothing_stays_for_want_of_followers() {
        let now = Instant::now();
        let mut line = Line::default();
        line.hold(held(now, 8, 1));
        assert!(line.pop(now).is_none());
        let due = line.poll_timeout().unwrap();
        assert_eq!(due, now + PATIENCE);
        assert!(line.pop(due - Duration::from_nanos(1)).is_none());
        assert_eq!(names(&mut line, due), [1]);
    }

    #[test]
    fn a_delay_keeps_the_order() {
        let now = Instant::now();
        let ms = Duration::from_millis(1);
        let mut line = Line::default();
        line.hold(held(now + ms, 0, 1));
        line.hold(held(now + 2 * ms, 0, 2));
        assert_eq!(line.poll_timeout(), Some(now + ms));
        assert!(names(&mut line, now).is_empty());
        assert_eq!(names(&mut line, now + ms), [1]);
        assert_eq!(names(&mut line, now + 2 * ms), [2]);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut line = Line::default();
        for _ in 0..FRAMES + 10 {
            line.hold(held(now, 0, 1));
        }
        assert_eq!(names(&mut line, now).len(), FRAMES);
        assert_eq!(line.overflowed(), 10);
        let big = || Held::new(now, 0, VnetHdr::default(), vec![0; 65_536]);
        for _ in 0..FRAMES {
            line.hold(big());
        }
        assert_eq!(line.bytes, BYTES);
        assert_eq!(names(&mut line, now).len(), BYTES / 65_536);
    }
}
