//! Stage 5: Rules of endpoints, asked once for each new conversation. What passes between endpoints is entered in a
//! table, so that all that follows, both ways, costs one lookup; who has no rules is not even asked.
//!
//! The gateway's own services are open to everybody: without addresses and names there is nothing to rule.

use std::collections::HashMap;
use std::sync::Arc;

use super::ports::{Port, Ports};
use super::vlans::Vlan;
use super::{Switch, seconds};
use crate::addr::{NetworkId, PortId};
use crate::conntrack::switched::{CAPACITY, Stage, Switched};
use crate::conntrack::tuple::{Role, Tuple};
use crate::flow::host::Host;
use crate::flow::tcp::{Cx, TcpFlows};
use crate::policy::compile::{Action, Direction};
use crate::policy::eval::Flow;
use crate::policy::learned::Learned;
use crate::respond::icmp::IcmpError;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::TcpHeader;

/// What is known for rules to be asked.
#[derive(Debug)]
pub(super) struct Rulebook {
    net: NetworkId,
    table: Option<Arc<Switched>>,
    /// Of endpoints whose rules have names.
    learned: HashMap<PortId, Learned>,
    seeds: [u64; 4],
}

impl Rulebook {
    pub(super) fn new(net: NetworkId, seeds: [u64; 4]) -> Self {
        Self {
            net,
            table: None,
            learned: HashMap::new(),
            seeds,
        }
    }

    /// Gets ready for an endpoint in place of one with the same number.
    pub(super) fn adopt(&mut self, before: Option<&Port>, port: &Port) {
        let Some(policy) = &port.policy else {
            self.learned.remove(&port.id);
            return;
        };
        self.table();
        let known = self.learned.remove(&port.id);
        if !policy.names().is_empty() {
            let old = before.and_then(|p| p.policy.as_ref());
            let known = known
                .zip(old)
                .map(|(k, old)| k.carried(old.names(), policy.names()));
            self.learned.insert(port.id, known.unwrap_or_default());
        }
    }

    pub(super) fn forget(&mut self, port: PortId) {
        self.learned.remove(&port);
    }

    /// The table of conversations; one of its own unless one was shared.
    pub(super) fn table(&mut self) -> &Arc<Switched> {
        let seeds = self.seeds;
        let own = || Arc::new(Switched::new(CAPACITY, seeds));
        self.table.get_or_insert_with(own)
    }

    /// Whether an endpoint may have one flow more, where room is made for it. Errors: `FlowLimit`.
    pub(super) fn room(&self, port: &Port, now: Tick) -> Result<(), DropReason> {
        let Some(limits) = port.limits.as_ref().filter(|l| l.is_full()) else {
            return Ok(());
        };
        if let Some(table) = &self.table {
            table.make_room(port.id, seconds(now));
        }
        if limits.is_full() {
            return Err(DropReason::FlowLimit);
        }
        Ok(())
    }

    /// What an endpoint's rules say of a new flow.
    pub(super) fn asks(&self, port: &Port, way: Direction, flow: &Flow, now: Tick) -> Action {
        port.policy.as_ref().map_or(Action::Allow, |policy| {
            let known = self.learned.get(&port.id).map(|l| (l, now));
            policy.decide(way, flow, known)
        })
    }

    fn sends(&self, port: &Port, tuple: &Tuple, now: Tick) -> Action {
        self.asks(port, Direction::Egress, &to(tuple), now)
    }

    fn invites(&self, port: &Port, tuple: &Tuple, now: Tick) -> Action {
        self.asks(port, Direction::Ingress, &from(tuple), now)
    }

    /// True if an endpoint's rules let a new flow in.
    pub(super) fn takes(&self, port: &Port, tuple: &Tuple, now: Tick) -> bool {
        self.invites(port, tuple, now) == Action::Allow
    }

    fn both(&self, from: &Port, to: &Port, tuple: &Tuple, now: Tick) -> Action {
        match self.sends(from, tuple, now) {
            Action::Allow => self.invites(to, tuple, now),
            closed @ (Action::Drop | Action::Reject) => closed,
        }
    }

