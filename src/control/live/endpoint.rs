//! Endpoints: made by the broker, received by one worker, sent to by all.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use switch_core::addr::PortId;
use switch_core::pipeline::Port;
use switch_core::policy::guard::{Guard, Trust};
use switch_core::policy::limit::{Limits, Rates};
use switch_core::respond::Guest;

use super::{End, LivePlane};
use crate::control::ids::EndpointId;
use crate::control::plane::PlaneError;
use crate::control::spec::{EndpointKind, EndpointSpec, Interface, Sandbox, SandboxRef};
use crate::endpoint::{Kind, Opened};
use crate::host::broker_proto::Target;
use crate::host::fleet::{DefaultRoute, Identity, LinkRoute, LinkSpec, OldLink, SandboxId};
use crate::host::sockets::links::Link;

impl LivePlane {
    pub(super) fn who(&mut self, at: &SandboxRef) -> Result<Sandbox, PlaneError> {
        let identity = self.broker.identify(&target(at))?;
        Ok(Sandbox {
            at: at.clone(),
            start_time: identity.start_time,
            netns: identity.netns,
        })
    }

    pub(super) fn make_endpoint(
        &mut self,
        spec: &EndpointSpec,
        adopt: bool,
    ) -> Result<Interface, PlaneError> {
        self.net(spec.network)?;
        let number = self.ports.take("endpoints")?;
        let made = self
            .take_vlans(spec)
            .and_then(|()| self.join_and_make(spec, PortId(number), adopt));
        if made.is_err() {
            self.ports.give_back(number);
            self.give_vlans_back(spec.network);
        }
        made
    }

    fn join_and_make(
        &mut self,
        spec: &EndpointSpec,
        port: PortId,
        adopt: bool,
    ) -> Result<Interface, PlaneError> {
        let sandbox = self.broker.join(&Identity {
            target: target(&spec.sandbox.at),
            start_time: spec.sandbox.start_time,
            netns: spec.sandbox.netns,
        })?;
        let made = self.make(spec, port, sandbox, adopt);
        if made.is_err() {
            self.broker.leave(sandbox)?;
        }
        made
    }

    fn make(
        &mut self,
        spec: &EndpointSpec,
        port: PortId,
        sandbox: SandboxId,
        adopt: bool,
    ) -> Result<Interface, PlaneError> {
        let wanted = self.link_spec(spec)?;
        let link = if adopt {
            self.broker.adopt_link(sandbox, &wanted)?
        } else {
            self.broker.add_link(sandbox, &wanted)?
        };
        let end = End {
            spec: spec.clone(),
            port,
            owner: self.least_busy(),
            sandbox,
            uso: link.opened.how.caps.uso,
            gone: false,
            policy: None,
            limits: Arc::new(Limits::counted(
                Rates::DEFAULT,
                self.switched.tallies(),
                port,
            )),
            rules: None,
        };
        self.ends.insert(spec.id, end);
        if let Err(e) = self.bring_up(spec, &link.opened) {
            // The error that is told is the first one.
            let _ = self.bring_down(spec, port);
            let _ = self.broker.remove_link(&old(sandbox, spec));
            return Err(e);
        }
        Ok(Interface {
            ifname: spec.ifname.clone(),
            ifindex: link.ifindex,
            warnings: link.warnings,
        })
    }

    fn bring_up(&mut self, spec: &EndpointSpec, made: &Opened) -> Result<(), PlaneError> {
        self.enact(spec.id)?;
        self.put_on_boards(spec.id, made)?;
        self.joins_kin(spec.id)?;
        self.tell_peers(spec.id);
        self.backend_changed(spec.network, spec.id)?;
        self.announce(spec.id)
    }

    /// Tells the neighbours of an endpoint that it has what another had before, which they may remember.
    fn announce(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let (port, owner, mac) = (end.port, end.owner, end.spec.mac);
        let (network, addrs) = (end.spec.network, addresses(&end.spec));
        let Some(net) = self.nets.get_mut(&network) else {
            return Ok(());
        };
        let (slot, left) = (net.slot, &mut net.left);
        let taken: Vec<_> = addrs.filter(|&addr| left.take(addr, mac)).collect();
        if taken.is_empty() {
            return Ok(());
        }
        let begun = self.start;
        self.on(owner, move |board| {
            board.with(slot, |switch, io| {
                switch.announce(io, super::start::now(begun), port, &taken);
            });
        })
    }

