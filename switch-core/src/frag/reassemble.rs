//! `[2]` Reassembly of what a sandbox sends in pieces. Bounded in datagrams, pieces, bytes and time, where who has
//! more than a share makes room first;
//! pieces that overlap end their datagram (RFC 5722, and a good habit for IPv4).

use core::net::IpAddr;
use core::time::Duration;

use crate::addr::Mac;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, sum};
use crate::wire::packet::{Ip, Kind, Packet};
use crate::wire::put;

/// Datagrams under way at most.
const MAX_DATAGRAMS: usize = 64;
/// Pieces of one datagram at most: 65,535 bytes in pieces of the IPv6 minimum MTU are 54.
const MAX_PIECES: usize = 64;
/// Bytes held at most.
const MAX_BYTES: usize = 2 << 20;
/// The part of both that a sender has for sure, while another one has more.
const SHARE: usize = 4;
/// How long a datagram may take. Source: RFC 8200 section 4.5 says 60 s, RFC 4963 why less is wiser.
const PATIENCE: Duration = Duration::from_secs(30);
/// A datagram, with its IP header, at most.
const MAX_PACKET: usize = 65_535;
/// Headers of a first piece that are kept for a message about its loss: real ones are shorter.
const MAX_HEADERS: usize = 256;

/// What the pieces of one datagram have in common. Source: RFC 791 section 3.2, RFC 8200 section 4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    sender: (Mac, Option<u16>),
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// Zero for IPv6, whose later pieces may name another.
    proto: u8,
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    born: Tick,
    /// Headers of the first piece.
    head: Option<Head>,
    /// Length, once the last piece is here.
    total: Option<usize>,
    /// Disjoint, in order.
    pieces: Vec<(usize, Vec<u8>)>,
    bytes: usize,
    /// A bit for each of the four ECN codepoints seen.
    ecn: u8,
    /// Pieces contradicted each other: what else comes is dropped too.
    dead: bool,
}

/// Headers of the first piece.
#[derive(Debug)]
struct Head {
    /// From Ethernet on: all that came before the piece's data, unless that is too long to be kept.
    bytes: Vec<u8>,
    /// How much of it leads the whole: the Ethernet and the IP header, without extension headers.
    kept: usize,
    l3: usize,
    proto: u8,
    /// Nothing was left out of `bytes`.
    complete: bool,
}

impl Head {
    fn new(frame: &[u8], packet: &Packet, ip: &Ip) -> Option<Self> {
        let kept = if ip.src.is_ipv4() {
            ip.l4
        } else {
            packet.l3 + 40
        };
        let complete = ip.l4 <= MAX_HEADERS;
        let bytes = frame.get(..if complete { ip.l4 } else { kept })?.to_vec();
        Some(Self {
            bytes,
            kept,
            l3: packet.l3,
            proto: ip.proto,
            complete,
        })
    }
}

/// Datagrams in pieces.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// The oldest first.
    datagrams: Vec<Datagram>,
    bytes: usize,
    lost: u64,
}

