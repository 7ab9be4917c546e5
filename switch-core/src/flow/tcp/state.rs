//! Stage 6: The state of one connection: small, plain data.

use core::net::IpAddr;
use core::time::Duration;

use super::ring::Ring;
use super::seq::{self, Ahead, Ranges, dist};
use crate::addr::{Mac, PortId, SockId};
use crate::flow::host::{HostError, TcpHost};
use crate::policy::quota::Held;
use crate::time::Tick;

/// Who talks to whom, from the sandbox's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The sandbox's address.
    pub guest: IpAddr,
    /// The sandbox's port.
    pub guest_port: u16,
    /// The other side's address, as the sandbox knows it.
    pub remote: IpAddr,
    /// The other side's port.
    pub remote_port: u16,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The sandbox's SYN is here, the host is connecting.
    Connecting,
    /// The host has connected, our SYN-ACK is under way.
    SynReceived,
    /// Accepted from the host, our SYN to the sandbox is under way.
    SynSent,
    /// Data flows; each direction ends on its own.
    Established,
    /// All is over; only answers to late segments are left.
    TimeWait,
}

impl State {
    /// The name by which it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::SynReceived => "syn-received",
            Self::SynSent => "syn-sent",
            Self::Established => "established",
            Self::TimeWait => "time-wait",
        }
    }
}

/// What the end of a batch has to do for a flow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Todo {
    /// In the dirty list.
    pub(super) listed: bool,
    /// An acknowledgement must go out now.
    pub(super) ack: bool,
    /// An acknowledgement may wait for data to ride on.
    pub(super) ack_later: bool,
    /// There may be something to send to the sandbox.
    pub(super) pump: bool,
    /// The host's socket reported something behind the end of its stream.
    pub(super) look: bool,
    /// In line for a turn to send.
    pub(super) queued: bool,
    /// Waiting until its endpoint may receive more.
    pub(super) held: bool,
    /// Its endpoint may, and it is the next.
    pub(super) let_go: bool,
}

/// Loss recovery and pacing towards the sandbox. Source: RFC 5681, RFC 6298, RFC 6675 in a small form.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) cwnd: u32,
    pub(super) ssthresh: u32,
    pub(super) dup_acks: u8,
    /// End of what was in flight when loss was noticed; recovery ends there.
    pub(super) recover: Option<u32>,
    /// How far holes have been filled in this recovery.
    pub(super) rexmit: u32,
    pub(super) backoff: u8,
    pub(super) srtt: Duration,
    pub(super) rttvar: Duration,
    /// The segment being timed: what acknowledges it, and when it left.
    pub(super) timed: Option<(u32, Tick)>,
    /// The shortest round trip yet.
    pub(super) least_rtt: Duration,
    /// How often the time that a hole has to fill by itself was doubled; zero while nothing was out of order.
    pub(super) patience: u8,
    /// Recoveries for which that is to last.
    pub(super) trust: u8,
    /// When the first hole has had its time.
    pub(super) late_at: Tick,
    /// When what is not known to be lost may be sent again.
    pub(super) again_at: Tick,
    /// The highest number ever sent again, or `snd_una`.
    pub(super) resent: u32,
    /// What was before the last recovery, until more than that recovery is known to have been needed.
    pub(super) undo: Option<Undo>,
}

/// The state before a recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Undo {
    pub(super) cwnd: u32,
    pub(super) ssthresh: u32,
    /// Where it began.
    pub(super) from: u32,
    /// Sent again, and not known to have arrived twice.
    pub(super) bytes: u32,
}

/// First congestion window. A TAP loses nothing unless its owner stalls.
const FIRST_CWND: u32 = 128 * 1024;
/// Lower bound of the retransmission time. Source: RFC 6298 asks for 1 s; Linux has 200 ms.
const MIN_RTO: Duration = Duration::from_millis(200);
/// Upper bound of the retransmission time.
const MAX_RTO: Duration = Duration::from_secs(60);

impl Control {
    fn new(iss: u32) -> Self {
        Self {
            cwnd: FIRST_CWND,
            ssthresh: u32::MAX >> 1,
            dup_acks: 0,
            recover: None,
            rexmit: 0,
            backoff: 0,
            srtt: Duration::ZERO,
            rttvar: Duration::ZERO,
            timed: None,
            least_rtt: Duration::MAX,
            patience: 0,
            trust: 0,
            late_at: Tick::NEVER,
            again_at: Tick::ZERO,
            resent: iss,
            undo: None,
        }
    }