    /// Takes back what of an endpoint has come up.
    fn bring_down(&mut self, spec: &EndpointSpec, port: PortId) -> Result<(), PlaneError> {
        let Some(end) = self.ends.remove(&spec.id) else {
            return Ok(());
        };
        // The descriptors come back, and are closed here.
        drop(self.on_all(move |board| board.detach(port))?);
        self.forget(port);
        self.retract(&end.spec);
        self.leaves_kin(spec.id, &end)
    }

    /// Gives an endpoint to its owner to receive from, and to the others to send to.
    fn put_on_boards(&mut self, id: EndpointId, made: &Opened) -> Result<(), PlaneError> {
        let (slot, port, guest) = self.member(id)?;
        let owner = self.end(id)?.owner;
        for worker in 0..self.hands.len() {
            let owned = worker == owner;
            let endpoint = made.try_clone().and_then(|copy| copy.endpoint(owned));
            let endpoint = endpoint.map_err(|e| refused("a descriptor", &e))?;
            let link = Link::new(endpoint, slot, owned);
            let (port, guest) = (port.clone(), guest.clone());
            self.on(worker, move |board| {
                let at = port.id;
                board.with(slot, |switch, _| switch.add_port(port, guest));
                let attached = board.attach(at, link);
                if attached.is_err() {
                    board.with(slot, |switch, io| switch.remove_port(io, at));
                }
                attached
            })?
            .map_err(|e| refused("polling the endpoint", &e))?;
        }
        Ok(())
    }

    /// An endpoint as the switch of its network sees it.
    pub(super) fn member(&self, id: EndpointId) -> Result<(u32, Port, Guest), PlaneError> {
        let end = self.end(id)?;
        let net = self.net(end.spec.network)?;
        let spec = &end.spec;
        let both = || end.policy.iter().chain(&net.policy);
        let policy = both().next();
        let guarded = policy.is_none_or(|p| p.spoof_guard);
        let all = !guarded;
        let trust = Trust {
            mac: all,
            address: all,
            dhcp: all,
            router: all,
        };
        let slaac = net.spec.v6.map(|s| (s.network, s.prefix));
        let port = Port {
            isolated: both().any(|p| p.isolated),
            policy: end.rules.clone(),
            limits: Some(Arc::clone(&end.limits)),
            guard: Some(Guard::new(spec.mac, addresses(spec), slaac, trust)),
            vlans: self.vlans_of(spec, trust)?,
            ..Port::new(end.port, spec.mac, spec.mtu, end.uso)
        };
        let guest = Guest {
            mac: spec.mac,
            // Names come by records of their own.
            name: String::new(),
            v4: spec.v4,
            v6: spec.v6,
        };
        Ok((net.slot, port, guest))
    }

    pub(super) fn drop_endpoint(&mut self, id: EndpointId, keep: bool) -> Result<(), PlaneError> {
        self.end(id)?;
        let taken = self.take_off(id)?;
        self.let_go(taken.as_slice(), keep)
    }

    pub(super) fn drop_endpoints(&mut self, ids: &[EndpointId]) -> Result<(), PlaneError> {
        let mut taken = Vec::with_capacity(ids.len());
        for &id in ids {
            taken.extend(self.take_off(id)?);
        }
        self.let_go(&taken, false)
    }

    /// Takes an endpoint off every board, with what is published of it.
    fn take_off(&mut self, id: EndpointId) -> Result<Option<End>, PlaneError> {
        let rules = self.rules.values().map(|r| (r.spec.id, r.spec.endpoint));
        let rules: Vec<_> = rules.filter(|r| r.1 == id).collect();
        for (rule, _) in rules {
            self.unpublish(rule)?;
        }
        let Some(end) = self.ends.remove(&id) else {
            return Ok(None);
        };
        let port = end.port;
        if let Some(net) = self.nets.get_mut(&end.spec.network) {
            addresses(&end.spec).for_each(|addr| net.left.note(addr, end.spec.mac));
        }
        // The descriptors come back, and are closed here: that may take the kernel a while.
        let links = self.on_all(move |board| board.detach(port))?;
        if end.gone {
            // Its network may be in use by others that it does not end with.
            links.iter().flatten().for_each(|l| l.endpoint.let_end());
        }
        drop(links);
        self.retract(&end.spec);
        self.forget(port);
        self.ports.give_back(port.0);
        self.give_vlans_back(end.spec.network);
        self.leaves_kin(id, &end)?;
        self.backend_changed(end.spec.network, id)?;
        Ok(Some(end))
    }

    /// Forgets what the tables that packets fill know of an endpoint which is on no board any more.
    fn forget(&self, port: PortId) {
        self.macs.forget(port);
        // What it has to the world has ended: the rest is with neighbours.
        if self.switched.tallies().get(port.0 as usize) > 0 {
            self.switched.forget(port);
        }
    }

