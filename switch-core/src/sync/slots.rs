//! Open addressing over atomics: fixed slots of some words, read without waiting while others write.
//!
//! A slot has a sequence number, which is odd while somebody writes. A reader sees all words of one moment, or
//! takes the slot for a miss. A writer claims one slot at a time and never waits either: where another writes, it
//! leaves what it had to say for the next time. What the words mean is the business of the table built on it.

use core::fmt;

use super::facade::{AtomicU64, Ordering};

/// Slots looked at before giving up.
#[cfg(not(loom))]
pub const PROBES: usize = 16;
/// Few, so that a model has collisions and an end.
#[cfg(loom)]
pub const PROBES: usize = 2;

/// One slot of `W` words, all zero at first.
#[cfg_attr(not(any(loom, all(shuttle, test))), derive(zerocopy::FromZeros))]
#[repr(C, align(64))]
pub struct Slot<const W: usize> {
    seq: AtomicU64,
    words: [AtomicU64; W],
}

/// The words of a slot that is being read.
pub struct Words<'a, const W: usize>(&'a [AtomicU64; W]);

/// The right to write a slot, given back when dropped.
pub struct Claim<'a, const W: usize> {
    slot: &'a Slot<W>,
    seq: u64,
}

/// A power of two of slots.
pub struct Slots<const W: usize>(Box<[Slot<W>]>);

impl<const W: usize> Words<'_, W> {
    /// One word; zero for one that there is not.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        // Whoever sees a word of a writer sees by its release that the number was odd before.
        self.0.get(index).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// All words.
    #[must_use]
    pub fn all(&self) -> [u64; W] {
        core::array::from_fn(|index| self.get(index))
    }
}

impl<const W: usize> Slot<W> {
    #[cfg(any(loom, all(shuttle, test)))]
    fn new() -> Self {
        Self {
            seq: AtomicU64::new(0),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// One word of whatever moment: to find out whether the slot is worth a look.
    #[inline]
    #[must_use]
    pub fn peek(&self, index: usize) -> u64 {
        self.words
            .get(index)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Reads words of one moment; none while somebody writes.
    #[inline]
    pub fn look<T>(&self, read: impl FnOnce(&Words<'_, W>) -> T) -> Option<T> {
        let before = self.seq.load(Ordering::Acquire);
        if before & 1 != 0 {
            return None;
        }
        let value = read(&Words(&self.words));
        (self.seq.load(Ordering::Relaxed) == before).then_some(value)
    }

    /// Makes the caller the slot's one writer, unless there is one already.
    #[must_use]
    pub fn claim(&self) -> Option<Claim<'_, W>> {
        let seq = self.seq.load(Ordering::Relaxed);
        if seq & 1 != 0 {
            return None;
        }
        self.seq
            .compare_exchange(seq, seq + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        Some(Claim { slot: self, seq })
    }

    /// Changes one word without a claim, if it is still what it was: for words that readers take on their own.
    /// Returns what it is by now where it is not.
    #[inline]
    pub fn exchange(&self, index: usize, was: u64, becomes: u64) -> Result<(), u64> {
        let word = self.words.get(index).ok_or(0_u64)?;
        word.compare_exchange(was, becomes, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
    }
}

impl<const W: usize> Claim<'_, W> {
    /// All words as they are.
    #[must_use]
    pub fn get(&self) -> [u64; W] {
        // Nobody else writes now, and claiming has acquired what the last writer wrote.
        core::array::from_fn(|index| self.slot.peek(index))
    }

    /// How often the slot has been written, this time included.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.seq / 2 + 1
    }

    /// Overwrites one word that others may exchange meanwhile. Returns the last that they have made of it.
    #[must_use]
    pub fn swap(&self, index: usize, value: u64) -> u64 {
        let word = self.slot.words.get(index);
        word.map_or(0, |word| word.swap(value, Ordering::AcqRel))
    }

    /// Overwrites all words.
    pub fn set(&self, words: [u64; W]) {
        for (place, word) in self.slot.words.iter().zip(words) {
            place.store(word, Ordering::Release);
        }
    }
}

impl<const W: usize> Drop for Claim<'_, W> {
    fn drop(&mut self) {
        self.slot
            .seq
            .store(self.seq.wrapping_add(2), Ordering::Release);
    }
}

impl<const W: usize> Slots<W> {
    /// At least `capacity` slots, rounded up to a power of two.
    /// Cost: address space; memory is used as slots are.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Self::zeroed(capacity.next_power_of_two().max(PROBES)))
    }

    #[cfg(not(any(loom, all(shuttle, test))))]
    fn zeroed(n: usize) -> Box<[Slot<W>]> {
        <[Slot<W>] as zerocopy::FromZeros>::new_box_zeroed_with_elems(n).unwrap_or_default()
    }

    #[cfg(any(loom, all(shuttle, test)))]
    fn zeroed(n: usize) -> Box<[Slot<W>]> {
        (0..n).map(|_| Slot::new()).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there was no memory for any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Slot<W>> + Clone {
        self.0.iter()
    }

    /// One by its place.
    #[inline]
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&Slot<W>> {
        self.0.get(place)
    }

    /// Where a thing with this hash may be, with the places.
    #[inline]
    pub fn chain(&self, hash: u64) -> impl Iterator<Item = (usize, &Slot<W>)> {
        let mask = self.0.len().wrapping_sub(1);
        let from = usize::try_from(hash & 0xffff_ffff).unwrap_or(0);
        (0..PROBES).filter_map(move |step| {
            let place = from.wrapping_add(step) & mask;
            self.0.get(place).map(|slot| (place, slot))
        })
    }

    /// So many slots from where a hand stands, which moves on, round and round.
    pub fn round(&self, hand: &AtomicU64, slots: usize) -> impl Iterator<Item = &Slot<W>> {
        let step = u64::try_from(slots).unwrap_or(u64::MAX);
        let from = hand.fetch_add(step, Ordering::Relaxed);
        let from = usize::try_from(from & 0xffff_ffff).unwrap_or(0) & self.0.len().wrapping_sub(1);
        let turned = self.0.iter().cycle().skip(from);
        turned.take(slots.min(self.0.len()))
    }
}

impl<const W: usize> fmt::Debug for Slots<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("slots", &self.0.len())
            .field("words", &W)
            .finish()
    }
}

