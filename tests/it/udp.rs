//! UDP out of the sandbox: one mapping for each of its ports, whoever it talks to (RFC 4787).

use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::sockopt::{IpRecvTos, Ipv4Tos, Ipv6RecvTClass, Ipv6TClass};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt as _, SockaddrStorage, recvmsg};

use crate::support::netns::{self, BOTH, HOST, OUTSIDE, OUTSIDE_TWO};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn datagrams_come_back() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let (echo, _) = servers::udp_echo(&world.outside, (ip, 0));
            let socket = guest::udp(&sandbox.net, ip, SECOND);
            for len in [0, 1, 64, 1400, 1472] {
                let data = vec![b'x'; len];
                assert_eq!(guest::ask(&socket, echo, &data), data, "{len} bytes, {ip}");
            }
        }
    });
}

#[test]
fn datagrams_larger_than_the_link_come_back() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let (echo, _) = servers::udp_echo(&world.outside, (ip, 0));
            let socket = guest::udp(&sandbox.net, ip, SECOND);
            for len in [1473, 5000, 20_000, 65_000] {
                let data: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
                assert!(
                    guest::ask(&socket, echo, &data) == data,
                    "{len} bytes, {ip}"
                );
            }
        }
    });
}

#[test]
fn the_mapping_does_not_depend_on_the_remote() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let servers =
            [OUTSIDE, OUTSIDE, OUTSIDE_TWO].map(|ip| servers::udp_whoami(&world.outside, (ip, 0)));
        let socket = guest::udp(&sandbox.net, OUTSIDE.into(), SECOND);
        let seen: Vec<SocketAddr> = servers
            .iter()
            .map(|&server| {
                String::from_utf8(guest::ask(&socket, server, b"?"))
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert_eq!(seen.first().map(SocketAddr::ip), Some(HOST.into()));
        assert!(
            seen.iter().all(|address| Some(address) == seen.first()),
            "{seen:?}"
        );
    });
}

#[test]
fn a_free_port_is_kept() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let who = servers::udp_whoami(&world.outside, (OUTSIDE, 0));
        // Outside of ip_local_port_range.
        let socket = sandbox
            .net
            .enter(|| UdpSocket::bind(("0.0.0.0", 5005)))
            .unwrap();
        assert_eq!(
            guest::ask(&socket, who, b"?"),
            format!("{HOST}:5005").into_bytes()
        );
        // One that the host uses itself is not to be had; another is found.
        let _taken = world
            .host
            .enter(|| UdpSocket::bind(("0.0.0.0", 5006)))
            .unwrap();
        let socket = sandbox
            .net
            .enter(|| UdpSocket::bind(("0.0.0.0", 5006)))
            .unwrap();
        let seen: SocketAddr = String::from_utf8(guest::ask(&socket, who, b"?"))
            .unwrap()
            .parse()
            .unwrap();
        assert_ne!(seen.port(), 5006);
    });
}

#[test]
fn strangers_are_filtered_by_address() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let who = servers::udp_whoami(&world.outside, (OUTSIDE, 0));
        let socket = guest::udp(&sandbox.net, OUTSIDE.into(), SECOND);
        let mapped: SocketAddr = String::from_utf8(guest::ask_once(&socket, who, b"?"))
            .unwrap()
            .parse()
            .unwrap();
        // Another port of the address asked is admitted, another address is not: RFC 4787's
        // address-dependent filtering.
        let stranger = UdpSocket::bind((OUTSIDE_TWO, 0)).unwrap();
        let same_host = UdpSocket::bind((OUTSIDE, 0)).unwrap();
        let mut buf = [0; 64];
        let (len, from) = wait::value("the friend's datagram", SOON, || {
            stranger.send_to(b"stranger", mapped).unwrap();
            same_host.send_to(b"friend", mapped).unwrap();
            socket.recv_from(&mut buf).ok()
        });
        assert_eq!(
            (buf.get(..len), from.ip()),
            (Some(&b"friend"[..]), IpAddr::from(OUTSIDE))
        );
        socket.set_read_timeout(Some(SECOND)).unwrap();
        while let Ok((len, _)) = socket.recv_from(&mut buf) {
            assert_eq!(buf.get(..len), Some(&b"friend"[..]));
        }
    });
}

