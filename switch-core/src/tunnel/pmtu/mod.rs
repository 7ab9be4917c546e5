//! `[7]` The largest packet that the path to a peer carries. Neighbours: `control`, whose probes it sends; `seal`, whose
//! keys tell whether anything long was sealed; the program, which tells what the kernel reports and makes the overlay's
//! MTU of what is found. Source: RFC 8899.
//!
//! A probe of the link's own size goes first: where the path carries it, one answer ends the search. Else the least
//! size that any path must carry is confirmed, and the rest is halved until a step is too small to matter.
//!
//! What was found is confirmed again by one probe of that size: every 250 ms while anything longer than [`LEAST`] is
//! sent, be it but one packet a second, and twice a minute while nothing is. So a path that has shrunk without a word is
//! known within half a second and four round trips. A probe that is not answered is sent anew with a small one beside
//! it, and counts against its size only where the small one is answered: a path that carries nothing at all has not
//! shrunk. How often that must happen depends on how much of all is lost (`judge`): three times on a path that loses
//! nothing else. Then [`BASE`] is what is sent, and the size that was lost is tried once more before smaller ones, so that
//! a path which was wronged by chance is back at once.
//!
//! A larger size is tried every ten minutes; after a fall sooner, first after ten seconds and then after twice as long
//! each time.
//!
//! All sizes are those of IP packets, headers counted.

mod judge;
mod search;
#[cfg(test)]
mod tests;

use core::time::Duration;

use arrayvec::ArrayVec;

use self::judge::{Losses, RoundTrip};
use self::search::Search;
use super::control::{PROBE_HEADER, Probe};
use crate::time::Tick;

/// What every path is expected to carry, and is assumed until more is known. Source: RFC 8200 section 5.
pub const BASE: u16 = 1280;
/// Smallest size that is looked for: what every IPv4 host must take. Source: RFC 791 section 3.1.
pub const LEAST: u16 = 576;
/// How often who sends looks whether anything long was sent, and says so with [`PathMtu::sent_large`].
pub const LOOK: Duration = Duration::from_millis(500);
/// Until more than what was found is tried again. Source: RFC 8899 section 5.1.1, PMTU_RAISE_TIMER.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// The same after a fall, at first: it may have been for a moment, or none at all.
const RAISE_SOON: Duration = Duration::from_secs(10);
/// How often a size that is in use is confirmed: while anything long is sent, and while nothing is.
const CONFIRM_BUSY: Duration = Duration::from_millis(250);
const CONFIRM_IDLE: Duration = Duration::from_secs(30);
/// The longest wait between tries on a path that carries nothing, where an answer would take less: when it is back it
/// may be narrower.
const SILENCE: Duration = Duration::from_millis(500);
/// Losses in a row that may be chance: more are a path that carries nothing, and say nothing of chance.
const CHANCE: u32 = 4;
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

/// One size that is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    size: u16,
    /// It is the size in use, which has passed before.
    confirms: bool,
    first: u32,
    begun: Tick,
    sent: Tick,
    /// Tries without an answer.
    lost: u32,
    /// Those of them whose small probe was answered.
    proofs: u32,
    /// The last of them in a row whose small probe was not answered either.
    silent: u32,
    /// The small probe of the last try was answered.
    small_answered: bool,
}

/// The search for one peer.
#[derive(Debug)]
pub struct PathMtu {
    /// The link's own MTU.
    max: u16,
    mtu: u16,
    search: Search,
    /// Other sizes than the one in use are tried.
    searching: bool,
    trial: Option<Trial>,
    wake: Tick,
    confirmed: Tick,
    raise: Tick,
    /// Larger sizes were tried so often since the path began or fell.
    raises: u32,
    /// That it carries no more than it does may be a mistake, or for a moment.
    doubtful: bool,
    /// Until then something long is taken to be sent.
    busy: Tick,
    id: u32,
    round_trip: RoundTrip,
    losses: Losses,
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
            searching: true,
            trial: None,
            wake: now,
            confirmed: now,
            raise: Tick::NEVER,
            raises: 0,
            doubtful: false,
            busy: now,
            id: 0,
            round_trip: RoundTrip::default(),
            losses: Losses::default(),
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
    pub const fn is_settled(&self) -> bool {
        !self.searching
    }

