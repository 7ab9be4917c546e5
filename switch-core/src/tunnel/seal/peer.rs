//! One peer: its sessions, its handshake under way, and what was seen of it.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use snow::HandshakeState;

use super::data::{CONTROL, HEADER_LEN, OpenKey, SendKey, SessionStats, TAG_LEN};
use super::event::{Event, SendError, State, Status};
use super::keys::{MAC_LEN, PublicKey};
use super::noise::Split;
use super::shared::Shared;
use super::suite::Suite;
use super::times::{LOOK_BUSY, REJECT_AFTER, UNREACHABLE_AFTER};
use crate::addr::PeerId;
use crate::time::Tick;

/// The keys of one handshake.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) index: u32,
    pub(super) send: Arc<SendKey>,
    pub(super) stats: Arc<SessionStats>,
    pub(super) made: Tick,
    /// Whether this side began the handshake.
    pub(super) initiator: bool,
    /// Whether the peer was heard on it, and so has its keys.
    pub(super) confirmed: bool,
    /// What was counted at the last look: sealed by workers, opened, opened with something in it.
    pub(super) seen: [u64; 3],
}

impl Session {
    /// A session, and its receiving key.
    pub(super) fn new(
        now: Tick,
        suite: Suite,
        split: &Split,
        (index, receiver): (u32, u32),
        initiator: bool,
    ) -> Option<(Self, OpenKey)> {
        let open = OpenKey::new(suite, &split.receive, index)?;
        let session = Self {
            index,
            send: Arc::new(SendKey::new(suite, &split.send, receiver)?),
            stats: open.stats(),
            made: now,
            initiator,
            confirmed: false,
            seen: [0; 3],
        };
        Some((session, open))
    }

    pub(super) fn is_over(&self, now: Tick) -> bool {
        now.since(self.made) >= REJECT_AFTER
    }
}

/// A handshake that this side began.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) index: u32,
    pub(super) state: Box<HandshakeState>,
    pub(super) suite: Suite,
    /// The hint of the secret it was made with.
    pub(super) hint: u32,
    pub(super) mac1: [u8; MAC_LEN],
    pub(super) sent: Tick,
}

/// The wish for a new session, until there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) since: Tick,
    pub(super) tries: u32,
    pub(super) next: Tick,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: PublicKey,
    /// The hints of the secrets that both know.
    pub(super) hints: Box<[u32]>,
    pub(super) configured: Option<SocketAddr>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: Option<Duration>,
    /// Sends and receives.
    pub(super) current: Option<Session>,
    /// Receives what was under way when the current one was made.
    pub(super) previous: Option<Session>,
    /// Answered, and not yet heard on: receives only.
    pub(super) next: Option<Session>,
    pub(super) pending: Option<Pending>,
    pub(super) attempt: Option<Attempt>,
    /// The highest stamp of an initiation whose session was confirmed, and so was no replay.
    pub(super) stamp: u64,
    /// The stamp of the initiation that was answered last, and when that was.
    pub(super) answered: Option<(u64, Tick)>,
    pub(super) cookie: Option<([u8; MAC_LEN], Tick)>,
    pub(super) heard: Option<Tick>,
    pub(super) sent: Tick,
    /// Since when something was sent that nothing has followed.
    pub(super) unanswered: Option<Tick>,
    /// Something came at the last look, and nothing was sent since.
    pub(super) owes: bool,
    pub(super) demanded: Option<Tick>,
    /// When a stamp that did not grow was met with a handshake.
    pub(super) healed: Option<Tick>,
    pub(super) handshake: Option<Tick>,
    pub(super) rtt: Option<Duration>,
    pub(super) unreachable: bool,
    /// The next look at the counters.
    pub(super) look: Tick,
    /// As it stands in the table of timers.
    pub(super) due: Tick,
}

