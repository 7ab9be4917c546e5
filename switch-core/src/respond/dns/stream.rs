//! Stage 4: The byte streams of clients that ask over TCP: queries come out of them, answers go in. The TCP itself is
//! the engine's (`flow::tcp`), to which a stream is the socket behind a connection.
//!
//! Everything a client can make large is bounded: connections an endpoint (the one that has been idle longest makes
//! room), queries under way a connection, answers that it does not read (then its queries are read no more), and the
//! sum of all bytes held (whoever holds most is reset). Source: RFC 7766 sections 6 to 8.

use core::time::Duration;
use std::collections::VecDeque;
use std::io::IoSlice;

use slab::Slab;

use super::{Client, MAX_MESSAGE, message};
use crate::addr::{PortId, SockId};
use crate::flow::host::{HostError, Peeked};
use crate::time::Tick;

/// Connections at most, over all endpoints. Their sum is the capacity of the TCP engine behind.
pub const MAX_STREAMS: usize = 1024;
/// Connections of one endpoint.
const MAX_OF_PORT: usize = 256;
/// Queries of one connection that wait for their answers; behind them the client waits.
const MAX_PIPELINED: usize = 32;
/// Answers that wait for the client, in bytes, from which on no more of its queries are read.
const HIGH_WATER: usize = MAX_MESSAGE + 2;
/// Bytes held for all connections.
const MAX_HELD: usize = 8 << 20;
/// A connection without a whole query or answer for so long is closed. Source: RFC 7766 section 6.2.3, "on the order
/// of a few seconds".
const IDLE: Duration = Duration::from_secs(15);
/// A connection that was closed and has not ended after this is reset.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of the length before a message. Source: RFC 1035 section 4.2.2.
const LENGTH: usize = 2;

/// A connection for as long as it lives: its place, and a number that the next one there does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId {
    slot: u32,
    serial: u32,
}

#[derive(Debug)]
struct Stream {
    client: Client,
    serial: u32,
    /// The connection of the TCP engine.
    flow: u32,
    /// The beginning of a message, with its length before it.
    input: Vec<u8>,
    /// Answers, with their lengths, that the client has not acknowledged.
    output: VecDeque<u8>,
    /// Queries without an answer so far.
    pending: usize,
    /// The client has ended its side.
    ended: bool,
    /// No more is read: it was idle, or sent what is no query.
    closing: bool,
    /// It is to be reset; nothing of it matters any more.
    doomed: bool,
    /// There was more to read than there was room for.
    hungry: bool,
    deadline: Tick,
}

impl Stream {
    fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    fn has_room(&self) -> bool {
        self.pending < MAX_PIPELINED && self.output.len() < HIGH_WATER
    }

    /// Nothing more will be sent than what is there.
    fn is_finished(&self) -> bool {
        (self.ended || self.closing) && self.pending == 0
    }

    fn is_idle(&self) -> bool {
        self.pending == 0 && self.output.is_empty()
    }

    /// How many bytes the message still lacks, or its length does.
    fn lacks(&self) -> usize {
        let whole = match self.input.first_chunk() {
            Some(length) => LENGTH + usize::from(u16::from_be_bytes(*length)),
            None => LENGTH,
        };
        whole.saturating_sub(self.input.len())
    }

    /// Takes a whole message out, without its length.
    fn message(&mut self) -> Option<Vec<u8>> {
        if self.input.len() < LENGTH || self.lacks() > 0 {
            return None;
        }
        let mut message = core::mem::take(&mut self.input);
        message.drain(..LENGTH);
        Some(message)
    }
}

/// What the owner of the TCP engine has to tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nudge {
    /// There is something to send; `ending` if it is the last.
    Readable {
        /// The connection.
        flow: u32,
        /// Behind it the stream ends.
        ending: bool,
    },
    /// There is room again.
    Writable {
        /// The connection.
        flow: u32,
    },
    /// The connection is to be reset.
    Reset {
        /// The connection.
        flow: u32,
    },
}

/// The streams of one gateway.
#[derive(Debug)]
pub struct Streams {
    slots: Slab<Stream>,
    serial: u32,
    held: usize,
    queries: VecDeque<(StreamId, Vec<u8>)>,
    nudges: VecDeque<Nudge>,
    /// No deadline is earlier.
    next: Tick,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            slots: Slab::new(),
            serial: 0,
            held: 0,
            queries: VecDeque::new(),
            nudges: VecDeque::new(),
            next: Tick::NEVER,
        }
    }
}

