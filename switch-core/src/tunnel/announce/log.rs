//! `[7]` What this host has to tell, in the order of change. Each thing stands in it once, where it changed last: who
//! has been told everything up to a place needs only what is behind it, whatever happened before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::addr::{Mac, Vni};
use crate::l2::snoop::Wants;
use crate::tunnel::control::groups::groups;
use crate::tunnel::control::record::{gone, network_gone};

/// Things taken back that are kept, beside as many as there are things, for those who have not heard of it.
const MIN_GRAVES: usize = 1024;

/// What is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// What this host is called.
    Host,
    /// A network that it is on.
    Network(Vni),
    /// An endpoint of its own.
    Endpoint(Vni, Mac),
    /// What of a network's multicast this host wants.
    Groups(Vni),
}

impl Key {
    /// Whom it concerns; none for everyone.
    pub(super) const fn vni(self) -> Option<Vni> {
        match self {
            Self::Host => None,
            Self::Network(vni) | Self::Endpoint(vni, _) | Self::Groups(vni) => Some(vni),
        }
    }
}

#[derive(Debug)]
struct Entry {
    key: Key,
    /// None: it was taken back.
    record: Option<Box<[u8]>>,
}

/// The log. Places are numbered from 1 and never used twice.
#[derive(Debug, Default)]
pub(super) struct Log {
    head: u64,
    entries: BTreeMap<u64, Entry>,
    places: HashMap<Key, u64>,
    graves: BTreeSet<u64>,
}

impl Log {
    /// The last place.
    pub(super) const fn head(&self) -> u64 {
        self.head
    }

    /// How many things are told, and how many were taken back and are remembered.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.entries.len() - self.graves.len(), self.graves.len())
    }

    /// Tells something. False if it is what was told before.
    pub(super) fn set(&mut self, key: Key, record: Box<[u8]>) -> bool {
        let old = self.places.get(&key).and_then(|at| self.entries.get(at));
        if old.is_some_and(|e| e.record.as_ref() == Some(&record)) {
            return false;
        }
        self.append(key, Some(record));
        true
    }

    /// Takes something back. False if it was not told.
    pub(super) fn clear(&mut self, key: Key) -> bool {
        let old = self.places.get(&key).and_then(|at| self.entries.get(at));
        let told = old.is_some_and(|e| e.record.is_some());
        if told {
            self.append(key, None);
            self.graves.insert(self.head);
        }
        told
    }

    fn append(&mut self, key: Key, record: Option<Box<[u8]>>) {
        self.head += 1;
        if let Some(old) = self.places.insert(key, self.head) {
            self.entries.remove(&old);
            self.graves.remove(&old);
        }
        self.entries.insert(self.head, Entry { key, record });
    }

    /// What stands behind `from` up to `to`: the places, whom they concern, and their records.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Key, Told<'_>)> {
        let range = if from < to { from + 1..to + 1 } else { 1..1 };
        self.entries.range(range).map(|(&at, e)| {
            let told = match (&e.record, e.key) {
                (Some(record), _) => Told::Is(record),
                (None, Key::Endpoint(vni, mac)) => Told::Gone(gone(vni, mac)),
                (None, Key::Network(vni)) => Told::NoNetwork(network_gone(vni)),
                (None, Key::Groups(vni)) => Told::All(groups(vni, &Wants::default())),
                // A host is never without a name that it had.
                (None, Key::Host) => Told::Is(&[]),
            };
            (at, e.key, told)
        })
    }

    /// True if more is remembered of what was taken back than is worth its room.
    pub(super) fn is_heavy(&self) -> bool {
        let (told, graves) = self.len();
        graves > MIN_GRAVES.max(told)
    }

    /// Forgets what was taken back up to a place, which everybody has heard.
    pub(super) fn forget(&mut self, upto: u64) {
        let later = self.graves.split_off(&(upto + 1));
        for at in core::mem::replace(&mut self.graves, later) {
            if let Some(entry) = self.entries.remove(&at) {
                self.places.remove(&entry.key);
            }
        }
    }
}

/// A record to send.
#[derive(Debug)]
pub(super) enum Told<'a> {
    Is(&'a [u8]),
    Gone([u8; 13]),
    NoNetwork([u8; 7]),
    /// All of a network's multicast is wanted.
    All(Box<[u8]>),
}

impl Told<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Is(bytes) => bytes,
            Self::Gone(bytes) => bytes,
            Self::NoNetwork(bytes) => bytes,
            Self::All(bytes) => bytes,
        }
    }

    /// It was taken back: nothing for who has not heard of it.
    pub(super) const fn is_gone(&self) -> bool {
        !matches!(self, Self::Is(_))
    }
}
