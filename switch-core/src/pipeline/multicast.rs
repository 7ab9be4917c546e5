//! Stage 3 and 7: Multicast goes where it is wanted: reports are heard, queries sent, and floods of a group narrowed.
//!
//! Until it had the time to answer the first query an endpoint gets all. Where nobody asks, neither the gateway nor a
//! router that may, nothing is known for sure and everything is flooded.
//!
//! Each VLAN is a link of its own. The gateway is not there, but asks in nobody's name, as a switch without an address
//! does: any router on the VLAN asks in its place. Source: RFC 4541 sections 2.1 and 3.

mod ask;
mod hear;
mod joined;
mod lists;
mod peers;
#[cfg(test)]
pub(super) mod tests;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use self::ask::Greeting;
use self::joined::Joined;
use self::lists::Lists;
pub(super) use self::peers::Wanted;
use super::ports::Ports;
use super::vlans::{Source, Vlan};
use super::{Config, Switch};
use crate::addr::PortId;
use crate::l2::flood::PortList;
use crate::l2::snoop::groups::{Entered, Groups, Seat, Want};
use crate::l2::snoop::{
    self, Family, Group, INTERVAL, LAST_MEMBER, PROTO_IGMP, ROBUSTNESS, Scope, membership, response,
};
use crate::l2::table::MacTable;
use crate::respond::Gateway;
use crate::time::Tick;
use crate::wire::packet::{Ip, Kind, PROTO_ICMPV6, Packet};

/// In place of the number of an endpoint: the gateway.
pub(super) const GATEWAY: PortId = PortId(u32::MAX);
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
    joined: HashMap<PortId, Joined, RandomState>,
    /// Endpoints that are to be asked.
    unasked: Vec<PortId>,
    /// Those that are being asked, one VLAN after the other.
    greetings: VecDeque<Greeting>,
    /// When the next general query of any VLAN is due, as far as this worker knows.
    general: Tick,
    /// Groups that a station has left, to be asked about again, the next first.
    asking: VecDeque<Asking>,
    /// Who is a member, by group.
    lists: Lists,
}

/// What is known of a network's endpoints, and the VLAN that is asked about.
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) ports: &'a Ports,
    pub(super) macs: &'a MacTable,
    /// What other hosts want.
    pub(super) wanted: &'a Wanted,
    pub(super) vlan: Option<Vlan>,
}

#[derive(Debug)]
struct Asking {
    at: Tick,
    whom: Source,
    group: Group,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joins {
    /// It is a member now.
    Comes,
    /// It was one before; or there is no room to keep it.
    Stays,
    /// It has joined all that it may.
    TooMany,
}

/// What a packet for more than one is.
enum Content {
    /// Who wants which group, for routers.
    Report(Family),
    /// For those who have joined this one.
    Data(Group),
    /// For everybody: queries, and what only the link may see.
    Other,
}

impl Content {
    #[inline]
    fn of(ip: &Ip, frame: &[u8]) -> Self {
        let first = frame.get(ip.l4).filter(|_| ip.frag.is_none());
        match (ip.proto, first) {
            (PROTO_IGMP, Some(0x12 | 0x16 | 0x17 | 0x22)) => Self::Report(Family::V4),
            (PROTO_ICMPV6, Some(131 | 132 | 143)) => Self::Report(Family::V6),
            (PROTO_IGMP, _) | (PROTO_ICMPV6, Some(130)) => Self::Other,
            _ => Group::of(ip.dst).map_or(Self::Other, Self::Data),
        }
    }
}

/// True for what goes to members of a group alone, where these are known.
pub(super) fn is_data(packet: &Packet, frame: &[u8]) -> bool {
    match &packet.kind {
        Kind::Ip(ip) => matches!(Content::of(ip, frame), Content::Data(_)),
        Kind::Arp | Kind::Other(_) => false,
    }
}

/// Who gets a frame that is for more than one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach<'a> {
    /// Everybody.
    All,
    /// Members of a group, and routers.
    Members(&'a PortList),
    /// Routers, and hosts that want all.
    Routers(&'a Groups, &'a Wanted, Scope),
}

impl<'a> Reach<'a> {
    /// Who gets a frame. What only the link may see is for everybody, and queries are; reports are for routers.
    #[inline]
    pub(super) fn of(
        snooper: Option<&'a mut Snooper>,
        known: &Known<'a>,
        now: Tick,
        packet: &Packet,
        frame: &[u8],
    ) -> Self {
        let (Some(snooper), Kind::Ip(ip)) = (snooper, &packet.kind) else {
            return Self::All;
        };
        let on = |family| Scope::new(number(known.vlan), family);
        match Content::of(ip, frame) {
            Content::Report(family) => Self::Routers(&snooper.how.groups, known.wanted, on(family)),
            Content::Data(group) if snooper.is_active(known.config, on(group.family()), now) => {
                let groups = &*snooper.how.groups;
                let members = snooper.lists.members(groups, group, known, now);
                members.map_or(Self::All, Self::Members)
            }
            Content::Data(_) | Content::Other => Self::All,
        }
    }

    /// Those among whom they are, where that is known.
    pub(super) const fn members(&self) -> Option<&'a PortList> {
        match *self {
            Self::Members(list) => Some(list),
            Self::All | Self::Routers(..) => None,
        }
    }