    /// True if an endpoint may have its copy of a frame for everybody.
    pub(super) fn lets_in(
        &self,
        vlan: Option<Vlan>,
        port: &Port,
        packet: &Packet,
        frame: &[u8],
        now: Tick,
    ) -> bool {
        let ask = |t: &Tuple| self.invites(port, t, now);
        port.policy.is_none() || self.group(vlan, packet, frame, now, ask)
    }

    /// True if an endpoint may send a frame to everybody.
    fn lets_out(
        &self,
        vlan: Option<Vlan>,
        port: &Port,
        packet: &Packet,
        frame: &[u8],
        now: Tick,
    ) -> bool {
        let ask = |t: &Tuple| self.sends(port, t, now);
        port.policy.is_none() || self.group(vlan, packet, frame, now, ask)
    }

    fn group(
        &self,
        vlan: Option<Vlan>,
        packet: &Packet,
        frame: &[u8],
        now: Tick,
        ask: impl Fn(&Tuple) -> Action,
    ) -> bool {
        let Kind::Ip(ip) = packet.kind else {
            return true;
        };
        let Ok((tuple, role)) = Tuple::of(vlan.map_or(self.net, |v| v.segment), &ip, frame) else {
            return false;
        };
        let known = || {
            self.table
                .as_ref()
                .and_then(|t| t.peek(&tuple, seconds(now)))
        };
        role == Role::Serves || known().is_some() || (!tuple.piece && ask(&tuple) == Action::Allow)
    }
}

/// The two endpoints of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    from: PortId,
    to: PortId,
    /// Where they hear each other, if that is not the network's own segment. The gateway is not there, so that
    /// nobody answers for what is rejected.
    vlan: Option<NetworkId>,
}

impl Ends {
    /// Two endpoints on the network's own segment.
    pub(super) const fn own(from: PortId, to: PortId) -> Self {
        let vlan = None;
        Self { from, to, vlan }
    }

    /// Two endpoints on a VLAN.
    pub(super) const fn on(vlan: NetworkId, from: PortId, to: PortId) -> Self {
        let vlan = Some(vlan);
        Self { from, to, vlan }
    }
}

impl Switch {
    /// Makes a table of conversations common to the workers of a network, or of several.
    pub fn share(&mut self, table: Arc<Switched>) {
        self.rules.table = Some(table);
    }

