//! Routes through an interface of ours. Acts on the namespace of the calling thread.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::super::netlink::Netlink;
use super::{DefaultRoute, FleetError, LinkRoute};

/// A route as netlink wants it: the destination is everything where `to` has no address.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: Option<(IpAddr, u8)>,
    via: Option<IpAddr>,
    v6: bool,
    link: u32,
    metric: Option<u32>,
}

impl Way {
    const fn default(link: u32, via: IpAddr, metric: Option<u32>) -> Self {
        Self {
            to: None,
            via: Some(via),
            v6: via.is_ipv6(),
            link,
            metric,
        }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = if self.v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        if let Some((to, prefix)) = self.to {
            message.header.destination_prefix_length = prefix;
            let to = RouteAttribute::Destination(address(to));
            message.attributes.push(to);
        }
        if let Some(via) = self.via {
            message
                .attributes
                .push(RouteAttribute::Gateway(address(via)));
        }
        message.attributes.push(RouteAttribute::Oif(self.link));
        if let Some(metric) = self.metric {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        message
    }

    fn add(&self, netlink: &mut Netlink) -> io::Result<()> {
        let mut message = self.message();
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if self.via.is_some() {
            RouteScope::Universe
        } else {
            RouteScope::Link
        };
        netlink.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Gives whether there was one.
    fn delete(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let mut message = self.message();
        // Whoever made it, and of whatever scope.
        message.header.scope = RouteScope::NoWhere;
        match netlink.request(RouteNetlinkMessage::DelRoute(message), 0) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

const fn address(of: IpAddr) -> RouteAddress {
    match of {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn exists(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

/// Adds the default routes of a new interface. Gives a warning for each that another interface has already.
pub(super) fn add_default(
    netlink: &mut Netlink,
    link: u32,
    route: &DefaultRoute,
) -> io::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for via in &route.gateways {
        match Way::default(link, *via, route.metric).add(netlink) {
            Err(e) if exists(&e) => warnings.push(format!(
                "the sandbox has a default route already: the one by {via} is not added"
            )),
            result => result?,
        }
    }
    Ok(warnings)
}

/// Adds a route beside the default one.
pub(super) fn add(netlink: &mut Netlink, link: u32, route: &LinkRoute) -> io::Result<()> {
    let way = Way {
        to: Some((route.to, route.prefix)),
        via: route.via,
        v6: route.to.is_ipv6(),
        link,
        metric: None,
    };
    way.add(netlink)
}

/// Adds default routes, or takes them away; what is so already stays so.
/// Errors: `Refused` when another interface has the route with this metric.
pub(super) fn set_default(
    netlink: &mut Netlink,
    link: u32,
    route: &DefaultRoute,
    on: bool,
) -> Result<(), FleetError> {
    for via in &route.gateways {
        let way = Way::default(link, *via, route.metric);
        let result = if on {
            match way.add(netlink) {
                // The one that is there may be this very one.
                Err(e) if exists(&e) => match way.delete(netlink) {
                    Ok(true) => way.add(netlink),
                    Ok(false) => Err(e),
                    Err(e) => Err(e),
                },
                result => result,
            }
        } else {
            way.delete(netlink).map(|_| ())
        };
        let verb = if on { "add" } else { "remove" };
        result.map_err(|e| {
            FleetError::refused(format!("cannot {verb} the default route by {via}"), &e)
        })?;
    }
    Ok(())
}
