//! The broker's side: the sandboxes that were joined, and what is heard of them.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::super::broker_proto::{Event, Target};
use super::super::helper::open_sockets;
use super::super::netlink;
use super::super::privileges;
use super::ends::{FileEnds, Watched};
use super::enter::Place;
use super::link_watch::{self, Heard};
use super::proto::{Answer, Made, Request};
use super::{FleetError, Identity, LinkSpec, SandboxId, bind, identify, interface, route};

type Got = Result<(Answer, Vec<OwnedFd>), FleetError>;

/// Events taken from the kernel at once.
const AT_ONCE: usize = 64;

/// Which descriptor of a sandbox an epoll event is about: the lowest bit of its number.
const LINKS: u64 = 1;

/// All sandboxes of a broker.
#[derive(Debug)]
pub(in super::super) struct Fleet {
    home: File,
    epoll: Epoll,
    files: FileEnds,
    sandboxes: HashMap<SandboxId, Sandbox>,
    known: HashMap<Identity, SandboxId>,
    next: u32,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Sandbox {
    identity: Identity,
    /// How often it was joined and not left.
    users: usize,
    /// None once it has ended.
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    place: Place,
    process: Option<OwnedFd>,
    file: Option<Watched>,
    /// Hears of removed links.
    links: OwnedFd,
    /// Index and name of each interface of ours.
    ours: Vec<(u32, String)>,
}

impl Live {
    fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(identify::has_ended)
            || self.file.as_ref().is_some_and(Watched::is_gone)
    }
}

