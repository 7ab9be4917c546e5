//! Stage 3 and 7: Multicast between hosts: what this one wants of others, and what they want of it.
//!
//! A host that seals says which groups its endpoints have joined, and gets no others; until it has, and where it has a
//! router, it gets all. A node that says nothing of that kind is known by the reports that come from it, as a station
//! is. The gateway does not ask it, for each host's gateway would: so it gets all, unless a router asks everybody.

use core::iter;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Known, Snooper, number};
use crate::addr::PortId;
use crate::l2::snoop::groups::{Groups, Seat};
use crate::l2::snoop::{Family, Group, Scope, Wants};
use crate::l2::table::Station;
use crate::pipeline::{Port, Remote, Switch};
use crate::time::Tick;

/// What other hosts want, by the ports that lead there; of others nothing is known.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Wanted(BTreeMap<PortId, Arc<Wants>>);

impl Wanted {
    /// True if a host has said that it wants all of a family, as one with a router does.
    pub(super) fn has_router(&self, port: PortId, family: Family) -> bool {
        self.0.get(&port).is_some_and(|w| w.is_all(family))
    }

    /// True if there is such a host.
    pub(super) fn has_routers(&self, family: Family) -> bool {
        self.0.values().any(|w| w.is_all(family))
    }
}

impl Known<'_> {
    /// Until when another host gets a group, as far as is known.
    pub(super) fn remote_until(
        &self,
        groups: &Groups,
        group: Group,
        (port, of): (&Port, Option<Station>),
        now: Tick,
    ) -> Option<Tick> {
        let vlan = number(self.vlan);
        if port.remote == Some(Remote::Announced) {
            let wants = self.wanted.0.get(&port.id);
            let has = wants.is_none_or(|w| w.has(vlan, group));
            return has.then_some(Tick::NEVER);
        }
        match of {
            Some(of) if groups.is_other_there(Scope::new(vlan, group.family()), now) => {
                groups.wanted_until(group, Seat { of, vlan }, now)
            }
            Some(_) | None => Some(Tick::NEVER),
        }
    }
}

impl Snooper {
    /// True if all that is wanted of a family here is in the table: who has just come is not counted.
    fn is_settled(&self, switch: &Switch, family: Family, now: Tick) -> bool {
        let scopes = switch
            .ports
            .segments()
            .map(|v| Scope::new(number(v), family));
        let mut own = iter::once(Scope::new(0, family)).chain(scopes);
        own.all(|on| self.is_asked(&switch.config, on, now))
    }
}

impl Switch {
    /// What of multicast other hosts are to send here, and when that is to be looked at again. `before` is what this
    /// gave last: an endpoint that has just come, and may have joined before it did, counts only where all was not
    /// known then either.
    #[must_use]
    pub fn wants(&self, now: Tick, before: &Wants) -> (Wants, Tick) {
        let Some(snooper) = &self.snooper else {
            return (Wants::default(), Tick::NEVER);
        };
        let groups = &*snooper.how.groups;
        let mut again = Tick::NEVER;
        let is_here =
            |seat: &Seat| seat.of.port.remote_index().is_none() && self.macs.is_current(seat.of);
        let only = Family::ALL.map(|family| {
            let asked = groups.unasked_until(family);
            if before.is_all(family) && (now < asked || !snooper.unasked.is_empty()) {
                again = again.min(asked.max(now));
                return false;
            }
            let routers = groups.routers(now);
            let router = routers.filter(|(f, seat, _)| *f == family && is_here(seat));
            if let Some(until) = router.map(|(_, _, until)| until).max() {
                again = again.min(until);
                return false;
            }
            snooper.is_settled(self, family, now)
        });
        let members = groups.iter(now).filter(|(_, seat, _)| is_here(seat));
        let members = members.map(|(group, seat, until)| {
            again = again.min(until);
            (seat.vlan, group)
        });
        let wants = Wants::new(only, members);
        (wants, again)
    }

    /// Sets what another host wants of multicast; `None` while it has not said, when it gets all.
    pub fn set_wants(&mut self, port: PortId, wants: Option<Arc<Wants>>) {
        let before = self.wanted.0.remove(&port);
        let old = before.as_deref();
        if let Some(snooper) = &mut self.snooper {
            match old.zip(wants.as_deref()).and_then(|(a, b)| a.changes(b)) {
                Some(changes) => changes.for_each(|group| snooper.how.groups.touch(group)),
                None => snooper.lists.change(),
            }
        }
        self.wanted.0.extend(wants.map(|wants| (port, wants)));
    }

    /// What other hosts have said that they want of multicast, by the ports that lead there. Of others nothing is known,
    /// and they get all.
    pub fn wanted(&self) -> impl Iterator<Item = (PortId, &Wants)> {
        self.wanted.0.iter().map(|(&port, wants)| (port, &**wants))
    }

    /// Every endpoint of this host.
    pub(super) fn own_ports(&self) -> impl Iterator<Item = PortId> {
        let own = self.ports.iter().filter(|p| p.remote.is_none());
        own.map(|p| p.id)
    }
}
