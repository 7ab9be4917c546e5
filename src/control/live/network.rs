//! Networks and their names.

use std::sync::Arc;
use std::time::Duration;

use switch_core::flow::tcp::Limits;
use switch_core::l2::snoop::groups::{self, Groups};
use switch_core::pipeline::{Config, Settings, Snooping, Switch};
use switch_core::policy::host_rule::HostRule;
use switch_core::respond::Gateway;
use switch_core::respond::directory::Directory;
use switch_core::respond::names::Owner;

use super::left::Left;
use super::peer::overlay;
use super::{LivePlane, Net};
use crate::control::ids::NetworkId;
use crate::control::plane::PlaneError;
use crate::control::spec::{Driver, NameOwner, NameRecord, NetworkSpec, Uplink};
use crate::host::start;

/// Windows that the connections of one network may offer on one worker, in bytes.
const WINDOWS: usize = 64 << 20;

impl LivePlane {
    pub(super) fn make_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        supported(spec)?;
        if let Some(overlay) = overlay(spec) {
            self.open_underlay(overlay)?;
        }
        let made = self.make_switches(spec);
        if let (Err(_), Some(overlay)) = (&made, overlay(spec)) {
            // The error that is told is the first one.
            let _ = self.close_underlay(overlay);
        }
        made
    }

    fn make_switches(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        let slot = self.slots.take("networks")?;
        let config = self.switch_config(spec, slot);
        let (macs, begun, dns) = (Arc::clone(&self.macs), self.start, spec.dns.clone());
        let switched = Arc::clone(&self.switched);
        let groups = Arc::new(Groups::new(groups::CAPACITY, start::random_seeds()));
        let snooping = snooping(spec, &groups);
        let udp_ports = Arc::clone(&self.udp_ports);
        let made = self.on_all(move |board| {
            let now = super::start::now(begun);
            let mut switch = Switch::new(now, config.clone(), Arc::clone(&macs));
            switch.share(Arc::clone(&switched));
            switch.set_snooping(snooping.clone());
            switch.share_ports(Arc::clone(&udp_ports));
            let view = board.io.view.load_full();
            switch.host_changed(view.addresses.clone(), view.v6_route);
            board.io.set_resolvers(slot, dns.clone());
            board.add_net(slot, switch);
        });
        if let Err(e) = made {
            self.slots.give_back(slot);
            return Err(e);
        }
        let spec = spec.clone();
        let net = Net {
            spec: spec.clone(),
            slot,
            policy: None,
            services: None,
            vlans: std::collections::BTreeMap::new(),
            groups,
            left: Left::default(),
        };
        self.nets.insert(spec.id, net);
        self.announce_network(&spec);
        Ok(())
    }

    pub(super) fn alter_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        supported(spec)?;
        let before = self.net(spec.id)?;
        let (slot, old) = (before.slot, &before.spec);
        let same = (
            old.v4,
            old.v6,
            old.gateway_mac,
            old.mtu,
            old.udp_filter,
            old.overlay,
        ) == (
            spec.v4,
            spec.v6,
            spec.gateway_mac,
            spec.mtu,
            spec.udp_filter,
            spec.overlay,
        );
        if !same {
            return Err(PlaneError::Unsupported(
                "another subnet, MTU, MAC or filter for a network that is in use",
            ));
        }
        let how = |spec: &NetworkSpec| (spec.snooping, spec.querier, spec.query_interval);
        let turned = how(old) != how(spec);
        if let Some(net) = self.nets.get_mut(&spec.id) {
            net.spec = spec.clone();
        }
        if turned {
            self.turn_snooping(spec)?;
        }
        let ends = self.ends.iter().filter(|(_, e)| e.spec.network == spec.id);
        let ends: Vec<_> = ends.map(|(&id, _)| id).collect();
        ends.into_iter().try_for_each(|id| self.enact(id))?;
        let dns = spec.dns.clone();
        self.on_all(move |board| board.io.set_resolvers(slot, dns.clone()))?;
        self.configure(spec.id)
    }

    /// Has a network in use treat multicast in another way, from the next query on, which is sent at once.
    fn turn_snooping(&self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        let net = self.net(spec.id)?;
        let (slot, wanted) = (net.slot, snooping(spec, &net.groups));
        net.groups.ask_soon();
        self.on_all(move |board| {
            board.with(slot, |switch, _| switch.set_snooping(wanted.clone()));
        })?;
        Ok(())
    }

    pub(super) fn drop_network(&mut self, id: NetworkId) -> Result<(), PlaneError> {
        let net = self.net(id)?;
        let (slot, overlay) = (net.slot, overlay(&net.spec).copied());
        self.on_all(move |board| {
            board.remove_net(slot);
            board.io.set_resolvers(slot, Vec::new());
        })?;
        self.nets.remove(&id);
        self.retract_network(overlay);
        self.services.retain(|_, s| s.network != id);
        self.elsewhere.remove(&id);
        self.names.remove(&id);
        self.slots.give_back(slot);
        match overlay {
            Some(overlay) => self.close_underlay(&overlay),
            None => Ok(()),
        }
    }

    /// Tells every worker what of a network may change while it is in use.
    pub(super) fn configure(&self, id: NetworkId) -> Result<(), PlaneError> {
        let net = self.net(id)?;
        let (slot, settings) = (net.slot, self.settings(&net.spec, &self.published()));
        self.on_all(move |board| {
            board.with(slot, |switch, _| switch.configure(settings.clone()));
        })?;
        Ok(())
    }

    /// The same for every network at once, as when what is published has changed.
    pub(super) fn configure_all(&self) -> Result<(), PlaneError> {
        let published = self.published();
        let nets = self.nets.values();
        let all: Arc<[(u32, Settings)]> = nets
            .map(|net| (net.slot, self.settings(&net.spec, &published)))
            .collect();
        self.on_all(move |board| {
            for (slot, settings) in all.iter() {
                board.with(*slot, |switch, _| switch.configure(settings.clone()));
            }
        })?;
        Ok(())
    }

    pub(super) fn give_names(&mut self, record: &NameRecord) -> Result<(), PlaneError> {
        if let NameOwner::Endpoint(id) = record.owner
            && self.end(id).is_ok_and(|e| !e.spec.vlan.meets_gateway())
        {
            // Nobody who can ask could reach it.
            return Ok(());
        }
        let slot = self.net(record.network)?.slot;
        let (of, told) = (owner(record.owner), record.clone());
        self.on_all(move |board| {
            board.io.names.set(slot, of, &told.names, &told.addrs);
        })?;
        let names = self.names.entry(record.network).or_default();
        let before = names.insert(record.owner, record.clone());
        match record.owner {
            NameOwner::Endpoint(id) => self.tell_peers(id),
            NameOwner::Service(_) => self.tell_of_service(before.as_ref(), Some(record)),
        }
        Ok(())
    }

    pub(super) fn take_names(
        &mut self,
        network: NetworkId,
        of: NameOwner,
    ) -> Result<(), PlaneError> {
        let (slot, owner) = (self.net(network)?.slot, owner(of));
        self.on_all(move |board| board.io.names.remove(slot, owner))?;
        let names = self.names.get_mut(&network);
        let before = names.and_then(|names| names.remove(&of));
        match of {
            NameOwner::Endpoint(id) => self.tell_peers(id),
            NameOwner::Service(_) => self.tell_of_service(before.as_ref(), None),
        }
        Ok(())
    }

    /// The ports of the host that lead to sandboxes.
    fn published(&self) -> Arc<[(u8, u16, u16)]> {
        let rules = self.rules.values();
        rules.flat_map(|r| r.ranges.iter().copied()).collect()
    }

    fn settings(&self, spec: &NetworkSpec, published: &Arc<[(u8, u16, u16)]>) -> Settings {
        let loopback = |v6: bool| {
            let mut of_family = spec.host_loopback.iter().filter(|a| a.is_ipv6() == v6);
            of_family.next().copied()
        };
        Settings {
            icc: spec.icc,
            uplink: spec.uplink == Uplink::Sockets,
            search: spec.search.clone(),
            rule: HostRule {
                loopback_v4: loopback(false).and_then(|a| match a {
                    std::net::IpAddr::V4(a) => Some(a),
                    std::net::IpAddr::V6(_) => None,
                }),
                loopback_v6: loopback(true).and_then(|a| match a {
                    std::net::IpAddr::V6(a) => Some(a),
                    std::net::IpAddr::V4(_) => None,
                }),
                host_access: spec.host_access,
                published: Arc::clone(published),
            },
        }
    }

    fn switch_config(&self, spec: &NetworkSpec, slot: u32) -> Config {
        let settings = self.settings(spec, &self.published());
        Config {
            network: switch_core::addr::NetworkId(slot),
            gateway: Gateway {
                mac: spec.gateway_mac,
                v4: spec.v4.map(|s| (s.gateway, s.prefix)),
                v6: spec.v6.map(|s| (s.gateway, s.prefix)),
                mtu: spec.mtu,
                uplink: settings.uplink,
                v6_default_route: self.view.load().v6_route,
                search: settings.search,
                guests: Directory::default(),
                hosts: Vec::new(),
            },
            ports: Vec::new(),
            icc: settings.icc,
            rule: settings.rule,
            filter: spec.udp_filter.into(),
            ephemeral: start::local_port_range(),
            limits: Limits {
                window_budget: WINDOWS,
                ..Limits::default()
            },
            seeds: start::random_seeds(),
        }
    }
}

