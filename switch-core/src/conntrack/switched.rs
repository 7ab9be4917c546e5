//! Stage 6: Conversations between endpoints that a rule or a service has let through, shared by all workers without
//! locks: whoever sees the first packet enters both directions, each packet costs one lookup.
//!
//! An entry is complete in itself: what was decided or chosen once stays so, whatever the configuration becomes.
//! The table has a fixed size. Where a neighbourhood is full, what is over makes room, then what belongs to the
//! endpoint that wants more than its share, then what was never answered, then what was silent longest.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::RandomState;

use super::tuple::{Role, Tuple, WORDS, address};
use crate::addr::{Mac, PortId};
use crate::sync::slots::{Claim, PROBES, Slot, Slots};
use crate::wire::packet::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

/// Words of an entry: its tuple, when and how it was seen last, and where its packets go.
const ENTRY: usize = WORDS + 1 + TARGET;
/// Words of a target.
const TARGET: usize = 7;
/// The word that says when an entry was seen.
const SEEN: usize = WORDS;
/// Entries of a neighbourhood that one endpoint has for sure.
const SHARE: usize = PROBES / 4;
/// Conversations that a table is made for, unless something else is asked: two entries each.
pub const CAPACITY: usize = 32_768;

/// How far a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Never answered.
    New,
    /// Answered.
    Open,
    /// One side has ended.
    Closing,
    /// Over.
    Over,
}

impl Stage {
    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::New,
            1 => Self::Open,
            2 => Self::Closing,
            _ => Self::Over,
        }
    }
}

/// How long silence lasts until a conversation is forgotten, in seconds. Source: RFC 5382 REQ-5, RFC 4787 REQ-5,
/// RFC 5508 REQ-2; RFC 791 section 3.2 for pieces, doubled.
const fn lifetime(tuple: &Tuple, stage: Stage) -> u32 {
    match (tuple.proto, stage) {
        _ if tuple.piece => 30,
        (_, Stage::Over) => 10,
        (PROTO_TCP, Stage::Open) => 7_440,
        (PROTO_TCP, Stage::New | Stage::Closing) => 240,
        (PROTO_UDP, Stage::New) | (PROTO_ICMP | PROTO_ICMPV6, _) => 60,
        _ => 300,
    }
}

/// Where packets of one direction go, if not where they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// From, afterwards.
    pub src: (IpAddr, u16),
    /// To, afterwards.
    pub dst: (IpAddr, u16),
    /// The station.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
}

/// What is known of a packet's conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How far it was before this packet.
    pub stage: Stage,
    /// The packet comes from who answered.
    pub reply: bool,
    /// Seconds since the packet before.
    pub silent: u32,
    /// Where it goes, unless where it says.
    pub target: Option<Target>,
}

/// The second part of an entry, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// In seconds.
    at: u32,
    stage: Stage,
    reply: bool,
    rewritten: bool,
    /// Who began.
    owner: u32,
}

impl Seen {
    const fn pack(self) -> u64 {
        let marks = self.stage as u64 | (self.reply as u64) << 2 | (self.rewritten as u64) << 3;
        // Ports are numbered below 2^20.
        marks << 60 | (self.owner as u64 & 0x0fff_ffff) << 32 | self.at as u64
    }

    fn unpack(word: u64) -> Self {
        let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0);
        Self {
            at: low(word),
            stage: Stage::from_bits(word >> 60),
            reply: word >> 62 & 1 != 0,
            rewritten: word >> 63 != 0,
            owner: low(word >> 32 & 0x0fff_ffff),
        }
    }
}

/// The table.
pub struct Switched {
    slots: Slots<ENTRY>,
    hash: RandomState,
}

impl Switched {
    /// A table for so many conversations. Cost: address space; memory is used as entries are.
    #[must_use]
    pub fn new(capacity: usize, [a, b, c, d]: [u64; 4]) -> Self {
        Self {
            slots: Slots::new(capacity.saturating_mul(2)),
            hash: RandomState::with_seeds(a, b, c, d),
        }
    }

