//! What the data plane knows of multicast.

use std::collections::BTreeMap;

use switch_core::addr::PortId;
use switch_core::l2::snoop::groups::Groups;
use switch_core::l2::snoop::{Family, Group, Scope, Wants, asks_from};
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use super::announce::sealed;
use super::{LivePlane, Net, start};
use crate::control::ids::{EndpointId, NetworkId};
use crate::control::plane::PlaneError;
use crate::control::show::{
    GroupProtocol, GroupRow, GroupRows, PeerGroupRow, QuerierRow, RouterRow,
};
use crate::control::spec::{NetworkSpec, OWN_VLAN};

impl LivePlane {
    pub(super) fn group_rows(&self, of: Option<NetworkId>) -> Result<GroupRows, PlaneError> {
        if let Some(id) = of {
            self.net(id)?;
        }
        let (places, now) = (self.places(), start::now(self.start));
        let mut rows = GroupRows::default();
        let wanted = |id: NetworkId| of.is_none_or(|of| of == id);
        for (_, net) in self.nets.iter().filter(|(id, _)| wanted(**id)) {
            self.add(net, &places, now, &mut rows);
            self.add_peers(net, &mut rows)?;
        }
        let GroupRows {
            members,
            routers,
            queriers,
            peers,
        } = &mut rows;
        members.sort_by_key(|row| (row.network, row.vlan, row.group, row.endpoint));
        routers.sort_by_key(|row| (row.network, row.vlan, row.protocol, row.endpoint));
        queriers.sort_by_key(|row| (row.network, row.vlan, row.protocol));
        peers.sort_by_key(|row| (row.network, row.peer, row.protocol, row.vlan, row.group));
        Ok(rows)
    }

    fn add(
        &self,
        net: &Net,
        places: &BTreeMap<PortId, EndpointId>,
        now: Tick,
        rows: &mut GroupRows,
    ) {
        let network = net.spec.id;
        let members = net.groups.iter(now);
        let members = members.filter(|(_, seat, _)| self.macs.is_current(seat.of));
        rows.members
            .extend(members.filter_map(|(group, seat, until)| {
                Some(GroupRow {
                    network,
                    vlan: vlan(seat.vlan),
                    group: group.address(),
                    endpoint: *places.get(&seat.of.port)?,
                    expires: until.since(now).as_secs(),
                })
            }));
        let routers = net.groups.routers(now);
        let routers = routers.filter(|(_, seat, _)| self.macs.is_current(seat.of));
        rows.routers
            .extend(routers.filter_map(|(family, seat, until)| {
                Some(RouterRow {
                    network,
                    vlan: vlan(seat.vlan),
                    protocol: protocol(family),
                    endpoint: *places.get(&seat.of.port)?,
                    expires: until.since(now).as_secs(),
                })
            }));
        let ends = self.ends.values().filter(|e| e.spec.network == network);
        let is_own_used = ends.into_iter().any(|e| e.spec.vlan.meets_gateway());
        let own = is_own_used.then_some(0).into_iter();
        let (spec, v4) = (&net.spec, net.spec.v4.map(|s| s.gateway));
        for number in own.chain(net.vlans.keys().copied()) {
            for family in Family::ALL {
                let on = Scope::new(number, family);
                let asks = asks_from(on, spec.gateway_mac, v4, spec.v6.is_some());
                let asks = asks.filter(|_| spec.querier && spec.icc);
                let row = querier(spec, &net.groups, on, asks, now);
                let other = net.groups.other(on, now);
                rows.queriers.push(QuerierRow {
                    endpoint: other.and_then(|o| places.get(&o.behind.port).copied()),
                    ..row
                });
            }
        }
    }

    /// What other hosts want, where frames are sealed: elsewhere nobody says.
    fn add_peers(&self, net: &Net, rows: &mut GroupRows) -> Result<(), PlaneError> {
        let network = net.spec.id;
        let lanes = self.peers.iter().filter_map(|(&peer, p)| {
            let lane = p.lanes.get(&network)?;
            Some((peer, lane.port))
        });
        let lanes: Vec<_> = lanes.filter(|_| sealed(&net.spec).is_some()).collect();
        if lanes.is_empty() {
            return Ok(());
        }
        let slot = net.slot;
        // All workers are told the same.
        let said = self.on_all(move |board| -> BTreeMap<PortId, Wants> {
            let wanted = board.net(slot).into_iter().flat_map(Switch::wanted);
            wanted.map(|(port, wants)| (port, wants.clone())).collect()
        })?;
        let said = said.into_iter().next().unwrap_or_default();
        for (peer, port) in lanes {
            // Who has not said gets all.
            let wants = said.get(&port).cloned().unwrap_or_default();
            let row = |family, named: Option<(u16, Group)>| PeerGroupRow {
                network,
                peer,
                protocol: protocol(family),
                vlan: named.map(|(number, _)| vlan(number)),
                group: named.map(|(_, group)| group.address()),
            };
            let all = Family::ALL.into_iter().filter(|&f| wants.is_all(f));
            rows.peers.extend(all.map(|family| row(family, None)));
            let named = wants.groups().iter();
            rows.peers
                .extend(named.map(|&(vlan, group)| row(group.family(), Some((vlan, group)))));
        }
        Ok(())
    }
}

/// Who asks on one VLAN; the gateway from that address, unless another does.
fn querier(
    spec: &NetworkSpec,
    groups: &Groups,
    on: Scope,
    asks: Option<std::net::IpAddr>,
    now: Tick,
) -> QuerierRow {
    let seconds = |at: Tick| at.since(now).as_secs();
    let other = groups.other(on, now).filter(|_| spec.snooping);
    let asks = asks.filter(|_| spec.snooping && other.is_none());
    QuerierRow {
        network: spec.id,
        vlan: vlan(on.vlan),
        protocol: protocol(on.family),
        address: other.map(|o| o.address).or(asks),
        own: asks.is_some(),
        asks: asks.map(|_| seconds(groups.due(on))),
        endpoint: None,
        expires: other.map(|o| seconds(o.until)),
    }
}

const fn protocol(family: Family) -> GroupProtocol {
    match family {
        Family::V4 => GroupProtocol::Igmp,
        Family::V6 => GroupProtocol::Mld,
    }
}

/// The number of a VLAN, whose table has none for the network's own.
const fn vlan(number: u16) -> u16 {
    if number == 0 { OWN_VLAN } else { number }
}
