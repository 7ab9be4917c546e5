//! For kernels without SO_PEEK_OFF: what has been read from a socket and the sandbox has not acknowledged, kept here.
//!
//! Peeking over all that is in flight, again for each frame, would copy many times what is moved. So bytes are taken off
//! the socket as they are first asked for, and kept until they are discarded. Nothing is read before it is asked for:
//! what is held is bounded by the sandbox's window, by a share of each connection, and by a sum of all. Beyond those
//! the bytes stay in the kernel and are peeked over.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::Socket;
use switch_core::flow::host::{HostError, Peeked};

use super::{at_end, host_error, sys};

/// Bytes of one connection at most. Source: what Linux offers as a window by default, 6 MB less its own overhead.
pub(super) const SHARE: usize = 4 << 20;
/// Bytes of all connections of the process at most.
const SUM: usize = 64 << 20;
/// Bytes that the head of a buffer may hold in vain before the rest is moved down.
const SLACK: usize = 64 * 1024;

/// Bytes held by all connections of the process.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// What is held of one connection.
#[derive(Debug)]
pub(super) struct Ahead {
    /// What was read, from `start` on not discarded yet.
    bytes: Vec<u8>,
    start: usize,
    share: usize,
    /// The peer's end has been read.
    ended: bool,
    /// The connection has failed: to be told when all that came before has been.
    failed: Option<HostError>,
}

