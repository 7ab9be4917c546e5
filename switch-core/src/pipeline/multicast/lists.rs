//! Stage 7: Members of the groups that were sent to lately, so that a datagram costs its copies and not a look at every
//! endpoint. A list is made anew when the table or the endpoints have changed, when one of its entries ends, and after
//! a second in any case.

use core::time::Duration;

use super::{Known, number};
use crate::l2::flood::PortList;
use crate::l2::snoop::Group;
use crate::l2::snoop::groups::{Groups, Seat, Version};
use crate::time::Tick;

/// Groups that are remembered; a power of two.
const LISTS: usize = 64;
/// How long a list holds at most.
const HOLDS: Duration = Duration::from_secs(1);

/// Who is a member of one group on one VLAN.
#[derive(Debug, Default)]
struct List {
    group: Option<(u16, Group)>,
    /// Of the table, and of the endpoints.
    version: (Version, u64),
    until: Tick,
    members: PortList,
}

/// The lists of one worker.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Each group of a VLAN has one place; empty until there is one.
    places: Vec<List>,
    /// How often the endpoints have changed.
    changes: u64,
}

impl Lists {
    /// An endpoint has come, gone or changed.
    pub(super) fn change(&mut self) {
        self.changes += 1;
    }

    /// Who gets a group on the VLAN that is asked about.
    pub(super) fn members(
        &mut self,
        groups: &Groups,
        group: Group,
        known: &Known<'_>,
        now: Tick,
    ) -> Option<&PortList> {
        if self.places.is_empty() {
            self.places.resize_with(LISTS, List::default);
        }
        // Looked at before the table is: what changes meanwhile makes the list an old one.
        let version = (groups.version(group), self.changes);
        let vlan = number(known.vlan);
        let place = groups.place(group) ^ usize::from(vlan);
        let list = self.places.get_mut(place & (LISTS - 1))?;
        if list.group != Some((vlan, group)) || list.version != version || list.until <= now {
            list.group = Some((vlan, group));
            list.version = version;
            list.until = now + HOLDS;
            list.members.clear();
            for port in known.ports.on(known.vlan) {
                // One that the table does not keep gets all.
                let until = match known.macs.station(port.id) {
                    of if port.remote.is_some() => {
                        known.remote_until(groups, group, (port, of), now)
                    }
                    Some(of) => groups.wanted_until(group, Seat { of, vlan }, now),
                    None => Some(Tick::NEVER),
                };
                if let Some(until) = until {
                    list.until = list.until.min(until);
                    list.members.insert(port.id);
                }
            }
        }
        Some(&list.members)
    }
}
