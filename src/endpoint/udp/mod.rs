//! Stages 1 and 8: UDP sockets of the underlay. One send is up to 64 datagrams, and so is one receive.

mod sys;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::datagrams::{self, Slots};

pub use sys::{Name, Outgoing};

/// Datagrams that one send may be cut into. Source: UDP_MAX_SEGMENTS of linux/udp.h before 6.9.
pub const MAX_SEGMENTS: usize = 64;
/// Bytes of one send at most: those of the largest datagram over IPv4.
pub const MAX_SEND: usize = 65_507;
/// Messages of one batch.
pub const BATCH: usize = datagrams::BATCH;

/// Words of control messages of a message that comes: segment size, type of service, and where it came to.
const CONTROL: usize = 3 + 3 + 5;
/// What the socket's buffers are asked to hold: of what arrives while the worker writes one batch.
pub const BUFFER: usize = 8 << 20;
/// The source ports for entropy. Source: RFC 7348 section 5.
const SOURCES: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Source ports that are tried.
const TRIES: u16 = 64;

/// What the kernel does about a datagram that is too large for the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMtu {
    /// It refuses one that is larger than what routers said.
    Known,
    /// It sends whatever the first link takes, and what routers say is left to us: for those who probe by themselves.
    Probed,
}

/// A socket of the underlay, of one family; non-blocking. None of its datagrams is ever fragmented.
#[derive(Debug)]
pub struct UnderlaySocket {
    socket: Socket,
    /// The kernel cuts runs for us.
    segments: bool,
}

impl UnderlaySocket {
    /// Opens a socket that peers send to. Others may be bound to the same address, one for each worker.
    /// Errors: those of socket(2) and bind(2).
    pub fn service(at: SocketAddr, path: PathMtu) -> io::Result<Self> {
        let opened = Self::open(at, path)?;
        opened.socket.set_reuse_port(true)?;
        let fd = opened.socket.as_fd();
        let (level, tos) = match at {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVTOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        };
        datagrams::set(fd, level, tos, 1)?;
        let info = match at {
            SocketAddr::V4(_) => libc::IP_PKTINFO,
            SocketAddr::V6(_) => libc::IPV6_RECVPKTINFO,
        };
        datagrams::set(fd, level, info, 1)?;
        // Without it each datagram comes alone, as before Linux 5.0.
        let _alone = datagrams::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        opened.grow(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
        opened.socket.bind(&at.into())?;
        Ok(opened)
    }

    /// Opens a socket that is only sent from, on a port that is as good as any: `salt` makes those of one host differ.
    /// Errors: those of socket(2); `AddrInUse` if no port was found.
    pub fn source(v6: bool, path: PathMtu, salt: u16) -> io::Result<Self> {
        let ip: IpAddr = if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let opened = Self::open((ip, 0).into(), path)?;
        // Nothing is expected, and what comes is not read.
        let _ = opened.socket.set_recv_buffer_size(0);
        let range = SOURCES.end() - SOURCES.start() + 1;
        let process = std::process::id().to_le_bytes();
        let first = u16::from_le_bytes([process[0], process[1]])
            .wrapping_mul(40_503)
            .wrapping_add(salt.wrapping_mul(9_973));
        for attempt in 0..TRIES {
            let port = SOURCES.start() + first.wrapping_add(attempt * 251) % range;
            match opened.socket.bind(&SocketAddr::new(ip, port).into()) {
                Ok(()) => return Ok(opened),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn open(at: SocketAddr, path: PathMtu) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        let (level, option, known, probed) = match at {
            SocketAddr::V4(_) => {
                let option = libc::IP_MTU_DISCOVER;
                (
                    libc::IPPROTO_IP,
                    option,
                    libc::IP_PMTUDISC_DO,
                    libc::IP_PMTUDISC_PROBE,
                )
            }
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                let option = libc::IPV6_MTU_DISCOVER;
                (
                    libc::IPPROTO_IPV6,
                    option,
                    libc::IPV6_PMTUDISC_DO,
                    libc::IPV6_PMTUDISC_PROBE,
                )
            }
        };
        let value = if path == PathMtu::Known {
            known
        } else {
            probed
        };
        datagrams::set(socket.as_fd(), level, option, value)?;
        let opened = Self {
            socket,
            segments: true,
        };
        opened.grow(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
        Ok(opened)
    }

    /// Asks for a large buffer; who may not go beyond the host's limit gets what that allows.
    fn grow(&self, force: i32, ask: i32) {
        let size = i32::try_from(BUFFER).unwrap_or(i32::MAX);
        let fd = self.socket.as_fd();
        if datagrams::set(fd, libc::SOL_SOCKET, force, size).is_err() {
            let _ = datagrams::set(fd, libc::SOL_SOCKET, ask, size);
        }
    }

    /// What the buffers hold, for what comes and for what goes: [`BUFFER`], or what the host's limits allow who may not
    /// go beyond them. Units: bytes. Errors: those of getsockopt(2).
    pub fn buffers(&self) -> io::Result<[usize; 2]> {
        let held = |option| -> io::Result<usize> {
            let twice = datagrams::get(self.socket.as_fd(), libc::SOL_SOCKET, option)?;
            // The kernel counts its own bookkeeping with it, and takes as much for that.
            Ok(usize::try_from(twice).unwrap_or(0) / 2)
        };
        Ok([held(libc::SO_RCVBUF)?, held(libc::SO_SNDBUF)?])
    }

    /// Has sealed datagrams come to the worker whose receiver index they bear: the sockets of a port are numbered in the
    /// order of binding. To be called on any one of them, after the last was bound. Errors: those of setsockopt(2).
    pub fn steer(&self, workers: u32) -> io::Result<()> {
        sys::steer(self.socket.as_fd(), workers)
    }

    /// Another descriptor of the same socket. Errors: those of dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            segments: self.segments,
        })
    }

