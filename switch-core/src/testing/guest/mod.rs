//! A guest: a smoltcp stack with applications that follow scripts.

mod device;
mod probe;
mod tcp;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, icmp, tcp as tcp_socket, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use self::device::Card;
pub use self::tcp::Tcp;
use super::Random;
use super::link::Offered;
use super::script::Script;
use crate::addr::Mac;
use crate::time::Tick;

/// Bytes of each buffer of a TCP socket.
const TCP_BUFFER: usize = 128 * 1024;
/// The identifier of the guest's pings.
const PING: u16 = 0x77;

/// Who a guest is.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Its MAC.
    pub mac: Mac,
    /// Its IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub v6: Ipv6Addr,
    /// The gateway: its MAC and addresses.
    pub gateway: (Mac, Ipv4Addr, Ipv6Addr),
}

/// An application's end of a TCP connection, by its place in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpId(pub usize);

/// A UDP socket, by its place in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpId(usize);

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address, with the prefix length.
    pub v4: (Ipv4Addr, u8),
    /// The way out.
    pub router: Option<Ipv4Addr>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
}

#[derive(Debug)]
struct Udp {
    socket: SocketHandle,
    errors: SocketHandle,
    received: Vec<(SocketAddr, Vec<u8>)>,
    icmp: Vec<(IpAddr, u8, u8)>,
}

/// An echo reply that came: from whom, sequence number, payload.
pub type Pong = (IpAddr, u16, Vec<u8>);

/// One guest.
pub struct Guest {
    /// Who it is.
    pub addresses: Addresses,
    /// It hands over segments of one flow as super-frames.
    pub offload: bool,
    /// It asks silent connections so often whether the other end is still there.
    pub keep_alive: Option<Duration>,
    /// Its lease, if it asked for one.
    pub lease: Option<Lease>,
    random: Random,
    iface: Interface,
    sockets: SocketSet<'static>,
    card: Card,
    tcp: Vec<Tcp>,
    udp: Vec<Udp>,
    ping: SocketHandle,
    pongs: Vec<Pong>,
    dhcp: Option<SocketHandle>,
    port: u16,
    /// Something has happened to it since it was last polled.
    stirred: bool,
    /// When it has something to do next, if nothing happens before.
    next: Option<Tick>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("addresses", &self.addresses)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

fn instant(now: Tick) -> Instant {
    Instant::from_micros(i64::try_from(now.as_nanos() / 1_000).unwrap())
}

fn socket_addr(from: IpEndpoint) -> SocketAddr {
    SocketAddr::new(from.addr.into(), from.port)
}

fn packets() -> udp::PacketBuffer<'static> {
    udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 256 * 1024])
}

fn echoes() -> icmp::PacketBuffer<'static> {
    icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 64], vec![0; 64 * 1024])
}

impl Guest {
    /// A guest with these addresses.
    #[must_use]
    pub fn new(seed: u64, addresses: Addresses, mtu: u16) -> Self {
        let mut guest = Self::without_addresses(seed, addresses, mtu);
        guest.iface.update_ip_addrs(|all| {
            all.push(IpCidr::new(IpAddress::Ipv4(addresses.v4), 24))
                .unwrap();
            all.push(IpCidr::new(IpAddress::Ipv6(addresses.v6), 64))
                .unwrap();
        });
        let (_, v4, v6) = addresses.gateway;
        let routes = guest.iface.routes_mut();
        routes.add_default_ipv4_route(v4).unwrap();
        routes.add_default_ipv6_route(v6).unwrap();
        guest
    }

    /// A guest that has no address until it gets one by DHCP.
    #[must_use]
    pub fn unconfigured(seed: u64, addresses: Addresses, mtu: u16) -> Self {
        let mut guest = Self::without_addresses(seed, addresses, mtu);
        guest.dhcp = Some(guest.sockets.add(dhcpv4::Socket::new()));
        guest
    }

