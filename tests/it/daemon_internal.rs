//! Networks without a way out: who asks for an address gets one, and no router.

use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::lease::{autoconfigure, dhclient};
use crate::support::netns::{self, have};
use crate::support::wait::{self, SOON};
use crate::support::weft::json;

#[test]
fn an_internal_network_names_no_router() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok("network create deep --subnet 10.7.0.0/24 --subnet6 fd07::/64 --internal");
        let place = daemon.connected("a", &["deep"]);
        let default = |family| json(&place.net, &[family, "route", "show", "default"]);
        let routed = |family| default(family).as_array().is_some_and(|r| !r.is_empty());
        assert!(!routed("-4") && !routed("-6"), "set directly");
        place.net.ip("addr flush dev eth0 scope global");
        if have("dhclient") {
            let got = dhclient(&place.net, "-4");
            assert!(got.contains("new_ip_address=10.7.0.2\n"), "{got}");
            assert!(got.contains("new_domain_name_servers=10.7.0.1\n"), "{got}");
            for router in ["new_routers", "new_rfc3442"] {
                assert!(!got.contains(router), "{got}");
            }
        }
        // The host has a way to the IPv6 world, which is not the network's.
        autoconfigure(&place.net);
        wait::until("an address by SLAAC", SOON, || {
            let shown = ["-6", "addr", "show", "dev", "eth0", "scope", "global"];
            let info = json(&place.net, &shown);
            let infos = info[0]["addr_info"].as_array().cloned().unwrap_or_default();
            infos.iter().any(|info| info["dynamic"] == true)
        });
        wait::holds("no default route by RA", Duration::from_millis(500), || {
            !routed("-6")
        });
    });
}