impl Peer {
    pub(super) fn new(id: PeerId, key: PublicKey, hints: Box<[u32]>) -> Self {
        Self {
            id,
            key,
            hints,
            configured: None,
            endpoint: None,
            keepalive: None,
            current: None,
            previous: None,
            next: None,
            pending: None,
            attempt: None,
            stamp: 0,
            answered: None,
            cookie: None,
            heard: None,
            sent: Tick::ZERO,
            unanswered: None,
            owes: false,
            demanded: None,
            healed: None,
            handshake: None,
            rtt: None,
            unreachable: false,
            look: Tick::NEVER,
            due: Tick::NEVER,
        }
    }

    pub(super) fn status(&self) -> Status {
        let state = if self.unreachable {
            State::Unreachable
        } else if self.current.is_some() {
            State::Up
        } else if self.attempt.is_some() {
            State::Connecting
        } else {
            State::Idle
        };
        Status {
            state,
            endpoint: self.endpoint,
            suite: self.current.as_ref().map(|session| session.send.suite()),
            handshake: self.handshake,
            heard: self.heard,
            rtt: self.rtt,
            tries: self.attempt.map_or(0, |attempt| attempt.tries),
        }
    }

    /// Whether it was heard within `time`.
    pub(super) fn heard_within(&self, now: Tick, time: Duration) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < time)
    }

    /// Forgets a handshake that this side began.
    pub(super) fn drop_pending(&mut self, shared: &mut Shared) {
        if let Some(pending) = self.pending.take() {
            shared.indices.remove(&pending.index);
        }
    }

    /// Makes a session the one to send with. The one before it still receives.
    pub(super) fn promote(&mut self, now: Tick, session: Session, shared: &mut Shared) {
        let before = self.current.replace(session);
        if let Some(old) = core::mem::replace(&mut self.previous, before) {
            shared.close(self.id, &old);
        }
        self.attempt = None;
        self.drop_pending(shared);
        self.unanswered = None;
        self.unreachable = false;
        self.owes = false;
        self.handshake = Some(now);
        self.heard = Some(now);
        self.look = now + LOOK_BUSY;
        self.tell_key(shared);
    }

    /// Has the workers send with the current key.
    pub(super) fn tell_key(&self, shared: &mut Shared) {
        if let (Some(session), Some(to)) = (&self.current, self.endpoint) {
            shared.events.push_back(Event::Send {
                peer: self.id,
                key: Arc::clone(&session.send),
                to,
            });
        }
    }

    /// Sends an empty control message on the current session: it says that the peer is heard, and keeps a NAT open.
    pub(super) fn keep_alive(&mut self, now: Tick, shared: &mut Shared) {
        if self.send(&[], shared).is_ok() {
            // It asks for no answer, so it counts as none of the workers'.
            if let Some(Session {
                seen: [sealed, ..], ..
            }) = &mut self.current
            {
                *sealed += 1;
            }
            self.sent = now;
            self.owes = false;
        }
    }

    /// Seals a control message and queues it.
    pub(super) fn send(&self, payload: &[u8], shared: &mut Shared) -> Result<(), SendError> {
        let (Some(session), Some(to)) = (&self.current, self.endpoint) else {
            return Err(SendError::NoSession);
        };
        if payload.len() > super::MAX_CONTROL {
            return Err(SendError::Length);
        }
        let mut datagram = Vec::with_capacity(HEADER_LEN + payload.len() + TAG_LEN);
        datagram.extend([0; HEADER_LEN]);
        datagram.extend(payload);
        datagram.extend([0; TAG_LEN]);
        session
            .send
            .seal(CONTROL, (0, 0), &mut datagram)
            .map_err(|_| SendError::NoSession)?;
        if shared.transmit(to, datagram) {
            Ok(())
        } else {
            Err(SendError::QueueFull)
        }
    }

    /// Says once that a peer does not answer.
    pub(super) fn judge(&mut self, now: Tick, shared: &mut Shared) {
        let tried = self
            .attempt
            .is_some_and(|attempt| now.since(attempt.since) >= UNREACHABLE_AFTER);
        if tried && !self.unreachable && !self.heard_within(now, UNREACHABLE_AFTER) {
            self.unreachable = true;
            shared
                .events
                .push_back(Event::Unreachable { peer: self.id });
        }
    }
}
