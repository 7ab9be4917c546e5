//! Stage 4: What the gateway asks: everybody in turns, an endpoint that comes, and who is left when one leaves; on each
//! VLAN by itself. Of many VLANs some are asked in a turn, and others have theirs in between.

use core::time::Duration;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Asking, GATEWAY, asks_from, number};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::l2::snoop::groups::{Entered, Seat, Want};
use crate::l2::snoop::query::{self, Ask};
use crate::l2::snoop::{Family, Group, INTERVAL, LAST_MEMBER, ROBUSTNESS, Scope, response};
use crate::pipeline::Switch;
use crate::pipeline::vlans::{Exit, Source, Vlan};
use crate::time::Tick;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// VLANs that are asked in a turn.
const TURN: usize = 16;

/// An endpoint that is asked on all of its VLANs.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) port: PortId,
    families: ArrayVec<Family, 2>,
    /// So many of them have been asked.
    asked: usize,
}

impl Switch {
    /// When there is something to ask.
    pub(in crate::pipeline) fn multicast_due(&self) -> Option<Tick> {
        let snooper = self.snooper.as_ref()?;
        if !snooper.unasked.is_empty() || !snooper.greetings.is_empty() {
            return Some(Tick::ZERO);
        }
        let again = snooper.asking.front().map(|a| a.at);
        let asks = snooper.how.querier.is_some() && self.config.icc;
        let general = Some(snooper.general).filter(|&at| asks && at != Tick::NEVER);
        again.into_iter().chain(general).min()
    }

    /// Asks what is to be asked.
    pub(in crate::pipeline) fn multicast_timeout<H: Host>(&mut self, host: &mut H, now: Tick) {
        let Some(snooper) = &mut self.snooper else {
            return;
        };
        let fresh = core::mem::take(&mut snooper.unasked);
        for port in fresh {
            self.meet(now, port);
        }
        self.greet(host);
        while let Some(next) = self.next_asking(now) {
            self.ask(host, next.whom, next.group.family(), Some(next.group));
        }
        if self.config.icc {
            self.ask_all(host, now);
        }
    }

    fn next_asking(&mut self, now: Tick) -> Option<Asking> {
        let snooper = self.snooper.as_mut()?;
        let due = snooper.asking.front().is_some_and(|next| next.at <= now);
        due.then(|| snooper.asking.pop_front()).flatten()
    }

    /// Has an endpoint that has just come asked, by one of the workers. Until it had the time to answer twice it gets
    /// all.
    fn meet(&mut self, now: Tick, port: PortId) {
        let (Some(snooper), Some(of)) = (&mut self.snooper, self.macs.station(port)) else {
            return;
        };
        let Some(vlans) = self.ports.get(port).map(|p| p.segments()) else {
            return;
        };
        let asks = snooper.how.querier.is_some();
        let mut families = ArrayVec::new();
        let life = |family| {
            let vlans = vlans.clone().map(|vlan| Scope::new(number(vlan), family));
            vlans.map(|on| snooper.life(on, now)).max()
        };
        for family in Family::ALL {
            let patience = if asks {
                LAST_MEMBER * ROBUSTNESS
            } else {
                // A router asks everybody in its own time.
                life(family).unwrap_or(INTERVAL)
            };
            let (groups, until) = (&snooper.how.groups, now + patience);
            match groups.enter(Want::Unasked(family), Seat::own(of), now, until) {
                Entered::New if asks => families.push(family),
                Entered::New | Entered::Known => {}
                Entered::Full => groups.overflow(until),
            }
        }
        if !families.is_empty() {
            snooper.greetings.push_back(Greeting {
                port,
                families,
                asked: 0,
            });
        }
    }

    /// Asks endpoints that have just come, on so many VLANs as are one turn.
    fn greet<H: Host>(&mut self, host: &mut H) {
        let mut left = TURN;
        while left > 0
            && let Some(snooper) = &mut self.snooper
            && let Some(mut greeting) = snooper.greetings.pop_front()
        {
            let Some(port) = self.ports.get(greeting.port) else {
                continue;
            };
            let vlans = port.segments().skip(greeting.asked).take(left);
            let vlans: ArrayVec<Option<Vlan>, TURN> = vlans.collect();
            for &vlan in &vlans {
                let whom = Source {
                    port: greeting.port,
                    vlan,
                };
                for &family in &greeting.families {
                    self.ask(host, whom, family, None);
                }
            }
            greeting.asked += vlans.len();
            if vlans.len() == left
                && let Some(snooper) = &mut self.snooper
            {
                snooper.greetings.push_front(greeting);
            }
            left -= vlans.len();
        }
    }

    /// Asks one endpoint on one of its VLANs, about a group or all. It is asked alone, so it is asked to be quick.
    pub(super) fn ask<H: Host>(
        &mut self,
        host: &mut H,
        whom: Source,
        family: Family,
        group: Option<Group>,
    ) {
        if !self.write_query(Scope::new(number(whom.vlan), family), group, LAST_MEMBER) {
            return;
        }
        let port = self.ports.get(whom.port).filter(|p| p.is_on(whom.vlan));
        if let (Some(port), Ok(packet)) = (port, Packet::parse(&self.out)) {
            let exit = Exit::new(port, whom.vlan, &packet);
            exit.send(host, &VnetHdr::default(), &self.out, &[]);
        }
    }

    /// Sends the general queries that are due.
    fn ask_all<H: Host>(&mut self, host: &mut H, now: Tick) {
        let Some(snooper) = &mut self.snooper else {
            return;
        };
        let Some(interval) = snooper.how.querier.filter(|_| snooper.general <= now) else {
            return;
        };
        let groups = Arc::clone(&snooper.how.groups);
        // While floods are under way there is less room for more of them.
        let most = if self.floods.is_empty() { TURN } else { 1 };
        let mut due: ArrayVec<(Option<Vlan>, Scope), TURN> = ArrayVec::new();
        let mut next = Tick::NEVER;
        let vlans = self.ports.segments();
        let both = vlans.flat_map(|vlan| Family::ALL.map(|f| (vlan, Scope::new(number(vlan), f))));
        for (vlan, on) in both {
            if asks_from(&self.config.gateway, on).is_none() {
                continue;
            }
            if groups.due(on) <= now && due.len() < most && groups.take_query(on, now, interval) {
                due.push((vlan, on));
            }
            next = next.min(groups.due(on));
        }
        snooper.general = next;
        for (vlan, on) in due {
            if self.write_query(on, None, response(interval)) {
                self.send_to_all(host, now, vlan);
            }
        }
    }

    /// Sends what is in `out` to everybody on a VLAN.
    fn send_to_all<H: Host>(&mut self, host: &mut H, now: Tick, vlan: Option<Vlan>) {
        let frame = core::mem::take(&mut self.out);
        if let Ok(packet) = Packet::parse(&frame) {
            let from = Source {
                port: GATEWAY,
                vlan,
            };
            // In a storm the next one must do.
            let _ = self.flood(host, now, from, &packet, &VnetHdr::default(), &frame);
        }
        self.out = frame;
    }

    /// Writes a query to `out`. False if the gateway has no address to ask from.
    fn write_query(&mut self, on: Scope, group: Option<Group>, response: Duration) -> bool {
        let (Some(from), Some(snooper)) = (asks_from(&self.config.gateway, on), &self.snooper)
        else {
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
