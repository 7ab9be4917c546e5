use super::*;
use std::net::UdpSocket;
use std::os::fd::AsFd;

#[test]
fn a_run_is_cut_and_comes_back_whole() {
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    set_int(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    set_int(b.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).unwrap();
    let payload: Vec<u8> = (0..250u8).collect();
    send(
        a.as_fd(),
        b.local_addr().unwrap(),
        &DatagramMeta::default(),
        &[IoSlice::new(&payload)],
        100,
    )
    .unwrap();
    let mut batch = Batch::new();
    let mut got = Vec::new();
    while got.len() < payload.len() {
        match batch.recv(b.as_fd()) {
            Ok(n) => {
                for i in 0..n {
                    let d = batch.get(i).unwrap();
                    assert_eq!(d.from, a.local_addr().unwrap());
                    assert_eq!(d.local, Some(Ipv4Addr::LOCALHOST.into()));
                    assert!(d.segment == 100 || d.payload.len() <= 100);
                    got.extend_from_slice(d.payload);
                }
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(got, payload);
}

#[test]
fn a_refusal_is_told_with_its_datagram() {
    let gone = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    set_int(a.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1).unwrap();
    send(
        a.as_fd(),
        gone,
        &DatagramMeta::default(),
        &[IoSlice::new(b"hello")],
        0,
    )
    .unwrap();
    let report = recv_error(a.as_fd()).unwrap();
    assert_eq!((report.kind, report.code, report.to), (3, 3, Some(gone)));
    assert_eq!(report.payload, b"hello");
}
