//! Spliced pairs in the table of sockets.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::Interest;
use mio::event::Event;
use socket2::Socket;
use switch_core::addr::{PortId, SockId};

use super::pipe::Pool;
use super::{After, End, Pair, Stock};
use crate::host::sockets::{HostIo, Kind, Published, Slot};

/// Pairs at once; more clients take the way through the switch, which bounds its flows by itself.
const PAIRS: usize = 8192;

/// What was spliced, and what could have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpliceStats {
    /// Connections joined.
    pub joined: u64,
    /// Of those, ones that were reset: their server refused, or an end failed.
    pub lost: u64,
    /// Bytes delivered, both ways.
    pub bytes: u64,
    /// Connections that took the way through the switch for want of a socket inside.
    pub no_socket: u64,
    /// The same because there were as many pairs as may be.
    pub crowded: u64,
}

/// What splicing needs: for each endpoint that allows it a stock, and pipes.
#[derive(Debug, Default)]
pub struct Splices {
    stocks: Vec<(PortId, Arc<Stock>)>,
    pool: Pool,
    pairs: usize,
    stats: SpliceStats,
}

impl Drop for Splices {
    /// Says what it has done.
    fn drop(&mut self) {
        let SpliceStats {
            joined,
            lost,
            bytes,
            no_socket,
            crowded,
        } = self.stats;
        if joined + no_socket + crowded > 0 {
            tracing::info!(
                "spliced: {joined} connections, {lost} of them reset, {bytes} bytes; {no_socket} for want of a socket and {crowded} for want of room through the switch"
            );
        }
    }
}

impl Splices {
    /// A socket inside that connects to `to`, unless the way through the switch is to be taken.
    fn reach(&mut self, from: SocketAddr, to: Published) -> Option<Socket> {
        if !from.ip().is_loopback() {
            return None;
        }
        let (_, stock) = self.stocks.iter().find(|(port, _)| *port == to.port)?;
        if self.pairs >= PAIRS {
            self.stats.crowded += 1;
            return None;
        }
        let Some(inner) = stock.take(to.to.is_ipv6()) else {
            self.stats.no_socket += 1;
            return None;
        };
        match inner.connect(&to.to.into()) {
            Ok(()) => Some(inner),
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Some(inner),
            // No way to that address from inside: the sandbox has changed it.
            Err(_) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn use_pool(&mut self, pool: Pool) {
        self.pool = pool;
    }
}

impl HostIo {
    /// Splices connections from the host's loopback to published ports of `port`, while `stock` has sockets.
    pub fn splice_to(&mut self, port: PortId, stock: Arc<Stock>) {
        self.splices.stocks.push((port, stock));
    }

    /// Splices no more connections to `port`; those that are go on.
    pub fn splice_no_more_to(&mut self, port: PortId) {
        self.splices.stocks.retain(|(kept, _)| *kept != port);
    }

    /// Ends what is spliced to an endpoint that goes: both ends are reset.
    pub(in crate::host::sockets) fn end_splices(&mut self, port: PortId) {
        self.splice_no_more_to(port);
        if self.splices.pairs == 0 {
            return;
        }
        let slots = self.slots.iter();
        let of_port = slots
            .filter(|(_, slot)| matches!(&slot.kind, Kind::Splice(pair, _) if pair.port == port));
        let ids: Vec<_> = of_port
            .filter_map(|(at, _)| u32::try_from(at).ok())
            .collect();
        for id in ids {
            self.end_splice(SockId(id), true);
        }
    }

    /// What was spliced so far.
    #[must_use]
    pub const fn splice_stats(&self) -> SpliceStats {
        self.splices.stats
    }

    /// Splices an accepted connection, which does not block, or gives it back.
    pub(in crate::host::sockets) fn try_splice(
        &mut self,
        client: Socket,
        from: SocketAddr,
        to: Published,
    ) -> Option<Socket> {
        let Some(inner) = self.splices.reach(from, to) else {
            return Some(client);
        };
        let (client_fd, inner_fd) = (client.as_raw_fd(), inner.as_raw_fd());
        let both = Interest::READABLE | Interest::WRITABLE;
        let pair = Box::new(Pair::new(to.port, client, inner));
        // Where the poll takes no more descriptors the pair is dropped, which closes both.
        let Ok(id) = self.insert(client_fd, both, Kind::Splice(pair, None)) else {
            return None;
        };
        self.splices.pairs += 1;
        self.splices.stats.joined += 1;
        match self.insert(inner_fd, both, Kind::SplicedTo(id)) {
            Ok(other) => {
                if let Some(Kind::Splice(_, inner)) = self.kind_mut(id) {
                    *inner = Some(other);
                }
            }
            Err(_) => self.end_splice(id, true),
        }
        None
    }

    /// True if all that the sandbox's ends of spliced connections have sent has reached the clients.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        let waits = |kind: &Kind| matches!(kind, Kind::Splice(pair, _) if !pair.is_passed_on());
        !self.slots.iter().any(|(_, slot)| waits(&slot.kind))
    }

    /// Takes an event of either end. True if there is more to do.
    pub(in crate::host::sockets) fn splice_event(
        &mut self,
        index: u32,
        event: Option<&Event>,
    ) -> bool {
        let (id, end) = match self.kind_mut(SockId(index)) {
            Some(Kind::SplicedTo(id)) => (*id, End::Inner),
            _ => (SockId(index), End::Client),
        };
        let Some(Slot {
            kind: Kind::Splice(pair, _),
            ..
        }) = self.slots.get_mut(id.0 as usize)
        else {
            return false;
        };
        if let Some(event) = event {
            pair.hear(end, event);
        }
        let before = pair.bytes();
        let after = pair.turn(&mut self.splices.pool);
        self.splices.stats.bytes += pair.bytes() - before;
        match after {
            After::Wait => false,
            After::Again => true,
            After::Over => {
                self.end_splice(id, false);
                false
            }
            After::Lost => {
                self.end_splice(id, true);
                false
            }
        }
    }

    fn kind_mut(&mut self, id: SockId) -> Option<&mut Kind> {
        self.slots.get_mut(id.0 as usize).map(|slot| &mut slot.kind)
    }

    fn end_splice(&mut self, id: SockId, reset: bool) {
        let Some(Slot {
            kind: Kind::Splice(pair, inner),
            ..
        }) = self.slots.try_remove(id.0 as usize)
        else {
            return;
        };
        if let Some(inner) = inner {
            self.close(inner);
        }
        self.splices.pairs -= 1;
        self.splices.stats.lost += u64::from(reset);
        pair.close(reset, &mut self.splices.pool);
    }
}
