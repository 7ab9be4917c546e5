//! What all peers of a node share: its key, indices, secrets, and the queues to the program.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::event::{AddError, Event};
use super::keys::{MacKey, NetworkSecret, Random};
use super::load::Load;
use super::noise::Identity;
use super::peer::Session;
use super::refuse::{Refusal, Refusals};
use super::suite::Suite;
use crate::addr::PeerId;
use crate::time::Tick;

/// Peers that a node has at most.
pub const MAX_PEERS: usize = 4096;
/// Secrets of networks and invitations that a node has at most.
pub const MAX_SECRETS: usize = 4096;
/// Datagrams that wait to be sent: a handshake and a keep-alive for every peer.
pub const MAX_QUEUED: usize = 2 * MAX_PEERS;
/// Indices in use: each peer has three sessions and a handshake at most.
const MAX_INDICES: usize = 4 * MAX_PEERS;

/// A secret, and what follows from it for messages to this host.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) secret: NetworkSecret,
    pub(super) mac: MacKey,
    /// Peers that have it.
    pub(super) users: usize,
    /// The invitation it is from.
    pub(super) invite: Option<u32>,
}

pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) random: Box<dyn Random>,
    pub(super) suite: Suite,
    pub(super) indices: BTreeMap<u32, PeerId>,
    pub(super) secrets: BTreeMap<u32, Known>,
    pub(super) load: Load,
    pub(super) events: VecDeque<Event>,
    pub(super) queue: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) refusals: Refusals,
    /// The wall clock at `start`. Units: nanoseconds.
    pub(super) wall: u64,
    pub(super) start: Tick,
    pub(super) last_stamp: u64,
}

impl Shared {
    /// Queues a datagram; false when there is no room.
    pub(super) fn transmit(&mut self, to: SocketAddr, datagram: Vec<u8>) -> bool {
        if self.queue.len() >= MAX_QUEUED {
            self.refusals.count(Refusal::QueueFull);
            return false;
        }
        self.queue.push_back((to, datagram));
        true
    }

    /// A session is over: its keys are used no more.
    pub(super) fn close(&mut self, peer: PeerId, session: &Session) {
        session.send.close();
        self.indices.remove(&session.index);
        let index = session.index;
        self.events.push_back(Event::Closed { peer, index });
    }

    /// A new index for a session of `peer`. It cannot be guessed, and is none in use.
    pub(super) fn new_index(&mut self, peer: PeerId) -> Option<u32> {
        if self.indices.len() >= MAX_INDICES {
            self.refusals.count(Refusal::TableFull);
            return None;
        }
        // One of 2^18 is taken at most: the second draw is rare, the fifth never comes.
        for _ in 0..8 {
            let mut bytes = [0; 4];
            self.random.fill(&mut bytes);
            let index = u32::from_le_bytes(bytes);
            if index != 0 && !self.indices.contains_key(&index) {
                self.indices.insert(index, peer);
                return Some(index);
            }
        }
        None
    }

    /// A stamp for an initiation: the time of day, and more than any before it.
    pub(super) fn new_stamp(&mut self, now: Tick) -> u64 {
        let passed = u64::try_from(now.since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let time = self.wall.saturating_add(passed);
        self.last_stamp = time.max(self.last_stamp.saturating_add(1));
        self.last_stamp
    }

    /// Up to a quarter of `time`, so that hosts that began together do not go on together.
    pub(super) fn jitter(&mut self, time: Duration) -> Duration {
        let mut byte = [0];
        self.random.fill(&mut byte);
        let [part] = byte;
        time * u32::from(part) / (4 * 256)
    }

    /// Notes one more user of a secret, or an invitation; gives its hint.
    pub(super) fn use_secret(
        &mut self,
        secret: &NetworkSecret,
        invite: Option<u32>,
    ) -> Result<u32, AddError> {
        let hint = secret.hint();
        let full = self.secrets.len() >= MAX_SECRETS;
        if let Some(known) = self.secrets.get_mut(&hint) {
            if known.secret != *secret || (invite.is_some() && known.invite.is_some()) {
                return Err(AddError::Secret);
            }
            known.users += usize::from(invite.is_none());
            known.invite = known.invite.or(invite);
            return Ok(hint);
        }
        if full {
            return Err(AddError::Full);
        }
        let known = Known {
            secret: secret.clone(),
            mac: secret.mac_key(&self.identity.public()),
            users: usize::from(invite.is_none()),
            invite,
        };
        self.secrets.insert(hint, known);
        Ok(hint)
    }

    /// A peer is gone that used it.
    pub(super) fn leave_secret(&mut self, hint: u32) {
        if let Some(known) = self.secrets.get_mut(&hint) {
            known.users = known.users.saturating_sub(1);
            self.forget_unused(hint);
        }
    }

    /// Ends an invitation.
    pub(super) fn end_invite(&mut self, invite: u32) {
        let found = self
            .secrets
            .iter_mut()
            .find(|(_, known)| known.invite == Some(invite));
        if let Some((&hint, known)) = found {
            known.invite = None;
            self.forget_unused(hint);
        }
    }

    fn forget_unused(&mut self, hint: u32) {
        let unused = |known: &Known| known.users == 0 && known.invite.is_none();
        if self.secrets.get(&hint).is_some_and(unused) {
            self.secrets.remove(&hint);
        }
    }
}
