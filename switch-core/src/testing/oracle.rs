//! What must become of a connection, said from the scripts of its ends alone.

use super::script::{End, Script, Taken};

/// What its ends do, and what was done to it.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// The end in the guest that connected, or that listened for the host's client.
    pub near: Script,
    /// The other end: a server, a client of the host, or another guest.
    pub far: Script,
    /// An end was killed, or the connection was never allowed.
    pub broken: bool,
}

/// How it stands when everything has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Each end has sent what it wanted; these have closed.
    Whole {
        /// The guest's end closes.
        near_closes: bool,
        /// The other end closes.
        far_closes: bool,
    },
    /// It is over, and what has arrived is the beginning of what was sent.
    Cut,
}

impl Outcome {
    /// Both have closed, so that nothing is left of it.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Whole {
                near_closes,
                far_closes,
            } => near_closes && far_closes,
            Self::Cut => true,
        }
    }
}

impl Story {
    /// What must become of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let resets = |script: &Script| script.end == End::Reset;
        if self.broken || resets(&self.near) || resets(&self.far) {
            return Outcome::Cut;
        }
        let closes = |end, other| match end {
            End::Sent | End::Reset => true,
            End::Second => other == End::Sent,
            End::Never => false,
        };
        Outcome::Whole {
            near_closes: closes(self.near.end, self.far.end),
            far_closes: closes(self.far.end, self.near.end),
        }
    }

    /// Holds what has arrived at both ends against what was sent. Panics: where it must be otherwise.
    #[track_caller]
    pub fn check(&self, at_near: &Taken, at_far: &Taken) {
        match self.outcome() {
            Outcome::Whole { .. } => {
                at_near.check(&self.far);
                at_far.check(&self.near);
            }
            Outcome::Cut => {
                at_near.check_prefix(&self.far);
                at_far.check_prefix(&self.near);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(near: End, far: End) -> Outcome {
        let story = Story {
            near: Script::new(1, 0).end(near),
            far: Script::new(2, 0).end(far),
            broken: false,
        };
        story.outcome()
    }

    #[test]
    fn who_closes_second_waits_for_a_first() {
        let whole = |near_closes, far_closes| Outcome::Whole {
            near_closes,
            far_closes,
        };
        assert_eq!(outcome(End::Sent, End::Second), whole(true, true));
        assert_eq!(outcome(End::Second, End::Second), whole(false, false));
        assert_eq!(outcome(End::Never, End::Second), whole(false, false));
        assert_eq!(outcome(End::Never, End::Sent), whole(false, true));
        assert_eq!(outcome(End::Never, End::Reset), Outcome::Cut);
    }
}
