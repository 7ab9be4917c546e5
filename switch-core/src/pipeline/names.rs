//! Stage 4: Name service over TCP at the gateway. The connections are those of the TCP engine, with the streams of
//! `respond::dns` in the place of the host's sockets; an engine of their own, so that what a sandbox does here takes
//! no room from its connections to the world. Nothing is allocated before the first one.

use core::net::SocketAddr;
use std::io::IoSlice;

use super::Switch;
use super::rules::note_answer;
use crate::addr::{PortId, SockId};
use crate::flow::host::{ConnectOptions, Host, HostError, Peeked, TcpHost, Tx};
use crate::flow::tcp::{Cx, Key, Limits, OpenError, TcpFlows};
use crate::respond::dns::Client;
use crate::respond::dns::stream::{MAX_STREAMS, Nudge, StreamId, Streams};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Ip, Packet};
use crate::wire::tcp::{ACK, RST, SYN, TcpHeader, TcpOptions};
use crate::wire::vnet_hdr::VnetHdr;

/// Capacities: half of the connections may be over and only answer late segments. Queries are small.
const LIMITS: Limits = Limits {
    flows: 2 * MAX_STREAMS,
    window_budget: 4 << 20,
};

/// The service of one gateway.
#[derive(Debug)]
pub(crate) struct Names {
    seeds: [u64; 4],
    parts: Option<Box<Parts>>,
}

#[derive(Debug)]
struct Parts {
    flows: TcpFlows,
    streams: Streams,
}

/// The world as the connections of the service see it: frames go out, and behind each is a stream.
struct Behind<'a, H> {
    host: &'a mut H,
    streams: &'a mut Streams,
    now: Tick,
    /// Who opens a connection, in the call that does.
    client: Option<Client>,
}

impl<H: Tx> Tx for Behind<'_, H> {
    fn tx(&mut self, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        self.host.tx(port, vnet, frame)
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, count: usize) {
        self.host.dropped(port, reason, count);
    }
}

impl<H> TcpHost for Behind<'_, H> {
    fn tcp_connect(
        &mut self,
        flow: u32,
        _: SocketAddr,
        _: ConnectOptions,
    ) -> Result<(SockId, bool), HostError> {
        let client = self.client.take().ok_or(HostError::Other)?;
        Ok((self.streams.open(self.now, flow, client), true))
    }

    fn tcp_assign(&mut self, _: SockId, _: u32) {}

    fn tcp_send(&mut self, sock: SockId, data: &[IoSlice<'_>]) -> Result<usize, HostError> {
        match self.streams.take(self.now, sock, data) {
            0 => Err(HostError::WouldBlock),
            n => Ok(n),
        }
    }

    fn tcp_peek(
        &mut self,
        sock: SockId,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<Peeked, HostError> {
        self.streams.peek(sock, offset, buf)
    }

    fn tcp_discard(&mut self, sock: SockId, len: usize) -> Result<(), HostError> {
        self.streams.discard(self.now, sock, len)
    }

    fn tcp_shutdown(&mut self, sock: SockId) {
        self.streams.end(sock);
    }

    fn tcp_close(&mut self, sock: SockId, _: bool) {
        self.streams.close(sock);
    }
}

impl Parts {
    /// The engine, and what it works on.
    fn split<'a, H>(&'a mut self, host: &'a mut H, now: Tick) -> (&'a mut TcpFlows, Behind<'a, H>) {
        let behind = Behind {
            host,
            streams: &mut self.streams,
            now,
            client: None,
        };
        (&mut self.flows, behind)
    }
}

impl Names {
    /// No connections yet. `seeds` key hashes and initial sequence numbers.
    pub(super) fn new(seeds: [u64; 4]) -> Self {
        Self { seeds, parts: None }
    }

    fn parts(&mut self, now: Tick) -> &mut Parts {
        let seeds = self.seeds;
        self.parts.get_or_insert_with(|| {
            Box::new(Parts {
                flows: TcpFlows::new(now, LIMITS, seeds),
                streams: Streams::default(),
            })
        })
    }

