//! How much one endpoint may have in one turn before the others have theirs, and when it has its next one.

use std::time::Duration;

/// Frames a turn: what a merged frame holds.
const FRAMES: u32 = 64;
/// Bytes a turn: eight super-frames.
const BYTES: usize = 512 * 1024;
/// How long an endpoint rests whose frames were wasted. Its queue in the kernel fills meanwhile, and what finds it full costs
/// the sandbox that sent it, and nobody else. Not less than the poll can wait for.
pub const REST: Duration = Duration::from_millis(1);

/// What is left of a turn.
#[derive(Debug)]
pub struct Turn {
    frames: u32,
    bytes: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            frames: FRAMES,
            bytes: BYTES,
        }
    }
}

impl Turn {
    /// Takes one frame off.
    pub fn spend(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Frames that it had.
    #[must_use]
    pub fn taken(&self) -> u32 {
        FRAMES - self.frames
    }

    /// True when nothing is left.
    #[must_use]
    pub fn over(&self) -> bool {
        self.frames == 0 || self.bytes == 0
    }
}

/// What became of the last frames of an endpoint, turn by turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waste {
    frames: u32,
    refused: u32,
}

impl Waste {
    /// Takes in a turn: how many frames it had, and how many of them were thrown away. True when of the last ones, as many
    /// as a turn may have, at least seven of eight were: a flood that the switch does not take. To read more of it at once
    /// would be at the cost of the others.
    pub fn is_all(&mut self, frames: u32, refused: u32) -> bool {
        self.frames += frames;
        self.refused += refused;
        if self.frames < FRAMES {
            return false;
        }
        let seen = std::mem::take(self);
        seen.refused * 8 >= seen.frames * 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_end_a_turn() {
        let mut turn = Turn::default();
        (0..FRAMES).for_each(|_| turn.spend(60));
        assert!(turn.over());
        let mut turn = Turn::default();
        (0..8).for_each(|_| turn.spend(65_536));
        assert!(turn.over());
    }

    #[test]
    fn it_is_waste_when_nearly_all_of_many_is_refused() {
        for (refused, frames, wasted) in [
            (64, 64, true),
            (56, 64, true),
            (55, 64, false),
            (0, 64, false),
            (63, 63, false),
            (70, 80, true),
            (69, 80, false),
        ] {
            let mut waste = Waste::default();
            assert_eq!(
                waste.is_all(frames, refused),
                wasted,
                "{refused} of {frames}"
            );
        }
    }

    #[test]
    fn waste_is_of_the_last_frames_of_many_turns() {
        let mut waste = Waste::default();
        let mut turns = |n, refused| (0..n).filter(|_| waste.is_all(1, refused)).count();
        assert_eq!(turns(64, 0), 0);
        assert_eq!(turns(63, 1), 0);
        assert_eq!(turns(1, 1), 1);
        assert_eq!(turns(63, 1), 0, "begun anew");
    }
}