impl Streams {
    /// Connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held for them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Sees whether another connection of `port` fits. The one that has to go first, for the caller to reset, where it
    /// only does without that; an error where all are in use.
    pub fn admit(&self, port: PortId) -> Result<Option<u32>, HostError> {
        let of_port = || self.slots.iter().filter(|(_, s)| s.client.port == port);
        if of_port().count() < MAX_OF_PORT {
            let full = self.slots.len() >= MAX_STREAMS;
            return if full {
                Err(HostError::Exhausted)
            } else {
                Ok(None)
            };
        }
        let idle = of_port().filter(|(_, s)| s.is_idle());
        let oldest = idle.min_by_key(|(_, s)| s.deadline);
        oldest
            .map(|(_, s)| Some(s.flow))
            .ok_or(HostError::Exhausted)
    }

    /// Adds the stream of a connection whose handshake has begun.
    pub fn open(&mut self, now: Tick, flow: u32, mut client: Client) -> SockId {
        self.serial = self.serial.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        // The table is far smaller than the numbers are.
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let serial = self.serial;
        client.stream = Some(StreamId { slot, serial });
        entry.insert(Stream {
            client,
            serial,
            flow,
            input: Vec::new(),
            output: VecDeque::new(),
            pending: 0,
            ended: false,
            closing: false,
            doomed: false,
            hungry: false,
            deadline: now + IDLE,
        });
        self.next = self.next.min(now + IDLE);
        SockId(slot)
    }

    /// Forgets a stream whose connection is over.
    pub fn close(&mut self, sock: SockId) {
        if let Some(stream) = self.slots.try_remove(sock.0 as usize) {
            self.held -= stream.held();
        }
    }