    /// Decides about a frame from one endpoint to another of which one has rules.
    /// Errors: `Denied`; `FlowLimit`, `NewFlowLimit`, `Truncated`.
    pub(super) fn admit<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        ends: Ends,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let Kind::Ip(ip) = packet.kind else {
            return Ok(());
        };
        let (from, net) = (ends.from, ends.vlan.unwrap_or(self.config.network));
        let (tuple, role) = Tuple::of(net, &ip, frame)?;
        if role == Role::Serves {
            return Ok(());
        }
        let table = Arc::clone(self.rules.table());
        let now = seconds(cx.now);
        if table.pass(&tuple, role, now).is_none() {
            let owner = self.decide(host, cx, ends, (&tuple, role), (packet, &ip), frame)?;
            let stage = if role == Role::Opens {
                Stage::New
            } else {
                Stage::Open
            };
            let opening = if owner == from {
                tuple
            } else {
                tuple.reversed()
            };
            if role != Role::Resets {
                table.open(&opening, (owner, stage), None, now);
            }
        }
        if let Some(first) = ip.frag.filter(|_| !tuple.piece) {
            table.open(&tuple.pieces(first.id), (from, Stage::Open), None, now);
        }
        Ok(())
    }

    /// Asks the rules of both about a new conversation. Returns who began it.
    fn decide<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        Ends { from, to, vlan }: Ends,
        (tuple, role): (&Tuple, Role),
        (packet, ip): (&Packet, &Ip),
        frame: &[u8],
    ) -> Result<PortId, DropReason> {
        // What would belong to a conversation that is not known opens none.
        if tuple.piece || role == Role::Reports {
            return Err(DropReason::Denied);
        }
        let (Some(sender), Some(taker)) = (self.ports.get(from), self.ports.get(to)) else {
            return Err(DropReason::NoFlow);
        };
        let (rules, now) = (&self.rules, cx.now);
        let action = rules.both(sender, taker, tuple, now);
        // It may be older than the table: then whoever may open it, did. A handshake cannot begin in its middle.
        let older = action != Action::Allow && role != Role::Opens;
        let owner = if older && rules.both(taker, sender, &tuple.reversed(), now) == Action::Allow {
            taker
        } else {
            match action {
                Action::Allow => sender,
                Action::Drop => return Err(DropReason::Denied),
                Action::Reject if vlan.is_some() => return Err(DropReason::Denied),
                Action::Reject => return Err(self.reject(host, cx, from, (packet, ip), frame)),
            }
        };
        rules.room(owner, now)?;
        if let Some(limits) = &owner.limits {
            limits.opens(now)?;
        }
        Ok(owner.id)
    }

    /// Decides about a frame for everybody. Errors: `Denied`.
    pub(super) fn admit_all(
        &self,
        now: Tick,
        (port, vlan): (&Port, Option<Vlan>),
        packet: &Packet,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        if self.rules.lets_out(vlan, port, packet, frame, now) {
            Ok(())
        } else {
            Err(DropReason::Denied)
        }
    }

    /// Decides about a flow that an endpoint opens to the world: its rules, and how many it may open. Whether it may
    /// have one more is for the table of those to say, where it is a new one.
    /// Errors: `Denied`, with an answer where the rules want one; `NewFlowLimit`.
    pub(super) fn opens<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let Some(sender) = self.ports.get(port) else {
            return Err(DropReason::NoFlow);
        };
        if sender.policy.is_some() {
            let (tuple, _) = Tuple::of(self.config.network, ip, frame)?;
            match self.rules.sends(sender, &tuple, cx.now) {
                Action::Allow => {}
                Action::Drop => return Err(DropReason::Denied),
                Action::Reject => return Err(self.reject(host, cx, port, (packet, ip), frame)),
            }
        }
        let _full = self.rules.room(sender, cx.now);
        sender.limits.as_ref().map_or(Ok(()), |l| l.opens(cx.now))
    }

    /// True if an endpoint's rules let it have a flow that the world opens.
    pub(super) fn lets_in(&self, now: Tick, port: PortId, flow: &Flow) -> bool {
        let Some(port) = self.ports.get(port) else {
            return true;
        };
        let _full = self.rules.room(port, now);
        if port.policy.is_none() {
            return true;
        }
        self.rules.asks(port, Direction::Ingress, flow, now) == Action::Allow
    }

    /// Takes note of an answer that the gateway gives an endpoint whose rules have names.
    pub(super) fn note_answer(&mut self, now: Tick, port: PortId, answer: &[u8]) {
        note_answer(&mut self.rules, &self.ports, now, port, answer);
    }

    /// Answers what the rules reject: a connection with a reset, all else with an error.
    fn reject<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: PortId,
        (packet, ip): (&Packet, &Ip),
        frame: &[u8],
    ) -> DropReason {
        let segment = frame.get(ip.l4..ip.end).unwrap_or_default();
        if ip.proto == PROTO_TCP {
            if let Ok(hdr) = TcpHeader::parse(segment) {
                TcpFlows::refuse(host, cx, from, packet.src, ip, &hdr, segment.len());
            }
            return DropReason::Denied;
        }
        let (what, reason) = (IcmpError::Prohibited, DropReason::Denied);
        let refused = self.refuse(host, from, frame, what, reason);
        refused.err().unwrap_or(reason)
    }
}

/// Takes note of an answer, where the whole switch is not at hand.
pub(super) fn note_answer(
    rules: &mut Rulebook,
    ports: &Ports,
    now: Tick,
    port: PortId,
    answer: &[u8],
) {
    let policy = ports.get(port).and_then(|p| p.policy.as_ref());
    if let (Some(policy), Some(learned)) = (policy, rules.learned.get_mut(&port)) {
        learned.answered(now, policy.names(), answer);
    }
}

/// A conversation as its opener's rules see it.
fn to(tuple: &Tuple) -> Flow {
    flow(tuple, tuple.dst)
}

/// A conversation as its taker's rules see it.
fn from(tuple: &Tuple) -> Flow {
    flow(tuple, tuple.src)
}

fn flow(tuple: &Tuple, remote: core::net::IpAddr) -> Flow {
    let ported = matches!(tuple.proto, PROTO_TCP | PROTO_UDP);
    Flow {
        remote,
        proto: tuple.proto,
        port: if ported { tuple.ports.1 } else { 0 },
    }
}