impl Reassembly {
    /// Takes a piece. Returns the whole frame, without fragment header, when it was the last one missing.
    /// Shape: `packet` is the parse of `frame`. Cost: one copy of the piece, and one of the whole at the end.
    /// Errors: `Malformed` for a piece that cannot be one, `Fragment` when an overlap or a bound ends the datagram.
    pub fn push(
        &mut self,
        now: Tick,
        frame: &[u8],
        packet: &Packet,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let Kind::Ip(ip) = packet.kind else {
            return Err(DropReason::Malformed);
        };
        let info = ip.frag.ok_or(DropReason::Malformed)?;
        let data = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let start = usize::from(info.offset);
        let end = start + data.len();
        if data.is_empty() || end > MAX_PACKET || (info.more && !data.len().is_multiple_of(8)) {
            return Err(DropReason::Malformed);
        }
        let at = self.place(now, key(packet, &ip, info.id));
        let datagram = self.datagrams.get_mut(at).ok_or(DropReason::Fragment)?;
        if datagram.dead {
            return Err(DropReason::Fragment);
        }
        match datagram.add(start, data, info.more) {
            Added::Known => return Ok(None),
            Added::New => self.bytes += data.len(),
            Added::Contradicts => {
                self.bytes -= datagram.bytes;
                datagram.kill();
                return Err(DropReason::Fragment);
            }
        }
        datagram.ecn |= 1 << (ip.tos & 3);
        if start == 0 {
            datagram.head = Head::new(frame, packet, &ip);
        }
        if datagram.total == Some(datagram.bytes) {
            let done = self.datagrams.remove(at);
            self.bytes -= done.bytes;
            return done.whole().map(Some);
        }
        while self.bytes > MAX_BYTES && self.datagrams.len() > 1 {
            self.make_room(packet.src, MAX_BYTES / SHARE, |d| d.bytes);
        }
        Ok(None)
    }

    /// Forgets datagrams that took too long. `each` gets the first piece of every one of which that is here, as it
    /// came: the sender is to be told. Source: RFC 792, RFC 8200 section 4.5. Returns how many were forgotten.
    pub fn handle_timeout(&mut self, now: Tick, each: &mut impl FnMut(&[u8])) -> usize {
        let mut lost = 0;
        while self.poll_timeout().is_some_and(|t| t <= now) {
            let Some(gone) = self.forget(0) else {
                break;
            };
            lost += usize::from(!gone.dead);
            if let Some(first) = gone.first_piece() {
                each(&first);
            }
        }
        lost
    }

    /// When `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.datagrams.first().map(|d| d.born + PATIENCE)
    }

    /// Datagrams under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// True if none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Datagrams that were given up for lack of time or room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes held. Checks the account against the pieces, and its bound.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let pieces = self.datagrams.iter().flat_map(|d| &d.pieces);
        assert_eq!(
            pieces.map(|(_, data)| data.len()).sum::<usize>(),
            self.bytes
        );
        assert!(self.bytes <= MAX_BYTES && self.len() <= MAX_DATAGRAMS);
        self.bytes
    }

    /// Where the datagram of a key is; a new one if there is none.
    fn place(&mut self, now: Tick, key: Key) -> usize {
        if let Some(at) = self.datagrams.iter().position(|d| d.key == key) {
            return at;
        }
        if self.datagrams.len() >= MAX_DATAGRAMS {
            self.make_room(key.sender.0, MAX_DATAGRAMS / SHARE, |_| 1);
        }
        self.datagrams.push(Datagram {
            key,
            born: now,
            head: None,
            total: None,
            pieces: Vec::new(),
            bytes: 0,
            ecn: 0,
            dead: false,
        });
        self.datagrams.len() - 1
    }

    /// Forgets the oldest datagram of the sender that wants room, if that has more than a share; else of another that
    /// has; else of all.
    fn make_room(&mut self, sender: Mac, share: usize, weight: fn(&Datagram) -> usize) {
        let datagrams = &self.datagrams;
        let greedy = |of: &Mac| {
            let own = datagrams.iter().filter(|d| d.key.sender.0 == *of);
            own.map(weight).sum::<usize>() >= share
        };
        let mut senders = datagrams.iter().map(|d| d.key.sender.0);
        let who = if greedy(&sender) {
            Some(sender)
        } else {
            senders.find(greedy)
        };
        let oldest = datagrams.iter().position(|d| Some(d.key.sender.0) == who);
        self.forget(oldest.unwrap_or(0));
    }

    fn forget(&mut self, at: usize) -> Option<Datagram> {
        if at >= self.datagrams.len() {
            return None;
        }
        let gone = self.datagrams.remove(at);
        self.bytes -= gone.bytes;
        self.lost += u64::from(!gone.dead);
        Some(gone)
    }
}

