//! An ordered map of shared records whose copies are cheap: a request copies the whole model, and changes next to nothing of it.
//!
//! The records lie in parts of at most `PART`. A copy shares all parts with its original; whichever is changed first makes
//! that one part its own. What differs between two copies is found by looking into those parts only that they do not share.

use std::ops::Index;
use std::sync::Arc;

/// Records in a part at most: with more, a change copies more; with fewer, there are more parts to copy.
const PART: usize = 64;

type Part<K, V> = Arc<Vec<(K, Arc<V>)>>;

/// The map. Shape: parts are in order, none is empty, and so are the records in each.
#[derive(Debug)]
pub struct Shelf<K, V> {
    parts: Vec<Part<K, V>>,
    len: usize,
}

/// A record's key, what it was and what it is.
pub type Changed<'a, K, V> = (K, Option<&'a V>, Option<&'a V>);

impl<K: Ord + Copy, V> Shelf<K, V> {
    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where a key is, or else would be: the part, and the place in it.
    fn find(&self, key: &K) -> (usize, Result<usize, usize>) {
        let after = self
            .parts
            .partition_point(|part| part.first().is_some_and(|(first, _)| first <= key));
        let at = after.saturating_sub(1);
        let place = self
            .parts
            .get(at)
            .map_or(Err(0), |part| part.binary_search_by(|(k, _)| k.cmp(key)));
        (at, place)
    }

    /// The record of a key. Cost: logarithmic.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&Arc<V>> {
        let (at, place) = self.find(key);
        let (_, value) = self.parts.get(at)?.get(place.ok()?)?;
        Some(value)
    }

    /// The record of a key, to be changed. Cost: the copy of a part that is shared.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut Arc<V>> {
        let (at, place) = self.find(key);
        let part = self.parts.get_mut(at)?;
        let (_, value) = Arc::make_mut(part).get_mut(place.ok()?)?;
        Some(value)
    }

    /// True when there is a record of this key.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).1.is_ok()
    }

    /// Puts a record in the place of the one that the key had, which it gives. Cost: as [`Self::get_mut`].
    pub fn insert(&mut self, key: K, value: Arc<V>) -> Option<Arc<V>> {
        let (at, place) = self.find(&key);
        let Some(shared) = self.parts.get_mut(at) else {
            self.parts.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let part = Arc::make_mut(shared);
        match place {
            Ok(there) => {
                let (_, old) = part.get_mut(there)?;
                Some(std::mem::replace(old, value))
            }
            Err(before) => {
                part.insert(before, (key, value));
                self.len += 1;
                if part.len() > PART {
                    // Keys mostly grow: what is full stays nearly full.
                    let cut = if before + 1 == part.len() {
                        PART
                    } else {
                        PART / 2
                    };
                    let rest = part.split_off(cut);
                    self.parts.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a record away. Cost: as [`Self::get_mut`].
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        let (at, place) = self.find(key);
        let there = place.ok()?;
        let part = Arc::make_mut(self.parts.get_mut(at)?);
        let (_, value) = part.remove(there);
        self.len -= 1;
        if part.is_empty() {
            self.parts.remove(at);
        }
        Some(value)
    }

    /// Takes away what does not match. Cost: linear, and copies only those parts of which something goes.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &Arc<V>) -> bool) {
        let gone: Vec<K> = self
            .iter()
            .filter(|(k, v)| !keeps(k, v))
            .map(|(k, _)| *k)
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keys and records, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &Arc<V>)> {
        self.parts
            .iter()
            .flat_map(|part| part.iter().map(|(k, v)| (k, v)))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(k, _)| k)
    }

    /// Records in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<V>> {
        self.iter().map(|(_, v)| v)
    }

    /// Every key of which two maps have not the very same record, in order. Cost: one step for each part that they share,
    /// and one for each record of the others.
    #[must_use]
    pub fn changed<'a>(&'a self, to: &'a Self) -> Vec<Changed<'a, K, V>> {
        let mut all = Vec::new();
        let (mut old, mut new) = (Place::of(self), Place::of(to));
        loop {
            if let (Some(a), Some(b)) = (old.whole(), new.whole())
                && Arc::ptr_eq(a, b)
            {
                old.skip();
                new.skip();
                continue;
            }
            match (old.peek(), new.peek()) {
                (None, None) => return all,
                (Some((key, a)), Some((other, b))) if key == other => {
                    if !Arc::ptr_eq(a, b) {
                        all.push((key, Some(&**a), Some(&**b)));
                    }
                    old.step();
                    new.step();
                }
                (Some((key, a)), other) if other.is_none_or(|(k, _)| key < k) => {
                    all.push((key, Some(&**a), None));
                    old.step();
                }
                (_, Some((key, b))) => {
                    all.push((key, None, Some(&**b)));
                    new.step();
                }
                (Some(_), None) => old.step(),
            }
        }
    }
}

/// A walk through a map.
struct Place<'a, K, V> {
    parts: &'a [Part<K, V>],
    at: usize,
}

impl<'a, K: Copy, V> Place<'a, K, V> {
    fn of(shelf: &'a Shelf<K, V>) -> Self {
        Self {
            parts: &shelf.parts,
            at: 0,
        }
    }

