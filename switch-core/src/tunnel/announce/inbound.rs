//! `[7]` What one peer tells: its stream put in order again, and what is answered.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::outbound::WINDOW;
use crate::time::Tick;
use crate::tunnel::control::{Ack, Announce, Stream};

/// Starts of a peer that are over, and whose late messages are known as such.
const OLD_STARTS: usize = 8;
/// Until a peer that was asked for another stream is asked again.
const FIRST_ASK: Duration = Duration::from_secs(1);
const MOST_ASK: Duration = Duration::from_secs(30);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the first of another stream: then it is [`Self::Next`].
    Begins,
    /// It is the next of its stream.
    Next,
    /// It came before those in front of it. It may be kept.
    Early,
    /// It was here before, or is of no use now. Worth an ack.
    Known,
    /// It is of a stream that is over.
    Over,
}

/// One message that waits for those in front of it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) records: Box<[u8]>,
    pub(super) complete: bool,
}

/// The stream from one peer.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    last: Option<Stream>,
    /// False: nothing of `last` holds any more, another is needed.
    live: bool,
    next: u32,
    early: BTreeMap<u32, Kept>,
    old: VecDeque<u64>,
    /// The ack that is due.
    due: Option<Ack>,
    ask: Option<(Tick, Duration)>,
}

impl Inbound {
    /// Looks what a message is.
    pub(super) fn classify(&self, message: &Announce<'_>) -> Arrival {
        match self.last {
            Some(last) if last == message.stream && self.live => {}
            Some(last) if last == message.stream => return Arrival::Known,
            Some(last) if last.start == message.stream.start => {
                if message.stream.count < last.count {
                    return Arrival::Over;
                }
                return Self::first(message.number);
            }
            _ if self.old.contains(&message.stream.start) => return Arrival::Over,
            _ => return Self::first(message.number),
        }
        match message.number.checked_sub(self.next) {
            None => Arrival::Known,
            Some(0) => Arrival::Next,
            Some(n) if n as usize <= WINDOW && !self.early.contains_key(&message.number) => {
                Arrival::Early
            }
            Some(_) => Arrival::Known,
        }
    }

    const fn first(number: u32) -> Arrival {
        if number == 0 {
            Arrival::Begins
        } else {
            Arrival::Known
        }
    }

    /// Whether who sends this has started anew since it was heard last.
    pub(super) fn is_other_start(&self, stream: Stream) -> bool {
        self.last.is_some_and(|last| last.start != stream.start)
    }

    /// Begins a stream. Gives how many kept messages were thrown away.
    pub(super) fn begin(&mut self, stream: Stream) -> usize {
        if let Some(last) = self.last.filter(|last| last.start != stream.start) {
            if self.old.len() >= OLD_STARTS {
                self.old.pop_front();
            }
            self.old.push_back(last.start);
        }
        self.last = Some(stream);
        self.live = true;
        self.next = 0;
        self.ask = None;
        let kept = self.early.len();
        self.early.clear();
        kept
    }

    /// Counts the next message as taken.
    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    /// Keeps a message that came early.
    pub(super) fn keep(&mut self, message: &Announce<'_>) {
        let kept = Kept {
            records: message.records.bytes().into(),
            complete: message.complete,
        };
        self.early.insert(message.number, kept);
    }

    /// The kept message that is the next.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        self.early.remove(&self.next)
    }

    /// Notes that a message of this stream is answered.
    pub(super) fn answer(&mut self, stream: Stream) {
        let known = self.live && self.last == Some(stream);
        let first = self.next.saturating_add(1);
        let bit = |&n: &u32| n.checked_sub(first).filter(|&n| n < 32);
        let mask = self.early.keys().filter_map(bit).fold(0, |m, n| m | 1 << n);
        self.due = Some(Ack {
            stream,
            next: if known { self.next } else { 0 },
            mask: if known { mask } else { 0 },
            unknown: !known,
            again: (self.ask.is_some() || !self.live) && self.last == Some(stream),
        });
    }

    /// Forgets what the stream told: the peer is to begin another. Gives how many kept messages were thrown away.
    pub(super) fn reset(&mut self) -> usize {
        self.live = false;
        self.ask = None;
        let kept = self.early.len();
        self.early.clear();
        kept
    }

    /// Asks the peer for another stream, until it begins. What the present one told holds until then.
    pub(super) fn ask(&mut self, now: Tick) {
        if self.last.is_some() && self.ask.is_none() {
            self.ask_after(now, FIRST_ASK);
        }
    }

    fn ask_after(&mut self, now: Tick, wait: Duration) {
        let Some(stream) = self.last else { return };
        self.ask = Some((now + wait, (wait * 2).min(MOST_ASK)));
        self.answer(stream);
    }

    /// When to ask again.
    pub(super) fn deadline(&self) -> Tick {
        self.ask.map_or(Tick::NEVER, |(at, _)| at)
    }

    /// Takes notice of the time. True if there is something to say.
    pub(super) fn handle_timeout(&mut self, now: Tick) -> bool {
        match self.ask {
            Some((at, wait)) if at <= now => self.ask_after(now, wait),
            _ => return false,
        }
        true
    }

    /// The ack that is due.
    pub(super) fn poll(&mut self) -> Option<Ack> {
        self.due.take()
    }
}
