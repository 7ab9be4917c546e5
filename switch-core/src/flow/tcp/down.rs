//! Stage 6: Host to sandbox: bytes are peeked from the socket straight into a super-frame, and stay there
//! until the sandbox has acknowledged them.

use super::recovery::{Told, take_sack};
use super::segment;
use super::seq::{self, diff, dist, le, lt};
use super::state::{Flow, State};
use super::{Cx, MAX_PAYLOAD, TcpFlows};
use crate::flow::host::{HostError, Peeked, TcpHost, Tx};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::tcp::{FIN, PSH, TcpHeader};

/// Acknowledged bytes are taken off the socket in lots of this size: one call for many segments.
const DISCARD: u32 = 64 * 1024;
/// The same once the socket has been seen empty: what is left of a super-frame there charges the receive buffer
/// for the whole of it, and a full buffer tells of nothing new.
const DISCARD_IDLE: u32 = 8 * 1024;
/// The same when nothing is in flight either: no later acknowledgement will take it along. Less than this waits
/// for the clock, so that a small answer costs no call of its own.
const DISCARD_LAST: u32 = 1024;
/// Bytes that one connection may send in one turn before others have theirs.
const TURN: usize = 128 * 1024;
/// What a frame costs of a turn, however small.
const FRAME_COST: usize = 4096;
/// The largest congestion window worth counting.
const MAX_CWND: u32 = 16 << 20;