#[test]
fn the_filter_may_be_chosen() {
    netns::inside(|world| {
        for (filter, other_port, other_address) in [
            ("endpoint-independent", true, true),
            ("address-dependent", true, false),
            ("address-and-port-dependent", false, false),
        ] {
            let who = servers::udp_whoami(&world.outside, (OUTSIDE, 0));
            let sandbox = world.sandbox(&["--udp-filter", filter]);
            let socket = guest::udp(&sandbox.net, OUTSIDE.into(), SECOND);
            let mapped: SocketAddr = String::from_utf8(guest::ask_once(&socket, who, b"?"))
                .unwrap()
                .parse()
                .unwrap();
            for (ip, admitted) in [(OUTSIDE, other_port), (OUTSIDE_TWO, other_address)] {
                let sender = UdpSocket::bind((ip, 0)).unwrap();
                sender.send_to(b"new", mapped).unwrap();
                let patience = if admitted { SOON } else { SECOND };
                socket.set_read_timeout(Some(patience)).unwrap();
                let came = socket.recv_from(&mut [0; 8]).is_ok();
                assert_eq!(came, admitted, "{filter}, from {ip}");
            }
            sandbox.weft.stop();
        }
    });
}

#[test]
fn a_closed_port_is_reported() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let socket = guest::udp(&sandbox.net, ip, Duration::from_millis(200));
            socket.connect((ip, 9)).unwrap();
            let error = wait::value("an error for the closed port", SOON, || {
                // The error of an earlier datagram may be reported by either call.
                socket.send(b"?").err().or_else(|| {
                    socket
                        .recv(&mut [0; 8])
                        .err()
                        .filter(|error| error.kind() != ErrorKind::WouldBlock)
                })
            });
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
        }
    });
}

#[test]
fn one_peers_error_is_not_anothers() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let (echo, _) = servers::udp_echo(&world.outside, (OUTSIDE, 0));
        let socket = guest::udp(&sandbox.net, OUTSIDE.into(), SOON);
        let mut buf = [0; 8];
        for round in 0..50_u8 {
            // The first is refused by ICMP; the second must arrive all the same, at the first try.
            socket.send_to(b"?", (OUTSIDE, 9)).unwrap();
            socket.send_to(&[round], echo).unwrap();
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!((buf.get(..len), from), (Some(&[round][..]), echo));
        }
    });
}

#[test]
fn broadcast_and_multicast_do_not_leak() {
    netns::inside(|world| {
        let (listener, heard) = servers::udp_echo(&world.outside, ([0, 0, 0, 0], 0));
        let port = listener.port();
        let sandbox = world.sandbox(&[]);
        let socket = guest::udp(&sandbox.net, OUTSIDE.into(), Duration::from_millis(200));
        socket.set_broadcast(true).unwrap();
        for ip in ["255.255.255.255", "192.0.2.255", "224.0.0.251", "239.1.2.3"] {
            let ip: IpAddr = ip.parse().unwrap();
            // Refused here or dropped there: both are fine.
            let _refused = socket.send_to(b"leak", (ip, port));
        }
        // What was sent later came, so the others would have come before.
        guest::ask_once(&socket, (OUTSIDE, port).into(), b"here");
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    });
}

/// Marks what a socket sends, and has it told of the marks of what it receives.
fn mark(socket: &UdpSocket, tos: u8) {
    if socket.local_addr().unwrap().is_ipv4() {
        Ipv4Tos.set(socket, &i32::from(tos)).unwrap();
        IpRecvTos.set(socket, &true).unwrap();
    } else {
        Ipv6TClass.set(socket, &i32::from(tos)).unwrap();
        Ipv6RecvTClass.set(socket, &true).unwrap();
    }
}

/// Receives a datagram. Its sender, and how it is marked.
fn marked(socket: &UdpSocket) -> (SocketAddr, i32) {
    let (mut buf, mut control) = ([0; 64], nix::cmsg_space!([i32; 4]));
    let mut pieces = [IoSliceMut::new(&mut buf)];
    let fd = socket.as_raw_fd();
    let got = recvmsg::<SockaddrStorage>(fd, &mut pieces, Some(&mut control), MsgFlags::empty());
    let got = got.unwrap();
    let from = got.address.unwrap();
    let from = from
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()))
        .or_else(|| {
            from.as_sockaddr_in6()
                .map(|v6| SocketAddr::V6((*v6).into()))
        });
    let mut tos = None;
    for message in got.cmsgs().unwrap() {
        if let ControlMessageOwned::Ipv4Tos(value) = message {
            tos = Some(value.into());
        } else if let ControlMessageOwned::Ipv6TClass(value) = message {
            tos = Some(value);
        }
    }
    (from.unwrap(), tos.unwrap())
}

#[test]
fn marks_are_kept_both_ways() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let server = UdpSocket::bind((ip, 0)).unwrap();
            server.set_read_timeout(Some(SOON)).unwrap();
            mark(&server, 0x28);
            let socket = guest::udp(&sandbox.net, ip, SOON);
            mark(&socket, 0xb8);
            socket
                .send_to(b"there", server.local_addr().unwrap())
                .unwrap();
            let (from, tos) = marked(&server);
            assert_eq!(tos, 0xb8, "{ip}");
            server.send_to(b"back", from).unwrap();
            assert_eq!(marked(&socket).1, 0x28, "{ip}");
        }
    });
}
