//! `[7]` Who gets what only one can have: the first who asks, and this host before any other. Who comes later waits,
//! and gets it when it is given back: so an endpoint that moves is there although its new host speaks before its old
//! one does.

use core::hash::BuildHasher;

use arrayvec::ArrayVec;

use super::{Change, Contested, Holder, NONE, Row, Table, UP, asks, keys};
use crate::addr::{Mac, Vni};
use crate::tunnel::control::record::{EndpointView, MAX_ADDRS};

/// Endpoints that wait for one and the same thing.
const MAX_WAITING: usize = 64;

/// What a row gave back.
type Freed = ArrayVec<(Vni, Contested), { MAX_ADDRS + 1 }>;

impl Table {
    /// Sets an endpoint of another host, in place of its own one with the same MAC. Cost: O(1), one allocation.
    pub(in super::super) fn put(
        &mut self,
        owner: Holder,
        view: EndpointView<'_>,
        out: &mut Vec<Change>,
    ) {
        let round = self.owned.get(&owner).map_or(0, |o| o.round);
        let Some(at) = self.own(owner, view.vni(), view.mac()) else {
            let at = self.link(owner, view.bytes().into());
            return self.place(at, false, out);
        };
        let Some(row) = self.row_mut(at) else { return };
        row.round = round;
        if *row.body == *view.bytes() {
            return;
        }
        let was_up = row.state == UP;
        let freed = self.withdraw(at);
        if let Some(row) = self.row_mut(at) {
            row.body = view.bytes().into();
        }
        self.place(at, was_up, out);
        self.wake(freed.into_iter().collect(), out);
    }

    /// Sets an endpoint of this host. Others that have what it asks for wait from now on.
    /// Errors: what another endpoint of this host has already.
    pub(in super::super) fn put_local(
        &mut self,
        view: EndpointView<'_>,
        out: &mut Vec<Change>,
    ) -> Result<(), Contested> {
        let own = self.own(Holder::Local, view.vni(), view.mac());
        for key in keys(view) {
            let at = self.holder(view.vni(), key).filter(|&at| Some(at) != own);
            if at
                .and_then(|at| self.row(at))
                .is_some_and(|row| row.owner == Holder::Local)
            {
                return Err(key);
            }
        }
        let mut freed: Vec<(Vni, Contested)> = Vec::new();
        if let Some(at) = own {
            freed.extend(self.withdraw(at));
            if let Some(row) = self.row_mut(at) {
                row.body = view.bytes().into();
            }
        }
        for key in keys(view) {
            if let Some(at) = self.holder(view.vni(), key) {
                freed.extend(self.withdraw(at));
                self.step_back(at, key, Holder::Local, true, out);
            }
        }
        let at = own.unwrap_or_else(|| self.link(Holder::Local, view.bytes().into()));
        self.place(at, own.is_some(), out);
        self.wake(freed, out);
        Ok(())
    }

    /// Takes an endpoint out. One that is not there is no error. Cost: O(1).
    pub(in super::super) fn remove(
        &mut self,
        owner: Holder,
        vni: Vni,
        mac: Mac,
        out: &mut Vec<Change>,
    ) -> bool {
        let at = self.own(owner, vni, mac);
        if let Some(at) = at {
            self.take(at, out);
        }
        at.is_some()
    }

    pub(super) fn take(&mut self, at: u32, out: &mut Vec<Change>) {
        let Some(row) = self.row(at) else { return };
        if let (UP, Holder::Peer(peer)) = (row.state, row.owner) {
            out.push(Change::Down(peer, row.view().vni(), row.view().mac()));
        }
        let freed = self.withdraw(at);
        self.unlink(at);
        self.wake(freed.into_iter().collect(), out);
    }

    /// Lets a row that is in no index be there, or wait.
    fn place(&mut self, at: u32, was_up: bool, out: &mut Vec<Change>) {
        let Some(row) = self.row(at) else { return };
        let vni = row.view().vni();
        let taken = keys(row.view()).find_map(|key| Some((key, self.holder(vni, key)?)));
        if let Some((key, holder)) = taken {
            let holder = self.row(holder).map_or(Holder::Local, |row| row.owner);
            return self.step_back(at, key, holder, was_up, out);
        }
        let owner = row.owner;
        if let Holder::Peer(peer) = owner {
            out.push(if was_up {
                Change::Changed(peer, at)
            } else {
                Change::Up(peer, at)
            });
        }
        if let Some(other) = self.enter(at).filter(|&other| other != owner) {
            out.push(Change::SameName(owner, at, other));
        }
    }

