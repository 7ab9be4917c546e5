//! Stage 3 and 7: Multicast goes where it is wanted: reports are heard, queries sent, and floods of a group narrowed.
//!
//! Until it had the time to answer the first query an endpoint gets all. Where nobody asks, neither the gateway nor a
//! router that may, nothing is known for sure and everything is flooded; so it is on VLANs, where the gateway is not.
//! Source: RFC 4541 sections 2.1 and 3.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use ahash::RandomState;

use super::vlans::Source;
use super::{Config, Switch};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::l2::snoop::groups::{Entered, Groups, Want};
use crate::l2::snoop::message::{self, Message, Query, Report, Wish};
use crate::l2::snoop::query::{self, Ask};
use crate::l2::snoop::{
    Family, Group, INTERVAL, LAST_MEMBER, PROTO_IGMP, ROBUSTNESS, membership, presence, response,
};
use crate::l2::table::{MacTable, Station};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::{Kind, PROTO_ICMPV6, Packet};
use crate::wire::vnet_hdr::VnetHdr;

/// In place of the number of an endpoint: the gateway.
pub(super) const GATEWAY: PortId = PortId(u32::MAX);
/// Groups that one endpoint may join.
pub(super) const GROUPS: usize = 64;
/// Groups that are asked about a second time; about more, the one query must do.
const ASKING: usize = 256;

/// How a network treats multicast.
#[derive(Debug, Clone)]
pub struct Snooping {
    /// Its memberships, one table for all workers.
    pub groups: Arc<Groups>,
    /// The gateway asks so often; never, where there is none.
    pub querier: Option<Duration>,
}

/// What a worker knows of a network's groups beside the table.
#[derive(Debug)]
pub(super) struct Snooper {
    how: Snooping,
    /// What its own endpoints have joined, to keep them to their limit.
    joined: HashMap<PortId, Vec<Group>, RandomState>,
    /// Endpoints that are to be asked.
    unasked: Vec<PortId>,
    /// Groups that a station has left, to be asked about again, the next first.
    asking: VecDeque<Asking>,
}

#[derive(Debug)]
struct Asking {
    at: Tick,
    port: PortId,
    group: Group,
}

/// Who gets a frame that is for more than one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach<'a> {
    /// Everybody.
    All,
    /// Members of a group, and routers.
    Group(&'a Groups, Group),
    /// Routers.
    Routers(&'a Groups, Family),
}

impl<'a> Reach<'a> {
    /// Who gets a frame. What only the link may see is for everybody, and queries are; reports are for routers.
    #[inline]
    pub(super) fn of(
        snooper: Option<&'a Snooper>,
        config: &Config,
        now: Tick,
        packet: &Packet,
        frame: &[u8],
    ) -> Self {
        let (Some(snooper), Kind::Ip(ip)) = (snooper, &packet.kind) else {
            return Self::All;
        };
        let groups = &*snooper.how.groups;
        let first = frame.get(ip.l4).filter(|_| ip.frag.is_none());
        match (ip.proto, first) {
            (PROTO_IGMP, Some(0x12 | 0x16 | 0x17 | 0x22)) => Self::Routers(groups, Family::V4),
            (PROTO_ICMPV6, Some(131 | 132 | 143)) => Self::Routers(groups, Family::V6),
            (PROTO_IGMP, _) | (PROTO_ICMPV6, Some(130)) => Self::All,
            _ => match Group::of(ip.dst) {
                Some(group) if snooper.is_active(config, group.family(), now) => {
                    Self::Group(groups, group)
                }
                _ => Self::All,
            },
        }
    }

    pub(super) const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// True if it is for an endpoint.
    #[inline]
    pub(super) fn has(&self, macs: &MacTable, to: PortId, now: Tick) -> bool {
        match *self {
            Self::All => true,
            Self::Group(groups, group) => {
                let station = macs.station(to);
                station.is_none_or(|station| groups.wants(group, station, now))
            }
            Self::Routers(groups, family) => {
                let is_router = |of| groups.until(Want::Router(family), of, now).is_some();
                macs.station(to).is_some_and(is_router)
            }
        }
    }
}

impl Snooper {
    /// True if somebody asks, so that who was not heard wants nothing.
    fn is_active(&self, config: &Config, family: Family, now: Tick) -> bool {
        let groups = &self.how.groups;
        if !self.unasked.is_empty() {
            return false;
        }
        let asks = self.how.querier.is_some() && own(config, family).is_some();
        (asks || groups.is_other_there(family, now)) && !groups.is_flooded(now)
    }

    /// How long a report of now holds.
    fn life(&self, family: Family, now: Tick) -> Duration {
        let groups = &self.how.groups;
        if groups.is_other_there(family, now) {
            return groups.life(family);
        }
        let interval = self.how.querier.unwrap_or(INTERVAL);
        membership(ROBUSTNESS, interval, response(interval))
    }

    /// Notes a report. False where the endpoint has joined all that it may.
    fn join(&mut self, group: Group, of: Station, now: Tick) -> bool {
        let groups = &self.how.groups;
        let until = now + self.life(group.family(), now);
        let joined = self.joined.entry(of.port).or_default();
        if !joined.contains(&group) {
            if joined.len() >= GROUPS {
                joined.retain(|&g| groups.until(Want::Group(g), of, now).is_some());
            }
            if joined.len() >= GROUPS {
                return false;
            }
            joined.push(group);
        }
        if groups.enter(Want::Group(group), of, now, until) == Entered::Full {
            groups.overflow(until);
        }
        true
    }

    /// Notes that a station has left. True if it is to be found out now whether others behind the port remain.
    fn leave(&mut self, group: Group, of: Station, now: Tick) -> bool {
        let groups = &self.how.groups;
        let family = group.family();
        if self.how.querier.is_none() || groups.is_other_there(family, now) {
            // Whoever asks asks about it, and is heard doing so.
            return false;
        }
        let end = now + LAST_MEMBER * ROBUSTNESS;
        let held = groups.until(Want::Group(group), of, now);
        if held.is_none_or(|held| held <= end) {
            return false;
        }
        groups.lower(Want::Group(group), of, now, end);
        if self.asking.len() < ASKING {
            self.asking.push_back(Asking {
                at: now + LAST_MEMBER,
                port: of.port,
                group,
            });
        }
        true
    }
}

/// The gateway's address as a querier.
fn own(config: &Config, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => config.gateway.v4.map(|v| IpAddr::V4(v.0)),
        Family::V6 => config
            .gateway
            .v6
            .map(|_| IpAddr::V6(config.gateway.link_local())),
    }
}

