use super::*;

#[test]
fn addresses_go_in_pairs_and_come_from_the_own_part() {
    let mut model = Model::default();
    let mut wish = wide("web", "10.1.0.0/16");
    wish.subnet6 = Some("fd00:1::/64".into());
    wish.ip_range = Some("10.1.2.0/24".into());
    make(&mut model, &wish).unwrap();
    let peer = PeerWish {
        prefixes: list(&["10.1.3.0/24"]),
        ..sealed("b", 2)
    };
    let id = meet(&mut model, &peer).unwrap();
    let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
    assert_eq!(
        join(&mut model, "web", 1, None),
        pair("10.1.2.1", "fd00:1::201")
    );
    assert_eq!(
        join(&mut model, "web", 2, None),
        pair("10.1.2.2", "fd00:1::202")
    );
    assert_eq!(
        join(&mut model, "web", 3, Some("10.1.2.9")),
        pair("10.1.2.9", "fd00:1::209")
    );
    // Peers hold a host to its part.
    assert_eq!(
        join(&mut model, "web", 4, Some("10.1.9.9")),
        Err(Code::AddressOutside)
    );
    assert_eq!(
        join(&mut model, "web", 4, Some("10.1.3.9")),
        Err(Code::AddressTaken)
    );
    let spec = model.peer_spec(&model.peers[&id]);
    let shown: Vec<_> = spec.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.1.3.0/24", "fd00:1::300/120"]);
    // Who would take an address away that is in use is refused.
    let plain = NetworkWish {
        subnet: Some("10.3.0.0/16".into()),
        ..over("plain", &["carrier=vxlan"])
    };
    make(&mut model, &plain).unwrap();
    join(&mut model, "plain", 5, Some("10.3.9.9")).unwrap();
    let late = PeerWish {
        prefixes: list(&["10.3.9.0/24"]),
        carrier: Some(Carrier::Vxlan),
        endpoint: Some("192.0.2.3".into()),
        key: None,
        ..sealed("c", 3)
    };
    assert_eq!(
        meet(&mut model, &late),
        Err((Code::AddressTaken, "prefixes".into()))
    );
}

#[test]
fn peers_that_are_refused() {
    let mut model = Model::default();
    make(&mut model, &wide("web", "10.1.0.0/16")).unwrap();
    make(&mut model, &over("plain", &["carrier=vxlan", "port=8472"])).unwrap();
    make(
        &mut model,
        &NetworkWish {
            name: "bare".into(),
            ..NetworkWish::default()
        },
    )
    .unwrap();
    let first = PeerWish {
        prefixes: list(&["10.1.1.0/24"]),
        networks: list(&["web"]),
        ..sealed("b", 2)
    };
    meet(&mut model, &first).unwrap();
    let vxlan = |name: &str, endpoint: &str| PeerWish {
        name: name.to_owned(),
        carrier: Some(Carrier::Vxlan),
        endpoint: (!endpoint.is_empty()).then(|| endpoint.to_owned()),
        networks: list(&["plain"]),
        ..PeerWish::default()
    };
    let id = meet(&mut model, &vxlan("v", "192.0.2.9")).unwrap();
    let spec = model.peer_spec(&model.peers[&id]);
    // A node of another make listens where the network does.
    assert_eq!(
        spec.carrier.endpoint().unwrap().to_string(),
        "192.0.2.9:8472"
    );
    let base = || sealed("x", 9);
    let some = |s: &str| Some(s.to_owned());
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let low = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    #[rustfmt::skip]
    let cases = [
        (PeerWish { name: "".into(), ..base() }, Code::BadName, "name"),
        (PeerWish { name: "a.b".into(), ..base() }, Code::BadName, "name"),
        (PeerWish { name: "b".into(), ..base() }, Code::NameTaken, "name"),
        (PeerWish { key: None, ..base() }, Code::BadKey, "key"),
        (PeerWish { key: some("key"), ..base() }, Code::BadKey, "key"),
        (PeerWish { key: some(zero), ..base() }, Code::BadKey, "key"),
        (PeerWish { key: some(low), ..base() }, Code::BadKey, "key"),
        (PeerWish { key: some(&key(1)), ..base() }, Code::BadKey, "key"),
        (PeerWish { key: some(&key(2)), ..base() }, Code::KeyTaken, "key"),
        (PeerWish { endpoint: some("nowhere:0"), ..base() }, Code::BadAddress, "endpoint"),
        (PeerWish { endpoint: some("10.0.0.300"), ..base() }, Code::BadAddress, "endpoint"),
        (PeerWish { endpoint: some("0.0.0.0"), ..base() }, Code::BadAddress, "endpoint"),
        (PeerWish { endpoint: some("192.0.2.1"), ..base() }, Code::BadAddress, "endpoint"),
        (PeerWish { networks: list(&["web", "none"]), ..base() }, Code::UnknownNetwork, "networks.1"),
        (PeerWish { networks: list(&["bare"]), ..base() }, Code::BadOption, "networks.0"),
        (PeerWish { networks: list(&["plain"]), ..base() }, Code::BadOption, "networks.0"),
        (PeerWish { prefixes: list(&["10.1.2.1/24"]), ..base() }, Code::BadSubnet, "prefixes.0"),
        (PeerWish { prefixes: list(&["10.1.1.128/25"]), ..base() }, Code::RangeTaken, "prefixes.0"),
        (PeerWish { prefixes: list(&["10.1.0.0/28"]), ..base() }, Code::RangeTaken, "prefixes"),
        (PeerWish { prefixes: vec!["10.1.9.0/24".to_owned(); 65], ..base() }, Code::BadOption, "prefixes"),
        (PeerWish { networks: list(&["web"]), prefixes: list(&["10.2.0.0/24"]), ..base() }, Code::AddressOutside, "prefixes.0"),
        (vxlan("x", ""), Code::BadOption, "endpoint"),
        (vxlan("x", "192.0.2.9"), Code::AddressTaken, "endpoint"),
        (PeerWish { key: some(&key(9)), ..vxlan("x", "192.0.2.8") }, Code::BadOption, "key"),
        (PeerWish { keepalive: Some(5), ..vxlan("x", "192.0.2.8") }, Code::BadOption, "keepalive"),
        (PeerWish { networks: list(&["web"]), ..vxlan("x", "192.0.2.8") }, Code::BadOption, "networks.0"),
    ];
    for (wish, code, field) in cases {
        assert_eq!(
            meet(&mut model, &wish),
            Err((code, field.to_owned())),
            "{wish:?}"
        );
    }
    assert_eq!(
        remove_peer(&mut model, "x").unwrap_err().code,
        Code::UnknownPeer
    );
    // A network that a peer was put on by name stays until the peer goes.
    assert_eq!(
        remove(&mut model.clone(), "web").unwrap_err().code,
        Code::NetworkInUse
    );
    assert_eq!(prune(&mut model.clone()), ["bare"]);
    remove_peer(&mut model, "b").unwrap();
    remove(&mut model, "web").unwrap();
}
