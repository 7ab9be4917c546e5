//! Stage 3: What one endpoint has joined, so much and no more: a few groups on each of its VLANs, and a share of the
//! table on all of them.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::l2::snoop::Group;
use crate::time::Tick;

/// Groups that one endpoint may join on a VLAN.
pub(in crate::pipeline) const GROUPS: usize = 64;
/// Groups that one endpoint may join on all of its VLANs: as many as sixteen endpoints of one.
pub(in crate::pipeline) const MOST: usize = 16 * GROUPS;
/// Between two looks for what has ended, which cost a look-up each.
const TIDY: Duration = Duration::from_secs(1);

/// What one endpoint has joined, ended memberships among it.
#[derive(Debug, Default)]
pub(super) struct Joined {
    vlans: BTreeMap<u16, Vec<Group>>,
    count: usize,
    tidy: Tick,
}

impl Joined {
    /// Notes a group; `holds` tells which of those that were noted before still count. False if it is too many.
    pub(super) fn note(
        &mut self,
        vlan: u16,
        group: Group,
        now: Tick,
        holds: impl Fn(u16, Group) -> bool,
    ) -> bool {
        let known = self.vlans.get(&vlan);
        if known.is_some_and(|list| list.contains(&group)) {
            return true;
        }
        if self.is_full(vlan) && self.tidy <= now {
            self.tidy = now + TIDY;
            self.vlans.retain(|&vlan, list| {
                list.retain(|&group| holds(vlan, group));
                !list.is_empty()
            });
            self.count = self.vlans.values().map(Vec::len).sum();
        }
        if self.is_full(vlan) {
            return false;
        }
        self.vlans.entry(vlan).or_default().push(group);
        self.count += 1;
        true
    }

    fn is_full(&self, vlan: u16) -> bool {
        let of_vlan = self.vlans.get(&vlan).map_or(0, Vec::len);
        of_vlan >= GROUPS || self.count >= MOST
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn group(n: u16) -> Group {
        let [a, b] = n.to_be_bytes();
        Group::of(IpAddr::from([239, 1, a, b])).unwrap()
    }

    #[test]
    fn so_many_on_a_vlan_and_so_many_on_all() {
        let (mut joined, now) = (Joined::default(), Tick::from_millis(1));
        let mut taken = 0;
        for vlan in 1..100 {
            for n in 0..200 {
                taken += usize::from(joined.note(vlan, group(n), now, |_, _| true));
            }
            assert_eq!(taken, MOST.min(GROUPS * usize::from(vlan)));
        }
        assert!(joined.note(1, group(3), now, |_, _| true), "known already");
        let later = now + TIDY;
        assert!(
            !joined.note(99, group(1), now, |_, _| false),
            "looked lately"
        );
        assert!(joined.note(99, group(1), later, |vlan, _| vlan < 3));
        assert_eq!(joined.count, 2 * GROUPS + 1);
        assert!(!joined.note(1, group(900), later, |_, _| true));
    }
}
