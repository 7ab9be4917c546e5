//! `[7]` What one peer is told: a window of messages over the log, each a stretch of it. What is lost is written again
//! from the log, so a peer that never answers costs no more than the list of stretches.

use core::time::Duration;
use std::collections::VecDeque;

use super::log::Log;
use crate::addr::Vni;
use crate::time::Tick;
use crate::tunnel::control::{Ack, AnnounceWriter, Stream};

/// Messages under way: what the mask of an ack covers.
pub(super) const WINDOW: usize = 32;
/// Messages at first and after all were lost. Source: RFC 6928 section 2 for the first.
const FIRST_WINDOW: usize = 10;
const LEAST_WINDOW: usize = 2;
/// Later messages that arrived when one counts as lost. Source: RFC 9002 section 6.1.1.
const REORDERED: u32 = 3;
/// Until the time to the peer and back is known. Source: RFC 9002 section 6.2.2, halved: announcements are small.
const FIRST_RTO: Duration = Duration::from_millis(500);
const LEAST_RTO: Duration = Duration::from_millis(100);
const MOST_RTO: Duration = Duration::from_secs(10);
/// Between two streams that a peer asks for.
const BETWEEN_STREAMS: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Flight {
    number: u32,
    /// The stretch of the log: behind `from`, up to `to`.
    from: u64,
    to: u64,
    sent: Tick,
    state: State,
    /// It was sent more than once: its ack says nothing about time.
    again: bool,
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Lost,
    There,
}

