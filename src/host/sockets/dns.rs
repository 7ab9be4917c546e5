//! Queries to the host's resolvers over TCP, one a connection.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Bytes of the length before a message. Source: RFC 1035 section 4.2.2.
const LENGTH: usize = 2;
/// Bytes read at once.
const CHUNK: usize = 4096;
/// Messages taken from one connection: it is asked one thing, and what never answers that is of no use.
const MAX_MESSAGES: u8 = 8;

/// A connection, and how far question and answer have come.
#[derive(Debug)]
pub(crate) struct DnsStream {
    socket: Socket,
    connecting: bool,
    /// The query behind its length.
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    messages: u8,
}

impl DnsStream {
    /// Starts to connect and to ask. Errors: those of the connection; `InvalidInput` for a message that is too long.
    pub(crate) fn connect(to: SocketAddr, message: &[u8]) -> io::Result<Self> {
        let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let domain = Domain::for_address(to);
        let socket = Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        // Closed by a reset: one connection a query would leave as many of the host's ports waiting for a minute.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Self {
            socket,
            connecting: true,
            // Length and message in one segment. Source: RFC 7766 section 8.
            output: [&length.to_be_bytes(), message].concat(),
            sent: 0,
            input: Vec::new(),
            messages: 0,
        })
    }

    /// Goes on as far as the socket allows; the next whole message, without its length.
    /// Errors: `WouldBlock` until an event says that there is more; else the connection is of no more use.
    pub(crate) fn turn(&mut self) -> io::Result<Vec<u8>> {
        if self.connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            if let Err(e) = self.socket.peer_addr() {
                return Err(match e.raw_os_error() {
                    Some(libc::ENOTCONN) => io::ErrorKind::WouldBlock.into(),
                    _ => e,
                });
            }
            self.connecting = false;
        }
        while self.sent < self.output.len() {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            match self.socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        let mut chunk = [0; CHUNK];
        loop {
            if self.messages >= MAX_MESSAGES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if let Some(message) = self.message() {
                self.messages += 1;
                return Ok(message);
            }
            match (&self.socket).read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self
                    .input
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn message(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.input.first_chunk()?));
        if self.input.len() < LENGTH + length {
            return None;
        }
        let rest = self.input.split_off(LENGTH + length);
        let mut message = std::mem::replace(&mut self.input, rest);
        message.drain(..LENGTH);
        Some(message)
    }
}

impl AsRawFd for DnsStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    /// Turns until there is something but waiting.
    fn turn(stream: &mut DnsStream) -> io::Result<Vec<u8>> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match stream.turn() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    let mut fds = [nix::poll::PollFd::new(
                        std::os::fd::AsFd::as_fd(&stream.socket),
                        nix::poll::PollFlags::POLLIN,
                    )];
                    let _ = nix::poll::poll(&mut fds, 20_u8);
                }
                other => return other,
            }
        }
    }

    #[test]
    fn the_longest_messages_pass_and_several_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let query = vec![7; 65_535];
        let mut stream = DnsStream::connect(listener.local_addr().unwrap(), &query).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut got = vec![0; 65_537];
            peer.read_exact(&mut got).unwrap();
            let long = [&[0xff, 0xff][..], &[1; 65_535]].concat();
            // In two pieces that part a length.
            let all = [&long[..], &[0, 1, 9, 0]].concat();
            peer.write_all(&all[..65_538]).unwrap();
            peer.write_all(&all[65_538..]).unwrap();
            got
        });
        assert_eq!(turn(&mut stream).unwrap(), vec![1; 65_535]);
        assert_eq!(turn(&mut stream).unwrap(), [9]);
        let end = turn(&mut stream).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(server.join().unwrap()[2..], query);
    }

    #[test]
    fn who_never_comes_to_the_point_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = DnsStream::connect(listener.local_addr().unwrap(), &[0; 12]).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            // Until the other side has had enough.
            while peer.write_all(&[0, 1, 7]).is_ok() {}
        });
        for _ in 0..MAX_MESSAGES {
            assert_eq!(turn(&mut stream).unwrap(), [7]);
        }
        let error = turn(&mut stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(stream);
        server.join().unwrap();
    }

    #[test]
    fn a_refusal_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let refused = DnsStream::connect(nobody, &[0; 12]).and_then(|mut s| turn(&mut s));
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        let long = DnsStream::connect(nobody, &[0; 65_536]).unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::InvalidInput);
    }
}
