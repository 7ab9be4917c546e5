//! Sockets opened inside a sandbox ahead of need: the main thread, which can ask for them, fills; the worker takes.

use std::os::fd::{AsFd, BorrowedFd};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;

/// Sockets of a family kept ready: a browser's burst of connections, with room while the next ones come.
const READY: usize = 32;
/// With fewer the worker asks for more.
const LOW: usize = READY / 2;

/// Unconnected TCP sockets of one sandbox, by family. Cost: taking one is free of locks.
#[derive(Debug)]
pub struct Stock {
    ready: [Option<ArrayQueue<Socket>>; 2],
    wanted: EventFd,
}

impl Stock {
    /// Makes an empty stock of the families that the sandbox is reached by.
    /// Errors: the process is out of descriptors.
    pub fn new(v4: bool, v6: bool) -> nix::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            ready: [v4, v6].map(|kept| kept.then(|| ArrayQueue::new(READY))),
            wanted: EventFd::from_flags(flags)?,
        })
    }

    /// Readable when more sockets are wanted.
    #[must_use]
    pub fn wanted(&self) -> BorrowedFd<'_> {
        self.wanted.as_fd()
    }

    /// Fills up with what `open` gives for a family (IPv6 or not) and a number. Never blocks by itself.
    /// Errors: those of `open`, after all families have been tried.
    pub fn fill<S: Into<Socket>, E>(
        &self,
        mut open: impl FnMut(bool, usize) -> Result<Vec<S>, E>,
    ) -> Result<(), E> {
        // Before the sockets are counted, so that a wish made from now on is heard later.
        let _ = self.wanted.read();
        let mut result = Ok(());
        for (queue, v6) in self.ready.iter().zip([false, true]) {
            let Some(queue) = queue.as_ref().filter(|q| !q.is_full()) else {
                continue;
            };
            match open(v6, READY - queue.len()) {
                // A surplus is closed again.
                Ok(sockets) => sockets.into_iter().for_each(|s| drop(queue.push(s.into()))),
                Err(e) => result = Err(e),
            }
        }
        result
    }

    /// Takes one of a family, if there is one.
    pub(super) fn take(&self, v6: bool) -> Option<Socket> {
        let queue = self.ready[usize::from(v6)].as_ref()?;
        let taken = queue.pop();
        if queue.len() < LOW {
            // Cannot fail but by its counter's overflow, when it is readable as well.
            let _ = self.wanted.write(1);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::{Domain, Type};

    use super::*;

    fn wants(stock: &Stock) -> bool {
        let mut fds = [PollFd::new(stock.wanted(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    fn open(v6: bool, count: usize) -> std::io::Result<Vec<Socket>> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        (0..count)
            .map(|_| Socket::new(domain, Type::STREAM, None))
            .collect()
    }

    #[test]
    fn asks_for_more_before_it_is_empty() {
        let stock = Stock::new(true, false).unwrap();
        stock.fill(open).unwrap();
        for _ in 0..READY - LOW {
            assert!(!wants(&stock));
            assert!(stock.take(false).is_some());
        }
        assert!(stock.take(false).is_some());
        assert!(wants(&stock), "below half");
        stock.fill(open).unwrap();
        assert!(!wants(&stock));
        let all = std::iter::from_fn(|| stock.take(false)).count();
        assert_eq!(all, READY);
        assert!(stock.take(true).is_none(), "a family that is not kept");
    }

    #[test]
    fn a_refusal_is_told_and_the_wish_comes_again() {
        let stock = Stock::new(true, true).unwrap();
        let refused = stock.fill(|v6, n| {
            if v6 {
                open(v6, n)
            } else {
                Err(std::io::ErrorKind::Other.into())
            }
        });
        assert!(refused.is_err());
        assert!(stock.take(true).is_some(), "the other family is filled");
        assert!(stock.take(false).is_none());
        assert!(wants(&stock));
    }
}
