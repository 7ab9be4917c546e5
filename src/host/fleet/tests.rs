//! Many sandboxes against the kernel, as root and as an ordinary user.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, geteuid};

use super::super::broker::{Broker, Event};
use super::super::privileges;
use super::super::testing::{alone, event, wait_until};
use super::testing::{Holder, joined, link_spec, old};
use super::*;

/// The memory of a process that is of no file. Units: KiB.
fn memory_of(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Anonymous:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn many_sandboxes_come_and_go() {
    const MANY: u32 = 60;
    alone(|| {
        privileges::raise_descriptor_limit().unwrap();
        let mut broker = Broker::spawn().unwrap();
        let first = Holder::new(true);
        let id = joined(&mut broker, &first);
        let _link = broker.add_link(id, &link_spec(MANY)).unwrap();
        let before = memory_of(broker.pid());
        let mut all = Vec::new();
        for endpoint in 0..MANY {
            // Root meets both kinds.
            let holder = Holder::new(!geteuid().is_root() || endpoint % 2 == 0);
            let id = joined(&mut broker, &holder);
            let link = broker.add_link(id, &link_spec(endpoint)).unwrap();
            assert!(
                link.opened.how.caps.tso && link.warnings.is_empty(),
                "{link:?}"
            );
            all.push((holder, id, link));
        }
        let each = (memory_of(broker.pid()) - before) * 1024 / u64::from(MANY);
        assert!(each < 16 * 1024, "{each} bytes for each sandbox");
        for (endpoint, (holder, ..)) in (0..MANY).zip(&all).step_by(7) {
            let low = endpoint + 2;
            let text = holder
                .sh("ip link show eth0; ip addr show eth0; ip route; ip -6 route; ip addr show lo");
            for part in [
                format!("inet 10.87.9.{low}/24"),
                format!("inet6 fd87::{low:x}/64"),
                format!("link/ether 02:00:00:00:01:{low:02x}"),
                format!("alias weft:{endpoint}"),
                "mtu 1400".to_owned(),
                "default via 10.87.9.1 dev eth0 metric 50".to_owned(),
                "default via fd87::1 dev eth0 metric 50".to_owned(),
                "inet 127.0.0.1/8".to_owned(),
            ] {
                assert!(text.contains(&part), "{part}:\n{text}");
            }
            assert!(!text.contains("tentative"), "{text}");
        }
        let mut going: Vec<_> = (0..MANY)
            .zip(&all)
            .map(|(endpoint, (_, id, _))| old(*id, "eth0", endpoint))
            .collect();
        let wrong = old(all[3].1, "eth0", 4);
        going[3] = wrong;
        for (at, result) in broker.remove_links(&going).unwrap().into_iter().enumerate() {
            let missing = FleetError::InterfaceMissing("eth0".to_owned());
            let expected = if at == 3 { Err(missing) } else { Ok(()) };
            assert_eq!(result, expected, "{at}");
            assert_eq!(all[at].0.has("eth0"), at == 3);
        }
        for (holder, id, _) in &all {
            holder.end();
            assert_eq!(event(&mut broker), Event::SandboxEnded(*id));
            broker.leave(*id).unwrap();
        }
    });
}

#[test]
fn what_fails_leaves_no_interface() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let spec = link_spec(1);
        let far = |gateway: IpAddr| LinkRoute {
            to: Ipv4Addr::new(10, 99, 0, 0).into(),
            prefix: 16,
            via: Some(gateway),
        };
        let bad_route = LinkSpec {
            routes: vec![far(Ipv4Addr::new(192, 0, 2, 1).into())],
            ..spec.clone()
        };
        let bad_setting = LinkSpec {
            sysctls: vec![("ipv4.conf.IFNAME.no_such".to_owned(), "1".to_owned())],
            ..spec.clone()
        };
        let bad_name = LinkSpec {
            ifname: "a name that is too long".to_owned(),
            ..spec.clone()
        };
        for bad in [bad_route, bad_setting, bad_name] {
            let error = broker.add_link(id, &bad).unwrap_err();
            assert!(matches!(error, FleetError::Refused { .. }), "{error:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
            assert!(!holder.has("eth0"));
        }
        let good = LinkSpec {
            routes: vec![far(Ipv4Addr::new(10, 87, 9, 7).into())],
            sysctls: vec![("ipv4.conf.IFNAME.forwarding".to_owned(), "1".to_owned())],
            persistent: false,
            ..spec
        };
        let link = broker.add_link(id, &good).unwrap();
        let text = holder.sh("ip route; cat /proc/sys/net/ipv4/conf/eth0/forwarding");
        assert!(text.contains("10.99.0.0/16 via 10.87.9.7"), "{text}");
        assert!(text.ends_with("1\n"), "{text}");
        let error = broker.add_link(id, &good).unwrap_err();
        assert_eq!(error, FleetError::InterfaceExists("eth0".to_owned()));
        let error = broker.remove_link(&old(id, "eth0", 2)).unwrap_err();
        assert_eq!(error, FleetError::InterfaceMissing("eth0".to_owned()));
        drop(link);
        wait_until("it ends with its descriptor", || !holder.has("eth0"));
        broker.add_link(id, &good).unwrap();
    });
}

