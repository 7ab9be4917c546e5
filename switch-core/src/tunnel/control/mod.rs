//! `[7]` Messages between two switches, which travel inside sealed datagrams. Neighbours: `announce` and `pmtu`, which
//! say them; the seal, which proves who said them.
//!
//! All integers are little-endian. Every message begins with four bytes: version (1), kind, flags, and a zero. Bits
//! and bytes called zero are sent so and ignored on receipt; another version or kind is refused.
//!
//! | kind | message | bytes after the first four |
//! |---|---|---|
//! | 1 | announce | stream 12, number u32, records to the end ([`record`]). Flag bit 0: what there was when the stream began is told |
//! | 2 | ack | stream 12, next u32, mask u32. Flag bit 0: message 0 of the stream is not there; bit 1: begin another |
//! | 3 | probe | id u32, size u16, zero u16, zeros to the end |
//! | 4 | probe ack | id u32, size u16, zero u16 |
//! | 5 | ping | id u32, time u64 |
//! | 6 | pong | as in the ping |
//! | 7 | keep-alive | nothing |
//!
//! A stream is named by the start of who speaks (u64, drawn at random at each start) and its count since then (u32).
//! Its messages are numbered from 0; what an earlier stream told holds only if this one tells it again. In an ack, everything before `next` was taken, and bit n of `mask` says that
//! message `next + 1 + n` is there too. A probe's size is that of the IP packet which carried it, in bytes.

pub mod groups;
pub mod prefix;
pub mod record;
#[cfg(test)]
mod tests;

use record::Records;

/// The version that is spoken here.
pub const VERSION: u8 = 1;
/// Longest message: what fits beside the overhead of a seal in the smallest path that IPv6 allows.
/// Source: RFC 8200 section 5: 1280, less 40 for IP, 8 for UDP, 32 for the seal.
pub const MAX_ANNOUNCE: usize = 1280 - 40 - 8 - 32;
/// Bytes of an announcement before its records.
pub const ANNOUNCE_HEADER: usize = 20;
/// Bytes of a probe before its padding.
pub const PROBE_HEADER: usize = 12;

const ANNOUNCE: u8 = 1;
const ACK: u8 = 2;
const PROBE: u8 = 3;
const PROBE_ACK: u8 = 4;
const PING: u8 = 5;
const PONG: u8 = 6;
const KEEP_ALIVE: u8 = 7;

const COMPLETE: u8 = 1;
const UNKNOWN: u8 = 1;
const AGAIN: u8 = 2;

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Shorter or longer than its kind.
    #[error("the message has not the length of its kind")]
    Length,
    /// Another version than this one's.
    #[error("version {0} of the messages between switches is not known")]
    Version(u8),
    /// A kind that is not known.
    #[error("kind {0} of the messages between switches is not known")]
    Kind(u8),
    /// A record breaks off, or says what it must not.
    #[error("a record of an announcement is malformed")]
    Record,
}

/// A run of announcements from one switch to one other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stream {
    /// Drawn at random at each start of who speaks.
    pub start: u64,
    /// How many runs there were since then, to anyone.
    pub count: u32,
}

/// Endpoints and networks that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce<'a> {
    /// Which run of announcements this belongs to.
    pub stream: Stream,
    /// Its place in the run.
    pub number: u32,
    /// With this message everything is told that there was when the run began.
    pub complete: bool,
    /// What is announced.
    pub records: Records<'a>,
}

/// What has arrived of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The stream.
    pub stream: Stream,
    /// Everything before this number was taken.
    pub next: u32,
    /// Bit n: message `next + 1 + n` is there too.
    pub mask: u32,
    /// The stream is not known: its message 0 is not there.
    pub unknown: bool,
    /// Another stream is asked for.
    pub again: bool,
}

/// A packet of a size that the path may not carry, or the answer that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which probe.
    pub id: u32,
    /// Size of the IP packet that carried it.
    pub size: u16,
}

/// A question about the time to the other and back, or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Which question.
    pub id: u32,
    /// Nanoseconds on the clock of who asked.
    pub time: u64,
}

/// A message from another switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Endpoints and networks that come and go.
    Announce(Announce<'a>),
    /// What has arrived of a stream.
    Ack(Ack),
    /// A packet of a size that the path may not carry.
    Probe(Probe),
    /// The path has carried a probe.
    ProbeAck(Probe),
    /// A question about the time to the other and back.
    Ping(Ping),
    /// Its answer.
    Pong(Ping),
    /// Nothing but that the other is there.
    KeepAlive,
}