impl TcpFlows {
    /// Takes the acknowledgement, window and selective acknowledgements of a segment.
    pub(super) fn acknowledged<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        hdr: &TcpHeader,
        options: &[u8],
        bare: bool,
    ) -> Result<(), DropReason> {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        let ack = hdr.ack;
        if hdr.flags & crate::wire::tcp::ACK == 0 || lt(flow.snd_max, ack) {
            self.mark_ack(id);
            return Err(DropReason::OutOfWindow);
        }
        flow.probes = 0;
        if flow.state == State::SynReceived {
            if ack != flow.base {
                return Err(DropReason::OutOfWindow);
            }
            flow.state = State::Established;
            // What the host's socket told before is not told again.
            flow.todo.pump |= flow.readable;
        }
        let window = u32::from(hdr.window) << flow.snd_scale;
        let (wl1, wl2) = flow.wnd_from;
        let fresh = lt(wl1, hdr.seq) || (wl1 == hdr.seq && le(wl2, ack));
        let same = flow.snd_wnd == window;
        if fresh && le(flow.snd_una, ack) {
            flow.wnd_from = (hdr.seq, ack);
            if window > flow.snd_wnd {
                flow.todo.pump = true;
                if flow.snd_una == flow.snd_max {
                    // It was a window probe that the clock ran for.
                    flow.rto_at = Tick::NEVER;
                    flow.control.backoff = 0;
                } else if flow.snd_wnd == 0 {
                    // What was under way when it shut is asked for anew, and the probes in between were no losses.
                    flow.control.backoff = 0;
                    flow.rto_at = cx.now + flow.control.rto();
                }
            }
            flow.snd_wnd = window;
        }
        let told = if flow.sack_ok && !options.is_empty() {
            take_sack(flow, ack, options)
        } else {
            Told::default()
        };
        let more = told.news || (bare && same && !told.twice);
        if lt(flow.snd_una, ack) {
            self.progress(cx, id, ack);
        } else if ack == flow.snd_una && flow.snd_una != flow.snd_max && more {
            flow.control.dup_acks = flow.control.dup_acks.saturating_add(1);
        }
        self.recover(host, cx, id, told.news);
        if self.flows.get(id as usize).is_some_and(|f| f.todo.pump) {
            self.mark_pump(id);
        }
        Ok(())
    }

    /// New data has been acknowledged.
    fn progress(&mut self, cx: &Cx, id: u32, ack: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let bytes = ack.wrapping_sub(flow.snd_una);
        let holed = flow.sacked.as_ref().is_some_and(|s| !s.is_empty());
        if holed && flow.control.recover.is_none() && le(flow.control.resent, flow.snd_una) {
            flow.control.reordered();
        }
        flow.control.late_at = Tick::NEVER;
        flow.control.resent = seq::max(flow.control.resent, flow.snd_una);
        flow.snd_una = ack;
        flow.snd_nxt = seq::max(flow.snd_nxt, ack);
        if let Some(sacked) = flow.sacked.as_mut() {
            sacked.trim(ack);
        }
        let control = &mut flow.control;
        if let Some((upto, at)) = control.timed
            && le(upto, ack)
        {
            control.measured(cx.now.since(at));
            control.timed = None;
        }
        control.backoff = 0;
        match control.recover {
            Some(end) if le(end, ack) => {
                control.recover = None;
                control.dup_acks = 0;
                flow.sacked = None;
            }
            Some(_) => {}
            None => {
                control.dup_acks = 0;
                if flow.sacked.as_ref().is_some_and(|s| s.is_empty()) {
                    flow.sacked = None;
                }
                let gain = if control.cwnd < control.ssthresh {
                    bytes
                } else {
                    u64_to_u32(
                        u64::from(bytes) * u64::from(flow.mss) / u64::from(control.cwnd.max(1)),
                    )
                };
                control.cwnd = control.cwnd.saturating_add(gain).min(MAX_CWND);
            }
        }
        flow.rto_at = if flow.snd_una == flow.snd_max {
            Tick::NEVER
        } else {
            cx.now + flow.control.rto()
        };
        flow.todo.pump = true;
    }

    /// Sends what the host has and the sandbox's window takes, `most` bytes of it and a turn's worth at most.
    /// Gives what that cost of the batch.
    pub(super) fn pump<H: Tx + TcpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        id: u32,
        most: usize,
    ) -> usize {
        let port = self.port_of(id).filter(|_| !self.brakes.is_empty());
        let cost = self.pump_one(host, cx, id, most);
        if let Some(port) = port {
            // What it left over is for the next.
            self.release_one(cx.now, port);
        }
        cost
    }

    fn pump_one<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32, most: usize) -> usize {
        let turn = TURN.min(most);
        let mut cost = 0;
        loop {
            let Some(flow) = self.flows.get_mut(id as usize) else {
                return cost;
            };
            if flow.state != State::Established || flow.abandoned {
                return cost;
            }
            let Some(sock) = flow.sock else { return cost };
            let least = if flow.readable { DISCARD } else { DISCARD_IDLE };
            if flow.discard(host, least).is_err() {
                self.reset_guest(host, cx, id);
                return cost;
            }
            if flow.eof_at.is_some_and(|end| le(end, flow.snd_nxt)) {
                self.send_fin(host, cx, id);
                return cost;
            }
            if !flow.readable && flow.snd_nxt == flow.snd_max {
                break;
            }
            if cost >= turn {
                self.mark_pump(id);
                return cost;
            }
            let room = flow.room();
            let flying = flow.in_flight() > 0;
            if room == 0 || (flying && room < worth_sending(flow)) {
                if !flying && flow.rto_at == Tick::NEVER {
                    // The window is shut: ask now and then whether it has opened.
                    flow.rto_at = cx.now + flow.control.rto();
                }
                break;
            }
            // The last frame of a turn is whole, too: what a cut leaves over would be a frame of a few bytes.
            let mut want = (room as usize).min(frame_room(flow));
            let again = lt(flow.snd_nxt, flow.snd_max);
            if again && let Some((start, end)) = flow.sacked.as_ref().map(|s| s.hole(flow.snd_nxt))
            {
                flow.snd_nxt = start;
                if let Some(end) = end {
                    want = want.min(usize::try_from(diff(end, start)).unwrap_or(0));
                }
                if flow.eof_at.is_some_and(|eof| le(eof, start)) {
                    continue;
                }
            }
            if !self.brakes.is_empty() {
                let Some(granted) = self.brakes.grant(cx.now, id, flow) else {
                    break;
                };
                want = want.min(granted);
            }
            let offset = usize::try_from(diff(flow.snd_nxt, flow.base)).unwrap_or(0);
            let Some(buf) = self.scratch.get_mut(..want) else {
                return cost;
            };
            match host.tcp_peek(sock, offset, buf) {
                Ok(Peeked::Data(n)) => {
                    if !self.brakes.is_empty() {
                        // There was something left: what it takes beyond is paid for by those behind.
                        self.brakes.charge(cx.now, flow, n);
                    }
                    let payload = buf.get(..n).unwrap_or_default();
                    let short = n < want;
                    if short && !again {
                        // Less than asked: the socket is empty, unless its end has been reported.
                        flow.readable = flow.ending;
                    }
                    let seq = flow.snd_nxt;
                    let last = short && !again && flow.ending && host.tcp_ends_at(sock, offset + n);
                    let mut flags = if short { PSH } else { 0 };
                    if last {
                        flags |= FIN;
                        flow.end_at(seq.wrapping_add(dist(n)));
                    }
                    self.used += segment::send(host, cx, flow, flags, seq, payload) as usize;
                    if !again && flow.control.timed.is_none() {
                        flow.control.timed = Some((seq.wrapping_add(dist(n)), cx.now));
                    }
                    if !again {
                        flow.bytes.1 += n as u64;
                    }
                    flow.sent(n + usize::from(last));
                    if flow.rto_at == Tick::NEVER {
                        flow.rto_at = cx.now + flow.control.rto();
                    }
                    cost += n.max(FRAME_COST);
                }
                Ok(Peeked::Empty) => {
                    flow.readable = false;
                    break;
                }
                Ok(Peeked::Eof) => flow.end_at(flow.snd_nxt),
                Err(HostError::WouldBlock) => {
                    flow.readable = false;
                    break;
                }
                Err(_) => {
                    self.reset_guest(host, cx, id);
                    return cost;
                }
            }
        }
        self.tidy(host, cx, id);
        cost
    }

    /// Takes what is acknowledged off a socket that has nothing more to read.
    fn tidy<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.readable {
            return;
        }
        let last = flow.in_flight() == 0;
        let least = if last { DISCARD_LAST } else { DISCARD_IDLE };
        if flow.discard(host, least).is_err() {
            self.reset_guest(host, cx, id);
        }
    }

    fn send_fin<H: Tx>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let Some(end) = flow.eof_at else { return };
        if flow.snd_nxt == end {
            self.used += segment::send(host, cx, flow, FIN, end, &[]) as usize;
            flow.sent(1);
            if flow.rto_at == Tick::NEVER {
                flow.rto_at = cx.now + flow.control.rto();
            }
        }
        self.rearm(id);
    }
}

