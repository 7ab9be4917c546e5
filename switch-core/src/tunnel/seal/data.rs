//! The data message: the keys of one direction of a session, and what stands before and after a sealed payload.
//!
//! | byte | content |
//! |---|---|
//! | 0 | 4 |
//! | 1 | flags: bit 0 the inner L4 checksum is partial, bit 1 the payload is a control message; others 0 |
//! | 2 | where the inner L4 header starts, from the inner Ethernet header; 0 unless bit 0 |
//! | 3 | where its checksum stands, from the inner Ethernet header too; 0 unless bit 0 |
//! | 4..8 | the receiver's index of the session |
//! | 8..16 | the number of this datagram, from 0 |
//! | 16.. | the payload, encrypted, and 16 bytes of tag |
//!
//! Integers are little-endian. The 16 bytes of the header are the associated data; the nonce is 4 zero bytes and
//! the 8 bytes of the number, for both suites.

use core::fmt;
use std::sync::Arc;

use ring::aead::{Aad, LessSafeKey, Nonce};
use thiserror::Error;

use super::nonce::{Counter, REKEY_AFTER_UNITS};
use super::suite::{KEY_LEN, Suite};
use super::window::{Stale, Window};
use crate::sync::facade::{AtomicBool, AtomicU64, Ordering};
use crate::tunnel::pmtu::LEAST;

/// The type of a data message, its byte 0.
pub const DATA: u8 = 4;
/// Bytes before a sealed payload.
pub const HEADER_LEN: usize = 16;
/// Bytes after it.
pub const TAG_LEN: usize = 16;
/// The inner L4 checksum is only its pseudo-header's sum, as the tag proves what it would.
pub const PARTIAL: u8 = 1;
/// The payload is a control message and no VXLAN.
pub const CONTROL: u8 = 2;
/// A datagram with more bytes than these may find a path too narrow. Source: those of the smallest packet that every path
/// carries, less 40 for IP and 8 for UDP.
pub const LONG: usize = LEAST as usize - 48;

/// Datagrams that may fail to open under one key before it is used no more.
/// Source: RFC 9001 section 6.6, the integrity limit of ChaCha20-Poly1305 (that of AES-GCM is higher).
const FORGED_LIMIT: u64 = 1 << 36;

/// Why a datagram could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// The key has sealed all it may, or has ended.
    #[error("the key is spent")]
    Exhausted,
    /// The buffer has no room for header and tag, or is longer than what was reserved.
    #[error("the datagram does not fit")]
    Length,
}

/// Why a datagram could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Shorter than header and tag.
    #[error("shorter than a data message")]
    Short,
    /// No data message, flags that nobody defined, or offsets where none may be.
    #[error("not a data message of this version")]
    Header,
    /// For another session.
    #[error("another session's index")]
    Index,
    /// Came before.
    #[error("replayed")]
    Replayed,
    /// Too far behind the newest to know whether it came before.
    #[error("older than the replay window")]
    Old,
    /// The tag does not fit: another key, or changed on the way.
    #[error("does not authenticate")]
    Forged,
    /// So many forgeries were tried that the key is used no more.
    #[error("the key is spent")]
    Exhausted,
}

