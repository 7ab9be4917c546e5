//! The broker's service for many sandboxes, as the main process sees it.

use std::os::fd::OwnedFd;

use super::super::broker::{Broker, Wish};
use super::super::broker_proto::{Answer as Told, Failure, MAX_FDS, Request as Asked, Target};
use super::proto::{Answer, Request};
use super::{DefaultRoute, FleetError, Identity, Link, LinkSpec, OldLink, Port, SandboxId};
use crate::endpoint::Opened;

/// Descriptors asked for at once: one less than a message can carry, as a long message takes one itself.
const BATCH: usize = MAX_FDS - 1;

type Got = Result<(Answer, Vec<OwnedFd>), FleetError>;

impl Broker {
    /// Settles who a namespace is, so that it is known again later.
    /// Errors: `SandboxGone` when there is none; `NotPermitted` when it is another user's, or the host's own; `Refused` for
    /// a path that is not absolute.
    pub fn identify(&mut self, target: &Target) -> Result<Identity, FleetError> {
        match self.ask_fleet(Request::Identify(target.clone()))? {
            (Answer::Identity(identity), _) => Ok(identity),
            other => Err(out_of_turn(&other.0)),
        }
    }

    /// Holds a namespace and watches for its end. The same one again gives the same id, to be left once more.
    /// Errors: `SandboxGone`, also when its process id or path is another's by now; `NotPermitted`, which may also come
    /// only when something is done in it; `Refused`.
    pub fn join(&mut self, sandbox: &Identity) -> Result<SandboxId, FleetError> {
        match self.ask_fleet(Request::Join(sandbox.clone()))? {
            (Answer::Joined(id), _) => Ok(id),
            other => Err(out_of_turn(&other.0)),
        }
    }

    /// Lets go of a sandbox that was joined; an ended one as well. Interfaces in it stay.
    /// Errors: `Ended`.
    pub fn leave(&mut self, id: SandboxId) -> Result<(), FleetError> {
        self.ask_fleet(Request::Leave(id)).map(|_| ())
    }

    /// Makes an interface in a sandbox, configures it and brings it up; an error leaves nothing behind.
    /// Errors: `InterfaceExists`, `SandboxGone`, `NotPermitted`, `Refused`.
    pub fn add_link(&mut self, id: SandboxId, spec: &LinkSpec) -> Result<Link, FleetError> {
        let result = self.link(Request::AddLink(id, Box::new(spec.clone())));
        if result.as_ref().is_err_and(|e| *e == no_descriptor()) {
            // It was made, but this process had no room for its descriptor.
            let _ = self.remove_link(&OldLink {
                sandbox: id,
                ifname: spec.ifname.clone(),
                endpoint: spec.endpoint,
            });
        }
        result
    }

    /// Takes over the persistent interface that an earlier daemon has left for the endpoint of `spec`. Its addresses,
    /// routes and MAC stay as they are.
    /// Errors: `InterfaceMissing` when there is none or it is none of the endpoint's; as [`Self::add_link`].
    pub fn adopt_link(&mut self, id: SandboxId, spec: &LinkSpec) -> Result<Link, FleetError> {
        self.link(Request::AdoptLink(id, Box::new(spec.clone())))
    }

    fn link(&mut self, request: Request) -> Result<Link, FleetError> {
        let (answer, mut fds) = self.ask_fleet(request)?;
        let Answer::Link(made) = answer else {
            return Err(out_of_turn(&answer));
        };
        let fd = fds.pop().ok_or_else(no_descriptor)?;
        Ok(Link {
            opened: Opened { fd, how: made.how },
            ifindex: made.ifindex,
            mac: made.mac,
            warnings: made.warnings,
        })
    }

    /// Removes the endpoint's interface, whether its descriptor is closed or not, persistent or not. Cost: some 20 ms.
    /// Errors: `InterfaceMissing` when the endpoint has none; `SandboxGone`, `Refused`.
    pub fn remove_link(&mut self, link: &OldLink) -> Result<(), FleetError> {
        let results = self.remove_links(std::slice::from_ref(link))?;
        results.into_iter().collect()
    }

