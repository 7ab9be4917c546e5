use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn nets(list: &[&str]) -> Vec<(IpAddr, u8)> {
    list.iter()
        .map(|s| {
            let (addr, len) = s.split_once('/').unwrap();
            (addr.parse().unwrap(), len.parse().unwrap())
        })
        .collect()
}

fn named(list: &[&str]) -> Vec<(IpAddr, u8, String)> {
    let name = |(addr, len)| (addr, len, "other".to_owned());
    nets(list).into_iter().map(name).collect()
}

fn subnet(text: &str) -> Subnet<Ipv4Addr> {
    let used = Used {
        subnets: &[],
        routes: &[],
    };
    given4(text, None, &used, &mut Vec::new()).unwrap()
}

#[test]
fn a_free_subnet_overlaps_nothing() {
    let subnets = named(&["10.91.0.0/24", "10.91.2.0/23"]);
    let routes = nets(&["0.0.0.0/0", "10.91.1.0/24", "10.91.4.7/32"]);
    let used = Used {
        subnets: &subnets,
        routes: &routes,
    };
    assert_eq!(free4(&used).unwrap().network.to_string(), "10.91.5.0");
    let all = nets(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
    let used = Used {
        subnets: &[],
        routes: &all,
    };
    assert_eq!(free4(&used).unwrap_err().code, Code::NoFreeSubnet);
    let ula = named(&["fd01:203:405:607::/64"]);
    let used = Used {
        subnets: &ula,
        routes: &[],
    };
    assert_eq!(free6(&used, [1, 2, 3, 4, 5, 6, 7]), None);
    let free = free6(&used, [1, 2, 3, 4, 5, 6, 8]).unwrap();
    assert_eq!(free.gateway.to_string(), "fd01:203:405:608::1");
}

#[test]
fn subnets_that_are_refused() {
    let subnets = named(&["172.18.0.0/16", "fd00::/64"]);
    let used = Used {
        subnets: &subnets,
        routes: &[],
    };
    for (text, code) in [
        ("172.18.3.0/24", Code::SubnetOverlap),
        ("172.16.0.0/12", Code::SubnetOverlap),
        ("172.19.0.1/16", Code::BadSubnet),
        ("127.0.0.0/8", Code::BadSubnet),
        ("169.254.0.0/16", Code::BadSubnet),
        ("224.0.0.0/8", Code::BadSubnet),
        ("172.19.0.0/31", Code::BadSubnet),
        ("172.19.0.0", Code::BadSubnet),
        ("fd00::/64", Code::BadSubnet),
    ] {
        let problem = given4(text, None, &used, &mut Vec::new()).unwrap_err();
        assert_eq!((problem.code, text), (code, text), "{problem}");
        assert_eq!(problem.field.as_deref(), Some("subnet"));
    }
    for (text, code) in [
        ("fd00::/48", Code::SubnetOverlap),
        ("fe80::/64", Code::BadSubnet),
        ("fd00::1/64", Code::BadSubnet),
    ] {
        let problem = given6(text, None, &used, &mut Vec::new()).unwrap_err();
        assert_eq!((problem.code, text), (code, text), "{problem}");
    }
    for (gateway, code) in [
        ("172.20.0.1", Code::AddressOutside),
        ("172.19.0.0", Code::BadAddress),
        ("172.19.255.255", Code::BadAddress),
        ("x", Code::BadAddress),
    ] {
        let asked = given4("172.19.0.0/16", Some(gateway), &used, &mut Vec::new());
        let problem = asked.unwrap_err();
        assert_eq!((problem.code, gateway), (code, gateway));
        assert_eq!(problem.field.as_deref(), Some("gateway"));
    }
}

#[test]
fn a_given_subnet_over_a_route_is_warned_of() {
    let routes = nets(&["192.168.1.0/24", "fd01::/64"]);
    let used = Used {
        subnets: &[],
        routes: &routes,
    };
    let mut warnings = Vec::new();
    given4("192.168.0.0/16", None, &used, &mut warnings).unwrap();
    given6("fd01::/64", None, &used, &mut warnings).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn ranges_are_parts() {
    let of = subnet("172.18.0.0/16");
    let whole = range4(&of, None).unwrap();
    assert_eq!(whole.first.to_string(), "172.18.0.1");
    assert_eq!(whole.last.to_string(), "172.18.255.254");
    let part = range4(&of, Some("172.18.5.0/24")).unwrap();
    assert_eq!(part.first.to_string(), "172.18.5.0");
    assert_eq!(part.last.to_string(), "172.18.5.255");
    let one = range4(&of, Some("172.18.5.9/32")).unwrap();
    assert_eq!(one.first, one.last);
    for bad in ["172.19.0.0/24", "172.16.0.0/12", "172.18.5.1/24", "x"] {
        assert_eq!(range4(&of, Some(bad)).unwrap_err().code, Code::BadSubnet);
    }
}

#[test]
fn an_address_rests_before_it_is_given_again() {
    let of = subnet("10.0.0.0/29");
    let range = range4(&of, None).unwrap();
    let mut taken = BTreeSet::from([IpAddr::V4(of.gateway)]);
    let mut last = None;
    let mut given = Vec::new();
    for _ in 0..5 {
        let addr = next4(&range, last, &taken).unwrap();
        taken.insert(addr.into());
        last = Some(addr);
        given.push(addr.octets()[3]);
    }
    assert_eq!(given, [2, 3, 4, 5, 6]);
    assert_eq!(next4(&range, last, &taken), None);
    taken.remove(&IpAddr::from([10, 0, 0, 3]));
    assert_eq!(next4(&range, last, &taken).unwrap().octets()[3], 3);
}

#[test]
fn addresses_that_look_like_a_network_or_everybody_come_last() {
    let of = subnet("10.9.0.0/16");
    let range = range4(&of, Some("10.9.4.0/23")).unwrap();
    let mut taken = BTreeSet::new();
    let mut last = None;
    let mut given = Vec::new();
    while let Some(addr) = next4(&range, last, &taken) {
        taken.insert(addr.into());
        last = Some(addr);
        given.push(addr);
    }
    assert_eq!(given.len(), 512);
    assert_eq!(given[0], Ipv4Addr::new(10, 9, 4, 1));
    let (plain, odd) = given.split_at(508);
    assert!(plain.iter().all(|a| !matches!(a.octets()[3], 0 | 255)));
    assert!(odd.iter().all(|a| matches!(a.octets()[3], 0 | 255)));
}

proptest! {
    /// Whatever is taken, and whatever was given last: an address that is given is inside and free, and none is refused
    /// while one is free.
    #[test]
    fn every_address_is_given_once(
        last in proptest::option::of(0u32..300),
        taken in proptest::collection::btree_set(0u32..64, 0..64),
    ) {
        let of = subnet("10.0.0.0/26");
        let range = range4(&of, None).unwrap();
        let base = of.network.to_bits();
        let all: BTreeSet<IpAddr> = taken.iter().map(|t| Ipv4Addr::from_bits(base + t).into()).collect();
        let last = last.map(|l| Ipv4Addr::from_bits(base + l));
        let free = (1..=62).any(|host| !taken.contains(&host));
        match next4(&range, last, &all) {
            Some(addr) => {
                prop_assert!(!all.contains(&addr.into()));
                prop_assert!((1..=62).contains(&(addr.to_bits() - base)));
            }
            None => prop_assert!(!free),
        }
        let of: Subnet<Ipv6Addr> = Subnet { network: "fd00::".parse().unwrap(), prefix: 122, gateway: "fd00::1".parse().unwrap() };
        let all: BTreeSet<IpAddr> = taken.iter().map(|t| Ipv6Addr::from_bits(of.network.to_bits() + u128::from(*t)).into()).collect();
        match next6(&of, None, &all) {
            Some(addr) => prop_assert!(!all.contains(&addr.into()) && inside6(addr, &of, "ip6").is_ok()),
            None => prop_assert!((1..64).all(|host| taken.contains(&host))),
        }
    }
}
