//! TCP connections of the host behind translated flows. As few system calls a connection as can be:
//! options are set when they first matter.

mod ahead;
mod sys;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use mio::Interest;
use socket2::{Domain, Socket, Type};
use switch_core::flow::host::{ConnectOptions, HostError, Peeked};

use self::ahead::Ahead;

/// What a connection is polled for.
pub const INTEREST: Interest = Interest::READABLE
    .add(Interest::WRITABLE)
    .add(Interest::PRIORITY);

/// How the kernel lets us peek beyond the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekMode {
    /// By SO_PEEK_OFF (for TCP since Linux 6.9).
    Offset,
    /// Not at all: what is in flight is read and kept in memory.
    Never,
}

/// Set in the environment, weft does without SO_PEEK_OFF as on a kernel that has none.
pub const NO_PEEK_OFFSET: &str = "WEFT_NO_PEEK_OFFSET";

/// Finds out what this kernel can, for one family.
#[must_use]
pub fn probe_peek(v6: bool) -> PeekMode {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    if std::env::var_os(NO_PEEK_OFFSET).is_some() {
        return PeekMode::Never;
    }
    match Socket::new(domain, Type::STREAM, None) {
        Ok(s) if sys::set_peek_offset(s.as_fd(), 0).is_ok() => PeekMode::Offset,
        _ => PeekMode::Never,
    }
}

/// One connection.
#[derive(Debug)]
pub struct TcpSock {
    socket: Socket,
    /// The flow that lives on it.
    pub flow: u32,
    /// The handshake is not over.
    pub connecting: bool,
    /// The peer has ended its direction, in order.
    pub ended: bool,
    v6: bool,
    sent_before: bool,
    nodelay: bool,
    /// Where the kernel's peek offset stands, once one is set.
    peek_at: Option<usize>,
    /// Highest byte ever peeked, from the first not discarded.
    peeked: usize,
    /// What is read and kept, where the kernel has no peek offset.
    ahead: Option<Box<Ahead>>,
    /// A peek has found the end of the stream.
    eof_told: bool,
}

