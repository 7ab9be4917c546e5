use super::*;

fn text(invite: &str) -> Invite {
    invite.parse().unwrap()
}

fn invited(model: &mut Model, facts: &Facts, wish: &InviteWish) -> Result<Invite, (Code, String)> {
    let mut copy = model.clone();
    let made = invite(&mut copy, facts, wish).map_err(|p| {
        assert_eq!(p.message.lines().count(), 1, "{p}");
        (p.code, p.field.unwrap_or_default())
    })?;
    *model = copy;
    Ok(text(&made.1))
}

fn taken(model: &mut Model, invite: &Invite) -> Result<Vec<String>, Problem> {
    let there = Facts {
        key: Some(public(2)),
        underlay: Underlay {
            addr: Some([192, 0, 2, 2].into()),
            mtu: 1400,
        },
        ..facts()
    };
    let wish = AcceptWish {
        invite: format!("weft peer add {}\n", invite.reveal()),
        name: None,
    };
    let mut copy = model.clone();
    let (_, networks) = accept(&mut copy, &there, &wish, &mut Vec::new())?;
    *model = copy;
    Ok(networks)
}

#[test]
fn two_hosts_meet_by_one_invite() {
    let (mut here, mut there) = (Model::default(), Model::default());
    make(&mut here, &wide("web", "10.1.0.0/16")).unwrap();
    make(
        &mut here,
        &NetworkWish {
            internal: true,
            ..over("back", &[])
        },
    )
    .unwrap();
    let to_b = invited(&mut here, &facts(), &InviteWish::default()).unwrap();
    assert_eq!((to_b.name.as_str(), to_b.networks.len()), ("here", 2));
    assert_eq!(to_b.endpoint.to_string(), "192.0.2.1:7348");
    assert_eq!(taken(&mut there, &to_b).unwrap(), ["web", "back"]);
    for name in ["web", "back"] {
        let (a, b) = (
            &here.network(name).unwrap().spec,
            &there.network(name).unwrap().spec,
        );
        assert_eq!((a.v4, a.v6, &a.uplink), (b.v4, b.v6, &b.uplink));
        let (a, b) = (a.overlay.unwrap(), b.overlay.unwrap());
        assert_eq!((a.vni, a.carrier), (b.vni, b.carrier));
        assert!(a.range.last < b.range.first);
    }
    // The narrower way decides.
    assert_eq!(there.network("web").unwrap().spec.mtu, 1318);
    let peer = there.peer_spec(there.peer("here").unwrap());
    assert_eq!(peer.carrier.key().map(ToString::to_string), Some(key(1)));
    assert!(
        matches!(peer.carrier, PeerCarrier::Sealed { keepalive: 25, secret, .. } if secret == to_b.secret)
    );
    let id = here.peer("host-2").unwrap().id;
    let peer = here.peer_spec(&here.peers[&id]);
    assert!(
        matches!(peer.carrier, PeerCarrier::Sealed { key: None, secret, .. } if secret == to_b.secret)
    );
    assert_eq!(peer.networks.len(), 2);
    assert!(peer.prefixes.contains(&"10.1.1.0/24".parse().unwrap()));
    // Nobody else has the same part, and no other can take the invite.
    let to_c = invited(&mut here, &facts(), &InviteWish::default()).unwrap();
    assert_eq!(to_c.networks[0].given.to_string(), "10.1.2.0/24");
    assert_ne!(to_c.secret, to_b.secret);
    let (b, c) = (key(2).parse().unwrap(), key(3).parse().unwrap());
    assert_eq!(joined(&mut here, id, b).as_deref(), Some("host-2"));
    assert_eq!(joined(&mut here, id, c), None);
    assert_eq!(here.peers[&id].carrier.key(), Some(&b));
    // The same invite again is the same peer twice.
    assert_eq!(taken(&mut there, &to_b).unwrap_err().code, Code::KeyTaken);
    // The address space is one: what the other hands out is not given here.
    let (a, _) = join(&mut here, "web", 1, None).unwrap();
    let (b, _) = join(&mut there, "web", 1, None).unwrap();
    assert_eq!((a.as_str(), b.as_str()), ("10.1.0.2", "10.1.1.1"));
    assert_eq!(
        join(&mut here, "web", 2, Some("10.1.1.1")),
        Err(Code::AddressTaken)
    );
    assert_eq!(
        join(&mut there, "web", 2, Some("10.1.0.9")),
        Err(Code::AddressTaken)
    );
}

