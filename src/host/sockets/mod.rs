//! Sockets of the host behind translated flows: one table, owned by one worker.

pub mod dispatch;
mod dns;
mod echo;
pub mod links;
pub mod ping;
mod published;
mod raw;
mod resolvers;
pub mod splice;
mod sys;
pub mod tcp;
pub mod udp;
mod underlay;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use slab::Slab;
use socket2::Socket;
use switch_core::addr::{Mac, PortId, SockId};
use switch_core::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use switch_core::respond::names::NameTable;
use switch_core::verdict::DropReason;
use switch_core::wire::vnet_hdr::VnetHdr;

use self::dns::DnsStream;
use self::links::{Link, Links};
use self::ping::PingSock;
pub use self::published::{Leads, Published, door};
use self::raw::Raw;
use self::resolvers::Line;
use self::splice::{Pair, Splices};
use self::tcp::{PeekMode, TcpSock, host_error};
use self::udp::UdpSock;
use crate::endpoint::Endpoint;
use crate::host::netwatch::HostNet;
use crate::worker::underlay::tx::UnderlayTx;

/// Tokens below this belong to the worker itself.
pub const FIRST_TOKEN: usize = 1 << 16;

/// In the place of a network, for sockets of all of them.
pub const SHARED: u32 = u32::MAX;

/// What is known of the host: replaced as a whole when something changes.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// Resolvers, in order.
    pub resolvers: Vec<SocketAddr>,
    /// Addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// It has a default route for IPv6.
    pub v6_route: bool,
}

impl HostView {
    /// The same, with what the kernel says now of the host's network.
    #[must_use]
    pub fn following(&self, net: &HostNet) -> Self {
        Self {
            resolvers: self.resolvers.clone(),
            addresses: net.addresses.iter().map(|a| a.0).collect(),
            v6_route: net.v6_default_route,
        }
    }
}

/// A socket and what it is for.
#[derive(Debug)]
pub(crate) enum Kind {
    Tcp(TcpSock),
    /// A listener of a published port.
    Listener(Socket, Leads),
    /// With its mapping for remotes of IPv4, and for those of IPv6.
    Udp(UdpSock, [u32; 2]),
    Echo(PingSock, u32),
    /// The raw socket of a family, which belongs to no network.
    Raw {
        v6: bool,
    },
    /// An echo session that shares the raw socket of its family, and its identifier there.
    RawEcho {
        v6: bool,
        ident: u16,
    },
    Dns(UdpSocket, u32),
    /// A connection to a resolver.
    DnsTcp(Box<DnsStream>),
    /// A query over the connection in this slot.
    DnsAsk(SockId),
    /// A client of the host joined to a socket inside, and the slot of that one.
    Splice(Box<Pair>, Option<SockId>),
    /// The socket inside, which the pair in this slot owns.
    SplicedTo(SockId),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// The network that it belongs to.
    net: u32,
    kind: Kind,
}

/// The world of one worker: its endpoints and its sockets.
pub struct HostIo {
    registry: Registry,
    slots: Slab<Slot>,
    generation: u32,
    /// Endpoints by port number.
    pub links: Links,
    /// Resolvers of networks that do not ask the host's.
    resolvers_of: Vec<Vec<SocketAddr>>,
    /// The place of the network that acts now: what it opens is its own.
    pub net: u32,
    /// What is known of the host.
    pub view: Arc<ArcSwap<HostView>>,
    peek: [PeekMode; 2],
    raw_icmp: [Option<Raw>; 2],
    raw_polled: [bool; 2],
    echo_buf: Vec<u8>,
    batch: Option<Box<sys::Batch>>,
    splices: Splices,
    /// Connections to resolvers.
    lines: Vec<Line>,
    /// The names of all networks.
    pub names: NameTable,
    /// The way to other hosts, once there is one.
    pub underlay: Option<Box<UnderlayTx>>,
    /// UDP sockets whose error queue was emptied while they sent, with what it told.
    reporting: Vec<SockId>,
}