/// The receiver's index in a data message, for who must find the key first.
/// Shape: `datagram` starts at the header. None for anything but a data message.
#[inline]
#[must_use]
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    match datagram {
        [DATA, _, _, _, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

fn nonce(number: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

/// The key that seals one direction of a session; shared by all workers, with one sequence of numbers.
pub struct SendKey {
    key: LessSafeKey,
    suite: Suite,
    receiver: u32,
    counter: Counter,
    /// Something long was sealed that is no control message. Written twice in a while at most, else only read.
    long: AtomicBool,
}

impl SendKey {
    /// A key that has sealed nothing. The same bytes must never make a second one: its numbers would be the same.
    /// `receiver`: the index that the other side gave this session.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; KEY_LEN], receiver: u32) -> Option<Self> {
        Some(Self {
            key: suite.key(key)?,
            suite,
            receiver,
            counter: Counter::new(),
            long: AtomicBool::new(false),
        })
    }

    /// Seals one datagram in place.
    /// Shape: 16 bytes of room, the payload, 16 bytes of room; header and tag are written. `csum` is where the
    /// inner L4 header and its checksum start, from the inner Ethernet header; both 0 unless `flags` has [`PARTIAL`].
    /// Cost: one locked instruction; no allocation.
    #[inline]
    pub fn seal(&self, flags: u8, csum: (u8, u8), datagram: &mut [u8]) -> Result<(), SealError> {
        // Probes of what the path carries are no reason to probe it.
        if flags & CONTROL == 0 {
            self.note(datagram.len());
        }
        self.take(1, datagram.len())?.seal(flags, csum, datagram)
    }

    /// Takes the numbers of `n` datagrams of at most `longest` bytes at once, header and tag included: one locked
    /// instruction for all. Numbers that are dropped unused are skipped; the window of the receiver allows it.
    #[inline]
    pub fn reserve(&self, n: u16, longest: usize) -> Result<Reserved<'_>, SealError> {
        self.note(longest);
        self.take(n, longest)
    }

    #[inline]
    fn take(&self, n: u16, longest: usize) -> Result<Reserved<'_>, SealError> {
        let first = self.counter.take(n, longest).ok_or(SealError::Exhausted)?;
        Ok(Reserved {
            key: self,
            next: first,
            end: first + u64::from(n),
            longest,
        })
    }

    #[inline]
    fn note(&self, len: usize) {
        if len > LONG && !self.long.load(Ordering::Relaxed) {
            self.long.store(true, Ordering::Relaxed);
        }
    }

    /// True if anything longer than [`LONG`] was sealed, control messages apart, since [`Self::take_long`].
    #[inline]
    #[must_use]
    pub fn has_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    /// As [`Self::has_long`], and begins anew.
    #[must_use]
    pub fn take_long(&self) -> bool {
        self.has_long() && self.long.swap(false, Ordering::Relaxed)
    }

    /// The suite that it seals with.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The other side's index of this session.
    #[must_use]
    pub const fn receiver(&self) -> u32 {
        self.receiver
    }

    /// Datagrams sealed, or at least numbered.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.counter.taken()
    }

    /// Whether so much was sealed that a new key should be agreed on.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.counter.spent() >= REKEY_AFTER_UNITS
    }

    /// Refuses to seal from now on, in every worker that still holds it.
    pub fn close(&self) {
        self.counter.close();
    }
}

impl fmt::Debug for SendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendKey")
            .field("suite", &self.suite)
            .field("receiver", &self.receiver)
            .field("sealed", &self.sealed())
            .finish_non_exhaustive()
    }
}

/// Numbers taken from a [`SendKey`], to seal as many datagrams with.
#[derive(Debug)]
pub struct Reserved<'a> {
    key: &'a SendKey,
    next: u64,
    end: u64,
    longest: usize,
}

impl Reserved<'_> {
    /// Seals one datagram in place, as [`SendKey::seal`] does.
    /// Errors: `Exhausted` when as many were sealed as reserved; `Length` when it is longer than was said.
    #[inline]
    pub fn seal(
        &mut self,
        flags: u8,
        csum: (u8, u8),
        datagram: &mut [u8],
    ) -> Result<(), SealError> {
        if datagram.len() > self.longest {
            return Err(SealError::Length);
        }
        let (header, rest) = datagram
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(SealError::Length)?;
        let (payload, room) = rest
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(SealError::Length)?;
        if self.next >= self.end {
            return Err(SealError::Exhausted);
        }
        let number = self.next;
        self.next += 1;
        let [i0, i1, i2, i3] = self.key.receiver.to_le_bytes();
        let [n0, n1, n2, n3, n4, n5, n6, n7] = number.to_le_bytes();
        *header = [
            DATA, flags, csum.0, csum.1, i0, i1, i2, i3, n0, n1, n2, n3, n4, n5, n6, n7,
        ];
        let tag = self
            .key
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(&*header), payload)
            .map_err(|_| SealError::Length)?;
        room.copy_from_slice(tag.as_ref());
        Ok(())
    }
}

/// What one receiving key has seen. Written by its owner, read by anyone.
#[derive(Debug, Default)]
pub struct SessionStats {
    opened: AtomicU64,
    empty: AtomicU64,
    bytes: AtomicU64,
    stale: AtomicU64,
    forged: AtomicU64,
}

