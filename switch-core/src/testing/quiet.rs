//! A host that takes and gives without end and keeps nothing, and a connection's other end made of single frames: for
//! counting what the switch itself costs, in time and in allocations.

use core::net::{IpAddr, SocketAddr};
use std::io::IoSlice;

use super::packets::{Link, Segment};
use super::setup::{GATEWAY, Setup};
use crate::addr::{Mac, PortId, SockId};
use crate::flow::event::HostEvent;
use crate::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, EchoHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use crate::pipeline::Switch;
use crate::time::Tick;
use crate::wire::packet::{Kind, Packet};
use crate::wire::tcp::{ACK, PSH, SYN};
use crate::wire::vnet_hdr::VnetHdr;

/// Room for the largest frame.
const LARGEST: usize = 1 << 17;
/// What an Ethernet header has.
const ETHER: usize = 14;

/// The host. It allocates when it is made and never again.
#[derive(Debug)]
pub struct QuietHost {
    /// Frames that went to endpoints.
    pub frames: u64,
    /// The last of them.
    pub last: Vec<u8>,
    /// Bytes that went into connections.
    pub taken: u64,
    /// How many of them at most it takes at once.
    pub most: usize,
    /// Bytes that wait in every connection.
    pub waiting: usize,
    /// Datagrams that were sent, runs as what they are made of.
    pub datagrams: u64,
    /// The flow that connected last.
    pub flow: u32,
    sockets: u32,
}

impl Default for QuietHost {
    fn default() -> Self {
        Self {
            frames: 0,
            last: Vec::with_capacity(LARGEST),
            taken: 0,
            most: usize::MAX,
            waiting: 0,
            datagrams: 0,
            flow: 0,
            sockets: 0,
        }
    }
}

impl QuietHost {
    fn open(&mut self) -> SockId {
        self.sockets += 1;
        SockId(self.sockets)
    }
}

impl Tx for QuietHost {
    fn tx(&mut self, _port: PortId, _vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        self.frames += 1;
        self.last.clear();
        for piece in frame {
            self.last.extend_from_slice(piece);
        }
        true
    }
}

impl TcpHost for QuietHost {
    fn tcp_connect(
        &mut self,
        flow: u32,
        _to: SocketAddr,
        _options: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        self.flow = flow;
        Ok((self.open(), true))
    }

    fn tcp_assign(&mut self, _sock: SockId, _flow: u32) {}

    fn tcp_send(&mut self, _sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        let len = data.iter().map(|piece| piece.len()).sum::<usize>();
        let taken = len.min(self.most);
        self.taken += taken as u64;
        Ok(taken)
    }

    fn tcp_peek(
        &mut self,
        _sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        match self.waiting.saturating_sub(offset).min(buf.len()) {
            0 => Ok(Peeked::Empty),
            len => {
                buf[..len].fill(0x5a);
                Ok(Peeked::Data(len))
            }
        }
    }

    fn tcp_discard(&mut self, _sock: SockId, len: usize) -> Result<(), HostError> {
        self.waiting -= len;
        Ok(())
    }

    fn tcp_shutdown(&mut self, _sock: SockId) {}

    fn tcp_close(&mut self, _sock: SockId, _reset: bool) {}
}

impl UdpHost for QuietHost {
    fn udp_open(&mut self, _mapping: u32, local: SocketAddr) -> Result<(SockId, u16), HostError> {
        Ok((self.open(), local.port().max(1)))
    }

    fn udp_send(
        &mut self,
        _sock: SockId,
        _to: SocketAddr,
        _meta: DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> Result<(), HostError> {
        let len = payload.iter().map(|piece| piece.len()).sum::<usize>();
        self.datagrams += match segment {
            0 => 1,
            size => len.div_ceil(usize::from(size)) as u64,
        };
        Ok(())
    }

    fn udp_close(&mut self, _sock: SockId) {}
}

impl EchoHost for QuietHost {
    fn echo_open(&mut self, _mapping: u32, _v6: bool) -> Result<SockId, HostError> {
        Ok(self.open())
    }

    fn echo_send(
        &mut self,
        _sock: SockId,
        _to: IpAddr,
        _meta: DatagramMeta,
        _seq: u16,
        _payload: &[u8],
    ) -> Result<(), HostError> {
        Ok(())
    }

    fn echo_close(&mut self, _sock: SockId) {}
}

impl DnsHost for QuietHost {
    fn resolvers(&self) -> usize {
        0
    }

    fn resolver(&self, _index: usize) -> Option<SocketAddr> {
        None
    }

    fn dns_send(
        &mut self,
        _query: u32,
        _resolver: usize,
        _message: &[u8],
    ) -> Result<SockId, HostError> {
        Err(HostError::Other)
    }

    fn dns_send_tcp(
        &mut self,
        _query: u32,
        _resolver: usize,
        _message: &[u8],
    ) -> Result<SockId, HostError> {
        Err(HostError::Other)
    }

