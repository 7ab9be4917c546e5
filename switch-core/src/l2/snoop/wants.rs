//! Stage 3: What of multicast a host wants from the others: the groups that its endpoints have joined, or all.

use std::collections::BTreeSet;

use super::{Family, Group};

/// What of multicast a host wants from another. Who has said nothing wants all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wants {
    /// Of IPv4 and of IPv6: the groups that are named, and no others.
    only: [bool; 2],
    /// By VLAN, in order, each once; none of a family that all is wanted of.
    groups: Box<[(u16, Group)]>,
}

const fn at(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Wants {
    /// Only these groups of the families for which `only` says so, and all of the other. The VLAN 0 is the network's
    /// own segment. Shape: IPv4 first.
    #[must_use]
    pub fn new(only: [bool; 2], groups: impl IntoIterator<Item = (u16, Group)>) -> Self {
        let groups = groups.into_iter();
        let named = groups.filter(|(_, group)| only.get(at(group.family())) == Some(&true));
        let groups: BTreeSet<(u16, Group)> = named.collect();
        Self {
            only,
            groups: groups.into_iter().collect(),
        }
    }

    /// True if all of a family is wanted.
    #[must_use]
    pub fn is_all(&self, family: Family) -> bool {
        self.only.get(at(family)) != Some(&true)
    }

    /// True if a group is wanted.
    #[must_use]
    pub fn has(&self, vlan: u16, group: Group) -> bool {
        self.is_all(group.family()) || self.groups.binary_search(&(vlan, group)).is_ok()
    }

    /// The groups that are named, in order.
    #[must_use]
    pub fn groups(&self) -> &[(u16, Group)] {
        &self.groups
    }

    /// The same, with all of a family.
    #[must_use]
    pub fn with_all(&self, family: Family) -> Self {
        let mut only = self.only;
        if let Some(only) = only.get_mut(at(family)) {
            *only = false;
        }
        Self::new(only, self.groups.iter().copied())
    }

    /// The groups that one of the two names and the other does not. None where more than that is different.
    #[must_use]
    pub fn changes<'a>(&'a self, other: &'a Self) -> Option<impl Iterator<Item = Group> + 'a> {
        let only = |a: &'a Self, b: &'a Self| {
            let groups = a.groups.iter();
            groups.filter(|g| b.groups.binary_search(g).is_err())
        };
        let differ = only(self, other).chain(only(other, self));
        (self.only == other.only).then(|| differ.map(|&(_, group)| group))
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn group(text: &str) -> Group {
        Group::of(text.parse::<IpAddr>().unwrap()).unwrap()
    }

    #[test]
    fn who_says_nothing_wants_all_and_others_what_they_name() {
        let (a, b, c) = (group("239.1.1.1"), group("239.1.1.2"), group("ff15::1"));
        assert!(Wants::default().has(0, a) && Wants::default().has(7, c));
        let wants = Wants::new([true, false], [(0, a), (7, b), (0, a), (0, c)]);
        assert_eq!(wants.groups(), [(0, a), (7, b)]);
        assert!(wants.has(0, a) && !wants.has(7, a) && !wants.has(0, b));
        assert!(
            wants.has(7, b) && wants.has(0, c),
            "all of the other family"
        );
        let all = wants.with_all(Family::V4);
        assert_eq!(all, Wants::default());
        let other = Wants::new([true, false], [(0, a), (0, b)]);
        let changes: Vec<Group> = wants.changes(&other).unwrap().collect();
        assert_eq!(changes, [b, b]);
        assert!(wants.changes(&all).is_none());
    }
}
