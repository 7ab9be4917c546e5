//! Stage 7-8: Frames from endpoint to endpoint: neighbours of one flow that wait already leave as one, for a system
//! call costs more than all else. What is merged is copied: it is small, or it would have come as one.

use std::io::IoSlice;

use super::Switch;
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::gso::merge::Run;
use crate::verdict::DropReason;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// Frames of one flow on their way to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pending {
    run: Option<(PortId, Run)>,
    /// Their payload; kept for its memory.
    bytes: Vec<u8>,
}

impl Switch {
    /// Sends a frame, or keeps it for the next to join. False if the endpoint did not take it.
    #[inline]
    pub(super) fn forward<H: Host>(
        &mut self,
        host: &mut H,
        (to, merges): (PortId, bool),
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
        if merges && let Some(run) = Run::start(frame, packet, vnet) {
            let first = frame.get(run.first_payload()).unwrap_or_default();
            self.pending.bytes.clear();
            self.pending.bytes.extend_from_slice(first);
            self.pending.run = Some((to, run));
            return true;
        }
        host.tx(to, vnet, &[IoSlice::new(frame)])
    }

    /// Sends what was kept. To be called when no frame follows at once.
    #[inline]
    pub fn end_run<H: Host>(&mut self, host: &mut H) {
        let Some((to, mut run)) = self.pending.run.take() else {
            return;
        };
        let frames = run.frames();
        let (vnet, head) = run.finish();
        let pieces = [IoSlice::new(head), IoSlice::new(&self.pending.bytes)];
        if !host.tx(to, &vnet, &pieces) {
            for _ in 0..frames {
                self.drops.count(DropReason::TxFailed);
            }
        }
    }
}