    /// Takes a measured round trip in. Source: RFC 6298 section 2.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.least_rtt = self.least_rtt.min(rtt);
        if self.srtt.is_zero() {
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        } else {
            self.rttvar = self.rttvar * 3 / 4 + self.srtt.abs_diff(rtt) / 4;
            self.srtt = self.srtt * 7 / 8 + rtt / 8;
        }
        self.backoff = 0;
    }

    /// The retransmission time now.
    pub(super) fn rto(&self) -> Duration {
        let base = if self.srtt.is_zero() {
            Duration::from_secs(1)
        } else {
            (self.srtt + self.rttvar * 4).max(MIN_RTO)
        };
        (base * (1 << self.backoff.min(8))).min(MAX_RTO)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Flow {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) port: PortId,
    pub(super) mac: Mac,
    pub(super) sock: Option<SockId>,
    /// Its part of what its endpoint may have.
    pub(super) share: Option<Held>,
    pub(super) tos: u8,
    pub(super) todo: Todo,

    // Sandbox to host.
    pub(super) rcv_nxt: u32,
    /// Right edge of the window offered; never moves back.
    pub(super) rcv_edge: u32,
    pub(super) rcv_scale: u8,
    /// How much may wait in all: the window that is offered when nothing does.
    pub(super) grant: u32,
    /// The last epoch in which the sandbox sent data.
    pub(super) epoch: u64,
    /// Bytes since the grant last grew.
    pub(super) since_growth: u32,
    /// The acknowledgement number sent last.
    pub(super) acked: u32,
    /// Whether the sandbox uses up half of its window before it is told of any: then each acknowledgement wakes
    /// its sender once for half a window, and not for each frame. Over with the first one that came late.
    pub(super) fills: bool,
    pub(super) ring: Option<Box<Ring>>,
    pub(super) ahead: Option<Box<Ahead>>,
    /// What came last although it was here already, until that is told.
    pub(super) twice: Option<(u32, u32)>,
    pub(super) sack_ok: bool,
    /// The sequence number of the sandbox's FIN, once seen.
    pub(super) fin_at: Option<u32>,
    /// The FIN has been received in order.
    pub(super) guest_closed: bool,
    /// The host ended its direction before the sandbox did.
    pub(super) host_first: bool,
    /// The sandbox's side was reset after its end: nothing is sent to it any more.
    pub(super) abandoned: bool,
    /// The host's socket has been shut for writing.
    pub(super) host_shut: bool,
    /// The host's socket takes nothing until it says so.
    pub(super) blocked: bool,

    // Host to sandbox.
    pub(super) snd_una: u32,
    pub(super) snd_nxt: u32,
    /// Highest ever sent.
    pub(super) snd_max: u32,
    pub(super) snd_wnd: u32,
    /// Sequence and acknowledgement number of the segment that last set the window.
    pub(super) wnd_from: (u32, u32),
    pub(super) snd_scale: u8,
    pub(super) mss: u16,
    /// Sequence number of the first byte that the host's socket still holds.
    pub(super) base: u32,
    /// Something may wait at the host's socket.
    pub(super) readable: bool,
    /// The host's socket reported the end of its stream, perhaps behind data.
    pub(super) ending: bool,
    /// Sequence number of our FIN, once everything before it has been peeked.
    pub(super) eof_at: Option<u32>,
    pub(super) sacked: Option<Box<Ranges>>,
    pub(super) control: Control,

    /// Payload from the sandbox, and to it.
    pub(super) bytes: (u64, u64),

    // Time.
    /// The last packet.
    pub(super) seen: Tick,
    pub(super) rto_at: Tick,
    pub(super) ack_at: Tick,
    pub(super) idle_at: Tick,
    pub(super) armed: Tick,
    pub(super) probes: u8,
}

