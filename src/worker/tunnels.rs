//! Stages 1 and 8: The sockets that other hosts send to, on one worker: each has its turns as an endpoint has.

use std::collections::BTreeMap;
use std::io;

use switch_core::addr::PortId;
use switch_core::verdict::{DropReason, Drops};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::underlay::rx::{Carrier, UnderlayRx};
use super::underlay::slow::Slow;
use crate::endpoint::udp::UnderlaySocket;
use crate::host::sockets::FIRST_TOKEN;

/// Sockets that one worker may have.
pub const SOCKETS: usize = 64;
/// In the places of endpoints from here on are sockets of the underlay; so many endpoints there can be.
pub const FIRST: usize = FIRST_TOKEN - 1 - SOCKETS;

/// A socket that peers send to.
#[derive(Debug)]
struct Listening {
    socket: UnderlaySocket,
    carrier: Carrier,
    /// It stands in the line of those that may have a frame.
    ready: bool,
}

/// The receiving side of tunnels.
#[derive(Debug)]
pub struct Tunnels {
    /// Where frames go.
    pub rx: UnderlayRx,
    sockets: Vec<Option<Listening>>,
    /// What the switch dropped of what came, by the port that it came by.
    dropped: BTreeMap<PortId, Drops>,
}

/// The place of a socket in the line of endpoints.
pub(super) fn place(at: usize) -> PortId {
    PortId(u32::try_from(FIRST + at).unwrap_or(u32::MAX))
}

fn at(place: PortId) -> Option<usize> {
    (place.0 as usize).checked_sub(FIRST)
}

impl Tunnels {
    /// Without sockets yet. What is no frame goes to `slow`.
    pub(super) fn new(slow: Option<Slow>) -> Self {
        Self {
            rx: UnderlayRx::new(slow),
            sockets: Vec::new(),
            dropped: BTreeMap::new(),
        }
    }

    /// Takes a socket in, in a place below [`SOCKETS`]. One that was there is given back.
    pub(super) fn listen(
        &mut self,
        at: usize,
        socket: UnderlaySocket,
        carrier: Carrier,
    ) -> Option<UnderlaySocket> {
        if self.sockets.len() <= at {
            self.sockets.resize_with(at + 1, || None);
        }
        let before = self.sockets[at].replace(Listening {
            socket,
            carrier,
            ready: false,
        });
        before.map(|l| l.socket)
    }

    /// Takes a socket out.
    pub(super) fn close(&mut self, at: usize) -> Option<UnderlaySocket> {
        let before = self.sockets.get_mut(at)?.take();
        before.map(|l| l.socket)
    }

    /// A socket may have datagrams. True if it is to be put in the line.
    pub(super) fn wake(&mut self, place: PortId) -> bool {
        let found = at(place).and_then(|at| self.sockets.get_mut(at)?.as_mut());
        found.is_some_and(|l| !core::mem::replace(&mut l.ready, true))
    }

    /// One socket's turn; each frame is given to `each`, which tells why it was dropped. True if there may be more.
    /// Errors: the socket is of no use any more.
    pub(super) fn turn(
        &mut self,
        place: PortId,
        mut each: impl FnMut(u32, PortId, &VnetHdr, &[u8]) -> Option<DropReason>,
    ) -> io::Result<bool> {
        let Self {
            rx,
            sockets,
            dropped,
        } = self;
        let Some(listening) = at(place).and_then(|at| sockets.get_mut(at)?.as_mut()) else {
            return Ok(false);
        };
        let more = rx.turn(
            &listening.socket,
            listening.carrier,
            &mut |net, port, vnet, frame| {
                if let Some(reason) = each(net, port, vnet, frame) {
                    dropped.entry(port).or_default().count(reason);
                }
            },
        )?;
        listening.ready = more;
        Ok(more)
    }

    /// What was dropped of what came by a port.
    #[must_use]
    pub fn dropped(&self, port: PortId) -> Option<&Drops> {
        self.dropped.get(&port)
    }

    /// Forgets what was dropped of what came by a port.
    pub fn forget(&mut self, port: PortId) {
        self.dropped.remove(&port);
    }
}
