//! Published ports: the one socket of each, and where its clients are led.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use mio::Interest;
use socket2::Socket;
use switch_core::addr::{PortId, SockId};
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use super::udp::{Reach, UdpSock};
use super::{HostIo, Kind};
use crate::config::Proto;
use crate::host::fleet::{Port, PortAt};

/// Where a client of a published port is led.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// The endpoint.
    pub port: PortId,
    /// Address and port in the sandbox.
    pub to: SocketAddr,
}

/// Where the clients of a published port are led: each to the address of its own family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leads {
    /// The endpoint.
    pub port: PortId,
    /// Address and port in the sandbox for clients of IPv4.
    pub v4: Option<SocketAddr>,
    /// The same for those of IPv6.
    pub v6: Option<SocketAddr>,
}

impl Leads {
    /// Where a client is led, if there is a way for its family.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> Option<Published> {
        let to = if client.to_canonical().is_ipv4() {
            self.v4
        } else {
            self.v6
        };
        to.map(|to| Published {
            port: self.port,
            to,
        })
    }
}

/// The socket that a port of the host needs, and where it leads: one for both families where nobody names an address, and
/// both sides have both. `None` when the sandbox has no address of the family.
/// Units: `inside` are the sandbox's addresses, `host` 0 for a port that the host chooses.
#[must_use]
pub fn door(
    (proto, bind): (Proto, Option<IpAddr>),
    host: u16,
    endpoint: PortId,
    inside: (Option<Ipv4Addr>, Option<Ipv6Addr>, u16),
    host_has_v6: bool,
) -> Option<(Port, Leads)> {
    let (v4, v6, port) = inside;
    let to = |addr: IpAddr| SocketAddr::new(addr, port);
    let leads = Leads {
        port: endpoint,
        v4: v4.map(|a| to(a.into())),
        v6: v6.map(|a| to(a.into())),
    };
    let of_v4 = Leads { v6: None, ..leads };
    let of_v6 = Leads { v4: None, ..leads };
    let (at, leads) = match (bind, leads.v4, leads.v6) {
        (Some(IpAddr::V4(a)), Some(_), _) => (PortAt::One((a, host).into()), of_v4),
        (Some(IpAddr::V6(a)), _, Some(_)) => (PortAt::One((a, host).into()), of_v6),
        (Some(_), _, _) | (None, None, None) => return None,
        (None, Some(_), Some(_)) if host_has_v6 => (PortAt::Both(host), leads),
        (None, Some(_), _) => (PortAt::One((Ipv4Addr::UNSPECIFIED, host).into()), of_v4),
        (None, None, Some(_)) => (PortAt::One((Ipv6Addr::UNSPECIFIED, host).into()), of_v6),
    };
    let port = match proto {
        Proto::Tcp => Port::Tcp(at),
        Proto::Udp => Port::Udp(at),
    };
    Some((port, leads))
}

impl HostIo {
    /// Adds a listening socket of a published TCP port.
    pub fn listen(&mut self, socket: Socket, leads: Leads) -> io::Result<SockId> {
        // Accepted sockets inherit it; see [`super::tcp::TcpSock::connect`].
        socket.set_out_of_band_inline(true)?;
        let fd = socket.as_raw_fd();
        self.insert(fd, Interest::READABLE, Kind::Listener(socket, leads))
    }

    /// Adds a bound socket of a published UDP port, with a mapping of the switch for each family that it leads to.
    pub fn publish_udp(
        &mut self,
        switch: &mut Switch,
        socket: Socket,
        leads: Leads,
    ) -> io::Result<SockId> {
        let reach = Reach::of(&socket)?;
        let socket = UdpSock::from_bound(socket, reach);
        socket.want_local_address();
        let fd = socket.as_fd().as_raw_fd();
        let none = [u32::MAX; 2];
        let sock = self.insert(fd, Interest::READABLE, Kind::Udp(socket, none))?;
        for to in [leads.v4, leads.v6].into_iter().flatten() {
            let mapping = switch.next_mapping();
            if let Some(slot) = self.slots.get_mut(sock.0 as usize)
                && let Kind::Udp(_, mappings) = &mut slot.kind
            {
                mappings[usize::from(to.is_ipv6())] = mapping;
            }
            switch.publish_udp(Tick::ZERO, sock, leads.port, to);
        }
        Ok(sock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_for_both_families_wherever_both_sides_have_both() {
        let v4 = Ipv4Addr::new(10, 0, 0, 2);
        let v6: Ipv6Addr = "fd00::2".parse().unwrap();
        let end = PortId(3);
        let made = |bind: Option<IpAddr>, four: bool, six: bool, host_has_v6: bool| {
            let inside = (four.then_some(v4), six.then_some(v6), 80);
            let rule = (Proto::Tcp, bind);
            door(rule, 8080, end, inside, host_has_v6)
                .map(|(port, leads)| (port, leads.v4.is_some(), leads.v6.is_some()))
        };
        let one = |text: &str| Port::Tcp(PortAt::One(text.parse().unwrap()));
        let both = Port::Tcp(PortAt::Both(8080));
        assert_eq!(made(None, true, true, true), Some((both, true, true)));
        let four = Some((one("0.0.0.0:8080"), true, false));
        assert_eq!(made(None, true, true, false), four);
        assert_eq!(made(None, true, false, true), four);
        let six = Some((one("[::]:8080"), false, true));
        assert_eq!(made(None, false, true, true), six);
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let here = Some((one("127.0.0.1:8080"), true, false));
        assert_eq!(made(local, true, true, true), here);
        assert_eq!(made(local, false, true, true), None);
        assert_eq!(made(Some("::1".parse().unwrap()), true, false, true), None);
        assert_eq!(made(None, false, false, true), None);
    }

    #[test]
    fn a_client_is_led_to_its_own_family() {
        let leads = Leads {
            port: PortId(1),
            v4: Some(([10, 0, 0, 2], 80).into()),
            v6: None,
        };
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(leads.of(mapped).map(|p| Some(p.to)), Some(leads.v4));
        assert!(leads.of("2001:db8::1".parse().unwrap()).is_none());
    }
}
