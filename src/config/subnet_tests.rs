//! Subnets: the choice beside the host's routes, and what is refused.

use super::*;

fn routes(list: &[&str]) -> Vec<(IpAddr, u8)> {
    list.iter()
        .map(|s| {
            let (a, l) = s.split_once('/').unwrap();
            (a.parse().unwrap(), l.parse().unwrap())
        })
        .collect()
}

fn chosen(list: &[&str]) -> (String, usize) {
    let (routes, mut warnings) = (routes(list), Vec::new());
    let s = v4(
        &Wishes {
            routes: &routes,
            ..Wishes::default()
        },
        &mut warnings,
    )
    .unwrap();
    assert_eq!(s.gateway.to_bits(), s.network().to_bits() + 1);
    assert_eq!(s.guest.to_bits(), s.network().to_bits() + 2);
    (format!("{}/{}", s.network(), s.prefix), warnings.len())
}

#[test]
fn the_choice_goes_round_the_routes() {
    for (routes, network, warned) in [
        (&[][..], "10.91.0.0/24", 0),
        (
            &["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"][..],
            "10.91.0.0/24",
            0,
        ),
        (&["10.91.0.0/24"][..], "10.91.1.0/24", 0),
        (&["10.91.0.7/32", "10.91.1.128/25"][..], "10.91.2.0/24", 0),
        (&["10.91.0.0/16"][..], "10.0.0.0/24", 0),
        (&["10.0.0.0/8"][..], "172.16.0.0/24", 0),
        (&["10.0.0.0/8", "172.16.0.0/12"][..], "192.168.0.0/24", 0),
        (
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"][..],
            "10.91.0.0/24",
            1,
        ),
        (
            &[
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "10.91.0.0/24",
            ][..],
            "10.91.1.0/24",
            1,
        ),
    ] {
        assert_eq!(chosen(routes), (network.to_owned(), warned), "{routes:?}");
    }
}

#[test]
fn the_choice_avoids_addresses_that_mean_something_else() {
    let avoid = ["10.91.0.9".parse().unwrap()];
    let s = v4(
        &Wishes {
            avoid: &avoid,
            ..Wishes::default()
        },
        &mut Vec::new(),
    )
    .unwrap();
    assert_eq!(s.gateway.to_string(), "10.91.1.1");
}

fn given(subnet: Option<&str>, addr: Option<&str>) -> Result<Subnet4> {
    v4(
        &Wishes {
            subnet,
            addr,
            ..Wishes::default()
        },
        &mut Vec::new(),
    )
}

fn given6(subnet: Option<&str>, addr: Option<&str>) -> Result<Subnet6> {
    v6(
        &Wishes {
            subnet,
            addr,
            ..Wishes::default()
        },
        [1, 2, 3, 4, 5, 6, 7],
        &mut Vec::new(),
    )
}

#[test]
fn given_addresses() {
    let s = given(None, Some("10.1.2.3")).unwrap();
    assert_eq!((s.gateway, s.prefix), (Ipv4Addr::new(10, 1, 2, 1), 24));
    let s = given(None, Some("10.1.2.1")).unwrap();
    assert_eq!(
        (s.guest, s.gateway),
        (Ipv4Addr::new(10, 1, 2, 1), Ipv4Addr::new(10, 1, 2, 2))
    );
    let s = given(Some("10.1.0.0/16"), Some("10.1.255.254")).unwrap();
    assert_eq!(
        (s.gateway, s.broadcast()),
        (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 255, 255))
    );
    let s = given(Some("10.1.2.4/30"), None).unwrap();
    assert_eq!(
        (s.guest, s.gateway),
        (Ipv4Addr::new(10, 1, 2, 6), Ipv4Addr::new(10, 1, 2, 5))
    );
    let s = given6(None, None).unwrap();
    assert_eq!(s.guest.to_string(), "fd01:203:405:607::2");
    assert_eq!(
        given6(None, Some("2001:db8::9"))
            .unwrap()
            .gateway
            .to_string(),
        "2001:db8::1"
    );
    assert_eq!(
        given6(Some("fd00:1::/48"), Some("fd00:1:0:7::1"))
            .unwrap()
            .gateway
            .to_string(),
        "fd00:1::1"
    );
}