    /// Finds the conversation of a packet and notes that it was seen. Units: `now` in seconds.
    /// Cost: one neighbourhood of slots; nothing is written while the second lasts. No allocation.
    #[must_use]
    pub fn pass(&self, tuple: &Tuple, role: Role, now: u32) -> Option<Found> {
        let (slot, word, target) = self.find(tuple, now)?;
        let seen = Seen::unpack(word);
        let stage = match role {
            Role::Resets => Stage::Over,
            Role::Finishes => seen.stage.max(Stage::Closing),
            // A new connection between the same ports.
            Role::Opens if !seen.reply && seen.stage > Stage::Open => Stage::New,
            Role::Opens | Role::Continues if seen.reply => seen.stage.max(Stage::Open),
            Role::Opens | Role::Continues | Role::Reports | Role::Serves => seen.stage,
        };
        let noted = role != Role::Reports && (seen.at < now || stage != seen.stage);
        if noted {
            let next = Seen {
                at: now,
                stage,
                ..seen
            };
            // Where another worker was faster, it has noted the same second.
            let _ = slot.exchange(SEEN, word, next.pack());
            self.note_partner(tuple, target.as_ref(), stage, now);
        }
        Some(Found {
            stage: seen.stage,
            reply: seen.reply,
            silent: now.saturating_sub(seen.at),
            target,
        })
    }

    /// Finds a conversation without noting anything.
    #[must_use]
    pub fn peek(&self, tuple: &Tuple, now: u32) -> Option<Found> {
        let (_, word, target) = self.find(tuple, now)?;
        let seen = Seen::unpack(word);
        Some(Found {
            stage: seen.stage,
            reply: seen.reply,
            silent: now.saturating_sub(seen.at),
            target,
        })
    }

    /// Enters a conversation, in place of what was known of it. `there` and `back` say where its packets go, unless
    /// where they say. Units: `now` in seconds.
    pub fn open(
        &self,
        tuple: &Tuple,
        (owner, stage): (PortId, Stage),
        targets: Option<(Target, Target)>,
        now: u32,
    ) {
        let seen = |reply| Seen {
            at: now,
            stage,
            reply,
            rewritten: targets.is_some(),
            owner: owner.0,
        };
        let there = targets.map(|t| t.0);
        self.insert(tuple, seen(false), there.as_ref());
        if !tuple.piece {
            let back = partner(tuple, there.as_ref());
            self.insert(&back, seen(true), targets.map(|t| t.1).as_ref());
        }
    }

    fn hash(&self, words: &[u64; WORDS]) -> u64 {
        self.hash.hash_one(words)
    }

    fn find(&self, tuple: &Tuple, now: u32) -> Option<(&Slot<ENTRY>, u64, Option<Target>)> {
        let key = tuple.words();
        for (_, slot) in self.slots.chain(self.hash(&key)) {
            if slot.peek(0) != key[0] {
                // Whoever came behind would have taken this place, which is never given back.
                if slot.peek(1) == 0 {
                    return None;
                }
                continue;
            }
            let seen = slot.look(|words| {
                let same = key.iter().zip(0..).all(|(&k, at)| words.get(at) == k);
                let seen = words.get(SEEN);
                let target = || core::array::from_fn(|at| words.get(SEEN + 1 + at));
                same.then(|| (seen, Seen::unpack(seen).rewritten.then(target)))
            });
            if let Some(Some((word, target))) = seen {
                let at = Seen::unpack(word);
                let live = now.saturating_sub(at.at) < lifetime(tuple, at.stage);
                let target = target.map(|words| unpack(tuple.src.is_ipv6(), words));
                return live.then_some((slot, word, target));
            }
        }
        None
    }

    /// Notes at the other direction's entry what was seen of this one: it lives as long, and is as far.
    fn note_partner(&self, tuple: &Tuple, target: Option<&Target>, stage: Stage, now: u32) {
        if tuple.piece {
            return;
        }
        let other = partner(tuple, target);
        if let Some((slot, word, _)) = self.find(&other, now) {
            let seen = Seen::unpack(word);
            let next = Seen {
                at: now,
                stage,
                ..seen
            };
            let _ = slot.exchange(SEEN, word, next.pack());
        }
    }