impl Fleet {
    /// Errors: `Refused` when out of descriptors, or /proc is not readable.
    pub(in super::super) fn new() -> Result<Self, FleetError> {
        let cannot = |e: std::io::Error| FleetError::refused("cannot watch sandboxes", &e);
        // A sandbox takes three or four; with a low hard limit there are fewer sandboxes.
        if let Err(error) = privileges::raise_descriptor_limit() {
            tracing::debug!(%error, "the limit of descriptors stays");
        }
        Ok(Self {
            home: File::open("/proc/self/ns/net").map_err(cannot)?,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| cannot(e.into()))?,
            files: FileEnds::new().map_err(cannot)?,
            sandboxes: HashMap::new(),
            known: HashMap::new(),
            next: 0,
            buffer: vec![0; netlink::BUFFER],
        })
    }

    /// What to poll for: when one is ready, [`Self::hear`].
    pub(in super::super) fn poll_fds(&self) -> [PollFd<'_>; 3] {
        let [directories, mounts] = self.files.poll_fds();
        let epoll = PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN);
        [epoll, directories, mounts]
    }

    /// Takes what has happened. `files`: another descriptor than the first is ready. Never blocks.
    pub(in super::super) fn hear(&mut self, files: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        for one in ready.iter().take(count) {
            let Ok(id) = u32::try_from(one.data() >> 1).map(SandboxId) else {
                continue;
            };
            if one.data() & 1 == LINKS {
                self.hear_links(id, &mut events);
            } else {
                self.end(id, &mut events);
            }
        }
        if files {
            self.files.drain();
            let gone = |s: &Sandbox| {
                s.live
                    .as_ref()
                    .and_then(|l| l.file.as_ref())
                    .is_some_and(Watched::is_gone)
            };
            let gone: Vec<_> = self
                .sandboxes
                .iter()
                .filter(|(_, sandbox)| gone(sandbox))
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                self.end(id, &mut events);
            }
        }
        events
    }

    fn end(&mut self, id: SandboxId, events: &mut Vec<Event>) {
        if self.let_go(id) {
            events.push(Event::SandboxEnded(id));
        }
    }

    /// Closes everything of a sandbox; gives whether there was anything.
    fn let_go(&mut self, id: SandboxId) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return false;
        };
        let Some(live) = sandbox.live.take() else {
            return false;
        };
        // A child that is in a sandbox just now has copies of them: closing would not take them out.
        let _ = self.epoll.delete(&live.links);
        if let Some(process) = &live.process {
            let _ = self.epoll.delete(process);
        }
        if let Some(file) = &live.file {
            self.files.remove(file);
        }
        self.known.remove(&sandbox.identity);
        true
    }

    fn hear_links(&mut self, id: SandboxId, events: &mut Vec<Event>) {
        let live = self.sandboxes.get_mut(&id).and_then(|s| s.live.as_mut());
        let Some(live) = live else {
            return;
        };
        let mut lost = Vec::new();
        let mut sort = |is_gone: &dyn Fn(u32) -> bool| {
            live.ours.retain(|(index, name)| {
                let gone = is_gone(*index);
                if gone {
                    lost.push(name.clone());
                }
                !gone
            });
        };
        match link_watch::read(&live.links, &mut self.buffer) {
            Heard::Removed(removed) => sort(&|index| removed.contains(&index)),
            Heard::Unknown => {
                // What cannot be looked up now is told when it is used.
                if let Ok((there, _)) = live.place.run(&self.home, interface::indices) {
                    sort(&|index| !there.contains(&index));
                }
            }
        }
        events.extend(lost.into_iter().map(|name| Event::LinkLost(id, name)));
    }

    /// Does what was asked.
    pub(in super::super) fn handle(&mut self, request: Request) -> Got {
        let done = (Answer::Done, Vec::new());
        match request {
            Request::Identify(target) => {
                let identity = identify::open(&target)?.identity;
                Ok((Answer::Identity(identity), Vec::new()))
            }
            Request::Join(identity) => Ok((Answer::Joined(self.join(&identity)?), Vec::new())),
            Request::Leave(id) => {
                self.leave(id);
                Ok(done)
            }
            Request::AddLink(id, spec) => self.link(id, &spec, interface::add),
            Request::AdoptLink(id, spec) => self.link(id, &spec, interface::adopt),
            Request::RemoveLink {
                id,
                ifname,
                endpoint,
            } => {
                let (live, home) = self.live(id)?;
                live.place.run(home, || {
                    interface::remove(&ifname, endpoint).map(|()| ((), Vec::new()))
                })?;
                // Its loss waits to be heard, and is no news.
                live.ours.retain(|(_, name)| *name != ifname);
                Ok(done)
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

    fn live(&mut self, id: SandboxId) -> Result<(&mut Live, &File), FleetError> {
        let live = self.sandboxes.get_mut(&id).and_then(|s| s.live.as_mut());
        match live {
            Some(live) if !live.has_ended() => Ok((live, &self.home)),
            // The event of its end may still be on its way.
            _ => Err(FleetError::SandboxGone("it has come to its end".to_owned())),
        }
    }

    fn link(
        &mut self,
        id: SandboxId,
        spec: &LinkSpec,
        make: impl FnOnce(&LinkSpec) -> super::enter::Inside<Made>,
    ) -> Got {
        let (live, home) = self.live(id)?;
        let (made, fds) = live.place.run(home, || make(spec))?;
        live.ours.push((made.ifindex, spec.ifname.clone()));
        Ok((Answer::Link(made), fds))
    }

    fn join(&mut self, identity: &Identity) -> Result<SandboxId, FleetError> {
        let known = self.known.get(identity).copied();
        if let Some(id) = known
            && self.live(id).is_ok()
            && let Some(sandbox) = self.sandboxes.get_mut(&id)
        {
            sandbox.users += 1;
            return Ok(id);
        }
        let opened = identify::open_again(identity)?;
        let place = Place::new(opened.net, &self.home)?;
        let ((), mut fds) = place.run(&self.home, || {
            let cannot = |e| FleetError::refused("cannot watch the sandbox's interfaces", &e);
            Ok(((), vec![link_watch::open().map_err(cannot)?]))
        })?;
        let cannot = |e: std::io::Error| FleetError::refused("cannot watch the sandbox", &e);
        let links = fds
            .pop()
            .ok_or_else(|| cannot(std::io::ErrorKind::Other.into()))?;
        let file = match &identity.target {
            Target::Path(path) => Some(self.files.add(path, identity.netns).map_err(cannot)?),
            Target::Pid(_) => None,
        };
        let live = Live {
            place,
            process: opened.process,
            file,
            links,
            ours: Vec::new(),
        };
        let id = SandboxId(self.next);
        let ended = live.has_ended();
        let watched = self.watch(id, &live);
        // Kept already, so that letting go undoes all of it.
        self.sandboxes.insert(
            id,
            Sandbox {
                identity: identity.clone(),
                users: 1,
                live: Some(live),
            },
        );
        self.known.insert(identity.clone(), id);
        self.next += 1;
        if ended || watched.is_err() {
            self.leave(id);
            watched.map_err(cannot)?;
            let why = "it has ended while it was joined".to_owned();
            return Err(FleetError::SandboxGone(why));
        }
        Ok(id)
    }

    fn watch(&self, id: SandboxId, live: &Live) -> std::io::Result<()> {
        let event = |kind| EpollEvent::new(EpollFlags::EPOLLIN, u64::from(id.0) << 1 | kind);
        self.epoll.add(&live.links, event(LINKS))?;
        if let Some(process) = &live.process {
            self.epoll.add(process, event(0))?;
        }
        Ok(())
    }

    fn leave(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        sandbox.users -= 1;
        if sandbox.users == 0 {
            self.let_go(id);
            self.sandboxes.remove(&id);
        }
    }
}