impl TcpSock {
    /// Starts a connection. Cost: socket and connect, more only for a chosen TTL or DSCP.
    pub fn connect(
        flow: u32,
        to: SocketAddr,
        how: ConnectOptions,
        mode: PeekMode,
    ) -> Result<Self, HostError> {
        let v6 = to.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)
            .map_err(|e| host_error(&e))?;
        if let Some(ttl) = how.ttl {
            // Best effort: without these a traceroute sees the host's defaults.
            let _ = sys::set_ttl(socket.as_fd(), v6, ttl.max(1));
            let _ = sys::want_errors(socket.as_fd(), v6);
        }
        // The sandbox gets the stream whole; without this the kernel takes a byte of urgent data out of it.
        socket
            .set_out_of_band_inline(true)
            .map_err(|e| host_error(&e))?;
        if how.tos != 0 {
            let _ = sys::set_tos(socket.as_fd(), v6, how.tos);
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(host_error(&e)),
        }
        // A peer that is near has answered by now, and the sandbox need not wait for the next poll.
        let connecting = socket.peer_addr().is_err();
        Ok(Self::new(socket, flow, connecting, v6, mode))
    }

    /// Takes an accepted connection, which is non-blocking.
    #[must_use]
    pub fn accepted(socket: Socket, v6: bool, mode: PeekMode) -> Self {
        Self::new(socket, u32::MAX, false, v6, mode)
    }

    fn new(socket: Socket, flow: u32, connecting: bool, v6: bool, mode: PeekMode) -> Self {
        Self {
            socket,
            flow,
            connecting,
            ended: false,
            v6,
            sent_before: false,
            nodelay: false,
            peek_at: None,
            peeked: 0,
            ahead: (mode == PeekMode::Never).then(|| Box::new(Ahead::new(ahead::SHARE))),
            eof_told: false,
        }
    }

    /// The descriptor.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// True for IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// The error that ended a connection or its attempt.
    #[must_use]
    pub fn take_error(&self) -> Option<HostError> {
        match self.socket.take_error() {
            Ok(Some(e)) | Err(e) => Some(host_error(&e)),
            Ok(None) => None,
        }
    }

    /// Sends. Nagle's algorithm can only hold back a second write, so it is switched off then.
    pub fn send(&mut self, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        if self.sent_before && !self.nodelay {
            self.nodelay = true;
            let _ = self.socket.set_tcp_nodelay(true);
        }
        self.sent_before = true;
        loop {
            let sent = match data {
                [one] => self.socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                many => self
                    .socket
                    .send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
            };
            match sent {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host_error(&e)),
            }
        }
    }

    /// Peeks at `offset` bytes after the first that is not discarded.
    pub fn peek(&mut self, offset: usize, buf: &mut [u8]) -> Result<Peeked, HostError> {
        let found = match self.ahead.as_mut() {
            Some(ahead) => ahead.peek(&self.socket, offset, buf),
            None => self.peek_offset(offset, buf),
        };
        // Behind the end of a stream the kernel's reads tell no error; whoever asks again wants to know.
        if found == Ok(Peeked::Eof)
            && std::mem::replace(&mut self.eof_told, true)
            && let Some(error) = self.take_error()
        {
            return Err(error);
        }
        found
    }

    fn peek_offset(&mut self, offset: usize, buf: &mut [u8]) -> Result<Peeked, HostError> {
        // Without an offset set, each peek starts at 0: enough until a second one is needed.
        if self.peek_at.unwrap_or(0) != offset {
            sys::set_peek_offset(self.socket.as_fd(), offset).map_err(|e| host_error(&e))?;
            self.peek_at = Some(offset);
        }
        match sys::peek(self.socket.as_fd(), buf) {
            Ok(0) => Ok(Peeked::Eof),
            Ok(n) => {
                if let Some(at) = self.peek_at.as_mut() {
                    *at += n;
                }
                self.peeked = self.peeked.max(offset + n);
                Ok(Peeked::Data(n))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Peeked::Empty),
            Err(e) => Err(host_error(&e)),
        }
    }

    /// True if the peer's stream ends `offset` bytes after the first that is not discarded.
    #[must_use]
    pub fn ends_at(&self, offset: usize) -> bool {
        let kept = self.ahead.as_ref().map_or(0, |ahead| ahead.held());
        self.ended && sys::waiting(self.socket.as_fd()).is_ok_and(|n| kept + n == offset)
    }

    /// Takes bytes off that have been peeked.
    pub fn discard(&mut self, mut len: usize) -> Result<(), HostError> {
        if let Some(ahead) = self.ahead.as_mut() {
            len = ahead.discard(len);
        }
        while len > 0 {
            match sys::discard(self.socket.as_fd(), len) {
                Ok(0) => return Err(HostError::Reset),
                Ok(n) => {
                    len -= n;
                    self.peeked = self.peeked.saturating_sub(n);
                    // The kernel moves a peek offset back by what is read.
                    if let Some(at) = self.peek_at.as_mut() {
                        *at = at.saturating_sub(n);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host_error(&e)),
            }
        }
        Ok(())
    }

    /// Ends our direction.
    pub fn shutdown(&self) {
        // Fails only if the connection is gone already, which the next read tells.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Closes; with RST if `reset`. A socket with bytes unread resets by itself.
    pub fn close(self, reset: bool) {
        if reset && !self.connecting && self.peeked == 0 {
            let _ = self.socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// True if the peer's end has arrived: poll reports it whatever still waits to be read.
fn at_end(socket: &Socket) -> bool {
    let hang_up = nix::poll::PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = [nix::poll::PollFd::new(socket.as_fd(), hang_up)];
    // Nothing else was asked for but what is told always: an error, which is an end too.
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// The meaning of an error of the host for a flow.
#[must_use]
pub fn host_error(e: &io::Error) -> HostError {
    match e.raw_os_error() {
        Some(libc::EAGAIN) => HostError::WouldBlock,
        Some(libc::ECONNREFUSED) => HostError::Refused,
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => HostError::Reset,
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => HostError::HostUnreachable,
        Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENETDOWN) => {
            HostError::NetUnreachable
        }
        Some(libc::ETIMEDOUT) => HostError::TimedOut,
        Some(libc::EACCES | libc::EPERM) => HostError::Forbidden,
        Some(libc::EMSGSIZE) => HostError::TooBig,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRINUSE) => {
            HostError::Exhausted
        }
        _ => HostError::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection as of a flow, and its peer.
    fn pair(mode: PeekMode) -> (TcpSock, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let how = ConnectOptions::default();
        let sock = TcpSock::connect(0, to, how, mode).unwrap();
        (sock, listener.accept().unwrap().0)
    }

    /// Peeks until the end, as a flow does, and discards all of it.
    fn read_all(sock: &mut TcpSock) -> Vec<u8> {
        let (mut all, mut buf) = (Vec::new(), [0; 64]);
        for _ in 0..10_000 {
            match sock.peek(all.len(), &mut buf).unwrap() {
                Peeked::Data(n) => all.extend_from_slice(&buf[..n]),
                Peeked::Empty => std::thread::sleep(Duration::from_millis(1)),
                Peeked::Eof => break,
            }
        }
        sock.discard(all.len()).unwrap();
        all
    }

    #[test]
    fn urgent_data_stays_in_the_stream() {
        for mode in [probe_peek(false), PeekMode::Never] {
            let (mut sock, mut peer) = pair(mode);
            peer.write_all(b"ab").unwrap();
            let urgent = socket2::SockRef::from(&peer);
            urgent.send_out_of_band(b"c").unwrap();
            peer.write_all(b"de").unwrap();
            drop(peer);
            assert_eq!(read_all(&mut sock), b"abcde");
        }
    }

    #[test]
    fn a_reset_behind_the_end_is_found_by_who_looks() {
        for mode in [probe_peek(false), PeekMode::Never] {
            let (mut sock, peer) = pair(mode);
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut sock), b"");
            assert_eq!(sock.peek(0, &mut [0]), Ok(Peeked::Eof));
            let peer = Socket::from(peer);
            peer.set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let until = std::time::Instant::now() + Duration::from_secs(20);
            let mut found = None;
            while found.is_none() && std::time::Instant::now() < until {
                std::thread::yield_now();
                found = sock.peek(0, &mut [0]).err();
            }
            assert_eq!(found, Some(HostError::Reset), "{mode:?}");
        }
    }

    #[test]
    fn the_end_is_known_only_where_it_is() {
        for mode in [probe_peek(false), PeekMode::Never] {
            let (mut sock, mut peer) = pair(mode);
            peer.write_all(b"abcde").unwrap();
            drop(peer);
            let mut buf = [0; 64];
            while sock.peek(0, &mut buf).unwrap() != Peeked::Data(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!sock.ends_at(5), "nobody has told that the stream ended");
            sock.ended = true;
            assert!(sock.ends_at(5) && !sock.ends_at(4) && !sock.ends_at(0));
            sock.discard(2).unwrap();
            assert!(sock.ends_at(3) && !sock.ends_at(5));
        }
    }
}
