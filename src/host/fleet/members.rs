//! The sandboxes of a broker: joined, watched, ended, left.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::super::broker_proto::{Event, Target};
use super::ends::Watched;
use super::enter::Place;
use super::server::{Fleet, LINKS};
use super::{FleetError, Identity, SandboxId, identify, link_watch};

#[derive(Debug)]
pub(super) struct Sandbox {
    identity: Identity,
    /// How often it was joined and not left.
    users: usize,
    /// None once it has ended.
    pub(super) live: Option<Live>,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) place: Place,
    process: Option<OwnedFd>,
    pub(super) file: Option<Watched>,
    /// Hears of removed links.
    pub(super) links: OwnedFd,
    /// Index and name of each interface of ours.
    pub(super) ours: Vec<(u32, String)>,
}

impl Live {
    fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(identify::has_ended)
            || self.file.as_ref().is_some_and(Watched::is_gone)
    }
}

impl Fleet {
    /// Holds and watches a namespace, or counts one more user of it.
    pub(super) fn join(&mut self, identity: &Identity) -> Result<SandboxId, FleetError> {
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

    /// Counts one user less, and lets go with the last.
    pub(super) fn leave(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        sandbox.users -= 1;
        if sandbox.users == 0 {
            self.let_go(id);
            self.sandboxes.remove(&id);
        }
    }

    pub(super) fn end(&mut self, id: SandboxId, events: &mut Vec<Event>) {
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

    /// A sandbox that has not ended, and the way home. Errors: `SandboxGone`.
    pub(super) fn live(&mut self, id: SandboxId) -> Result<(&mut Live, &File), FleetError> {
        let live = self.sandboxes.get_mut(&id).and_then(|s| s.live.as_mut());
        match live {
            Some(live) if !live.has_ended() => Ok((live, &self.home)),
            // The event of its end may still be on its way.
            _ => Err(FleetError::SandboxGone("it has come to its end".to_owned())),
        }
    }
}