impl SessionStats {
    /// Datagrams that authenticated.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Those of them that carried something: all but keep-alives.
    #[must_use]
    pub fn payloads(&self) -> u64 {
        let empty = self.empty.load(Ordering::Relaxed);
        self.opened().saturating_sub(empty)
    }

    /// Their payloads. Units: bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Datagrams refused as replayed or too old.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    /// Datagrams that did not authenticate.
    #[must_use]
    pub fn forged(&self) -> u64 {
        self.forged.load(Ordering::Relaxed)
    }
}

/// Adds to a cell that only the caller writes: no locked instruction.
fn add(cell: &AtomicU64, n: u64) {
    let sum = cell.load(Ordering::Relaxed).wrapping_add(n);
    cell.store(sum, Ordering::Relaxed);
}

/// A datagram that authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Where the payload ends that now starts the buffer. Units: bytes.
    pub len: usize,
    /// The header's flags.
    pub flags: u8,
    /// The header's offsets of the inner L4 header and of its checksum, from the inner Ethernet header.
    /// The peer's word: hold it against the frame's length.
    pub csum: (u8, u8),
    /// Whether it is the first of this key, which confirms a session to whoever answered its handshake.
    pub first: bool,
    /// Whether none with a higher number came before. Only such a one says where the peer is now.
    pub newest: bool,
}

/// The key that opens one direction of a session; the worker that owns it has the only one.
pub struct OpenKey {
    key: LessSafeKey,
    suite: Suite,
    index: u32,
    window: Window,
    stats: Arc<SessionStats>,
}

impl OpenKey {
    /// A key that has opened nothing. `index`: what this side named the session.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; KEY_LEN], index: u32) -> Option<Self> {
        Some(Self {
            key: suite.key(key)?,
            suite,
            index,
            window: Window::new(),
            stats: Arc::default(),
        })
    }

    /// Opens one datagram in place.
    /// Shape: `in_out[at..]` is one whole datagram, header first; the payload lands in `in_out[..len]`. After an
    /// error of kind `Forged` the bytes are undefined.
    /// Cost: the number is checked before the tag and noted after it; no allocation.
    #[inline]
    pub fn open(&mut self, in_out: &mut [u8], at: usize) -> Result<Opened, OpenError> {
        let datagram = in_out.get(at..).ok_or(OpenError::Short)?;
        let (&header, sealed) = datagram
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(OpenError::Short)?;
        if sealed.len() < TAG_LEN {
            return Err(OpenError::Short);
        }
        let [kind, flags, start, offset, i0, i1, i2, i3, number @ ..] = header;
        let number = u64::from_le_bytes(number);
        let offsets_fit = flags & PARTIAL != 0 || (start, offset) == (0, 0);
        if kind != DATA || flags & !(PARTIAL | CONTROL) != 0 || !offsets_fit {
            return Err(OpenError::Header);
        }
        if u32::from_le_bytes([i0, i1, i2, i3]) != self.index {
            return Err(OpenError::Index);
        }
        if let Err(stale) = self.window.check(number) {
            add(&self.stats.stale, 1);
            return Err(match stale {
                Stale::Replayed => OpenError::Replayed,
                Stale::Old => OpenError::Old,
            });
        }
        if self.stats.forged() >= FORGED_LIMIT {
            return Err(OpenError::Exhausted);
        }
        let aad = Aad::from(&header);
        let opened = self
            .key
            .open_within(nonce(number), aad, in_out, at + HEADER_LEN..);
        let Ok(len) = opened.map(|payload| payload.len()) else {
            add(&self.stats.forged, 1);
            return Err(OpenError::Forged);
        };
        let first = self.stats.opened() == 0;
        if len == 0 {
            add(&self.stats.empty, 1);
        }
        add(&self.stats.opened, 1);
        add(&self.stats.bytes, u64::try_from(len).unwrap_or(0));
        Ok(Opened {
            first,
            len,
            flags,
            csum: (start, offset),
            newest: self.window.note(number),
        })
    }

    /// What it has seen, for a reader elsewhere.
    #[must_use]
    pub fn stats(&self) -> Arc<SessionStats> {
        Arc::clone(&self.stats)
    }

    /// This side's index of the session.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The suite that it opens with.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenKey")
            .field("suite", &self.suite)
            .field("index", &self.index)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
