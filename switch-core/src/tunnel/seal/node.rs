//! A host among its peers: what the program calls.

use core::fmt;
use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::{AddError, Event, NodeConfig, PeerConfig, SendError, Status};
use super::keys::{NetworkSecret, PublicKey, Random};
use super::load::Load;
use super::noise::Identity;
use super::peer::Peer;
use super::refuse::Refusals;
use super::shared::{MAX_PEERS, Shared};
use crate::addr::PeerId;
use crate::time::Tick;

/// The control side of the sealed protocol on one host: handshakes, keep-alives, roaming. It moves no data: workers
/// seal and open with the keys that its events bring.
///
/// After each call take all events, and have keys of [`Event::Receive`] installed, before datagrams are taken with
/// [`Node::poll_transmit`]: then a peer never uses a key that is not there yet. Call [`Node::handle_timeout`] when
/// [`Node::poll_timeout`] says so. Cost: everything here allocates and takes some logarithm of the peers' number.
pub struct Node {
    pub(super) shared: Shared,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) by_key: BTreeMap<PublicKey, PeerId>,
    /// When each peer has something to do.
    pub(super) timers: BTreeSet<(Tick, PeerId)>,
    /// The latest time that was given.
    pub(super) now: Tick,
    /// When strays are looked up again.
    pub(super) strays: Tick,
}

impl Node {
    /// A host without peers. None only without X25519, which is compiled in.
    #[must_use]
    pub fn new(now: Tick, config: &NodeConfig, mut random: Box<dyn Random>) -> Option<Self> {
        let identity = Identity::new(&config.secret)?;
        let load = Load::new(now, &mut *random);
        Some(Self {
            shared: Shared {
                identity,
                random,
                suite: config.suite,
                indices: BTreeMap::new(),
                secrets: BTreeMap::new(),
                load,
                events: VecDeque::new(),
                queue: VecDeque::new(),
                refusals: Refusals::default(),
                wall: config.wall,
                start: now,
                last_stamp: 0,
            },
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            timers: BTreeSet::new(),
            now,
            strays: Tick::ZERO,
        })
    }

    /// This host's public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.shared.identity.public()
    }

    /// Makes a host a peer. If it is known where it is, and it has a keep-alive, a handshake begins.
    pub fn add_peer(&mut self, now: Tick, id: PeerId, config: &PeerConfig) -> Result<(), AddError> {
        let now = self.tick(now);
        if config.key == self.public() {
            return Err(AddError::Own);
        }
        if self.peers.contains_key(&id) || self.by_key.contains_key(&config.key) {
            return Err(AddError::Exists);
        }
        if self.peers.len() >= MAX_PEERS {
            return Err(AddError::Full);
        }
        if config.secrets.is_empty() {
            return Err(AddError::Secret);
        }
        if !self.shared.identity.add(config.key) {
            return Err(AddError::Key);
        }
        let mut hints = Vec::new();
        for secret in &config.secrets {
            match self.shared.use_secret(secret, None) {
                Ok(hint) => hints.push(hint),
                Err(error) => {
                    self.shared.identity.remove(&config.key);
                    for hint in hints {
                        self.shared.leave_secret(hint);
                    }
                    return Err(error);
                }
            }
        }
        let mut peer = Peer::new(id, config.key, hints.into());
        peer.configured = config.endpoint;
        peer.endpoint = config.endpoint;
        peer.keepalive = config.keepalive;
        self.by_key.insert(config.key, id);
        self.peers.insert(id, peer);
        self.drive(now, id);
        Ok(())
    }

    /// Ends all sessions with a peer, and forgets it. False if it was none.
    pub fn remove_peer(&mut self, id: PeerId) -> bool {
        let Some(mut peer) = self.peers.remove(&id) else {
            return false;
        };
        self.timers.remove(&(peer.due, id));
        self.by_key.remove(&peer.key);
        peer.drop_pending(&mut self.shared);
        let mute = peer.current.is_some();
        let sessions = [peer.current.take(), peer.previous.take(), peer.next.take()];
        for session in sessions.into_iter().flatten() {
            self.shared.close(id, &session);
        }
        if mute {
            self.shared.events.push_back(Event::Mute { peer: id });
        }
        for &hint in &peer.hints {
            self.shared.leave_secret(hint);
        }
        self.shared.identity.remove(&peer.key);
        true
    }

    /// Changes where a peer is configured to be, and tries there next. Sessions stay. False if it is no peer.
    pub fn set_endpoint(&mut self, now: Tick, id: PeerId, endpoint: Option<SocketAddr>) -> bool {
        let now = self.tick(now);
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        peer.configured = endpoint;
        if peer.current.is_none() || peer.endpoint.is_none() {
            peer.endpoint = endpoint;
            peer.attempt = None;
        }
        self.drive(now, id);
        true
    }

    /// Hears strangers that have this secret, and tells of them by [`Event::Introduced`], until
    /// [`Node::remove_invite`]. Errors: `Exists` for an id in use.
    pub fn add_invite(&mut self, invite: u32, secret: &NetworkSecret) -> Result<(), AddError> {
        let known = |invite| move |known: &super::shared::Known| known.invite == Some(invite);
        if self.shared.secrets.values().any(known(invite)) {
            return Err(AddError::Exists);
        }
        self.shared.use_secret(secret, Some(invite)).map(drop)
    }

    /// Ends an invitation. Peers that came by it stay.
    pub fn remove_invite(&mut self, invite: u32) {
        self.shared.end_invite(invite);
    }

    /// Asks for a session with a peer for the next minutes, where none is kept at all times.
    pub fn demand(&mut self, now: Tick, id: PeerId) {
        let now = self.tick(now);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.demanded = Some(now);
            self.drive(now, id);
        }
    }

    /// Seals a control message to a peer and queues it. Asks for a session where there is none.
    pub fn send(&mut self, now: Tick, id: PeerId, payload: &[u8]) -> Result<(), SendError> {
        let now = self.tick(now);
        let peer = self.peers.get_mut(&id).ok_or(SendError::NoSession)?;
        let sent = peer.send(payload, &mut self.shared);
        if sent == Err(SendError::NoSession) {
            self.demand(now, id);
        }
        sent
    }

    /// Takes the next datagram to send: where to, and its bytes in `out`, which is overwritten.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let (to, datagram) = self.shared.queue.pop_front()?;
        out.clear();
        out.extend_from_slice(&datagram);
        Some(to)
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// When [`Node::handle_timeout`] has something to do; none while nothing is to come.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.timers.first().map(|&(due, _)| due)
    }

    /// How it stands with a peer.
    #[must_use]
    pub fn status(&self, id: PeerId) -> Option<Status> {
        self.peers.get(&id).map(Peer::status)
    }

    /// Who has this key.
    #[must_use]
    pub fn peer_of(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// What was not taken notice of, and why.
    #[must_use]
    pub const fn refusals(&self) -> &Refusals {
        &self.shared.refusals
    }

    /// Diffie-Hellman computations so far: what handshakes cost.
    #[must_use]
    pub fn computed(&self) -> u64 {
        self.shared.identity.done()
    }

    /// Time never goes back here, whatever a caller's clock does.
    pub(super) fn tick(&mut self, now: Tick) -> Tick {
        self.now = self.now.max(now);
        self.now
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("public", &self.public())
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
