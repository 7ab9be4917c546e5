//! The remote end of a TCP connection of the host, and the host's socket before it.

use core::net::SocketAddr;
use core::time::Duration;

use super::Event;
use super::receive::{Buffer, Receive};
use crate::flow::host::{HostError, Peeked};
use crate::testing::Random;
use crate::testing::script::{Clock, End, Pace, Script, Taken};
use crate::time::Tick;

/// Bytes that a socket's send buffer holds.
const BUFFER: usize = 256 * 1024;
/// Bytes that it holds where the peer does not take them at once.
const SMALL: usize = 16 * 1024;
/// Bytes that arrive at once, at most.
const LOT: u64 = 70_000;

/// How the switch closed a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// By a reset.
    pub reset: bool,
    /// Bytes had arrived and were not taken off: a kernel would reset.
    pub unread: usize,
}

/// A connection between the host and a remote peer.
#[derive(Debug)]
pub struct Peer {
    /// Where it leads.
    pub remote: SocketAddr,
    /// How the switch closed it, if it has.
    pub closed: Option<Closed>,
    pub(super) flow: u32,
    pub(super) connected: bool,
    pub(super) next: Option<Tick>,
    script: Script,
    taken: Taken,
    /// Sent by the switch, not yet taken by the peer.
    outgoing: Vec<u8>,
    shut: bool,
    full: bool,
    receive: Buffer,
    arrived: usize,
    discarded: usize,
    clock: Clock,
    end_told: bool,
    broken: bool,
}

impl Peer {
    pub(super) fn new(remote: SocketAddr, flow: u32, script: Script, receive: Receive) -> Self {
        Self {
            remote,
            closed: None,
            flow,
            connected: false,
            next: None,
            script,
            taken: Taken::default(),
            outgoing: Vec::new(),
            shut: false,
            full: false,
            receive: Buffer::new(receive),
            arrived: 0,
            discarded: 0,
            clock: Clock::default(),
            end_told: false,
            broken: false,
        }
    }

    /// What the peer has taken.
    #[must_use]
    pub fn taken(&self) -> &Taken {
        &self.taken
    }

    /// What the peer does.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// The switch has ended the stream towards the peer.
    #[must_use]
    pub fn was_shut(&self) -> bool {
        self.shut
    }

    /// Plans a wake, unless an earlier one is planned.
    pub(super) fn wake(&mut self, at: Tick) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Lets the peer take and send. Returns what the socket reports.
    pub(super) fn drive(&mut self, now: Tick, random: &mut Random, out: &mut Vec<Event>) {
        self.next = None;
        if !self.connected || self.closed.is_some_and(|c| c.reset) {
            return;
        }
        self.clock.open(now);
        let lot = match self.script.pace {
            Pace::Late(_) if !self.clock.may_read(now, &self.script) => 0,
            Pace::Eager | Pace::Late(_) => self.outgoing.len(),
            Pace::Choked => self.outgoing.len().min(random.below(6_000) as usize),
        };
        self.taken.take(&self.outgoing[..lot]);
        self.outgoing.drain(..lot);
        let flow = self.flow;
        if self.closed.is_none() {
            if self.full && self.outgoing.len() < self.room() / 2 {
                self.full = false;
                out.push(Event::TcpWritable { flow });
            }
            self.send(now, random, out);
        }
        let more = self.clock.may_send(now, &self.script, self.arrived) > self.arrived
            && self.receive.has_room()
            && !self.broken;
        let taking = !self.outgoing.is_empty() && self.clock.may_read(now, &self.script);
        self.next = self.clock.next(now, &self.script);
        if self.closed.is_none() && more || taking {
            self.wake(now + Duration::from_micros(50 + random.below(200)));
        }
    }

    /// The peer's stream arrives in lots of any size, as far as the receive buffer has room.
    fn send(&mut self, now: Tick, random: &mut Random, out: &mut Vec<Event>) {
        let flow = self.flow;
        let ready = self.clock.may_send(now, &self.script, self.arrived) - self.arrived;
        let lot = match self.broken {
            true => 0,
            false => self.receive.arrive(ready.min(random.below(LOT) as usize)),
        };
        self.arrived += lot;
        let all = self.arrived == self.script.send;
        let ending = self.broken
            || all
                && match self.script.end {
                    End::Sent | End::Reset => true,
                    End::Second => self.shut && self.outgoing.is_empty(),
                    End::Never => false,
                };
        self.broken |= ending && self.script.end == End::Reset;
        if lot > 0 || ending && !self.end_told {
            self.end_told |= ending;
            out.push(Event::TcpReadable { flow, ending });
        }
    }

    /// The peer resets the connection now.
    pub(super) fn break_off(&mut self, now: Tick) {
        self.broken = true;
        // That is told even after the end.
        self.end_told = false;
        self.outgoing.clear();
        self.wake(now);
    }

    fn room(&self) -> usize {
        match self.script.pace {
            Pace::Eager => BUFFER,
            Pace::Choked | Pace::Late(_) => SMALL,
        }
    }

    fn check_open(&self) -> Result<(), HostError> {
        assert!(self.connected, "used before it was connected");
        if self.broken {
            return Err(HostError::Reset);
        }
        Ok(())
    }

    pub(super) fn send_from_switch(&mut self, data: &[&[u8]]) -> Result<usize, HostError> {
        assert!(!self.shut, "sent after the end");
        self.check_open()?;
        let room = self.room().saturating_sub(self.outgoing.len());
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        let n = len.min(room);
        self.full |= n < len;
        if n == 0 {
            return Err(HostError::WouldBlock);
        }
        let bytes = data.iter().flat_map(|piece| piece.iter().copied());
        self.outgoing.extend(bytes.take(n));
        Ok(n)
    }

    pub(super) fn peek(&self, offset: usize, buf: &mut [u8]) -> Result<Peeked, HostError> {
        assert!(self.connected, "peeked before it was connected");
        let from = self.discarded + offset;
        assert!(from <= self.arrived, "peeked beyond what has arrived");
        let waiting = buf.len().min(self.arrived - from);
        if waiting > 0 {
            return Ok(Peeked::Data(self.script.fill(from, &mut buf[..waiting])));
        }
        if self.broken {
            return Err(HostError::Reset);
        }
        Ok(if self.end_told {
            Peeked::Eof
        } else {
            Peeked::Empty
        })
    }

    pub(super) fn ends_at(&self, offset: usize) -> bool {
        self.end_told && !self.broken && self.discarded + offset == self.arrived
    }

    pub(super) fn discard(&mut self, len: usize) {
        self.receive.discard(len);
        self.discarded += len;
    }

    pub(super) fn shutdown(&mut self) {
        assert!(self.connected, "shut before it was connected");
        self.shut = true;
    }

    pub(super) fn close(&mut self, reset: bool) {
        assert!(self.closed.is_none(), "closed twice");
        let unread = self.arrived - self.discarded;
        self.closed = Some(Closed { reset, unread });
        if reset {
            self.outgoing.clear();
        }
    }
}
