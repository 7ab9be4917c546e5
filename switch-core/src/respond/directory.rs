//! Stage 4: Who is on a network: endpoints by MAC, address and name.

use core::net::IpAddr;
use std::collections::{HashMap, HashSet};

use super::Guest;
use super::names::{Names, Owner};
use super::routes::Routes;
use crate::addr::Mac;

/// The directory of one network. Every lookup is one step, however many there are.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    guests: HashMap<Mac, Guest>,
    addresses: HashMap<IpAddr, Mac>,
    names: Names,
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
        self.remove(guest.mac);
        let addrs: Vec<IpAddr> = both(&guest).collect();
        for &addr in &addrs {
            self.addresses.insert(addr, guest.mac);
        }
        if !guest.name.is_empty() {
            self.names
                .set(Owner::of_mac(guest.mac), &[&guest.name], &addrs);
        }
        self.guests.insert(guest.mac, guest);
    }

    /// Takes an endpoint out, with its name.
    pub fn remove(&mut self, mac: Mac) -> Option<Guest> {
        let guest = self.guests.remove(&mac)?;
        for addr in both(&guest) {
            if self.addresses.get(&addr) == Some(&mac) {
                self.addresses.remove(&addr);
            }
        }
        self.names.remove(Owner::of_mac(mac));
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

    /// The addresses of an endpoint's name, which is in lower case and has no final dot; `None` if nobody has it.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.names.lookup(name)
    }

    /// The name of the endpoint with an address.
    #[must_use]
    pub fn name_of(&self, addr: IpAddr) -> Option<&str> {
        self.names.name_of(addr)
    }
}

fn both(guest: &Guest) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = guest.v4.map(IpAddr::V4);
    v4.into_iter().chain(guest.v6.map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn endpoints_are_found_by_all_that_they_have_until_they_go() {
        let mut d: Directory = [guest(2, "Db."), guest(3, "")].into_iter().collect();
        assert_eq!(d.by_addr(v4(2)).unwrap().name, "Db.");
        assert_eq!(d.lookup("db"), Some(vec![v4(2)]));
        assert_eq!((d.name_of(v4(2)), d.name_of(v4(3))), (Some("db"), None));
        // The same MAC with another address replaces it.
        d.insert(Guest {
            v4: Some([10, 0, 0, 9].into()),
            ..guest(2, "web")
        });
        assert_eq!((d.lookup("db"), d.by_addr(v4(2)).is_some()), (None, false));
        assert_eq!(d.lookup("web"), Some(vec![v4(9)]));
        assert!(d.remove(Mac([2, 0, 0, 0, 0, 2])).is_some() && d.len() == 1);
        assert_eq!((d.lookup("web"), d.name_of(v4(9))), (None, None));
    }
}
