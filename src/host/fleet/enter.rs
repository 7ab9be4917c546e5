//! Going into a sandbox for the length of one request.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::broker_proto::Channel;
use super::super::{OWN_NET, sys};
use super::FleetError;

/// What is done inside gives a result and descriptors.
pub(super) type Inside<T> = Result<(T, Vec<OwnedFd>), FleetError>;

/// The namespaces of a sandbox, held open.
#[derive(Debug)]
pub(super) struct Place {
    net: File,
    way: Way,
}

/// How to go there.
#[derive(Debug)]
enum Way {
    /// The broker may, and may come back.
    Itself,
    /// By the user namespace in which alone we may act. Whoever joins one cannot come back, so a forked child does.
    User(OwnedFd),
    /// The broker is there. The kernel asks for rights in the user namespace even of who joins the namespace it is in.
    Here,
}

#[derive(Debug, Serialize, Deserialize)]
struct Said<T>(Result<T, FleetError>);

impl Place {
    /// The namespace that the broker is in.
    pub(super) fn here(net: File) -> Self {
        Self {
            net,
            way: Way::Here,
        }
    }

    /// Finds out how to go into the namespace `net`. `home` is the broker's own. `mounted`: it was opened by a file that is
    /// mounted somewhere, which is let go of, for nobody could unmount it.
    /// Errors: `NotPermitted` when neither way is open.
    pub(super) fn new(net: File, home: &File, mounted: bool) -> Result<Self, FleetError> {
        // Asked of the kernel: what decides is more than who owns the namespace.
        match setns(&net, CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                let again = if mounted {
                    File::open(OWN_NET)
                } else {
                    Ok(net)
                };
                come_back(home);
                let net = again.map_err(|e| refuse_entry(&e))?;
                let way = Way::Itself;
                return Ok(Self { net, way });
            }
            Err(Errno::EPERM) => {}
            Err(e) => return Err(FleetError::refused("cannot enter the sandbox", &e.into())),
        }
        let owner = sys::owner_of(net.as_fd()).map_err(|e| refuse_entry(&e))?;
        let own = File::open("/proc/self/ns/user").map_err(|e| refuse_entry(&e))?;
        if sys::same_file(&owner, &own).map_err(|e| refuse_entry(&e))? {
            return Err(refuse_entry(&Errno::EPERM.into()));
        }
        let mut place = Self {
            net,
            way: Way::User(owner),
        };
        if mounted {
            let open = || {
                let net = File::open(OWN_NET).map_err(|e| refuse_entry(&e))?;
                Ok(((), vec![net.into()]))
            };
            let ((), mut fds) = place.start(open)?.finish()?;
            place.net = fds.pop().map_or(place.net, File::from);
        }
        Ok(place)
    }

    /// Runs `body` inside.
    /// Errors: those of `body`; `NotPermitted`; `Refused` when there can be no child.
    pub(super) fn run<T>(&self, home: &File, body: impl FnOnce() -> Inside<T>) -> Inside<T>
    where
        T: Serialize + DeserializeOwned,
    {
        match self.way {
            Way::Itself => {}
            Way::User(_) => return self.start(body)?.finish(),
            Way::Here => return body(),
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).map_err(|e| refuse_entry(&e.into()))?;
        let result = body();
        come_back(home);
        result
    }

    /// Runs `body` inside in a forked child, beside whatever comes next.
    /// Errors: `Refused` when there can be none; the others come with [`Pending::finish`].
    pub(super) fn start<T>(
        &self,
        body: impl FnOnce() -> Inside<T>,
    ) -> Result<Pending<T>, FleetError>
    where
        T: Serialize,
    {
        let (ours, theirs) = Channel::pair().map_err(|e| cannot_fork(&e))?;
        let listening = ours.fd().as_raw_fd();
        let child = sys::fork_child_in(CloneFlags::empty(), || {
            sys::close_inherited(listening);
            let result = self.join().and_then(|()| body());
            let (said, fds) = match result {
                Ok((value, fds)) => (Said(Ok(value)), fds),
                Err(e) => (Said(Err(e)), Vec::new()),
            };
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            i32::from(theirs.send(&said, &fds).is_err())
        });
        Ok(Pending {
            child: child.map_err(|e| cannot_fork(&e))?,
            channel: ours,
            result: PhantomData,
        })
    }

    /// In the child. The kernel forgets the signal for the parent's death when credentials change.
    fn join(&self) -> Result<(), FleetError> {
        let net = || setns(&self.net, CloneFlags::CLONE_NEWNET);
        let joined = match &self.way {
            Way::Itself => net(),
            Way::User(user) => setns(user, CloneFlags::CLONE_NEWUSER).and_then(|()| net()),
            Way::Here => Ok(()),
        };
        joined
            .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
            .map_err(|e| refuse_entry(&e.into()))
    }
}

/// A child that is inside, and will say what came of it.
#[derive(Debug)]
pub(super) struct Pending<T> {
    child: Pid,
    channel: Channel,
    result: PhantomData<T>,
}

impl<T: DeserializeOwned> Pending<T> {
    /// Waits for the child. Errors: those of its body; `Refused` when it has died.
    pub(super) fn finish(mut self) -> Inside<T> {
        let heard = self.channel.receive::<Said<T>>();
        let how = super::super::retry(|| waitpid(self.child, None));
        match heard.map_err(|e| cannot_fork(&e))? {
            Some((Said(result), fds)) => Ok((result?, fds)),
            None => Err(FleetError::Refused {
                message: format!("the process in the sandbox has died ({how:?})"),
                errno: None,
            }),
        }
    }
}

fn cannot_fork(error: &io::Error) -> FleetError {
    FleetError::refused("cannot fork into the sandbox", error)
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
