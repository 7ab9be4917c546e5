//! What there is of multicast: a member, a router, and queriers of every kind, for each endpoint.

use crate::control::show::{GroupProtocol, GroupRow, GroupRows, QuerierRow, RouterRow};
use crate::control::spec::EndpointSpec;

pub(super) fn of<'a>(ends: impl Iterator<Item = &'a EndpointSpec>) -> GroupRows {
    let mut rows = GroupRows::default();
    for end in ends {
        rows.members.push(GroupRow {
            network: end.network,
            vlan: 1,
            group: [239, 1, 2, 3].into(),
            endpoint: end.id,
            expires: 260,
        });
        rows.routers.push(RouterRow {
            network: end.network,
            vlan: 10,
            protocol: GroupProtocol::Mld,
            endpoint: end.id,
            expires: 255,
        });
        let own = QuerierRow {
            network: end.network,
            vlan: 1,
            protocol: GroupProtocol::Igmp,
            address: Some([10, 7, 0, 1].into()),
            own: true,
            asks: Some(125),
            endpoint: None,
            expires: None,
        };
        let other = QuerierRow {
            vlan: 10,
            own: false,
            asks: None,
            endpoint: Some(end.id),
            expires: Some(255),
            ..own.clone()
        };
        let nobody = QuerierRow {
            vlan: 20,
            address: None,
            endpoint: None,
            expires: None,
            ..other.clone()
        };
        rows.queriers.extend([own, other, nobody]);
    }
    rows
}
