//! Stage 4: Who is on a network: endpoints by MAC, address and name, and names that stand for several of them.

use core::net::IpAddr;
use std::collections::{HashMap, HashSet};

use super::Guest;
use super::routes::Routes;
use crate::addr::Mac;

/// Addresses that one name gives: as many AAAA records as fit a datagram of 512 bytes beside a long name.
pub const MAX_ADDRESSES: usize = 8;

/// Whom a set of names belongs to, so that it can be replaced and taken back as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// The directory of one network. Every lookup is one step, however many there are.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    guests: HashMap<Mac, Guest>,
    addresses: HashMap<IpAddr, Mac>,
    names: Names,
    /// What single endpoints may ask for beside: the names of other networks that they are on.
    beside: HashMap<Mac, Names>,
    /// Addresses that the gateway answers for.
    virtuals: HashSet<IpAddr>,
    /// What is behind other hosts.
    pub routes: Routes,
}

impl FromIterator<Guest> for Directory {
    fn from_iter<I: IntoIterator<Item = Guest>>(guests: I) -> Self {
        let mut directory = Self::default();
        for guest in guests {
            directory.insert(guest);
        }
        directory
    }
}

impl From<Vec<Guest>> for Directory {
    fn from(guests: Vec<Guest>) -> Self {
        guests.into_iter().collect()
    }
}

impl Directory {
    /// Adds an endpoint, in place of one with the same MAC. Its name, where it has one, is known at once.
    pub fn insert(&mut self, guest: Guest) {
        self.take(guest.mac);
        let addrs: Vec<IpAddr> = both(&guest).collect();
        for &addr in &addrs {
            self.addresses.insert(addr, guest.mac);
        }
        if !guest.name.is_empty() {
            self.set_names(own(guest.mac), core::slice::from_ref(&guest.name), &addrs);
        }
        self.guests.insert(guest.mac, guest);
    }

    /// Takes an endpoint out, with the name that came with it and what it alone could ask for.
    pub fn remove(&mut self, mac: Mac) -> Option<Guest> {
        self.beside.remove(&mac);
        self.take(mac)
    }

    fn take(&mut self, mac: Mac) -> Option<Guest> {
        let guest = self.guests.remove(&mac)?;
        for addr in both(&guest) {
            if self.addresses.get(&addr) == Some(&mac) {
                self.addresses.remove(&addr);
            }
        }
        self.remove_names(own(mac));
        Some(guest)
    }

    /// Finds an endpoint by MAC.
    #[must_use]
    pub fn by_mac(&self, mac: Mac) -> Option<&Guest> {
        self.guests.get(&mac)
    }

    /// Finds an endpoint by address.
    #[must_use]
    pub fn by_addr(&self, addr: IpAddr) -> Option<&Guest> {
        self.guests.get(self.addresses.get(&addr)?)
    }

    /// Sets the addresses that stand for services: the gateway answers for them.
    pub fn set_virtual(&mut self, addrs: impl Iterator<Item = IpAddr>) {
        self.virtuals = addrs.collect();
    }

    /// True for the address of a service.
    #[must_use]
    pub fn is_virtual(&self, addr: IpAddr) -> bool {
        self.virtuals.contains(&addr)
    }

    /// Every endpoint, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Guest> {
        self.guests.values()
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.guests.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// Makes names known, in place of those that the owner had. Others may have the same names: all answer.
    /// Reverse lookups give the first.
    pub fn set_names(&mut self, owner: Owner, names: &[String], addrs: &[IpAddr]) {
        self.names.set(owner, names, addrs);
    }

    /// Takes an owner's names back. An owner without any is no error.
    pub fn remove_names(&mut self, owner: Owner) {
        self.names.remove(owner);
    }

    /// Makes names known to one endpoint alone, behind those that all know.
    pub fn set_names_beside(
        &mut self,
        asker: Mac,
        owner: Owner,
        names: &[String],
        addrs: &[IpAddr],
    ) {
        let beside = self.beside.entry(asker).or_default();
        beside.set(owner, names, addrs);
    }

    /// Takes an owner's names back from one endpoint.
    pub fn remove_names_beside(&mut self, asker: Mac, owner: Owner) {
        if let Some(names) = self.beside.get_mut(&asker) {
            names.remove(owner);
            if names.owners.is_empty() {
                self.beside.remove(&asker);
            }
        }
    }

    /// The addresses of a name, which is in lower case and has no final dot; `None` if nobody has it that the one
    /// who asks may know.
    #[must_use]
    pub fn lookup(&self, asker: Mac, name: &str) -> Option<Vec<IpAddr>> {
        let beside = || self.beside.get(&asker)?.lookup(name);
        self.names.lookup(name).or_else(beside)
    }

    /// The first name of an address, for the one who asks.
    #[must_use]
    pub fn name_of(&self, asker: Mac, addr: IpAddr) -> Option<&str> {
        let beside = || self.beside.get(&asker)?.name_of(addr);
        self.names.name_of(addr).or_else(beside)
    }
}

/// Names and whom they belong to.
#[derive(Debug, Clone, Default)]
struct Names {
    names: HashMap<String, Vec<(Owner, Vec<IpAddr>)>>,
    owners: HashMap<Owner, Vec<String>>,
    reverse: HashMap<IpAddr, Vec<(Owner, String)>>,
}

