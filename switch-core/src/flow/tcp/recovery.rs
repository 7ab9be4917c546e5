//! Stage 6: What to do about holes: what the sandbox says is missing is sent again, unless it is only late.
//! Source: RFC 5681, RFC 6675 in a small form; for reordering RFC 8985 and RFC 3708.

use core::time::Duration;

use super::down::frame_room;
use super::open::our_mss;
use super::segment;
use super::seq::{self, Ranges, diff, dist, le, lt};
use super::state::{Control, Flow, Key, State, Undo};
use super::{Cx, TcpFlows};
use crate::addr::Mac;
use crate::flow::host::{Peeked, TcpHost, Tx};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::tcp::{FIN, PSH, TcpOptions};

/// Recoveries for which proof of reordering counts. Source: RFC 8985 section 6.2.
const TRUST: u8 = 16;
/// Doublings of the time that a hole has.
const MOST_PATIENCE: u8 = 12;
/// A hole has a round trip at most, or this: a sandbox is microseconds away, a queue that mixes frames up is not.
const LONGEST: Duration = Duration::from_millis(2);

impl TcpFlows {
    /// Enters recovery when enough says that something is lost, and fills one hole for each acknowledgement.
    /// Source: RFC 6675 section 5, RFC 5681 section 3.2.
    pub(super) fn recover<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32, news: bool) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        if flow.snd_una == flow.snd_max {
            return;
        }
        let mss = u32::from(flow.mss);
        match flow.control.recover {
            None => {
                let beyond = flow.sacked.as_ref().map_or(0, |s| s.bytes());
                if flow.control.dup_acks < 3 && beyond <= 3 * mss {
                    return;
                }
                if !flow.control.is_late(cx.now) {
                    self.rearm(id);
                    return;
                }
                let control = &mut flow.control;
                control.undo = Some(Undo {
                    cwnd: control.cwnd,
                    ssthresh: control.ssthresh,
                    from: flow.snd_una,
                    bytes: 0,
                });
                control.recover = Some(flow.snd_max);
                control.again_at = cx.now;
                control.rexmit = flow.snd_una;
                control.ssthresh = (flow.snd_max.wrapping_sub(flow.snd_una) / 2).max(4 * mss);
                control.cwnd = control.ssthresh;
                control.timed = None;
            }
            // A partial acknowledgement, or word of more that arrived: fill the next hole.
            Some(_)
                if news
                    || lt(flow.control.rexmit, flow.snd_una)
                    || flow.control.rexmit == flow.snd_una => {}
            Some(_) => return,
        }
        self.fill_hole(host, cx, id);
    }

    /// Sends the next hole again.
    fn fill_hole<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let Some(sock) = flow.sock else { return };
        let from = seq::max(flow.snd_una, flow.control.rexmit);
        let (start, end) = flow.sacked.as_ref().map_or((from, None), |s| s.hole(from));
        // Beyond the last range nothing is known to be lost, except what the cumulative number stands at, and of that
        // no more than a segment is likely to be: what goes on arriving is only late, and not sent again at its pace.
        let (end, most) = match end {
            Some(end) => (end, frame_room(flow)),
            None if start == flow.snd_una && cx.now >= flow.control.again_at => {
                let mss = usize::from(flow.mss);
                let alone = flow.sack_ok || flow.control.dup_acks > 0;
                (flow.snd_max, if alone { mss } else { frame_room(flow) })
            }
            None => return,
        };
        // What was sent since recovery began may only be late.
        let later = flow.control.patience > 0 && flow.control.recover.is_some_and(|r| le(r, start));
        if le(flow.snd_max, start) || later {
            return;
        }
        if flow.eof_at == Some(start) {
            self.used += segment::send(host, cx, flow, FIN, start, &[]) as usize;
            flow.control.rexmit = start.wrapping_add(1);
            return;
        }
        let data_end = flow.eof_at.map_or(end, |eof| seq::min(end, eof));
        let want = usize::try_from(diff(data_end, start))
            .unwrap_or(0)
            .min(most);
        let offset = usize::try_from(diff(start, flow.base)).unwrap_or(0);
        let Some(buf) = self.scratch.get_mut(..want) else {
            return;
        };
        if let Ok(Peeked::Data(n)) = host.tcp_peek(sock, offset, buf) {
            // Where the endpoint may have no more now, the clock or the next acknowledgement asks again.
            if !self.brakes.is_empty() && !self.brakes.charge(cx.now, flow, n) {
                return;
            }
            let payload = buf.get(..n).unwrap_or_default();
            self.used += segment::send(host, cx, flow, PSH, start, payload) as usize;
            flow.control.rexmit = start.wrapping_add(dist(n));
            flow.control.again_at = cx.now + flow.control.srtt;
            flow.control.resent = seq::max(flow.control.resent, flow.control.rexmit);
            if let Some(undo) = flow.control.undo.as_mut() {
                undo.bytes = undo.bytes.saturating_add(dist(n));
            }
            flow.rto_at = cx.now + flow.control.rto();
            self.rearm(id);
        }
    }

    /// A packet of connection `key` was larger than a link behind its endpoint: smaller ones go on from where the
    /// sandbox stands. Every connection finds out for itself. Units: `mtu` with the IP header.
    /// Errors: `NoFlow`; `OutOfWindow` for a packet that is not under way, as RFC 5927 section 7.2 asks.
    pub fn too_big(&mut self, guest: Mac, key: &Key, seq: u32, mtu: u16) -> Result<(), DropReason> {
        let id = self.find(key).ok_or(DropReason::NoFlow)?;
        let flow = self.flows.get_mut(id as usize).ok_or(DropReason::NoFlow)?;
        if flow.mac != guest || flow.state != State::Established {
            return Err(DropReason::NoFlow);
        }
        if lt(seq, flow.snd_una) || le(flow.snd_max, seq) {
            return Err(DropReason::OutOfWindow);
        }
        let mss = our_mss(mtu, key);
        if mss < flow.mss {
            flow.mss = mss;
            // Nothing says that the way is congested.
            flow.control.start_over(flow.snd_max);
            flow.snd_nxt = flow.snd_una;
            self.mark_pump(id);
        }
        Ok(())
    }

    /// Goes back to the first byte not acknowledged, after a time-out.
    pub(super) fn go_back(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        let mss = u32::from(flow.mss);
        flow.control.ssthresh = (flow.snd_max.wrapping_sub(flow.snd_una) / 2).max(4 * mss);
        // A frame's worth, not one segment: the way to a sandbox has no queue that this could fill.
        flow.control.cwnd = 4 * mss;
        flow.control.start_over(flow.snd_max);
        flow.sacked = None;
        flow.snd_nxt = flow.snd_una;
        self.mark_pump(id);
    }
}

