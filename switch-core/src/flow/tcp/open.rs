//! Stage 6: The beginning of a connection, from either side.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::segment::{self, SCALE, Shape};
use super::seq::{self, dist};
use super::state::{Flow, Key, State};
use super::{Cx, TcpFlows};
use crate::addr::{Mac, PortId, SockId};
use crate::flow::host::{ConnectOptions, HostError, TcpHost, Tx};
use crate::policy::quota::Held;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::Ip;
use crate::wire::tcp::{ACK, RST, SYN, TcpHeader, TcpOptions};

/// The first window: what a sender with an initial window of ten segments (RFC 6928) can use at once.
pub(super) const FIRST_GRANT: u32 = 16 * 1024;
/// The window when the budget is short.
const SMALL_GRANT: u32 = 4 * 1024;
/// First retransmission of a SYN or SYN-ACK. Source: RFC 6298 section 2.
const SYN_RTO: Duration = Duration::from_secs(1);
/// A time to live that is passed on to the host, less one: a traceroute. Larger ones are the
/// sandbox's default, and the host uses its own.
const LOW_TTL: u8 = 32;

/// Why a SYN led to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The host said no at once; the caller answers the sandbox as this error asks.
    Host(HostError),
    /// No room in the table.
    Drop(DropReason),
}

/// A connection that a listener of the host accepted for a sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The socket.
    pub sock: SockId,
    /// The endpoint of the sandbox.
    pub port: PortId,
    /// The sandbox's MAC.
    pub mac: Mac,
    /// Where in the sandbox.
    pub to: SocketAddr,
    /// Who the sandbox will see as its client.
    pub from: SocketAddr,
}

