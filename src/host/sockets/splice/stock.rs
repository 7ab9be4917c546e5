//! Sockets opened inside a sandbox ahead of need: the main thread, which can ask for them, fills; the worker takes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;

/// Sockets of a family kept ready: a browser's burst of connections, with room while the next ones come.
const READY: usize = 32;
/// Sockets of a family kept ready where nobody has come yet and many sandboxes share one limit on descriptors.
const FIRST: usize = 4;
/// With fewer the worker asks for more.
const LOW: usize = READY / 2;

/// Unconnected TCP sockets of one sandbox, by family. Cost: taking one is free of locks.
#[derive(Debug)]
pub struct Stock {
    ready: [Option<ArrayQueue<Socket>>; 2],
    wanted: EventFd,
    /// Somebody has come, so that it is worth its descriptors.
    used: AtomicBool,
}

impl Stock {
    /// Makes an empty stock of the families that the sandbox is reached by.
    /// Errors: the process is out of descriptors.
    pub fn new(v4: bool, v6: bool) -> nix::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            ready: [v4, v6].map(|kept| kept.then(|| ArrayQueue::new(READY))),
            wanted: EventFd::from_flags(flags)?,
            used: AtomicBool::new(true),
        })
    }

    /// Makes an empty stock of both families that stays small until somebody comes.
    /// Errors: the process is out of descriptors.
    pub fn small() -> nix::Result<Self> {
        let stock = Self::new(true, true)?;
        stock.used.store(false, Ordering::Relaxed);
        Ok(stock)
    }

    /// Readable when more sockets are wanted.
    #[must_use]
    pub fn wanted(&self) -> BorrowedFd<'_> {
        self.wanted.as_fd()
    }

    /// What is missing: a family (IPv6 or not) and how many. Wishes made from now on are heard later.
    #[must_use]
    pub fn missing(&self) -> Vec<(bool, usize)> {
        // Before the sockets are counted.
        let _ = self.wanted.read();
        let enough = if self.used.load(Ordering::Relaxed) {
            READY
        } else {
            FIRST
        };
        let families = self.ready.iter().zip([false, true]);
        families
            .filter_map(|(queue, v6)| Some((v6, enough.saturating_sub(queue.as_ref()?.len()))))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Adds sockets of a family. A surplus is closed.
    pub fn put<S: Into<Socket>>(&self, v6: bool, sockets: Vec<S>) {
        if let Some(queue) = &self.ready[usize::from(v6)] {
            sockets.into_iter().for_each(|s| drop(queue.push(s.into())));
        }
    }

    /// Takes one of a family, if there is one.
    pub(super) fn take(&self, v6: bool) -> Option<Socket> {
        let queue = self.ready[usize::from(v6)].as_ref()?;
        let taken = queue.pop();
        self.used.store(true, Ordering::Relaxed);
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

    fn fill(stock: &Stock) {
        for (v6, count) in stock.missing() {
            stock.put(v6, open(v6, count).unwrap());
        }
    }

    #[test]
    fn asks_for_more_before_it_is_empty() {
        let stock = Stock::new(true, false).unwrap();
        fill(&stock);
        for _ in 0..READY - LOW {
            assert!(!wants(&stock));
            assert!(stock.take(false).is_some());
        }
        assert!(stock.take(false).is_some());
        assert!(wants(&stock), "below half");
        fill(&stock);
        assert!(!wants(&stock));
        let all = std::iter::from_fn(|| stock.take(false)).count();
        assert_eq!(all, READY);
        assert!(stock.take(true).is_none(), "a family that is not kept");
    }

    #[test]
    fn a_small_one_grows_with_the_first_who_comes() {
        let stock = Stock::small().unwrap();
        assert_eq!(stock.missing(), [(false, FIRST), (true, FIRST)]);
        fill(&stock);
        assert!(stock.missing().is_empty() && !wants(&stock));
        assert!(stock.take(true).is_some() && wants(&stock));
        let more = [(false, READY - FIRST), (true, READY - FIRST + 1)];
        assert_eq!(stock.missing(), more);
    }

    #[test]
    fn a_surplus_goes_and_what_never_came_is_wished_for_again() {
        let stock = Stock::new(true, true).unwrap();
        assert_eq!(stock.missing(), [(false, READY), (true, READY)]);
        stock.put(true, open(true, READY + 5).unwrap());
        assert!(stock.take(false).is_none() && wants(&stock));
        assert_eq!(stock.missing(), [(false, READY)]);
        assert!(!wants(&stock));
        // The other family was refused.
        assert!(stock.take(true).is_some() && !wants(&stock));
        assert!(stock.take(false).is_none() && wants(&stock));
    }
}