    pub(super) fn answer(&mut self, now: Tick, stream: StreamId, answer: &[u8]) {
        if let Some(parts) = &mut self.parts {
            parts.streams.answer(now, stream, answer);
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        self.parts
            .as_ref()
            .is_some_and(|p| p.flows.has_ready() || p.streams.has_work())
    }

    pub(super) fn poll_timeout(&self) -> Option<Tick> {
        let parts = self.parts.as_ref()?;
        let ends = [parts.flows.poll_timeout(), parts.streams.poll_timeout()];
        ends.into_iter().flatten().min()
    }
}

impl Switch {
    /// Takes a segment to the gateway's port of name service.
    pub(super) fn names_segment<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        (hdr, segment): (&TcpHeader, &[u8]),
        key: &Key,
    ) -> Result<Verdict, DropReason> {
        let opening = hdr.flags & (SYN | ACK | RST) == SYN;
        let parts = self.names.parts(cx.now);
        let known = parts.flows.find(key);
        if let Some(id) = known.filter(|&id| !(opening && parts.flows.is_over(id))) {
            let (flows, mut behind) = parts.split(host, cx.now);
            flows.segment(&mut behind, cx, id, hdr, segment)?;
            self.names_turn(host, cx);
            return Ok(Verdict::Answer);
        }
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        if !opening {
            TcpFlows::refuse(host, cx, port, packet.src, ip, hdr, segment.len());
            return Err(DropReason::NoFlow);
        }
        let server = SocketAddr::new(key.remote, key.remote_port);
        let client = Client {
            port,
            mac: packet.src,
            addr: SocketAddr::new(key.guest, key.guest_port),
            server,
            stream: None,
        };
        let options = segment.get(20..hdr.len).map(TcpOptions::parse);
        let parts = self.names.parts(cx.now);
        let first = parts.streams.admit(port);
        let (flows, mut behind) = parts.split(host, cx.now);
        if let Some(flow) = first.map_err(|_| DropReason::TableFull)? {
            flows.reset_guest(&mut behind, cx, flow);
        }
        behind.client = Some(client);
        let opened = flows.open(
            &mut behind,
            cx,
            (port, packet.src),
            (ip, hdr, &options.unwrap_or_default()),
            server,
        );
        match opened {
            Ok(()) => Ok(Verdict::Answer),
            Err(OpenError::Drop(reason)) => Err(reason),
            Err(OpenError::Host(error)) => Err(error.reason()),
        }
    }

    /// Asks the forwarder what has come in, and tells the connections what it changed, until nothing is left. It ends:
    /// answers that wait for a client stop the reading of its queries.
    fn names_turn<H: Host>(&mut self, host: &mut H, cx: &Cx) {
        let Some(parts) = self.names.parts.as_deref_mut() else {
            return;
        };
        while parts.streams.has_work() {
            while let Some((client, query)) = parts.streams.query() {
                let gw = &self.config.gateway;
                let answer = self.dns.handle_query(cx.now, client, gw, &query, host);
                if let (Some(answer), Some(stream)) = (answer, client.stream) {
                    note_answer(&mut self.rules, &self.ports, cx.now, client.port, &answer);
                    parts.streams.answer(cx.now, stream, &answer);
                }
            }
            if let Some(nudge) = parts.streams.nudge() {
                let (flows, mut behind) = parts.split(host, cx.now);
                match nudge {
                    Nudge::Readable { flow, ending } => flows.readable(flow, ending),
                    Nudge::Writable { flow } => flows.writable(&mut behind, cx, flow),
                    Nudge::Reset { flow } => flows.reset_guest(&mut behind, cx, flow),
                }
            }
        }
    }

    /// Ends a batch: sends the answers there are.
    pub(super) fn flush_names<H: Host>(&mut self, host: &mut H, now: Tick) {
        if self.names.parts.is_none() {
            return;
        }
        let cx = self.cx(now, None);
        loop {
            self.names_turn(host, &cx);
            let Some(parts) = self.names.parts.as_deref_mut() else {
                return;
            };
            let (flows, mut behind) = parts.split(host, now);
            flows.flush(&mut behind, &cx);
            if !parts.streams.has_work() {
                return;
            }
        }
    }

    /// Gives connections whose turn was over their next one. True if some are left still.
    pub(super) fn ready_names<H: Host>(&mut self, host: &mut H, now: Tick) -> bool {
        if !self.names.has_ready() {
            return false;
        }
        let cx = self.cx(now, None);
        if let Some(parts) = self.names.parts.as_deref_mut() {
            let (flows, mut behind) = parts.split(host, now);
            flows.run_ready(&mut behind, &cx);
            self.flush_names(host, now);
        }
        self.names.has_ready()
    }

    /// Does what is due.
    pub(super) fn names_timeout<H: Host>(&mut self, host: &mut H, now: Tick) {
        let cx = self.cx(now, None);
        if let Some(parts) = self.names.parts.as_deref_mut() {
            parts.streams.handle_timeout(now);
            let (flows, mut behind) = parts.split(host, now);
            flows.handle_timeout(&mut behind, &cx);
        }
        self.flush_names(host, now);
    }
}

#[cfg(test)]
mod tests;
