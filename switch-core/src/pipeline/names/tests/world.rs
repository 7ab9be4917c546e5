//! A sandbox without a stack of its own, and a host that keeps the queries that it is to send.

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use super::super::*;
use crate::flow::event::HostEvent;
use crate::flow::host::{DatagramMeta, DnsHost, EchoHost, UdpHost};
use crate::l2::table::MacTable;
use crate::testing::net::{GATEWAY, GATEWAY_V4, GATEWAY_V6, Setup};
use crate::testing::packets::{Link, Segment};
use crate::wire::packet::{Kind, Packet};
use crate::wire::tcp::FIN;

/// A host with one resolver. Everything else about it fails.
#[derive(Debug, Default)]
pub(super) struct Plain {
    pub(super) frames: Vec<Vec<u8>>,
    /// Queries, and whether they went over TCP.
    pub(super) asked: Vec<(u32, bool, Vec<u8>)>,
    pub(super) closed: usize,
}

impl Tx for Plain {
    fn tx(&mut self, _: PortId, _: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        self.frames
            .push(frame.iter().flat_map(|p| p.to_vec()).collect());
        true
    }
}

impl TcpHost for Plain {
    fn tcp_connect(
        &mut self,
        _: u32,
        to: SocketAddr,
        _: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        panic!("a connection to {to}");
    }
    fn tcp_assign(&mut self, _: SockId, _: u32) {}
    fn tcp_send(&mut self, _: SockId, _: &[IoSlice<'_>]) -> Result<usize, HostError> {
        Err(HostError::Reset)
    }
    fn tcp_peek(&mut self, _: SockId, _: usize, _: &mut [u8]) -> Result<Peeked, HostError> {
        Err(HostError::Reset)
    }
    fn tcp_discard(&mut self, _: SockId, _: usize) -> Result<(), HostError> {
        Err(HostError::Reset)
    }
    fn tcp_shutdown(&mut self, _: SockId) {}
    fn tcp_close(&mut self, _: SockId, _: bool) {}
}

impl UdpHost for Plain {
    fn udp_open(&mut self, _: u32, _: SocketAddr) -> Result<(SockId, u16), HostError> {
        Err(HostError::Other)
    }
    fn udp_send(
        &mut self,
        _: SockId,
        _: SocketAddr,
        _: DatagramMeta,
        _: &[IoSlice<'_>],
        _: u16,
    ) -> Result<(), HostError> {
        Err(HostError::Other)
    }
    fn udp_close(&mut self, _: SockId) {}
}

impl EchoHost for Plain {
    fn echo_open(&mut self, _: u32, _: bool) -> Result<SockId, HostError> {
        Err(HostError::Other)
    }
    fn echo_send(
        &mut self,
        _: SockId,
        _: IpAddr,
        _: DatagramMeta,
        _: u16,
        _: &[u8],
    ) -> Result<(), HostError> {
        Err(HostError::Other)
    }
    fn echo_close(&mut self, _: SockId) {}
}

impl DnsHost for Plain {
    fn resolvers(&self) -> usize {
        1
    }
    fn resolver(&self, _: usize) -> Option<SocketAddr> {
        Some(([192, 0, 2, 53], 53).into())
    }
    fn dns_send(&mut self, query: u32, _: usize, message: &[u8]) -> Result<SockId, HostError> {
        self.asked.push((query, false, message.to_vec()));
        Ok(SockId(query))
    }
    fn dns_send_tcp(&mut self, query: u32, _: usize, message: &[u8]) -> Result<SockId, HostError> {
        self.asked.push((query, true, message.to_vec()));
        Ok(SockId(query))
    }
    fn dns_close(&mut self, _: SockId) {
        self.closed += 1;
    }
}

fn len(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap()
}

pub(super) struct World {
    pub(super) switch: Switch,
    pub(super) host: Plain,
    pub(super) now: Tick,
}

/// One end of a connection in the sandbox, which answers nothing by itself.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) me: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) seq: u32,
    /// What it expects next, and so acknowledges.
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) got: Vec<u8>,
    pub(super) ended: bool,
    pub(super) reset: bool,
}

