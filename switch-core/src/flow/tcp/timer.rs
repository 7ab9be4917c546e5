//! Stage 6: Deadlines of connections: retransmission, window probes, late acknowledgements, keep-alive.

use core::time::Duration;

use super::segment;
use super::state::State;
use super::{Cx, TcpFlows};
use crate::flow::host::{TcpHost, Tx};
use crate::time::Tick;

/// A connection that has been silent so long is probed. Source: RFC 9293 section 3.8.4, two hours at least.
const KEEP_ALIVE: Duration = Duration::from_secs(7_200);
/// Between probes of a silent sandbox, and how many. Source: Linux's tcp_keepalive_intvl and _probes.
const KEEP_ALIVE_PROBE: Duration = Duration::from_secs(75);
const KEEP_ALIVE_PROBES: u8 = 9;
/// How long what the sandbox has acknowledged may stay in the host's socket, whatever else goes on.
const TIDY: Duration = Duration::from_millis(20);
/// Retransmissions of a SYN or SYN-ACK before giving up. Source: Linux's tcp_syn_retries.
const SYN_TRIES: u8 = 6;
/// Retransmissions of data before giving up. Source: Linux's tcp_retries2.
const TRIES: u8 = 15;

impl TcpFlows {
    /// The next deadline, or a little before it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let held = self.brakes.poll_timeout();
        [self.wheel.poll_timeout(), held]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx) {
        let mut due = core::mem::take(&mut self.due);
        self.wheel.expire(cx.now, &mut |id| due.push(id));
        for id in due.drain(..) {
            self.expired(host, cx, id);
        }
        self.due = due;
        self.flush(host, cx);
    }

    fn expired<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        flow.armed = Tick::NEVER;
        if flow.ack_at <= cx.now {
            flow.ack_at = Tick::NEVER;
            flow.fills = false;
            self.mark_ack(id);
        }
        if self
            .flows
            .get(id as usize)
            .is_some_and(|f| f.control.late_at <= cx.now)
        {
            self.recover(host, cx, id, false);
        }
        if self
            .flows
            .get(id as usize)
            .is_some_and(|f| f.rto_at <= cx.now)
        {
            self.retransmit(host, cx, id);
        }
        if self
            .flows
            .get(id as usize)
            .is_some_and(|f| f.idle_at <= cx.now)
        {
            self.idle(host, cx, id);
        }
        self.rearm(id);
    }

    fn retransmit<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        flow.rto_at = Tick::NEVER;
        flow.control.backoff = flow.control.backoff.saturating_add(1);
        let tries = flow.control.backoff;
        match flow.state {
            State::SynSent if tries > SYN_TRIES => self.remove(host, id, true),
            State::SynSent => self.send_syn(host, cx, id),
            State::SynReceived if tries > SYN_TRIES => self.remove(host, id, true),
            State::SynReceived => {
                flow.rto_at = cx.now + flow.control.rto();
                self.syn_ack(host, cx, id);
            }
            State::Established => {
                if flow.snd_una == flow.snd_max || flow.snd_wnd == 0 {
                    // A window probe: an old byte's number with no data, which must be answered.
                    flow.rto_at = cx.now + flow.control.rto();
                    let seq = flow.snd_una.wrapping_sub(1);
                    self.used += segment::send(host, cx, flow, 0, seq, &[]) as usize;
                    self.mark_pump(id);
                    if self.probed_in_vain(id) {
                        self.reset_guest(host, cx, id);
                    }
                } else if tries > TRIES {
                    self.reset_guest(host, cx, id);
                } else {
                    flow.rto_at = cx.now + flow.control.rto();
                    self.go_back(id);
                }
            }
            State::Connecting | State::TimeWait => {}
        }
    }

    /// Counts a probe; true if as many as a dead sandbox would leave unanswered were.
    fn probed_in_vain(&mut self, id: u32) -> bool {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return false;
        };
        flow.probes = flow.probes.saturating_add(1);
        if flow.snd_una == flow.snd_max && !flow.readable {
            flow.rto_at = Tick::NEVER;
            flow.control.backoff = 0;
            return false;
        }
        flow.probes > TRIES
    }

    fn idle<H: Tx + TcpHost>(&mut self, host: &mut H, cx: &Cx, id: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else {
            return;
        };
        match flow.state {
            State::TimeWait => self.remove(host, id, false),
            State::Established => {
                if flow.spent() > 0 {
                    flow.idle_at = cx.now + KEEP_ALIVE;
                    if flow.discard(host, 1).is_err() {
                        self.reset_guest(host, cx, id);
                    }
                    return;
                }
                if flow.probes >= KEEP_ALIVE_PROBES {
                    self.reset_guest(host, cx, id);
                    return;
                }
                flow.probes += 1;
                flow.idle_at = cx.now + KEEP_ALIVE_PROBE;
                let seq = flow.snd_una.wrapping_sub(1);
                self.used += segment::send(host, cx, flow, 0, seq, &[]) as usize;
            }
            State::Connecting | State::SynReceived | State::SynSent => flow.idle_at = Tick::NEVER,
        }
    }

    /// Notes that a connection is in use: its idle deadline moves. The wheel is only touched when it fires.
    pub(super) fn touch(&mut self, cx: &Cx, id: u32) {
        if let Some(flow) = self.flows.get_mut(id as usize)
            && flow.state == State::Established
        {
            flow.seen = cx.now;
            flow.idle_at = if flow.spent() > 0 {
                // Not moved by traffic the other way.
                flow.idle_at.min(cx.now + TIDY)
            } else {
                cx.now + KEEP_ALIVE
            };
        }
    }
}
