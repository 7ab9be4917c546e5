//! The broker's side: the sandboxes that were joined, and what is heard of them.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use super::super::broker_proto::Event;
use super::super::helper::open_sockets;
use super::super::privileges;
use super::ends::{FileEnds, Watched};
use super::enter::{Inside, Pending};
use super::members::Sandbox;
use super::proto::{Answer, Made, Request};
use super::{
    FleetError, Identity, Kind, LinkSpec, OldLink, SandboxId, bind, identify, interface, route,
};

type Got = Result<(Answer, Vec<OwnedFd>), FleetError>;

/// Events taken from the kernel at once.
const AT_ONCE: usize = 64;

/// Children that remove interfaces at the same time.
const BESIDE: usize = 64;

/// Files are looked at so often at most. Each mount on the machine asks for a look, and so do thousands of namespaces that
/// are made one after the other; a look at a thousand files takes a millisecond. Whoever enters a sandbox looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// All sandboxes of a broker.
#[derive(Debug)]
pub(in super::super) struct Fleet {
    pub(super) home: File,
    /// The namespace at home may be a sandbox, too.
    pub(super) at_home: bool,
    pub(super) epoll: Epoll,
    pub(super) files: FileEnds,
    pub(super) sandboxes: HashMap<SandboxId, Sandbox>,
    pub(super) known: HashMap<Identity, SandboxId>,
    pub(super) next: u32,
    /// When all files are looked at next, if something has happened.
    look: Option<Instant>,
    looked: Option<Instant>,
}

impl Fleet {
    /// `at_home`: the namespace that this process is in may be a sandbox.
    /// Errors: `Refused` when out of descriptors, or /proc is not readable.
    pub(in super::super) fn new(at_home: bool) -> Result<Self, FleetError> {
        let cannot = |e: std::io::Error| FleetError::refused("cannot watch sandboxes", &e);
        // A sandbox takes two or three; with a low hard limit there are fewer sandboxes.
        if let Err(error) = privileges::raise_descriptor_limit() {
            tracing::debug!(%error, "the limit of descriptors stays");
        }
        Ok(Self {
            home: File::open("/proc/self/ns/net").map_err(cannot)?,
            at_home,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| cannot(e.into()))?,
            files: FileEnds::new().map_err(cannot)?,
            sandboxes: HashMap::new(),
            known: HashMap::new(),
            next: 0,
            look: None,
            looked: None,
        })
    }

    /// What to poll for: when one is ready, [`Self::hear`].
    pub(in super::super) fn poll_fds(&self) -> [PollFd<'_>; 3] {
        let [directories, mounts] = self.files.poll_fds();
        let epoll = PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN);
        [epoll, directories, mounts]
    }

    /// When [`Self::hear`] wants to be called, whether a descriptor is ready or not.
    pub(in super::super) fn due(&self) -> Option<Instant> {
        self.look
    }

    /// Takes what has happened. `files`: another descriptor than the first is ready. Never blocks.
    pub(in super::super) fn hear(&mut self, files: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        for one in ready.iter().take(count) {
            if let Ok(id) = u32::try_from(one.data()) {
                self.end(SandboxId(id), &mut events);
            }
        }
        let now = Instant::now();
        if files {
            self.files.drain();
            let next = self.looked.map_or(now, |at| now.max(at + LOOK_EVERY));
            self.look.get_or_insert(next);
        }
        if self.look.is_some_and(|at| at <= now) {
            (self.look, self.looked) = (None, Some(now));
            self.look_at_files(&mut events);
        }
        events
    }

    fn look_at_files(&mut self, events: &mut Vec<Event>) {
        let file = |s: &Sandbox| {
            s.live
                .as_ref()
                .and_then(|l| l.file.as_ref())
                .is_some_and(Watched::is_gone)
        };
        let gone = self.sandboxes.iter().filter(|(_, sandbox)| file(sandbox));
        let gone: Vec<_> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.end(id, events);
        }
    }

    /// Does what was asked.
    pub(in super::super) fn handle(&mut self, request: Request) -> Got {
        let done = (Answer::Done, Vec::new());
        match request {
            Request::Identify(target) => {
                let identity = identify::open(&target, self.at_home)?.identity;
                Ok((Answer::Identity(identity), Vec::new()))
            }
            Request::Join(identity) => Ok((Answer::Joined(self.join(&identity)?), Vec::new())),
            Request::Leave(id) => {
                self.leave(id);
                Ok(done)
            }
            Request::AddLink(id, spec) => self.link(id, &spec, interface::add),
            Request::AdoptLink(id, spec) => self.link(id, &spec, interface::adopt),
            Request::RemoveLinks(links) => {
                let results = links.chunks(BESIDE).flat_map(|some| self.remove(some));
                Ok((Answer::Removed(results.collect()), Vec::new()))
            }
            Request::SetDefaultRoute {
                id,
                ifname,
                route,
                on,
            } => {
                let (live, home) = self.live(id)?;
                live.place.run(home, || {
                    let index = interface::index(&ifname)?;
                    route::set_default(&mut interface::netlink()?, index, &route, on)?;
                    Ok(((), Vec::new()))
                })?;
                Ok(done)
            }
            Request::Sockets { id, v6, count } => {
                let (live, home) = self.live(id)?;
                let ((), fds) = live.place.run(home, || {
                    open_sockets(v6, count)
                        .map(|fds| ((), fds))
                        .map_err(|e| FleetError::Refused {
                            message: format!("{e:#}"),
                            errno: e.downcast_ref::<nix::errno::Errno>().map(|e| *e as i32),
                        })
                })?;
                Ok((Answer::Sockets, fds))
            }
            Request::Bind(ports) => {
                let (failures, fds) = bind::bind(&ports);
                Ok((Answer::Bound(failures), fds))
            }
        }
    }

    fn link(
        &mut self,
        id: SandboxId,
        spec: &LinkSpec,
        make: impl FnOnce(&LinkSpec) -> Inside<Made>,
    ) -> Got {
        let (live, home) = self.live(id)?;
        let (made, fds) = live.place.run(home, || make(spec))?;
        live.pairs |= spec.kind == Kind::Packet;
        Ok((Answer::Link(made), fds))
    }

    /// Removes interfaces beside each other: the kernel waits long for each of them, and no longer for many.
    fn remove(&mut self, links: &[OldLink]) -> Vec<Option<FleetError>> {
        let start = |link: &OldLink| {
            let place = self.place(link.sandbox)?;
            let gone = || interface::remove(&link.ifname, link.endpoint);
            place.start(|| gone().map(|()| ((), Vec::new())))
        };
        let started: Vec<_> = links.iter().map(start).collect();
        let finish = |pending: Result<Pending<()>, _>| pending.and_then(Pending::finish).err();
        started.into_iter().map(finish).collect()
    }
}
