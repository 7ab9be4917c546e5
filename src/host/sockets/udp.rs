//! UDP sockets of the host, one a mapping.
//!
//! An ICMP error about one datagram makes the kernel fail the next, whomever that is for. A failed send therefore
//! empties the error queue, whose entries wait here for the switch, and is tried again.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use switch_core::flow::host::DatagramMeta;

use super::sys;

/// Sends of a datagram: errors about others may arrive between the emptying of the queue and the next try.
const TRIES: usize = 3;
/// Reports that wait for the switch at most. More are lost, as an overloaded router's would be.
const REPORTS: usize = 64;

/// Whom a socket speaks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Remotes of IPv4.
    V4,
    /// Remotes of IPv6.
    V6,
    /// Both, by a socket of IPv6 that has mapped addresses for those of IPv4.
    Both,
}

impl Reach {
    /// Asks the kernel. Errors: those of getsockopt(2).
    pub fn of(socket: &Socket) -> io::Result<Self> {
        if socket.domain()? != Domain::IPV6 {
            return Ok(Self::V4);
        }
        Ok(if socket.only_v6()? {
            Self::V6
        } else {
            Self::Both
        })
    }

    const fn v4(self) -> bool {
        !matches!(self, Self::V6)
    }

    const fn v6(self) -> bool {
        !matches!(self, Self::V4)
    }
}

/// One socket.
#[derive(Debug)]
pub struct UdpSock {
    socket: Socket,
    reach: Reach,
    /// Whether the kernel has been told not to fragment.
    dont_fragment: Option<bool>,
    /// What the error queue told while something was sent.
    reports: Vec<sys::Report>,
}

impl UdpSock {
    /// Opens and binds. Returns the port that it has.
    pub fn open(local: SocketAddr) -> io::Result<(Self, u16)> {
        let v6 = local.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new_raw(
            domain,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |a| a.port());
        let reach = if v6 { Reach::V6 } else { Reach::V4 };
        Ok((Self::from_bound(socket, reach), port))
    }

