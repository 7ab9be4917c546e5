//! What a bad link does, as a value.

use std::time::Duration;

/// How likely something is. Units: millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chance(u32);

impl Chance {
    /// What happens each time.
    pub const ALWAYS: u32 = 1_000_000;

    /// A chance of so many millionths. `None` if that is more than always.
    #[must_use]
    pub const fn millionths(n: u32) -> Option<Self> {
        if n <= Self::ALWAYS {
            Some(Self(n))
        } else {
            None
        }
    }

    /// The millionths.
    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

/// What a bad link decides about in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Per {
    /// What passes the endpoint in one piece: where it is a super-frame, its loss is the loss of up to 64 KB, as when a
    /// TAP's queue overflows.
    #[default]
    Frame,
    /// A frame of the wire's size, as on a link without offload: super-frames are cut first.
    Segment,
}

/// What a bad link does to frames, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Impairment {
    /// The frame is lost.
    pub loss: Chance,
    /// The frame comes behind some of those that follow it.
    pub reorder: Chance,
    /// The frame comes twice.
    pub duplicate: Chance,
    /// One bit of the frame is another one.
    pub corrupt: Chance,
    /// Every frame takes this much longer.
    pub delay: Duration,
    /// What has one fate.
    pub per: Per,
    /// The same seed and the same frames have the same fate.
    pub seed: u64,
}