#[test]
fn a_default_route_moves() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let second = LinkSpec {
            ifname: "eth1".to_owned(),
            addresses: vec![(Ipv4Addr::new(10, 88, 0, 2).into(), 24)],
            default_route: DefaultRoute {
                gateways: vec![Ipv4Addr::new(10, 88, 0, 1).into()],
                metric: Some(50),
            },
            ..link_spec(2)
        };
        let first = link_spec(1).default_route;
        let _first = broker.add_link(id, &link_spec(1)).unwrap();
        let link = broker.add_link(id, &second).unwrap();
        assert_eq!(link.warnings.len(), 1, "{:?}", link.warnings);
        let mut set = |name, route, on| broker.set_default_route(id, name, route, on);
        let taken = set("eth1", &second.default_route, true).unwrap_err();
        assert!(
            matches!(
                taken,
                FleetError::Refused {
                    errno: Some(libc::EEXIST),
                    ..
                }
            ),
            "{taken:?}"
        );
        for _ in 0..2 {
            set("eth0", &first, false).unwrap();
        }
        let routes = || holder.sh("ip route show default; ip -6 route show default");
        assert_eq!(routes(), "");
        for _ in 0..2 {
            set("eth1", &second.default_route, true).unwrap();
        }
        assert_eq!(routes().trim(), "default via 10.88.0.1 dev eth1 metric 50");
        let missing = set("eth7", &first, true).unwrap_err();
        assert_eq!(missing, FleetError::InterfaceMissing("eth7".to_owned()));
    });
}

#[test]
fn sockets_are_opened_inside() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let _link = broker.add_link(id, &link_spec(1)).unwrap();
        let inside = SocketAddr::from(([10, 87, 9, 3], 0));
        for socket in broker.sockets_in(id, false, 600).unwrap() {
            let socket = socket2::Socket::from(socket);
            assert!(socket.nonblocking().unwrap());
            socket.bind(&inside.into()).unwrap();
        }
        assert_eq!(broker.sockets_in(id, true, 1).unwrap().len(), 1);
        broker.want_sockets_in(id, false, 7).unwrap();
        broker.want_sockets_in(id, false, 70).unwrap();
        broker.want_sockets_in(id, true, 8).unwrap();
        // Another answer is not taken for theirs.
        broker
            .set_default_route(id, "eth0", &DefaultRoute::default(), true)
            .unwrap();
        let mut came = std::iter::from_fn(|| broker.next_sockets_in());
        let of = |(from, v6, fds): Arrived| (from, v6, fds.unwrap().len());
        assert_eq!(came.next().map(of), Some((id, false, 7)));
        assert_eq!(came.next().map(of), Some((id, true, 8)));
        assert!(came.next().is_none() && broker.next_sockets().is_none());
        broker.want_sockets_in(SandboxId(99), false, 7).unwrap();
        wait_until("the refusal comes", || {
            let _ = broker.next_event();
            broker
                .next_sockets_in()
                .is_some_and(|(_, _, fds)| fds.is_err())
        });
        let outside = broker.bind(&[Port::Tcp(PortAt::One(inside))]).unwrap();
        let failure = outside[0].as_ref().unwrap_err();
        assert_eq!(failure.errno, Some(libc::EADDRNOTAVAIL), "still outside");
    });
}

#[test]
fn ten_thousand_ports_are_bound_at_once() {
    alone(|| {
        privileges::raise_descriptor_limit().unwrap();
        let mut broker = Broker::spawn().unwrap();
        let [.., a, b] = std::process::id().to_be_bytes();
        let at = |port: u16| SocketAddr::from(([127, 77, a.max(1), b], port));
        let taken = std::net::TcpListener::bind(at(20_500)).unwrap();
        let ports: Vec<_> = (20_000..25_000)
            .flat_map(|port| [Port::Tcp, Port::Udp].map(|of| of(PortAt::One(at(port)))))
            .collect();
        let start = Instant::now();
        let bound = broker.bind(&ports).unwrap();
        let time = start.elapsed();
        // A fortieth of that on an idle machine.
        assert!(time.as_secs() < 20, "{time:?}");
        assert_eq!(bound.len(), ports.len());
        for (port, result) in ports.iter().zip(bound) {
            let (addr, is_tcp) = (port.at().addr(), matches!(port, Port::Tcp(_)));
            if is_tcp && addr == taken.local_addr().unwrap() {
                assert_eq!(result.unwrap_err().errno, Some(libc::EADDRINUSE));
                continue;
            }
            let socket = socket2::Socket::from(result.unwrap());
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(addr));
            assert_eq!(socket.is_listener().unwrap(), is_tcp);
        }
    });
}

#[test]
fn without_room_for_its_descriptor_there_is_no_interface() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let limit = Resource::RLIMIT_NOFILE;
        let (soft, hard) = getrlimit(limit).unwrap();
        let next = || fs::File::open("/dev/null").unwrap().as_raw_fd();
        let free = next();
        setrlimit(limit, free.try_into().unwrap(), hard).unwrap();
        let error = broker.add_link(id, &link_spec(1)).unwrap_err();
        assert!(error.to_string().contains("ulimit"), "{error}");
        // Those that had room are not kept either.
        setrlimit(limit, (free + 5).try_into().unwrap(), hard).unwrap();
        let error = broker.sockets_in(id, false, 20).unwrap_err();
        assert!(error.to_string().contains("ulimit"), "{error}");
        assert_eq!(next(), free);
        setrlimit(limit, soft, hard).unwrap();
        assert!(!holder.has("eth0"));
        broker.add_link(id, &link_spec(1)).unwrap();
    });
}