    /// Takes a bound socket over, as from the broker.
    #[must_use]
    pub fn from_bound(socket: Socket, reach: Reach) -> Self {
        // All are there since before Linux 5.15; without one, less is known or more calls are made.
        let _ = sys::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        let set = |level, option| drop(sys::set_int(socket.as_fd(), level, option, 1));
        if reach.v6() {
            set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
            set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS);
        }
        if reach.v4() {
            set(libc::IPPROTO_IP, libc::IP_RECVERR);
            set(libc::IPPROTO_IP, libc::IP_RECVTOS);
        }
        Self {
            socket,
            reach,
            dont_fragment: None,
            reports: Vec::new(),
        }
    }

    /// Asks for the local address of what comes in, for published ports.
    pub fn want_local_address(&self) {
        // Of IPv4 packets a socket of IPv6 tells a mapped one.
        let (level, name) = if self.reach.v6() {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        } else {
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        };
        let _ = sys::set_int(self.socket.as_fd(), level, name, 1);
    }

    /// Sends a datagram, or a run of them that the kernel cuts at `segment`.
    /// Errors: those of this datagram; `EMSGSIZE` is in the error queue or among the reports too.
    pub fn send(
        &mut self,
        to: SocketAddr,
        meta: &DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> io::Result<()> {
        self.forbid_fragments(meta.dont_fragment);
        let to = match to.ip() {
            IpAddr::V4(addr) if self.reach == Reach::Both => {
                SocketAddr::new(addr.to_ipv6_mapped().into(), to.port())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => to,
        };
        match self.send_once(to, meta, payload, segment) {
            Err(e) if segment != 0 && cannot_cut(&e) => self.send_each(to, meta, payload, segment),
            result => result,
        }
    }

    fn send_once(
        &mut self,
        to: SocketAddr,
        meta: &DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> io::Result<()> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let Err(e) = sys::send(self.socket.as_fd(), to, meta, payload, segment) else {
                return Ok(());
            };
            let errno = e.raw_os_error();
            if tries == 0 || errno == Some(libc::EAGAIN) {
                return Err(e);
            }
            // Another's path may be too narrow, or this one's: then the host itself has just said so.
            let is_ours = self.drain_errors(to);
            if errno == Some(libc::EMSGSIZE) && is_ours {
                return Err(e);
            }
        }
    }

    /// Sends a run one by one: the kernel cuts none whose pieces are larger than the path's MTU, and reports it of
    /// single datagrams only.
    fn send_each(
        &mut self,
        to: SocketAddr,
        meta: &DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> io::Result<()> {
        let whole: Vec<u8> = payload.iter().flat_map(|p| p.iter().copied()).collect();
        whole
            .chunks(usize::from(segment))
            .try_for_each(|piece| self.send_once(to, meta, &[IoSlice::new(piece)], 0))
    }

    /// Empties the error queue. True if the host found that a datagram to `to` is too big for the way.
    fn drain_errors(&mut self, to: SocketAddr) -> bool {
        let mut too_big = false;
        for _ in 0..REPORTS {
            let Ok(mut report) = sys::recv_error(self.socket.as_fd()) else {
                break;
            };
            if report.is_local
                && report.errno == libc::EMSGSIZE
                && report.to.is_some_and(|a| a.ip() == to.ip())
            {
                // In IPv4 the kernel names the port of connected sockets only.
                report.to = Some(to);
                too_big = true;
            }
            if self.reports.len() < REPORTS {
                self.reports.push(report);
            }
        }
        too_big
    }

    /// True if reports wait to be taken.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// What the error queue told while something was sent.
    pub(super) fn take_reports(&mut self) -> Vec<sys::Report> {
        std::mem::take(&mut self.reports)
    }

    /// Tells the kernel whether it may cut datagrams.
    fn forbid_fragments(&mut self, forbid: bool) {
        if self.dont_fragment == Some(forbid) {
            return;
        }
        for v6 in [false, true] {
            let has = if v6 { self.reach.v6() } else { self.reach.v4() };
            if has {
                sys::forbid_fragments(self.socket.as_fd(), v6, forbid);
            }
        }
        self.dont_fragment = Some(forbid);
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// True for the errors by which kernels refuse to cut a run: the device or the path does not allow it.
fn cannot_cut(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A bound socket and a port that nobody listens at.
    fn ends(any: &str) -> (UdpSock, SocketAddr) {
        let (sock, _) = UdpSock::open(any.parse().unwrap()).unwrap();
        let gone = UdpSocket::bind(any).unwrap().local_addr().unwrap();
        (sock, gone)
    }

    #[test]
    fn errors_of_one_peer_do_not_fail_sends_to_another() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (mut sock, gone) = ends(any);
            let good = UdpSocket::bind(any).unwrap();
            let meta = DatagramMeta::default();
            let to = good.local_addr().unwrap();
            for round in 0..20u8 {
                // On loopback the refusal is queued before the call returns.
                sock.send(gone, &meta, &[IoSlice::new(b"lost")], 0).unwrap();
                sock.send(to, &meta, &[IoSlice::new(&[round])], 0).unwrap();
                let mut buf = [0; 8];
                assert_eq!(good.recv(&mut buf).unwrap(), 1);
                assert_eq!(buf[0], round);
            }
            assert!(sock.has_reports());
            let reports = sock.take_reports();
            assert_eq!(reports.len(), 20, "none is lost");
            assert!(
                reports
                    .iter()
                    .all(|r| r.to == Some(gone) && r.payload == b"lost")
            );
            assert!(!sock.has_reports());
        }
    }

    #[test]
    fn a_socket_of_both_families_speaks_with_either() {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking(), None).unwrap();
        socket.set_only_v6(false).unwrap();
        let any: SocketAddr = "[::]:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let reach = Reach::of(&socket).unwrap();
        assert_eq!(reach, Reach::Both);
        let mut sock = UdpSock::from_bound(socket, reach);
        sock.want_local_address();
        let mut batch = sys::Batch::new();
        for here in ["127.0.0.1:0", "[::1]:0"] {
            let peer = UdpSocket::bind(here).unwrap();
            let whence = peer.local_addr().unwrap();
            peer.send_to(b"in", SocketAddr::new(whence.ip(), port))
                .unwrap();
            assert_eq!(batch.recv(sock.as_fd()).unwrap(), 1);
            let got = batch.get(0).unwrap();
            let from = SocketAddr::new(got.from.ip().to_canonical(), got.from.port());
            assert_eq!((from, got.local), (whence, Some(whence.ip())));
            let meta = DatagramMeta {
                source: got.local,
                tos: 0x28,
                ttl: Some(9),
                dont_fragment: true,
            };
            let gone = UdpSocket::bind(here).unwrap().local_addr().unwrap();
            sock.send(gone, &meta, &[IoSlice::new(b"lost")], 0).unwrap();
            let pieces = [7; 20];
            sock.send(whence, &meta, &[IoSlice::new(&pieces)], 10)
                .unwrap();
            let mut buf = [0; 32];
            for _ in 0..2 {
                let (len, from) = peer.recv_from(&mut buf).unwrap();
                assert_eq!((len, from), (10, SocketAddr::new(whence.ip(), port)));
            }
            let reports = sock.take_reports();
            let to: Vec<_> = reports.iter().filter_map(|r| r.to).collect();
            let to: Vec<_> = to
                .iter()
                .map(|a| (a.ip().to_canonical(), a.port()))
                .collect();
            assert_eq!(to, [(gone.ip(), gone.port())]);
            let large = vec![0; 65_500];
            let error = sock.send(whence, &meta, &[IoSlice::new(&large)], 0);
            // Loopback's MTU is 65,536, and a datagram has 20 or 40 bytes of headers less than that.
            assert_eq!(error.is_err(), here.starts_with('['), "{error:?}");
        }
    }

    #[test]
    fn dscp_travels_with_its_datagram() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (a, b) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
            let to = b.local_addr().unwrap();
            let b = Socket::from(b);
            let reach = Reach::of(&b).unwrap();
            let b = UdpSock::from_bound(b, reach);
            for tos in [0, 0xb8, 0x2a] {
                let meta = DatagramMeta {
                    tos,
                    ..DatagramMeta::default()
                };
                sys::send(a.as_fd(), to, &meta, &[IoSlice::new(b"marked")], 0).unwrap();
            }
            let mut batch = sys::Batch::new();
            let mut seen = Vec::new();
            while seen.len() < 3 {
                let n = batch.recv(b.as_fd()).unwrap();
                seen.extend((0..n).map(|i| batch.get(i).unwrap().tos));
            }
            assert_eq!(seen, [0, 0xb8, 0x2a], "{any}");
        }
    }

    #[test]
    fn a_datagram_that_is_too_big_is_told_once() {
        // Loopback's MTU is 65,536: with headers this is more.
        let large = vec![0; 65_530];
        let (mut sock, to) = ends("[::1]:0");
        let meta = DatagramMeta {
            dont_fragment: true,
            ..DatagramMeta::default()
        };
        let error = sock.send(to, &meta, &[IoSlice::new(&large[..65_500])], 0);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        let reports = sock.take_reports();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].is_local, reports[0].info), (true, 65_536));
    }
}
