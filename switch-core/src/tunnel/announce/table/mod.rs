//! `[7]` Endpoints of every host, this one's among them, in little room: who holds which MAC, address and name of a
//! network, and who waits for one that another holds. `contest` decides between them.
//!
//! A row keeps the body of the record that announced it. The indexes hold nothing but places of rows.

mod contest;
use core::hash::BuildHasher;
use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;

use hashbrown::HashTable;
use slab::Slab;

use crate::addr::{Mac, PeerId, Vni};
use crate::tunnel::control::record::EndpointView;

/// What only one endpoint of a network can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contested {
    /// A MAC.
    Mac(Mac),
    /// An address.
    Addr(IpAddr),
}

impl core::fmt::Display for Contested {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Addr(addr) => addr.fmt(f),
        }
    }
}

/// Whose an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// This host's.
    Local,
    /// Another's.
    Peer(PeerId),
}

/// What became of an endpoint. Of this host's own nothing is told but that it has a name which another has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there.
    Up(PeerId, u32),
    /// It is still there, and says something else.
    Changed(PeerId, u32),
    /// It is gone, or another has taken its place.
    Down(PeerId, Vni, Mac),
    /// It is kept, but not there as long as another has what it asks for.
    Waits(PeerId, u32, Contested, Holder),
    /// It is thrown away: too many wait already.
    Crowded(PeerId),
    /// Another host's has the same name.
    SameName(Holder, u32, Holder),
}

/// The row is there.
const UP: u8 = u8::MAX;
/// No row.
const NONE: u32 = u32::MAX;

/// One endpoint.
#[derive(Debug)]
struct Row {
    body: Box<[u8]>,
    owner: Holder,
    /// The owner's rows form a list.
    next: u32,
    prev: u32,
    /// The owner's round in which it was told last.
    round: u16,
    /// [`UP`], or what it waits for: 0 its MAC, from 1 on its addresses.
    state: u8,
}

impl Row {
    fn view(&self) -> EndpointView<'_> {
        EndpointView::checked(&self.body)
    }
}

/// The rows of one host.
#[derive(Debug, Clone, Copy)]
struct Owned {
    first: u32,
    count: u32,
    round: u16,
}

/// Every endpoint that is known.
#[derive(Debug)]
pub(super) struct Table {
    rows: Slab<Row>,
    /// Rows that are there, by network and MAC.
    macs: HashTable<u32>,
    /// Rows that are there, by network and address: the place, and which address in the two lowest bits.
    addrs: HashTable<u32>,
    /// Rows that are there, by network and name: the first that had it.
    names: HashTable<u32>,
    /// Rows that wait, by owner, network and MAC.
    hidden: HashTable<u32>,
    /// Rows that wait, by what they wait for.
    waiting: HashMap<(Vni, Contested), VecDeque<u32>>,
    owned: HashMap<Holder, Owned>,
    hasher: RandomState,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            rows: Slab::new(),
            macs: HashTable::new(),
            addrs: HashTable::new(),
            names: HashTable::new(),
            hidden: HashTable::new(),
            waiting: HashMap::new(),
            owned: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many endpoints a host has, those that wait among them.
    pub(super) fn count(&self, owner: Holder) -> usize {
        self.owned.get(&owner).map_or(0, |o| o.count as usize)
    }

    /// How many endpoints wait for what others have.
    pub(super) fn waiting(&self) -> usize {
        self.hidden.len()
    }