    pub(super) const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// True if it is for an endpoint of those.
    #[inline]
    pub(super) fn has(&self, macs: &MacTable, to: PortId, now: Tick) -> bool {
        match *self {
            Self::All | Self::Members(_) => true,
            Self::Routers(groups, wanted, Scope { vlan, family }) => {
                let router = |of| {
                    let seat = Seat { of, vlan };
                    groups.until(Want::Router(family), seat, now).is_some()
                };
                wanted.has_router(to, family) || macs.station(to).is_some_and(router)
            }
        }
    }
}

impl Snooper {
    /// True if somebody asks, so that who was not heard wants nothing.
    fn is_active(&self, config: &Config, on: Scope, now: Tick) -> bool {
        self.unasked.is_empty() && self.is_asked(config, on, now)
    }

    /// True if somebody asks, whoever may have come just now.
    fn is_asked(&self, config: &Config, on: Scope, now: Tick) -> bool {
        let groups = &self.how.groups;
        let asks = self.how.querier.is_some() && asks_from(&config.gateway, on).is_some();
        (asks || groups.is_other_there(on, now)) && !groups.is_flooded(now)
    }

    /// How long a report of now holds.
    fn life(&self, on: Scope, now: Tick) -> Duration {
        let groups = &self.how.groups;
        if groups.is_other_there(on, now) {
            return groups.life(on);
        }
        let interval = self.how.querier.unwrap_or(INTERVAL);
        membership(ROBUSTNESS, interval, response(interval))
    }

    /// Notes a report.
    fn join(&mut self, group: Group, seat: Seat, now: Tick) -> Joins {
        let groups = &self.how.groups;
        let until = now + self.life(Scope::new(seat.vlan, group.family()), now);
        let joined = self.joined.entry(seat.of.port).or_default();
        let holds = |vlan: u16, group: Group| {
            let seat = Seat { vlan, ..seat };
            groups.until(Want::Group(group), seat, now).is_some()
        };
        if !joined.note(seat.vlan, group, now, holds) {
            return Joins::TooMany;
        }
        match groups.enter(Want::Group(group), seat, now, until) {
            Entered::New => return Joins::Comes,
            Entered::Known => {}
            Entered::Full => groups.overflow(until),
        }
        Joins::Stays
    }

    /// Has a port get all of a group's family, as long as a report of now holds.
    fn give_all(&mut self, group: Group, seat: Seat, now: Tick) {
        let (groups, family) = (&self.how.groups, group.family());
        let until = now + self.life(Scope::new(seat.vlan, family), now);
        if groups.enter(Want::Router(family), seat, now, until) == Entered::Full {
            groups.overflow(until);
        }
    }

    /// Notes that a station has left. True if it is to be found out now whether others behind the port remain.
    fn leave(&mut self, group: Group, from: Source, seat: Seat, now: Tick) -> bool {
        let groups = &self.how.groups;
        let on = Scope::new(seat.vlan, group.family());
        if self.how.querier.is_none() || groups.is_other_there(on, now) {
            // Whoever asks asks about it, and is heard doing so.
            return false;
        }
        let end = now + LAST_MEMBER * ROBUSTNESS;
        let held = groups.until(Want::Group(group), seat, now);
        if held.is_none_or(|held| held <= end) {
            return false;
        }
        groups.lower(Want::Group(group), seat, now, end);
        if self.asking.len() < ASKING {
            self.asking.push_back(Asking {
                at: now + LAST_MEMBER,
                whom: from,
                group,
            });
        }
        true
    }
}

/// The number of a VLAN in the table of groups.
fn number(vlan: Option<Vlan>) -> u16 {
    vlan.map_or(0, |vlan| vlan.id)
}

/// The address that the gateway asks from; none where it does not.
fn asks_from(gateway: &Gateway, on: Scope) -> Option<IpAddr> {
    let v4 = gateway.v4.map(|(own, _)| own);
    snoop::asks_from(on, gateway.mac, v4, gateway.v6.is_some())
}

impl Switch {
    /// Sets how the network treats multicast; `None` floods it. Memberships stay in the table.
    pub fn set_snooping(&mut self, how: Option<Snooping>) {
        let [a, b, c, d] = self.config.seeds;
        self.snooper = how.map(|how| Snooper {
            how,
            joined: HashMap::with_hasher(RandomState::with_seeds(a, b, c, d)),
            unasked: self.own_ports().collect(),
            greetings: VecDeque::new(),
            general: Tick::ZERO,
            asking: VecDeque::new(),
            lists: Lists::default(),
        });
    }

    /// True for what may be for members of a group alone, so that only who floods it knows what it costs.
    pub(super) fn may_have_members(&self, packet: &Packet, frame: &[u8]) -> bool {
        self.snooper.is_some() && is_data(packet, frame)
    }

    pub(super) fn ask_later(&mut self, port: PortId) {
        if let Some(snooper) = &mut self.snooper {
            snooper.unasked.push(port);
        }
    }

    /// An endpoint has come, gone or changed.
    pub(super) fn change_groups(&mut self) {
        if let Some(snooper) = &mut self.snooper {
            snooper.lists.change();
            snooper.general = Tick::ZERO;
        }
    }

    pub(super) fn forget_groups(&mut self, port: PortId) {
        if let Some(snooper) = &mut self.snooper {
            snooper.lists.change();
            snooper.joined.remove(&port);
            snooper.unasked.retain(|&p| p != port);
            snooper.greetings.retain(|g| g.port != port);
            snooper.asking.retain(|a| a.whom.port != port);
        }
    }
}