    /// Enters a row in the indexes of those that are there. Gives who has its name already.
    fn enter(&mut self, at: u32) -> Option<Holder> {
        let Self {
            rows,
            macs,
            addrs,
            names,
            hasher,
            ..
        } = self;
        let row = rows.get_mut(at as usize)?;
        row.state = UP;
        let vni = row.view().vni();
        let rows = &*rows;
        let view = rows.get(at as usize)?.view();
        let nth = |at: u32, n: usize| {
            let view = rows.get(at as usize).map(Row::view);
            let key = view.and_then(|v| Some((v.vni(), keys(v).nth(n)?)));
            key.map_or(0, |key| hasher.hash_one(key))
        };
        macs.insert_unique(nth(at, 0), at, |&at| nth(at, 0));
        for n in 0..view.addrs().count() {
            let tag = u32::try_from(n).unwrap_or(0);
            addrs.insert_unique(nth(at, n + 1), at << 2 | tag, |&at| {
                nth(at >> 2, (at & 3) as usize + 1)
            });
        }
        let name = view.names().next()?;
        let named = |at: u32| {
            let view = rows.get(at as usize).map(Row::view);
            view.and_then(|v| Some((v.vni(), v.names().next()?)))
        };
        let hash = hasher.hash_one((vni, name));
        if let Some(&other) = names.find(hash, |&at| named(at) == Some((vni, name))) {
            return rows.get(other as usize).map(|row| row.owner);
        }
        names.insert_unique(hash, at, |&at| {
            hasher.hash_one(named(at).unwrap_or((vni, "")))
        });
        None
    }

    /// Takes a row out of every index, and gives what is free then.
    fn withdraw(&mut self, at: u32) -> Freed {
        let mut freed = Freed::new();
        let Some(row) = self.rows.get(at as usize) else {
            return freed;
        };
        let (view, owner, state) = (row.view(), row.owner, row.state);
        let vni = view.vni();
        let hash = |key: Contested| self.hasher.hash_one((vni, key));
        if state != UP {
            let key = (owner, vni, view.mac());
            drop_from(&mut self.hidden, self.hasher.hash_one(key), at);
            let key = keys(view).nth(usize::from(state));
            if let Some(key) = key {
                self.leave_queue((vni, key), at);
            }
            return freed;
        }
        for (n, key) in (0u32..).zip(keys(view)) {
            match n.checked_sub(1) {
                None => drop_from(&mut self.macs, hash(key), at),
                Some(n) => drop_from(&mut self.addrs, hash(key), at << 2 | n),
            }
            freed.push((vni, key));
        }
        if let Some(name) = view.names().next() {
            drop_from(&mut self.names, self.hasher.hash_one((vni, name)), at);
        }
        freed
    }

    fn leave_queue(&mut self, key: (Vni, Contested), at: u32) {
        if let Some(queue) = self.waiting.get_mut(&key) {
            queue.retain(|&other| other != at);
            if queue.is_empty() {
                self.waiting.remove(&key);
            }
        }
    }

    /// Lets a row that is in no index wait for a key, which it asks for.
    fn step_back(
        &mut self,
        at: u32,
        key: Contested,
        holder: Holder,
        was_up: bool,
        out: &mut Vec<Change>,
    ) {
        let Some(row) = self.rows.get_mut(at as usize) else {
            return;
        };
        let (vni, mac, owner) = (row.view().vni(), row.view().mac(), row.owner);
        let Holder::Peer(peer) = owner else { return };
        if was_up {
            out.push(Change::Down(peer, vni, mac));
        }
        let queue = self.waiting.entry((vni, key)).or_default();
        if queue.len() >= MAX_WAITING {
            out.push(Change::Crowded(peer));
            return self.unlink(at);
        }
        queue.push_back(at);
        let state = keys(row.view()).position(|k| k == key).unwrap_or(0);
        row.state = u8::try_from(state).unwrap_or(0);
        let rows = &self.rows;
        let hasher = &self.hasher;
        let hash = |at: u32| {
            let row = rows.get(at as usize);
            let key = row.map(|row| (row.owner, row.view().vni(), row.view().mac()));
            key.map_or(0, |key| hasher.hash_one(key))
        };
        self.hidden.insert_unique(hash(at), at, |&at| hash(at));
        out.push(Change::Waits(peer, at, key, holder));
    }

    /// Gives what is free to those who wait for it, the first before the others.
    fn wake(&mut self, mut freed: Vec<(Vni, Contested)>, out: &mut Vec<Change>) {
        while let Some((vni, key)) = freed.pop() {
            while self.holder(vni, key).is_none() {
                let queue = self.waiting.get(&(vni, key));
                let Some(&at) = queue.and_then(|queue| queue.front()) else {
                    break;
                };
                debug_assert!(at != NONE && self.view(at).is_some_and(|v| asks(v, key)));
                self.withdraw(at);
                self.place(at, false, out);
            }
        }
    }
}

fn drop_from(index: &mut hashbrown::HashTable<u32>, hash: u64, entry: u32) {
    if let Ok(found) = index.find_entry(hash, |&e| e == entry) {
        found.remove();
    }
}