impl std::fmt::Debug for HostIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostIo")
            .field("sockets", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl HostIo {
    /// A table without sockets, and with these endpoints on the first network. `raw_icmp` are raw sockets for IPv4 and IPv6 where the start allowed them.
    #[must_use]
    pub fn new(
        registry: Registry,
        endpoints: Vec<Box<dyn Endpoint>>,
        view: Arc<ArcSwap<HostView>>,
        mut raw_icmp: [Option<Socket>; 2],
    ) -> Self {
        let mut links = Links::default();
        for (port, endpoint) in (0..).map(PortId).zip(endpoints) {
            links.insert(port, Link::new(endpoint, 0, true));
        }
        Self {
            registry,
            slots: Slab::new(),
            generation: 0,
            links,
            resolvers_of: Vec::new(),
            net: 0,
            view,
            peek: [tcp::probe_peek(false), tcp::probe_peek(true)],
            raw_icmp: [false, true]
                .map(|v6| raw_icmp[usize::from(v6)].take().map(|s| Raw::new(s, v6))),
            raw_polled: [false; 2],
            echo_buf: Vec::new(),
            batch: Some(Box::new(sys::Batch::new())),
            splices: Splices::default(),
            lines: Vec::new(),
            names: NameTable::default(),
            underlay: None,
            reporting: Vec::new(),
        }
    }

    /// Open sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn insert(&mut self, fd: RawFd, interest: Interest, kind: Kind) -> io::Result<SockId> {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        let index = u32::try_from(entry.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let token = token(index, self.generation);
        self.registry
            .register(&mut SourceFd(&fd), token, interest)?;
        entry.insert(Slot {
            generation: self.generation,
            net: self.net,
            kind,
        });
        Ok(SockId(index))
    }

    /// A slot for what has no descriptor of its own.
    fn stand_in(&mut self, kind: Kind) -> io::Result<SockId> {
        let sock = self.slots.insert(Slot {
            generation: self.generation,
            net: self.net,
            kind,
        });
        let sock = u32::try_from(sock).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(SockId(sock))
    }

    /// The slot of an event, unless its socket has been closed since.
    fn find(&self, token: Token) -> Option<u32> {
        let index = u32::try_from((token.0 - FIRST_TOKEN) & 0xffff_ffff).ok()?;
        let generation = u32::try_from((token.0 - FIRST_TOKEN) >> 32).ok()?;
        self.slots
            .get(index as usize)
            .filter(|s| s.generation == generation)
            .map(|_| index)
    }

    /// The network whose socket an event is about, or [`SHARED`].
    #[must_use]
    pub fn net_of(&self, token: Token) -> Option<u32> {
        let slot = self.slots.get(self.find(token)? as usize)?;
        Some(slot.net)
    }

    /// Sets the resolvers of a network, in place of the host's; none for the host's.
    pub fn set_resolvers(&mut self, net: u32, resolvers: Vec<SocketAddr>) {
        let at = net as usize;
        if self.resolvers_of.len() <= at {
            self.resolvers_of.resize_with(at + 1, Vec::new);
        }
        self.resolvers_of[at] = resolvers;
    }

    fn own_resolvers(&self) -> &[SocketAddr] {
        let own = self.resolvers_of.get(self.net as usize);
        own.map_or(&[], Vec::as_slice)
    }

    /// Takes an endpoint in. One of another worker may only be sent to.
    /// Errors: it cannot be polled.
    pub fn attach(&mut self, port: PortId, link: Link) -> io::Result<()> {
        self.links.insert(port, link);
        self.heed(port).inspect_err(|_| {
            self.links.remove(port);
        })
    }

    /// Stops polling an endpoint, until [`Self::heed`]. False where it polls none of that number.
    pub fn ignore(&mut self, port: PortId) -> bool {
        let fd = self.polled(port);
        fd.is_some_and(|fd| self.registry.deregister(&mut SourceFd(&fd)).is_ok())
    }

    /// Polls an endpoint again. Errors: the kernel cannot take it in now.
    pub fn heed(&mut self, port: PortId) -> io::Result<()> {
        self.polled(port).map_or(Ok(()), |fd| {
            let token = Token(port.0 as usize);
            self.registry
                .register(&mut SourceFd(&fd), token, Interest::READABLE)
        })
    }

    fn polled(&self, port: PortId) -> Option<RawFd> {
        let link = self.links.get(port).filter(|link| link.owned);
        link?.endpoint.fd()
    }

    /// Takes an endpoint out, and gives it back.
    pub fn detach(&mut self, port: PortId) -> Option<Link> {
        self.end_splices(port);
        // A descriptor that has others to the same file stays in epoll when it is closed.
        self.ignore(port);
        self.links.remove(port)
    }

    fn tcp_mut(&mut self, sock: SockId) -> Option<&mut TcpSock> {
        match self.slots.get_mut(sock.0 as usize)? {
            Slot {
                kind: Kind::Tcp(tcp),
                ..
            } => Some(tcp),
            _ => None,
        }
    }

    /// Closes a socket, whatever it is for.
    pub fn close(&mut self, sock: SockId) {
        // Closing the last descriptor takes it out of epoll.
        self.slots.try_remove(sock.0 as usize);
    }
}

fn token(index: u32, generation: u32) -> Token {
    Token(FIRST_TOKEN + index as usize + ((generation as usize) << 32))
}

impl Tx for HostIo {
    fn tx(&mut self, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        match (port.remote_index(), &mut self.underlay) {
            (None, _) => self.links.send(self.net, port, vnet, frame),
            (Some(_), Some(underlay)) => underlay.send(self.net, port, vnet, frame),
            (Some(_), None) => false,
        }
    }

