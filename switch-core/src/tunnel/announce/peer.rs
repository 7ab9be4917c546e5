//! `[7]` One peer: its rules, its streams both ways, and what is counted of it.

use core::time::Duration;

use super::Rules;
use super::bucket::Bucket;
use super::event::Refusal;
use super::inbound::Inbound;
use super::log::Log;
use super::outbound::Outbound;
use crate::time::Tick;

/// Conflicts of one peer that are told at once, and until another one is told. All are counted.
const NAMED: u32 = 16;
const NAMED_EVERY: Duration = Duration::from_secs(4);

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// The start of this host, as it is told.
    pub(super) start: u64,
    pub(super) rules: Rules,
    pub(super) out: Outbound,
    pub(super) inb: Inbound,
    /// Records that it may send.
    pub(super) records: Bucket,
    /// Conflicts that are told.
    pub(super) named: Bucket,
    pub(super) host: Option<Box<str>>,
    pub(super) refused: [u64; Refusal::ALL.len()],
    /// Reasons that were told.
    told: u16,
    pub(super) conflicts: u64,
    /// The round of its networks.
    pub(super) round: u16,
    /// Something was left out for want of room: it is asked for again when there is.
    pub(super) missed: bool,
    /// When what it has announced is forgotten.
    pub(super) grace: Tick,
    /// It stands in the list of those that something may be sent to.
    pub(super) ready: bool,
    /// The time under which it stands in the list of deadlines.
    pub(super) deadline: Tick,
}

const _: () = assert!(Refusal::ALL.len() <= 16);

/// What there is to show of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// What its host is called.
    pub host: Option<Box<str>>,
    /// Endpoints that it has announced, those that wait among them.
    pub endpoints: usize,
    /// Conflicts with what others have.
    pub conflicts: u64,
    /// Messages with announcements sent to it, those that were sent again among them.
    pub sent: u64,
    /// Messages that were sent again.
    pub resent: u64,
    /// It has heard all that it is to hear.
    pub up_to_date: bool,
    /// The time to it and back, as its acks tell.
    pub rtt: Option<Duration>,
    refused: [u64; Refusal::ALL.len()],
}

impl PeerStats {
    /// What was refused, with the reasons that occurred.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL
            .iter()
            .copied()
            .zip(self.refused)
            .filter(|&(_, n)| n > 0)
    }
}

impl Peer {
    pub(super) fn new(now: Tick, start: u64, rules: Rules, per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            start,
            rules,
            out: Outbound::new(),
            inb: Inbound::default(),
            records: Bucket::new(now, Duration::from_secs(1) / per_second, per_second * 2),
            named: Bucket::new(now, NAMED_EVERY, NAMED),
            host: None,
            refused: [0; Refusal::ALL.len()],
            told: 0,
            conflicts: 0,
            round: 0,
            missed: false,
            grace: Tick::NEVER,
            ready: false,
            deadline: Tick::NEVER,
        }
    }

    /// Sets other rules: what was refused may be allowed now.
    pub(super) fn set_rules(&mut self, now: Tick, rules: Rules) {
        self.rules = rules;
        self.told = 0;
        self.inb.ask(now);
    }

    /// Counts a refusal. True if it is to be told.
    pub(super) fn refuse(&mut self, why: Refusal) -> bool {
        if let Some(n) = self.refused.get_mut(why as usize) {
            *n += 1;
        }
        let bit = 1 << why as u8;
        let told = self.told & bit != 0;
        self.told |= bit;
        !told
    }

    pub(super) fn stats(&self, endpoints: usize, log: &Log) -> PeerStats {
        PeerStats {
            host: self.host.clone(),
            endpoints,
            conflicts: self.conflicts,
            sent: self.out.sent,
            resent: self.out.resent,
            up_to_date: self.out.is_open()
                && self.out.is_done(log, |vni| self.rules.on(vni).is_some()),
            rtt: self.out.rtt(),
            refused: self.refused,
        }
    }
}