impl Flow {
    pub(super) fn new(key: Key, state: State, port: PortId, mac: Mac, iss: u32) -> Self {
        Self {
            key,
            state,
            port,
            mac,
            sock: None,
            share: None,
            tos: 0,
            todo: Todo::default(),
            rcv_nxt: 0,
            rcv_edge: 0,
            rcv_scale: 0,
            grant: 0,
            epoch: 0,
            since_growth: 0,
            acked: 0,
            fills: false,
            ring: None,
            ahead: None,
            twice: None,
            sack_ok: false,
            fin_at: None,
            guest_closed: false,
            host_first: false,
            abandoned: false,
            host_shut: false,
            blocked: false,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            snd_wnd: 0,
            wnd_from: (0, 0),
            snd_scale: 0,
            mss: 536,
            base: iss.wrapping_add(1),
            readable: false,
            ending: false,
            eof_at: None,
            sacked: None,
            control: Control::new(iss),
            bytes: (0, 0),
            seen: Tick::ZERO,
            rto_at: Tick::NEVER,
            ack_at: Tick::NEVER,
            idle_at: Tick::NEVER,
            armed: Tick::NEVER,
            probes: 0,
        }
    }

    /// Bytes acknowledged to the sandbox that wait for the host.
    pub(super) fn waiting(&self) -> u32 {
        let data_end = self.data_end();
        self.ring
            .as_ref()
            .map_or(0, |r| data_end.wrapping_sub(r.head()))
    }

    /// The end of what the sandbox has sent in order, without its FIN.
    pub(super) fn data_end(&self) -> u32 {
        if self.guest_closed {
            self.rcv_nxt.wrapping_sub(1)
        } else {
            self.rcv_nxt
        }
    }

    /// The right edge that could be offered now.
    pub(super) fn wanted_edge(&self) -> u32 {
        let free = self.grant.saturating_sub(self.waiting());
        seq::max(self.rcv_edge, self.rcv_nxt.wrapping_add(free))
    }

    /// What the sandbox has been offered and has not used.
    pub(super) fn offered(&self) -> u32 {
        u32::try_from(seq::diff(self.rcv_edge, self.rcv_nxt)).unwrap_or(0)
    }

    /// Bytes (and FIN) sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.snd_una)
    }

    /// Bytes that may be sent now: the window counts from what is acknowledged, the path has room again for what is
    /// known to have left it. Source: RFC 6675 section 5.
    pub(super) fn room(&self) -> u32 {
        let flying = self.in_flight();
        let arrived = self.sacked.as_ref().map_or(0, |s| s.bytes());
        let path = self
            .control
            .cwnd
            .saturating_sub(flying.saturating_sub(arrived));
        self.snd_wnd.saturating_sub(flying).min(path)
    }

    /// Notes where the host's stream ends.
    pub(super) fn end_at(&mut self, seq: u32) {
        self.readable = false;
        self.eof_at = Some(seq);
        self.host_first = !self.guest_closed;
    }

    /// Bytes acknowledged by the sandbox that the host's socket still holds.
    pub(super) fn spent(&self) -> u32 {
        let una = match self.eof_at {
            Some(end) => seq::min(self.snd_una, end),
            None => self.snd_una,
        };
        u32::try_from(seq::diff(una, self.base)).unwrap_or(0)
    }

    /// Takes what the sandbox has acknowledged off the host's socket, if it is `least` bytes or more.
    /// Errors: what the socket reported.
    pub(super) fn discard<H: TcpHost>(
        &mut self,
        host: &mut H,
        least: u32,
    ) -> Result<(), HostError> {
        let spent = self.spent();
        if let Some(sock) = self.sock
            && spent >= least.max(1)
        {
            host.tcp_discard(sock, spent as usize)?;
            self.base = self.base.wrapping_add(spent);
        }
        Ok(())
    }

    /// True once our FIN has been acknowledged.
    pub(super) fn fin_acked(&self) -> bool {
        self.eof_at.is_some_and(|end| seq::lt(end, self.snd_una))
    }

    /// The next deadline of this flow.
    pub(super) fn deadline(&self) -> Tick {
        self.rto_at
            .min(self.ack_at)
            .min(self.idle_at)
            .min(self.control.late_at)
    }

    /// Moves the send position on.
    pub(super) fn sent(&mut self, len: usize) {
        self.snd_nxt = self.snd_nxt.wrapping_add(dist(len));
        self.snd_max = seq::max(self.snd_max, self.snd_nxt);
    }
}
