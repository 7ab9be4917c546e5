//! Going into a sandbox for the length of one request.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::broker_proto::Channel;
use super::super::sys;
use super::FleetError;

/// What is done inside gives a result and descriptors.
pub(super) type Inside<T> = Result<(T, Vec<OwnedFd>), FleetError>;

/// The namespaces of a sandbox, held open.
#[derive(Debug)]
pub(super) struct Place {
    net: File,
    /// The user namespace in which alone we may act. Whoever joins one cannot come back, so a forked child does.
    user: Option<OwnedFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Said<T>(Result<T, FleetError>);

impl Place {
    /// Finds out how to go into the namespace `net`. `home` is the broker's own.
    /// Errors: `NotPermitted` when neither way is open.
    pub(super) fn new(net: File, home: &File) -> Result<Self, FleetError> {
        // Asked of the kernel: what decides is more than who owns the namespace.
        match setns(&net, CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                come_back(home);
                return Ok(Self { net, user: None });
            }
            Err(Errno::EPERM) => {}
            Err(e) => return Err(FleetError::refused("cannot enter the sandbox", &e.into())),
        }
        let owner = sys::owner_of(net.as_fd()).map_err(|e| refuse_entry(&e))?;
        let own = File::open("/proc/self/ns/user").map_err(|e| refuse_entry(&e))?;
        if sys::same_file(&owner, &own).map_err(|e| refuse_entry(&e))? {
            return Err(refuse_entry(&Errno::EPERM.into()));
        }
        Ok(Self {
            net,
            user: Some(owner),
        })
    }

    /// Runs `body` inside.
    /// Errors: those of `body`; `NotPermitted`; `Refused` when there can be no child.
    pub(super) fn run<T>(&self, home: &File, body: impl FnOnce() -> Inside<T>) -> Inside<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let Some(user) = &self.user else {
            setns(&self.net, CloneFlags::CLONE_NEWNET).map_err(|e| refuse_entry(&e.into()))?;
            let result = body();
            come_back(home);
            return result;
        };
        let cannot = |e: io::Error| FleetError::refused("cannot fork into the sandbox", &e);
        let (mut ours, theirs) = Channel::pair().map_err(cannot)?;
        let listening = ours.fd().as_raw_fd();
        let child = sys::fork_child_in(CloneFlags::empty(), || {
            sys::close_inherited(listening);
            let result = self.join(user).and_then(|()| body());
            let (said, fds) = match result {
                Ok((value, fds)) => (Said(Ok(value)), fds),
                Err(e) => (Said(Err(e)), Vec::new()),
            };
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            i32::from(theirs.send(&said, &fds).is_err())
        })
        .map_err(cannot)?;
        // The child has its own copy: with ours open its end would not be seen.
        drop(theirs);
        let heard = ours.receive::<Said<T>>();
        let how = super::super::retry(|| waitpid(child, None));
        match heard.map_err(cannot)? {
            Some((Said(result), fds)) => Ok((result?, fds)),
            None => Err(FleetError::Refused {
                message: format!("the process in the sandbox has died ({how:?})"),
                errno: None,
            }),
        }
    }

    /// In the child. The kernel forgets the signal for the parent's death when credentials change.
    fn join(&self, user: &OwnedFd) -> Result<(), FleetError> {
        setns(user, CloneFlags::CLONE_NEWUSER)
            .and_then(|()| setns(&self.net, CloneFlags::CLONE_NEWNET))
            .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
            .map_err(|e| refuse_entry(&e.into()))
    }
}

/// Whatever was done in the wrong namespace from now on would hit a sandbox in place of the host.
fn come_back(home: &File) {
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "the broker cannot come back from a sandbox");
        std::process::abort();
    }
}

fn refuse_entry(error: &io::Error) -> FleetError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => FleetError::NotPermitted(
            "the network namespace belongs to another user; run weft as that user or as root"
                .to_owned(),
        ),
        _ => FleetError::refused("cannot enter the sandbox", error),
    }
}
