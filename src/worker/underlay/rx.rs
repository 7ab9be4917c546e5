//! Stage 1: Frames from other hosts. Datagrams that came together are taken apart, and neighbours of one flow made one
//! super-frame, in the buffer that they came in.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use switch_core::addr::{PeerId, PortId, Vni};
use switch_core::tunnel::gather::Gather;
use switch_core::tunnel::seal::OpenKey;
use switch_core::verdict::Drops;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Origin;
use super::open::Ends;
use super::slow::Slow;
use crate::endpoint::udp::{BATCH, Inbox, UnderlaySocket};
use crate::worker::budget::Turn;

/// Above so many bytes a message, few are taken at once: they are to be still in the cache when they are sent on.
const LARGE: usize = 8 * 1024;

/// What a socket's datagrams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN in the clear.
    Vxlan,
    /// The sealed protocol.
    Sealed,
    /// Bare packets of IP, which say of no network that they are for it: they are for this one.
    Bare(Vni),
}

/// Where frames go, and as whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The port that stands for the other host.
    pub port: PortId,
    /// The place of the network.
    pub net: u32,
    /// The network's MTU.
    pub mtu: u16,
}

/// What came for one network from one other host, by this worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceStats {
    /// Frames, as datagrams brought them.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Who may send for a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) target: Target,
    pub(super) stats: SourceStats,
}

/// A session whose datagrams this worker opens.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: OpenKey,
    pub(super) peer: PeerId,
    /// The way of its newest datagram.
    pub(super) ends: Ends,
}

/// What messages are opened with.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) sources: HashMap<(Vni, Origin), Source, RandomState>,
    pub(super) sessions: HashMap<u32, Session, RandomState>,
    pub(super) gather: Gather,
    /// Where bare packets are given their headers; kept for its memory.
    pub(super) scratch: Vec<u8>,
    pub(super) slow: Option<Slow>,
    /// Everything that was not taken.
    pub(super) drops: Drops,
    /// What of it came by the sessions of each peer.
    pub(super) refused: HashMap<PeerId, Drops, RandomState>,
}

/// The receiving side of the underlay on one worker.
#[derive(Debug)]
pub struct UnderlayRx {
    inbox: Inbox,
    /// What the last batch was like: how many messages the next one takes.
    most: usize,
    tables: Tables,
}

/// A hash that no sender can guess.
fn random() -> RandomState {
    let seed = || std::hash::RandomState::new().hash_one(0);
    RandomState::with_seeds(seed(), seed(), seed(), seed())
}

impl Default for UnderlayRx {
    fn default() -> Self {
        Self::new(None)
    }
}

impl UnderlayRx {
    /// A side that accepts nothing yet. What is no frame goes to `slow`; without it, it is dropped.
    #[must_use]
    pub fn new(slow: Option<Slow>) -> Self {
        Self {
            inbox: Inbox::default(),
            most: BATCH,
            tables: Tables {
                sources: HashMap::with_hasher(random()),
                sessions: HashMap::with_hasher(random()),
                gather: Gather::default(),
                scratch: Vec::new(),
                slow,
                drops: Drops::default(),
                refused: HashMap::with_hasher(random()),
            },
        }
    }

    /// Takes frames of `vni` from another host from now on.
    pub fn accept(&mut self, vni: Vni, from: Origin, target: Target) {
        let stats = self.stats(vni, from).unwrap_or_default();
        let source = Source { target, stats };
        self.tables.sources.insert((vni, from), source);
    }

    /// Takes no more of them.
    pub fn refuse(&mut self, vni: Vni, from: Origin) {
        self.tables.sources.remove(&(vni, from));
    }

    /// Opens datagrams of a session with this key from now on; `ends` is where its peer is believed to be, and which
    /// address of the host it sends to.
    pub fn add_key(&mut self, key: OpenKey, peer: PeerId, ends: (SocketAddr, Option<IpAddr>)) {
        let session = Session { key, peer, ends };
        self.tables.sessions.insert(session.key.index(), session);
    }

    /// Opens no more of them.
    pub fn remove_key(&mut self, index: u32) {
        self.tables.sessions.remove(&index);
    }

    /// What came for a network from another host.
    #[must_use]
    pub fn stats(&self, vni: Vni, from: Origin) -> Option<SourceStats> {
        let source = self.tables.sources.get(&(vni, from));
        source.map(|source| source.stats)
    }

    /// Datagrams that were not taken, by reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.tables.drops
    }

    /// Datagrams of a peer's sessions that were not taken, by reason.
    #[must_use]
    pub fn refused(&self, peer: PeerId) -> Option<&Drops> {
        self.tables.refused.get(&peer)
    }

    /// Forgets what was not taken of a peer's: its number is another's then.
    pub fn forget(&mut self, peer: PeerId) {
        self.tables.refused.remove(&peer);
    }

    /// Receives what waits at a socket, as much as a turn allows, and gives each frame to `each`: with the place of its
    /// network and the port that it came by. True if there may be more.
    /// Errors: those of recvmmsg(2).
    pub fn turn(
        &mut self,
        socket: &UnderlaySocket,
        carrier: Carrier,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) -> io::Result<bool> {
        let mut turn = Turn::new(false);
        while !turn.over() {
            let count = match self.inbox.recv(socket, self.most) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
                Err(e) => return Err(e),
            };
            let mut bytes = 0;
            for i in 0..count {
                let Some(message) = self.inbox.get(i) else {
                    continue;
                };
                bytes += message.bytes.len();
                turn.spend(message.bytes.len());
                match carrier {
                    Carrier::Vxlan => self.tables.open_clear(message, each),
                    Carrier::Sealed => self.tables.open_sealed(message, each),
                    Carrier::Bare(vni) => self.tables.open_bare(vni, &message, each),
                }
            }
            let asked = self.most;
            self.most = if bytes / count.max(1) > LARGE {
                2
            } else {
                BATCH
            };
            if count < asked {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