    fn dns_close(&mut self, _sock: SockId) {}
}

/// The sandbox's end of one connection to a server of the outside: frames that are built once and get new numbers.
#[derive(Debug)]
pub struct Talker {
    frame: Vec<u8>,
    vnet: VnetHdr,
    ack: Vec<u8>,
    ack_vnet: VnetHdr,
    seq: u32,
    acked: u32,
    payload: u32,
    flow: u32,
}

impl Talker {
    /// Opens a connection from guest 0 through the switch. Shape: each frame up carries `payload` bytes, in segments of 1,448.
    pub fn open(switch: &mut Switch, host: &mut QuietHost, now: Tick, payload: usize) -> Self {
        let guest = Setup::addresses(0);
        let (src, dst) = (
            SocketAddr::from((guest.v4, 40_000)),
            SocketAddr::from(([192, 0, 2, 1], 80)),
        );
        let link = Link {
            src: guest.mac,
            dst: GATEWAY,
        };
        let part = |flags, payload| Segment {
            flags,
            window: u16::MAX,
            payload,
            ..Segment::default()
        };
        let (seq, bytes) = (1_000, vec![0xa5; payload]);
        let syn = Segment {
            seq,
            ..part(SYN, &[])
        };
        let syn = link.tcp(src, dst, &syn);
        switch.handle_frame(host, now, PortId(0), &VnetHdr::default(), &syn);
        let (answer, _) = sequence(&host.last);
        let (vnet, frame) = link.tcp_run(src, dst, 1_448, &part(ACK | PSH, &bytes));
        let (ack_vnet, ack) = link.tcp_run(src, dst, 0, &part(ACK, &[]));
        let mut talker = Self {
            frame,
            vnet: if payload > 1_448 { vnet } else { plain(vnet) },
            ack,
            ack_vnet: plain(ack_vnet),
            seq: seq + 1,
            acked: answer.wrapping_add(1),
            payload: u32::try_from(payload).unwrap(),
            flow: host.flow,
        };
        talker.acknowledge(switch, host, now);
        talker
    }

    /// The connection's number in the switch.
    #[must_use]
    pub fn flow(&self) -> u32 {
        self.flow
    }

    /// Sends the next frame of data.
    pub fn send(&mut self, switch: &mut Switch, host: &mut QuietHost, now: Tick) {
        number(&mut self.frame, self.seq, self.acked);
        switch.handle_frame(host, now, PortId(0), &self.vnet, &self.frame);
        self.seq = self.seq.wrapping_add(self.payload);
    }

    /// Acknowledges all that has been taken in so far.
    fn acknowledge(&mut self, switch: &mut Switch, host: &mut QuietHost, now: Tick) {
        number(&mut self.ack, self.seq, self.acked);
        switch.handle_frame(host, now, PortId(0), &self.ack_vnet, &self.ack);
    }

    /// Lets the host have `waiting` bytes more for the sandbox, and acknowledges what comes of it until all is taken.
    pub fn receive(
        &mut self,
        switch: &mut Switch,
        host: &mut QuietHost,
        now: Tick,
        waiting: usize,
    ) {
        host.waiting += waiting;
        let readable = HostEvent::TcpReadable {
            flow: self.flow,
            ending: false,
        };
        switch.handle_event(host, now, readable);
        let end = self.acked.wrapping_add(u32::try_from(waiting).unwrap());
        while self.acked != end {
            let before = self.acked;
            switch.flush(host, now);
            switch.run_ready(host, now);
            let (seq, len) = sequence(&host.last);
            self.acked = seq.wrapping_add(len);
            assert!(self.acked != before, "nothing came: {:?}", switch.drops());
            self.acknowledge(switch, host, now);
        }
    }
}

/// A whole frame of the kind that is no run.
fn plain(vnet: VnetHdr) -> VnetHdr {
    VnetHdr {
        gso_type: 0,
        gso_size: 0,
        ..vnet
    }
}

/// Writes both numbers. The partial checksum covers neither. Shape: `frame` is TCP over IPv4 without options.
fn number(frame: &mut [u8], seq: u32, ack: u32) {
    let tcp = ETHER + 20;
    frame[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
    frame[tcp + 8..tcp + 12].copy_from_slice(&ack.to_be_bytes());
}

/// Where a segment starts, and how many bytes it carries.
fn sequence(frame: &[u8]) -> (u32, u32) {
    let Ok(Packet {
        kind: Kind::Ip(ip), ..
    }) = Packet::parse(frame)
    else {
        panic!("no answer: {frame:?}");
    };
    let segment = &frame[ip.l4..ip.end];
    let header = usize::from(segment[12] >> 4) * 4;
    let seq = u32::from_be_bytes(segment[4..8].try_into().unwrap());
    (seq, u32::try_from(segment.len() - header).unwrap())
}

/// Two guests' frames between each other, which the switch has learned.
#[must_use]
pub fn switched(from: u8, to: u8, payload: usize) -> Vec<u8> {
    let (src, dst) = (Setup::addresses(from), Setup::addresses(to));
    let link = Link {
        src: src.mac,
        dst: dst.mac,
    };
    link.udp(
        (src.v4, 5_000).into(),
        (dst.v4, 5_000).into(),
        &vec![1; payload],
    )
}

/// A datagram of guest 0 to the outside, complete, and one of the size of a run of `count`.
#[must_use]
pub fn datagrams(payload: usize, count: usize) -> (VnetHdr, Vec<u8>) {
    let guest = Setup::addresses(0);
    let (src, dst): (SocketAddr, SocketAddr) =
        ((guest.v4, 5_000).into(), ([192, 0, 2, 1], 53_000).into());
    let link = Link {
        src: guest.mac,
        dst: Mac(GATEWAY.0),
    };
    if count == 1 {
        return (VnetHdr::default(), link.udp(src, dst, &vec![2; payload]));
    }
    let size = u16::try_from(payload).unwrap();
    link.udp_run(src, dst, size, &vec![2; payload * count])
}