    fn insert(&self, tuple: &Tuple, seen: Seen, target: Option<&Target>) {
        let key = tuple.words();
        // Where another worker is writing, the conversation's next packet enters it.
        let Some(claim) = self.place(&key, seen.owner, seen.at) else {
            return;
        };
        let mut words = [0; ENTRY];
        let all = key
            .into_iter()
            .chain([seen.pack()])
            .chain(target.map_or([0; TARGET], pack));
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        claim.set(words);
    }

    /// Makes room for an entry.
    fn place(&self, key: &[u64; WORDS], owner: u32, now: u32) -> Option<Claim<'_, ENTRY>> {
        let mut own = 0;
        let mut worst: Option<(Rank, &Slot<ENTRY>)> = None;
        let mut worst_own: Option<(Rank, &Slot<ENTRY>)> = None;
        for (_, slot) in self.slots.chain(self.hash(key)) {
            let Some(all) = slot.look(|words| words.all()) else {
                continue;
            };
            let (found, rest) = all.split_at_checked(WORDS)?;
            if found == key {
                return slot.claim();
            }
            let seen = Seen::unpack(*rest.first()?);
            let rank = rank(found, seen, now);
            if rank > Rank::Dead && seen.owner == owner {
                own += 1;
                keep(&mut worst_own, rank, slot);
            }
            keep(&mut worst, rank, slot);
        }
        let free = worst.filter(|w| w.0 <= Rank::Dead);
        let chosen = free
            .or_else(|| worst_own.filter(|_| own >= SHARE))
            .or(worst);
        chosen.and_then(|(_, slot)| slot.claim())
    }
}

fn keep<'a>(best: &mut Option<(Rank, &'a Slot<ENTRY>)>, rank: Rank, slot: &'a Slot<ENTRY>) {
    if best.is_none_or(|(least, _)| rank < least) {
        *best = Some((rank, slot));
    }
}

/// Who makes room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Empty,
    Dead,
    /// Seen then.
    New(u32),
    Answered(u32),
}

fn rank(key: &[u64], seen: Seen, now: u32) -> Rank {
    let Some(&marks) = key.get(1).filter(|m| **m != 0) else {
        return Rank::Empty;
    };
    let silent = now.saturating_sub(seen.at);
    // The longest that this protocol and stage may have, without the whole tuple.
    let dead = match (marks & 0xff, seen.stage) {
        (_, Stage::Over) => silent >= 10,
        (p, Stage::Open) if p == u64::from(PROTO_TCP) => silent >= 7_440,
        _ => silent >= 300,
    };
    match (dead, seen.stage) {
        (true, _) => Rank::Dead,
        (false, Stage::New) => Rank::New(seen.at),
        (false, _) => Rank::Answered(seen.at),
    }
}

/// The tuple of the packets that come back.
fn partner(tuple: &Tuple, target: Option<&Target>) -> Tuple {
    let there = target.map_or(*tuple, |t| Tuple {
        src: t.src.0,
        dst: t.dst.0,
        ports: (t.src.1, t.dst.1),
        ..*tuple
    });
    there.reversed()
}

fn pack(target: &Target) -> [u64; TARGET] {
    let [s, t] = address(target.src.0);
    let [d, e] = address(target.dst.0);
    let ports = u64::from(target.src.1) << 16 | u64::from(target.dst.1);
    [
        s,
        t,
        d,
        e,
        ports,
        target.mac.to_u64(),
        u64::from(target.port.0),
    ]
}

fn unpack(v6: bool, words: [u64; TARGET]) -> Target {
    let [s, t, d, e, ports, mac, port] = words;
    let address = |high: u64, low: u64| {
        if v6 {
            IpAddr::V6(Ipv6Addr::from_bits(
                u128::from(high) << 64 | u128::from(low),
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(low).unwrap_or(0)))
        }
    };
    let number = |word: u64| u16::try_from(word & 0xffff).unwrap_or(0);
    let [_, _, a, b, c, x, y, z] = mac.to_be_bytes();
    Target {
        src: (address(s, t), number(ports >> 16)),
        dst: (address(d, e), number(ports)),
        mac: Mac([a, b, c, x, y, z]),
        port: PortId(u32::try_from(port).unwrap_or(u32::MAX)),
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