    /// Removes interfaces as [`Self::remove_link`] does, many at once. Cost: some 1 ms each. Shape: one result for each,
    /// in order.
    /// Errors: `Ended`.
    pub fn remove_links(
        &mut self,
        links: &[OldLink],
    ) -> Result<Vec<Result<(), FleetError>>, FleetError> {
        match self.ask_fleet(Request::RemoveLinks(links.to_vec()))? {
            (Answer::Removed(failures), _) => Ok(failures
                .into_iter()
                .map(|failure| failure.map_or(Ok(()), Err))
                .collect()),
            other => Err(out_of_turn(&other.0)),
        }
    }

    /// Adds default routes through an interface, or takes them away. One that is there, or gone, already is no error.
    /// Errors: `InterfaceMissing`; `SandboxGone`; `Refused` when another interface has the route with this metric.
    pub fn set_default_route(
        &mut self,
        id: SandboxId,
        ifname: &str,
        route: &DefaultRoute,
        on: bool,
    ) -> Result<(), FleetError> {
        self.ask_fleet(Request::SetDefaultRoute {
            id,
            ifname: ifname.to_owned(),
            route: route.clone(),
            on,
        })
        .map(|_| ())
    }

    /// Opens unconnected TCP sockets inside a sandbox; they do not block.
    /// Errors: `SandboxGone`; `Refused` when out of descriptors.
    pub fn sockets_in(
        &mut self,
        id: SandboxId,
        v6: bool,
        count: usize,
    ) -> Result<Vec<OwnedFd>, FleetError> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let count = BATCH.min(count - all.len());
            let fds = self.ask_fleet(Request::Sockets { id, v6, count })?.1;
            if fds.is_empty() {
                return Err(no_descriptor());
            }
            all.extend(fds);
        }
        Ok(all)
    }

    /// Asks for sockets as [`Self::sockets_in`] does, at most 252, and waits for none: they come by
    /// [`Self::next_sockets_in`], after [`Self::fd`] was readable and [`Self::next_event`] was taken. One wish for each
    /// sandbox and family is heard at a time.
    /// Errors: `Ended`.
    pub fn want_sockets_in(
        &mut self,
        id: SandboxId,
        v6: bool,
        count: usize,
    ) -> Result<(), FleetError> {
        let count = count.min(BATCH);
        let request = Asked::Fleet(Request::Sockets { id, v6, count });
        self.wish(Wish::In(id, v6), &request)
            .map_err(|e| FleetError::Ended(format!("{e:#}")))
    }

    /// Binds ports of the host, each as [`Self::bind_port`] does. Shape: one result for each port,
    /// in order.
    /// Errors: `Ended`; what is wrong with a port is told in its place.
    pub fn bind(&mut self, ports: &[Port]) -> Result<Vec<Result<OwnedFd, Failure>>, FleetError> {
        let mut all = Vec::with_capacity(ports.len());
        for part in ports.chunks(BATCH) {
            let (answer, fds) = self.ask_fleet(Request::Bind(part.to_vec()))?;
            let Answer::Bound(failures) = answer else {
                return Err(out_of_turn(&answer));
            };
            let mut fds = fds.into_iter();
            for failure in failures {
                all.push(match failure {
                    Some(failure) => Err(failure),
                    None => Ok(fds.next().ok_or_else(no_descriptor)?),
                });
            }
        }
        Ok(all)
    }

    fn ask_fleet(&mut self, request: Request) -> Got {
        match self.ask(&Asked::Fleet(request)) {
            Ok((Told::Fleet(result), fds)) => result.map(|answer| (answer, fds)),
            Ok((other, _)) => Err(FleetError::Ended(format!(
                "the broker answered out of turn: {other:?}"
            ))),
            Err(e) => Err(FleetError::Ended(format!("{e:#}"))),
        }
    }
}

fn out_of_turn(answer: &Answer) -> FleetError {
    FleetError::Ended(format!("the broker answered out of turn: {answer:?}"))
}

fn no_descriptor() -> FleetError {
    // The kernel drops descriptors that do not fit into the receiver's table.
    FleetError::Refused {
        message: "no descriptor came from the broker: raise the limit of open files (ulimit -n)"
            .to_owned(),
        errno: Some(libc::EMFILE),
    }
}