    /// The part that begins here.
    fn whole(&self) -> Option<&'a Part<K, V>> {
        self.parts.first().filter(|_| self.at == 0)
    }

    fn skip(&mut self) {
        self.parts = self.parts.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn peek(&self) -> Option<(K, &'a Arc<V>)> {
        let (key, value) = self.parts.first()?.get(self.at)?;
        Some((*key, value))
    }

    fn step(&mut self) {
        self.at += 1;
        if self.parts.first().is_none_or(|p| self.at >= p.len()) {
            self.skip();
        }
    }
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> Clone for Shelf<K, V> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            len: self.len,
        }
    }
}

/// Equal are maps of equal records, however they lie in parts.
impl<K: Ord + Copy, V: PartialEq> PartialEq for Shelf<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Copy, V: Eq> Eq for Shelf<K, V> {}

/// The record of a key. Panics: there is none.
impl<K: Ord + Copy, V> Index<&K> for Shelf<K, V> {
    type Output = Arc<V>;

    fn index(&self, key: &K) -> &Arc<V> {
        let found = self.get(key);
        found.unwrap_or_else(|| panic!("there is no record of this key"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Change {
        Insert(u16),
        Remove(u16),
        Touch(u16),
        Halve,
        Copy,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let key = 0..400u16;
        let one = prop_oneof![
            12 => key.clone().prop_map(Change::Insert),
            6 => key.clone().prop_map(Change::Remove),
            4 => key.prop_map(Change::Touch),
            1 => Just(Change::Halve),
            2 => Just(Change::Copy),
        ];
        prop::collection::vec(one, 0..600)
    }

    fn check(shelf: &Shelf<u16, u32>, plain: &BTreeMap<u16, Arc<u32>>) {
        assert_eq!(shelf.len(), plain.len());
        assert!(shelf.iter().eq(plain.iter()));
        assert!(shelf.keys().rev().eq(plain.keys().rev()));
        let sound = |part: &Part<u16, u32>| !part.is_empty() && part.len() <= PART;
        assert!(shelf.parts.iter().all(sound));
    }

    proptest! {
        #[test]
        fn it_is_a_map_whose_copies_stay_as_they_were(changes in changes(), dense in 0..300u16) {
            let mut shelf = Shelf::default();
            let mut plain = BTreeMap::new();
            for key in 0..dense {
                let value = Arc::new(u32::from(key));
                shelf.insert(key, Arc::clone(&value));
                plain.insert(key, value);
            }
            let mut copies = vec![(shelf.clone(), plain.clone())];
            for (n, change) in (1000..).zip(changes) {
                match change {
                    Change::Insert(key) => {
                        let value = Arc::new(n);
                        let old = shelf.insert(key, Arc::clone(&value));
                        assert_eq!(old, plain.insert(key, value));
                    }
                    Change::Remove(key) => assert_eq!(shelf.remove(&key), plain.remove(&key)),
                    Change::Touch(key) => {
                        let now = shelf.get_mut(&key).map(|value| {
                            *Arc::make_mut(value) += 1;
                            Arc::clone(value)
                        });
                        assert_eq!(now.is_some(), plain.contains_key(&key));
                        plain.extend(now.map(|value| (key, value)));
                    }
                    Change::Halve => {
                        shelf.retain(|key, _| key % 2 == 0);
                        plain.retain(|key, _| key % 2 == 0);
                    }
                    Change::Copy => copies.push((shelf.clone(), plain.clone())),
                }
            }
            copies.push((shelf, plain));
            for (shelf, plain) in &copies {
                check(shelf, plain);
                for key in [0, 7, 63, 64, 65, 399] {
                    assert_eq!(shelf.get(&key), plain.get(&key));
                    assert_eq!(shelf.contains_key(&key), plain.contains_key(&key));
                }
            }
            for pair in copies.windows(2) {
                let [(old, was), (new, is)] = pair else { continue };
                let same = |a: Option<&Arc<u32>>, b: Option<&Arc<u32>>| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (a, b) => a.is_none() && b.is_none(),
                };
                let keys: BTreeSet<_> = was.keys().chain(is.keys()).collect();
                let expected: Vec<_> = keys
                    .into_iter()
                    .map(|key| (*key, was.get(key), is.get(key)))
                    .filter(|(_, a, b)| !same(*a, *b))
                    .map(|(key, a, b)| (key, a.map(|v| &**v), b.map(|v| &**v)))
                    .collect();
                assert_eq!(old.changed(new), expected);
            }
        }
    }

    #[test]
    fn a_copy_shares_all_but_what_is_changed() {
        let mut shelf = Shelf::default();
        for key in 0..1000u32 {
            shelf.insert(key, Arc::new(key));
        }
        assert!(
            shelf.parts.len() <= 1000 / PART + 1,
            "keys that grow fill their parts"
        );
        let copy = shelf.clone();
        shelf.insert(1000, Arc::new(0));
        *Arc::make_mut(shelf.get_mut(&3).unwrap()) = 4;
        let of_copy = |p: &&Part<_, _>| copy.parts.iter().any(|c| Arc::ptr_eq(c, p));
        let own = shelf.parts.iter().filter(|p| !of_copy(p)).count();
        assert_eq!(own, 2);
        assert_eq!((copy.len(), *copy[&3]), (1000, 3));
    }
}
