//! Connections from the host's own loopback to a published port: joined to a socket opened inside the sandbox, past
//! the switch. Such a client's address means nothing inside, so the server sees the sandbox's own.

mod host;
mod pipe;
mod stock;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use socket2::Socket;
use switch_core::addr::PortId;

use self::pipe::{Pool, Store};

pub use self::host::{SpliceStats, Splices};
pub use self::stock::Stock;

/// Bytes of one direction in one turn before others have theirs.
const TURN: usize = 1 << 20;

/// One of the two sockets of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The one accepted from the host.
    Client,
    /// The one opened inside.
    Inner,
}

/// What becomes of a pair after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It waits for events.
    Wait,
    /// It has more to do.
    Again,
    /// Both directions have ended, one after the other.
    Over,
    /// The connection is lost: both ends are to be reset.
    Lost,
}

/// A socket, and what is known of it from events that tell of changes alone.
#[derive(Debug)]
struct Side {
    socket: Socket,
    readable: bool,
    writable: bool,
    sent_before: bool,
    nodelay: bool,
    /// It has failed. What came from it before is still delivered, as TCP does.
    broken: bool,
}

impl Side {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            readable: false,
            writable: false,
            sent_before: false,
            nodelay: false,
            broken: false,
        }
    }

    /// Nagle's algorithm can only hold back a second write, which would wait for a delayed acknowledgement.
    fn before_send(&mut self) {
        if self.sent_before && !self.nodelay {
            self.nodelay = true;
            let _ = self.socket.set_tcp_nodelay(true);
        }
        self.sent_before = true;
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    store: Option<Store>,
    /// Nothing more comes from its source.
    ended: bool,
    /// Its source has failed; the kernel says so once.
    failed: bool,
    /// Its target knows of its end.
    told: bool,
    /// Bytes delivered.
    bytes: u64,
}

impl Way {
    /// Moves what can be moved, for one turn. True if there may be more. A side that turns out to have failed is
    /// marked as broken: the source only when all that came before has been delivered.
    fn turn(&mut self, from: &mut Side, to: &mut Side, pool: &mut Pool) -> bool {
        let mut budget = TURN;
        let mut more = false;
        while !to.broken {
            let moved = self.fill(from, pool) + self.drain(to);
            if self.failed && self.is_empty() {
                from.broken = true;
            }
            if self.ended && self.is_empty() && !self.told {
                self.told = true;
                // Fails only if the target has failed, which its own direction or an event tells.
                let _ = to.socket.shutdown(Shutdown::Write);
            }
            budget = budget.saturating_sub(moved);
            more = moved > 0;
            if moved == 0 || budget == 0 {
                break;
            }
        }
        if to.broken || self.is_empty() {
            self.store.take().into_iter().for_each(|s| pool.give(s));
        }
        more && !to.broken
    }

    /// Takes bytes from the source into the store, and gives their number.
    fn fill(&mut self, from: &mut Side, pool: &mut Pool) -> usize {
        if !from.readable || self.ended || self.failed {
            return 0;
        }
        let store = self.store.get_or_insert_with(|| pool.take());
        match store.fill(&from.socket) {
            Ok(0) if from.broken => self.failed = true,
            Ok(0) => self.ended = true,
            Ok(n) => return n,
            // With bytes in the store it may be the store that is full.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => from.readable = !store.is_empty(),
            Err(_) => self.failed = true,
        }
        0
    }

    /// Gives bytes from the store to the target, and gives their number.
    fn drain(&mut self, to: &mut Side) -> usize {
        let waiting = self.store.as_mut().filter(|s| !s.is_empty());
        let Some(store) = waiting.filter(|_| to.writable) else {
            return 0;
        };
        to.before_send();
        match store.drain(&to.socket) {
            Ok(n) => {
                self.bytes += n as u64;
                return n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable = false,
            Err(_) => to.broken = true,
        }
        0
    }

    fn is_empty(&self) -> bool {
        self.store.as_ref().is_none_or(Store::is_empty)
    }

    /// Nothing is left to deliver and nothing more comes.
    fn is_done(&self) -> bool {
        (self.ended || self.failed) && self.is_empty()
    }
}

/// Two sockets and the bytes between them.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The endpoint whose published port it came to.
    port: PortId,
    client: Side,
    inner: Side,
    /// The inner socket's handshake is not over.
    connecting: bool,
    /// From client to inner.
    up: Way,
    /// From inner to client.
    down: Way,
}

impl Pair {
    /// Joins a connected and a connecting socket; neither blocks.
    fn new(port: PortId, client: Socket, inner: Socket) -> Self {
        Self {
            port,
            client: Side::new(client),
            inner: Side::new(inner),
            connecting: true,
            up: Way::default(),
            down: Way::default(),
        }
    }

    /// Bytes delivered, both ways.
    fn bytes(&self) -> u64 {
        self.up.bytes + self.down.bytes
    }

    /// Takes in what an event says of one end.
    fn hear(&mut self, end: End, event: &Event) {
        let connecting = self.connecting && end == End::Inner;
        let side = match end {
            End::Client => &mut self.client,
            End::Inner => &mut self.inner,
        };
        let failed = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        side.readable |= event.is_readable() || event.is_read_closed() || failed;
        side.writable |= event.is_writable() || failed;
        if failed && (connecting || !matches!(side.socket.take_error(), Ok(None))) {
            side.broken = true;
        } else if connecting && side.writable {
            self.connecting = false;
        }
    }

    /// Moves what can be moved.
    fn turn(&mut self, pool: &mut Pool) -> After {
        if self.connecting {
            return if self.client.broken || self.inner.broken {
                After::Lost
            } else {
                After::Wait
            };
        }
        let up = self.up.turn(&mut self.client, &mut self.inner, pool);
        let down = self.down.turn(&mut self.inner, &mut self.client, pool);
        let lost = match (self.client.broken, self.inner.broken) {
            (true, true) => true,
            (true, false) => self.up.is_done(),
            (false, true) => self.down.is_done(),
            (false, false) => false,
        };
        if lost {
            After::Lost
        } else if self.up.told && self.down.told {
            After::Over
        } else if up || down {
            After::Again
        } else {
            After::Wait
        }
    }

    /// The client has all that comes from inside, or is gone.
    fn is_passed_on(&self) -> bool {
        self.connecting || self.down.told || self.client.broken
    }

    /// Closes both ends; with RST if `reset`. Gives back what was lent.
    fn close(self, reset: bool, pool: &mut Pool) {
        let stores = [self.up.store, self.down.store];
        stores.into_iter().flatten().for_each(|s| pool.give(s));
        if reset {
            for side in [&self.client, &self.inner] {
                let _ = side.socket.set_linger(Some(Duration::ZERO));
            }
        }
    }
}
