//! `[7]` The largest packet that the path to a peer carries. Neighbours: `control`, whose probes it sends; the program,
//! which tells what the kernel reports and makes the overlay's MTU of what is found. Source: RFC 8899.
//!
//! A probe of the link's own size goes first: where the path carries it, one answer ends the search. Else the least
//! size that any path must carry is confirmed, and the rest is halved until a step is too small to matter. What was
//! found is confirmed again and again, the sooner the more is sent: each time with a small probe beside it, so that a
//! path that carries nothing at all, or loses much, is not taken for one that has shrunk. A path that has shrunk
//! without a word is known within a second, and a larger size is tried every ten minutes.
//!
//! All sizes are those of IP packets, headers counted.

mod search;
#[cfg(test)]
mod tests;

use core::time::Duration;

use arrayvec::ArrayVec;

use self::search::Search;
use super::control::{PROBE_HEADER, Probe};
use crate::time::Tick;

/// What every path is expected to carry, and is assumed until more is known. Source: RFC 8200 section 5.
pub const BASE: u16 = 1280;
/// Smallest size that is looked for: what every IPv4 host must take. Source: RFC 791 section 3.1.
pub const LEAST: u16 = 576;
/// Until more than what was found is tried again. Source: RFC 8899 section 5.1.1, PMTU_RAISE_TIMER.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// How often a size that is in use is confirmed: while much is sent, and while nothing is.
const CONFIRM_BUSY: Duration = Duration::from_millis(250);
const CONFIRM_IDLE: Duration = Duration::from_secs(30);
/// Until a probe counts as lost: so many round trips, within bounds.
const LOST_AFTER: u32 = 3;
const LEAST_WAIT: Duration = Duration::from_millis(50);
const MOST_WAIT: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Probes of one size that are lost when it counts as too large: more than RFC 8899's 3, for links that lose much.
const TRIES: u32 = 5;
/// Probes that are lost beside small ones that are not, when a size in use counts as too large.
const BLACK_HOLE: u32 = 3;
/// Probes that are lost in a row when the path counts as dead, which is for others to see.
const DEAD: u32 = 16;
/// Size of the small probe.
const SMALL: u16 = 160;

/// What is to be known outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuEvent {
    /// The path carries this from now on.
    Changed(u16),
    /// What the path carried is lost on it now, without a word. Comes before the change.
    BlackHole(u16),
    /// The path carries less than [`BASE`]: not even every announcement.
    TooSmall(u16),
}

/// Bytes of a probe's message that make an IP packet of this size: less IP, UDP, and the seal's header and tag.
#[must_use]
pub fn message_len(size: u16, v6: bool) -> usize {
    let around = if v6 { 40 } else { 20 } + 8 + 16 + 16;
    usize::from(size).saturating_sub(around).max(PROBE_HEADER)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sizes are tried.
    Searching,
    /// The size in use is tried again.
    Confirming,
    /// Nothing is under way.
    Resting,
}

/// One size that is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    size: u16,
    first: u32,
    sent: Tick,
    lost: u32,
    /// Small probes lost.
    small_lost: u32,
    small_answered: bool,
}

/// The search for one peer.
#[derive(Debug)]
pub struct PathMtu {
    /// The link's own MTU.
    max: u16,
    mtu: u16,
    search: Search,
    phase: Phase,
    trial: Option<Trial>,
    wake: Tick,
    confirmed: Tick,
    raise: Tick,
    busy: bool,
    id: u32,
    rtt: Option<Duration>,
    out: ArrayVec<Probe, 2>,
    events: ArrayVec<MtuEvent, 4>,
}

impl PathMtu {
    /// Begins for a path behind a link of this MTU.
    #[must_use]
    pub fn new(now: Tick, max: u16) -> Self {
        let max = max.max(LEAST);
        Self {
            max,
            mtu: BASE.min(max),
            search: Search::up_to(max, LEAST),
            phase: Phase::Searching,
            trial: None,
            wake: now,
            confirmed: now,
            raise: Tick::NEVER,
            busy: false,
            id: 0,
            rtt: None,
            out: ArrayVec::new(),
            events: ArrayVec::new(),
        }
    }