/// One stream to one peer.
#[derive(Debug)]
pub(super) struct Outbound {
    stream: Stream,
    /// False: the peer is not there, and nothing is sent.
    open: bool,
    /// The log up to here is under way or told.
    told: u64,
    /// The log when the stream began.
    began_at: u64,
    complete: bool,
    number: u32,
    flights: VecDeque<Flight>,
    window: usize,
    rtt: Option<(Duration, Duration)>,
    backoff: u32,
    deadline: Tick,
    began: Tick,
    pub(super) resent: u64,
    pub(super) sent: u64,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            stream: Stream::default(),
            open: false,
            told: 0,
            began_at: 0,
            complete: true,
            number: 0,
            flights: VecDeque::new(),
            window: FIRST_WINDOW,
            rtt: None,
            backoff: 0,
            deadline: Tick::NEVER,
            began: Tick::ZERO,
            resent: 0,
            sent: 0,
        }
    }

    /// Begins a stream: everything is told anew.
    pub(super) fn begin(&mut self, now: Tick, stream: Stream, log: &Log) {
        *self = Self {
            stream,
            open: true,
            began_at: log.head(),
            complete: false,
            rtt: self.rtt,
            began: now,
            resent: self.resent,
            sent: self.sent,
            ..Self::new()
        };
    }

    /// Stops: the peer is gone.
    pub(super) fn stop(&mut self) {
        self.open = false;
        self.flights.clear();
        self.deadline = Tick::NEVER;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// When something must be sent again.
    pub(super) const fn deadline(&self) -> Tick {
        self.deadline
    }

    /// Up to where the peer has heard everything.
    pub(super) fn heard(&self) -> u64 {
        self.flights.front().map_or(self.told, |f| f.from)
    }

    /// True if the peer has heard all that concerns it.
    pub(super) fn is_done(&self, log: &Log, tells: impl Fn(Vni) -> bool) -> bool {
        self.complete && self.flights.is_empty() && self.next_for(log, tells).is_none()
    }

    /// Passes over what does not concern the peer.
    pub(super) fn skip(&mut self, log: &Log, tells: impl Fn(Vni) -> bool) {
        if self.open && self.complete {
            self.told = self
                .next_for(log, tells)
                .map_or_else(|| log.head(), |at| at - 1);
        }
    }

    /// The next place that concerns the peer.
    fn next_for(&self, log: &Log, tells: impl Fn(Vni) -> bool) -> Option<u64> {
        let mut rest = log.between(self.told, log.head());
        let next = rest.find(|(_, key, _)| key.vni().is_none_or(&tells));
        next.map(|(at, ..)| at)
    }

    /// The smoothed time to the peer and back.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|(smoothed, _)| smoothed)
    }

    /// Source: RFC 6298 section 2.
    fn rto(&self) -> Duration {
        let base = self
            .rtt
            .map_or(FIRST_RTO, |(smoothed, varies)| smoothed + 4 * varies);
        let grown = base.max(LEAST_RTO).saturating_mul(1 << self.backoff.min(7));
        grown.min(MOST_RTO)
    }

    /// Takes an ack. True if the peer needs another stream.
    pub(super) fn acked(&mut self, now: Tick, ack: &Ack) -> bool {
        if !self.open || ack.stream != self.stream {
            return false;
        }
        let base = self.flights.front().map_or(self.number, |f| f.number);
        if ack.again || (ack.unknown && base > 0) {
            return now.since(self.began) >= BETWEEN_STREAMS;
        }
        let there = |number: u32| {
            let bit = number.checked_sub(ack.next).and_then(|n| n.checked_sub(1));
            number < ack.next || bit.is_some_and(|n| n < 32 && ack.mask & 1 << n != 0)
        };
        let mut newly = 0;
        let mut last = None;
        let mut sample = None;
        for flight in &mut self.flights {
            if !there(flight.number) {
                continue;
            }
            last = Some(flight.number);
            if flight.state != State::There {
                flight.state = State::There;
                newly += 1;
                sample = (!flight.again).then(|| now.since(flight.sent)).or(sample);
            }
        }
        for flight in &mut self.flights {
            let passed = last.is_some_and(|last| flight.number.saturating_add(REORDERED) <= last);
            if passed && flight.state == State::UnderWay && !flight.again {
                flight.state = State::Lost;
            }
        }
        while self
            .flights
            .front()
            .is_some_and(|f| f.state == State::There)
        {
            self.flights.pop_front();
        }
        if let Some(sample) = sample {
            self.note_rtt(sample);
        }
        if newly > 0 {
            self.backoff = 0;
            self.window = (self.window + newly).min(WINDOW);
            self.rearm(now);
        }
        false
    }

    /// Source: RFC 6298 section 2.
    fn note_rtt(&mut self, sample: Duration) {
        self.rtt = Some(self.rtt.map_or((sample, sample / 2), |(smoothed, varies)| {
            let off = smoothed.abs_diff(sample);
            (smoothed * 7 / 8 + sample / 8, varies * 3 / 4 + off / 4)
        }));
    }

    fn rearm(&mut self, now: Tick) {
        self.deadline = if self.flights.is_empty() {
            Tick::NEVER
        } else {
            now + self.rto()
        };
    }

    /// Takes notice of the time. True if something is to be sent again.
    pub(super) fn handle_timeout(&mut self, now: Tick) -> bool {
        if now < self.deadline {
            return false;
        }
        for flight in &mut self.flights {
            if flight.state == State::UnderWay {
                flight.state = State::Lost;
            }
        }
        self.window = (self.window / 2).max(LEAST_WINDOW);
        self.backoff += 1;
        self.rearm(now);
        true
    }

    /// Writes the next message. False if there is none, or none may go yet.
    pub(super) fn poll(
        &mut self,
        now: Tick,
        log: &Log,
        tells: impl Fn(Vni) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.open {
            return false;
        }
        let under_way = self
            .flights
            .iter()
            .filter(|f| f.state == State::UnderWay)
            .count();
        if under_way >= self.window {
            return false;
        }
        let snapshot = self.began_at;
        if let Some(flight) = self.flights.iter_mut().find(|f| f.state == State::Lost) {
            let mut writer = AnnounceWriter::new(out, self.stream, flight.number);
            stretch(&mut writer, log, flight.from, flight.to, snapshot, &tells);
            // What has changed since stands behind the stretch: then a later message completes.
            if flight.complete && flight.to == log.head() {
                writer.complete();
            } else if core::mem::take(&mut flight.complete) {
                self.complete = false;
            }
            flight.sent = now;
            flight.state = State::UnderWay;
            flight.again = true;
            self.resent += 1;
        } else if !self.poll_new(now, log, tells, out) {
            return false;
        }
        self.sent += 1;
        if self.deadline == Tick::NEVER {
            self.rearm(now);
        }
        true
    }

    fn poll_new(
        &mut self,
        now: Tick,
        log: &Log,
        tells: impl Fn(Vni) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        let span = self.flights.front().map_or(0, |f| self.number - f.number);
        if span as usize >= WINDOW || (self.complete && self.told == log.head()) {
            return false;
        }
        let start = out.len();
        let mut writer = AnnounceWriter::new(out, self.stream, self.number);
        let to = stretch(
            &mut writer,
            log,
            self.told,
            log.head(),
            self.began_at,
            &tells,
        );
        let complete = !self.complete && to == log.head();
        if complete {
            writer.complete();
        }
        let from = core::mem::replace(&mut self.told, to);
        if writer.is_empty() && !complete {
            // Nothing of it concerns the peer.
            out.truncate(start);
            return false;
        }
        self.complete |= complete;
        self.flights.push_back(Flight {
            number: self.number,
            from,
            to,
            sent: now,
            state: State::UnderWay,
            again: false,
            complete,
        });
        self.number += 1;
        true
    }
}

/// Writes what concerns the peer and fits, and gives the place up to where that is.
fn stretch(
    writer: &mut AnnounceWriter<'_>,
    log: &Log,
    from: u64,
    to: u64,
    snapshot: u64,
    tells: impl Fn(Vni) -> bool,
) -> u64 {
    for (at, key, told) in log.between(from, to) {
        // What was taken back before the stream began was never told in it.
        let known = !(told.is_gone() && at <= snapshot);
        if known && key.vni().is_none_or(&tells) && !writer.push(told.bytes()) {
            return at - 1;
        }
    }
    to
}