impl TcpFlows {
    /// Takes a SYN of the sandbox: the host connects first, the answer comes when it has.
    pub fn open<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        (port, mac): (PortId, Mac),
        (ip, hdr, options): (&Ip, &TcpHeader, &TcpOptions),
        to: SocketAddr,
    ) -> Result<(), OpenError> {
        let key = Key {
            guest: ip.src,
            guest_port: hdr.src_port,
            remote: ip.dst,
            remote_port: hdr.dst_port,
        };
        if let Some(old) = self.find(&key) {
            self.remove(host, old, false);
        }
        if self.flows.len() >= self.limits.flows {
            return Err(OpenError::Drop(DropReason::TableFull));
        }
        let share = self.share(port).map_err(OpenError::Drop)?;
        let mut flow = Flow::new(
            key,
            State::Connecting,
            port,
            mac,
            self.first_seq(&key, cx.now),
        );
        flow.share = share;
        flow.tos = ip.tos;
        flow.rcv_nxt = hdr.seq.wrapping_add(1);
        flow.rcv_edge = flow.rcv_nxt;
        flow.acked = flow.rcv_nxt;
        negotiate(&mut flow, options, cx.mtu, u32::from(hdr.window));
        flow.wnd_from = (hdr.seq, flow.snd_una);
        let id = self.insert(flow);
        let how = ConnectOptions {
            ttl: (ip.ttl <= LOW_TTL).then(|| ip.ttl.saturating_sub(1)),
            tos: ip.tos & !3,
        };
        match host.tcp_connect(id, to, how) {
            Ok((sock, connected)) => {
                if let Some(flow) = self.flows.get_mut(id as usize) {
                    flow.sock = Some(sock);
                }
                if connected {
                    self.connected(host, cx, id);
                }
                Ok(())
            }
            Err(error) => {
                self.remove(host, id, false);
                Err(OpenError::Host(error))
            }
        }
    }

    /// The host's connection stands: answers the sandbox's SYN.
    pub fn connected<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let grant = self.first_grant();
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.state != State::Connecting {
            return;
        }
        flow.state = State::SynReceived;
        flow.grant = grant;
        flow.rto_at = cx.now + SYN_RTO;
        self.syn_ack(host, cx, id);
        self.rearm(id);
    }

    /// The host's connection failed. Refusals reach the sandbox as a reset; for what is an ICMP error
    /// the key and the SYN's sequence number are returned, so that the caller can send one.
    pub fn failed<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        error: HostError,
    ) -> Option<(Key, PortId, Mac, u32)> {
        let flow = self.flows.get_mut(id as usize)?;
        if flow.state != State::Connecting {
            return None;
        }
        let about = (flow.key, flow.port, flow.mac, flow.rcv_nxt.wrapping_sub(1));
        let unreachable = matches!(
            error,
            HostError::HostUnreachable | HostError::NetUnreachable | HostError::Forbidden
        );
        if !unreachable && error != HostError::TimedOut {
            let shape = Shape {
                flags: RST | ACK,
                seq: 0,
                ack: flow.rcv_nxt,
                window: 0,
                options: &[],
                payload: &[],
                mss: 0,
                tos: 0,
            };
            segment::write(host, cx.mac, (flow.port, flow.mac), &flow.key, &shape);
        }
        self.remove(host, id, false);
        unreachable.then_some(about)
    }

    pub(super) fn syn_ack<H: Tx>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let iss = flow.base.wrapping_sub(1);
        let options =
            segment::syn_options(our_mss(cx.mtu, &flow.key), flow.sack_ok, flow.rcv_scale > 0);
        let window = flow.grant.min(65_535);
        let edge = seq::max(flow.rcv_edge, flow.rcv_nxt.wrapping_add(window));
        let grown = edge.wrapping_sub(flow.rcv_edge);
        flow.rcv_edge = edge;
        flow.snd_nxt = iss.wrapping_add(1);
        flow.snd_max = seq::max(flow.snd_max, flow.snd_nxt);
        flow.control.timed = Some((flow.snd_nxt, cx.now));
        let shape = Shape {
            flags: SYN | ACK,
            seq: iss,
            ack: flow.rcv_nxt,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            options: &options,
            payload: &[],
            mss: 0,
            tos: flow.tos & !3,
        };
        segment::write(host, cx.mac, (flow.port, flow.mac), &flow.key, &shape);
        self.used += grown as usize;
    }

    /// A SYN for a connection that exists: sent again, or forged. Source: RFC 5961 section 4.
    pub(super) fn syn_again<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        hdr: &TcpHeader,
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        let again = flow.state == State::SynReceived && hdr.seq == flow.rcv_nxt.wrapping_sub(1);
        if again && hdr.flags & ACK == 0 {
            self.syn_ack(host, cx, id);
            return Ok(());
        }
        // The other half of a simultaneous open: it has our SYN, and waits for word of that.
        if again && hdr.ack == flow.base {
            self.acknowledged(host, cx, id, hdr, &[], true)?;
        }
        self.mark_ack(id);
        Ok(())
    }

    /// Brings an accepted connection of the host to the sandbox: sends a SYN from the client's address, or answers
    /// the sandbox's own to that client, which it crossed.
    /// Errors: `TableFull`, `FlowLimit`; the caller closes the socket.
    pub fn accept<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        what: &Accepted,
    ) -> Result<(), DropReason> {
        let key = Key {
            guest: what.to.ip(),
            guest_port: what.to.port(),
            remote: what.from.ip(),
            remote_port: what.from.port(),
        };
        match self
            .find(&key)
            .map(|id| (id, self.flows.get(id as usize).map(|f| f.state)))
        {
            Some((old, Some(State::TimeWait))) => self.remove(host, old, false),
            Some((old, Some(State::Connecting))) => {
                self.cross(host, cx, old, what.sock);
                return Ok(());
            }
            Some(_) => return Err(DropReason::TableFull),
            None => {}
        }
        if self.flows.len() >= self.limits.flows {
            return Err(DropReason::TableFull);
        }
        let share = self.share(what.port)?;
        let mut flow = Flow::new(
            key,
            State::SynSent,
            what.port,
            what.mac,
            self.first_seq(&key, cx.now),
        );
        flow.share = share;
        flow.sock = Some(what.sock);
        flow.grant = self.first_grant();
        flow.readable = true;
        let id = self.insert(flow);
        host.tcp_assign(what.sock, id);
        self.send_syn(host, cx, id);
        Ok(())
    }

    pub(super) fn send_syn<H: Tx>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let iss = flow.base.wrapping_sub(1);
        let options = segment::syn_options(our_mss(cx.mtu, &flow.key), true, true);
        flow.snd_nxt = iss.wrapping_add(1);
        flow.snd_max = flow.snd_nxt;
        flow.rto_at = cx.now + SYN_RTO * (1 << flow.control.backoff.min(5));
        let shape = Shape {
            flags: SYN,
            seq: iss,
            ack: 0,
            window: u16::try_from(flow.grant.min(65_535)).unwrap_or(u16::MAX),
            options: &options,
            payload: &[],
            mss: 0,
            tos: 0,
        };
        segment::write(host, cx.mac, (flow.port, flow.mac), &flow.key, &shape);
        self.rearm(id);
    }

    /// An answer to our SYN.
    pub(super) fn syn_sent<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        hdr: &TcpHeader,
        segment: &[u8],
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        let acks_syn = hdr.flags & ACK != 0 && hdr.ack == flow.snd_nxt;
        if hdr.flags & RST != 0 {
            if acks_syn {
                self.remove(host, id, true);
            }
            return Ok(());
        }
        let crossed = hdr.flags & (SYN | ACK) == SYN;
        if !crossed && (hdr.flags & SYN == 0 || !acks_syn) {
            return Err(DropReason::OutOfWindow);
        }
        let options = segment
            .get(20..hdr.len)
            .map(TcpOptions::parse)
            .unwrap_or_default();
        flow.rcv_nxt = hdr.seq.wrapping_add(1);
        flow.acked = flow.rcv_nxt;
        if crossed {
            // It has not seen our SYN, which is said once more. Source: RFC 9293 section 3.5, figure 8.
            flow.state = State::SynReceived;
            flow.rcv_edge = flow.rcv_nxt;
            negotiate(flow, &options, cx.mtu, u32::from(hdr.window));
            flow.wnd_from = (hdr.seq, flow.snd_una);
            self.syn_ack(host, cx, id);
            return Ok(());
        }
        flow.state = State::Established;
        flow.snd_una = hdr.ack;
        let window = flow.grant.min(65_535);
        flow.rcv_edge = flow.rcv_nxt.wrapping_add(window);
        negotiate(flow, &options, cx.mtu, u32::from(hdr.window));
        flow.wnd_from = (hdr.seq, hdr.ack);
        flow.rto_at = Tick::NEVER;
        flow.control.backoff = 0;
        self.used += window as usize;
        self.mark_ack(id);
        self.mark_pump(id);
        Ok(())
    }

    /// The client to whom the sandbox was about to connect has connected itself: that connection is the one.
    fn cross<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32, sock: SockId) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if let Some(old) = flow.sock.replace(sock) {
            host.tcp_close(old, true);
        }
        flow.readable = true;
        host.tcp_assign(sock, id);
        self.connected(host, cx, id);
    }

    /// A new connection's part of what its endpoint may have. Errors: `FlowLimit`.
    fn share(&self, port: PortId) -> Result<Option<Held>, DropReason> {
        let limits = self.shares.get(&port);
        limits.map(|l| l.holds()).transpose()
    }

    fn insert(&mut self, flow: Flow) -> u32 {
        let key = flow.key;
        let id = dist(self.flows.insert(flow));
        self.index.insert(key, id);
        id
    }

    /// An initial sequence number that an outsider cannot guess. Source: RFC 6528 section 3.
    fn first_seq(&self, key: &Key, now: Tick) -> u32 {
        let clock = now.as_nanos() / 4_000;
        let [a, b, c, d, ..] = self.seeds.hash_one(key).wrapping_add(clock).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn first_grant(&self) -> u32 {
        let left = self.limits.window_budget.saturating_sub(self.used);
        if left / 8 >= FIRST_GRANT as usize {
            FIRST_GRANT
        } else {
            SMALL_GRANT
        }
    }
}

/// Takes over what the sandbox's SYN offers.
fn negotiate(flow: &mut Flow, options: &TcpOptions, mtu: u16, window: u32) {
    let default = if flow.key.guest.is_ipv4() { 536 } else { 1220 };
    // Below 64 a segment would be mostly header: a sandbox that asks for it only hurts itself, bounded here.
    let asked = options.mss.unwrap_or(default).max(64);
    flow.mss = asked.min(our_mss(mtu, &flow.key));
    if let Some(scale) = options.wscale {
        flow.snd_scale = scale.min(14);
        flow.rcv_scale = SCALE;
    }
    flow.sack_ok = options.sack_permitted;
    flow.snd_wnd = window;
}

/// The largest segment that an endpoint of this MTU takes. Source: RFC 9293 section 3.7.1.
pub(super) fn our_mss(mtu: u16, key: &Key) -> u16 {
    let headers = match key.guest {
        IpAddr::V4(_) => 40,
        IpAddr::V6(_) => 60,
    };
    mtu.saturating_sub(headers).max(64)
}