impl<'a> Message<'a> {
    /// Reads a message, and checks every record of an announcement. Cost: no allocation.
    /// Shape: `bytes` is the opened payload of one sealed datagram. Errors: see [`ControlError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ControlError> {
        let (&[version, kind, flags, _], body) =
            bytes.split_first_chunk().ok_or(ControlError::Length)?;
        if version != VERSION {
            return Err(ControlError::Version(version));
        }
        match kind {
            ANNOUNCE => announce(flags, body),
            ACK => exact(body, ack).map(|ack| {
                Message::Ack(Ack {
                    unknown: flags & UNKNOWN != 0,
                    again: flags & AGAIN != 0,
                    ..ack
                })
            }),
            PROBE => probe(&mut Reader(body))
                .map(Message::Probe)
                .ok_or(ControlError::Length),
            PROBE_ACK => exact(body, probe).map(Message::ProbeAck),
            PING => exact(body, ping).map(Message::Ping),
            PONG => exact(body, ping).map(Message::Pong),
            KEEP_ALIVE => exact(body, |_| Some(Message::KeepAlive)),
            other => Err(ControlError::Kind(other)),
        }
    }
}

fn announce(flags: u8, body: &[u8]) -> Result<Message<'_>, ControlError> {
    let mut reader = Reader(body);
    let head = |r: &mut Reader<'_>| Some((stream(r)?, r.u32()?));
    let (stream, number) = head(&mut reader).ok_or(ControlError::Length)?;
    Ok(Message::Announce(Announce {
        stream,
        number,
        complete: flags & COMPLETE != 0,
        records: Records::check(reader.0).ok_or(ControlError::Record)?,
    }))
}

fn exact<'a, T>(
    body: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Option<T>,
) -> Result<T, ControlError> {
    let mut reader = Reader(body);
    match read(&mut reader) {
        Some(message) if reader.0.is_empty() => Ok(message),
        _ => Err(ControlError::Length),
    }
}

fn stream(r: &mut Reader<'_>) -> Option<Stream> {
    Some(Stream {
        start: r.u64()?,
        count: r.u32()?,
    })
}

fn ack(r: &mut Reader<'_>) -> Option<Ack> {
    Some(Ack {
        stream: stream(r)?,
        next: r.u32()?,
        mask: r.u32()?,
        unknown: false,
        again: false,
    })
}

fn probe(r: &mut Reader<'_>) -> Option<Probe> {
    let probe = Probe {
        id: r.u32()?,
        size: r.u16()?,
    };
    r.u16()?;
    Some(probe)
}

fn ping(r: &mut Reader<'_>) -> Option<Ping> {
    Some(Ping {
        id: r.u32()?,
        time: r.u64()?,
    })
}

impl Stream {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.start.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
    }
}

impl Ack {
    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let unknown = if self.unknown { UNKNOWN } else { 0 };
        let flags = unknown | if self.again { AGAIN } else { 0 };
        out.extend_from_slice(&[VERSION, ACK, flags, 0]);
        self.stream.write(out);
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.mask.to_le_bytes());
    }
}

impl Probe {
    /// Appends the question, padded to `len` bytes in all, or to the least that it needs.
    pub fn write(&self, out: &mut Vec<u8>, len: usize) {
        let start = out.len();
        self.write_as(PROBE, out);
        out.resize(start + len.max(PROBE_HEADER), 0);
    }

    /// Appends the answer.
    pub fn write_ack(&self, out: &mut Vec<u8>) {
        self.write_as(PROBE_ACK, out);
    }

    fn write_as(&self, kind: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, kind, 0, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
    }
}

impl Ping {
    /// Appends the question.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_as(PING, out);
    }

    /// Appends the answer.
    pub fn write_pong(&self, out: &mut Vec<u8>) {
        self.write_as(PONG, out);
    }

    fn write_as(&self, kind: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, kind, 0, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
    }
}

/// Appends a keep-alive.
pub fn write_keep_alive(out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, KEEP_ALIVE, 0, 0]);
}

/// Writes one announcement, record by record.
#[derive(Debug)]
pub struct AnnounceWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> AnnounceWriter<'a> {
    /// Appends the head of the message.
    pub fn new(out: &'a mut Vec<u8>, stream: Stream, number: u32) -> Self {
        let start = out.len();
        out.extend_from_slice(&[VERSION, ANNOUNCE, 0, 0]);
        stream.write(out);
        out.extend_from_slice(&number.to_le_bytes());
        Self { out, start }
    }

    /// Appends a record, unless the message would be longer than [`MAX_ANNOUNCE`]: then false.
    /// Shape: `record` is one whole record, as the functions of [`record`] make it.
    pub fn push(&mut self, record: &[u8]) -> bool {
        let fits = self.out.len() - self.start + record.len() <= MAX_ANNOUNCE;
        if fits {
            self.out.extend_from_slice(record);
        }
        fits
    }

    /// Says that everything is told with this message that there was when the stream began.
    pub fn complete(&mut self) {
        if let Some(flags) = self.out.get_mut(self.start + 2) {
            *flags |= COMPLETE;
        }
    }

    /// True if no record was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.len() - self.start == ANNOUNCE_HEADER
    }
}

impl Announce<'_> {
    /// Appends the message, with the records that fit.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut writer = AnnounceWriter::new(out, self.stream, self.number);
        for record in self.records {
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            if !writer.push(&bytes) {
                break;
            }
        }
        if self.complete {
            writer.complete();
        }
    }
}

/// What is left to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
