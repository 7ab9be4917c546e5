//! Stage 3: What endpoints say of groups: their reports and leaves, and the queries of routers among them.

use super::{Joins, asks_from, number};
use crate::flow::host::Host;
use crate::l2::snoop::groups::{Other, Seat, Want};
use crate::l2::snoop::message::{self, Message, Query, Report, Wish};
use crate::l2::snoop::{Family, Group, INTERVAL, Scope, membership, presence};
use crate::pipeline::vlans::Source;
use crate::pipeline::{Port, Remote, Switch};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::{Kind, Packet};
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    /// Hears what a frame says of groups. True if it is for routers only, and has reached them.
    /// Errors: those of the message; `GroupLimit` where one of its groups is too many.
    pub(in crate::pipeline) fn snoop<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        from: Source,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<bool, DropReason> {
        if self.snooper.is_none() {
            return Ok(false);
        }
        let Some(said) = message::parse(packet, frame)? else {
            return Ok(false);
        };
        let vlan = number(from.vlan);
        let seat = self.macs.station(from.port).map(|of| Seat { of, vlan });
        match (said, seat) {
            (Message::Query(query), Some(seat)) => {
                self.hear_query(now, from, seat, packet, &query);
                Ok(false)
            }
            (Message::Report(report), Some(seat)) => {
                let family = Family::of(match packet.kind {
                    Kind::Ip(ip) => ip.dst,
                    Kind::Arp | Kind::Other(_) => return Ok(false),
                });
                let heard = self.hear_report(host, now, (from, seat), report);
                let on = Scope::new(vlan, family);
                self.tell_routers(host, now, on, from, (packet, frame));
                heard.map(|()| true)
            }
            (_, None) => Ok(false),
        }
    }

    fn hear_report<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        (from, seat): (Source, Seat),
        report: Report<'_>,
    ) -> Result<(), DropReason> {
        let mut result = Ok(());
        let remote = self.ports.get(from.port).and_then(|p| p.remote);
        if remote == Some(Remote::Announced) {
            // It has said what it wants by itself.
            return Ok(());
        }
        for (address, wish) in report {
            let (Some(group), Some(snooper)) = (Group::of(address), &mut self.snooper) else {
                continue;
            };
            match wish {
                Wish::Join => match snooper.join(group, seat, now) {
                    Joins::Comes => host.groups_changed(),
                    Joins::Stays => {}
                    // Who has many stations behind it gets all.
                    Joins::TooMany if remote.is_some() => snooper.give_all(group, seat, now),
                    Joins::TooMany => result = Err(DropReason::GroupLimit),
                },
                Wish::Leave if snooper.leave(group, from, seat, now) => {
                    host.groups_changed();
                    self.ask(host, from, group.family(), Some(group));
                }
                Wish::Leave => {}
            }
        }
        result
    }

    /// Takes note of another querier: where its address is the lower one, or the gateway has none, it asks in the
    /// gateway's place. Source: RFC 3376 section 6.6.2, RFC 3810 section 7.6.2; RFC 4541 section 2.1.1.
    fn hear_query(&mut self, now: Tick, from: Source, seat: Seat, packet: &Packet, query: &Query) {
        let Kind::Ip(ip) = packet.kind else {
            return;
        };
        let trusted = |p: &Port| p.guard_of(packet).is_none_or(|g| g.trusts_routers());
        if !self.ports.get(from.port).is_some_and(trusted) {
            return;
        }
        // A switch that asks in nobody's name is no router.
        let (Some(snooper), false) = (&mut self.snooper, ip.src.is_unspecified()) else {
            return;
        };
        let (groups, family) = (&snooper.how.groups, Family::of(ip.src));
        let on = Scope::new(seat.vlan, family);
        let interval = query.interval.unwrap_or(INTERVAL);
        let present = presence(query.robustness, interval, query.response);
        groups.enter(Want::Router(family), seat, now, now + present);
        let gateway = &self.config.gateway;
        let asks = snooper.how.querier.and_then(|_| asks_from(gateway, on));
        if asks.is_some_and(|own| !own.is_unspecified() && own <= ip.src) {
            return;
        }
        match Group::of(query.group) {
            None => {
                let life = membership(query.robustness, interval, query.response);
                let other = Other {
                    address: ip.src,
                    behind: seat.of,
                    until: now + present,
                };
                groups.yield_to(on, other, life);
                snooper.general = Tick::ZERO;
            }
            Some(group) => {
                let until = now + query.response * query.robustness;
                for port in self.ports.on(from.vlan) {
                    if let Some(of) = self.macs.station(port.id) {
                        let seat = Seat { of, ..seat };
                        groups.lower(Want::Group(group), seat, now, until);
                    }
                }
            }
        }
    }

    fn tell_routers<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        on: Scope,
        from: Source,
        (packet, frame): (&Packet, &[u8]),
    ) {
        let Some(snooper) = &self.snooper else { return };
        let here = snooper.how.groups.has_routers(on, now);
        if self.config.icc && (here || self.wanted.has_routers(on.family)) {
            // In a storm the router hears the next report.
            let _ = self.flood(host, now, from, packet, &VnetHdr::default(), frame);
        }
    }
}
