//! Stage 3: Stations that flap: seen now at this port and now at that, again and again, as where a loop brings their
//! frames back. Such a one is held where it is for a while, so that frames that come in elsewhere go no further.
//!
//! What is known of a station's moves is one word of its slot, changed only by who may write that.

/// Moves that a station may make within `WINDOW`, and one more is flapping. Source: RFC 7432 section 15.1.
const MOVES: u32 = 5;
/// Much shorter than there, where it is 180 s: a loop moves stations many times a second, a failing link of two does not.
/// Units: seconds.
const WINDOW: u32 = 10;
/// In place of a number of moves: the station is held.
const HELD: u32 = u32::MAX;
/// How long a station that flaps is held, unless it is said otherwise. Units: seconds.
pub const HOLD: u32 = 60;

/// What a station may do that was seen at another port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It has moved.
    Moves,
    /// It stays where it is, from now on.
    IsHeld,
    /// It stays where it is, as before.
    Stays,
}

/// A station's moves of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moves {
    /// When the first of them was; of one that is held, when that ends. Units: seconds.
    at: u32,
    count: u32,
}

impl Moves {
    pub(super) fn unpack(word: u64) -> Self {
        let half = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0);
        Self {
            at: half(word >> 32),
            count: half(word),
        }
    }

    pub(super) fn pack(self) -> u64 {
        (u64::from(self.at) << 32) | u64::from(self.count)
    }

    /// True for a station that is held.
    pub(super) const fn is_held(self, now: u32) -> bool {
        self.count == HELD && now < self.at
    }

    /// Judges a move, and notes it. Units: `hold` in seconds; 0 lets every station move.
    pub(super) fn judge(&mut self, now: u32, hold: u32) -> Judgement {
        if hold == 0 {
            return Judgement::Moves;
        }
        if self.is_held(now) {
            return Judgement::Stays;
        }
        let first = self.count == 0 || self.count == HELD || now.saturating_sub(self.at) >= WINDOW;
        if first {
            (self.at, self.count) = (now, 1);
        } else if self.count < MOVES {
            self.count += 1;
        } else {
            (self.at, self.count) = (now.saturating_add(hold), HELD);
            return Judgement::IsHeld;
        }
        Judgement::Moves
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn judged(moves: &mut Moves, times: &[u32], hold: u32) -> Vec<Judgement> {
        let mut judge = |&now: &u32| {
            let judgement = moves.judge(now, hold);
            assert_eq!(Moves::unpack(moves.pack()), *moves);
            judgement
        };
        times.iter().map(&mut judge).collect()
    }

    #[test]
    fn many_moves_in_a_short_time_are_flapping() {
        use Judgement::{IsHeld, Moves as M, Stays};
        let mut moves = Moves::unpack(0);
        let found = judged(&mut moves, &[0, 1, 1, 2, 3, 3, 4, 62, 63], 60);
        assert_eq!(found, [M, M, M, M, M, IsHeld, Stays, Stays, M]);
        assert!(!moves.is_held(63));
        let found = judged(&mut moves, &[64, 64, 64, 64, 64], 60);
        assert_eq!(found, [M, M, M, M, IsHeld], "and again");
        assert!(moves.is_held(123) && !moves.is_held(124));
    }

    #[test]
    fn who_moves_now_and_then_is_not() {
        let mut moves = Moves::unpack(0);
        let slow: Vec<u32> = (0..40).map(|n| 3 * n).collect();
        assert!(
            judged(&mut moves, &slow, 60)
                .iter()
                .all(|j| *j == Judgement::Moves)
        );
        let mut moves = Moves::unpack(0);
        assert!(
            judged(&mut moves, &[7; 40], 0)
                .iter()
                .all(|j| *j == Judgement::Moves)
        );
    }
}
