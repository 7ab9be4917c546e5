//! Stage 6: What an endpoint's limit holds back of its connections: bytes stay in the host's socket, so that whoever
//! sends them slows down, and the connections of an endpoint take turns.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use core::time::Duration;

use super::TcpFlows;
use super::state::Flow;
use crate::addr::PortId;
use crate::policy::limit::{Limits, Load};
use crate::time::Tick;

/// After one that was let go has had its chance, the next is looked for: a clock for those who leave without a word.
const NEXT: Duration = Duration::from_millis(1);

/// One endpoint's.
#[derive(Debug)]
struct Brake {
    limits: Arc<Limits>,
    /// Connections with something to send, in the order of their turns. Some may be gone.
    line: VecDeque<u32>,
    /// It stands among those at which somebody waits.
    listed: bool,
}

/// Of every endpoint that has a limit on what it may receive.
#[derive(Debug)]
pub(super) struct Brakes {
    by_port: HashMap<PortId, Brake>,
    /// Those at which somebody waits.
    waiting: Vec<PortId>,
    /// When one of these may have more, or a little before.
    next: Tick,
}

impl Default for Brakes {
    fn default() -> Self {
        Self {
            by_port: HashMap::new(),
            waiting: Vec::new(),
            next: Tick::NEVER,
        }
    }
}

impl Brakes {
    /// True if nobody has a limit.
    pub(super) fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }

    /// When somebody who waits may go on.
    pub(super) fn poll_timeout(&self) -> Option<Tick> {
        Some(self.next).filter(|&next| next != Tick::NEVER)
    }

    /// Payload that the connection's next frame may have; none where it has to wait, for which it gets in line.
    pub(super) fn grant(&mut self, now: Tick, id: u32, flow: &mut Flow) -> Option<usize> {
        let Some(brake) = self.by_port.get_mut(&flow.port) else {
            return Some(usize::MAX);
        };
        if flow.todo.held {
            return None;
        }
        let first = core::mem::take(&mut flow.todo.let_go) || brake.line.is_empty();
        let at = brake.limits.receives_at(now);
        if first && at <= now {
            let burst = brake.limits.rates().ingress.map_or(u64::MAX, |r| r.burst);
            // Whole segments, one at least.
            let mss = usize::from(flow.mss);
            let burst = usize::try_from(burst).unwrap_or(usize::MAX);
            return Some((burst / mss).max(1).saturating_mul(mss));
        }
        flow.todo.held = true;
        brake.line.push_back(id);
        if !core::mem::replace(&mut brake.listed, true) {
            self.waiting.push(flow.port);
        }
        self.next = self.next.min(at.max(now));
        None
    }

    /// Charges a frame with so much payload. False if the endpoint may have no more.
    pub(super) fn charge(&self, now: Tick, flow: &Flow, payload: usize) -> bool {
        let Some(brake) = self.by_port.get(&flow.port) else {
            return true;
        };
        let headers = if flow.key.guest.is_ipv4() { 54 } else { 74 };
        let frames = payload.div_ceil(usize::from(flow.mss)).max(1);
        brake.limits.receives(now, || Load {
            frames: frames as u64,
            bytes: (payload + frames * headers) as u64,
        })
    }
}

impl TcpFlows {
    /// Sets what an endpoint may receive.
    pub(super) fn set_brake(&mut self, port: PortId, limits: Option<&Arc<Limits>>) {
        let limits = limits.filter(|l| l.rates().ingress.is_some());
        let Some(limits) = limits.map(Arc::clone) else {
            let line = self.brakes.by_port.remove(&port).map(|b| b.line);
            self.brakes.waiting.retain(|&p| p != port);
            for id in line.into_iter().flatten() {
                self.let_go(id);
            }
            return;
        };
        match self.brakes.by_port.get_mut(&port) {
            Some(brake) => brake.limits = limits,
            None => {
                let brake = Brake {
                    limits,
                    line: VecDeque::new(),
                    listed: false,
                };
                self.brakes.by_port.insert(port, brake);
            }
        }
        if !self.brakes.waiting.is_empty() {
            self.brakes.next = Tick::ZERO;
        }
    }

    /// Lets go one connection of every endpoint that may have more by now.
    pub(super) fn release(&mut self, now: Tick) {
        if now < self.brakes.next {
            return;
        }
        self.brakes.next = Tick::NEVER;
        let mut waiting = core::mem::take(&mut self.brakes.waiting);
        waiting.retain(|&port| {
            let left = self.release_one(now, port);
            if let Some(brake) = self.brakes.by_port.get_mut(&port) {
                brake.listed = left;
            }
            left
        });
        self.brakes.waiting.append(&mut waiting);
    }

    /// Lets the next one of an endpoint go, if that may have more. False if nobody waits there any longer.
    pub(super) fn release_one(&mut self, now: Tick, port: PortId) -> bool {
        let Self { brakes, flows, .. } = self;
        let Some(brake) = brakes.by_port.get_mut(&port) else {
            return false;
        };
        // Those that are gone are not waited for.
        while let Some(&id) = brake.line.front()
            && flows.get(id as usize).is_none_or(|f| !f.todo.held)
        {
            brake.line.pop_front();
        }
        let Some(&id) = brake.line.front() else {
            return false;
        };
        let at = brake.limits.receives_at(now);
        if at > now {
            brakes.next = brakes.next.min(at);
            return true;
        }
        brakes.next = brakes.next.min(now + NEXT);
        brake.line.pop_front();
        let left = !brake.line.is_empty();
        self.let_go(id);
        left
    }

    fn let_go(&mut self, id: u32) {
        if let Some(flow) = self.flows.get_mut(id as usize) {
            flow.todo.held = false;
            flow.todo.let_go = true;
            self.mark_pump(id);
        }
    }

    /// Forgets places in line whose connections are gone, when they are most of them.
    pub(super) fn leave_line(&mut self, port: PortId) {
        let Self { brakes, flows, .. } = self;
        if let Some(brake) = brakes.by_port.get_mut(&port)
            && brake.line.len() > 2 * flows.len() + 64
        {
            let waits = |id: &u32| flows.get(*id as usize).is_some_and(|f| f.todo.held);
            brake.line.retain(waits);
        }
    }
}
