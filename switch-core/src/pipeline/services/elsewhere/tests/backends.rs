//! A service of one host whose backends are on another.

use super::*;

#[test]
fn a_backend_elsewhere_serves_clients_of_both_hosts_and_sees_the_service() {
    for [c, v, a] in ENDS {
        let mut two = Two::new(Remote::Announced);
        two.serve(vec![there()]);
        // For one here: it goes there, and comes back, by the service's own MAC.
        let (verdict, sent) = send(
            &mut two.own,
            PortId(0),
            &tcp([A, GATEWAY], [a, v], (4000, 80), SYN),
        );
        assert_eq!(verdict, Verdict::Forward(WAY));
        let heard = two.hears(&sent[0]);
        assert_eq!(ends(&heard), ([vip(), C], both(v, c), [4000, 8080]));
        let (verdict, sent) = two.asks(&tcp([C, vip()], [c, v], (8080, 4000), SYN | ACK));
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
        assert_eq!(ends(&sent[0].1), ([GATEWAY, A], both(v, a), [80, 4000]));
        // For one beside it: there and back by this host.
        let (verdict, sent) = two.asks(&tcp(
            [D, vip()],
            [DS[usize::from(v.contains(':'))], v],
            (4001, 80),
            SYN,
        ));
        assert_eq!(verdict, Verdict::Forward(WAY));
        let heard = two.hears(&sent[0]);
        assert_eq!(ends(&heard), ([vip(), C], both(v, c), [4001, 8080]));
        let (_, sent) = two.asks(&tcp([C, vip()], [c, v], (8080, 4001), SYN | ACK));
        let (verdict, sent) = send(&mut two.far, WAY, &sent[0].1);
        assert_eq!(
            (verdict, sent[0].0),
            (Verdict::Forward(PortId(1)), PortId(1))
        );
        assert_eq!(ends(&sent[0].1).0, [vip(), D]);
        // It is led to another rather than to itself, and what it says of a datagram reaches the client.
        let (verdict, sent) = two.asks(&tcp([C, vip()], [c, v], (4002, 80), SYN));
        assert_eq!(verdict, Verdict::Forward(WAY));
        assert_eq!(ends(&two.hears(&sent[0])).0, [vip(), C]);
        two.serve(vec![there(), here()]);
        let (verdict, _) = two.asks(&tcp([C, vip()], [c, v], (4003, 80), SYN));
        assert_eq!(verdict, Verdict::Forward(PortId(0)));
        two.serve(vec![there()]);
        let ask = udp([A, GATEWAY], [a, v], (4004, 80), b"who");
        send(&mut two.own, PortId(0), &ask);
        let quoted = udp([vip(), C], [v, c], (4004, 8080), b"who");
        let (verdict, sent) = two.asks(&unreachable([C, vip()], [c, v], &quoted));
        assert_eq!(
            (verdict, sent[0].0),
            (Verdict::Forward(PortId(0)), PortId(0))
        );
        assert_eq!(ends(&sent[0].1).1, both(v, a));
    }
}

#[test]
fn backends_behind_one_way_are_each_as_well_as_they_are() {
    let [_, v, a] = ENDS[0];
    let mut two = Two::new(Remote::Announced);
    let other = Server {
        mac: D,
        addrs: DS.map(|a| a.parse().unwrap()).into(),
        ..there()
    };
    two.serve(vec![there(), other]);
    let mut asked = Vec::new();
    for n in 0..40 {
        let open = tcp([A, GATEWAY], [a, v], (4000 + n, 80), SYN);
        let (_, sent) = send(&mut two.own, PortId(0), &open);
        let ([_, to], addrs, _) = ends(&sent[0].1);
        asked.push(to);
        if to == D {
            // It refuses, and then no other for a while.
            let from = addrs[1].to_string();
            let reset = tcp([D, vip()], [&from, v], (8080, 4000 + n), RST | ACK);
            assert_eq!(two.asks(&reset).0, Verdict::Forward(PortId(0)));
        }
    }
    let refused = asked.iter().filter(|to| **to == D).count();
    assert_eq!((refused, asked.len()), (1, 40));
    // One that has gone is nobody's to lead to; the other one is still there.
    two.own.remove_remote(WAY, D);
    two.serve(vec![there()]);
    let open = tcp([A, GATEWAY], [a, v], (5000, 80), SYN);
    let (_, sent) = send(&mut two.own, PortId(0), &open);
    assert_eq!(ends(&sent[0].1).0, [vip(), C]);
}
