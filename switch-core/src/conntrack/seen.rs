//! Stage 6: How and when a switched conversation was seen last: one word of its entry, changed in one step by whoever
//! has more to say.

use crate::wire::packet::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

/// Nobody's: the entry was given up.
const NOBODY: u32 = 0x07ff_ffff;
/// What is silent for so long makes room for what its own endpoint opens. Units: seconds.
/// Source: RFC 4787 REQ-5, the least.
const LEAST: u32 = 120;

/// How far a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Never answered.
    New,
    /// Answered.
    Open,
    /// One side has ended.
    Closing,
    /// Over.
    Over,
}

impl Stage {
    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::New,
            1 => Self::Open,
            2 => Self::Closing,
            _ => Self::Over,
        }
    }
}

/// The word, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// In seconds.
    pub(super) at: u32,
    pub(super) stage: Stage,
    pub(super) reply: bool,
    pub(super) rewritten: bool,
    /// These are the pieces of a datagram.
    pub(super) piece: bool,
    /// Who began.
    pub(super) owner: u32,
}

impl Seen {
    /// What is written over an entry that is given up.
    pub(super) const GIVEN_UP: Self = Self {
        at: 0,
        stage: Stage::Over,
        reply: false,
        rewritten: false,
        piece: false,
        owner: NOBODY,
    };

    pub(super) const fn pack(self) -> u64 {
        let marks = self.stage as u64 | (self.reply as u64) << 2 | (self.rewritten as u64) << 3;
        // Ports are numbered below 2^20.
        let owner = (self.owner & NOBODY) as u64;
        marks << 60 | (self.piece as u64) << 59 | owner << 32 | self.at as u64
    }

    pub(super) fn unpack(word: u64) -> Self {
        let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0);
        Self {
            at: low(word),
            stage: Stage::from_bits(word >> 60),
            reply: word >> 62 & 1 != 0,
            rewritten: word >> 63 != 0,
            piece: word >> 59 & 1 != 0,
            owner: low(word >> 32) & NOBODY,
        }
    }

    /// How long silence lasts until a conversation is forgotten, in seconds. Source: RFC 5382 REQ-5, RFC 4787 REQ-5,
    /// RFC 5508 REQ-2; RFC 791 section 3.2 for pieces, doubled.
    const fn lifetime(self, proto: u8) -> u32 {
        match (proto, self.stage) {
            _ if self.piece => 30,
            (_, Stage::Over) => 10,
            (PROTO_TCP, Stage::Open) => 7_440,
            (PROTO_TCP, Stage::New | Stage::Closing) => 240,
            (PROTO_UDP, Stage::New) | (PROTO_ICMP | PROTO_ICMPV6, _) => 60,
            _ => 300,
        }
    }

    pub(super) const fn is_live(self, proto: u8, now: u32) -> bool {
        self.owner != NOBODY && now.saturating_sub(self.at) < self.lifetime(proto)
    }

    /// True if it makes room for others of its own endpoint.
    pub(super) const fn yields(self, proto: u8, to: u32, now: u32) -> bool {
        self.owner == to && proto != PROTO_TCP && now.saturating_sub(self.at) >= LEAST
    }

    /// Whose conversations it counts to: one entry of each does, until one side has ended.
    pub(super) fn counts_to(self) -> Option<usize> {
        let open = self.stage < Stage::Closing && self.owner != NOBODY;
        (open && !self.reply && !self.piece).then_some(self.owner as usize)
    }
}
