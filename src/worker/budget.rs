//! How much one endpoint may have in one turn before the others have theirs.

/// Frames a turn: what a merged frame holds.
const FRAMES: u32 = 64;
/// Bytes a turn: eight super-frames.
const BYTES: usize = 512 * 1024;

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

    /// True when nothing is left.
    #[must_use]
    pub fn over(&self) -> bool {
        self.frames == 0 || self.bytes == 0
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
}
