//! A host that takes everything, remembers what must be bounded, and fails when the fuzzer says so.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::HashSet;
use std::io::IoSlice;

use switch_core::addr::{Mac, PortId, SockId};
use switch_core::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, EchoHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use switch_core::respond::{Gateway, Guest};
use switch_core::wire::checksum::{check_offload, fold, l4_valid, sum};
use switch_core::wire::packet::{Ip, Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet};
use switch_core::wire::vnet_hdr::VnetHdr;

/// The MAC of the one sandbox.
pub(super) const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// The gateway's.
pub(super) const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A gateway of 10.0.0.1/24 and fd00::1/64 with one sandbox, .2 and ::2.
pub(super) fn gateway() -> Gateway {
    Gateway {
        mac: GATEWAY,
        v4: Some((Ipv4Addr::new(10, 0, 0, 1), 24)),
        v6: Some((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 64)),
        mtu: 1500,
        uplink: true,
        v6_default_route: true,
        search: vec!["corp.test".into()],
        guests: vec![Guest {
            mac: GUEST,
            name: "box".into(),
            v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
        }]
        .into(),
        hosts: Vec::new(),
    }
}

/// Whether the checksum behind the IP header is right.
pub(super) fn checksum_valid(frame: &[u8], ip: &Ip) -> bool {
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    match ip.proto {
        // The only one without a pseudo-header.
        PROTO_ICMP => fold(sum(message)) == 0xffff,
        PROTO_TCP | PROTO_UDP | PROTO_ICMPV6 => l4_valid(ip.src, ip.dst, ip.proto, message),
        _ => true,
    }
}

/// The host.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Sockets that are open.
    pub(super) open: HashSet<u32>,
    next: u32,
    /// What comes next of what the fuzzer makes the host say.
    pub(super) says: Vec<u8>,
    /// Frames sent since this was last set to zero.
    pub(super) sent: usize,
    /// Bytes of them.
    pub(super) bytes: usize,
    /// To whom they were sent.
    pub(super) to: Vec<u32>,
}

impl World {
    /// A new socket, or the error that the fuzzer wants.
    fn socket(&mut self) -> Result<SockId, HostError> {
        self.fails()?;
        self.next += 1;
        self.open.insert(self.next);
        Ok(SockId(self.next))
    }

    fn close(&mut self, sock: SockId) {
        assert!(
            self.open.remove(&sock.0),
            "closed twice, or never opened: {sock:?}"
        );
    }

    fn used(&self, sock: SockId) {
        assert!(
            self.open.contains(&sock.0),
            "used after it was closed: {sock:?}"
        );
    }

    fn fails(&mut self) -> Result<(), HostError> {
        match self.says.pop() {
            Some(0xf0) => Err(HostError::Refused),
            Some(0xf1) => Err(HostError::Reset),
            Some(0xf2) => Err(HostError::HostUnreachable),
            Some(0xf3) => Err(HostError::NetUnreachable),
            Some(0xf4) => Err(HostError::Exhausted),
            Some(0xf5) => Err(HostError::WouldBlock),
            Some(0xf6) => Err(HostError::TooBig),
            Some(0xf7) => Err(HostError::Forbidden),
            Some(0xf8) => Err(HostError::TimedOut),
            _ => Ok(()),
        }
    }
}

impl Tx for World {
    /// What leaves towards a sandbox is always a frame that its kernel takes.
    fn tx(&mut self, to: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        let frame: Vec<u8> = frame
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect();
        self.sent += 1;
        self.to.push(to.0);
        self.bytes += frame.len();
        let packet =
            Packet::parse(&frame).unwrap_or_else(|why| panic!("sent {why:?}: {frame:02x?}"));
        if packet.src != GATEWAY {
            // Forwarded from another sandbox as it was.
            return true;
        }
        let offload = check_offload(frame.len(), &packet, vnet);
        assert!(offload.is_ok(), "sent {offload:?} {vnet:?}: {frame:02x?}");
        if let Kind::Ip(ip) = packet.kind
            && ip.frag.is_none()
            && !vnet.needs_csum()
        {
            assert!(
                checksum_valid(&frame, &ip),
                "sent a bad checksum: {frame:02x?}"
            );
        }
        self.says.pop() != Some(0xff)
    }
}

impl TcpHost for World {
    fn tcp_connect(
        &mut self,
        _: u32,
        _: SocketAddr,
        _: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        self.socket().map(|sock| (sock, false))
    }

    fn tcp_assign(&mut self, sock: SockId, _: u32) {
        self.used(sock);
    }

    fn tcp_send(&mut self, sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        self.used(sock);
        self.fails()?;
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        // Sometimes only a part.
        let part = self.says.pop().unwrap_or(0);
        Ok(if part & 0x80 == 0 {
            len
        } else {
            len.min(usize::from(part & 0x7f))
        })
    }

    fn tcp_peek(&mut self, sock: SockId, _: usize, buf: &mut [u8]) -> Result<Peeked, HostError> {
        self.used(sock);
        self.fails()?;
        Ok(match self.says.pop().unwrap_or(0) {
            0 => Peeked::Empty,
            1 => Peeked::Eof,
            some => Peeked::Data(buf.len().min(usize::from(some) * 64)),
        })
    }

    fn tcp_discard(&mut self, sock: SockId, _: usize) -> Result<(), HostError> {
        self.used(sock);
        self.fails()
    }

    fn tcp_shutdown(&mut self, sock: SockId) {
        self.used(sock);
    }

    fn tcp_close(&mut self, sock: SockId, _: bool) {
        self.close(sock);
    }
}

impl UdpHost for World {
    fn udp_open(&mut self, _: u32, local: SocketAddr) -> Result<(SockId, u16), HostError> {
        let port = if local.port() == 0 {
            40_000
        } else {
            local.port()
        };
        Ok((self.socket()?, port))
    }

    fn udp_send(
        &mut self,
        sock: SockId,
        _: SocketAddr,
        _: DatagramMeta,
        _: &[IoSlice<'_>],
        _: u16,
    ) -> Result<(), HostError> {
        self.used(sock);
        self.fails()
    }

    fn udp_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

impl EchoHost for World {
    fn echo_open(&mut self, _: u32, _: bool) -> Result<SockId, HostError> {
        self.socket()
    }

    fn echo_send(
        &mut self,
        sock: SockId,
        _: IpAddr,
        _: DatagramMeta,
        _: u16,
        _: &[u8],
    ) -> Result<(), HostError> {
        self.used(sock);
        self.fails()
    }

    fn echo_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

impl DnsHost for World {
    fn resolvers(&self) -> usize {
        2
    }

    fn resolver(&self, index: usize) -> Option<SocketAddr> {
        (index < 2).then(|| (Ipv4Addr::new(192, 0, 2, 53), 53).into())
    }

    fn dns_send(&mut self, _: u32, _: usize, message: &[u8]) -> Result<SockId, HostError> {
        assert!(message.len() <= 65_535);
        self.socket()
    }

    fn dns_send_tcp(&mut self, _: u32, _: usize, message: &[u8]) -> Result<SockId, HostError> {
        assert!(message.len() <= 65_535);
        self.socket()
    }

    fn dns_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}
