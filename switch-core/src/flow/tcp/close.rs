//! Stage 6: The end of a connection, in order or not.

use core::time::Duration;

use super::segment::{self, Shape};
use super::seq::{diff, le, lt};
use super::state::{Flow, State};
use super::{Cx, TcpFlows};
use crate::addr::PortId;
use crate::flow::host::{HostError, TcpHost, Tx};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::tcp::{ACK, RST, TcpHeader};

/// How long a finished connection still answers: a sandbox is a wire away, not two minutes.
const TIME_WAIT: Duration = Duration::from_secs(2);

impl TcpFlows {
    /// A reset from the sandbox: only in its place does it count. Source: RFC 5961 section 3.
    pub(super) fn reset_by_guest<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        id: u32,
        hdr: &TcpHeader,
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        if hdr.seq == flow.rcv_nxt {
            if flow.guest_closed && flow.waiting() > 0 {
                // All it had to say was acknowledged, and is still on its way into the host's socket.
                self.abandon(id);
            } else {
                self.remove(host, id, true);
            }
            Ok(())
        } else {
            if lt(flow.rcv_nxt, hdr.seq) && le(hdr.seq, flow.rcv_edge) {
                self.mark_ack(id);
            }
            Err(DropReason::OutOfWindow)
        }
    }

    /// The sandbox's side is gone; what it left in the ring goes on to the host.
    fn abandon(&mut self, id: u32) {
        if let Some(flow) = self.flows.get_mut(id as usize) {
            flow.abandoned = true;
            flow.rto_at = Tick::NEVER;
            flow.ack_at = Tick::NEVER;
            flow.control.late_at = Tick::NEVER;
        }
    }

    /// The host's side broke, or wants no more of it: resets the sandbox's, and closes the host's.
    pub fn reset_guest<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        if let Some(flow) = self.flows.get(id as usize) {
            let shape = Shape {
                flags: RST | ACK,
                seq: flow.snd_nxt,
                ack: flow.rcv_nxt,
                window: 0,
                options: &[],
                payload: &[],
                mss: 0,
                tos: 0,
            };
            segment::write(host, cx.mac, (flow.port, flow.mac), &flow.key, &shape);
        }
        self.remove(host, id, true);
    }

    /// Asks a socket whose stream has ended whether it was reset since: nothing would be read or written that
    /// tells, while the sandbox has nothing to say.
    pub(super) fn look_for_reset<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if !core::mem::take(&mut flow.todo.look) {
            return;
        }
        let (Some(sock), Some(end)) = (flow.sock, flow.eof_at) else {
            return;
        };
        let offset = usize::try_from(diff(end, flow.base)).unwrap_or(0);
        match host.tcp_peek(sock, offset, &mut [0]) {
            Ok(_) | Err(HostError::WouldBlock) => {}
            Err(_) => self.reset_guest(host, cx, id),
        }
    }

    /// Removes a connection and closes its socket.
    pub(super) fn remove<H: TcpHost>(&mut self, host: &mut H, id: u32, reset: bool) {
        let Some(mut flow) = self.flows.try_remove(id as usize) else {
            return;
        };
        self.index.remove(&flow.key);
        self.wheel.cancel(id);
        if flow.todo.held {
            self.leave_line(flow.port);
        }
        let held = flow.offered().wrapping_add(flow.waiting());
        self.used = self.used.saturating_sub(held as usize);
        if let Some(ring) = flow.ring.take() {
            self.rings.give(ring, &mut self.pool);
        }
        if let Some(sock) = flow.sock {
            host.tcp_close(sock, reset);
        }
    }

    /// Ends a connection whose both directions have ended. The side that closed first keeps answering
    /// for a while (RFC 9293 section 3.6.1): that is the sandbox, unless the host was first.
    pub(super) fn settle<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.state != State::Established || !flow.host_shut || !flow.fin_acked() {
            return;
        }
        take_spent(host, flow);
        if !flow.host_first {
            self.remove(host, id, false);
            return;
        }
        flow.state = State::TimeWait;
        if let Some(sock) = flow.sock.take() {
            host.tcp_close(sock, false);
        }
        flow.rto_at = Tick::NEVER;
        flow.ack_at = Tick::NEVER;
        flow.idle_at = cx.now + TIME_WAIT;
        self.rearm(id);
    }

    /// Ends an endpoint's connections: it is gone, the other sides are reset.
    pub fn remove_port<H: TcpHost>(&mut self, host: &mut H, port: PortId) {
        let of_port = self.flows.iter().filter(|(_, f)| f.port == port);
        let ids: Vec<usize> = of_port.map(|(id, _)| id).collect();
        for id in ids {
            self.remove(host, super::seq::dist(id), true);
        }
        self.set_limits(port, None);
    }

    /// Ends every connection, as when the endpoint goes.
    pub fn clear<H: Tx + TcpHost>(&mut self, host: &mut H) {
        let ids: Vec<usize> = self.flows.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.remove(host, super::seq::dist(id), true);
        }
        self.dirty.clear();
        self.ready.clear();
    }
}

/// Takes off the host's socket what the sandbox has acknowledged. A socket that is closed with bytes unread
/// answers with a reset, which would take along what the peer has not received yet.
pub(super) fn take_spent<H: TcpHost>(host: &mut H, flow: &mut Flow) {
    let spent = flow.spent();
    if spent > 0
        && let Some(sock) = flow.sock
    {
        // An error here is the connection's end, which is what follows anyway.
        let _ = host.tcp_discard(sock, spent as usize);
        flow.base = flow.base.wrapping_add(spent);
    }
}