/// How a network's switches treat multicast.
fn snooping(spec: &NetworkSpec, groups: &Arc<Groups>) -> Option<Snooping> {
    let interval = Duration::from_secs(spec.query_interval.into());
    spec.snooping.then(|| Snooping {
        groups: Arc::clone(groups),
        querier: spec.querier.then_some(interval),
    })
}

/// Refuses what this plane has not.
fn supported(spec: &NetworkSpec) -> Result<(), PlaneError> {
    match (spec.driver, &spec.uplink) {
        (Driver::Bridge | Driver::Overlay, Uplink::Packet(_)) => {
            Err(PlaneError::Unsupported("a packet uplink"))
        }
        (Driver::Bridge, _) => Ok(()),
        (Driver::Overlay, _) if overlay(spec).is_none() => {
            Err(PlaneError::Unsupported("an overlay without a number"))
        }
        (Driver::Overlay, _) => Ok(()),
        (Driver::Macvlan, _) => Err(PlaneError::Unsupported("the macvlan driver")),
        (Driver::Ipvlan, _) => Err(PlaneError::Unsupported("the ipvlan driver")),
    }
}

/// A number of its own for every owner of names.
fn owner(of: NameOwner) -> Owner {
    match of {
        NameOwner::Endpoint(id) => Owner(u64::from(id.0) << 1),
        NameOwner::Service(id) => Owner(u64::from(id.0) << 1 | 1),
    }
}