    /// The descriptor to poll.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The address that it is bound to. Errors: those of getsockname(2).
    pub fn local(&self) -> io::Result<SocketAddr> {
        let addr = self.socket.local_addr()?;
        addr.as_socket()
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// True while the kernel cuts runs: else each datagram has to be sent for itself.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.segments
    }

    /// Sends a datagram, or a run. Errors: those of sendmsg(2); `Unsupported` for a run that the kernel does not cut, then
    /// and ever after.
    pub fn send(&mut self, out: &Outgoing<'_>) -> io::Result<()> {
        let mut sent = sys::send(self.socket.as_fd(), out);
        if out.to.source().is_some() && sent.as_ref().is_err_and(is_of_source) {
            let to = &out.to.leaving(None);
            sent = sys::send(self.socket.as_fd(), &Outgoing { to, ..*out });
        }
        self.note(sent, out.segment != 0)
    }

    /// Sends one datagram. Errors: those of sendmsg(2).
    pub fn send_one(&mut self, to: &Name, bytes: &[u8]) -> io::Result<()> {
        self.send(&Outgoing {
            to,
            tos: 0,
            segment: 0,
            pieces: &[io::IoSlice::new(bytes)],
        })
    }

    /// Sends messages, [`BATCH`] at most; returns how many went.
    /// Errors: that of the first, if none did: as for [`Self::send`].
    pub fn send_many(&mut self, out: &[Outgoing<'_>]) -> io::Result<usize> {
        let run = out.first().is_some_and(|first| first.segment != 0);
        let sent = sys::send_many(self.socket.as_fd(), out);
        match (&sent, out.first()) {
            // Alone it is sent without that.
            (Err(e), Some(first)) if first.to.source().is_some() && is_of_source(e) => {
                self.send(first).map(|()| 1)
            }
            _ => self.note(sent, run),
        }
    }

    /// A device that cannot compute checksums refuses runs on older kernels.
    fn note<T>(&mut self, sent: io::Result<T>, run: bool) -> io::Result<T> {
        match sent {
            Err(e) if run && e.raw_os_error() == Some(libc::EIO) => {
                self.segments = false;
                Err(io::ErrorKind::Unsupported.into())
            }
            other => other,
        }
    }
}

/// True for an error that may come from an address which the host has not any more.
fn is_of_source(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::ENODEV)
    )
}

/// The address of this host that an address is reached from, as the kernel chooses.
/// Errors: there is no way to the address.
pub fn source_to(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&to.into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| local.ip())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The largest packet of IP that gets to an address in one piece, as far as the kernel knows: the link's MTU, or what a
/// router on the way has said.
/// Errors: there is no way to the address.
pub fn path_mtu(to: SocketAddr) -> io::Result<usize> {
    let opened = UnderlaySocket::open(to, PathMtu::Known)?;
    opened.socket.connect(&to.into())?;
    let fd = opened.socket.as_fd();
    let mtu = match to {
        SocketAddr::V4(_) => datagrams::get(fd, libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => datagrams::get(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    mtu.map(|mtu| usize::try_from(mtu).unwrap_or(0))
}

/// What one receive brought: datagrams of one sender, behind each other.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    /// Which of the host's addresses they came to.
    pub to: Option<IpAddr>,
    /// DSCP and ECN of the outer packets.
    pub tos: u8,
    /// The size of each datagram but the last.
    pub segment: usize,
    /// All of them.
    pub bytes: &'a mut [u8],
}

/// Room for a batch of what comes.
#[derive(Debug, Default)]
pub struct Inbox {
    slots: Slots<CONTROL>,
    count: usize,
}

impl Inbox {
    /// Receives what waits, `most` messages at most; returns how many came.
    /// Errors: `WouldBlock` when there are none; those of recvmmsg(2).
    pub fn recv(&mut self, socket: &UnderlaySocket, most: usize) -> io::Result<usize> {
        self.count = 0;
        self.count = self.slots.recv(socket.socket.as_fd(), most)?;
        Ok(self.count)
    }

    /// A message of the last batch.
    pub fn get(&mut self, i: usize) -> Option<Incoming<'_>> {
        let (from, controls, bytes) = self.slots.get_mut(i).filter(|_| i < self.count)?;
        let (mut tos, mut segment, mut to) = (0, bytes.len(), None);
        for (level, kind, data) in controls {
            let number = || data.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = usize::try_from(number())
                        .unwrap_or(0)
                        .clamp(1, segment.max(1));
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => tos = number().to_le_bytes()[0],
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // Behind the interface: the address here, which for a multicast is not that of the packet.
                    let here = data.get(4..).and_then(|d| d.first_chunk::<4>());
                    to = here.map(|a| IpAddr::from(*a));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    to = data.first_chunk::<16>().map(|a| IpAddr::from(*a));
                }
                _ => {}
            }
        }
        Some(Incoming {
            from,
            to,
            tos,
            segment,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests;
