//! Stage 7-8: Frames from endpoint to endpoint: neighbours of one flow that wait already leave as one, for a system
//! call costs more than all else. What is merged is copied: it is small, or it would have come as one.

use super::rules::Ends;
use super::vlans::{Exit, Source};
use super::{Switch, egress, seconds};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::gso::merge::Run;
use crate::policy::limit::Load;
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// Frames of one flow on their way to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pending {
    run: Option<(Exit, Run)>,
    /// Their payload; kept for its memory.
    bytes: Vec<u8>,
}

impl Switch {
    /// Sends a frame to the one station that it is for, or to everybody while nobody knows where that is.
    #[inline]
    pub(super) fn unicast<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let now = cx.now;
        let Some(port) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        let learned = || {
            self.macs
                .lookup(self.config.network, packet.dst, seconds(now))
        };
        let to = self.ports.by_mac(packet.dst).or_else(learned);
        match to.and_then(|to| self.ports.get(to)) {
            Some(to) if to.id == from => Err(DropReason::Hairpin),
            Some(to) if to.isolated && port.isolated => Err(DropReason::Isolated),
            Some(to) if to.remote.is_some() => {
                let to = to.id;
                self.depart(host, cx, (from, to), packet, vnet, frame)
            }
            Some(to) if !egress::fits(frame, packet, vnet, to.mtu) => Err(DropReason::TooBig),
            Some(to) if port.policy.is_some() || to.policy.is_some() => {
                let to = to.id;
                self.admit(host, cx, Ends::own(from, to), packet, frame)?;
                self.deliver(host, now, to, packet, vnet, frame)
            }
            Some(to) if !to.has_room(now, frame, packet, vnet) => Err(DropReason::RateLimited),
            Some(to) => {
                let to = Exit::own(to, packet);
                self.hand_over(host, to, packet, vnet, frame)
            }
            None => {
                if let Some(limits) = &port.limits {
                    limits.spread(now, || Load::of(frame, packet, vnet))?;
                }
                self.spread(host, now, Source::own(from), packet, vnet, frame)
            }
        }
    }

    /// Sends a frame to everybody, where its sender's rules let it.
    pub(super) fn spread<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        from: Source,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let port = self.ports.get(from.port);
        if let Some(port) = port.filter(|p| p.policy.is_some()) {
            self.admit_all(now, (port, from.vlan), packet, frame)?;
        }
        self.flood(host, now, from, packet, vnet, frame)
    }

    /// Sends a frame that has been let through.
    pub(super) fn deliver<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        to: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        match self.ports.get(to) {
            None => Err(DropReason::NoFlow),
            Some(to) if !to.has_room(now, frame, packet, vnet) => Err(DropReason::RateLimited),
            Some(to) => {
                let to = Exit::own(to, packet);
                self.hand_over(host, to, packet, vnet, frame)
            }
        }
    }

    #[inline]
    pub(super) fn hand_over<H: Host>(
        &mut self,
        host: &mut H,
        to: Exit,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        if self.forward(host, to, packet, vnet, frame) {
            Ok(Verdict::Forward(to.port))
        } else {
            Err(DropReason::TxFailed)
        }
    }

    /// Sends a frame, or keeps it for the next to join. False if the endpoint did not take it.
    #[inline]
    pub(super) fn forward<H: Host>(
        &mut self,
        host: &mut H,
        to: Exit,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> bool {
        let pending = &mut self.pending;
        if let Some((at, run)) = pending.run.as_mut()
            && *at == to
            && let Some(more) = run.add(frame, packet, vnet)
        {
            let more = frame.get(more).unwrap_or_default();
            pending.bytes.extend_from_slice(more);
            return true;
        }
        self.end_run(host);
        if to.merges
            && let Some(run) = Run::start(frame, packet, vnet)
        {
            let first = frame.get(run.first_payload()).unwrap_or_default();
            self.pending.bytes.clear();
            self.pending.bytes.extend_from_slice(first);
            self.pending.run = Some((to, run));
            return true;
        }
        to.send(host, vnet, frame, &[])
    }

    /// Sends what was kept. To be called when no frame follows at once.
    #[inline]
    pub fn end_run<H: Host>(&mut self, host: &mut H) {
        let Some((to, mut run)) = self.pending.run.take() else {
            return;
        };
        let frames = run.frames();
        let (vnet, head) = run.finish();
        if !to.send(host, &vnet, head, &self.pending.bytes) {
            for _ in 0..frames {
                self.drops.count(DropReason::TxFailed);
            }
        }
    }
}
