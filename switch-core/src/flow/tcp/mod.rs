//! Stage 6: TCP: frames of a sandbox to byte streams of the host and back.
//!
//! Not a second full stack: payload goes from the frame straight into the host's socket, and from the
//! host's socket straight into a super-frame. What bounds memory is the window: it is the free space of
//! a ring that a flow only has while its socket is full, and the sum of all windows comes from one budget.
//! Towards the sandbox nothing is stored at all: bytes stay in the host's socket until acknowledged.
//!
//! Files in the order of a connection's life: `open`, `up` (sandbox to host), `down` (host to sandbox),
//! `recovery` (of what the sandbox misses), `close`, `timer`; `segment` writes frames, `state` is the connection, `ring`
//! and `seq` its parts, `brake` what an endpoint's limit holds back.

mod brake;
mod close;
mod down;
mod open;
mod recovery;
mod ring;
mod segment;
mod seq;
mod state;
mod timer;
mod up;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use slab::Slab;

use self::brake::Brakes;
use self::ring::Rings;
use super::host::{TcpHost, Tx};
use super::row::FlowRow;
use crate::addr::{Mac, PortId};
use crate::conntrack::expiry::Wheel;
use crate::frame::Pool;
use crate::policy::limit;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::Ip;
use crate::wire::tcp::{RST, SYN, TcpHeader};

pub use self::open::{Accepted, OpenError};
pub use self::state::{Flow, Key, State};

/// Payload of the largest frame: 65,535 less IPv4 and TCP headers, for data carries no options. The largest MTU
/// of a TAP, 65,521, has a segment of 65,481 bytes: one fits whatever the MTU.
const MAX_PAYLOAD: usize = 65_535 - 40;

/// Bytes that all connections together may send in one batch.
const BATCH: usize = 256 * 1024;

/// What a call works with besides the flow: the time, and the gateway on this network.
#[derive(Debug, Clone, Copy)]
pub struct Cx {
    /// Now.
    pub now: Tick,
    /// The gateway's MAC, from which everything to a sandbox comes.
    pub mac: Mac,
    /// MTU of the endpoint at hand.
    pub mtu: u16,
    /// The endpoint takes UDP super-frames.
    pub uso: bool,
}

/// Capacities.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at most. A SYN beyond it is dropped and counted.
    pub flows: usize,
    /// Bytes that all windows together may offer, and that rings may hold.
    pub window_budget: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 65_536,
            window_budget: 256 << 20,
        }
    }
}

/// Every connection of one owner.
#[derive(Debug)]
pub struct TcpFlows {
    flows: Slab<Flow>,
    index: HashMap<Key, u32, RandomState>,
    wheel: Wheel,
    pool: Pool,
    rings: Rings,
    limits: Limits,
    /// Bytes offered or held over all flows.
    used: usize,
    /// The present epoch, and how many flows sent in the one before and in this one.
    epoch: u64,
    active: (u32, u32),
    /// Flows that have something to do at the end of the batch.
    dirty: Vec<u32>,
    /// Flows that may have something for the sandbox, in the order in which they get their turns.
    ready: VecDeque<u32>,
    /// Flows of this batch that stand in `ready`; kept for its memory.
    late: Vec<u32>,
    /// Flows whose deadline has come; kept for its memory.
    due: Vec<u32>,
    brakes: Brakes,
    /// Of endpoints that have any.
    shares: HashMap<PortId, Arc<limit::Limits>>,
    scratch: Box<[u8]>,
    seeds: RandomState,
}

