use super::*;

#[test]
fn an_overlay_has_a_number_a_port_and_a_part_of_its_own() {
    let mut model = Model::default();
    make(&mut model, &wide("web", "10.1.0.0/16")).unwrap();
    let spec = model.network("web").unwrap().spec.clone();
    let overlay = spec.overlay.unwrap();
    assert_eq!((overlay.carrier, overlay.port), (Carrier::Sealed, 7348));
    assert!((1..=LAST_VNI).contains(&overlay.vni));
    assert_eq!(overlay.range.first.to_string(), "10.1.0.1");
    assert_eq!(overlay.range.last.to_string(), "10.1.0.255");
    assert_eq!(spec.mtu, 1418);
    // Another host that knows no more than the name takes the same number.
    let mut other = Model::default();
    make(&mut other, &wide("web", "10.9.0.0/16")).unwrap();
    let same = &other.network("web").unwrap().spec;
    assert_eq!(same.overlay.unwrap().vni, overlay.vni);
    // And the same IPv6 subnet, which no other network has.
    let v6 = spec.v6.unwrap();
    assert_eq!(same.v6, Some(v6));
    assert_eq!((v6.network.octets()[0], v6.prefix), (0xfd, 64));
    for (name, vni) in [("web", overlay.vni + 1), ("bew", overlay.vni)] {
        let mut another = Model::default();
        let wish = NetworkWish {
            vni: Some(vni),
            ..wide(name, "10.1.0.0/16")
        };
        make(&mut another, &wish).unwrap();
        assert_ne!(another.network(name).unwrap().spec.v6, Some(v6));
    }
    let mut taken = Model::default();
    let wish = NetworkWish {
        name: "before".into(),
        subnet6: Some(format!("{}/64", v6.network)),
        ..NetworkWish::default()
    };
    make(&mut taken, &wish).unwrap();
    let refused = Err((Code::NoFreeSubnet, "subnet6".into()));
    assert_eq!(make(&mut taken, &wide("web", "10.1.0.0/16")), refused);
    make(&mut model, &over("small", &["carrier=vxlan", "port=8472"])).unwrap();
    let spec = &model.network("small").unwrap().spec;
    let overlay = spec.overlay.unwrap();
    assert_eq!(
        (overlay.carrier, overlay.port, spec.mtu),
        (Carrier::Vxlan, 8472, 1450)
    );
    let count = u32::from(overlay.range.last) - u32::from(overlay.range.first);
    assert_eq!(count, 30);
    let mut v6 = facts();
    v6.underlay.addr = Some("2001:db8::1".parse().unwrap());
    made(&mut model, &v6, &over("six", &[])).unwrap();
    assert_eq!(model.network("six").unwrap().spec.mtu, 1398);
    // A way that is too narrow for IPv6 inside leaves it out, unless it was asked for.
    let mut narrow = facts();
    narrow.underlay.mtu = 1300;
    made(&mut model, &narrow, &over("narrow", &[])).unwrap();
    let spec = &model.network("narrow").unwrap().spec;
    assert_eq!((spec.mtu, spec.v6), (1218, None));
    let mut asked = over("more", &[]);
    asked.ipv6 = Some(true);
    assert_eq!(
        made(&mut model, &narrow, &asked),
        Err((Code::BadOption, "mtu".into()))
    );
    asked.ipv6 = None;
    asked.mtu = Some(1500);
    let told = made(&mut model, &facts(), &asked).unwrap();
    assert!(told[0].contains("room for 1418"), "{told:?}");
    // A network that is none has all of that not.
    make(
        &mut model,
        &NetworkWish {
            name: "bare".into(),
            ..NetworkWish::default()
        },
    )
    .unwrap();
    let spec = &model.network("bare").unwrap().spec;
    assert_eq!((spec.overlay, spec.mtu), (None, 1500));
}

#[test]
fn overlays_that_are_refused() {
    let mut model = Model::default();
    make(
        &mut model,
        &NetworkWish {
            vni: Some(7),
            ..wide("web", "10.1.0.0/16")
        },
    )
    .unwrap();
    make(&mut model, &over("plain", &["carrier=vxlan"])).unwrap();
    make(&mut model, &over("flat", &["carrier=flannel-udp"])).unwrap();
    let peer = PeerWish {
        prefixes: list(&["10.7.0.0/24"]),
        ..sealed("b", 2)
    };
    meet(&mut model, &peer).unwrap();
    join(&mut model, "web", 1, None).unwrap();
    let rule = PublishWish {
        sandbox: "s1".into(),
        network: None,
        ports: list(&["9000-9010/udp"]),
    };
    publish(&mut model, &facts(), &rule, Origin::Command).unwrap();
    let vni = |n| NetworkWish {
        vni: Some(n),
        ..over("x", &[])
    };
    let bare = |vni, opt: &[&str]| NetworkWish {
        driver: None,
        vni,
        ..over("x", opt)
    };
    let part = |subnet: &str, range: &str| NetworkWish {
        ip_range: Some(range.to_owned()),
        ..wide("x", subnet)
    };
    #[rustfmt::skip]
    let cases = [
        (vni(0), Code::BadOption, "vni"),
        (vni(LAST_VNI + 1), Code::BadOption, "vni"),
        (vni(7), Code::VniTaken, "vni"),
        (bare(Some(8), &[]), Code::BadOption, "vni"),
        (bare(None, &["carrier=vxlan"]), Code::BadOption, "opt"),
        (bare(None, &["port=1"]), Code::BadOption, "opt"),
        (over("x", &["carrier=pigeon"]), Code::BadOption, "opt"),
        (over("x", &["port=0"]), Code::BadOption, "opt"),
        (over("x", &["port=many"]), Code::BadOption, "opt"),
        (over("x", &["port=7349"]), Code::PortTaken, "opt"),
        (over("x", &["carrier=vxlan", "port=7348"]), Code::PortTaken, "opt"),
        (over("x", &["carrier=flannel-udp"]), Code::PortTaken, "opt"),
        (over("x", &["carrier=vxlan", "port=9005"]), Code::PortTaken, "opt"),
        (wide("x", "10.1.128.0/24"), Code::SubnetOverlap, "subnet"),
        (wide("x", "10.2.0.0/28"), Code::BadSubnet, "subnet"),
        (part("10.2.0.0/16", "10.3.0.0/24"), Code::BadSubnet, "ip-range"),
        (part("10.7.0.0/16", "10.7.0.0/23"), Code::RangeTaken, "ip-range"),
        (NetworkWish { mtu: Some(67), ..over("x", &[]) }, Code::BadOption, "mtu"),
        (NetworkWish { subnet6: Some("fd00::/120".into()), ..wide("x", "10.2.0.0/16") }, Code::BadSubnet, "subnet6"),
    ];
    for (wish, code, field) in cases {
        assert_eq!(
            make(&mut model, &wish),
            Err((code, field.to_owned())),
            "{wish:?}"
        );
    }
    // Networks of one carrier share a port, and a published one is not taken from a tunnel.
    make(&mut model, &over("plain2", &["carrier=vxlan"])).unwrap();
    make(
        &mut model,
        &over("flat2", &["carrier=flannel-udp", "port=8286"]),
    )
    .unwrap();
    let taken = PublishWish {
        ports: list(&["7348/udp"]),
        ..rule
    };
    let problem = publish(&mut model.clone(), &facts(), &taken, Origin::Command).unwrap_err();
    assert_eq!(problem.code, Code::PortTaken);
    let tcp = PublishWish {
        ports: list(&["7348/tcp"]),
        ..taken
    };
    publish(&mut model, &facts(), &tcp, Origin::Command).unwrap();
}