impl Ahead {
    /// Holds nothing, and never more than `share` bytes.
    pub(super) const fn new(share: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            share,
            ended: false,
            failed: None,
        }
    }

    /// Bytes that are kept.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Gives bytes from `offset` on, counted from the first that is not discarded. Fewer than asked only if no more
    /// have come. Errors: the connection has failed, and nothing came before at that offset.
    pub(super) fn peek(
        &mut self,
        socket: &Socket,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        self.catch_up(socket, offset);
        let known = self.bytes.get(self.start + offset..).unwrap_or_default();
        let mut n = known.len().min(buf.len());
        buf[..n].copy_from_slice(&known[..n]);
        let mut is_all = n == buf.len();
        if offset + n == self.held() && !is_all {
            let (more, all) = self.read(socket, &mut buf[n..]);
            (n, is_all) = (n + more, all);
        }
        let mut over = self.ended;
        if !is_all {
            // No room here for more, so that it waits in the kernel.
            let skip = offset + n - self.held();
            // Asked before: what comes after the look but before its end would be lost.
            let ends = skip > 0 && at_end(socket);
            match self.look(socket, skip, &mut buf[n..]) {
                Some(0) => {
                    over = ends || skip == 0;
                    // Behind bytes that wait the kernel tells no error by itself.
                    let error = socket.take_error().ok().flatten().filter(|_| over);
                    self.failed = self.failed.or_else(|| error.map(|e| host_error(&e)));
                }
                found => n += found.unwrap_or(0),
            }
        }
        match self.failed {
            _ if n > 0 => Ok(Peeked::Data(n)),
            Some(error) => Err(error),
            None if over => Ok(Peeked::Eof),
            None => Ok(Peeked::Empty),
        }
    }

    /// Forgets the first `len` bytes. Gives how many of them are still with the kernel.
    pub(super) fn discard(&mut self, len: usize) -> usize {
        let here = len.min(self.held());
        self.start += here;
        HELD.fetch_sub(here, Ordering::Relaxed);
        if self.held() == 0 {
            // A connection that idles costs nothing.
            self.bytes = Vec::new();
            self.start = 0;
        } else if self.start > SLACK.max(self.held()) {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        len - here
    }

    /// Reads what comes next, as much as there is room for, into `buf` and keeps it. Gives how much, and whether
    /// that is all there is or was asked for.
    fn read(&mut self, socket: &Socket, buf: &mut [u8]) -> (usize, bool) {
        if self.ended || self.failed.is_some() {
            return (0, true);
        }
        let room = self.reserve(buf.len());
        if room == 0 {
            return (0, buf.is_empty());
        }
        let n = match (&mut &*socket).read(&mut buf[..room]) {
            Ok(n) => {
                self.ended = n == 0;
                n
            }
            Err(e) => {
                let waits = matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                );
                self.failed = (!waits).then(|| host_error(&e));
                0
            }
        };
        HELD.fetch_sub(room - n, Ordering::Relaxed);
        self.bytes.extend_from_slice(&buf[..n]);
        (n, n < room || room == buf.len())
    }

    /// Takes what was passed over, when there was no room for it, as far as there is room now.
    fn catch_up(&mut self, socket: &Socket, offset: usize) {
        let missing = offset.saturating_sub(self.held());
        if missing > 0 {
            let mut passed = vec![0; missing.min(self.share)];
            let _ = self.read(socket, &mut passed);
        }
    }

    /// Looks at bytes in the kernel behind the first `skip` there, which are copied in vain. None if nothing has come.
    fn look(&mut self, socket: &Socket, skip: usize, buf: &mut [u8]) -> Option<usize> {
        let mut all = vec![0; skip + buf.len()];
        match sys::peek(socket.as_fd(), &mut all) {
            Ok(n) => {
                let found = all.get(skip..n).unwrap_or_default();
                buf[..found.len()].copy_from_slice(found);
                Some(found.len())
            }
            Err(e) => {
                let waits = e.kind() == io::ErrorKind::WouldBlock;
                self.failed = (!waits).then(|| host_error(&e));
                None
            }
        }
    }

    /// Claims room for up to `want` bytes.
    fn reserve(&self, want: usize) -> usize {
        let want = want.min(self.share.saturating_sub(self.held()));
        let mut got = 0;
        // Never fails: the closure always gives a value.
        let _ = HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            got = want.min(SUM.saturating_sub(held));
            Some(held + got)
        });
        got
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        HELD.fetch_sub(self.held(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn ends() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = Socket::from(listener.accept().unwrap().0);
        near.set_nonblocking(true).unwrap();
        // All of a test's bytes have room: a window that has been shut may open late, as its sender's clock has it.
        near.set_recv_buffer_size(1 << 20).unwrap();
        (far, near)
    }

    fn byte(at: usize) -> u8 {
        at.wrapping_mul(0x9e37_79b1).to_le_bytes()[2]
    }

    /// What a flow does: sends on, sends again after a loss, and discards what is acknowledged.
    #[derive(Debug, Clone)]
    enum Step {
        Next(usize),
        Again(u8, usize),
        Acknowledged(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..20_000usize).prop_map(Step::Next),
            2 => (any::<u8>(), 1..20_000usize).prop_map(|(at, n)| Step::Again(at, n)),
            2 => any::<u8>().prop_map(Step::Acknowledged),
        ]
    }

    fn part(of: usize, share: u8) -> usize {
        of * usize::from(share) / 255
    }

    /// Reads a stream of `len` bytes by these steps over and over, and holds each byte against what was sent.
    fn follow(share: usize, len: usize, steps: &[Step]) {
        let (mut far, near) = ends();
        let writer = std::thread::spawn(move || {
            let all: Vec<u8> = (0..len).map(byte).collect();
            all.chunks(5021).try_for_each(|c| far.write_all(c))
        });
        let mut ahead = Ahead::new(share);
        let (mut base, mut next) = (0, 0);
        let until = Instant::now() + Duration::from_secs(20);
        let look = |ahead: &mut Ahead, base: usize, at: usize, want: usize| {
            let mut buf = vec![0; want];
            assert!(Instant::now() < until, "stalled at {at} of {len}");
            let found = ahead.peek(&near, at - base, &mut buf).unwrap();
            if let Peeked::Data(n) = found {
                assert!(n <= want && at + n <= len);
                let right = (at..at + n).all(|i| buf[i - at] == byte(i));
                assert!(right, "bytes from {at} on");
            }
            found
        };
        for step in steps.iter().cycle() {
            match *step {
                Step::Next(want) => match look(&mut ahead, base, next, want) {
                    Peeked::Data(n) => next += n,
                    Peeked::Empty => std::thread::yield_now(),
                    Peeked::Eof => break,
                },
                Step::Again(at, want) if next > base => {
                    let at = base + part(next - base - 1, at);
                    let want = want.min(next - at);
                    // What was there once is there still, all of it.
                    assert_eq!(look(&mut ahead, base, at, want), Peeked::Data(want));
                }
                Step::Again(..) => {}
                Step::Acknowledged(upto) => {
                    let mut left = part(next - base, upto);
                    base += left;
                    left = ahead.discard(left);
                    while left > 0 {
                        left -= sys::discard(near.as_fd(), left).unwrap();
                    }
                    assert!(ahead.held() <= share.min(next - base));
                }
            }
        }
        writer.join().unwrap().unwrap();
        assert_eq!(next, len, "the end came after the last byte");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever is lost on the way, and however little room there is.
        #[test]
        fn every_byte_is_there_until_it_is_discarded(
            steps in prop::collection::vec(step(), 4..40),
            share in prop_oneof![Just(SHARE), Just(0), 1..60_000usize],
        ) {
            let progress = [Step::Next(3000), Step::Acknowledged(200), Step::Next(6000)];
            follow(share, 120_000, &[&steps[..], &progress].concat());
        }
    }

    #[test]
    fn what_came_before_a_reset_is_told_first() {
        let (mut far, near) = ends();
        far.write_all(b"last words").unwrap();
        let mut ahead = Ahead::new(SHARE);
        let mut buf = [0; 4];
        while ahead.peek(&near, 0, &mut buf) == Ok(Peeked::Empty) {}
        let far = Socket::from(far);
        far.set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        assert_eq!(ahead.peek(&near, 0, &mut buf), Ok(Peeked::Data(4)));
        assert_eq!(&buf, b"last");
        // The rest of the words, if the reset has not taken them, and then the reset.
        let mut at = 4;
        let told = loop {
            assert!(at <= 10);
            match ahead.peek(&near, at, &mut [0; 64]) {
                Ok(Peeked::Data(n)) => at += n,
                Ok(_) => std::thread::yield_now(),
                Err(e) => break e,
            }
        };
        assert_eq!(told, HostError::Reset);
        assert_eq!(ahead.peek(&near, at, &mut buf), Err(HostError::Reset));
        assert_eq!(ahead.peek(&near, 0, &mut buf), Ok(Peeked::Data(4)));
    }

    #[test]
    fn the_end_is_seen_behind_what_still_waits() {
        for reset in [false, true] {
            let (mut far, near) = ends();
            far.write_all(b"waits").unwrap();
            if reset {
                Socket::from(far.try_clone().unwrap())
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            let mut ahead = Ahead::new(0);
            let mut buf = [0; 8];
            while ahead.peek(&near, 0, &mut buf) == Ok(Peeked::Empty) {}
            assert_eq!(ahead.peek(&near, 5, &mut buf), Ok(Peeked::Empty));
            drop(far);
            let told = loop {
                let told = ahead.peek(&near, 5, &mut buf);
                if told != Ok(Peeked::Empty) {
                    break told;
                }
            };
            let expected = if reset {
                Err(HostError::Reset)
            } else {
                Ok(Peeked::Eof)
            };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn an_idle_connection_holds_nothing() {
        let (mut far, near) = ends();
        far.write_all(&[7; 9000]).unwrap();
        let mut ahead = Ahead::new(SHARE);
        let mut got = 0;
        while got < 9000 {
            if let Ok(Peeked::Data(n)) = ahead.peek(&near, got, &mut [0; 9000]) {
                got += n;
            }
        }
        assert_eq!(ahead.held(), 9000);
        assert_eq!(ahead.discard(9000), 0);
        assert_eq!(ahead.bytes.capacity(), 0);
    }
}