/// Payload of the next frame: whole segments, as many as a frame holds.
pub(super) fn frame_room(flow: &Flow) -> usize {
    let mss = usize::from(flow.mss);
    MAX_PAYLOAD / mss * mss
}

/// Room that is worth a frame while the sandbox still has some to acknowledge: a whole frame, unless its window is
/// so small that waiting would leave it idle.
fn worth_sending(flow: &Flow) -> u32 {
    let window = flow.snd_wnd.min(flow.control.cwnd);
    dist(frame_room(flow)).min((window / 4).max(u32::from(flow.mss)))
}

fn u64_to_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Mac, PortId};
    use crate::flow::tcp::Key;

    /// At MTU 65,520 a segment was once larger than the frame's room, which was then nothing: peeking no bytes
    /// looked like the end of the stream.
    #[test]
    fn a_frame_holds_a_segment_at_every_mtu() {
        let any = core::net::IpAddr::from([0; 4]);
        let key = Key {
            guest: any,
            guest_port: 1,
            remote: any,
            remote_port: 2,
        };
        let mut flow = Flow::new(key, State::Established, PortId(0), Mac::default(), 0);
        for mtu in 576..=65_521u16 {
            flow.mss = mtu - 40;
            let room = frame_room(&flow);
            assert!(
                room >= usize::from(flow.mss) && room <= MAX_PAYLOAD,
                "MTU {mtu}: {room}"
            );
        }
    }
}
