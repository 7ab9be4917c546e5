//! One TCP connection to a resolver, and the queries that share it. Source: RFC 7766 sections 6.2 and 7.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use switch_core::addr::SockId;

/// Bytes of the length before a message. Source: RFC 1035 section 4.2.2.
const LENGTH: usize = 2;
/// Bytes read at once.
const CHUNK: usize = 4096;
/// Messages in a row that answer nothing: what never comes to the point is of no use.
const MAX_STRAYS: u8 = 8;

/// A query under way.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What it is to the switch.
    pub(crate) query: u32,
    /// The slot that stands for it.
    pub(crate) sock: SockId,
    /// As the switch gave it.
    pub(crate) message: Vec<u8>,
    /// Its id on this connection, where no other has the same.
    id: [u8; 2],
    pub(crate) answered: bool,
}

/// A connection, and how far questions and answers have come.
#[derive(Debug)]
pub(crate) struct DnsStream {
    socket: Socket,
    connecting: bool,
    /// Queries behind their lengths.
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    asks: Vec<Ask>,
    strays: u8,
    /// It has answered something.
    proven: bool,
    /// No more queries are to go this way.
    retired: bool,
}

impl DnsStream {
    /// Starts to connect. Errors: those of the connection.
    pub(crate) fn connect(to: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(to);
        let socket = Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        // Nagle's algorithm would hold a query back until the one before it is acknowledged.
        socket.set_tcp_nodelay(true)?;
        // Closed by a reset: a port of the host that waits for a minute is of use to nobody.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Self {
            socket,
            connecting: true,
            output: Vec::new(),
            sent: 0,
            input: Vec::new(),
            asks: Vec::new(),
            strays: 0,
            proven: false,
            retired: false,
        })
    }

    /// Puts a query behind those that wait. Errors: `InvalidInput` for a message that is too short or too long; those
    /// of the connection, which is of no more use then.
    pub(crate) fn ask(&mut self, query: u32, sock: SockId, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let own: [u8; 2] = *message.first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
        let mut id = own;
        while self.asks.iter().any(|ask| ask.id == id) {
            id = u16::from_be_bytes(id).wrapping_add(1).to_be_bytes();
        }
        self.output.drain(..std::mem::take(&mut self.sent));
        // Length and message in one segment. Source: RFC 7766 section 8.
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(&id);
        self.output.extend_from_slice(&message[own.len()..]);
        self.asks.push(Ask {
            query,
            sock,
            message: message.to_vec(),
            id,
            answered: false,
        });
        if self.connecting {
            Ok(())
        } else {
            self.write()
        }
    }

    /// A query is over. What was not answered in time may hold up others, too: no more go this way.
    pub(crate) fn forget(&mut self, sock: SockId) {
        if let Some(at) = self.asks.iter().position(|ask| ask.sock == sock) {
            self.retired |= !self.asks.swap_remove(at).answered;
        }
    }

    /// Keeps it to the queries that it has.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// True if it takes more queries.
    pub(crate) fn is_open(&self) -> bool {
        !self.retired
    }

    /// Queries under way.
    pub(crate) fn len(&self) -> usize {
        self.asks.len()
    }

    /// What is left of a connection that has ended: its queries, and whether it had answered others, so that those
    /// without an answer deserve another. Source: RFC 7766 section 6.2.4.
    pub(crate) fn leftover(self) -> (Vec<Ask>, bool) {
        (self.asks, self.proven)
    }

    fn write(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            match self.socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Goes on as far as the socket allows; the next whole answer, without its length, and the query that it is to.
    /// Errors: `WouldBlock` until an event says that there is more; else the connection is of no more use.
    pub(crate) fn turn(&mut self) -> io::Result<(u32, Vec<u8>)> {
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
        self.write()?;
        let mut chunk = [0; CHUNK];
        loop {
            if self.strays >= MAX_STRAYS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if let Some(message) = self.message() {
                match self.answer(message) {
                    Some(answer) => return Ok(answer),
                    None => self.strays += 1,
                }
                continue;
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

    /// Finds the query of an answer, in whatever order they come, and gives the answer its id.
    fn answer(&mut self, mut message: Vec<u8>) -> Option<(u32, Vec<u8>)> {
        let id = message.first_chunk_mut::<2>()?;
        let ask = self.asks.iter_mut().find(|a| a.id == *id && !a.answered)?;
        *id = *ask.message.first_chunk()?;
        ask.answered = true;
        self.strays = 0;
        self.proven = true;
        Some((ask.query, message))
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
mod tests;