#[test]
fn invites_that_are_refused() {
    let mut here = Model::default();
    let none = |m: &mut Model, wish: &InviteWish| invited(m, &facts(), wish).unwrap_err();
    let base = InviteWish::default;
    assert_eq!(
        none(&mut here, &base()),
        (Code::BadOption, "networks".into())
    );
    make(&mut here, &wide("web", "10.1.0.0/24")).unwrap();
    make(&mut here, &over("plain", &["carrier=vxlan"])).unwrap();
    let some = |s: &str| Some(s.to_owned());
    #[rustfmt::skip]
    let cases = [
        (InviteWish { networks: list(&["none"]), ..base() }, Code::UnknownNetwork, "networks"),
        (InviteWish { networks: list(&["plain"]), ..base() }, Code::BadOption, "networks"),
        (InviteWish { name: some("a b"), ..base() }, Code::BadName, "name"),
        (InviteWish { host: some("a.b"), ..base() }, Code::BadName, "as"),
        (InviteWish { endpoint: some("here:x"), ..base() }, Code::BadAddress, "endpoint"),
        (InviteWish { ranges: list(&["10.1.0"]), ..base() }, Code::BadSubnet, "ranges"),
        (InviteWish { ranges: list(&["10.2.0.0/27"]), ..base() }, Code::AddressOutside, "ranges"),
        (InviteWish { ranges: list(&["10.1.0.0/27"]), ..base() }, Code::RangeTaken, "ranges"),
        (InviteWish { ranges: list(&["10.1.0.64/27", "10.1.0.96/27"]), ..base() }, Code::AddressOutside, "ranges"),
    ];
    for (wish, code, field) in cases {
        assert_eq!(none(&mut here, &wish), (code, field.to_owned()), "{wish:?}");
    }
    let alone = Facts {
        underlay: Underlay::default(),
        ..facts()
    };
    assert_eq!(
        invited(&mut here, &alone, &base()).unwrap_err(),
        (Code::BadAddress, "endpoint".into())
    );
    let keyless = Facts {
        key: None,
        ..facts()
    };
    assert_eq!(
        invited(&mut here, &keyless, &base()).unwrap_err().0,
        Code::BadKey
    );
    let asked = InviteWish {
        ranges: list(&["10.1.0.128/25"]),
        ..base()
    };
    let half = invited(&mut here, &facts(), &asked).unwrap();
    assert_eq!(half.networks[0].given.to_string(), "10.1.0.128/25");
    assert_eq!(none(&mut here, &asked), (Code::RangeTaken, "ranges".into()));
    for _ in 0..3 {
        invited(&mut here, &facts(), &base()).unwrap();
    }
    assert_eq!(
        none(&mut here, &base()),
        (Code::PoolFull, "networks".into())
    );
    // What an invited host has already must be what the invite tells of.
    let refused = |there: &Model| taken(&mut there.clone(), &half).unwrap_err();
    let vni = half.networks[0].vni;
    let with = |wish: NetworkWish| {
        let mut there = Model::default();
        make(&mut there, &wish).unwrap();
        refused(&there)
    };
    let same = || NetworkWish {
        subnet6: half.networks[0].subnet6.map(|p| p.to_string()),
        ..wide("web", "10.1.0.0/24")
    };
    let told = with(same());
    assert_eq!(
        (told.code, told.field.as_deref()),
        (Code::RangeTaken, Some("invite"))
    );
    assert!(told.message.contains("--range 10.1.0.0/27"), "{told}");
    let told = with(NetworkWish {
        vni: Some(5),
        ..same()
    });
    assert_eq!(told.code, Code::BadInvite);
    assert!(
        told.message
            .contains(&format!("has vni 5, that of the invite {vni}")),
        "{told}"
    );
    assert_eq!(with(wide("web", "10.1.0.0/20")).code, Code::BadInvite);
    assert_eq!(with(over("web", &["carrier=vxlan"])).code, Code::BadInvite);
    assert_eq!(
        with(NetworkWish {
            name: "web".into(),
            ..NetworkWish::default()
        })
        .code,
        Code::BadInvite
    );
    assert_eq!(
        with(NetworkWish {
            vni: Some(vni),
            ..over("other", &[])
        })
        .code,
        Code::VniTaken
    );
    assert_eq!(with(wide("other", "10.1.0.0/26")).code, Code::SubnetOverlap);
    let mut own = half.clone();
    own.key = key(2).parse().unwrap();
    assert_eq!(
        taken(&mut Model::default(), &own).unwrap_err().code,
        Code::BadKey
    );
    // An invite with the part that is there already is one more peer.
    let mut there = Model::default();
    make(
        &mut there,
        &NetworkWish {
            ip_range: some("10.1.0.128/25"),
            ..same()
        },
    )
    .unwrap();
    assert_eq!(taken(&mut there, &half).unwrap(), Vec::<String>::new());
    let garbage = AcceptWish {
        invite: "weft1.".into(),
        name: None,
    };
    let told = accept(&mut there, &facts(), &garbage, &mut Vec::new()).unwrap_err();
    assert_eq!(
        (told.code, told.field.as_deref()),
        (Code::BadInvite, Some("invite"))
    );
}

#[test]
fn an_invite_that_is_too_old_is_warned_of_and_tried() {
    let (mut here, mut there) = (Model::default(), Model::default());
    make(&mut here, &wide("web", "10.1.0.0/16")).unwrap();
    let told = invited(&mut here, &facts(), &InviteWish::default()).unwrap();
    assert_eq!(told.expires, Some(24 * 3600));
    let later = Facts {
        key: Some(public(2)),
        underlay: Underlay::default(),
        now: 27 * 3600,
        ..facts()
    };
    let wish = AcceptWish {
        invite: told.reveal(),
        name: None,
    };
    let mut warnings = Vec::new();
    accept(&mut there, &later, &wish, &mut warnings).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("expired 3h ago"), "{warnings:?}");
}
