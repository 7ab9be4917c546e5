//! Where bytes are between two sockets: a pipe, which moves pages without a copy, or a buffer when pipes run out.

use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use socket2::Socket;

/// Pipes open at once.
const PIPES: usize = 1024;
/// Empty pipes kept for the next that needs one: they count against what the kernel allows a user.
const KEPT: usize = 64;
/// Pipes that are made large. An ordinary user's pipes may have 64 MB in all before every new one of that user is
/// cut to two pages; a quarter of that is ours. Source: pipe-user-pages-soft in pipe(7).
const LARGE: usize = 16;
/// Bytes of a large pipe: what an ordinary user may ask for. Source: pipe-max-size in pipe(7).
const LARGE_SIZE: i32 = 1 << 20;
/// Bytes of a pipe that the kernel has not cut down. Source: pipe(7), "Pipe capacity".
const USUAL_SIZE: i32 = 65_536;
/// Bytes moved by one call at most.
const CHUNK: usize = 1 << 20;
/// Bytes of a buffer that stands in for a pipe.
const BUFFER: usize = 65_536;

/// A pipe and what is known to be in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
    is_large: bool,
}

impl Pipe {
    /// Errors: out of descriptors, or the kernel gives this user nothing but tiny ones.
    fn open(is_large: bool) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let is_large = is_large && fcntl(&write, FcntlArg::F_SETPIPE_SZ(LARGE_SIZE)).is_ok();
        if fcntl(&write, FcntlArg::F_GETPIPE_SZ)? < USUAL_SIZE {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self {
            read,
            write,
            filled: 0,
            is_large,
        })
    }
}

/// Bytes on their way.
#[derive(Debug)]
pub(super) enum Store {
    Pipe(Pipe),
    /// A buffer, and the part of it that is filled.
    Buffer(Box<[u8]>, Range<usize>),
}

impl Store {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.filled == 0,
            Self::Buffer(_, filled) => Range::is_empty(filled),
        }
    }

    /// Takes bytes from a socket; 0 at its end.
    /// Errors: `WouldBlock` when the socket has none or there is no room (told apart by [`Self::is_empty`]).
    pub(super) fn fill(&mut self, from: &Socket) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => {
                let n = moved(from, &pipe.write)?;
                pipe.filled += n;
                Ok(n)
            }
            Self::Buffer(_, filled) if !Range::is_empty(filled) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Self::Buffer(bytes, filled) => loop {
                match (&mut &*from).read(bytes) {
                    Ok(n) => {
                        *filled = 0..n;
                        return Ok(n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            },
        }
    }

    /// Gives bytes to a socket. Errors: `WouldBlock`, or the connection's end.
    pub(super) fn drain(&mut self, to: &Socket) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => {
                let n = moved(&pipe.read, to)?;
                pipe.filled = pipe.filled.saturating_sub(n);
                Ok(n)
            }
            Self::Buffer(bytes, filled) => loop {
                let rest = bytes.get(filled.clone()).unwrap_or_default();
                match to.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                    Ok(n) => {
                        filled.start += n;
                        return Ok(n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            },
        }
    }
}

fn moved(from: impl AsFd, to: impl AsFd) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    let (from, to) = (from.as_fd(), to.as_fd());
    Ok(crate::host::retry(|| {
        splice(from, None, to, None, CHUNK, flags)
    })?)
}

/// Pipes for those connections that have bytes on their way; one that is idle holds none.
#[derive(Debug, Default)]
pub(super) struct Pool {
    kept: Vec<Pipe>,
    spare: Option<Box<[u8]>>,
    open: usize,
    large: usize,
}

impl Pool {
    /// Gives an empty store: a pipe while there are any.
    pub(super) fn take(&mut self) -> Store {
        if let Some(pipe) = self.kept.pop() {
            return Store::Pipe(pipe);
        }
        if self.open < PIPES
            && let Ok(pipe) = Pipe::open(self.large < LARGE)
        {
            self.open += 1;
            self.large += usize::from(pipe.is_large);
            return Store::Pipe(pipe);
        }
        let bytes = self.spare.take();
        Store::Buffer(bytes.unwrap_or_else(|| vec![0; BUFFER].into()), 0..0)
    }

    /// Takes a store back. One that still holds bytes is not used again: they are another connection's.
    pub(super) fn give(&mut self, store: Store) {
        match store {
            Store::Pipe(pipe) if pipe.filled == 0 && self.kept.len() < KEPT => self.kept.push(pipe),
            Store::Pipe(pipe) => {
                self.open = self.open.saturating_sub(1);
                self.large = self.large.saturating_sub(usize::from(pipe.is_large));
            }
            Store::Buffer(bytes, _) => self.spare = Some(bytes),
        }
    }

    /// A pool that has lent all its pipes already.
    #[cfg(test)]
    pub(super) fn exhausted() -> Self {
        Self {
            open: PIPES,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use socket2::{Domain, Type};

    use super::*;

    fn pair() -> (Socket, Socket) {
        let (a, b) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a, b)
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_used_again() {
        let mut pool = Pool::default();
        let (mut a, b) = pair();
        let mut store = pool.take();
        assert!(matches!(store, Store::Pipe(_)));
        a.write_all(b"left behind").unwrap();
        assert_eq!(store.fill(&b).unwrap(), 11);
        assert!(!store.is_empty());
        pool.give(store);
        assert_eq!((pool.open, pool.kept.len(), pool.large), (0, 0, 0));
        let store = pool.take();
        pool.give(store);
        assert_eq!((pool.open, pool.kept.len()), (1, 1));
    }

    #[test]
    fn pipes_are_bounded_and_then_bytes_are_copied() {
        let mut pool = Pool {
            open: PIPES - 40,
            ..Pool::default()
        };
        let stores: Vec<Store> = (0..41).map(|_| pool.take()).collect();
        let pipes = stores
            .iter()
            .filter(|s| matches!(s, Store::Pipe(_)))
            .count();
        assert!(pipes <= 40, "{pipes}");
        assert!(pool.large <= LARGE);
        assert!(matches!(stores.last(), Some(Store::Buffer(..))));
    }

    #[test]
    fn a_buffer_takes_no_more_before_it_is_empty() {
        let mut store = Pool::exhausted().take();
        let (mut a, b) = pair();
        let (c, mut d) = pair();
        a.write_all(b"one").unwrap();
        assert_eq!(store.fill(&b).unwrap(), 3);
        a.write_all(b"two").unwrap();
        assert_eq!(
            store.fill(&b).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(store.drain(&c).unwrap(), 3);
        assert_eq!(store.fill(&b).unwrap(), 3);
        assert_eq!(store.drain(&c).unwrap(), 3);
        let mut got = [0; 6];
        d.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"onetwo");
    }
}
