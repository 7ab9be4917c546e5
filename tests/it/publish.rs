//! Published ports: reached from outside, the client's true address seen inside.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::support::guest;
use crate::support::guest::Pattern;
use crate::support::netns::{self, BOTH, HOST, HOST6, OUTSIDE, OUTSIDE6};
use crate::support::servers;
use crate::support::wait::{self, SOON};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_server_sees_the_clients_true_address() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        servers::http(&sandbox.net, (IpAddr::from(sandbox.v6), 80));
        let page = guest::fetch(&world.outside, (HOST, 8080).into());
        assert_eq!(page, format!("hello {OUTSIDE}"));
        let page = guest::fetch(&world.outside, (HOST6, 8080).into());
        assert_eq!(page, format!("hello {OUTSIDE6}"));
    });
}

#[test]
fn what_was_spliced_is_told_on_request() {
    netns::inside(|world| {
        let sandbox = world.sandbox_with(&[("WEFT_LOG", "info")], &["-p", "8080:80"]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        let local = (IpAddr::from([127, 0, 0, 1]), 8080).into();
        // More than are kept ready: more were asked for and came while connections did.
        let mut own = 0_u64;
        wait::value("more than the first stock", SOON, || {
            let page = guest::fetch(&world.host, local);
            own += u64::from(page == format!("hello {}", sandbox.v4));
            (own == 100).then_some(())
        });
        let told = sandbox.weft.stop().stderr;
        assert!(
            told.contains(&format!("spliced: {own} connections, 0 of them reset")),
            "{told}"
        );
        assert!(!told.contains(" 0 bytes"), "{told}");
    });
}

#[test]
fn the_clients_port_is_true_too() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        servers::tcp(&sandbox.net, ([0, 0, 0, 0], 80), |mut stream, peer| {
            write!(stream, "{peer}")
        });
        let mut stream = guest::connect(&world.outside, (HOST, 8080).into()).unwrap();
        let mut seen = String::new();
        stream.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, stream.local_addr().unwrap().to_string());
    });
}

#[test]
fn udp_sees_the_true_address_and_answers_from_the_one_asked() {
    netns::inside(|world| {
        world.host.ip("addr add 192.0.2.4/24 dev eth0");
        let sandbox = world.sandbox(&["-p", "5353:53/udp"]);
        servers::udp_whoami(&sandbox.net, ([0, 0, 0, 0], 53));
        servers::udp_whoami(&sandbox.net, (IpAddr::from(sandbox.v6), 53));
        for ip in [IpAddr::from(HOST), [192, 0, 2, 4].into(), HOST6.into()] {
            let socket = guest::udp(&world.outside, ip, SECOND);
            // `ask` takes answers only from the address that it asked.
            let seen: SocketAddr = String::from_utf8(guest::ask(&socket, (ip, 5353).into(), b"?"))
                .unwrap()
                .parse()
                .unwrap();
            assert!(BOTH.contains(&seen.ip()), "{seen}");
            assert_eq!(seen.port(), socket.local_addr().unwrap().port());
        }
    });
}

#[test]
fn a_published_udp_port_is_the_mapping_of_its_inner_port() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "5354:54/udp"]);
        let who = servers::udp_whoami(&world.outside, (OUTSIDE, 0));
        let socket = sandbox
            .net
            .enter(|| std::net::UdpSocket::bind(("0.0.0.0", 54)))
            .unwrap();
        assert_eq!(
            guest::ask(&socket, who, b"?"),
            format!("{HOST}:5354").into_bytes()
        );
    });
}

#[test]
fn a_range_is_many_ports() {
    netns::inside(|world| {
        let sandbox =
            world.sandbox(&["-p", "9000-9009:7000-7009", "-p", "9100-9109:7100-7109/udp"]);
        for n in 0..10 {
            servers::http(&sandbox.net, (sandbox.v4, 7000 + n));
            guest::fetch(&world.outside, (HOST, 9000 + n).into());
            servers::udp_echo(&sandbox.net, (sandbox.v4, 7100 + n));
            let socket = guest::udp(&world.outside, HOST.into(), SECOND);
            assert_eq!(guest::ask(&socket, (HOST, 9100 + n).into(), b"hey"), b"hey");
        }
    });
}