#[test]
fn refusals_name_the_option() {
    let four = [
        (None, Some("10.0.0.300")),
        (None, Some("::1")),
        (None, Some("127.0.0.5")),
        (None, Some("10.0.0.0")),
        (None, Some("10.0.0.255")),
        (None, Some("0.0.0.0")),
        (None, Some("224.0.0.5")),
        (None, Some("169.254.1.1")),
        (None, Some("255.255.255.254")),
        (Some("10.0.0.0/24"), Some("10.0.1.5")),
        (Some("10.0.0.0"), None),
        (Some("10.0.0.0/31"), None),
        (Some("10.0.0.0/x"), None),
        (Some("10.0.0.1/24"), None),
        (Some("ten/24"), None),
    ];
    let six = [
        (None, Some("10.0.0.1")),
        (None, Some("::1")),
        (None, Some("fe80::1")),
        (None, Some("fd00::")),
        (None, Some("::ffff:10.0.0.1")),
        (Some("fd00::/64"), Some("fd00:1::5")),
        (Some("fd00::/127"), None),
        (Some("fd00::1/64"), None),
        (Some("ff02::/64"), None),
    ];
    let four = four.map(|(s, a)| given(s, a).unwrap_err().to_string());
    let six = six.map(|(s, a)| given6(s, a).unwrap_err().to_string());
    insta::assert_snapshot!([four.join("\n"), six.join("\n")].join("\n"), @r"
    --ip '10.0.0.300': not an IPv4 address
    --ip '::1': not an IPv4 address
    the subnet 127.0.0.0/24: loopback, link-local, multicast and reserved addresses cannot be used
    --ip '10.0.0.0': the first and the last address of 10.0.0.0/24 are no host's
    --ip '10.0.0.255': the first and the last address of 10.0.0.0/24 are no host's
    --ip '0.0.0.0': the first and the last address of 0.0.0.0/24 are no host's
    the subnet 224.0.0.0/24: loopback, link-local, multicast and reserved addresses cannot be used
    the subnet 169.254.1.0/24: loopback, link-local, multicast and reserved addresses cannot be used
    the subnet 255.255.255.0/24: loopback, link-local, multicast and reserved addresses cannot be used
    --ip '10.0.1.5': outside the subnet 10.0.0.0/24
    --subnet '10.0.0.0': the form is ADDR/LEN
    --subnet '10.0.0.0/31': the prefix must be /8 to /30
    --subnet '10.0.0.0/x': 'x' is no prefix
    --subnet '10.0.0.1/24': bits behind the prefix are set; 10.0.0.0/24 is the subnet
    --subnet 'ten/24': not an IPv4 subnet
    --ip6 '10.0.0.1': not an IPv6 address
    the subnet ::/64: only global (2000::/3) and unique local (fc00::/7) addresses can be used
    the subnet fe80::/64: only global (2000::/3) and unique local (fc00::/7) addresses can be used
    --ip6 'fd00::': the first address of fd00::/64 is every router's
    the subnet ::/64: only global (2000::/3) and unique local (fc00::/7) addresses can be used
    --ip6 'fd00:1::5': outside the subnet fd00::/64
    --subnet6 'fd00::/127': the prefix must be /8 to /126
    --subnet6 'fd00::1/64': bits behind the prefix are set; fd00::/64 is the subnet
    the subnet ff02::/64: only global (2000::/3) and unique local (fc00::/7) addresses can be used
    ");
}

#[test]
fn a_given_subnet_that_hides_the_hosts_is_told() {
    let routes = routes(&["10.1.0.0/16", "fd00:1::/32", "0.0.0.0/0", "::/0"]);
    let mut warnings = Vec::new();
    v4(
        &Wishes {
            addr: Some("10.1.2.3"),
            routes: &routes,
            ..Wishes::default()
        },
        &mut warnings,
    )
    .unwrap();
    v6(
        &Wishes {
            subnet: Some("fd00:1:2::/64"),
            routes: &routes,
            ..Wishes::default()
        },
        [0; 7],
        &mut warnings,
    )
    .unwrap();
    v4(
        &Wishes {
            addr: Some("10.2.2.3"),
            routes: &routes,
            ..Wishes::default()
        },
        &mut warnings,
    )
    .unwrap();
    insta::assert_snapshot!(warnings.join("\n"), @r"
    the subnet 10.1.2.0/24 hides the host's 10.1.0.0/16 from the sandbox
    the subnet fd00:1:2::/64 hides the host's fd00:1::/32 from the sandbox
    ");
}