impl Switch {
    /// Sets how the network treats multicast; `None` floods it. Memberships stay in the table.
    pub fn set_snooping(&mut self, how: Option<Snooping>) {
        let [a, b, c, d] = self.config.seeds;
        self.snooper = how.map(|how| Snooper {
            how,
            joined: HashMap::with_hasher(RandomState::with_seeds(a, b, c, d)),
            unasked: self.ports.own().map(|p| p.id).collect(),
            asking: VecDeque::new(),
        });
    }

    pub(super) fn ask_later(&mut self, port: PortId) {
        if let Some(snooper) = &mut self.snooper {
            snooper.unasked.push(port);
        }
    }

    pub(super) fn forget_groups(&mut self, port: PortId) {
        if let Some(snooper) = &mut self.snooper {
            snooper.joined.remove(&port);
            snooper.unasked.retain(|&p| p != port);
            snooper.asking.retain(|a| a.port != port);
        }
    }

    /// Hears what a frame says of groups. True if it is for routers only, and has reached them.
    /// Errors: those of the message; `GroupLimit` where one of its groups is too many.
    pub(super) fn snoop<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        from: PortId,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<bool, DropReason> {
        if self.snooper.is_none() {
            return Ok(false);
        }
        let Some(said) = message::parse(packet, frame)? else {
            return Ok(false);
        };
        match (said, self.macs.station(from)) {
            (Message::Query(query), Some(of)) => {
                self.hear_query(now, of, packet, &query);
                Ok(false)
            }
            (Message::Report(report), Some(of)) => {
                let family = Family::of(match packet.kind {
                    Kind::Ip(ip) => ip.dst,
                    Kind::Arp | Kind::Other(_) => return Ok(false),
                });
                let heard = self.hear_report(host, now, of, report);
                self.tell_routers(host, now, family, from, (packet, frame));
                heard.map(|()| true)
            }
            (_, None) => Ok(false),
        }
    }