    pub(super) fn view(&self, at: u32) -> Option<EndpointView<'_>> {
        self.row(at).map(Row::view)
    }

    /// What it takes. Units: bytes, with what an allocator adds to a row's body.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let body = |row: &Row| (row.body.len() + 8).next_multiple_of(16).max(32);
        let indexes = [&self.macs, &self.addrs, &self.names, &self.hidden];
        self.rows.capacity() * size_of::<Option<Row>>()
            + self.rows.iter().map(|(_, row)| body(row)).sum::<usize>()
            + indexes
                .map(HashTable::allocation_size)
                .iter()
                .sum::<usize>()
            + self.owned.capacity() * (size_of::<(Holder, Owned)>() + 1)
    }

    /// Who has this MAC.
    pub(super) fn by_mac(&self, vni: Vni, mac: Mac) -> Option<(Holder, EndpointView<'_>)> {
        let row = self.row(self.holder(vni, Contested::Mac(mac))?)?;
        Some((row.owner, row.view()))
    }

    /// Who has this address.
    pub(super) fn by_addr(&self, vni: Vni, addr: IpAddr) -> Option<(Holder, EndpointView<'_>)> {
        let row = self.row(self.holder(vni, Contested::Addr(addr))?)?;
        Some((row.owner, row.view()))
    }

    /// True if the host has it, there or not.
    pub(super) fn has(&self, owner: Holder, vni: Vni, mac: Mac) -> bool {
        self.own(owner, vni, mac).is_some()
    }

    /// A host's endpoints, in no order, and whether each is there. Those of a host that has none are none.
    pub(super) fn of(&self, owner: Holder) -> impl Iterator<Item = (EndpointView<'_>, bool)> {
        let mut at = self.owned.get(&owner).map_or(NONE, |o| o.first);
        core::iter::from_fn(move || {
            let row = self.row(at)?;
            at = row.next;
            Some((row.view(), row.state == UP))
        })
    }

    /// Begins another round of a host: what is not told again before its end is gone then.
    pub(super) fn begin_round(&mut self, owner: Holder) {
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.round = owned.round.wrapping_add(1);
        }
    }

    /// Takes out what a host has not told in this round.
    pub(super) fn end_round(&mut self, owner: Holder, out: &mut Vec<Change>) {
        let round = self.owned.get(&owner).map_or(0, |o| o.round);
        self.retain(owner, out, |row| row.round == round);
    }

    /// Takes out those of a host that may no longer be.
    pub(super) fn keep(
        &mut self,
        owner: Holder,
        out: &mut Vec<Change>,
        keep: impl Fn(EndpointView<'_>) -> bool,
    ) {
        self.retain(owner, out, |row| keep(row.view()));
    }

    /// Takes out all of a host.
    pub(super) fn remove_all(&mut self, owner: Holder, out: &mut Vec<Change>) {
        self.retain(owner, out, |_| false);
        self.owned.remove(&owner);
    }

    fn retain(&mut self, owner: Holder, out: &mut Vec<Change>, keep: impl Fn(&Row) -> bool) {
        let mut gone = Vec::new();
        let mut at = self.owned.get(&owner).map_or(NONE, |o| o.first);
        while let Some(row) = self.row(at) {
            if !keep(row) {
                gone.push(at);
            }
            at = row.next;
        }
        // Those that wait go first, so that none comes up on the way.
        gone.sort_by_key(|&at| self.row(at).is_none_or(|row| row.state == UP));
        for at in gone {
            self.take(at, out);
        }
    }

    fn row(&self, at: u32) -> Option<&Row> {
        self.rows.get(at as usize)
    }

    fn row_mut(&mut self, at: u32) -> Option<&mut Row> {
        self.rows.get_mut(at as usize)
    }

    /// Adds a row to its owner's list. It is in no index yet.
    fn link(&mut self, owner: Holder, body: Box<[u8]>) -> u32 {
        let owned = self.owned.entry(owner).or_insert(Owned {
            first: NONE,
            count: 0,
            round: 0,
        });
        let row = Row {
            body,
            owner,
            next: owned.first,
            prev: NONE,
            round: owned.round,
            state: UP,
        };
        let at = u32::try_from(self.rows.insert(row)).unwrap_or(NONE);
        let next = core::mem::replace(&mut owned.first, at);
        owned.count += 1;
        if let Some(next) = self.row_mut(next) {
            next.prev = at;
        }
        at
    }

    /// Takes a row out of its owner's list, and out of the table. It is in no index any more.
    fn unlink(&mut self, at: u32) {
        let Some(row) = self.rows.try_remove(at as usize) else {
            return;
        };
        if let Some(next) = self.row_mut(row.next) {
            next.prev = row.prev;
        }
        if let Some(prev) = self.row_mut(row.prev) {
            prev.next = row.next;
        }
        if let Some(owned) = self.owned.get_mut(&row.owner) {
            owned.count -= 1;
            if owned.first == at {
                owned.first = row.next;
            }
        }
    }

    /// The row that has it.
    fn holder(&self, vni: Vni, key: Contested) -> Option<u32> {
        let hash = self.hasher.hash_one((vni, key));
        let is = |at: u32| {
            self.row(at)
                .is_some_and(|row| row.view().vni() == vni && asks(row.view(), key))
        };
        match key {
            Contested::Mac(_) => self.macs.find(hash, |&at| is(at)).copied(),
            Contested::Addr(_) => self.addrs.find(hash, |&at| is(at >> 2)).map(|&at| at >> 2),
        }
    }

    /// The owner's own row, there or not.
    fn own(&self, owner: Holder, vni: Vni, mac: Mac) -> Option<u32> {
        let held = self.holder(vni, Contested::Mac(mac));
        if let Some(at) = held.filter(|&at| self.row(at).is_some_and(|row| row.owner == owner)) {
            return Some(at);
        }
        let is = |at: u32| {
            self.row(at).is_some_and(|row| {
                row.owner == owner && row.view().vni() == vni && row.view().mac() == mac
            })
        };
        let hash = self.hasher.hash_one((owner, vni, mac));
        self.hidden.find(hash, |&at| is(at)).copied()
    }
}

/// Whether an endpoint asks for this.
fn asks(view: EndpointView<'_>, key: Contested) -> bool {
    match key {
        Contested::Mac(mac) => view.mac() == mac,
        Contested::Addr(addr) => view.addrs().any(|a| a == addr),
    }
}

/// What an endpoint asks for: its MAC and then its addresses.
fn keys(view: EndpointView<'_>) -> impl Iterator<Item = Contested> + Clone + use<'_> {
    core::iter::once(Contested::Mac(view.mac())).chain(view.addrs().map(Contested::Addr))
}
