//! Servers outside: threads of the test, with sockets in the namespace asked for.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::netns::Namespace;

/// Serves each connection to `ip` on a thread of its own; returns where. They end with the test.
pub(crate) fn tcp(
    at: &Namespace,
    to: impl Into<SocketAddr>,
    serve: impl Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let to = to.into();
    let listener = at.enter(|| TcpListener::bind(to)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                let peer = stream.peer_addr()?;
                // A client that goes away early is the client's matter.
                serve(stream, peer)
            });
        }
    });
    address
}

/// Serves one page over HTTP: `hello PEER-ADDRESS`.
pub(crate) fn http(at: &Namespace, to: impl Into<SocketAddr>) -> SocketAddr {
    tcp(at, to, |mut stream, peer| {
        let mut lines = BufReader::new(&stream).lines();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let body = format!("hello {}\n", peer.ip());
        let length = body.len();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    })
}

/// Sends every datagram back, and counts those whose payload is `ping`.
pub(crate) fn udp_echo(
    at: &Namespace,
    to: impl Into<SocketAddr>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    udp(at, to, |data, _| data.to_vec())
}

/// Answers every datagram with the address that it came from.
pub(crate) fn udp_whoami(at: &Namespace, to: impl Into<SocketAddr>) -> SocketAddr {
    udp(at, to, |_, peer| peer.to_string().into_bytes()).0
}

/// Answers each datagram; returns where, and how many came.
pub(crate) fn udp(
    at: &Namespace,
    to: impl Into<SocketAddr>,
    answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let to = to.into();
    let socket = at.enter(|| UdpSocket::bind(to)).unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        let mut buf = vec![0; 65536];
        loop {
            // An ICMP error about an earlier answer is reported here and means nothing.
            let Ok((len, peer)) = socket.recv_from(&mut buf) else {
                continue;
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let reply = answer(buf.get(..len).unwrap_or_default(), peer);
            if socket.send_to(&reply, peer).is_err() {
                continue;
            }
        }
    });
    (address, count)
}

/// The wildcard address of the same family.
pub(crate) fn any_like(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0_u16; 8]),
    }
}
