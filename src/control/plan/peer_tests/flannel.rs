use super::*;

fn cluster(name: &str, range: &str) -> NetworkWish {
    NetworkWish {
        subnet: Some("10.244.0.0/16".into()),
        ip_range: (!range.is_empty()).then(|| range.to_owned()),
        ..over(name, &["carrier=flannel-udp"])
    }
}

fn node(name: &str, endpoint: &str, prefixes: &[&str]) -> PeerWish {
    PeerWish {
        name: name.to_owned(),
        carrier: Some(Carrier::FlannelUdp),
        endpoint: Some(endpoint.to_owned()),
        prefixes: list(prefixes),
        ..PeerWish::default()
    }
}

#[test]
fn each_host_is_a_router_in_its_own_part() {
    let mut model = Model::default();
    make(&mut model, &cluster("flat", "10.244.5.0/24")).unwrap();
    let spec = model.network("flat").unwrap().spec.clone();
    let v4 = spec.v4.unwrap();
    assert_eq!(v4.gateway.to_string(), "10.244.5.1");
    assert_eq!((v4.prefix, spec.v6, spec.mtu), (16, None, 1472));
    let overlay = spec.overlay.unwrap();
    assert_eq!(overlay.port, 8285);
    let range = (overlay.range.first, overlay.range.last);
    assert_eq!(range, ([10, 244, 5, 1].into(), [10, 244, 5, 254].into()));
    // Not the first of the part, which is a node's own address elsewhere.
    assert_eq!(join(&mut model, "flat", 1, None).unwrap().0, "10.244.5.2");
    assert_eq!(
        join(&mut model, "flat", 2, Some("10.244.6.9")),
        Err(Code::AddressOutside)
    );
    let id = meet(&mut model, &node("b", "198.51.100.2", &["10.244.6.0/24"])).unwrap();
    let peer = model.peer_spec(&model.peers[&id]);
    let to = "198.51.100.2:8285".parse().unwrap();
    assert_eq!(peer.carrier, PeerCarrier::FlannelUdp { to });
    assert_eq!(peer.prefixes, ["10.244.6.0/24".parse().unwrap()]);
}

#[test]
fn the_gateway_and_ipv6_are_as_they_are_asked_for() {
    let mut model = Model::default();
    let wish = NetworkWish {
        gateway: Some("10.244.5.254".into()),
        subnet6: Some("fd00:244::/64".into()),
        ..cluster("flat", "10.244.5.0/24")
    };
    make(&mut model, &wish).unwrap();
    let spec = model.network("flat").unwrap().spec.clone();
    assert_eq!(spec.v4.unwrap().gateway.to_string(), "10.244.5.254");
    assert!(spec.v6.is_some());
    assert_eq!(
        join(&mut model, "flat", 1, None).unwrap(),
        ("10.244.5.1".to_owned(), "fd00:244::501".to_owned())
    );
}

#[test]
fn nodes_that_are_refused() {
    let mut model = Model::default();
    let tiny = Err((Code::BadSubnet, "ip-range".to_owned()));
    assert_eq!(make(&mut model, &cluster("x", "10.244.5.8/31")), tiny);
    let wish = NetworkWish {
        gateway: Some("10.244.0.1".into()),
        ..cluster("flat", "10.244.5.0/24")
    };
    make(&mut model, &wish).unwrap();
    meet(&mut model, &node("b", "198.51.100.2", &["10.244.6.0/24"])).unwrap();
    for (wish, code, field) in [
        (node("x", "198.51.100.3", &[]), Code::BadOption, "prefixes"),
        (
            node("x", "198.51.100.3", &["10.244.6.128/25"]),
            Code::RangeTaken,
            "prefixes.0",
        ),
        (
            node("x", "198.51.100.3", &["10.244.4.0/23"]),
            Code::RangeTaken,
            "prefixes",
        ),
        (
            node("x", "198.51.100.3", &["10.244.0.0/24"]),
            Code::AddressTaken,
            "prefixes",
        ),
        (
            node("x", "198.51.100.2", &["10.244.7.0/24"]),
            Code::AddressTaken,
            "endpoint",
        ),
    ] {
        assert_eq!(
            meet(&mut model, &wish),
            Err((code, field.to_owned())),
            "{wish:?}"
        );
    }
}
