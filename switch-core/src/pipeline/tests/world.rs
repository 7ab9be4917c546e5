//! A host that keeps what it is given.

use core::net::{IpAddr, SocketAddr};
use std::io::IoSlice;

use crate::addr::{PortId, SockId};
use crate::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, EchoHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use crate::verdict::DropReason;
use crate::wire::vnet_hdr::VnetHdr;

/// What was sent: frames to endpoints, datagrams to the world.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct World {
    pub(in crate::pipeline) frames: Vec<(PortId, VnetHdr, Vec<u8>)>,
    pub(in crate::pipeline) datagrams: Vec<(SocketAddr, DatagramMeta, Vec<u8>)>,
    /// Endpoints take nothing.
    pub(in crate::pipeline) refuses: bool,
    /// What endpoints were told of that never reached them.
    pub(in crate::pipeline) lost: Vec<(PortId, DropReason, usize)>,
}

impl Tx for World {
    fn tx(&mut self, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        let whole = frame.iter().flat_map(|p| p.to_vec()).collect();
        self.frames.push((port, *vnet, whole));
        !self.refuses
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, count: usize) {
        self.lost.push((port, reason, count));
    }
}

impl TcpHost for World {
    fn tcp_connect(
        &mut self,
        _: u32,
        _: SocketAddr,
        _: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        Err(HostError::Refused)
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

impl UdpHost for World {
    fn udp_open(&mut self, _: u32, local: SocketAddr) -> Result<(SockId, u16), HostError> {
        Ok((SockId(0), local.port()))
    }
    fn udp_send(
        &mut self,
        _: SockId,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[IoSlice<'_>],
        _: u16,
    ) -> Result<(), HostError> {
        let whole = payload.iter().flat_map(|p| p.to_vec()).collect();
        self.datagrams.push((to, meta, whole));
        Ok(())
    }
    fn udp_close(&mut self, _: SockId) {}
}

impl EchoHost for World {
    fn echo_open(&mut self, _: u32, _: bool) -> Result<SockId, HostError> {
        Ok(SockId(1))
    }
    fn echo_send(
        &mut self,
        _: SockId,
        _: IpAddr,
        _: DatagramMeta,
        _: u16,
        _: &[u8],
    ) -> Result<(), HostError> {
        Ok(())
    }
    fn echo_close(&mut self, _: SockId) {}
}

impl DnsHost for World {
    fn resolvers(&self) -> usize {
        0
    }
    fn resolver(&self, _: usize) -> Option<SocketAddr> {
        None
    }
    fn dns_send(&mut self, _: u32, _: usize, _: &[u8]) -> Result<SockId, HostError> {
        Err(HostError::NetUnreachable)
    }
    fn dns_send_tcp(&mut self, _: u32, _: usize, _: &[u8]) -> Result<SockId, HostError> {
        Err(HostError::NetUnreachable)
    }
    fn dns_close(&mut self, _: SockId) {}
}