#[test]
fn an_address_may_be_chosen() {
    netns::inside(|world| {
        world.host.ip("addr add 192.0.2.4/24 dev eth0");
        let sandbox = world.sandbox(&["-p", "192.0.2.4:8080:80", "-p", "[2001:db8:1::2]:8081:80"]);
        servers::http(&sandbox.net, (sandbox.v4, 80));
        servers::http(&sandbox.net, (sandbox.v6, 80));
        guest::fetch(&world.outside, ([192, 0, 2, 4], 8080).into());
        guest::fetch(&world.outside, (HOST6, 8081).into());
        for closed in [
            (IpAddr::from(HOST), 8080),
            (HOST6.into(), 8080),
            (HOST.into(), 8081),
        ] {
            let error = guest::connect(&world.outside, closed.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{closed:?}");
        }
    });
}

#[test]
fn a_port_in_use_is_refused_before_the_command_starts() {
    netns::inside(|world| {
        let _taken = world
            .host
            .enter(|| TcpListener::bind((HOST, 8080)))
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("started");
        let ended = world.run(&["-p", "8080:80"], &["touch", mark.to_str().unwrap()]);
        ended.refused(&["8080", "in use"]);
        assert!(!fs::exists(mark).unwrap(), "the command was not started");
    });
}

#[test]
fn a_closed_port_inside_is_a_reset_after_connect() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        // The host's kernel has completed the handshake before weft hears of it.
        let outcome = guest::connect(&world.outside, (HOST, 8080).into())
            .and_then(|mut stream| stream.read(&mut [0; 8]));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(sandbox);
    });
}

#[test]
fn the_hosts_own_loopback_reaches_a_published_port() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        servers::http(&sandbox.net, (IpAddr::from(sandbox.v6), 80));
        for ip in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            let page = guest::fetch(&world.host, (ip, 8080).into());
            assert_eq!(page, format!("hello {}", sandbox.address_like(ip)));
        }
    });
}

#[test]
fn a_capture_sees_clients_of_the_hosts_own_loopback() {
    netns::inside(|world| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capture.pcapng");
        let sandbox = world.sandbox(&["-p", "8080:80", "--pcap", path.to_str().unwrap()]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        servers::http(&sandbox.net, (IpAddr::from(sandbox.v6), 80));
        for ip in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            let page = guest::fetch(&world.host, (ip, 8080).into());
            assert_eq!(page, format!("hello {}", sandbox.gateway_like(ip)));
        }
    });
}

#[test]
fn a_burst_from_the_hosts_own_loopback_is_served_whole() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        let to = SocketAddr::from(([127, 0, 0, 1], 8080));
        // More than the stock holds: all open at once, then all answered, whichever way each has taken.
        let streams: Vec<_> = (0..150)
            .map(|_| guest::connect(&world.host, to).unwrap())
            .collect();
        for mut stream in streams {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let seen = [sandbox.v4, sandbox.gateway].map(|ip| format!("hello {ip}\n"));
            assert!(seen.iter().any(|page| answer.ends_with(page)), "{answer}");
        }
    });
}

#[test]
fn udp_from_the_hosts_loopback_comes_from_the_gateway() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "5353:53/udp"]);
        servers::udp_whoami(&sandbox.net, ([0, 0, 0, 0], 53));
        let to = SocketAddr::from(([127, 0, 0, 1], 5353));
        let socket = guest::udp(&world.host, to.ip(), SECOND);
        let seen: SocketAddr = String::from_utf8(guest::ask(&socket, to, b"?"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(seen.ip(), sandbox.gateway);
        // From another address of the host the client is seen as it is.
        let to = SocketAddr::from((HOST, 5353));
        let socket = guest::udp(&world.host, to.ip(), SECOND);
        let seen = guest::ask(&socket, to, b"?");
        let mine = format!("{HOST}:{}", socket.local_addr().unwrap().port());
        assert_eq!(String::from_utf8(seen).unwrap(), mine);
    });
}

#[test]
fn bytes_through_a_published_port_are_exact() {
    netns::inside(|world| {
        const LEN: usize = 64 << 20;
        let sandbox = world.sandbox(&["-p", "8080:80"]);
        servers::tcp(&sandbox.net, ([0, 0, 0, 0], 80), |mut stream, _| {
            Pattern::new(3).expect(&mut stream, LEN)?;
            Pattern::new(4).send(&mut stream, LEN)
        });
        for from in [
            (&world.host, IpAddr::from([127, 0, 0, 1])),
            (&world.outside, HOST.into()),
        ] {
            let mut stream = guest::connect(from.0, (from.1, 8080).into()).unwrap();
            Pattern::new(3).send(&mut stream, LEN).unwrap();
            Pattern::new(4).expect(&mut stream, LEN).unwrap();
            guest::expect_end(&mut stream);
        }
    });
}

#[test]
fn exposed_ports_are_published_on_free_ones() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["--expose", "80", "-P"]);
        servers::http(&sandbox.net, (sandbox.v4, 80));
        let port = wait::value("a listener of the host", SOON, || {
            let table = world
                .host
                .enter(|| fs::read_to_string("/proc/thread-self/net/tcp"))
                .unwrap();
            let table6 = world
                .host
                .enter(|| fs::read_to_string("/proc/thread-self/net/tcp6"))
                .unwrap();
            // State 0A: listening.
            let lines: Vec<String> = table
                .lines()
                .chain(table6.lines())
                .map(str::to_owned)
                .collect();
            lines.iter().find_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                let (local, state) = (words.next()?, words.nth(1)?);
                let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
                (state == "0A").then_some(port)
            })
        });
        guest::fetch(&world.outside, (HOST, port).into());
    });
}
