//! Stage 4: Names: whom each leads to on a network, and for whom it does so: who is on several networks may ask the
//! gateway of any.
//!
//! The names of a network are kept once, however many may ask for them, and in few bytes: other hosts may have
//! a hundred thousand.

use core::hash::BuildHasher;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeSet, HashMap};
use std::hash::RandomState;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::addr::Mac;

/// Addresses that one name gives: as many AAAA records as fit a datagram of 512 bytes beside a long name.
pub const MAX_ADDRESSES: usize = 8;

/// Longest name that can be asked for. Source: RFC 1035 section 2.3.4, without the root.
const MAX_NAME: usize = 253;

/// Whom a set of names belongs to, so that it can be replaced and taken back as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u64);

impl Owner {
    /// The endpoint with this MAC: no number that anything is counted up to.
    #[must_use]
    pub fn of_mac(mac: Mac) -> Self {
        Self((1 << 62) | mac.to_u64())
    }
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Addr(IpAddr),
    Name(&'a str),
}

/// Which of an owner's keys, and the owner's place among the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: u32,
    nth: u32,
}

/// What an owner has. Shape: how many addresses of IPv4 (u8) and of IPv6 (u8), those, and each name behind its length (u8).
#[derive(Debug, Clone)]
struct Row {
    owner: Owner,
    body: Box<[u8]>,
}

/// The addresses of each family, and the names.
type Parts<'a> = (&'a [[u8; 4]], &'a [[u8; 16]], &'a [u8]);

impl Row {
    /// Names as they are compared: in lower case, without a final dot. `None` without any.
    fn new<N: AsRef<str>>(owner: Owner, names: &[N], addrs: &[IpAddr]) -> Option<Self> {
        let mut known: Vec<String> = Vec::new();
        for name in names {
            let name = name.as_ref().trim_end_matches('.').to_ascii_lowercase();
            if !name.is_empty() && name.len() <= MAX_NAME && !known.contains(&name) {
                known.push(name);
            }
        }
        if known.is_empty() {
            return None;
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for addr in addrs {
            match addr {
                _ if v4.len() + v6.len() == MAX_ADDRESSES => {}
                IpAddr::V4(a) if !v4.contains(a) => v4.push(*a),
                IpAddr::V6(a) if !v6.contains(a) => v6.push(*a),
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
        let byte = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
        let text: usize = known.iter().map(|n| 1 + n.len()).sum();
        let mut body = Vec::with_capacity(2 + 4 * v4.len() + 16 * v6.len() + text);
        body.extend([byte(v4.len()), byte(v6.len())]);
        v4.iter().for_each(|a| body.extend(a.octets()));
        v6.iter().for_each(|a| body.extend(a.octets()));
        for name in &known {
            body.push(byte(name.len()));
            body.extend(name.bytes());
        }
        Some(Self {
            owner,
            body: body.into(),
        })
    }

    /// The addresses of each family, and what stands behind them.
    fn parts(&self) -> Option<Parts<'_>> {
        let (&[v4, v6], rest) = self.body.split_first_chunk()?;
        let (v4, rest) = rest.split_at_checked(4 * usize::from(v4))?;
        let (v6, rest) = rest.split_at_checked(16 * usize::from(v6))?;
        Some((v4.as_chunks().0, v6.as_chunks().0, rest))
    }

    /// Its addresses, IPv4 first.
    fn addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let (v4, v6, _) = self.parts().unwrap_or_default();
        let v4 = v4.iter().map(|&a| IpAddr::V4(Ipv4Addr::from(a)));
        v4.chain(v6.iter().map(|&a| IpAddr::V6(Ipv6Addr::from(a))))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let (_, _, mut rest) = self.parts().unwrap_or_default();
        core::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            let (name, tail) = tail.split_at_checked(usize::from(len))?;
            rest = tail;
            core::str::from_utf8(name).ok()
        })
    }

    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        self.addrs()
            .map(Key::Addr)
            .chain(self.names().map(Key::Name))
    }
}

/// The names of one network. Cost: every step is O(1), or O(log n) among those who share a name.
#[derive(Debug, Clone, Default)]
pub struct Names {
    rows: Vec<Option<Row>>,
    free: Vec<u32>,
    owners: HashTable<u32>,
    /// Each key, of one who has it.
    keys: HashTable<Place>,
    /// The others who have it too, by its hash.
    shared: HashMap<u64, BTreeSet<(Owner, Place)>>,
    state: RandomState,
}

fn row(rows: &[Option<Row>], at: u32) -> Option<&Row> {
    rows.get(at as usize)?.as_ref()
}

fn key(rows: &[Option<Row>], place: Place) -> Option<Key<'_>> {
    row(rows, place.at)?.keys().nth(place.nth as usize)
}

