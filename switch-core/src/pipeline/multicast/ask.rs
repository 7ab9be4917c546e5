//! Stage 4: What the gateway asks: everybody in turns, an endpoint that comes, and who is left when one leaves.

use core::time::Duration;
use std::io::IoSlice;
use std::sync::Arc;

use super::{Asking, GATEWAY, own};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::l2::snoop::groups::{Entered, Want};
use crate::l2::snoop::query::{self, Ask};
use crate::l2::snoop::{Family, Group, INTERVAL, LAST_MEMBER, ROBUSTNESS, response};
use crate::pipeline::Switch;
use crate::pipeline::vlans::Source;
use crate::time::Tick;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    /// When there is something to ask.
    pub(in crate::pipeline) fn multicast_due(&self) -> Option<Tick> {
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
    pub(in crate::pipeline) fn multicast_timeout<H: Host>(&mut self, host: &mut H, now: Tick) {
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
    pub(super) fn ask<H: Host>(
        &mut self,
        host: &mut H,
        to: PortId,
        family: Family,
        group: Option<Group>,
    ) {
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