    fn groups_changed(&mut self) {
        if let Some(underlay) = &self.underlay {
            underlay.groups_changed();
        }
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, count: usize) {
        if let Some(link) = self.links.get_mut(port) {
            link.stats.drops.count_many(reason, count);
        }
    }
}

impl TcpHost for HostIo {
    fn tcp_connect(
        &mut self,
        flow: u32,
        to: SocketAddr,
        options: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        let mode = self.peek[usize::from(to.is_ipv6())];
        let sock = TcpSock::connect(flow, to, options, mode)?;
        let connected = !sock.connecting;
        let fd = sock.raw();
        self.insert(fd, tcp::INTEREST, Kind::Tcp(sock))
            .map_err(|e| host_error(&e))
            .map(|sock| (sock, connected))
    }

    fn tcp_assign(&mut self, sock: SockId, flow: u32) {
        if let Some(tcp) = self.tcp_mut(sock) {
            tcp.flow = flow;
        }
    }

    fn tcp_send(&mut self, sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        self.tcp_mut(sock).ok_or(HostError::Reset)?.send(data)
    }

    fn tcp_peek(
        &mut self,
        sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        self.tcp_mut(sock)
            .ok_or(HostError::Reset)?
            .peek(offset, buf)
    }

    fn tcp_ends_at(&mut self, sock: SockId, offset: usize) -> bool {
        self.tcp_mut(sock).is_some_and(|tcp| tcp.ends_at(offset))
    }

    fn tcp_discard(&mut self, sock: SockId, len: usize) -> Result<(), HostError> {
        self.tcp_mut(sock).ok_or(HostError::Reset)?.discard(len)
    }

    fn tcp_shutdown(&mut self, sock: SockId) {
        if let Some(tcp) = self.tcp_mut(sock) {
            tcp.shutdown();
        }
    }

    fn tcp_close(&mut self, sock: SockId, reset: bool) {
        if let Some(Slot {
            kind: Kind::Tcp(tcp),
            ..
        }) = self.slots.try_remove(sock.0 as usize)
        {
            tcp.close(reset);
        }
    }
}

impl UdpHost for HostIo {
    fn udp_open(&mut self, mapping: u32, local: SocketAddr) -> Result<(SockId, u16), HostError> {
        let (sock, port) = UdpSock::open(local).map_err(|e| host_error(&e))?;
        let fd = sock.as_fd().as_raw_fd();
        let id = self
            .insert(fd, Interest::READABLE, Kind::Udp(sock, [mapping; 2]))
            .map_err(|e| host_error(&e))?;
        Ok((id, port))
    }

    fn udp_send(
        &mut self,
        sock: SockId,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> Result<(), HostError> {
        match self.slots.get_mut(sock.0 as usize) {
            Some(Slot {
                kind: Kind::Udp(udp, _),
                ..
            }) => {
                let before = udp.has_reports();
                let sent = udp.send(to, &meta, payload, segment);
                if !before && udp.has_reports() {
                    self.reporting.push(sock);
                }
                sent.map_err(|e| host_error(&e))
            }
            _ => Err(HostError::Other),
        }
    }

    fn udp_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

impl DnsHost for HostIo {
    fn lookup(&self, asker: Mac, name: &str) -> Option<Vec<IpAddr>> {
        self.names.lookup(self.net, asker, name)
    }

    fn name_of(&self, asker: Mac, addr: IpAddr) -> Option<&str> {
        self.names.name_of(self.net, asker, addr)
    }

    fn resolvers(&self) -> usize {
        match self.own_resolvers() {
            [] => self.view.load().resolvers.len(),
            own => own.len(),
        }
    }

    fn resolver(&self, index: usize) -> Option<SocketAddr> {
        match self.own_resolvers() {
            [] => self.view.load().resolvers.get(index).copied(),
            own => own.get(index).copied(),
        }
    }

    fn dns_send(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        let to = self.resolver(resolver).ok_or(HostError::NetUnreachable)?;
        let any: SocketAddr = if to.is_ipv6() {
            ([0u16; 8], 0).into()
        } else {
            ([0u8; 4], 0).into()
        };
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            // Connected: only the resolver's own answers come in, and its refusal is reported.
            socket.connect(to)?;
            socket.send(message)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| host_error(&e))?;
        let fd = socket.as_raw_fd();
        self.insert(fd, Interest::READABLE, Kind::Dns(socket, query))
            .map_err(|e| host_error(&e))
    }

    fn dns_send_tcp(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        let to = self.resolver(resolver).ok_or(HostError::NetUnreachable)?;
        self.ask(query, to, message).map_err(|e| host_error(&e))
    }

    fn dns_close(&mut self, sock: SockId) {
        self.end_ask(sock);
    }
}
