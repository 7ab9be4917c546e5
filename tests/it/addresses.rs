//! Addresses in the sandbox: set directly, and by DHCP, router advertisements and DHCPv6 for those who ask.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::lease::{autoconfigure, dhclient};
use crate::support::netns::{self, OUTSIDE, have};
use crate::support::wait::{self, SOON};
use crate::support::weft::json;
use crate::support::{guest, servers};

#[test]
fn the_defaults_need_no_thought() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        assert!(sandbox.v4.is_private(), "{}", sandbox.v4);
        let [a, b, c, d] = sandbox.gateway.octets();
        assert_eq!(d, 1, "{}", sandbox.gateway);
        assert_eq!(
            sandbox.v4.octets().get(..3),
            Some(&[a, b, c][..]),
            "the gateway's /24"
        );
        // RFC 4193: fd00::/8.
        assert_eq!(sandbox.v6.segments()[0] >> 8, 0xfd, "{}", sandbox.v6);
        let link = json(&sandbox.net, &["link", "show", "dev", "eth0"]);
        assert_eq!(link[0]["mtu"], 1500);
        for gateway in [sandbox.gateway.to_string(), sandbox.gateway6.to_string()] {
            sandbox.exec(&["ping", "-c1", "-W5", &gateway]).ok();
        }
        let routes = json(&sandbox.net, &["-6", "route", "show", "default"]);
        assert_eq!(routes.as_array().map(Vec::len), Some(1), "{routes}");
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_not_chosen() {
    netns::inside(|world| {
        // The host routes all of these itself, but for one /24.
        world.host.ip("route add 10.0.0.0/8 via 192.0.2.1\n\
             route add 192.168.0.0/16 via 192.0.2.1\n\
             route add 172.16.0.0/13 via 192.0.2.1\n\
             route add 172.24.0.0/14 via 192.0.2.1\n\
             route add 172.28.0.0/15 via 192.0.2.1\n\
             route add 172.30.0.0/16 via 192.0.2.1\n");
        let sandbox = world.sandbox(&[]);
        assert_eq!(
            sandbox.v4.octets().get(..2),
            Some(&[172, 31][..]),
            "{}",
            sandbox.v4
        );
    });
}

#[test]
fn what_is_asked_for_is_given() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[
            "--ip",
            "10.55.0.9",
            "--ip6",
            "fd55::9",
            "--mac",
            "02:55:00:00:00:09",
            "--mtu",
            "9000",
            "--ifname",
            "net7",
        ]);
        assert_eq!(sandbox.v4, Ipv4Addr::new(10, 55, 0, 9));
        assert_eq!(sandbox.v6.to_string(), "fd55::9");
        let link = json(&sandbox.net, &["link", "show", "dev", "net7"]);
        assert_eq!(
            (&link[0]["mtu"], &link[0]["address"]),
            (&9000.into(), &"02:55:00:00:00:09".into())
        );
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        guest::fetch(&sandbox.net, page);
    });
}

#[test]
fn a_real_dhcp_client_gets_its_lease() {
    netns::inside(|world| {
        if !have("dhclient") {
            return;
        }
        let sandbox = world.sandbox(&["--dns-search", "corp.test"]);
        sandbox.net.ip("addr flush dev eth0 scope global");
        let got = dhclient(&sandbox.net, "-4");
        for wanted in [
            format!("new_ip_address={}", sandbox.v4),
            "new_subnet_mask=255.255.255.0".to_owned(),
            format!("new_routers={}", sandbox.gateway),
            format!("new_domain_name_servers={}", sandbox.gateway),
            format!("new_dhcp_server_identifier={}", sandbox.gateway),
            "new_interface_mtu=1500".to_owned(),
        ] {
            assert!(got.lines().any(|line| line == wanted), "{wanted} in\n{got}");
        }
        assert!(got.contains("new_dhcp_lease_time="), "{got}");
        assert!(got.contains("corp.test"), "{got}");
    });
}

#[test]
fn the_kernel_configures_itself_from_advertisements() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        autoconfigure(&sandbox.net);
        wait::until("an address by SLAAC", SOON, || {
            let info = json(
                &sandbox.net,
                &["-6", "addr", "show", "dev", "eth0", "scope", "global"],
            );
            let infos = info[0]["addr_info"].as_array().cloned().unwrap_or_default();
            infos
                .iter()
                .any(|info| info["dynamic"] == true && info["prefixlen"] == 64)
        });
        wait::until("a default route by RA", SOON, || {
            let routes = json(&sandbox.net, &["-6", "route", "show", "default"]);
            routes[0]["protocol"] == "ra"
        });
    });
}

#[test]
fn a_host_without_ipv6_offers_no_default_router() {
    netns::inside(|world| {
        world.host.ip("route del default via 2001:db8:1::1");
        let sandbox = world.sandbox(&[]);
        autoconfigure(&sandbox.net);
        wait::until("an address by SLAAC all the same", SOON, || {
            let info = json(
                &sandbox.net,
                &["-6", "addr", "show", "dev", "eth0", "scope", "global"],
            );
            info[0]["addr_info"]
                .as_array()
                .is_some_and(|infos| !infos.is_empty())
        });
        wait::holds("no default route by RA", Duration::from_millis(500), || {
            let routes = json(&sandbox.net, &["-6", "route", "show", "default"]);
            routes.as_array().is_none_or(Vec::is_empty)
        });
    });
}

#[test]
fn a_real_dhcpv6_client_gets_its_lease() {
    netns::inside(|world| {
        if !have("dhclient") {
            return;
        }
        let sandbox = world.sandbox(&[]);
        let got = dhclient(&sandbox.net, "-6");
        assert!(
            got.contains(&format!("new_ip6_address={}", sandbox.v6)),
            "{got}"
        );
        let servers = format!("new_dhcp6_name_servers={}", sandbox.gateway6);
        assert!(got.contains(&servers), "{got}");
    });
}
