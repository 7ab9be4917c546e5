//! Traffic: streams of bytes that can be checked at the other end, and clients in a namespace.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::netns::Namespace;
use super::servers::any_like;

/// Nothing that is asked for stays away for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream of bytes that never repeats within a test, by its seed.
#[derive(Debug)]
pub(crate) struct Pattern(u64);

impl Pattern {
    /// The stream of this seed, from its begin.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Fills `buf` with what comes next. Whole words: `buf` must be a multiple of 8 long.
    fn fill(&mut self, buf: &mut [u8]) {
        for word in buf.chunks_exact_mut(8) {
            // splitmix64: each word differs from all others, so none can be lost, doubled or moved.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
    }

    /// Writes `len` bytes, a multiple of 8.
    pub(crate) fn send(&mut self, to: &mut impl Write, len: usize) -> io::Result<()> {
        let mut buf = vec![0; 64 * 1024];
        let mut left = len;
        while left > 0 {
            let piece = buf.get_mut(..left.min(64 * 1024)).unwrap_or_default();
            self.fill(piece);
            to.write_all(piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    /// Reads `len` bytes, a multiple of 8, and fails at the first that is not what was sent.
    pub(crate) fn expect(&mut self, from: &mut impl Read, len: usize) -> io::Result<()> {
        let (mut buf, mut wanted) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut left = len;
        while left > 0 {
            let size = left.min(64 * 1024);
            let piece = buf.get_mut(..size).unwrap_or_default();
            let wanted = wanted.get_mut(..size).unwrap_or_default();
            from.read_exact(piece).map_err(|error| {
                io::Error::other(format!("at byte {} of {len}: {error}", len - left))
            })?;
            self.fill(wanted);
            if let Some(at) = piece.iter().zip(wanted.iter()).position(|(a, b)| a != b) {
                return Err(io::Error::other(format!(
                    "byte {} differs",
                    len - left + at
                )));
            }
            left -= size;
        }
        Ok(())
    }
}

/// Reads the end of a stream: nothing more comes, and no error.
#[track_caller]
pub(crate) fn expect_end(from: &mut impl Read) {
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 0, "bytes behind the last");
}

/// Connects from inside `at`; reads and writes time out.
pub(crate) fn connect(at: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = at.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Fetches a page over HTTP and returns its body.
#[track_caller]
pub(crate) fn fetch(at: &Namespace, from: SocketAddr) -> String {
    let mut stream = connect(at, from).unwrap_or_else(|error| panic!("connect to {from}: {error}"));
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let body = page
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.trim().to_owned());
    body.unwrap_or_else(|| panic!("a page: {page:?}"))
}

/// A UDP socket inside `at`, of the family of `like`; reads time out after `patience`.
pub(crate) fn udp(at: &Namespace, like: IpAddr, patience: Duration) -> UdpSocket {
    let socket = at.enter(|| UdpSocket::bind((any_like(like), 0))).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// Sends a datagram and waits for the answer, asking again as UDP clients do.
#[track_caller]
pub(crate) fn ask(socket: &UdpSocket, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    try_ask(socket, to, data, 10).unwrap_or_else(|error| panic!("answer from {to}: {error}"))
}

/// Sends a datagram once, and waits for the answer: where it counts how often something came.
#[track_caller]
pub(crate) fn ask_once(socket: &UdpSocket, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(data, to).unwrap();
    let mut buf = vec![0; 65536];
    let (len, from) = socket.recv_from(&mut buf).unwrap();
    assert_eq!(from, to);
    buf.truncate(len);
    buf
}

/// As `ask`, this many times, each for a second.
pub(crate) fn try_ask(
    socket: &UdpSocket,
    to: SocketAddr,
    data: &[u8],
    times: u32,
) -> io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buf = vec![0; 65536];
    let mut last = io::Error::other("not asked");
    for _ in 0..times {
        socket.send_to(data, to)?;
        match socket.recv_from(&mut buf) {
            Ok((len, from)) if from == to => {
                buf.truncate(len);
                return Ok(buf);
            }
            Ok((_, from)) => last = io::Error::other(format!("an answer from {from}")),
            Err(error) => last = error,
        }
    }
    Err(last)
}