impl Peer {
    pub(super) fn new(port: u16, v6: bool) -> Self {
        let own = Setup::addresses(0);
        let (me, server): (IpAddr, IpAddr) = if v6 {
            (own.v6.into(), GATEWAY_V6.into())
        } else {
            (own.v4.into(), GATEWAY_V4.into())
        };
        Self {
            me: (me, port).into(),
            server: (server, 53).into(),
            seq: 1_000,
            ack: 0,
            window: 60_000,
            got: Vec::new(),
            ended: false,
            reset: false,
        }
    }

    pub(super) fn take(&mut self, frame: &[u8]) {
        let Ok(packet) = Packet::parse(frame) else {
            panic!("no packet: {frame:02x?}");
        };
        let Kind::Ip(ip) = packet.kind else {
            return;
        };
        let segment = &frame[ip.l4..ip.end];
        let hdr = TcpHeader::parse(segment).unwrap();
        if (ip.dst, hdr.dst_port) != (self.me.ip(), self.me.port()) {
            return;
        }
        if hdr.flags & RST != 0 {
            self.reset = true;
        } else if hdr.flags & SYN != 0 {
            self.ack = hdr.seq.wrapping_add(1);
        } else if hdr.seq == self.ack {
            let payload = &segment[hdr.len..];
            self.got.extend_from_slice(payload);
            let fin = u32::from(hdr.flags & FIN != 0);
            self.ended |= fin == 1;
            self.ack = self.ack.wrapping_add(len(payload) + fin);
        }
    }

    /// The messages that have come, each behind its length.
    pub(super) fn messages(&self) -> Vec<&[u8]> {
        let mut rest = &self.got[..];
        let mut out = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (message, tail) = tail.split_at(usize::from(u16::from_be_bytes(*len)));
            out.push(message);
            rest = tail;
        }
        out
    }
}

impl World {
    pub(super) fn new() -> Self {
        let config = Setup::default().config();
        Self {
            switch: Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(16))),
            host: Plain::default(),
            now: Tick::from_millis(1),
        }
    }

    pub(super) fn send(&mut self, peer: &mut Peer, flags: u8, payload: &[u8]) -> Verdict {
        let link = Link {
            src: Setup::addresses(0).mac,
            dst: GATEWAY,
        };
        let segment = Segment {
            options: &[],
            seq: peer.seq,
            ack: peer.ack,
            flags,
            window: peer.window,
            payload,
        };
        let frame = link.tcp(peer.me, peer.server, &segment);
        let (switch, host) = (&mut self.switch, &mut self.host);
        let verdict = switch.handle_frame(host, self.now, PortId(0), &VnetHdr::default(), &frame);
        let counted = u32::from(flags & (SYN | FIN) != 0);
        peer.seq = peer.seq.wrapping_add(len(payload) + counted);
        self.settle(peer);
        verdict
    }

    /// Ends a batch, and brings the peer what is for it.
    pub(super) fn settle(&mut self, peer: &mut Peer) {
        self.switch.flush(&mut self.host, self.now);
        while self.switch.run_ready(&mut self.host, self.now) {}
        for frame in self.host.frames.drain(..) {
            peer.take(&frame);
        }
    }

    pub(super) fn connect(&mut self, port: u16, v6: bool) -> Peer {
        let mut peer = Peer::new(port, v6);
        assert_eq!(self.send(&mut peer, SYN, &[]), Verdict::Answer);
        assert_ne!(peer.ack, 0, "the handshake is answered");
        self.send(&mut peer, ACK, &[]);
        peer
    }

    /// A resolver's answer to query number `n` of those that were sent.
    pub(super) fn told(&mut self, peer: &mut Peer, n: usize) {
        let (query, _, mut message) = self.host.asked[n].clone();
        message[2] |= 0x80;
        let message = &message;
        let event = HostEvent::DnsAnswer { query, message };
        self.switch.handle_event(&mut self.host, self.now, event);
        self.settle(peer);
    }

    pub(super) fn wait(&mut self, peer: &mut Peer, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.switch.poll_timeout().filter(|&t| t <= end) {
            self.now = next.max(self.now + Duration::from_millis(1));
            self.switch.handle_timeout(&mut self.host, self.now);
            self.settle(peer);
        }
        self.now = end;
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.switch.names.parts.as_ref().unwrap().streams
    }
}
