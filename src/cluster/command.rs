//! What the plane says to the thread, and what that tells.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use switch_core::addr::{Mac, PeerId, PortId, Vni};
use switch_core::tunnel::announce::Rules;
use switch_core::tunnel::control::record::{Announced, Network};
use tokio::sync::oneshot;

use crate::endpoint::udp::UnderlaySocket;

/// A network that peers may be on.
#[derive(Debug)]
pub struct Overlay {
    /// Its place on the boards.
    pub slot: u32,
    /// What its interfaces take at most.
    pub mtu: u16,
    /// As it is announced.
    pub network: Network,
}

/// A peer on a network.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// The port that leads there.
    pub port: PortId,
    /// The network's place on the boards.
    pub slot: u32,
    /// What its interfaces take at most.
    pub mtu: u16,
}

/// A peer, as it was asked for.
#[derive(Debug)]
pub struct Asked {
    /// What it is called here.
    pub name: String,
    /// Who; none for an invite that nobody has taken yet.
    pub key: Option<[u8; 32]>,
    /// What both know.
    pub secret: [u8; 32],
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Where it was heard when this host ran last, for where nobody says where it is.
    pub seen: Option<SocketAddr>,
    /// How often something is sent; none for only when there is something to send.
    pub keepalive: Option<Duration>,
    /// What it may announce.
    pub rules: Rules,
    /// The networks that it is on.
    pub lanes: Vec<(Vni, Lane)>,
}

/// What the thread is to do.
#[derive(Debug)]
pub enum Command {
    /// Send by these sockets, of IPv4 and IPv6.
    Sockets([Option<UnderlaySocket>; 2]),
    /// The host has another private key from now on. Shape: X25519, RFC 7748 section 5.
    SetSecret([u8; 32]),
    /// There is a network, or it has changed.
    SetNetwork(Overlay),
    /// There is no such network any more.
    RemoveNetwork(Vni),
    /// There is a peer, or it has changed.
    SetPeer(PeerId, Box<Asked>),
    /// There is no such peer any more.
    RemovePeer(PeerId),
    /// The host has other addresses.
    HostChanged {
        /// The MTU of the way to the world.
        link_mtu: u16,
    },
    /// An endpoint of this host is there, or has changed.
    Join(Announced),
    /// An endpoint of this host is gone.
    Leave(Vni, Mac),
    /// How does it stand with each peer?
    Views(SyncSender<Vec<View>>),
    /// Tell where endpoints with these names are on a network, in place of those before: now, and when that changes.
    Watch(Vni, BTreeSet<Box<str>>),
    /// Which endpoints has each peer announced?
    Endpoints(SyncSender<Vec<(PeerId, Announced)>>),
    /// How long does a question to a peer take, there and back?
    Ping {
        /// Whom to ask.
        peer: PeerId,
        /// Told when it has answered.
        answer: oneshot::Sender<Duration>,
    },
    /// End.
    Stop,
}

/// What has happened.
#[derive(Debug)]
pub enum News {
    /// A host with this key has taken an invite.
    Joined(PeerId, [u8; 32]),
    /// A peer is heard from there.
    Seen(PeerId, SocketAddr),
    /// Something is wrong with a peer that was not before.
    Problem(PeerId, String),
    /// These of a network have names that are watched, each behind the port that leads there.
    Found(Vni, Vec<(PortId, Announced)>),
}

/// A peer as it stands.
#[derive(Debug)]
pub struct View {
    /// Who.
    pub peer: PeerId,
    /// It has not been seen yet.
    pub invited: bool,
    /// How its sessions stand; none for an invite.
    pub status: Option<switch_core::tunnel::seal::Status>,
    /// The last round trip.
    pub rtt: Option<Duration>,
    /// The largest packet of the underlay that gets there.
    pub mtu: u16,
    /// Of a thousand questions those that were not answered, lately; none without any.
    pub loss: Option<u16>,
    /// How long ago the last handshake ended.
    pub handshake: Option<Duration>,
    /// What of its announcements was refused.
    pub refused: Vec<(&'static str, u64)>,
    /// What is wrong.
    pub problems: Vec<String>,
}
