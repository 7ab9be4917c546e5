//! What a node is told, and what it tells.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use super::data::{OpenKey, SendKey};
use super::keys::{HostSecret, NetworkSecret, PublicKey};
use super::suite::Suite;
use crate::addr::PeerId;
use crate::time::Tick;

/// What a host is.
#[derive(Debug)]
pub struct NodeConfig {
    /// Its static key.
    pub secret: HostSecret,
    /// What it proposes when it begins a handshake; it answers in either.
    pub suite: Suite,
    /// The wall clock now, once: stamps grow from it, also over a restart. Units: nanoseconds since 1970.
    pub wall: u64,
}

/// What a peer is.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Its static key.
    pub key: PublicKey,
    /// The secrets of the networks that both are in, at least one. A handshake by another is refused.
    pub secrets: Vec<NetworkSecret>,
    /// Where it can be reached; none where it must call first, as behind a NAT.
    pub endpoint: Option<SocketAddr>,
    /// Keeps a session up at all times, and sends at least this often. None: only while there is something to send.
    pub keepalive: Option<Duration>,
}

/// Why a peer or an invitation could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// As many as there may be.
    #[error("there are too many")]
    Full,
    /// That id, key or invitation is there already.
    #[error("it is there already")]
    Exists,
    /// The key is this host's own.
    #[error("the key is this host's own")]
    Own,
    /// No X25519 key of a host: a point of low order.
    #[error("it is no key of a host")]
    Key,
    /// No secret, or two that differ have one hint.
    #[error("the secret is missing, or clashes with another")]
    Secret,
}

/// Why a control message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no session; one is being made now, if it is known where the peer is.
    #[error("there is no session yet")]
    NoSession,
    /// Longer than a datagram can carry.
    #[error("the message is too long")]
    Length,
    /// The queue of what is to be sent is full.
    #[error("too much is waiting to be sent")]
    QueueFull,
}

/// What the program has to do. In order: who installs a receiving key before it lets the next datagram leave loses none.
#[derive(Debug)]
pub enum Event {
    /// Install a receiving key.
    Receive {
        /// Whose.
        peer: PeerId,
        /// The key, with its index.
        key: Box<OpenKey>,
    },
    /// Send with this key from now on. Said again when a peer that was unreachable is heard on the key that it had.
    Send {
        /// To whom.
        peer: PeerId,
        /// The key, for all workers.
        key: Arc<SendKey>,
        /// Where it is.
        to: SocketAddr,
    },
    /// Send to another address from now on.
    Roamed {
        /// Who moved.
        peer: PeerId,
        /// Where it is.
        to: SocketAddr,
    },
    /// Forget a receiving key.
    Closed {
        /// Whose.
        peer: PeerId,
        /// Its index.
        index: u32,
    },
    /// There is no key to send with.
    Mute {
        /// To whom.
        peer: PeerId,
    },
    /// A host that has an invitation shows its key. It is answered once it is a peer.
    Introduced {
        /// Of [`super::Node::add_invite`].
        invite: u32,
        /// The host's static key.
        key: PublicKey,
        /// Where it is.
        from: SocketAddr,
    },
    /// A peer does not answer; said once until it does.
    Unreachable {
        /// Who.
        peer: PeerId,
    },
}

/// How it stands with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is wanted of it, or it is not known where it is.
    Idle,
    /// A handshake is under way, and there is no session.
    Connecting,
    /// There is a session, and it is heard on it.
    Up,
    /// It has not answered for a while.
    Unreachable,
}

impl State {
    /// Its name, as users see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A peer as users see it.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// How it stands.
    pub state: State,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The suite of the session.
    pub suite: Option<Suite>,
    /// When the last handshake ended.
    pub handshake: Option<Tick>,
    /// When it was heard last, to the second.
    pub heard: Option<Tick>,
    /// How long the last handshake that this host began took.
    pub rtt: Option<Duration>,
    /// Handshakes begun since the last that ended.
    pub tries: u32,
}
