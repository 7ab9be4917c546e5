//! A host with one TCP peer: it takes what comes, at its pace, and sends a stream of its own.

use core::net::{IpAddr, SocketAddr};
use std::io::IoSlice;

use switch_core::addr::{PortId, SockId};
use switch_core::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, EchoHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use switch_core::time::Tick;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::wire::Random;
use super::{Plan, pattern};

/// What its sockets report.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Connected(u32),
    Readable(u32, bool),
    Writable(u32),
}

#[derive(Debug)]
pub(crate) struct SimHost {
    random: Random,
    plan: Plan,
    /// Frames for the guest.
    pub(crate) frames: Vec<(VnetHdr, Vec<u8>)>,
    /// What the peer received.
    pub(crate) taken: Vec<u8>,
    /// The stream towards the peer has ended.
    pub(crate) shut: bool,
    /// The socket is closed.
    pub(crate) closed: bool,
    flow: Option<u32>,
    connected: bool,
    /// Bytes of our stream that have arrived at the socket, and that were discarded.
    arrived: usize,
    discarded: usize,
    end_told: bool,
    full: bool,
}

impl SimHost {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        Self {
            random: Random(seed ^ 0x51),
            plan,
            frames: Vec::new(),
            taken: Vec::new(),
            shut: false,
            closed: false,
            flow: None,
            connected: false,
            arrived: 0,
            discarded: 0,
            end_told: false,
            full: false,
        }
    }

    pub(crate) fn events(&mut self, _: Tick) -> Vec<Event> {
        let mut out = Vec::new();
        let Some(flow) = self.flow.filter(|_| !self.closed) else {
            return out;
        };
        if !self.connected {
            self.connected = true;
            out.push(Event::Connected(flow));
        }
        // The stream arrives in lots of any size, as far as the receive buffer has room.
        let room = (256 * 1024usize).saturating_sub(self.arrived - self.discarded);
        let lot = (self.random.next() % 70_000) as usize;
        let more = lot.min(room).min(self.plan.down - self.arrived);
        self.arrived += more;
        let end = self.arrived == self.plan.down;
        if more > 0 || (end && !self.end_told) {
            self.end_told |= end;
            out.push(Event::Readable(flow, end));
        }
        if self.full && self.random.chance(20) {
            self.full = false;
            out.push(Event::Writable(flow));
        }
        out
    }
}

impl Tx for SimHost {
    fn tx(&mut self, _: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        self.frames
            .push((*vnet, frame.iter().flat_map(|p| p.to_vec()).collect()));
        true
    }
}

impl TcpHost for SimHost {
    fn tcp_connect(
        &mut self,
        flow: u32,
        to: SocketAddr,
        _: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        assert_eq!(to, "192.0.2.1:80".parse().unwrap());
        self.flow = Some(flow);
        Ok((SockId(0), false))
    }

    fn tcp_assign(&mut self, _: SockId, _: u32) {}

    fn tcp_send(&mut self, _: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        assert!(!self.shut && !self.closed, "sent after the end");
        if self.full {
            return Err(HostError::WouldBlock);
        }
        let len: usize = data.iter().map(|p| p.len()).sum();
        let mut n = len;
        if self.plan.choke {
            n = n.min((self.random.next() % 3_000) as usize);
            self.full = n < len;
            if n == 0 {
                return Err(HostError::WouldBlock);
            }
        }
        self.taken
            .extend(data.iter().flat_map(|p| p.iter().copied()).take(n));
        Ok(n)
    }

    fn tcp_peek(&mut self, _: SockId, offset: usize, buf: &mut [u8]) -> Result<Peeked, HostError> {
        assert!(!self.closed);
        let from = self.discarded + offset;
        assert!(from <= self.arrived, "peeked beyond what has arrived");
        let n = buf.len().min(self.arrived - from);
        if n == 0 {
            return Ok(if self.arrived == self.plan.down {
                Peeked::Eof
            } else {
                Peeked::Empty
            });
        }
        buf[..n]
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| *b = pattern(from + i));
        Ok(Peeked::Data(n))
    }

    fn tcp_discard(&mut self, _: SockId, len: usize) -> Result<(), HostError> {
        self.discarded += len;
        assert!(
            self.discarded <= self.arrived,
            "discarded more than had arrived"
        );
        Ok(())
    }

    fn tcp_shutdown(&mut self, _: SockId) {
        self.shut = true;
    }

    fn tcp_close(&mut self, _: SockId, reset: bool) {
        assert!(!reset, "an orderly connection was reset");
        assert_eq!(
            self.discarded, self.arrived,
            "closed with bytes unread: the kernel would reset"
        );
        self.closed = true;
    }
}

impl UdpHost for SimHost {
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

impl EchoHost for SimHost {
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

impl DnsHost for SimHost {
    fn resolvers(&self) -> usize {
        0
    }
    fn resolver(&self, _: usize) -> Option<SocketAddr> {
        None
    }
    fn dns_send(&mut self, _: u32, _: usize, _: &[u8]) -> Result<SockId, HostError> {
        Err(HostError::Other)
    }
    fn dns_close(&mut self, _: SockId) {}
}