    /// Removes the interfaces of endpoints that were taken off, unless they are to stay, and leaves their sandboxes.
    fn let_go(&mut self, ends: &[End], keep: bool) -> Result<(), PlaneError> {
        if !keep {
            let links: Vec<OldLink> = ends.iter().map(|e| old(e.sandbox, &e.spec)).collect();
            for (removed, link) in self.broker.remove_links(&links)?.into_iter().zip(&links) {
                if let Err(e) = removed {
                    // It went with the sandbox, or someone was faster.
                    tracing::debug!("removing {}: {e}", link.ifname);
                }
            }
        }
        for end in ends {
            self.broker.leave(end.sandbox)?;
        }
        Ok(())
    }

    pub(super) fn move_default_route(
        &mut self,
        id: EndpointId,
        on: bool,
    ) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let (sandbox, ifname) = (end.sandbox, end.spec.ifname.clone());
        let mut spec = end.spec.clone();
        spec.default_route = true;
        let route = self.link_spec(&spec)?.default_route;
        self.broker
            .set_default_route(sandbox, &ifname, &route, on)?;
        if let Some(end) = self.ends.get_mut(&id) {
            end.spec.default_route = on;
        }
        Ok(())
    }

    fn link_spec(&self, spec: &EndpointSpec) -> Result<LinkSpec, PlaneError> {
        let net = &self.net(spec.network)?.spec;
        let v4 = spec.v4.zip(net.v4);
        let v6 = spec.v6.zip(net.v6);
        let four = v4.map(|(a, s)| ((IpAddr::V4(a), s.prefix), IpAddr::V4(s.gateway)));
        let six = v6.map(|(a, s)| ((IpAddr::V6(a), s.prefix), IpAddr::V6(s.gateway)));
        let both: Vec<_> = four.into_iter().chain(six).collect();
        let gateways = both.iter().filter(|_| spec.default_route).map(|b| b.1);
        Ok(LinkSpec {
            endpoint: spec.id.0,
            kind: spec.kind.into(),
            ifname: spec.ifname.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
            gso_max_size: net
                .overlay
                .as_ref()
                .and_then(|o| o.carrier.gso_max_size(spec.mtu)),
            vnet: true,
            // At home it goes with this process, however that ends: the next one finds the place as it was.
            persistent: spec.persistent && !self.at_home,
            configure: spec.configure,
            addresses: both.iter().map(|b| b.0).collect(),
            default_route: DefaultRoute {
                gateways: gateways.collect(),
                metric: None,
            },
            routes: spec
                .routes
                .iter()
                .map(|r| LinkRoute {
                    to: r.to,
                    prefix: r.prefix,
                    via: r.via,
                })
                .collect(),
            shared: self.at_home,
            sysctls: spec.sysctls.clone(),
        })
    }

    /// The worker with the fewest endpoints.
    fn least_busy(&self) -> usize {
        let mut counts = vec![0; self.hands.len()];
        if counts.len() > 1 {
            for end in self.ends.values() {
                counts[end.owner] += 1;
            }
        }
        let least = counts.iter().enumerate().min_by_key(|(_, count)| **count);
        least.map_or(0, |(worker, _)| worker)
    }

    /// The endpoint in a place.
    pub(super) fn at_port(&self, port: PortId) -> Option<EndpointId> {
        let mut ends = self.ends.iter();
        ends.find(|(_, e)| e.port == port).map(|(&id, _)| id)
    }
}

impl From<EndpointKind> for Kind {
    fn from(kind: EndpointKind) -> Self {
        match kind {
            EndpointKind::Tap => Self::Tap,
            EndpointKind::Packet => Self::Packet,
        }
    }
}

fn addresses(spec: &EndpointSpec) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = spec.v4.map(IpAddr::V4).into_iter();
    v4.chain(spec.v6.map(IpAddr::V6))
}

fn target(at: &SandboxRef) -> Target {
    match at {
        SandboxRef::Pid(pid) => Target::Pid(*pid),
        SandboxRef::Netns(path) => Target::Path(path.clone()),
    }
}

fn old(sandbox: SandboxId, spec: &EndpointSpec) -> OldLink {
    OldLink {
        sandbox,
        ifname: spec.ifname.clone(),
        endpoint: spec.id.0,
    }
}

pub(super) fn refused(what: &str, error: &io::Error) -> PlaneError {
    PlaneError::Refused {
        message: format!("{what}: {error}"),
        errno: error.raw_os_error(),
    }
}
