//! The host in memory: sockets that lead to remote servers, with delays, errors and full buffers.

mod event;
mod receive;
mod tcp;
mod traits;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

pub use self::event::{Event, Report};
pub use self::receive::Receive;
pub use self::tcp::{Closed, Peer};
use super::Random;
use super::script::Script;
use crate::addr::{PortId, SockId};
use crate::flow::host::{ConnectOptions, DatagramMeta, HostError};
use crate::time::Tick;
use crate::wire::vnet_hdr::VnetHdr;

/// What stands at an address for TCP.
#[derive(Debug, Clone, Copy)]
pub enum TcpServer {
    /// It accepts, after a round trip.
    Serve(Script),
    /// It accepts at once, as on the host itself.
    Near(Script),
    /// It fails after a round trip.
    Fails(HostError),
    /// The host itself knows that it fails.
    FailsAtOnce(HostError),
    /// It never says anything.
    Silent,
}

/// What stands at an address for UDP.
#[derive(Debug, Clone, Copy)]
pub enum UdpServer {
    /// It sends every datagram back, this often.
    Echo(usize),
    /// A router says that nobody is there: ICMP type and code.
    Fails(u8, u8),
    /// It never says anything.
    Silent,
}

/// A resolver of the host.
#[derive(Debug, Clone, Copy)]
pub enum Resolver {
    /// It answers every question for an address with this one.
    Answers(Ipv4Addr),
    /// It never says anything.
    Silent,
    /// Its host says that nobody is there.
    Fails,
}

/// A datagram that left the host: to where, how, and what.
pub type Left = (SocketAddr, DatagramMeta, Vec<u8>);

#[derive(Debug)]
enum Sock {
    Tcp(Box<Peer>),
    Udp { mapping: u32, port: u16 },
    Echo { mapping: u32, v6: bool },
    Dns,
    Closed,
}

/// The host.
#[derive(Debug)]
pub struct SimHost {
    /// Frames for guests.
    pub frames: Vec<(PortId, VnetHdr, Vec<u8>)>,
    /// Servers. Where none stands, a connection is refused.
    pub tcp_servers: BTreeMap<SocketAddr, TcpServer>,
    /// Servers. Where none stands, nothing answers.
    pub udp_servers: BTreeMap<SocketAddr, UdpServer>,
    /// Who answers pings.
    pub pingable: BTreeSet<IpAddr>,
    /// The host's resolvers.
    pub resolvers: Vec<Resolver>,
    /// The way to a server and back.
    pub round_trip: Duration,
    /// The receive buffers of TCP connections to come.
    pub receive: Receive,
    /// Sockets that may be open at a time.
    pub descriptors: usize,
    /// Percent of frames that an endpoint does not take, for its queue is full.
    pub endpoint_full: u8,
    /// Percent of datagrams that the host's sockets have no room for.
    pub socket_full: u8,
    /// What left by UDP.
    pub left: Vec<Left>,
    /// How connections were asked for, in order.
    pub connects: Vec<(SocketAddr, ConnectOptions)>,
    random: Random,
    now: Tick,
    socks: Vec<Sock>,
    events: BTreeMap<(Tick, u64), (SockId, Event)>,
    serial: u64,
}

impl SimHost {
    /// A host without servers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            frames: Vec::new(),
            tcp_servers: BTreeMap::new(),
            udp_servers: BTreeMap::new(),
            pingable: BTreeSet::new(),
            resolvers: Vec::new(),
            round_trip: Duration::from_millis(1),
            receive: Receive::default(),
            descriptors: usize::MAX,
            endpoint_full: 0,
            socket_full: 0,
            left: Vec::new(),
            connects: Vec::new(),
            random: Random(seed ^ 0x686f_7374),
            now: Tick::ZERO,
            socks: Vec::new(),
            events: BTreeMap::new(),
            serial: 0,
        }
    }

    /// The TCP connections, in the order in which they were made.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.socks.iter().filter_map(|sock| match sock {
            Sock::Tcp(peer) => Some(&**peer),
            Sock::Udp { .. } | Sock::Echo { .. } | Sock::Dns | Sock::Closed => None,
        })
    }

    /// The peer at this address resets its connections. Returns whether there was one.
    pub fn break_off(&mut self, remote: SocketAddr) -> bool {
        let now = self.now;
        let mut any = false;
        for sock in &mut self.socks {
            if let Sock::Tcp(peer) = sock
                && peer.remote == remote
                && peer.closed.is_none()
            {
                peer.break_off(now);
                any = true;
            }
        }
        any
    }

    /// How many sockets are open.
    #[must_use]
    pub fn open(&self) -> usize {
        let open = |sock: &&Sock| match sock {
            Sock::Tcp(peer) => peer.closed.is_none(),
            Sock::Udp { .. } | Sock::Echo { .. } | Sock::Dns => true,
            Sock::Closed => false,
        };
        self.socks.iter().filter(open).count()
    }

    /// A client has connected to a published port; it follows this script.
    pub fn accepted(&mut self, from: SocketAddr, script: Script) -> SockId {
        let mut peer = Peer::new(from, u32::MAX, script, self.receive);
        peer.connected = true;
        self.add(Sock::Tcp(Box::new(peer)))
    }

    /// Sets the time at which the switch's calls happen.
    pub(super) fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// What sockets report until now.
    pub(super) fn drive(&mut self) -> Vec<Event> {
        let later = self.events.split_off(&(self.now, u64::MAX));
        let due = core::mem::replace(&mut self.events, later);
        let mut out = Vec::new();
        for (sock, event) in due.into_values() {
            match (&mut self.socks[sock.0 as usize], &event) {
                (Sock::Tcp(peer), _) if peer.closed.is_some() => {}
                (Sock::Closed, _) => {}
                (Sock::Tcp(peer), Event::TcpConnected { .. }) => {
                    peer.connected = true;
                    peer.wake(self.now);
                    out.push(event);
                }
                _ => out.push(event),
            }
        }
        for sock in &mut self.socks {
            if let Sock::Tcp(peer) = sock
                && peer.next.is_some_and(|at| at <= self.now)
            {
                peer.drive(self.now, &mut self.random, &mut out);
            }
        }
        out
    }

    /// When a socket has something to report, or a peer something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let peers = self.peers().filter_map(|peer| peer.next);
        let events = self.events.keys().next().map(|&(at, _)| at);
        peers.chain(events).min()
    }

    fn add(&mut self, sock: Sock) -> SockId {
        self.socks.push(sock);
        SockId(self.socks.len() as u32 - 1)
    }

    fn take_descriptor(&self) -> Result<(), HostError> {
        if self.open() >= self.descriptors {
            return Err(HostError::Exhausted);
        }
        Ok(())
    }

    /// Lets a socket report something after a round trip.
    fn later(&mut self, sock: SockId, event: Event) {
        self.serial += 1;
        let at = self.now + self.round_trip;
        self.events.insert((at, self.serial), (sock, event));
    }

    /// An error of the router before `to`.
    fn report(to: SocketAddr, kind: u8, code: u8, payload: &[u8]) -> Report {
        let offender = match to {
            SocketAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 1).into(),
            SocketAddr::V6(_) => {
                core::net::Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).into()
            }
        };
        Report {
            offender,
            kind,
            code,
            to,
            payload: payload[..payload.len().min(500)].to_vec(),
        }
    }
}
