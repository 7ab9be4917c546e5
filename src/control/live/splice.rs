//! Connections from the host's own loopback to published TCP ports go past the switch, by sockets opened inside the sandbox.
//!
//! Each sandbox with such a port has a small stock of them, which the owners of its endpoints take from and control
//! fills. A connection that goes past the switch goes past rules and limits as well: an endpoint that has any is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::LivePlane;
use crate::config::Proto;
use crate::control::ids::EndpointId;
use crate::control::plane::PlaneError;
use crate::control::policy::PolicyLimits;
use crate::control::spec::{OWN_VLAN, Vlan};
use crate::host::fleet::{Arrived, SandboxId};
use crate::host::sockets::splice::Stock;

/// Wishes taken from the kernel at once.
const AT_ONCE: usize = 64;

/// The stocks of all sandboxes that have one.
#[derive(Debug)]
pub(super) struct Stocks {
    epoll: Epoll,
    of: BTreeMap<SandboxId, Kept>,
}

#[derive(Debug)]
struct Kept {
    stock: Arc<Stock>,
    users: BTreeSet<EndpointId>,
}

impl Stocks {
    /// Errors: the process is out of descriptors.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            of: BTreeMap::new(),
        })
    }

    /// Readable when one of them is low.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// A sandbox's stock, which is made for its first user; and whether it was.
    fn join(&mut self, id: SandboxId, user: EndpointId) -> nix::Result<(Arc<Stock>, bool)> {
        if let Some(kept) = self.of.get_mut(&id) {
            kept.users.insert(user);
            return Ok((Arc::clone(&kept.stock), false));
        }
        let stock = Arc::new(Stock::small()?);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id.0.into());
        self.epoll.add(stock.wanted(), event)?;
        let kept = Kept {
            stock: Arc::clone(&stock),
            users: BTreeSet::from([user]),
        };
        self.of.insert(id, kept);
        Ok((stock, true))
    }

    /// With the last user the stock goes.
    fn leave(&mut self, id: SandboxId, user: EndpointId) {
        let Some(kept) = self.of.get_mut(&id) else {
            return;
        };
        kept.users.remove(&user);
        if kept.users.is_empty() {
            // A worker may hold it, and with it its descriptor, for a moment longer.
            let _ = self.epoll.delete(kept.stock.wanted());
            self.of.remove(&id);
        }
    }

    fn has(&self, id: SandboxId, user: EndpointId) -> bool {
        let kept = self.of.get(&id);
        kept.is_some_and(|kept| kept.users.contains(&user))
    }

    /// Those that are low.
    fn low(&self) -> Vec<(SandboxId, Arc<Stock>)> {
        let mut ready = [EpollEvent::empty(); AT_ONCE];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        let ids = ready.iter().take(count);
        let ids = ids.filter_map(|e| u32::try_from(e.data()).ok().map(SandboxId));
        ids.filter_map(|id| Some((id, Arc::clone(&self.of.get(&id)?.stock))))
            .collect()
    }

    fn put(&self, (id, v6, opened): Arrived) {
        match (self.of.get(&id), opened) {
            (Some(kept), Ok(sockets)) => kept.stock.put(v6, sockets),
            (None, Ok(_)) => {}
            (_, Err(e)) => tracing::debug!("sockets inside: {e}"),
        }
    }
}

impl LivePlane {
    /// Splices to an endpoint from now on, or no more, as what is published of it and its policies are now.
    /// Errors: `NoEndpoint`, `Ended`.
    pub(super) fn settle_splicing(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let (port, owner, sandbox) = (end.port, end.owner, end.sandbox);
        // Published ports are on the network's own VLAN alone.
        let bare = end.rules.is_none()
            && end.limits.rates() == PolicyLimits::standard().rates()
            && !end.gone
            && matches!(
                end.spec.vlan,
                Vlan::None
                    | Vlan::Trunk {
                        native: Some(OWN_VLAN),
                        ..
                    }
            );
        let mut rules = self.rules.values().map(|r| &r.spec);
        let wanted = bare && rules.any(|r| r.endpoint == id && r.rule.proto == Proto::Tcp);
        if wanted == self.stocks.has(sandbox, id) {
            return Ok(());
        }
        if !wanted {
            self.stocks.leave(sandbox, id);
            return self.on(owner, move |board| board.io.splice_no_more_to(port));
        }
        // Without descriptors the way through the switch is taken.
        let Ok((stock, fresh)) = self.stocks.join(sandbox, id) else {
            return Ok(());
        };
        if fresh {
            // They are there when the port is.
            for (v6, count) in stock.missing() {
                let opened = self.broker.sockets_in(sandbox, v6, count);
                self.stocks.put((sandbox, v6, opened));
            }
        }
        self.on(owner, move |board| board.io.splice_to(port, stock))
    }

    /// Asks for sockets where few are left, and takes those that have come.
    pub(super) fn restock(&mut self) {
        for (sandbox, stock) in self.stocks.low() {
            for (v6, count) in stock.missing() {
                // A broker that has died is told as an event.
                let _ = self.broker.want_sockets_in(sandbox, v6, count);
            }
        }
        while let Some(arrived) = self.broker.next_sockets_in() {
            self.stocks.put(arrived);
        }
    }
}
