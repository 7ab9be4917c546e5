//! `[6]` What flows ask of the world: frames out, and sockets of the host. The program implements this
//! over real sockets, the tests over a simulated network.

use std::io::IoSlice;

use core::net::{IpAddr, SocketAddr};

use crate::addr::{Mac, PortId, SockId};
use crate::verdict::DropReason;
use crate::wire::vnet_hdr::VnetHdr;

/// Why the host could not do it. Errno in its meaning for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// ECONNREFUSED.
    #[error("connection refused")]
    Refused,
    /// ECONNRESET, EPIPE.
    #[error("connection reset")]
    Reset,
    /// EHOSTUNREACH.
    #[error("host unreachable")]
    HostUnreachable,
    /// ENETUNREACH, EADDRNOTAVAIL, EAFNOSUPPORT: no route or no such family here.
    #[error("network unreachable")]
    NetUnreachable,
    /// ETIMEDOUT.
    #[error("timed out")]
    TimedOut,
    /// EACCES, EPERM.
    #[error("forbidden")]
    Forbidden,
    /// EMSGSIZE.
    #[error("message too big")]
    TooBig,
    /// EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRINUSE for a wanted port with nothing else left.
    #[error("the host is out of descriptors, ports or memory")]
    Exhausted,
    /// EAGAIN: try again when the socket reports room.
    #[error("would block")]
    WouldBlock,
    /// Anything else.
    #[error("unexpected error")]
    Other,
}

impl HostError {
    /// The reason under which a frame that met this error is counted.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Exhausted | Self::WouldBlock => DropReason::HostExhausted,
            Self::TooBig => DropReason::TooBig,
            Self::Refused
            | Self::Reset
            | Self::HostUnreachable
            | Self::NetUnreachable
            | Self::TimedOut
            | Self::Forbidden
            | Self::Other => DropReason::HostError,
        }
    }
}

/// The sending of frames to endpoints.
pub trait Tx {
    /// Sends one frame, given in pieces, to an endpoint. Shape: the pieces together start at the
    /// Ethernet header; `vnet` says which checksum and segmentation is still to be done.
    /// Returns false if the endpoint did not take it (counted there).
    fn tx(&mut self, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool;
    /// Tells that somebody has joined a group of multicast, or has left one.
    fn groups_changed(&mut self) {}
    /// Tells that packets which came for an endpoint from the world, and not from another endpoint's frame, were
    /// dropped.
    fn dropped(&mut self, port: PortId, reason: DropReason, count: usize) {
        let _ = (port, reason, count);
    }
}

/// What `tcp_peek` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// This many bytes were copied. Fewer than asked says nothing about what follows.
    Data(usize),
    /// Nothing waits at this offset now; an event will tell.
    Empty,
    /// The peer has closed its side, and the offset is at its end.
    Eof,
}

/// How a new connection leaves the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectOptions {
    /// The time to live of the outgoing segments, where it is not the host's default.
    pub ttl: Option<u8>,
    /// DSCP and ECN byte.
    pub tos: u8,
}

/// TCP connections of the host. All are non-blocking.
pub trait TcpHost {
    /// Starts a connection. True if it stands already, as to a near peer; else an event for `flow` follows:
    /// connected or failed.
    fn tcp_connect(
        &mut self,
        flow: u32,
        to: SocketAddr,
        options: ConnectOptions,
    ) -> Result<(SockId, bool), HostError>;
    /// Binds an accepted connection to its flow, so that its events reach it.
    fn tcp_assign(&mut self, sock: SockId, flow: u32);
    /// Sends; returns how much was taken, `WouldBlock` if nothing. After less than all, an event
    /// tells when there is room again.
    fn tcp_send(&mut self, sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError>;
    /// Copies bytes that wait at `offset` after the first byte not yet discarded, and leaves them there.
    fn tcp_peek(
        &mut self,
        sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError>;
    /// True if the stream is known to end in order just `offset` bytes after the first not yet discarded. To be
    /// asked once an end was reported and a peek found less than it wanted; false is always safe.
    fn tcp_ends_at(&mut self, sock: SockId, offset: usize) -> bool {
        let _ = (sock, offset);
        false
    }
    /// Discards the first `len` waiting bytes. They have been peeked before.
    fn tcp_discard(&mut self, sock: SockId, len: usize) -> Result<(), HostError>;
    /// Ends our direction (FIN).
    fn tcp_shutdown(&mut self, sock: SockId);
    /// Closes, with RST if `reset`. No event follows.
    fn tcp_close(&mut self, sock: SockId, reset: bool);
}

/// How a datagram leaves the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatagramMeta {
    /// The local address to leave from, where the remote asked a certain one (IP_PKTINFO).
    pub source: Option<IpAddr>,
    /// The time to live, where it is not the host's default.
    pub ttl: Option<u8>,
    /// DSCP and ECN byte.
    pub tos: u8,
    /// Not to be fragmented: larger than the path's MTU it is refused and reported. In IPv6 only a datagram that
    /// came in pieces may be.
    pub dont_fragment: bool,
}

/// UDP sockets of the host, one a mapping.
pub trait UdpHost {
    /// Opens a socket of the family of `local`, bound to its address (may be unspecified) and port;
    /// port 0 lets the host choose. Returns the socket and the port it has.
    fn udp_open(&mut self, mapping: u32, local: SocketAddr) -> Result<(SockId, u16), HostError>;
    /// Sends one datagram, or with `segment` non-zero a run of datagrams of that size (the last may be shorter).
    fn udp_send(
        &mut self,
        sock: SockId,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> Result<(), HostError>;
    /// Closes.
    fn udp_close(&mut self, sock: SockId);
}

/// ICMP echo through the host: a ping socket, or a raw one.
pub trait EchoHost {
    /// Opens a socket for echo requests to one family (`v6`) on behalf of `mapping`.
    fn echo_open(&mut self, mapping: u32, v6: bool) -> Result<SockId, HostError>;
    /// Sends an echo request with this sequence number and payload.
    fn echo_send(
        &mut self,
        sock: SockId,
        to: IpAddr,
        meta: DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> Result<(), HostError>;
    /// Closes.
    fn echo_close(&mut self, sock: SockId);
}

/// DNS from the gateway to the host's resolvers.
pub trait DnsHost {
    /// The addresses of a name that the endpoint with this MAC may know, beside those of guests. Shape: `name` in lower
    /// case, without a final dot.
    fn lookup(&self, asker: Mac, name: &str) -> Option<Vec<IpAddr>> {
        let _ = (asker, name);
        None
    }
    /// The name of an address, for the endpoint with this MAC.
    fn name_of(&self, asker: Mac, addr: IpAddr) -> Option<&str> {
        let _ = (asker, addr);
        None
    }
    /// How many resolvers there are now.
    fn resolvers(&self) -> usize;
    /// The address of one of them.
    fn resolver(&self, index: usize) -> Option<SocketAddr>;
    /// Sends a query to resolver number `resolver` from a socket of its own (a fresh port). An event
    /// for `query` follows when an answer comes.
    fn dns_send(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError>;
    /// Sends a query as `dns_send` does, over a TCP connection of its own. Shape: `message` without its length,
    /// at most 65,535 bytes; so are the messages of the events.
    fn dns_send_tcp(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError>;
    /// Closes the query's socket.
    fn dns_close(&mut self, sock: SockId);
}

/// All of it.
pub trait Host: Tx + TcpHost + UdpHost + EchoHost + DnsHost {}
impl<T: Tx + TcpHost + UdpHost + EchoHost + DnsHost> Host for T {}
