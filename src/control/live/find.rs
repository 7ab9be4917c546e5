//! Where hosts are that were given by name: looked up beside everything else, again while nobody knows, and now and then
//! after that.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::control::ids::PeerId;
use crate::control::spec::HostPort;

/// Until a name is looked up again that nobody knew, and one that has an address.
const AGAIN: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(300);

/// A peer's wish to be found; it ends with this.
#[derive(Debug)]
pub(super) struct Wanted(Arc<HostPort>);

impl Wanted {
    pub(super) fn is(&self, name: &HostPort) -> bool {
        *self.0 == *name
    }
}

/// A peer, the name that was looked up, and where that is.
type Found = (PeerId, HostPort, SocketAddr);

/// What has been found.
#[derive(Debug)]
pub(super) struct Finder {
    tell: Sender<Found>,
    found: Receiver<Found>,
    told: Arc<EventFd>,
}

impl Finder {
    /// Errors: there is no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let told = EventFd::from_value_and_flags(0, flags)?;
        let (tell, found) = channel();
        Ok(Self {
            tell,
            found,
            told: Arc::new(told),
        })
    }

    /// Looks a name up from now on. Errors: there is no thread to be had.
    pub(super) fn want(&self, peer: PeerId, name: &HostPort) -> io::Result<Wanted> {
        let wanted = Arc::new(name.clone());
        let (weak, tell, told) = (
            Arc::downgrade(&wanted),
            self.tell.clone(),
            Arc::clone(&self.told),
        );
        let look = move || look_up(peer, &weak, &tell, &told);
        std::thread::Builder::new()
            .name("weft-names".to_owned())
            .spawn(look)?;
        Ok(Wanted(wanted))
    }

    /// Readable when something was found.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    pub(super) fn next(&self) -> Option<Found> {
        let next = self.found.try_recv().ok();
        if next.is_none() {
            let _ = self.told.read();
        }
        next.or_else(|| self.found.try_recv().ok())
    }
}

fn look_up(peer: PeerId, wanted: &Weak<HostPort>, tell: &Sender<Found>, told: &EventFd) {
    let mut known = None;
    // Nothing is held while it rests, or it would never end.
    while let Some(name) = wanted.upgrade().map(|name| HostPort::clone(&name)) {
        let found = (name.host.as_str(), name.port).to_socket_addrs();
        let found = found.ok().and_then(|mut all| all.next());
        if let Some(at) = found.filter(|at| known != Some(*at)) {
            known = found;
            if tell.send((peer, name, at)).is_err() {
                return;
            }
            let _ = told.write(1);
        }
        let rest = if known.is_some() { REFRESH } else { AGAIN };
        for _ in 0..rest.as_secs() / AGAIN.as_secs() {
            if wanted.strong_count() == 0 {
                return;
            }
            std::thread::sleep(AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_and_nobody_looks_for_it_any_more() {
        let finder = Finder::new().unwrap();
        let name: HostPort = "localhost:7348".parse().unwrap();
        let wanted = finder.want(PeerId(7), &name).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let (peer, found, at) = loop {
            if let Some(found) = finder.next() {
                break found;
            }
            assert!(std::time::Instant::now() < until, "nothing was found");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!((peer, &found), (PeerId(7), &name));
        assert!(at.ip().is_loopback() && at.port() == 7348);
        assert!(wanted.is(&name) && finder.next().is_none());
        // Its thread ends by itself once it looks.
        let weak = Arc::downgrade(&wanted.0);
        drop(wanted);
        while weak.strong_count() > 0 {
            assert!(std::time::Instant::now() < until, "somebody still wants it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