    fn hear_report<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        of: Station,
        report: Report<'_>,
    ) -> Result<(), DropReason> {
        let mut result = Ok(());
        for (address, wish) in report {
            let (Some(group), Some(snooper)) = (Group::of(address), &mut self.snooper) else {
                continue;
            };
            match wish {
                Wish::Join if !snooper.join(group, of, now) => result = Err(DropReason::GroupLimit),
                Wish::Join => {}
                Wish::Leave if snooper.leave(group, of, now) => {
                    self.ask(host, of.port, group.family(), Some(group));
                }
                Wish::Leave => {}
            }
        }
        result
    }

    /// Takes note of another querier: where its address is the lower one, it asks in the gateway's place.
    /// Source: RFC 3376 section 6.6.2, RFC 3810 section 7.6.2; RFC 4541 section 2.1.1.
    fn hear_query(&mut self, now: Tick, of: Station, packet: &Packet, query: &Query) {
        let Kind::Ip(ip) = packet.kind else {
            return;
        };
        let trusted = |p: &super::Port| p.guard.as_ref().is_none_or(|g| g.trusts_routers());
        if !self.ports.get(of.port).is_some_and(trusted) {
            return;
        }
        // A switch that asks in nobody's name is no router.
        let (Some(snooper), false) = (&self.snooper, ip.src.is_unspecified()) else {
            return;
        };
        let (groups, family) = (&snooper.how.groups, Family::of(ip.src));
        let interval = query.interval.unwrap_or(INTERVAL);
        let present = presence(query.robustness, interval, query.response);
        groups.enter(Want::Router(family), of, now, now + present);
        let asks = snooper.how.querier.and_then(|_| own(&self.config, family));
        if asks.is_some_and(|own| own <= ip.src) {
            return;
        }
        match Group::of(query.group) {
            None => {
                let life = membership(query.robustness, interval, query.response);
                groups.yield_to(family, now + present, life);
            }
            Some(group) => {
                let until = now + query.response * query.robustness;
                for port in self.ports.own() {
                    if let Some(of) = self.macs.station(port.id) {
                        groups.lower(Want::Group(group), of, now, until);
                    }
                }
            }
        }
    }

    fn tell_routers<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        family: Family,
        from: PortId,
        (packet, frame): (&Packet, &[u8]),
    ) {
        let Some(snooper) = &self.snooper else { return };
        if self.config.icc && snooper.how.groups.has_routers(family, now) {
            // In a storm the router hears the next report.
            let _ = self.flood(
                host,
                now,
                Source::own(from),
                packet,
                &VnetHdr::default(),
                frame,
            );
        }
    }

    /// When there is something to ask.
    pub(super) fn multicast_due(&self) -> Option<Tick> {
        let snooper = self.snooper.as_ref()?;
        if !snooper.unasked.is_empty() {
            return Some(Tick::ZERO);
        }
        let again = snooper.asking.front().map(|a| a.at);
        let is_asked = |family: &Family| own(&self.config, *family).is_some();
        let asks = snooper.how.querier.is_some() && self.config.icc && self.ports.first().is_some();
        let families = Family::ALL.into_iter().filter(|f| asks && is_asked(f));
        let general = families.map(|family| snooper.how.groups.due(family)).min();
        again.into_iter().chain(general).min()
    }

    /// Asks what is to be asked.
    pub(super) fn multicast_timeout<H: Host>(&mut self, host: &mut H, now: Tick) {
        let Some(snooper) = &mut self.snooper else {
            return;
        };
        let fresh = core::mem::take(&mut snooper.unasked);
        for port in fresh {
            self.ask_first(host, now, port);
        }
        while let Some(next) = self.next_asking(now) {
            self.ask(host, next.port, next.group.family(), Some(next.group));
        }
        if self.config.icc && self.ports.first().is_some() {
            for family in Family::ALL {
                self.ask_all(host, now, family);
            }
        }
    }

    fn next_asking(&mut self, now: Tick) -> Option<Asking> {
        let snooper = self.snooper.as_mut()?;
        let due = snooper.asking.front().is_some_and(|next| next.at <= now);
        due.then(|| snooper.asking.pop_front()).flatten()
    }

    /// Asks an endpoint that has just come, by one of the workers. Until it had the time to answer twice it gets all.
    fn ask_first<H: Host>(&mut self, host: &mut H, now: Tick, port: PortId) {
        let (Some(snooper), Some(of)) = (&self.snooper, self.macs.station(port)) else {
            return;
        };
        let asks = snooper.how.querier.is_some();
        let groups = Arc::clone(&snooper.how.groups);
        for family in Family::ALL {
            let patience = match &self.snooper {
                // A router asks everybody in its own time.
                Some(snooper) if !asks => snooper.life(family, now),
                _ => LAST_MEMBER * ROBUSTNESS,
            };
            let until = now + patience;
            match groups.enter(Want::Unasked(family), of, now, until) {
                Entered::New if asks => self.ask(host, port, family, None),
                Entered::New | Entered::Known => {}
                Entered::Full => groups.overflow(until),
            }
        }
    }

    /// Asks one endpoint, about a group or all. It is asked alone, so it is asked to be quick.
    fn ask<H: Host>(&mut self, host: &mut H, to: PortId, family: Family, group: Option<Group>) {
        if self.write_query(family, group, LAST_MEMBER) {
            host.tx(to, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
    }

    fn ask_all<H: Host>(&mut self, host: &mut H, now: Tick, family: Family) {
        let Some(snooper) = &self.snooper else { return };
        let Some(interval) = snooper.how.querier else {
            return;
        };
        let groups = &snooper.how.groups;
        if own(&self.config, family).is_none() || !groups.take_query(family, now, interval) {
            return;
        }
        if self.write_query(family, None, response(interval)) {
            let frame = core::mem::take(&mut self.out);
            if let Ok(packet) = Packet::parse(&frame) {
                // In a storm the next one must do.
                let _ = self.flood(
                    host,
                    now,
                    Source::own(GATEWAY),
                    &packet,
                    &VnetHdr::default(),
                    &frame,
                );
            }
            self.out = frame;
        }
    }

    /// Writes a query to `out`. False if the gateway has no address to ask from.
    fn write_query(&mut self, family: Family, group: Option<Group>, response: Duration) -> bool {
        let (Some(from), Some(snooper)) = (own(&self.config, family), &self.snooper) else {
            return false;
        };
        let ask = Ask {
            group,
            response,
            interval: snooper.how.querier.unwrap_or(INTERVAL),
        };
        query::write(self.config.gateway.mac, from, &ask, &mut self.out);
        true
    }
}