impl TcpFlows {
    /// No connections yet. `seeds` key the table's hash and the initial sequence numbers.
    #[must_use]
    pub fn new(now: Tick, limits: Limits, seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            flows: Slab::new(),
            index: HashMap::with_hasher(RandomState::with_seeds(a, b, c, d)),
            wheel: Wheel::new(now),
            pool: Pool::new(ring::BLOCK, limits.window_budget),
            rings: Rings::default(),
            limits,
            used: 0,
            epoch: 0,
            active: (0, 0),
            dirty: Vec::new(),
            ready: VecDeque::new(),
            late: Vec::new(),
            due: Vec::new(),
            brakes: Brakes::default(),
            shares: HashMap::new(),
            scratch: vec![0; MAX_PAYLOAD].into_boxed_slice(),
            seeds: RandomState::with_seeds(c, d, a ^ 0x5851_f42d_4c95_7f2d, b),
        }
    }

    /// Open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// True if every connection's end in the sandbox has ended and the host has all that it sent. One that does not stand
    /// yet has sent nothing.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        let passed = |f: &Flow| f.state != State::Established || f.host_shut || f.abandoned;
        self.flows.iter().all(|(_, flow)| passed(flow))
    }

    /// Bytes of the window budget in use.
    #[must_use]
    pub fn budget_used(&self) -> usize {
        self.used
    }

    /// The connections, with their keys and states.
    pub fn iter(&self) -> impl Iterator<Item = (Key, State)> + '_ {
        self.flows.iter().map(|(_, f)| (f.key, f.state))
    }

    /// The connections as they are now.
    pub fn rows(&self, now: Tick) -> impl Iterator<Item = FlowRow> + '_ {
        self.flows.iter().map(move |(_, f)| FlowRow {
            port: f.port,
            protocol: "tcp",
            key: f.key,
            state: f.state.name(),
            bytes: f.bytes,
            idle: now.since(f.seen),
        })
    }

    /// Sets an endpoint's limits: how many connections it may have, and how much they may bring it.
    pub fn set_limits(&mut self, port: PortId, limits: Option<&Arc<limit::Limits>>) {
        self.set_brake(port, limits);
        match limits {
            Some(limits) => drop(self.shares.insert(port, Arc::clone(limits))),
            None => drop(self.shares.remove(&port)),
        }
    }

    /// Finds the connection of a segment.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// True if a connection is over and only answers late segments: a new SYN may take its place.
    #[must_use]
    pub fn is_over(&self, id: u32) -> bool {
        self.flows
            .get(id as usize)
            .is_some_and(|f| f.state == State::TimeWait)
    }

    /// The endpoint that a connection belongs to.
    #[must_use]
    pub fn port_of(&self, id: u32) -> Option<PortId> {
        self.flows.get(id as usize).map(|f| f.port)
    }

    /// Takes a segment of the sandbox that belongs to connection `id`.
    /// Shape: `segment` is header and payload, without padding.
    pub fn segment<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        hdr: &TcpHeader,
        segment: &[u8],
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        match flow.state {
            State::Connecting => {
                if hdr.flags & RST != 0 {
                    self.remove(host, id, true);
                }
                Ok(())
            }
            State::SynSent => self.syn_sent(host, cx, id, hdr, segment),
            State::TimeWait => {
                // Who has forgotten the connection answers with a reset, which an answer would only bring again.
                if hdr.flags & RST == 0 {
                    self.mark_ack(id);
                } else if hdr.seq == flow.rcv_nxt {
                    self.remove(host, id, false);
                }
                Ok(())
            }
            State::SynReceived | State::Established => {
                if hdr.flags & RST != 0 {
                    return self.reset_by_guest(host, id, hdr);
                }
                if hdr.flags & SYN != 0 {
                    return self.syn_again(host, cx, id, hdr);
                }
                let Some((options, payload)) = segment
                    .get(20..)
                    .and_then(|o| o.split_at_checked(hdr.len.wrapping_sub(20)))
                else {
                    return Err(DropReason::Truncated);
                };
                let probed = flow.probes > 0;
                self.acknowledged(host, cx, id, hdr, options, payload.is_empty())?;
                if probed {
                    // An answer to a probe does nothing else: without this the next one would follow soon.
                    self.touch(cx, id);
                }
                self.data(host, cx, id, hdr, payload)
            }
        }
    }

    /// Answers a segment that belongs to no connection with a reset, as RFC 9293 section 3.10.7.1 asks.
    pub fn refuse<H: Tx>(
        host: &mut H,
        cx: &Cx,
        port: PortId,
        guest: Mac,
        ip: &Ip,
        hdr: &TcpHeader,
        len: usize,
    ) {
        segment::refuse(host, cx, port, guest, ip, hdr, len);
    }

    /// Ends a batch: sends what the host has for the sandbox, as much as one batch may, and the acknowledgements
    /// that are due.
    ///
    /// A sandbox answers each frame as it is written, into a queue of 500 (tun's TUN_READQ_SIZE) that is read only
    /// between batches: without a bound, 64 connections with a turn each filled it and lost their acknowledgements.
    pub fn flush<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx) {
        let mut left = BATCH;
        loop {
            self.release(cx.now);
            self.line_up(host, cx);
            if left == 0 {
                break;
            }
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            let Some(flow) = self.flows.get_mut(id as usize) else {
                continue;
            };
            flow.todo.queued = false;
            if core::mem::take(&mut flow.todo.pump) {
                left -= self.pump(host, cx, id, left).min(left);
                self.finish(host, cx, id);
            }
        }
        // Acknowledgements do not wait for their flow's turn to send.
        let mut late = core::mem::take(&mut self.late);
        for id in late.drain(..) {
            if self.flows.get(id as usize).is_some_and(|f| f.todo.queued) {
                self.finish(host, cx, id);
            }
        }
        self.late = late;
    }

    /// Ends the batch for the flows that have nothing to send; the others get in line.
    fn line_up<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx) {
        let mut next = 0;
        while let Some(&id) = self.dirty.get(next) {
            next += 1;
            let Some(flow) = self.flows.get_mut(id as usize) else {
                continue;
            };
            flow.todo.listed = false;
            if !flow.todo.pump {
                self.finish(host, cx, id);
            } else if !core::mem::replace(&mut flow.todo.queued, true) {
                self.ready.push_back(id);
                self.late.push(id);
            } else {
                self.late.push(id);
            }
        }
        self.dirty.clear();
    }

    fn finish<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        self.look_for_reset(host, cx, id);
        self.acknowledge(host, cx, id);
        self.touch(cx, id);
        self.settle(host, cx, id);
        self.rearm(id);
    }

    /// Goes on with the flows that wait for their turn. True if some are left still.
    pub fn run_ready<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx) -> bool {
        self.flush(host, cx);
        !self.ready.is_empty()
    }

    /// True if a flow waits for its next turn.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The host's socket has room again.
    pub fn writable<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        self.drain(host, cx, id);
    }

    /// The host's socket has something to read; `ending` if it also reported its end or an error.
    pub fn readable(&mut self, id: u32, ending: bool) {
        if let Some(flow) = self.flows.get_mut(id as usize) {
            flow.readable = true;
            flow.ending |= ending;
            // Of a stream that has ended already, only a reset is news; while the sandbox may speak it matters.
            flow.todo.look |= ending && flow.eof_at.is_some() && !flow.host_shut;
            self.mark_pump(id);
        }
    }

    fn list(&mut self, id: u32, set: impl FnOnce(&mut state::Todo)) {
        if let Some(flow) = self.flows.get_mut(id as usize) {
            set(&mut flow.todo);
            if !flow.todo.listed {
                flow.todo.listed = true;
                self.dirty.push(id);
            }
        }
    }

    fn mark_ack(&mut self, id: u32) {
        self.list(id, |t| t.ack = true);
    }

    fn mark_ack_later(&mut self, id: u32) {
        self.list(id, |t| t.ack_later = true);
    }

    fn mark_pump(&mut self, id: u32) {
        self.list(id, |t| t.pump = true);
    }

    /// Puts the flow's next deadline on the wheel if that is earlier than what is there.
    fn rearm(&mut self, id: u32) {
        if let Some(flow) = self.flows.get_mut(id as usize) {
            let at = flow.deadline();
            if at < flow.armed {
                flow.armed = at;
                self.wheel.arm(id, at);
            }
        }
    }
}
