use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

/// Turns until there is something but waiting.
fn turn(stream: &mut DnsStream) -> io::Result<(u32, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match stream.turn() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                let mut fds = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(&stream.socket),
                    nix::poll::PollFlags::POLLIN,
                )];
                let _ = nix::poll::poll(&mut fds, 20_u8);
            }
            other => return other,
        }
    }
}

/// A connection with these queries, numbered from nought, and what serves it.
fn asks(
    messages: &[&[u8]],
    serve: impl FnOnce(TcpStream) + Send + 'static,
) -> (DnsStream, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = DnsStream::connect(listener.local_addr().unwrap()).unwrap();
    for (n, message) in (0..).zip(messages) {
        stream.ask(n, SockId(n), message).unwrap();
    }
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    (stream, server)
}

/// The next message that the server gets, without its length.
fn message(peer: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    peer.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    peer.read_exact(&mut message).unwrap();
    message
}

#[test]
fn the_longest_messages_pass_and_several_are_told_apart() {
    let long = vec![7; 65_535];
    let (mut stream, server) = asks(&[&long, &[1, 2, 3]], |mut peer| {
        let got = message(&mut peer);
        assert_eq!(got, vec![7; 65_535]);
        assert_eq!(message(&mut peer), [1, 2, 3]);
        let long = [&[0xff, 0xff][..], &got].concat();
        // In two pieces that part a length.
        let all = [&long[..], &[0, 3, 1, 2, 9]].concat();
        peer.write_all(&all[..65_538]).unwrap();
        peer.write_all(&all[65_538..]).unwrap();
    });
    assert_eq!(turn(&mut stream).unwrap(), (0, long));
    assert_eq!(turn(&mut stream).unwrap(), (1, vec![1, 2, 9]));
    let end = turn(&mut stream).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    server.join().unwrap();
}

#[test]
fn answers_find_their_queries_in_any_order() {
    // The first and the last came to the same id.
    let (mut stream, server) = asks(&[&[4, 4, 0], &[5, 5, 1], &[4, 4, 2]], |mut peer| {
        let mut got: Vec<_> = (0..3).map(|_| message(&mut peer)).collect();
        assert_ne!(got[0][..2], got[2][..2]);
        got.reverse();
        for message in got {
            peer.write_all(&[&[0, 3][..], &message].concat()).unwrap();
        }
    });
    assert_eq!(turn(&mut stream).unwrap(), (2, vec![4, 4, 2]));
    assert_eq!(turn(&mut stream).unwrap(), (1, vec![5, 5, 1]));
    stream.forget(SockId(2));
    stream.forget(SockId(1));
    assert!(stream.is_open());
    // Who is no longer waited for is not answered, and its connection may be slow for others, too.
    stream.forget(SockId(0));
    assert!(!stream.is_open());
    let end = turn(&mut stream).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    server.join().unwrap();
}

#[test]
fn who_never_comes_to_the_point_is_left() {
    let (mut stream, server) = asks(&[&[0; 12]], |mut peer| {
        // Until the other side has had enough.
        while peer.write_all(&[0, 2, 7, 7]).is_ok() {}
    });
    let error = turn(&mut stream).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let (asks, proven) = stream.leftover();
    assert_eq!((asks.len(), proven), (1, false));
    server.join().unwrap();
}

#[test]
fn a_refusal_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let refused = DnsStream::connect(nobody).and_then(|mut s| turn(&mut s));
    assert_eq!(
        refused.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let (mut stream, server) = asks(&[], drop);
    let long = stream.ask(0, SockId(0), &[0; 65_536]).unwrap_err();
    assert_eq!(long.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(stream.len(), 0);
    server.join().unwrap();
}