    /// The peer's address or the way there has changed: nothing is known of the path.
    pub fn restart(&mut self, now: Tick, max: u16) {
        let from = self.mtu;
        let (id, busy, round_trip) = (self.id, self.busy, self.round_trip);
        *self = Self {
            id,
            busy,
            round_trip,
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

    /// Packets larger than [`LEAST`] were sent since the last look: that they arrive is worth knowing soon.
    pub fn sent_large(&mut self, now: Tick) {
        self.busy = now + LOOK;
        if !self.searching && self.trial.is_none() {
            self.wake = self.wake.min((self.confirmed + CONFIRM_BUSY).max(now));
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
        self.falls(now, said, Search::up_to(said, LEAST));
    }

    /// A probe has come back.
    pub fn handle_ack(&mut self, now: Tick, probe: Probe) {
        let Some(trial) = &mut self.trial else { return };
        let (nth, asked) = (
            probe.id.wrapping_sub(trial.first),
            self.id.wrapping_sub(trial.first),
        );
        if nth >= asked || (probe.size != SMALL && probe.size != trial.size) {
            return;
        }
        // When the ones between were sent nobody has kept.
        let last = asked - nth <= 2;
        if last || nth == 0 {
            let sent = if last { trial.sent } else { trial.begun };
            self.round_trip.note(now.since(sent));
        }
        if probe.size == trial.size {
            let trial = *trial;
            return self.passed(now, &trial);
        }
        trial.small_answered = true;
        // The other would have come by then.
        let due = trial.sent + self.round_trip.patience();
        self.wake = self.wake.min(due.max(now));
    }

    /// Takes notice of the time: call it when [`Self::poll_timeout`] says so, and after everything else.
    pub fn handle_timeout(&mut self, now: Tick) {
        if now < self.wake {
            return;
        }
        if self.trial.is_some() {
            self.count_loss(now);
        }
        if self.trial.is_none() {
            self.trial = self.choose(now);
        }
        self.ask(now);
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

    /// What to try next; nothing where the search is over.
    fn choose(&mut self, now: Tick) -> Option<Trial> {
        if now >= self.raise && !self.searching {
            self.raise = Tick::NEVER;
            self.raises += 1;
            self.search = Search::up_to(self.max, self.mtu);
            self.searching = true;
        }
        // It may shrink while more is looked for.
        let known = self.search.low() >= self.mtu;
        let used = now < self.busy && now >= self.confirmed + CONFIRM_BUSY;
        let confirms = !self.searching || (known && used);
        let size = if confirms {
            self.mtu
        } else if let Some(size) = self.search.next() {
            size
        } else {
            self.settle(now);
            return None;
        };
        Some(Trial {
            size,
            confirms,
            first: self.id,
            begun: now,
            sent: now,
            lost: 0,
            proofs: 0,
            silent: 0,
            small_answered: false,
        })
    }

    /// Sends the probe of what is tried, and from the second time on a small one.
    fn ask(&mut self, now: Tick) {
        let Some(trial) = &mut self.trial else { return };
        trial.sent = now;
        trial.small_answered = false;
        let (id, size) = (self.id, trial.size);
        self.out.clear();
        if trial.lost > 0 {
            self.out.push(Probe {
                id: id.wrapping_add(1),
                size: SMALL,
            });
        }
        self.out.push(Probe { id, size });
        self.id = id.wrapping_add(2);
        let patience = self.round_trip.patience();
        let longer = patience * (1 << trial.silent.saturating_sub(CHANCE).min(CHANCE));
        self.wake = now + longer.min(SILENCE.max(patience));
    }

    /// The last try has not been answered.
    fn count_loss(&mut self, now: Tick) {
        let Some(trial) = &mut self.trial else { return };
        trial.lost += 1;
        if trial.lost == 1 {
            // No small one was beside it.
            return;
        }
        if trial.small_answered {
            trial.silent = 0;
            trial.proofs += 1;
            self.losses.note(false);
        } else {
            trial.silent += 1;
            if trial.silent <= CHANCE {
                self.losses.note(true);
            }
        }
        if trial.proofs >= self.losses.proof() {
            let (size, confirms) = (trial.size, trial.confirms);
            if confirms {
                self.shrunk(now);
            } else {
                self.failed(now, size);
            }
        }
    }

    /// A size that was tried passes.
    fn passed(&mut self, now: Tick, trial: &Trial) {
        self.trial = None;
        for _ in 0..trial.lost.min(CHANCE) {
            self.losses.note(true);
        }
        self.losses.note(false);
        if trial.size >= self.mtu {
            self.confirmed = now;
            let from = core::mem::replace(&mut self.mtu, trial.size);
            self.note_change(from);
        }
        if self.searching {
            self.search.passed(trial.size);
            self.wake = now;
        } else {
            self.rest(now);
        }
    }

    /// A size that was tried does not pass.
    fn failed(&mut self, now: Tick, size: u16) {
        self.trial = None;
        self.search.failed(size);
        self.wake = now;
        self.doubtful |= self.losses.any();
        if size <= self.mtu {
            let from = core::mem::replace(&mut self.mtu, below(size));
            self.note_change(from);
        }
    }

    /// What passed before does not any more.
    fn shrunk(&mut self, now: Tick) {
        let from = self.mtu;
        self.note(MtuEvent::BlackHole(from));
        self.falls(now, below(from), Search::again(from));
    }

    /// So much is sent from now on, until a search says more.
    fn falls(&mut self, now: Tick, to: u16, search: Search) {
        let from = core::mem::replace(&mut self.mtu, to);
        self.search = search;
        self.searching = true;
        self.trial = None;
        self.doubtful = true;
        self.raises = 0;
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
        self.raise = if self.mtu >= self.max {
            Tick::NEVER
        } else if self.doubtful {
            now + (RAISE_SOON * (1 << self.raises.min(6))).min(RAISE_AFTER)
        } else {
            now + RAISE_AFTER
        };
        self.searching = false;
        self.rest(now);
    }

    fn rest(&mut self, now: Tick) {
        let busy = now < self.busy;
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

/// What is sent where a size does not pass, until more is known.
const fn below(size: u16) -> u16 {
    if size > BASE { BASE } else { LEAST }
}
