//! Stages 1 and 8: What comes from other hosts goes through the switches of its networks, as what endpoints send does.

use std::io;

use switch_core::addr::PortId;
use switch_core::time::Tick;
use switch_core::verdict::{DropReason, Verdict};

use super::{Board, Net};
use crate::endpoint::udp::UnderlaySocket;
use crate::host::sockets::HostIo;
use crate::worker::tunnels::{self, Tunnels};
use crate::worker::underlay::Way;
use crate::worker::underlay::rx::Carrier;
use crate::worker::underlay::slow::Slow;

impl Board {
    /// What comes from other hosts.
    pub fn tunnels(&mut self) -> &mut Tunnels {
        let without = || Box::new(Tunnels::new(None));
        self.tunnels.get_or_insert_with(without)
    }

    /// What of the underlay was dropped before it came to a switch, or behind it, by reason.
    pub fn underlay_drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let came = self.tunnels.iter().flat_map(|t| t.rx.drops().iter());
        let went = self.io.underlay.iter().flat_map(|u| u.drops().iter());
        came.chain(went)
    }

    /// Gets ready for what comes from other hosts. What is no frame goes to `slow`.
    pub fn open_tunnels(&mut self, slow: Slow) {
        self.tunnels = Some(Box::new(Tunnels::new(Some(slow))));
    }

    /// Takes a socket in that other hosts send to, in a place below [`tunnels::SOCKETS`].
    /// Errors: it cannot be polled.
    pub fn listen(
        &mut self,
        at: usize,
        socket: UnderlaySocket,
        carrier: Carrier,
    ) -> io::Result<()> {
        let place = tunnels::place(at);
        self.io.poll_underlay(&socket, place)?;
        drop(self.tunnels().listen(at, socket, carrier));
        self.wake(place);
        Ok(())
    }

    /// Takes a socket out that other hosts send to, and gives it back.
    pub fn close_underlay(&mut self, at: usize) -> Option<UnderlaySocket> {
        let socket = self.tunnels.as_mut()?.close(at)?;
        self.io.forget_underlay(&socket);
        Some(socket)
    }

    /// Has packets no larger than what the ways to other hosts take, where the kernel has refused some, or takes them
    /// again.
    pub(super) fn follow_ways(&mut self, now: Tick) {
        while let Some(refused) = self.io.underlay.as_mut().and_then(|u| u.take_refused()) {
            if let Way::Sealed { peer, .. } = refused.way {
                if let Some(underlay) = &self.io.underlay {
                    underlay.too_big(peer);
                }
                continue;
            }
            let port = self.net(refused.net).and_then(|s| s.port(refused.port));
            let mtu = port.map(|port| port.mtu);
            if let Some(mtu) = mtu.and_then(|mtu| self.narrows.take(now, refused, mtu)) {
                self.with(refused.net, |switch, _| {
                    switch.set_remote_mtu(refused.port, mtu);
                });
            }
        }
        for _ in 0..self.narrows.turn() {
            let Some((way, mtu)) = self.narrows.next(now) else {
                return;
            };
            self.with(way.net, |switch, _| switch.set_remote_mtu(way.port, mtu));
        }
    }

    /// One turn of a socket that other hosts send to. True if it may have more.
    pub(super) fn underlay_turn(&mut self, now: Tick, place: PortId) -> io::Result<bool> {
        let Some(tunnels) = &mut self.tunnels else {
            return Ok(false);
        };
        let (io, nets, active, counts) = (
            &mut self.io,
            &mut self.nets,
            &mut self.active,
            &mut self.counts,
        );
        let mut at: Option<u32> = None;
        let more = tunnels.turn(place, |net, port, vnet, frame| {
            if at != Some(net) {
                end_run(nets, io, at);
                at = Some(net);
            }
            let found = nets.get_mut(net as usize).and_then(Option::as_mut);
            let Some(found) = found else {
                return Some(DropReason::NoFlow);
            };
            io.net = net;
            counts.0 += 1;
            if !core::mem::replace(&mut found.active, true) {
                active.push(net);
            }
            match found.switch.handle_next(io, now, port, vnet, frame) {
                Verdict::Drop(reason) => Some(reason),
                Verdict::Forward(_) | Verdict::Flood | Verdict::Answer | Verdict::Translate => None,
            }
        });
        end_run(nets, io, at);
        more
    }
}

/// Sends what a network has kept for frames that would join it.
fn end_run(nets: &mut [Option<Net>], io: &mut HostIo, net: Option<u32>) {
    let found = net.and_then(|net| nets.get_mut(net as usize)?.as_mut());
    if let (Some(net), Some(found)) = (net, found) {
        io.net = net;
        found.switch.end_run(io);
    }
}
