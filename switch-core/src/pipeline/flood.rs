//! Stage 7-8: Frames for everybody: to 64 endpoints in a turn, the rest when others had theirs.

use std::collections::VecDeque;

use super::multicast::{GATEWAY, Known, Reach, is_data};
use super::ports::{Port, Ports};
use super::rules::Rulebook;
use super::vlans::{Exit, Source};
use super::{Switch, egress};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::l2::flood::{LOOKS_PER_COPY, Rest, TURN};
use crate::l2::table::MacTable;
use crate::policy::limit::Load;
use crate::time::Tick;
use crate::verdict::{DropReason, Drops, Verdict};
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// Floods under way at most, and their bytes; more is a storm.
const MOST: usize = 256;
const MOST_BYTES: usize = 1 << 20;

/// A frame that not everybody has yet.
#[derive(Debug)]
struct Pending {
    rest: Rest,
    from: Source,
    vnet: VnetHdr,
    frame: Vec<u8>,
}

/// Floods that go on in later turns, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Floods {
    pending: VecDeque<Pending>,
    bytes: usize,
    /// Copies in this batch.
    spent: usize,
}

impl Floods {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn push(&mut self, pending: Pending) -> Result<(), DropReason> {
        let bytes = self.bytes + pending.frame.len();
        if self.pending.len() >= MOST || bytes > MOST_BYTES {
            return Err(DropReason::Storm);
        }
        self.bytes = bytes;
        self.pending.push_back(pending);
        Ok(())
    }
}

impl Switch {
    /// Sends a frame to every endpoint of its segment but the one that it is from.
    /// Multicast that endpoints join goes to those that have, and to routers.
    /// Errors: `Isolated` where endpoints may not speak to each other; `Storm` when too many are under way, and some
    /// endpoints do not get it; `NoMember`.
    pub(super) fn flood<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        from: Source,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        if !self.config.icc {
            return Err(DropReason::Isolated);
        }
        let Self {
            ports,
            rules,
            macs,
            drops,
            floods,
            snooper,
            config,
            wanted,
            ..
        } = self;
        let known = Known {
            config,
            ports,
            macs,
            wanted,
            vlan: from.vlan,
        };
        let uncharged = snooper.is_some() && packet.dst.is_group() && is_data(packet, frame);
        let reach = Reach::of(snooper.as_mut(), &known, now, packet, frame);
        let copies = Copies {
            ports,
            rules,
            macs,
            reach,
            now,
            from,
            packet,
            vnet,
            frame,
        };
        let list = copies.reach.members().or_else(|| ports.list(from.vlan));
        // What goes to members alone is no storm.
        if copies.reach.members().is_none()
            && let Some(limits) = ports.get(from.port).and_then(|p| p.limits.as_ref())
        {
            let load = || Load::of(frame, packet, vnet);
            if uncharged {
                limits.spread(now, load)?;
            }
            let count = list.map_or(0, |list| list.as_slice().len());
            limits.copies(now, count, load)?;
        }
        let mut rest = Some(Rest::all(from.port));
        let mut served = false;
        // One that floods at line rate has its share of a batch, and others theirs.
        if floods.is_empty() && floods.spent < TURN {
            let (mut copied, mut looked) = (0, 0);
            let mut each = |to| {
                let sent = copies.send(drops, host, to);
                copied += usize::from(sent);
                looked += 1;
                sent
            };
            rest = list.and_then(|list| list.flood(from.port, &mut each));
            served = copied > 0;
            floods.spent += copied + looked / LOOKS_PER_COPY;
        }
        if rest.is_none() && !served && !reach.is_all() {
            return Err(DropReason::NoMember);
        }
        if let Some(rest) = rest {
            floods.push(Pending {
                rest,
                from,
                vnet: *vnet,
                frame: frame.to_vec(),
            })?;
        }
        Ok(Verdict::Flood)
    }

    /// Goes on with floods, the oldest first, for one turn of all together. True if there is more to do.
    pub(super) fn run_floods<H: Host>(&mut self, host: &mut H, now: Tick) -> bool {
        let Self {
            ports,
            rules,
            macs,
            drops,
            floods,
            snooper,
            config,
            wanted,
            ..
        } = self;
        floods.spent = 0;
        while floods.spent < TURN
            && let Some(mut pending) = floods.pending.pop_front()
        {
            let spent = &mut floods.spent;
            let rest = Packet::parse(&pending.frame).ok().and_then(|packet| {
                let known = Known {
                    config,
                    ports,
                    macs,
                    wanted,
                    vlan: pending.from.vlan,
                };
                let reach = Reach::of(snooper.as_mut(), &known, now, &packet, &pending.frame);
                let copies = Copies {
                    ports,
                    rules,
                    macs,
                    reach,
                    now,
                    from: pending.from,
                    packet: &packet,
                    vnet: &pending.vnet,
                    frame: &pending.frame,
                };
                let mut looked = 0;
                let mut each = |to| {
                    let sent = copies.send(drops, host, to);
                    *spent += usize::from(sent);
                    looked += 1;
                    sent
                };
                let list = reach.members().or_else(|| ports.list(pending.from.vlan))?;
                let rest = list.go_on(pending.rest, &mut each);
                *spent += looked / LOOKS_PER_COPY;
                rest
            });
            // A network that has been emptied meanwhile costs a turn, too.
            *spent += 1;
            match rest {
                Some(rest) => {
                    pending.rest = rest;
                    floods.pending.push_back(pending);
                }
                None => floods.bytes -= pending.frame.len(),
            }
        }
        !floods.is_empty()
    }
}

/// A frame for everybody, and what decides who gets it.
struct Copies<'a> {
    ports: &'a Ports,
    rules: &'a Rulebook,
    macs: &'a MacTable,
    reach: Reach<'a>,
    now: Tick,
    from: Source,
    packet: &'a Packet,
    vnet: &'a VnetHdr,
    frame: &'a [u8],
}

impl Copies<'_> {
    /// Sends one endpoint its copy, where it may have it. False if it is not for this one.
    fn send<H: Host>(&self, drops: &mut Drops, host: &mut H, to: PortId) -> bool {
        let Some(port) = self.ports.get(to) else {
            return false;
        };
        if !self.reach.has(self.macs, to, self.now) {
            return false;
        }
        // From one host to another and no further; and each host's gateway speaks to its own.
        let is_remote = |p: &Port| p.remote.is_some();
        let beyond = || self.ports.get(self.from.port).is_none_or(is_remote);
        if port.remote.is_some() && beyond() {
            return false;
        }
        let (now, packet, vnet, frame) = (self.now, self.packet, self.vnet, self.frame);
        if port.isolated && self.ports.get(self.from.port).is_some_and(|p| p.isolated) {
            return false;
        }
        // What the gateway itself asks is under no rule.
        let lets_in = || {
            let rules = self.rules;
            self.from.port == GATEWAY || rules.lets_in(self.from.vlan, port, packet, frame, now)
        };
        if !egress::fits(frame, packet, vnet, port.mtu) {
            drops.count(DropReason::TooBig);
        } else if !lets_in() {
            drops.count(DropReason::Denied);
        } else if !port.has_room(now, frame, packet, vnet) {
            drops.count(DropReason::RateLimited);
        } else {
            let exit = Exit::new(port, self.from.vlan, packet);
            exit.send(host, vnet, frame, &[]);
        }
        true
    }
}
