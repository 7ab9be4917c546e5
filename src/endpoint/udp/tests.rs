//! What the kernel does with these sockets, on the loopback.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;

fn service(at: SocketAddr) -> UnderlaySocket {
    UnderlaySocket::service(at, PathMtu::Known).unwrap()
}

/// Waits for a message.
fn receive(inbox: &mut Inbox, socket: &UnderlaySocket) -> usize {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match inbox.recv(socket, BATCH) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
            other => return other.unwrap(),
        }
    }
}

#[test]
fn a_run_arrives_in_one_piece_with_its_mark() {
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let far = service(SocketAddr::new(ip, 0));
        let mut near = UnderlaySocket::source(ip.is_ipv6(), PathMtu::Probed, 3).unwrap();
        assert!(near.segments() && near.local().unwrap().port() >= 49_152);
        let to = Name::from(far.local().unwrap());
        assert_eq!(to.is_v6(), ip.is_ipv6());
        let out = Outgoing {
            to: &to,
            tos: 2,
            segment: 1000,
            pieces: &[IoSlice::new(&[1; 2400]), IoSlice::new(&[2; 50])],
        };
        near.send(&out).unwrap();
        let mut inbox = Inbox::default();
        assert_eq!(receive(&mut inbox, &far), 1);
        let got = inbox.get(0).unwrap();
        assert_eq!((got.tos, got.segment, got.bytes.len()), (2, 1000, 2450));
        assert_eq!(got.from.port(), near.local().unwrap().port());
        assert!(inbox.get(1).is_none());
    }
}

#[test]
fn of_a_batch_each_goes_its_way() {
    let far = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let names = far.each_ref().map(|s| Name::from(s.local_addr().unwrap()));
    let mut near = UnderlaySocket::source(false, PathMtu::Known, 9).unwrap();
    let pieces = [[IoSlice::new(b"one")], [IoSlice::new(b"other")]];
    let out = [0, 1].map(|n| Outgoing {
        to: &names[n],
        tos: 0,
        segment: 0,
        pieces: &pieces[n],
    });
    assert_eq!(near.send_many(&out).unwrap(), 2);
    for (far, text) in far.iter().zip([&b"one"[..], b"other"]) {
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buf = [0; 9];
        let len = far.recv(&mut buf).unwrap();
        assert_eq!(&buf[..len], text);
    }
}

#[test]
fn a_session_comes_to_the_worker_that_its_index_names() {
    let first = service(([127, 0, 0, 1], 0).into());
    let at = first.local().unwrap();
    let sockets = [first, service(at), service(at)];
    sockets[2].steer(3).unwrap();
    let mut inbox = Inbox::default();
    for n in 0..24_u32 {
        // From a port of its own each: the kernel's hash would spread them.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let index = n.wrapping_mul(0x1234_5677);
        let datagram = [&[4, 0, 0, 0][..], &index.to_le_bytes(), &[0; 24]].concat();
        stranger.send_to(&datagram, at).unwrap();
        assert_eq!(
            receive(&mut inbox, &sockets[index as usize % 3]),
            1,
            "{index}"
        );
    }
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[1, 2], at).unwrap();
    assert_eq!(receive(&mut inbox, &sockets[0]), 1, "what is too short");
}

#[test]
fn the_path_is_at_most_what_the_link_takes() {
    let link = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
    let link: usize = link.trim().parse().unwrap();
    assert_eq!(
        path_mtu(([127, 0, 0, 1], 9).into()).unwrap(),
        link.min(65_535)
    );
    let v6 = path_mtu(([0, 0, 0, 0, 0, 0, 0, 1], 9).into());
    assert!(v6.is_ok_and(|mtu| (65_535..=65_536).contains(&mtu) || mtu == link));
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    for (any, asked) in [("0.0.0.0", "127.0.0.7"), ("::", "::1")] {
        let (any, asked): (IpAddr, IpAddr) = (any.parse().unwrap(), asked.parse().unwrap());
        let mut near = service(SocketAddr::new(any, 0));
        let at = SocketAddr::new(asked, near.local().unwrap().port());
        let far = UdpSocket::bind(SocketAddr::new(source_to(at).unwrap(), 0)).unwrap();
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        far.send_to(b"who", at).unwrap();
        let mut inbox = Inbox::default();
        assert_eq!(receive(&mut inbox, &near), 1);
        let got = inbox.get(0).unwrap();
        assert_eq!(got.to, Some(asked));
        let absent: [IpAddr; 2] = ["192.0.2.99", "2001:db8::99"].map(|a| a.parse().unwrap());
        let mut buf = [0; 9];
        for source in [got.to, Some(absent[usize::from(any.is_ipv6())]), None] {
            let to = Name::from(got.from).leaving(source);
            near.send_one(&to, b"one").unwrap();
            let piece = [IoSlice::new(b"batch")];
            let out = Outgoing {
                to: &to,
                tos: 1,
                segment: 3,
                pieces: &piece,
            };
            assert_eq!(near.send_many(&[out]).unwrap(), 1);
            for text in [&b"one"[..], b"bat", b"ch"] {
                let (len, from) = far.recv_from(&mut buf).unwrap();
                assert_eq!(&buf[..len], text);
                if source == got.to {
                    assert_eq!(from, at);
                }
            }
        }
    }
}