    /// What the path is taken to carry.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// True if the search is over, until it begins again.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.phase != Phase::Searching
    }

    /// The peer's address or the way there has changed: nothing is known of the path.
    pub fn restart(&mut self, now: Tick, max: u16) {
        let from = self.mtu;
        let (id, rtt) = (self.id, self.rtt);
        *self = Self {
            id,
            rtt,
            events: core::mem::take(&mut self.events),
            ..Self::new(now, max)
        };
        self.note_change(from);
    }

    /// The link has another MTU.
    pub fn set_max(&mut self, now: Tick, max: u16) {
        if max.max(LEAST) != self.max {
            self.restart(now, max);
        }
    }

    /// Large packets were sent: what they may be is worth knowing soon.
    pub fn sent_large(&mut self, now: Tick) {
        if !self.busy {
            self.busy = true;
            if self.phase == Phase::Resting {
                self.wake = self.wake.min((self.confirmed + CONFIRM_BUSY).max(now));
            }
        }
    }

    /// A router or the kernel has said that no more than this passes. One that says less than [`BASE`] is believed
    /// only so far: probes tell.
    pub fn too_big(&mut self, now: Tick, mtu: u16) {
        let said = mtu.max(BASE.min(self.mtu));
        if said >= self.mtu {
            // It concerned a probe that was under way.
            if let Some(trial) = self.trial.filter(|t| t.size > mtu && t.size > self.mtu) {
                self.failed(now, trial.size);
            }
            return;
        }
        let from = core::mem::replace(&mut self.mtu, said);
        self.search = Search::up_to(said, LEAST);
        self.phase = Phase::Searching;
        self.trial = None;
        self.wake = now;
        self.note_change(from);
    }

    /// A probe has come back.
    pub fn handle_ack(&mut self, now: Tick, probe: Probe) {
        let Some(trial) = &mut self.trial else { return };
        let recent = probe.id.wrapping_sub(trial.first) < self.id.wrapping_sub(trial.first);
        if !recent {
            return;
        }
        if probe.id.wrapping_add(2) >= self.id {
            self.rtt = Some(smoothed(self.rtt, now.since(trial.sent)));
        }
        if probe.size == SMALL {
            trial.small_answered = true;
            return;
        }
        if probe.size != trial.size {
            return;
        }
        let size = trial.size;
        self.trial = None;
        match self.phase {
            Phase::Searching => {
                self.search.passed(size);
                if size > self.mtu {
                    let from = core::mem::replace(&mut self.mtu, size);
                    self.note_change(from);
                }
                self.wake = now;
            }
            Phase::Confirming | Phase::Resting => self.rest(now),
        }
    }

    /// Takes notice of the time: call it when [`Self::poll_timeout`] says so, and after everything else.
    pub fn handle_timeout(&mut self, now: Tick) {
        if now < self.wake {
            return;
        }
        if self.trial.is_some() {
            self.count_loss(now);
        }
        if now >= self.raise && self.phase == Phase::Resting {
            self.raise = Tick::NEVER;
            self.search = Search::up_to(self.max, self.mtu);
            self.phase = Phase::Searching;
        }
        if self.phase == Phase::Resting && now >= self.wake {
            self.phase = Phase::Confirming;
        }
        while now >= self.wake && self.phase != Phase::Resting {
            self.try_size(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Tick {
        self.wake
    }

    /// The next probe to send, as large as it says.
    pub fn poll_transmit(&mut self) -> Option<Probe> {
        self.out.pop()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<MtuEvent> {
        self.events.pop_at(0)
    }

    /// Sends the next probe, or ends the search.
    fn try_size(&mut self, now: Tick) {
        if self.trial.is_none() {
            let size = match self.phase {
                Phase::Searching => self.search.next(),
                Phase::Confirming | Phase::Resting => Some(self.mtu),
            };
            let Some(size) = size else {
                return self.settle(now);
            };
            self.trial = Some(Trial {
                size,
                first: self.id,
                sent: now,
                lost: 0,
                small_lost: 0,
                small_answered: false,
            });
        }
        let with_small = self.phase == Phase::Confirming;
        let id = self.id;
        if let Some(trial) = &mut self.trial {
            trial.sent = now;
            trial.small_answered = false;
            self.out.clear();
            if with_small {
                self.out.push(Probe {
                    id: id.wrapping_add(1),
                    size: SMALL,
                });
            }
            self.out.push(Probe {
                id,
                size: trial.size,
            });
            self.id = id.wrapping_add(2);
        }
        self.wake = now + self.wait();
    }

    fn wait(&self) -> Duration {
        let wait = self.rtt.map_or(FIRST_WAIT, |rtt| rtt * LOST_AFTER);
        wait.clamp(LEAST_WAIT, MOST_WAIT)
    }

    fn count_loss(&mut self, now: Tick) {
        let Some(trial) = &mut self.trial else { return };
        trial.lost += 1;
        match self.phase {
            Phase::Searching => {
                if trial.lost >= TRIES {
                    let size = trial.size;
                    self.failed(now, size);
                }
            }
            Phase::Confirming | Phase::Resting => {
                trial.small_lost += u32::from(!trial.small_answered);
                if trial.lost >= BLACK_HOLE + 2 * trial.small_lost {
                    self.shrunk(now);
                } else if trial.lost >= DEAD {
                    self.trial = None;
                    // When it is back it may be narrower, and who was stopped by that sends too little to be busy.
                    self.busy = true;
                    self.rest(now);
                }
            }
        }
    }

    /// A size that was tried does not pass.
    fn failed(&mut self, now: Tick, size: u16) {
        self.trial = None;
        self.search.failed(size);
        self.wake = now;
        if size <= self.mtu {
            let from = core::mem::replace(&mut self.mtu, self.search.low());
            self.note_change(from);
        }
    }

    /// What passed before does not any more.
    fn shrunk(&mut self, now: Tick) {
        let from = self.mtu;
        self.note(MtuEvent::BlackHole(from));
        self.trial = None;
        self.search = Search::below(from);
        self.mtu = if from > BASE { BASE } else { LEAST };
        self.phase = Phase::Searching;
        self.wake = now;
        self.note_change(from);
    }

    /// The search is over.
    fn settle(&mut self, now: Tick) {
        let from = core::mem::replace(&mut self.mtu, self.search.low());
        self.note_change(from);
        if self.mtu < BASE {
            self.note(MtuEvent::TooSmall(self.mtu));
        }
        if self.mtu < self.max {
            self.raise = now + RAISE_AFTER;
        }
        self.rest(now);
    }

    fn rest(&mut self, now: Tick) {
        self.phase = Phase::Resting;
        self.confirmed = now;
        let busy = core::mem::take(&mut self.busy);
        let wait = if busy { CONFIRM_BUSY } else { CONFIRM_IDLE };
        self.wake = (now + wait).min(self.raise.max(now));
    }

    fn note_change(&mut self, from: u16) {
        if from != self.mtu {
            self.note(MtuEvent::Changed(self.mtu));
        }
    }

    /// The newest are kept where nobody asks for them.
    fn note(&mut self, event: MtuEvent) {
        if self.events.is_full() {
            self.events.pop_at(0);
        }
        self.events.push(event);
    }
}

/// Source: RFC 6298 section 2.
fn smoothed(old: Option<Duration>, sample: Duration) -> Duration {
    old.map_or(sample, |old| old * 7 / 8 + sample / 8)
}
