//! The last part of a worker's life: its sandboxes have ended, and what they sent last is still to be passed on.

use std::time::Duration;

use switch_core::time::Tick;

/// It gives up when nothing has moved for so long, and after `LIMIT` in any case.
const QUIET: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(10);

/// How long it may still take.
#[derive(Debug)]
pub(super) struct Finish {
    until: Tick,
    limit: Tick,
}

impl Finish {
    pub(super) fn begin(now: Tick) -> Self {
        Self {
            until: now + QUIET,
            limit: now + LIMIT,
        }
    }

    /// Notes a turn, and whether anything happened in it. True when there is no use in waiting longer.
    pub(super) fn is_over(&mut self, now: Tick, moved: bool) -> bool {
        if moved {
            self.until = (now + QUIET).min(self.limit);
        }
        self.until <= now
    }

    /// When it is over if nothing more happens.
    pub(super) fn until(&self) -> Tick {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_while_something_moves_but_not_for_ever() {
        let mut finish = Finish::begin(Tick::ZERO);
        let at = |ms| Tick::ZERO + Duration::from_millis(ms);
        assert!(!finish.is_over(at(400), true));
        assert!(!finish.is_over(at(899), false));
        assert!(finish.is_over(at(900), false));
        assert_eq!(finish.until(), at(900));
        assert!(!finish.is_over(at(9_999), true));
        assert!(finish.is_over(at(10_000), true));
    }
}