/// What selective acknowledgements told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    /// More has arrived.
    pub(super) news: bool,
    /// Something arrived twice: that is why this acknowledgement was sent.
    pub(super) twice: bool,
}

/// Takes selective acknowledgements that came with `ack`.
pub(super) fn take_sack(flow: &mut Flow, ack: u32, options: &[u8]) -> Told {
    let parsed = TcpOptions::parse(options);
    let mut told = Told::default();
    let mut blocks = parsed.sack.as_slice();
    // The first may be of what arrived twice: below all that is acknowledged, or within the second.
    // Source: RFC 2883 section 4.
    if let [(start, end), rest @ ..] = blocks {
        let within = rest
            .first()
            .is_some_and(|(s, e)| le(*s, *start) && le(*end, *e));
        if le(*end, ack) || within {
            told.twice = true;
            twice(flow, *start, *end);
            blocks = rest;
        }
    }
    for &(start, end) in blocks {
        if lt(flow.snd_una, start) && lt(start, end) && le(end, flow.snd_max) {
            let sacked = flow
                .sacked
                .get_or_insert_with(|| Box::new(Ranges::default()));
            let before = sacked.bytes();
            sacked.add(start, end);
            told.news |= sacked.bytes() != before;
        }
    }
    told
}

/// Something arrived twice. If it is all that was sent again, nothing had been lost: the window is what it was, and
/// the next hole has longer to fill by itself. Source: RFC 3708 section 2, RFC 8985 section 6.2.
fn twice(flow: &mut Flow, start: u32, end: u32) {
    let control = &mut flow.control;
    let Some(undo) = control.undo.as_mut() else {
        return;
    };
    if lt(start, undo.from) || lt(control.rexmit, end) || le(end, start) {
        return;
    }
    undo.bytes = undo.bytes.saturating_sub(end.wrapping_sub(start));
    if undo.bytes > 0 {
        return;
    }
    control.cwnd = control.cwnd.max(undo.cwnd);
    control.ssthresh = control.ssthresh.max(undo.ssthresh);
    control.undo = None;
    control.recover = None;
    control.dup_acks = 0;
    control.patience = (control.patience + 2).min(MOST_PATIENCE);
    control.trust = TRUST;
    flow.todo.pump = true;
}

impl Control {
    /// Ends a recovery, where all that is in flight is sent again from its first byte.
    fn start_over(&mut self, snd_max: u32) {
        self.recover = None;
        self.undo = None;
        self.late_at = Tick::NEVER;
        self.resent = snd_max;
        self.dup_acks = 0;
        self.timed = None;
    }

    /// Reordering is possible on this path: a hole has filled by itself.
    pub(super) fn reordered(&mut self) {
        self.patience = self.patience.max(1);
        self.trust = TRUST;
    }

    /// True if what is missing has had its time to arrive; else notes when it will have had. Where nothing was ever
    /// out of order, that is at once. Source: RFC 8985 section 6.2, for the first hole instead of every segment.
    fn is_late(&mut self, now: Tick) -> bool {
        if self.patience == 0 {
            return true;
        }
        if self.late_at == Tick::NEVER {
            let doubled = (self.least_rtt / 4).saturating_mul(1 << (self.patience - 1));
            self.late_at = now + doubled.min(self.srtt.max(LONGEST));
        }
        if now < self.late_at {
            return false;
        }
        self.late_at = Tick::NEVER;
        self.trust = self.trust.saturating_sub(1);
        if self.trust == 0 {
            self.patience = 1;
        }
        true
    }
}