    /// Takes what the client sends. Returns how much: less than all while it has to wait.
    pub fn take(&mut self, now: Tick, sock: SockId, data: &[IoSlice<'_>]) -> usize {
        let Some(stream) = self.slots.get_mut(sock.0 as usize) else {
            return 0;
        };
        let before = stream.held();
        stream.hungry = false;
        let mut taken = 0;
        for piece in data {
            let mut rest = &**piece;
            while !rest.is_empty() {
                if stream.closing || stream.doomed {
                    taken += rest.len();
                    break;
                }
                if !stream.has_room() {
                    stream.hungry = true;
                    break;
                }
                let (fresh, later) = rest.split_at(stream.lacks().min(rest.len()));
                stream.input.extend_from_slice(fresh);
                taken += fresh.len();
                rest = later;
                let Some(query) = stream.message() else {
                    continue;
                };
                if !message::has_header(&query) || message::is_response(&query) {
                    // Who does not speak DNS has lost the beginning of messages, or never knew it.
                    stream.closing = true;
                    stream.deadline = now + LINGER;
                    self.next = self.next.min(stream.deadline);
                    self.nudges.push_back(Nudge::Readable {
                        flow: stream.flow,
                        ending: stream.is_finished(),
                    });
                    continue;
                }
                stream.pending += 1;
                stream.deadline = now + IDLE;
                let id = StreamId {
                    slot: sock.0,
                    serial: stream.serial,
                };
                self.queries.push_back((id, query));
            }
            if stream.hungry {
                break;
            }
        }
        if stream.closing {
            stream.input = Vec::new();
        }
        let after = stream.held();
        self.held = self.held + after - before;
        self.bound();
        taken
    }

    /// The next query that has come whole, and who asks.
    pub fn query(&mut self) -> Option<(Client, Vec<u8>)> {
        while let Some((id, query)) = self.queries.pop_front() {
            if let Some(stream) = self.find(id) {
                return Some((stream.client, query));
            }
        }
        None
    }

    /// Who is behind a stream.
    #[must_use]
    pub fn client(&self, sock: SockId) -> Option<Client> {
        self.slots.get(sock.0 as usize).map(|s| s.client)
    }

    fn find(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.slots.get_mut(id.slot as usize)?;
        (stream.serial == id.serial && !stream.doomed).then_some(stream)
    }

    /// Gives a client the answer to one of its queries; nothing happens if it has gone.
    pub fn answer(&mut self, now: Tick, id: StreamId, answer: &[u8]) {
        let Some(stream) = self.find(id) else {
            return;
        };
        stream.pending = stream.pending.saturating_sub(1);
        if !stream.closing {
            stream.deadline = now + IDLE;
        }
        let mut added = 0;
        if let Ok(length) = u16::try_from(answer.len()) {
            stream.output.extend(length.to_be_bytes());
            stream.output.extend(answer);
            added = LENGTH + answer.len();
        }
        let nudge = Nudge::Readable {
            flow: stream.flow,
            ending: stream.is_finished(),
        };
        self.held += added;
        self.nudges.push_back(nudge);
        self.feed(SockId(id.slot));
        self.bound();
    }

    /// Lets a client go on that had to wait.
    fn feed(&mut self, sock: SockId) {
        if let Some(stream) = self.slots.get_mut(sock.0 as usize)
            && stream.hungry
            && stream.has_room()
        {
            stream.hungry = false;
            self.nudges.push_back(Nudge::Writable { flow: stream.flow });
        }
    }

    /// Copies what waits for the client from `offset` on.
    pub fn peek(
        &mut self,
        sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        let stream = self
            .slots
            .get(sock.0 as usize)
            .filter(|s| !s.doomed)
            .ok_or(HostError::Reset)?;
        let mut copied = 0;
        let mut skip = offset;
        let (front, back) = stream.output.as_slices();
        for part in [front, back] {
            let part = part.get(skip.min(part.len())..).unwrap_or_default();
            skip = offset.saturating_sub(front.len());
            let n = part.len().min(buf.len() - copied);
            if let (Some(to), Some(from)) = (buf.get_mut(copied..copied + n), part.get(..n)) {
                to.copy_from_slice(from);
                copied += n;
            }
        }
        Ok(match copied {
            0 if offset < stream.output.len() => Peeked::Empty,
            0 if stream.is_finished() => Peeked::Eof,
            0 => Peeked::Empty,
            n => Peeked::Data(n),
        })
    }

    /// Drops what the client has acknowledged.
    pub fn discard(&mut self, now: Tick, sock: SockId, len: usize) -> Result<(), HostError> {
        let stream = self
            .slots
            .get_mut(sock.0 as usize)
            .ok_or(HostError::Reset)?;
        let len = len.min(stream.output.len());
        stream.output.drain(..len);
        if stream.output.is_empty() {
            // A connection that only waits holds no more than its state.
            stream.output = VecDeque::new();
        }
        if !stream.closing {
            stream.deadline = now + IDLE;
        }
        self.held -= len;
        self.feed(sock);
        Ok(())
    }

    /// The client has ended its side; what it has asked is still answered.
    pub fn end(&mut self, sock: SockId) {
        if let Some(stream) = self.slots.get_mut(sock.0 as usize) {
            stream.ended = true;
            let nudge = Nudge::Readable {
                flow: stream.flow,
                ending: stream.is_finished(),
            };
            self.nudges.push_back(nudge);
        }
    }

    /// What the TCP engine is to be told next.
    pub fn nudge(&mut self) -> Option<Nudge> {
        self.nudges.pop_front()
    }

    /// True if there are queries, or something to tell the TCP engine.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queries.is_empty() || !self.nudges.is_empty()
    }

    /// Resets whoever holds most while all together hold too much.
    fn bound(&mut self) {
        while self.held > MAX_HELD {
            let Some((_, hog)) = self.slots.iter_mut().max_by_key(|(_, s)| s.held()) else {
                return;
            };
            self.held -= hog.held();
            hog.input = Vec::new();
            hog.output = VecDeque::new();
            hog.doomed = true;
            self.nudges.push_back(Nudge::Reset { flow: hog.flow });
        }
    }

    /// The next deadline, or a little before it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        (self.next != Tick::NEVER).then_some(self.next)
    }

    /// Closes what has been idle for too long, and resets what did not end after that.
    pub fn handle_timeout(&mut self, now: Tick) {
        if now < self.next {
            return;
        }
        self.next = Tick::NEVER;
        for (_, stream) in &mut self.slots {
            if stream.deadline <= now && !stream.doomed {
                let flow = stream.flow;
                if stream.pending > 0 {
                    // The forwarder answers every query, if only to say that it failed.
                    stream.deadline = now + IDLE;
                } else if stream.closing {
                    stream.doomed = true;
                    self.nudges.push_back(Nudge::Reset { flow });
                } else {
                    stream.closing = true;
                    stream.deadline = now + LINGER;
                    self.held -= stream.input.len();
                    stream.input = Vec::new();
                    self.nudges
                        .push_back(Nudge::Readable { flow, ending: true });
                }
            }
            if !stream.doomed {
                self.next = self.next.min(stream.deadline);
            }
        }
    }
}

#[cfg(test)]
mod tests;
