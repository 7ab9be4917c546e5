//! Connections to resolvers: a few for each, shared by its queries, closed when they rest. Source: RFC 7766.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::Interest;
use switch_core::addr::SockId;
use switch_core::flow::event::HostEvent;
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use super::dns::{Ask, DnsStream};
use super::{HostIo, Kind, Slot};

/// Connections that one network has to one resolver, before queries share one with others: a resolver that answers in
/// order lets a slow answer hold up all behind it.
const LINES: usize = 4;
/// How long one rests before it is closed. Source: RFC 7766 section 6.2.3 asks for a few seconds.
const REST: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    net: u32,
    to: SocketAddr,
    sock: SockId,
    /// When it has rested for long enough, if it rests.
    until: Option<Tick>,
}

impl HostIo {
    /// Asks a resolver, over a connection that stands if there is one to be had.
    pub(super) fn ask(&mut self, query: u32, to: SocketAddr, message: &[u8]) -> io::Result<SockId> {
        let line = match self.best_line(to) {
            Some(line) => line,
            None => self.open_line(to)?,
        };
        let sock = self.stand_in(Kind::DnsAsk(line))?;
        let asked = match self.stream(line) {
            Some(stream) => stream.ask(query, sock, message),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match asked {
            Ok(()) => Ok(sock),
            // An event tells of a connection that is broken, and finds its queries there.
            Err(e) if e.kind() != io::ErrorKind::InvalidInput => Ok(sock),
            Err(e) => {
                self.close(sock);
                self.drop_spent(line);
                Err(e)
            }
        }
    }

    /// A connection of the network that acts: one that rests, or the least asked where there are enough of them.
    fn best_line(&self, to: SocketAddr) -> Option<SockId> {
        let open = self.lines.iter().filter_map(|line| {
            let ours = line.net == self.net && line.to == to;
            let slot = self.slots.get(line.sock.0 as usize)?;
            let Slot {
                kind: Kind::DnsTcp(stream),
                ..
            } = slot
            else {
                return None;
            };
            (ours && stream.is_open()).then(|| (stream.len(), line.sock))
        });
        let (mut count, mut best) = (0, None);
        for (asks, sock) in open {
            count += 1;
            if best.is_none_or(|(least, _)| asks < least) {
                best = Some((asks, sock));
            }
        }
        best.filter(|&(asks, _)| asks == 0 || count >= LINES)
            .map(|(_, sock)| sock)
    }

    fn open_line(&mut self, to: SocketAddr) -> io::Result<SockId> {
        let stream = DnsStream::connect(to)?;
        let fd = stream.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let sock = self.insert(fd, interest, Kind::DnsTcp(Box::new(stream)))?;
        self.lines.push(Line {
            net: self.net,
            to,
            sock,
            until: None,
        });
        Ok(sock)
    }

    fn stream(&mut self, line: SockId) -> Option<&mut DnsStream> {
        let slot = self.slots.get_mut(line.0 as usize)?;
        let Slot {
            kind: Kind::DnsTcp(stream),
            ..
        } = slot
        else {
            return None;
        };
        Some(stream)
    }

    /// A query is over, answered or not.
    pub(super) fn end_ask(&mut self, sock: SockId) {
        if let Some(Slot {
            kind: Kind::DnsAsk(line),
            ..
        }) = self.slots.get(sock.0 as usize)
        {
            let line = *line;
            if let Some(stream) = self.stream(line) {
                stream.forget(sock);
            }
            self.drop_spent(line);
        }
        self.close(sock);
    }

    /// Closes a connection that takes no more queries and has none.
    fn drop_spent(&mut self, line: SockId) {
        if self
            .stream(line)
            .is_some_and(|s| !s.is_open() && s.len() == 0)
        {
            self.drop_line(line);
        }
    }

    fn drop_line(&mut self, line: SockId) -> Option<(Line, DnsStream)> {
        let at = self.lines.iter().position(|l| l.sock == line)?;
        let line = self.lines.swap_remove(at);
        let slot = self.slots.try_remove(line.sock.0 as usize)?;
        let Slot {
            kind: Kind::DnsTcp(stream),
            ..
        } = slot
        else {
            return None;
        };
        Some((line, *stream))
    }

    /// Takes an event of a connection.
    pub(super) fn line_event(&mut self, switch: &mut Switch, now: Tick, index: u32) {
        let line = SockId(index);
        loop {
            let Some(stream) = self.stream(line) else {
                return;
            };
            match stream.turn() {
                Ok((query, message)) => {
                    let message = &message;
                    switch.handle_event(self, now, HostEvent::DnsAnswer { query, message });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        let Some((line, stream)) = self.drop_line(line) else {
            return;
        };
        let (asks, proven) = stream.leftover();
        for ask in asks {
            // One that answers a single query and closes gets the others one by one.
            if proven && !ask.answered && self.ask_again(&line, &ask).is_ok() {
                continue;
            }
            let query = ask.query;
            switch.handle_event(self, now, HostEvent::DnsFailed { query });
        }
    }

    /// Asks once more, over a connection that is this query's alone.
    fn ask_again(&mut self, old: &Line, ask: &Ask) -> io::Result<()> {
        let line = self.open_line(old.to)?;
        let slot = self.slots.get_mut(ask.sock.0 as usize);
        match slot.map(|slot| &mut slot.kind) {
            Some(Kind::DnsAsk(way)) if *way == old.sock => *way = line,
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        if let Some(stream) = self.stream(line) {
            stream.ask(ask.query, ask.sock, &ask.message)?;
            stream.retire();
        }
        Ok(())
    }

    /// Closes the connections of the network that acts that have rested for long enough.
    pub(super) fn rest_lines(&mut self, now: Tick) {
        let mut at = 0;
        while let Some(line) = self.lines.get_mut(at) {
            at += 1;
            if line.net != self.net {
                continue;
            }
            let sock = line.sock;
            let slot = self.slots.get(sock.0 as usize);
            let rests = slot.is_some_and(|s| matches!(&s.kind, Kind::DnsTcp(s) if s.len() == 0));
            if !rests {
                line.until = None;
            } else if now >= *line.until.get_or_insert(now + REST) {
                self.drop_line(sock);
                at -= 1;
            }
        }
    }

    /// When the next connection of a network will have rested for long enough.
    #[must_use]
    pub fn poll_timeout(&self, net: u32) -> Option<Tick> {
        let ours = self.lines.iter().filter(|line| line.net == net);
        ours.filter_map(|line| line.until).min()
    }

    /// Closes what a network that is gone had open of its own, and forgets its names.
    pub fn leave(&mut self, net: u32) {
        self.names.leave(net);
        while let Some(line) = self.lines.iter().find(|line| line.net == net) {
            let sock = line.sock;
            self.drop_line(sock);
        }
    }
}