impl Names {
    /// Makes names known, in place of those that the owner had. Others may have the same names: all answer, in the order
    /// of their owners. Reverse lookups give the first name of the first owner.
    pub fn set<N: AsRef<str>>(&mut self, owner: Owner, names: &[N], addrs: &[IpAddr]) {
        self.remove(owner);
        let Some(new) = Row::new(owner, names, addrs) else {
            return;
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(place) = self.rows.get_mut(at as usize) else {
            return;
        };
        let new = &*place.insert(new);
        let count = u32::try_from(new.keys().count()).unwrap_or(0);
        let Self {
            rows,
            owners,
            keys,
            shared,
            state,
            ..
        } = self;
        let rows = &*rows;
        let rehash = |&at: &u32| state.hash_one(row(rows, at).map(|r| r.owner));
        owners.insert_unique(rehash(&at), at, rehash);
        let rehash = |&place: &Place| state.hash_one(key(rows, place));
        for place in (0..count).map(|nth| Place { at, nth }) {
            let hash = rehash(&place);
            let same = |&other: &Place| key(rows, other) == key(rows, place);
            match keys.entry(hash, same, rehash) {
                Entry::Occupied(_) => {
                    shared.entry(hash).or_default().insert((owner, place));
                }
                Entry::Vacant(entry) => {
                    entry.insert(place);
                }
            }
        }
    }

    /// Takes an owner's names back. An owner without any is no error.
    pub fn remove(&mut self, owner: Owner) {
        let Self {
            rows,
            free,
            owners,
            keys,
            shared,
            state,
        } = self;
        let is_its = |&at: &u32| row(rows, at).is_some_and(|r| r.owner == owner);
        let Ok(entry) = owners.find_entry(state.hash_one(Some(owner)), is_its) else {
            return;
        };
        let (at, _) = entry.remove();
        let its = row(rows, at).into_iter().flat_map(Row::keys);
        for (nth, of) in (0..).zip(its) {
            let (place, hash) = (Place { at, nth }, state.hash_one(Some(of)));
            let others = shared.get_mut(&hash);
            match keys.find_entry(hash, |&p| p == place) {
                Ok(entry) => {
                    let (_, vacant) = entry.remove();
                    let next = others.and_then(|others| {
                        let next = *others.iter().find(|o| key(rows, o.1) == Some(of))?;
                        others.remove(&next);
                        Some(next.1)
                    });
                    if let Some(next) = next {
                        vacant.insert(next);
                    }
                }
                Err(_) => {
                    others.map(|others| others.remove(&(owner, place)));
                }
            }
            if shared.get(&hash).is_some_and(BTreeSet::is_empty) {
                shared.remove(&hash);
            }
        }
        if let Some(place) = rows.get_mut(at as usize) {
            *place = None;
            free.push(at);
        }
    }

    /// The first of those who have a key, in order.
    fn holders(&self, of: Key<'_>) -> Vec<&Row> {
        let hash = self.state.hash_one(Some(of));
        let is_it = |&place: &Place| key(&self.rows, place) == Some(of);
        let one = self.keys.find(hash, is_it).into_iter().copied();
        let others = self.shared.get(&hash).into_iter().flatten();
        let others = others.map(|o| o.1).filter(is_it).take(MAX_ADDRESSES);
        let all = one.chain(others).filter_map(|p| row(&self.rows, p.at));
        let mut all: Vec<&Row> = all.collect();
        all.sort_unstable_by_key(|r| r.owner);
        all
    }

    /// The addresses of a name, which is in lower case and has no final dot; `None` if nobody has it.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let holders = self.holders(Key::Name(name));
        let mut found: Vec<IpAddr> = Vec::new();
        for addr in holders.iter().flat_map(|row| row.addrs()) {
            if found.len() < MAX_ADDRESSES && !found.contains(&addr) {
                found.push(addr);
            }
        }
        (!holders.is_empty()).then_some(found)
    }

    /// The first name of an address.
    #[must_use]
    pub fn name_of(&self, addr: IpAddr) -> Option<&str> {
        self.holders(Key::Addr(addr)).first()?.names().next()
    }
}

/// The names of all networks that one worker serves, and who may ask for those of which. Units: a network is its place on
/// the worker's board.
#[derive(Debug, Default)]
pub struct NameTable {
    nets: Vec<Names>,
    /// The other networks of endpoints whose sandbox is on several.
    beside: HashMap<(u32, Mac), Box<[u32]>>,
}

impl NameTable {
    /// Makes names known on a network, in place of those that the owner had there.
    pub fn set<N: AsRef<str>>(&mut self, net: u32, owner: Owner, names: &[N], addrs: &[IpAddr]) {
        let at = net as usize;
        if self.nets.len() <= at {
            self.nets.resize_with(at + 1, Names::default);
        }
        if let Some(of) = self.nets.get_mut(at) {
            of.set(owner, names, addrs);
        }
    }

    /// Takes an owner's names on a network back. An owner without any is no error.
    pub fn remove(&mut self, net: u32, owner: Owner) {
        if let Some(of) = self.nets.get_mut(net as usize) {
            of.remove(owner);
        }
    }

    /// Says which other networks the sandbox of an endpoint is on: it may ask for their names too, in this order.
    pub fn set_beside(&mut self, net: u32, asker: Mac, others: &[u32]) {
        if others.is_empty() {
            self.beside.remove(&(net, asker));
        } else {
            self.beside.insert((net, asker), others.into());
        }
    }

    /// Forgets a network.
    pub fn leave(&mut self, net: u32) {
        self.beside.retain(|&(of, _), _| of != net);
        if let Some(of) = self.nets.get_mut(net as usize) {
            *of = Names::default();
        }
    }

    /// The names that the endpoint with this MAC may ask for on a network, first its own.
    fn of(&self, net: u32, asker: Mac) -> impl Iterator<Item = &Names> {
        let beside = self.beside.get(&(net, asker)).into_iter().flatten();
        let all = core::iter::once(net).chain(beside.copied());
        all.filter_map(|net| self.nets.get(net as usize))
    }

    /// The addresses of a name for the one who asks, of the first network that has it. Shape: as [`Names::lookup`].
    #[must_use]
    pub fn lookup(&self, net: u32, asker: Mac, name: &str) -> Option<Vec<IpAddr>> {
        self.of(net, asker).find_map(|names| names.lookup(name))
    }

    /// The first name of an address for the one who asks.
    #[must_use]
    pub fn name_of(&self, net: u32, asker: Mac, addr: IpAddr) -> Option<&str> {
        self.of(net, asker).find_map(|names| names.name_of(addr))
    }
}

#[cfg(test)]
mod tests;
