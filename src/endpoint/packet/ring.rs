//! The receive ring of a packet socket: slots that the kernel fills and this process gives back, in turn.
//!
//! A slot holds a frame of the link's size. A super-frame does not fit: the kernel queues it at the socket as well and
//! says so in its slot, which keeps the order. So an idle ring is small, a short frame costs no system call, and a long
//! one is copied once, to where it is used. Source: Documentation/networking/packet_mmap.rst, `TPACKET_V2`.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{self, Shared};

/// Bytes of a slot: a frame of 1500 and a tag, with what the kernel puts before it; and an odd number of cache lines, so
/// that the heads of slots, which are all that most frames need, do not share a few sets of the cache.
const SLOT: usize = 1600;
/// Bytes of a block: a multiple of the page of every kernel.
const BLOCK: usize = 64 * 1024;
/// Blocks: with what an interface takes beside them, half a megabyte in all.
const BLOCKS: usize = 7;
/// Slots of a block; the rest of it is unused.
const EACH: usize = BLOCK / SLOT;
/// Slots in all.
const SLOTS: usize = EACH * BLOCKS;
/// Bytes of the virtio header, which lies directly before the frame.
pub(super) const VNET: usize = 10;

/// Where the fields of a slot's header are. Source: linux/if_packet.h, struct `tpacket2_hdr`.
mod field {
    pub(super) const LEN: usize = 4;
    pub(super) const KEPT: usize = 8;
    pub(super) const FRAME: usize = 12;
    pub(super) const TCI: usize = 24;
    pub(super) const TPID: usize = 26;
    pub(super) const END: usize = 28;
}

/// The slot is ours. Source: linux/if_packet.h, `TP_STATUS_*`.
const USER: u32 = 1;
/// The whole frame waits in the socket's queue.
const COPY: u32 = 1 << 1;
/// Others found the ring full since the kernel was last asked how many.
const LOSING: u32 = 1 << 2;
/// The frame had a tag.
const VLAN: u32 = 1 << 4;
/// The tag's type is told too.
const TPID: u32 = 1 << 6;
/// The type of a tag where none is told. Source: IEEE 802.1Q.
const CUSTOMER_TAG: u16 = 0x8100;

/// Makes the ring of a socket. Errors: `ENOMEM`.
pub(super) fn make(fd: &OwnedFd) -> io::Result<()> {
    let number = |n: usize| u32::try_from(n).map_err(io::Error::other);
    sys::set_ring(fd, number(BLOCK)?, number(BLOCKS)?, number(SLOT)?)
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where the frame is.
    pub(super) place: Place,
    /// The tag that the kernel has taken off, as it was on the wire.
    pub(super) tag: Option<[u8; 4]>,
    /// Frames were lost before this one.
    pub(super) losing: bool,
}

/// Where the frame of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the slot: where its virtio header starts in the ring, and the length from there on.
    Here(usize, usize),
    /// In the socket's queue.
    Queue,
    /// Nowhere: the queue was full.
    Lost,
}

/// The ring, and whose turn it is.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Shared,
    next: usize,
}

impl Ring {
    /// Maps the ring of a socket. Errors: those of mmap(2).
    pub(super) fn map(fd: &OwnedFd) -> io::Result<Self> {
        let memory = Shared::map(fd, BLOCK * BLOCKS)?;
        Ok(Self { memory, next: 0 })
    }

    /// The next slot, if the kernel has filled it. It stays the next one until [`Self::give_back`].
    pub(super) fn next(&self) -> Option<Slot> {
        let at = start_of(self.next);
        let status = self.memory.load(at);
        if status & USER == 0 {
            return None;
        }
        let mut head = [0; field::END];
        self.memory.copy(at, &mut head);
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let (len, kept, frame) = (word(field::LEN), word(field::KEPT), half(field::FRAME));
        let place = if status & COPY != 0 {
            Place::Queue
        } else if kept < len {
            Place::Lost
        } else {
            place_of(at, kept as usize, usize::from(frame))
        };
        let tag = (status & VLAN != 0).then(|| {
            let told = status & TPID != 0;
            let kind = if told {
                half(field::TPID)
            } else {
                CUSTOMER_TAG
            };
            let ([a, b], [c, d]) = (kind.to_be_bytes(), half(field::TCI).to_be_bytes());
            [a, b, c, d]
        });
        let losing = status & LOSING != 0;
        Some(Slot { place, tag, losing })
    }

    /// Copies a frame out, its virtio header first. False if it is too long.
    pub(super) fn copy(&self, at: usize, to: &mut [u8]) -> bool {
        self.memory.copy(at, to)
    }

