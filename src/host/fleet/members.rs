//! The sandboxes of a broker: joined, watched, ended, left.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::super::broker_proto::{Event, Target};
use super::ends::Watched;
use super::enter::Place;
use super::server::Fleet;
use super::{FleetError, Identity, SandboxId, identify};

#[derive(Debug)]
pub(super) struct Sandbox {
    identity: Identity,
    /// How often it was joined and not left.
    users: usize,
    /// None once it has ended.
    pub(super) live: Option<Live>,
    /// Where it was, once it has ended with pairs in it: unlike a TAP, these do not end with their descriptors, and
    /// others may be in its network still.
    left: Option<Place>,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) place: Place,
    process: Option<OwnedFd>,
    pub(super) file: Option<Watched>,
    /// A pair was made in it.
    pub(super) pairs: bool,
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
        let opened = identify::open_again(identity, self.at_home)?;
        let mounted = matches!(identity.target, Target::Path(_));
        let place = if opened.at_home {
            Place::here(opened.net)
        } else {
            Place::new(opened.net, &self.home, mounted)?
        };
        let cannot = |e: std::io::Error| FleetError::refused("cannot watch the sandbox", &e);
        let file = match &identity.target {
            // It ends with this process.
            Target::Path(_) if opened.at_home => None,
            Target::Path(path) => Some(self.files.add(path, identity.netns).map_err(cannot)?),
            Target::Pid(_) => None,
        };
        let live = Live {
            place,
            process: opened.process,
            file,
            pairs: false,
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
                left: None,
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
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id.0.into());
        if let Some(process) = &live.process {
            self.epoll.add(process, event)?;
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
        if let Some(process) = &live.process {
            // A child that is in a sandbox just now has a copy of it: closing would not take it out.
            let _ = self.epoll.delete(process);
        }
        if let Some(file) = &live.file {
            self.files.remove(file);
        }
        if self.known.get(&sandbox.identity) == Some(&id) {
            self.known.remove(&sandbox.identity);
        }
        sandbox.left = live.pairs.then_some(live.place);
        true
    }

    /// Where interfaces are to be removed: also in a sandbox that has ended, if there are pairs. Errors: `SandboxGone`.
    pub(super) fn place(&mut self, id: SandboxId) -> Result<&Place, FleetError> {
        let pairs = |s: &Sandbox| s.left.is_some() || s.live.as_ref().is_some_and(|l| l.pairs);
        if !self.sandboxes.get(&id).is_some_and(pairs) {
            return self.live(id).map(|(live, _)| &live.place);
        }
        let sandbox = self.sandboxes.get(&id);
        sandbox
            .and_then(|s| {
                s.left
                    .as_ref()
                    .or_else(|| s.live.as_ref().map(|l| &l.place))
            })
            .ok_or_else(|| FleetError::SandboxGone("it has come to its end".to_owned()))
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
