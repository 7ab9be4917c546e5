//! Stage 6: Sandbox to host: data in order goes straight from the frame into the socket.

use core::time::Duration;
use std::io::IoSlice;

use super::open::FIRST_GRANT;
use super::segment;
use super::seq::{self, Ahead, diff, dist, lt};
use super::state::State;
use super::{Cx, TcpFlows, close};
use crate::flow::host::{HostError, TcpHost, Tx};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::tcp::{FIN, TcpHeader};

/// The largest window of one flow.
const MAX_GRANT: u32 = 1 << 20;
/// The sum of the windows of flows that are sending: a TAP's queue holds 500 frames (its txqueuelen), and
/// what does not fit is lost. 24 MB are some 380 super-frames.
const UNDER_WAY: u32 = 24 << 20;
/// Flows count as sending for one to two epochs of 2^24 ns, 17 ms.
const EPOCH_SHIFT: u32 = 24;
/// How long an acknowledgement of little data waits for an answer to ride on.
/// RFC 9293 section 3.8.6.3 allows 500 ms; a sender with Nagle's algorithm waits for it, so keep it short.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// What counts as a super-frame, in segments.
const SUPER: usize = 8;

impl TcpFlows {
    /// Takes the data and the FIN of a segment.
    pub(super) fn data<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        hdr: &TcpHeader,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return Ok(());
        };
        let fin = hdr.flags & FIN != 0;
        if payload.is_empty() && !fin {
            // A pure acknowledgement; one that is out of place is a probe and wants an answer.
            if hdr.seq != flow.rcv_nxt && lt(hdr.seq, flow.rcv_nxt) {
                self.mark_ack(id);
            }
            return Ok(());
        }
        let end = hdr.seq.wrapping_add(dist(payload.len()));
        let (mut seq, mut payload) = (hdr.seq, payload);
        let old = diff(flow.rcv_nxt, seq);
        if old > 0 {
            let cut = usize::try_from(old).unwrap_or(0);
            if !payload.is_empty() {
                flow.twice = Some((seq, seq::min(end, flow.rcv_nxt)));
            }
            if cut > payload.len()
                || (cut == payload.len() && !(fin && flow.rcv_nxt == end && !flow.guest_closed))
            {
                self.mark_ack(id);
                return Err(DropReason::OutOfWindow);
            }
            payload = payload.get(cut..).unwrap_or_default();
            seq = flow.rcv_nxt;
        }
        if flow.guest_closed {
            self.mark_ack(id);
            return Err(DropReason::OutOfWindow);
        }
        let room = usize::try_from(diff(flow.rcv_edge, seq)).unwrap_or(0);
        let whole = payload.len() <= room;
        let payload = payload.get(..room).unwrap_or(payload);
        if fin && whole {
            flow.fin_at = Some(end);
        }
        if seq == flow.rcv_nxt {
            self.in_order(host, cx, id, payload);
        } else {
            self.ahead(id, seq, payload);
        }
        self.take_fin(id);
        if !whole {
            self.mark_ack(id);
        }
        self.finish_up(host, id);
        Ok(())
    }

    fn in_order<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32, payload: &[u8]) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let mut rest = payload;
        // Past a ring too that only holds what is ahead: the pool may be empty, and this be what fills the hole.
        if flow.waiting() == 0 && !flow.blocked && !payload.is_empty() {
            let Some(sock) = flow.sock else { return };
            match host.tcp_send(sock, &[IoSlice::new(payload)]) {
                Ok(n) => {
                    flow.blocked = n < payload.len();
                    flow.rcv_nxt = flow.rcv_nxt.wrapping_add(dist(n));
                    flow.bytes.0 += n as u64;
                    rest = payload.get(n..).unwrap_or_default();
                    if let Some(ring) = flow.ring.as_mut() {
                        ring.consume(n, &mut self.pool);
                    }
                    self.taken(cx, id, n);
                }
                Err(HostError::WouldBlock) => flow.blocked = true,
                Err(_) => {
                    self.reset_guest(host, cx, id);
                    return;
                }
            }
        }
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if !rest.is_empty() {
            let nxt = flow.rcv_nxt;
            let ring = flow.ring.get_or_insert_with(|| self.rings.take(nxt));
            let n = ring.write(nxt, rest, &mut self.pool);
            flow.rcv_nxt = nxt.wrapping_add(dist(n));
            flow.bytes.0 += n as u64;
            if n < rest.len() {
                // The pool is empty: what was not stored is not acknowledged, and comes again.
                flow.fin_at = None;
            }
        }
        if let Some(end) = flow.ahead.as_mut().and_then(|a| a.join(flow.rcv_nxt)) {
            flow.bytes.0 += u64::from(end.wrapping_sub(flow.rcv_nxt));
            flow.rcv_nxt = end;
            flow.todo.ack = true;
        }
        if flow.ring.is_some() {
            self.drain(host, cx, id);
        }
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let unacked = flow.rcv_nxt.wrapping_sub(flow.acked);
        if flow.offered() < flow.grant / 2 {
            // Of small frames the sender's congestion control wants to hear more often.
            flow.fills = payload.len() >= SUPER * usize::from(flow.mss);
            self.mark_ack(id);
        } else if unacked >= 2 * u32::from(flow.mss) && !flow.fills {
            self.mark_ack(id);
        } else {
            self.mark_ack_later(id);
        }
    }

    /// Keeps what arrived beyond a hole, and tells the sender.
    fn ahead(&mut self, id: u32, seq: u32, payload: &[u8]) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        // Its sender will have a smaller window after this.
        flow.fills = false;
        if !payload.is_empty() {
            let nxt = flow.rcv_nxt;
            let ring = flow.ring.get_or_insert_with(|| self.rings.take(nxt));
            let ranges = flow.ahead.get_or_insert_with(|| Box::new(Ahead::default()));
            let n = ring.write(seq, payload, &mut self.pool);
            if n > 0 {
                flow.twice = ranges.add(seq, seq.wrapping_add(dist(n)));
            }
        }
        self.mark_ack(id);
    }

    /// Takes the FIN if everything before it is here.
    fn take_fin(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if !flow.guest_closed && flow.fin_at == Some(flow.rcv_nxt) {
            if flow.offered() > 0 {
                // The FIN uses one of the numbers that were offered.
                self.used = self.used.saturating_sub(1);
            }
            flow.rcv_nxt = flow.rcv_nxt.wrapping_add(1);
            flow.rcv_edge = seq::max(flow.rcv_edge, flow.rcv_nxt);
            flow.guest_closed = true;
            self.mark_ack(id);
        }
    }

    /// Moves what waits in the ring into the host's socket.
    pub(super) fn drain<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        flow.blocked = false;
        let end = flow.data_end();
        while let (Some(ring), Some(sock)) = (flow.ring.as_mut(), flow.sock) {
            let (len, sent) = {
                let pieces = ring.pieces(end);
                let len: usize = pieces.iter().map(|p| p.len()).sum();
                if len == 0 {
                    break;
                }
                (len, host.tcp_send(sock, &pieces))
            };
            match sent {
                Ok(n) => {
                    ring.consume(n, &mut self.pool);
                    self.used = self.used.saturating_sub(n);
                    flow.blocked = n < len;
                }
                Err(HostError::WouldBlock) => flow.blocked = true,
                Err(_) => {
                    self.reset_guest(host, cx, id);
                    return;
                }
            }
            if flow.blocked {
                break;
            }
        }
        let none_ahead = flow.ahead.as_ref().is_none_or(|a| a.is_empty());
        if flow.waiting() == 0 && none_ahead {
            if let Some(ring) = flow.ring.take() {
                self.rings.give(ring, &mut self.pool);
            }
            flow.ahead = None;
        }
        // A window update once it is worth one: half of the grant, or from nothing.
        let gain = flow.wanted_edge().wrapping_sub(flow.rcv_edge);
        if gain >= flow.grant / 2 || (gain > 0 && flow.offered() < u32::from(flow.mss)) {
            self.mark_ack(id);
        }
        self.finish_up(host, id);
    }

    /// Accounts for bytes that the host took straight from a frame, and lets the window grow with use, up to
    /// the flow's share of what is good to have under way on one endpoint.
    fn taken(&mut self, cx: &Cx, id: u32, n: usize) {
        self.used = self.used.saturating_sub(n);
        let left = self.limits.window_budget.saturating_sub(self.used);
        let epoch = cx.now.as_nanos() >> EPOCH_SHIFT;
        if self.epoch != epoch {
            self.active = (self.active.1, 0);
            if self.epoch + 1 != epoch {
                self.active.0 = 0;
            }
            self.epoch = epoch;
        }
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.epoch != epoch {
            flow.epoch = epoch;
            self.active.1 += 1;
        }
        let active = self.active.0.max(self.active.1).max(1);
        let share = (UNDER_WAY / active).clamp(FIRST_GRANT, MAX_GRANT);
        if flow.grant > share {
            // What is offered stays offered; the window narrows as it is used up.
            flow.grant = share;
            return;
        }
        flow.since_growth = flow.since_growth.saturating_add(dist(n));
        if flow.since_growth >= flow.grant / 2
            && flow.grant < share
            && flow.rcv_scale > 0
            && flow.grant as usize <= left / 8
        {
            flow.grant = (flow.grant * 2).min(share);
            flow.since_growth = 0;
        }
    }

    /// Passes the sandbox's FIN on once all data before it has gone.
    fn finish_up<H: TcpHost>(&mut self, host: &mut H, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.guest_closed
            && !flow.host_shut
            && flow.waiting() == 0
            && flow.state == State::Established
        {
            flow.host_shut = true;
            if let Some(sock) = flow.sock {
                host.tcp_shutdown(sock);
            }
            if flow.abandoned {
                let reset = !flow.fin_acked();
                close::take_spent(host, flow);
                self.remove(host, id, reset);
                return;
            }
            self.list(id, |_| {});
        }
    }

    /// Sends the acknowledgement that is due, if no data carried it.
    pub(super) fn acknowledge<H: Tx>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.abandoned || matches!(flow.state, State::Connecting | State::SynSent) {
            return;
        }
        if flow.todo.ack {
            // Within its window, should that have shrunk below what is under way: else it is not even looked at.
            // Source: Linux's tcp_acceptable_seq.
            let seq = flow
                .snd_una
                .wrapping_add(flow.in_flight().min(flow.snd_wnd));
            self.used += segment::send(host, cx, flow, 0, seq, &[]) as usize;
        } else if core::mem::take(&mut flow.todo.ack_later) && flow.ack_at == Tick::NEVER {
            flow.ack_at = cx.now + ACK_DELAY;
            self.rearm(id);
        }
    }
}