    /// Gives the next slot back to the kernel.
    pub(super) fn give_back(&mut self) {
        self.memory.store(start_of(self.next), 0);
        self.next = (self.next + 1) % SLOTS;
    }
}

/// Where a slot begins.
fn start_of(slot: usize) -> usize {
    slot / EACH * BLOCK + slot % EACH * SLOT
}

/// Where a frame is whose slot begins at `at`. Nothing outside of the slot is believed.
fn place_of(at: usize, kept: usize, frame: usize) -> Place {
    match frame.checked_sub(VNET) {
        Some(start) if start >= field::END && frame + kept <= SLOT => {
            Place::Here(at + start, VNET + kept)
        }
        _ => Place::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring, and what the kernel does to it.
    fn ring() -> Ring {
        Ring {
            memory: Shared::anonymous(BLOCK * BLOCKS),
            next: 0,
        }
    }

    fn fill(ring: &mut Ring, slot: usize, status: u32, frame: &[u8], len: u32) {
        let at = start_of(slot);
        let kept = u32::try_from(frame.len()).unwrap();
        let start: u16 = 80;
        ring.memory.put(at + field::LEN, &len.to_ne_bytes());
        ring.memory.put(at + field::KEPT, &kept.to_ne_bytes());
        ring.memory.put(at + field::FRAME, &start.to_ne_bytes());
        ring.memory.put(at + field::TCI, &0x2005_u16.to_ne_bytes());
        ring.memory.put(at + field::TPID, &0x88a8_u16.to_ne_bytes());
        ring.memory.put(at + usize::from(start), frame);
        ring.memory.store(at, status);
    }

    #[test]
    fn slots_come_in_turn_and_go_round() {
        let mut ring = ring();
        for n in 0..SLOTS * 2 + 3 {
            assert_eq!(ring.next(), None, "{n}");
            let frame = n.to_ne_bytes();
            fill(&mut ring, n % SLOTS, USER, &frame, 8);
            let slot = ring.next().unwrap();
            assert_eq!(ring.next(), Some(slot), "until it is given back");
            let Place::Here(at, len) = slot.place else {
                panic!("{slot:?}");
            };
            assert_eq!((at, len), (start_of(n % SLOTS) + 70, 18));
            let mut copy = [0; 18];
            assert!(ring.copy(at, &mut copy));
            assert_eq!(copy[VNET..], frame);
            ring.give_back();
        }
    }

    #[test]
    fn a_slot_says_where_its_frame_is() {
        let mut ring = ring();
        fill(&mut ring, 0, USER | COPY, &[1; 100], 60_000);
        assert_eq!(ring.next().unwrap().place, Place::Queue);
        fill(&mut ring, 0, USER, &[1; 100], 60_000);
        assert_eq!(ring.next().unwrap().place, Place::Lost);
        fill(&mut ring, 0, USER, &[1; 100], 100);
        assert_eq!(ring.next().unwrap().place, Place::Here(70, 110));
    }

    #[test]
    fn a_tag_is_told_with_its_type() {
        let mut ring = ring();
        for (status, tag) in [
            (0, None),
            (VLAN, Some([0x81, 0, 0x20, 5])),
            (VLAN | TPID, Some([0x88, 0xa8, 0x20, 5])),
            (TPID, None),
        ] {
            fill(&mut ring, 0, USER | status, &[1; 100], 100);
            assert_eq!(ring.next().unwrap().tag, tag);
        }
    }

    #[test]
    fn a_slot_tells_that_others_found_none() {
        let mut ring = ring();
        for (status, losing) in [(USER, false), (USER | LOSING, true), (USER | COPY, false)] {
            fill(&mut ring, 0, status, &[1; 100], 100);
            assert_eq!(ring.next().unwrap().losing, losing);
        }
    }

    #[test]
    fn no_frame_is_outside_of_its_slot() {
        assert_eq!(place_of(SLOT, 1514, 80), Place::Here(SLOT + 70, 1524));
        assert_eq!(place_of(0, SLOT - 80, 80), Place::Here(70, SLOT - 70));
        for (kept, frame) in [(SLOT - 79, 80), (100, 5), (100, 37), (SLOT, 0), (0, 65_535)] {
            assert_eq!(place_of(0, kept, frame), Place::Lost, "{kept} {frame}");
        }
        let ring = ring();
        assert!(!ring.copy(BLOCK * BLOCKS - 10, &mut [0; 11]));
    }
}
