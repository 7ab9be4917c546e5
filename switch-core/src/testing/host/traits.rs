//! The simulated host behind the traits by which the core asks the world.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::io::IoSlice;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

use super::{Event, Peer, Resolver, SimHost, Sock, TcpServer, UdpServer};
use crate::addr::{PortId, SockId};
use crate::flow::host::{
    ConnectOptions, DatagramMeta, DnsHost, EchoHost, HostError, Peeked, TcpHost, Tx, UdpHost,
};
use crate::testing::script::Script;
use crate::wire::vnet_hdr::VnetHdr;

fn joined(pieces: &[IoSlice<'_>]) -> Vec<u8> {
    pieces.iter().flat_map(|p| p.iter().copied()).collect()
}

impl SimHost {
    fn peer(&mut self, sock: SockId) -> &mut Peer {
        let Sock::Tcp(peer) = &mut self.socks[sock.0 as usize] else {
            panic!("{sock:?} is no connection");
        };
        assert!(peer.closed.is_none(), "{sock:?} is used after its end");
        peer
    }

    /// Closes a socket of another kind.
    fn close(&mut self, sock: SockId) {
        let slot = &mut self.socks[sock.0 as usize];
        assert!(!matches!(slot, Sock::Closed), "closed twice: {sock:?}");
        *slot = Sock::Closed;
    }
}

impl Tx for SimHost {
    fn tx(&mut self, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        if self.random.chance(self.endpoint_full) {
            return false;
        }
        self.frames.push((port, *vnet, joined(frame)));
        true
    }
}

impl TcpHost for SimHost {
    fn tcp_connect(
        &mut self,
        flow: u32,
        to: SocketAddr,
        options: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        self.take_descriptor()?;
        self.connects.push((to, options));
        let server = self.tcp_servers.get(&to).copied();
        let server = server.unwrap_or(TcpServer::Fails(HostError::Refused));
        let script = match server {
            TcpServer::Serve(script) | TcpServer::Near(script) => script,
            TcpServer::FailsAtOnce(error) => return Err(error),
            TcpServer::Fails(_) | TcpServer::Silent => Script::default(),
        };
        let mut peer = Peer::new(to, flow, script, self.receive);
        let near = matches!(server, TcpServer::Near(_));
        if near {
            peer.connected = true;
            peer.wake(self.now);
        }
        let sock = self.add(Sock::Tcp(Box::new(peer)));
        match server {
            TcpServer::Serve(_) => self.later(sock, Event::TcpConnected { flow }),
            TcpServer::Fails(error) => self.later(sock, Event::TcpFailed { flow, error }),
            TcpServer::Near(_) | TcpServer::FailsAtOnce(_) | TcpServer::Silent => {}
        }
        Ok((sock, near))
    }

    fn tcp_assign(&mut self, sock: SockId, flow: u32) {
        let now = self.now;
        let peer = self.peer(sock);
        peer.flow = flow;
        peer.wake(now);
    }

    fn tcp_send(&mut self, sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        let at = self.now + self.round_trip / 2;
        let pieces: Vec<&[u8]> = data.iter().map(|piece| &**piece).collect();
        let peer = self.peer(sock);
        let sent = peer.send_from_switch(&pieces);
        peer.wake(at);
        sent
    }

    fn tcp_peek(
        &mut self,
        sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        self.peer(sock).peek(offset, buf)
    }

    fn tcp_ends_at(&mut self, sock: SockId, offset: usize) -> bool {
        self.peer(sock).ends_at(offset)
    }

    fn tcp_discard(&mut self, sock: SockId, len: usize) -> Result<(), HostError> {
        let at = self.now + self.round_trip / 2;
        let peer = self.peer(sock);
        peer.discard(len);
        peer.wake(at);
        Ok(())
    }

    fn tcp_shutdown(&mut self, sock: SockId) {
        let at = self.now + self.round_trip / 2;
        let peer = self.peer(sock);
        peer.shutdown();
        peer.wake(at);
    }

    fn tcp_close(&mut self, sock: SockId, reset: bool) {
        self.peer(sock).close(reset);
    }
}

impl UdpHost for SimHost {
    fn udp_open(&mut self, mapping: u32, local: SocketAddr) -> Result<(SockId, u16), HostError> {
        self.take_descriptor()?;
        let used = |port: u16| {
            let same = |sock: &Sock| matches!(sock, Sock::Udp { port: p, .. } if *p == port);
            self.socks.iter().any(same)
        };
        let port = match local.port() {
            0 => (32_768..=60_999).find(|&port| !used(port)),
            port => Some(port).filter(|&port| !used(port)),
        };
        let port = port.ok_or(HostError::Exhausted)?;
        Ok((self.add(Sock::Udp { mapping, port }), port))
    }

    fn udp_send(
        &mut self,
        sock: SockId,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> Result<(), HostError> {
        let Sock::Udp { mapping, .. } = self.socks[sock.0 as usize] else {
            panic!("{sock:?} is no open UDP socket");
        };
        if self.random.chance(self.socket_full) {
            return Err(HostError::WouldBlock);
        }
        let whole = joined(payload);
        let size = match segment {
            0 => whole.len().max(1),
            size => usize::from(size),
        };
        let mut pieces: Vec<Vec<u8>> = whole.chunks(size).map(<[u8]>::to_vec).collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        self.left
            .extend(pieces.iter().map(|piece| (to, meta, piece.clone())));
        match self.udp_servers.get(&to) {
            Some(&UdpServer::Echo(times)) => {
                for _ in 0..times {
                    let event = Event::UdpReceived {
                        mapping,
                        from: to,
                        tos: meta.tos,
                        pieces: pieces.clone(),
                    };
                    self.later(sock, event);
                }
            }
            Some(&UdpServer::Fails(kind, code)) => {
                let report = Self::report(to, kind, code, &pieces[0]);
                self.later(sock, Event::UdpFailed { mapping, report });
            }
            Some(UdpServer::Silent) | None => {}
        }
        Ok(())
    }

    fn udp_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

impl EchoHost for SimHost {
    fn echo_open(&mut self, mapping: u32, v6: bool) -> Result<SockId, HostError> {
        self.take_descriptor()?;
        Ok(self.add(Sock::Echo { mapping, v6 }))
    }

    fn echo_send(
        &mut self,
        sock: SockId,
        to: IpAddr,
        _: DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> Result<(), HostError> {
        let Sock::Echo { mapping, v6 } = self.socks[sock.0 as usize] else {
            panic!("{sock:?} is no open echo socket");
        };
        assert_eq!(v6, to.is_ipv6(), "the family of the socket");
        let event = if self.pingable.contains(&to) {
            Event::EchoReply {
                mapping,
                from: to,
                seq,
                payload: payload.to_vec(),
            }
        } else {
            let [s0, s1] = seq.to_be_bytes();
            let (asked, kind, code) = if v6 { (128, 1, 0) } else { (8, 3, 1) };
            let about = [&[asked, 0, 0, 0, 0, 0, s0, s1], payload].concat();
            let report = Self::report(SocketAddr::new(to, 0), kind, code, &about);
            Event::EchoFailed { mapping, report }
        };
        self.later(sock, event);
        Ok(())
    }

    fn echo_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

impl DnsHost for SimHost {
    fn resolvers(&self) -> usize {
        self.resolvers.len()
    }

    fn resolver(&self, index: usize) -> Option<SocketAddr> {
        let last = u8::try_from(index + 1).ok()?;
        (index < self.resolvers.len()).then(|| (Ipv4Addr::new(198, 51, 100, last), 53).into())
    }

    fn dns_send(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        self.take_descriptor()?;
        let sock = self.add(Sock::Dns);
        match self.resolvers[resolver] {
            Resolver::Answers(address) => {
                let message = answer(message, address);
                self.later(sock, Event::DnsAnswer { query, message });
            }
            Resolver::Fails => self.later(sock, Event::DnsFailed { query }),
            Resolver::Silent => {}
        }
        Ok(sock)
    }

    fn dns_send_tcp(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        // A resolver says the same, whichever way it is asked.
        self.dns_send(query, resolver, message)
    }

    fn dns_close(&mut self, sock: SockId) {
        self.close(sock);
    }
}

/// What a resolver answers.
fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let asked = message.queries.first().cloned();
    if let Some(asked) = asked.filter(|asked| asked.query_type() == RecordType::A) {
        let data = RData::A(A(address));
        message.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
    }
    message.to_vec().unwrap()
}