    fn without_addresses(seed: u64, addresses: Addresses, mtu: u16) -> Self {
        let mut card = Card::new(mtu);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(addresses.mac.0));
        let mut config = Config::new(hardware);
        config.random_seed = seed;
        let iface = Interface::new(config, &mut card, Instant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let mut ping = icmp::Socket::new(echoes(), echoes());
        ping.bind(icmp::Endpoint::Ident(PING)).unwrap();
        Self {
            addresses,
            offload: false,
            keep_alive: None,
            lease: None,
            random: Random(seed ^ 0x6775_6573),
            iface,
            ping: sockets.add(ping),
            sockets,
            card,
            tcp: Vec::new(),
            udp: Vec::new(),
            pongs: Vec::new(),
            dhcp: None,
            port: 40_000 + (seed % 1_000) as u16,
            stirred: true,
            next: None,
        }
    }

    fn socket(&mut self, script: Script) -> (TcpId, SocketHandle) {
        let buffer = || tcp_socket::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp_socket::Socket::new(buffer(), buffer());
        let every = self.keep_alive.map(|every| every.as_micros() as u64);
        socket.set_keep_alive(every.map(smoltcp::time::Duration::from_micros));
        let handle = self.sockets.add(socket);
        self.stirred = true;
        self.tcp.push(Tcp::new(handle, script));
        (TcpId(self.tcp.len() - 1), handle)
    }

    /// Connects, from a port that it has not used yet.
    pub fn connect(&mut self, to: SocketAddr, script: Script) -> TcpId {
        let (id, handle) = self.socket(script);
        self.port += 1;
        let socket = self.sockets.get_mut::<tcp_socket::Socket<'_>>(handle);
        let context = self.iface.context();
        socket.connect(context, to, self.port).unwrap();
        id
    }

    /// Waits for one connection to this port. More may wait for the same.
    pub fn listen(&mut self, port: u16, script: Script) -> TcpId {
        let (id, handle) = self.socket(script);
        let socket = self.sockets.get_mut::<tcp_socket::Socket<'_>>(handle);
        socket.listen(port).unwrap();
        id
    }

    /// An application's end of a connection dies: the stack resets it.
    pub fn abort(&mut self, id: TcpId) {
        let handle = self.tcp[id.0].handle;
        self.sockets
            .get_mut::<tcp_socket::Socket<'_>>(handle)
            .abort();
        self.stirred = true;
    }

    /// An application's end of a connection.
    #[must_use]
    pub fn tcp(&self, id: TcpId) -> &Tcp {
        &self.tcp[id.0]
    }

    /// All of them, in the order in which they were made.
    #[must_use]
    pub fn connections(&self) -> &[Tcp] {
        &self.tcp
    }

    /// Opens a UDP socket on this port.
    pub fn bind(&mut self, port: u16) -> UdpId {
        let mut socket = udp::Socket::new(packets(), packets());
        socket.bind(port).unwrap();
        let mut errors = icmp::Socket::new(echoes(), echoes());
        errors.bind(icmp::Endpoint::Udp(port.into())).unwrap();
        self.udp.push(Udp {
            socket: self.sockets.add(socket),
            errors: self.sockets.add(errors),
            received: Vec::new(),
            icmp: Vec::new(),
        });
        UdpId(self.udp.len() - 1)
    }

    /// Sends a datagram.
    pub fn send(&mut self, id: UdpId, to: SocketAddr, payload: &[u8]) {
        let handle = self.udp[id.0].socket;
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.send_slice(payload, IpEndpoint::from(to)).unwrap();
        self.stirred = true;
    }

    /// The datagrams that have come to a socket.
    #[must_use]
    pub fn received(&self, id: UdpId) -> &[(SocketAddr, Vec<u8>)] {
        &self.udp[id.0].received
    }

