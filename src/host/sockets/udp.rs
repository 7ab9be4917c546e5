//! UDP sockets of the host, one a mapping.
//!
//! An ICMP error about one datagram makes the kernel fail the next, whomever that is for. A failed send therefore
//! empties the error queue, whose entries wait here for the switch, and is tried again.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use switch_core::flow::host::DatagramMeta;

use super::sys;

/// Sends of a datagram: errors about others may arrive between the emptying of the queue and the next try.
const TRIES: usize = 3;
/// Reports that wait for the switch at most. More are lost, as an overloaded router's would be.
const REPORTS: usize = 64;

/// One socket.
#[derive(Debug)]
pub struct UdpSock {
    socket: Socket,
    v6: bool,
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
        Ok((Self::from_bound(socket, v6), port))
    }

    /// Takes a bound socket over, as from the broker.
    #[must_use]
    pub fn from_bound(socket: Socket, v6: bool) -> Self {
        // All are there since before Linux 5.15; without one, less is known or more calls are made.
        let _ = sys::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        let (level, options) = if v6 {
            let options = [libc::IPV6_RECVERR, libc::IPV6_RECVTCLASS];
            (libc::IPPROTO_IPV6, options)
        } else {
            (libc::IPPROTO_IP, [libc::IP_RECVERR, libc::IP_RECVTOS])
        };
        for option in options {
            let _ = sys::set_int(socket.as_fd(), level, option, 1);
        }
        Self {
            socket,
            v6,
            dont_fragment: None,
            reports: Vec::new(),
        }
    }

    /// Asks for the local address of what comes in, for published ports.
    pub fn want_local_address(&self) {
        let (level, name) = if self.v6 {
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
        sys::forbid_fragments(self.socket.as_fd(), self.v6, forbid);
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