fn key(packet: &Packet, ip: &Ip, id: u32) -> Key {
    Key {
        sender: (packet.src, packet.vlan),
        src: ip.src,
        dst: ip.dst,
        id,
        proto: if ip.src.is_ipv4() { ip.proto } else { 0 },
    }
}

/// What a piece was to its datagram.
enum Added {
    New,
    /// Byte for byte the same as one before, as networks make them: no overlap (RFC 8200 section 4.5).
    Known,
    Contradicts,
}

impl Datagram {
    fn add(&mut self, start: usize, data: &[u8], more: bool) -> Added {
        let end = start + data.len();
        let at = self.pieces.partition_point(|(s, _)| *s < start);
        let next = self.pieces.get(at);
        let before = at.checked_sub(1).and_then(|i| self.pieces.get(i));
        if let Some((s, d)) = next
            && *s == start
            && d == data
            && (more || self.total == Some(end))
        {
            return Added::Known;
        }
        let overlaps =
            next.is_some_and(|(s, _)| *s < end) || before.is_some_and(|(s, d)| s + d.len() > start);
        let beyond = match self.total {
            Some(total) => end > total || (!more && end != total),
            None => !more && self.pieces.last().is_some_and(|(s, d)| s + d.len() > end),
        };
        if overlaps || beyond || self.pieces.len() >= MAX_PIECES {
            return Added::Contradicts;
        }
        if !more {
            self.total = Some(end);
        }
        self.pieces.insert(at, (start, data.to_vec()));
        self.bytes += data.len();
        Added::New
    }

    fn kill(&mut self) {
        self.dead = true;
        self.bytes = 0;
        self.pieces = Vec::new();
        self.head = None;
    }

    /// The frame that the first piece came in.
    fn first_piece(&self) -> Option<Vec<u8>> {
        let head = self.head.as_ref().filter(|h| h.complete)?;
        let (_, data) = self.pieces.first().filter(|(at, _)| *at == 0)?;
        Some([head.bytes.as_slice(), data].concat())
    }

    /// Puts the pieces behind the first one's headers and mends those.
    fn whole(self) -> Result<Vec<u8>, DropReason> {
        let Head {
            bytes: mut frame,
            kept: header,
            l3,
            proto,
            ..
        } = self.head.ok_or(DropReason::Fragment)?;
        frame.truncate(header);
        frame.reserve_exact(self.bytes);
        for (_, data) in &self.pieces {
            frame.extend_from_slice(data);
        }
        // Congestion marks survive; marked and not capable at once is a lie. Source: RFC 3168 section 5.3.
        let marked = self.ecn & (1 << 3) != 0;
        if marked && self.ecn & 1 != 0 {
            return Err(DropReason::Fragment);
        }
        let tos = frame.get(l3 + 1).copied().unwrap_or_default();
        let length = |from: usize| {
            let len = frame.len().saturating_sub(from);
            u16::try_from(len).map_err(|_| DropReason::Fragment)
        };
        if self.key.src.is_ipv4() {
            let total = length(l3)?;
            let tos = if marked { tos | 3 } else { tos };
            put(&mut frame, l3 + 1, &[tos]);
            put(&mut frame, l3 + 2, &total.to_be_bytes());
            put(&mut frame, l3 + 6, &[0, 0]);
            put(&mut frame, l3 + 10, &[0, 0]);
            let csum = finish(fold(frame.get(l3..header).map_or(0, sum)));
            put(&mut frame, l3 + 10, &csum.to_be_bytes());
        } else {
            let len = length(header)?;
            // The traffic class lies across the first two bytes.
            let tos = if marked { tos | 0x30 } else { tos };
            put(&mut frame, l3 + 1, &[tos]);
            put(&mut frame, l3 + 4, &len.to_be_bytes());
            put(&mut frame, l3 + 6, &[proto]);
        }
        Ok(frame)
    }
}