impl Names {
    fn set(&mut self, owner: Owner, names: &[String], addrs: &[IpAddr]) {
        self.remove(owner);
        let names: Vec<String> = names.iter().map(|n| plain(n)).collect();
        for name in names.iter().filter(|n| !n.is_empty()) {
            let entry = self.names.entry(name.clone()).or_default();
            entry.push((owner, addrs.to_vec()));
        }
        if let Some(first) = names.first().filter(|n| !n.is_empty()) {
            for &addr in addrs {
                let entry = self.reverse.entry(addr).or_default();
                entry.push((owner, first.clone()));
            }
        }
        self.owners.insert(owner, names);
    }

    fn remove(&mut self, owner: Owner) {
        for name in self.owners.remove(&owner).unwrap_or_default() {
            let Some(entry) = self.names.get_mut(&name) else {
                continue;
            };
            let addrs: Vec<IpAddr> = entry
                .iter()
                .filter(|e| e.0 == owner)
                .flat_map(|e| e.1.iter().copied())
                .collect();
            entry.retain(|e| e.0 != owner);
            if entry.is_empty() {
                self.names.remove(&name);
            }
            for addr in addrs {
                if let Some(entry) = self.reverse.get_mut(&addr) {
                    entry.retain(|e| e.0 != owner);
                    if entry.is_empty() {
                        self.reverse.remove(&addr);
                    }
                }
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut found: Vec<IpAddr> = Vec::new();
        for &addr in self.names.get(name)?.iter().flat_map(|e| &e.1) {
            if found.len() < MAX_ADDRESSES && !found.contains(&addr) {
                found.push(addr);
            }
        }
        Some(found)
    }

    fn name_of(&self, addr: IpAddr) -> Option<&str> {
        let entry = self.reverse.get(&addr)?;
        entry.first().map(|e| e.1.as_str())
    }
}

fn both(guest: &Guest) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = guest.v4.map(IpAddr::V4);
    v4.into_iter().chain(guest.v6.map(IpAddr::V6))
}

/// The owner of an endpoint's own name: no number that anyone else gives out.
fn own(mac: Mac) -> Owner {
    Owner((1 << 63) | mac.to_u64())
}

/// A name as it is compared: in lower case, without a final dot.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn guest(n: u8, name: &str) -> Guest {
        Guest {
            mac: Mac([2, 0, 0, 0, 0, n]),
            name: name.to_owned(),
            v4: Some([10, 0, 0, n].into()),
            v6: None,
        }
    }

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn endpoints_are_found_by_all_that_they_have_until_they_go() {
        let mut d: Directory = [guest(2, "Db."), guest(3, "")].into_iter().collect();
        assert_eq!(d.by_addr(v4(2)).unwrap().name, "Db.");
        assert_eq!(d.lookup(ME, "db"), Some(vec![v4(2)]));
        assert_eq!(
            (d.name_of(ME, v4(2)), d.name_of(ME, v4(3))),
            (Some("db"), None)
        );
        // The same MAC with another address replaces it.
        d.insert(Guest {
            v4: Some([10, 0, 0, 9].into()),
            ..guest(2, "web")
        });
        assert_eq!(
            (d.lookup(ME, "db"), d.by_addr(v4(2)).is_some()),
            (None, false)
        );
        assert_eq!(d.lookup(ME, "web"), Some(vec![v4(9)]));
        assert!(d.remove(Mac([2, 0, 0, 0, 0, 2])).is_some() && d.len() == 1);
        assert_eq!((d.lookup(ME, "web"), d.name_of(ME, v4(9))), (None, None));
    }

    #[test]
    fn an_alias_of_two_gives_both_and_ends_with_each() {
        let mut d = Directory::default();
        let (a, b) = (Owner(1), Owner(2));
        d.set_names(a, &names(&["one", "all"]), &[v4(1)]);
        d.set_names(b, &names(&["two", "ALL"]), &[v4(2)]);
        assert_eq!(d.lookup(ME, "all"), Some(vec![v4(1), v4(2)]));
        d.set_names(a, &names(&["uno"]), &[v4(1)]);
        assert_eq!(
            (d.lookup(ME, "all"), d.lookup(ME, "one")),
            (Some(vec![v4(2)]), None)
        );
        assert_eq!(d.name_of(ME, v4(1)), Some("uno"));
        d.remove_names(b);
        d.remove_names(b);
        assert_eq!((d.lookup(ME, "all"), d.name_of(ME, v4(2))), (None, None));
    }

    #[test]
    fn names_of_other_networks_are_for_one_endpoint_alone() {
        let mut d: Directory = [guest(2, "db"), guest(7, "me")].into_iter().collect();
        let there = IpAddr::from([10, 9, 0, 1]);
        d.set_names_beside(ME, Owner(5), &names(&["db", "far"]), &[there]);
        assert_eq!(d.lookup(ME, "far"), Some(vec![there]));
        assert_eq!(d.lookup(ME, "db"), Some(vec![v4(2)]), "the network's own");
        assert_eq!(d.name_of(ME, there), Some("db"));
        let other = Mac([2, 0, 0, 0, 0, 2]);
        assert_eq!(
            (d.lookup(other, "far"), d.name_of(other, there)),
            (None, None)
        );
        // They outlive a change of the endpoint, and end with it.
        d.insert(guest(7, "myself"));
        assert_eq!(d.lookup(ME, "far"), Some(vec![there]));
        d.remove_names_beside(ME, Owner(5));
        assert_eq!(d.lookup(ME, "far"), None);
        d.set_names_beside(ME, Owner(5), &names(&["far"]), &[there]);
        d.remove(ME);
        assert_eq!(d.lookup(ME, "far"), None);
    }
}