    /// The ICMP errors about what a socket sent: from whom, type and code.
    #[must_use]
    pub fn errors(&self, id: UdpId) -> &[(IpAddr, u8, u8)] {
        &self.udp[id.0].icmp
    }

    /// Sends an echo request.
    pub fn ping(&mut self, to: IpAddr, seq: u16, payload: &[u8]) {
        let kind = if to.is_ipv4() { 8 } else { 128 };
        let [i0, i1] = PING.to_be_bytes();
        let [s0, s1] = seq.to_be_bytes();
        // The stack fills in the checksum.
        let message = [&[kind, 0, 0, 0, i0, i1, s0, s1], payload].concat();
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.ping);
        socket.send_slice(&message, to.into()).unwrap();
        self.stirred = true;
    }

    /// The echo replies that have come.
    #[must_use]
    pub fn pongs(&self) -> &[Pong] {
        &self.pongs
    }

    /// Takes a frame from the link.
    pub fn deliver(&mut self, frame: Vec<u8>) {
        self.card.arrived.push_back(frame);
        self.stirred = true;
    }

    /// Lets the stack and its applications do what they can. Returns the frames that leave.
    pub fn poll(&mut self, now: Tick) -> Vec<Offered> {
        if !self.stirred && self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        // Applications answer to what the stack says, and the other way round; a few rounds settle it.
        self.stirred = true;
        for _ in 0..16 {
            let polled = self
                .iface
                .poll(instant(now), &mut self.card, &mut self.sockets);
            let moved = self.applications(now);
            if polled == PollResult::None && !moved {
                self.stirred = false;
                break;
            }
        }
        let stack = self.iface.poll_delay(instant(now), &self.sockets);
        let stack = stack.map(|delay| now + Duration::from_micros(delay.total_micros()));
        self.next = self.tcp.iter().filter_map(|t| t.next).chain(stack).min();
        if self.offload {
            self.card.merged()
        } else {
            self.card.plain()
        }
    }

    /// When it has something to do next, if no frame comes before.
    #[must_use]
    pub fn poll_timeout(&self, now: Tick) -> Option<Tick> {
        if self.stirred { Some(now) } else { self.next }
    }

    fn applications(&mut self, now: Tick) -> bool {
        let mut moved = self.leases();
        for tcp in &mut self.tcp {
            let socket = self.sockets.get_mut::<tcp_socket::Socket<'_>>(tcp.handle);
            moved |= tcp.drive(now, socket, &mut self.random);
        }
        for udp in &mut self.udp {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(udp.socket);
            while let Ok((data, meta)) = socket.recv() {
                udp.received
                    .push((socket_addr(meta.endpoint), data.to_vec()));
            }
            let errors = self.sockets.get_mut::<icmp::Socket<'_>>(udp.errors);
            while let Ok((message, from)) = errors.recv() {
                udp.icmp.push((from.into(), message[0], message[1]));
            }
        }
        let ping = self.sockets.get_mut::<icmp::Socket<'_>>(self.ping);
        while let Ok((message, from)) = ping.recv() {
            if matches!(message[0], 0 | 129) {
                let seq = u16::from_be_bytes([message[6], message[7]]);
                self.pongs.push((from.into(), seq, message[8..].to_vec()));
            }
        }
        moved
    }

    fn leases(&mut self) -> bool {
        let Some(handle) = self.dhcp else {
            return false;
        };
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
        let Some(dhcpv4::Event::Configured(config)) = socket.poll() else {
            return false;
        };
        let address: Ipv4Cidr = config.address;
        self.lease = Some(Lease {
            v4: (address.address(), address.prefix_len()),
            router: config.router,
            dns: config.dns_servers.to_vec(),
        });
        self.iface.update_ip_addrs(|all| {
            all.clear();
            all.push(IpCidr::Ipv4(address)).unwrap();
        });
        if let Some(router) = config.router {
            let routes = self.iface.routes_mut();
            routes.add_default_ipv4_route(router).unwrap();
        }
        true
    }
}