impl<const W: usize> fmt::Debug for Slot<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl<const W: usize> fmt::Debug for Words<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl<const W: usize> fmt::Debug for Claim<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_but_not_meanwhile() {
        let slots = Slots::<3>::new(20);
        assert_eq!(slots.len(), 32);
        let (place, slot) = slots.chain(31).nth(1).unwrap();
        assert_eq!(place, 0, "round the end");
        assert_eq!(slot.look(|w| w.all()), Some([0; 3]));
        let claim = slot.claim().unwrap();
        assert!(slot.claim().is_none());
        claim.set([1, 2, 3]);
        assert_eq!((claim.get(), claim.generation()), ([1, 2, 3], 1));
        assert_eq!(slot.look(|w| w.all()), None);
        drop(claim);
        assert_eq!(slot.look(|w| w.all()), Some([1, 2, 3]));
        assert_eq!(slot.exchange(1, 2, 7), Ok(()));
        assert_eq!(slot.exchange(1, 2, 8), Err(7));
        assert_eq!((slot.peek(1), slot.peek(9)), (7, 0));
        assert_eq!(slot.claim().unwrap().generation(), 2);
    }

    #[test]
    fn the_hand_goes_round() {
        let slots = Slots::<1>::new(16);
        let hand = AtomicU64::new(0);
        assert_eq!(slots.round(&hand, 10).count(), 10);
        let rest: Vec<_> = slots.round(&hand, 10).map(core::ptr::from_ref).collect();
        assert_eq!(rest[5], core::ptr::from_ref(slots.at(15).unwrap()));
        assert_eq!(rest[6], core::ptr::from_ref(slots.at(0).unwrap()));
        assert_eq!(slots.round(&hand, 100).count(), 16);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two write, each words that belong together, and one reads: it sees words that belong together, or nothing.
    #[test]
    fn words_of_one_moment() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let slots = Arc::new(Slots::<2>::new(2));
            let write = |slots: &Slots<2>, n: u64| {
                let claim = slots.at(0).unwrap().claim();
                claim.inspect(|c| c.set([n, 10 * n])).is_some()
            };
            let reader = Arc::clone(&slots);
            let reader = thread::spawn(move || {
                let seen = reader.at(0).unwrap().look(|w| w.all());
                assert!(seen.is_none_or(|[a, b]| b == 10 * a), "{seen:?}");
            });
            let writer = Arc::clone(&slots);
            let writer = thread::spawn(move || write(&writer, 2));
            let one = write(&slots, 1);
            let two = writer.join().unwrap();
            reader.join().unwrap();
            let [a, b] = slots.at(0).unwrap().look(|w| w.all()).unwrap();
            assert!(one || two, "one of them wrote");
            assert!((one && a == 1 || two && a == 2) && b == 10 * a);
        });
    }
}
