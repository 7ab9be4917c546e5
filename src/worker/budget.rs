//! How much one endpoint may have in one turn before the others have theirs, and when it has its next one.

use std::time::Duration;

use switch_core::addr::PortId;
use switch_core::time::Tick;

/// Frames a turn: what a merged frame holds.
const FRAMES: u32 = 64;
/// Frames a turn where others have theirs as well: a long turn of one that floods is a wait for all others, and a quarter
/// merges nearly as well as the whole.
const SHARED_FRAMES: u32 = 16;
/// For so long another's turn counts as company.
const COMPANY: Duration = Duration::from_micros(500);
/// Bytes a turn: eight super-frames.
const BYTES: usize = 512 * 1024;
/// How long an endpoint rests whose frames were wasted. Its queue in the kernel fills meanwhile, and what finds it full costs
/// the sandbox that sent it, and nobody else. Not less than the poll can wait for.
pub const REST: Duration = Duration::from_millis(1);

/// What is left of a turn.
#[derive(Debug)]
pub struct Turn {
    whole: u32,
    frames: u32,
    bytes: usize,
}

impl Turn {
    /// The turn of one that is alone, or has others beside it.
    #[must_use]
    pub fn new(company: bool) -> Self {
        let frames = if company { SHARED_FRAMES } else { FRAMES };
        Self {
            whole: frames,
            frames,
            bytes: BYTES,
        }
    }

    /// Takes one frame off.
    pub fn spend(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Frames that it had.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.whole - self.frames
    }

    /// True when nothing is left.
    #[must_use]
    pub fn over(&self) -> bool {
        self.frames == 0 || self.bytes == 0
    }
}

/// Whose turns the last ones were.
#[derive(Debug, Default)]
pub struct Company {
    last: Option<PortId>,
    at: Tick,
    /// The last turn of another than the last one.
    other: Option<Tick>,
}

impl Company {
    /// Notes a turn. True when another had one not long before.
    pub fn meets(&mut self, port: PortId, now: Tick) -> bool {
        if self.last.is_some_and(|last| last != port) {
            self.other = Some(self.at);
        }
        (self.last, self.at) = (Some(port), now);
        self.other.is_some_and(|at| now.since(at) < COMPANY)
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
        for (company, frames) in [(false, 64), (true, 16)] {
            let mut turn = Turn::new(company);
            (1..frames).for_each(|_| turn.spend(60));
            assert!(!turn.over());
            turn.spend(60);
            assert!(turn.over());
            assert_eq!(turn.taken(), frames);
            let mut turn = Turn::new(company);
            (0..8).for_each(|_| turn.spend(65_536));
            assert!(turn.over());
        }
    }

    #[test]
    fn another_is_company_for_a_while() {
        let at = |us| Tick::ZERO + Duration::from_micros(us);
        let mut company = Company::default();
        let (a, b) = (PortId(1), PortId(2));
        assert!(!company.meets(a, at(0)) && !company.meets(a, at(10)));
        assert!(company.meets(b, at(20)), "a was there");
        assert!(company.meets(a, at(30)) && company.meets(a, at(519)));
        assert!(!company.meets(a, at(520)), "b is gone");
        assert!(company.meets(b, at(600)));
        assert!(!company.meets(b, at(5_000)));
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
