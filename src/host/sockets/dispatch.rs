//! Events of sockets, carried to the switch.

use std::io;

use mio::event::Event;
use socket2::Domain;
use switch_core::addr::SockId;
use switch_core::flow::event::{HostEvent, IcmpReport};
use switch_core::flow::host::HostError;
use switch_core::flow::tcp::Accepted;
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use super::sys::{self, Batch, Incoming};
use super::tcp::{INTEREST, TcpSock};
use super::{HostIo, Kind, Leads, Slot};

/// Connections accepted from one listener in one turn.
const ACCEPTS: usize = 64;
/// Batches of datagrams taken from one socket in one turn.
const BATCHES: usize = 4;
/// Pieces of one run: what a UDP super-frame holds.
const RUN: usize = 64;

impl HostIo {
    /// Takes an event of a socket. True if the socket may have more for its next turn.
    pub fn handle(&mut self, switch: &mut Switch, now: Tick, event: &Event) -> bool {
        let Some(index) = self.find(event.token()) else {
            return false;
        };
        match &self.slots[index as usize].kind {
            Kind::Tcp(_) => {
                self.tcp_event(switch, now, index, event);
                false
            }
            Kind::Listener(..) => self.accept(switch, now, index),
            Kind::Udp(..) => {
                let more = self.udp_event(switch, now, index);
                // The queue of errors raises this for as long as it holds any: without it a look would be in vain.
                if event.is_error() {
                    self.udp_errors(switch, now, index);
                }
                more
            }
            Kind::Echo(..) => self.echo_event(switch, now, index),
            Kind::Dns(..) => {
                self.dns_event(switch, now, index);
                false
            }
            Kind::DnsTcp(_) => {
                self.line_event(switch, now, index);
                false
            }
            Kind::DnsAsk(_) | Kind::Raw { .. } | Kind::RawEcho { .. } => false,
            Kind::Splice(..) | Kind::SplicedTo(_) => self.splice_event(index, Some(event)),
        }
    }

    /// Gives a socket whose turn was over its next one.
    pub fn again(&mut self, switch: &mut Switch, now: Tick, token: mio::Token) -> bool {
        let Some(index) = self.find(token) else {
            return false;
        };
        match &self.slots[index as usize].kind {
            Kind::Listener(..) => self.accept(switch, now, index),
            Kind::Udp(..) => self.udp_event(switch, now, index),
            Kind::Splice(..) | Kind::SplicedTo(_) => self.splice_event(index, None),
            Kind::Echo(..) => self.echo_event(switch, now, index),
            Kind::Tcp(_)
            | Kind::Raw { .. }
            | Kind::RawEcho { .. }
            | Kind::Dns(..)
            | Kind::DnsTcp(_)
            | Kind::DnsAsk(_) => false,
        }
    }

    fn tcp_event(&mut self, switch: &mut Switch, now: Tick, index: u32, event: &Event) {
        let Slot {
            kind: Kind::Tcp(tcp),
            ..
        } = &mut self.slots[index as usize]
        else {
            return;
        };
        let flow = tcp.flow;
        let failed = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        tcp.ended |= event.is_read_closed() && !failed;
        if tcp.connecting {
            if failed {
                let error = tcp.take_error().unwrap_or(HostError::Refused);
                let queued = sys::recv_error(std::os::fd::AsFd::as_fd(tcp.socket())).ok();
                let report = queued.as_ref().and_then(|q| report(q, None));
                switch.handle_event(
                    self,
                    now,
                    HostEvent::TcpFailed {
                        flow,
                        error,
                        report,
                    },
                );
                return;
            }
            if !event.is_writable() {
                return;
            }
            tcp.connecting = false;
            switch.handle_event(self, now, HostEvent::TcpConnected { flow });
            if !event.is_readable() && !event.is_priority() {
                return;
            }
        }
        if event.is_readable() || event.is_priority() || failed {
            // A read stops short at urgent data, too.
            let ending = event.is_read_closed() || event.is_priority() || failed;
            switch.handle_event(self, now, HostEvent::TcpReadable { flow, ending });
        }
        if event.is_writable() {
            switch.handle_event(self, now, HostEvent::TcpWritable { flow });
        }
    }

    fn accept(&mut self, switch: &mut Switch, now: Tick, index: u32) -> bool {
        for _ in 0..ACCEPTS {
            let Slot {
                kind: Kind::Listener(listener, leads),
                ..
            } = &self.slots[index as usize]
            else {
                return false;
            };
            let leads: Leads = *leads;
            // Of the socket's own family, whatever its client's is, depends what the kernel can do with it.
            let v6 = listener.domain().is_ok_and(|d| d == Domain::IPV6);
            let (socket, from) = match listener.accept_raw() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
                {
                    switch.count_drop(switch_core::verdict::DropReason::HostExhausted);
                    return false;
                }
                // The client gave up before us; the next one may not have.
                Err(_) => continue,
            };
            let Some(from) = from.as_socket() else {
                continue;
            };
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            let from = std::net::SocketAddr::new(from.ip().to_canonical(), from.port());
            let Some(to) = leads.of(from.ip()) else {
                continue;
            };
            let Some(socket) = self.try_splice(socket, from, to) else {
                continue;
            };
            let sock = TcpSock::accepted(socket, v6, self.peek[usize::from(v6)]);
            let fd = sock.raw();
            if let Ok(sock) = self.insert(fd, INTEREST, Kind::Tcp(sock)) {
                switch.accept(
                    self,
                    now,
                    Accepted {
                        sock,
                        port: to.port,
                        mac: switch.mac_of(to.port),
                        to: to.to,
                        from,
                    },
                );
            }
        }
        true
    }

    fn udp_event(&mut self, switch: &mut Switch, now: Tick, index: u32) -> bool {
        // The batch leaves the table while the switch, which is handed the table, reads from it.
        let Some(mut batch) = self.batch.take() else {
            return false;
        };
        let mut more = true;
        for _ in 0..BATCHES {
            let Some(Slot {
                kind: Kind::Udp(udp, mappings),
                ..
            }) = self.slots.get(index as usize)
            else {
                more = false;
                break;
            };
            let mappings = *mappings;
            match batch.recv(udp.as_fd()) {
                Ok(n) => {
                    self.deliver(switch, now, mappings, &batch, n);
                    if n < sys::BATCH {
                        more = false;
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // A pending error of an earlier datagram: its story is in the queue.
                Err(_) => {}
            }
        }
        self.batch = Some(batch);
        more
    }

    /// Hands a batch over in runs of one remote and one size.
    fn deliver(
        &mut self,
        switch: &mut Switch,
        now: Tick,
        mappings: [u32; 2],
        batch: &Batch,
        n: usize,
    ) {
        let mut run: arrayvec::ArrayVec<&[u8], RUN> = arrayvec::ArrayVec::new();
        let mut head: Option<Incoming<'_>> = None;
        for i in 0..n {
            let Some(datagram) = batch.get(i) else {
                continue;
            };
            let size = if datagram.segment == 0 {
                datagram.payload.len().max(1)
            } else {
                usize::from(datagram.segment)
            };
            let empty = [datagram.payload];
            let pieces = datagram.payload.chunks(size);
            let pieces = if datagram.payload.is_empty() {
                empty
                    .iter()
                    .copied()
                    .collect::<arrayvec::ArrayVec<_, RUN>>()
            } else {
                pieces.take(RUN).collect()
            };
            for piece in pieces {
                let joins = head.as_ref().is_some_and(|h| {
                    let first = run.first().map_or(0, |p| p.len());
                    let last = run.last().map_or(0, |p| p.len());
                    h.from == datagram.from
                        && h.local == datagram.local
                        && h.tos == datagram.tos
                        && last == first
                        && piece.len() <= first
                        && !piece.is_empty()
                        && !run.is_full()
                });
                if !joins {
                    if let Some(h) = head {
                        self.hand_over(switch, now, mappings, &h, &run);
                    }
                    run.clear();
                    head = Some(datagram);
                }
                run.push(piece);
            }
        }
        if let Some(h) = head {
            self.hand_over(switch, now, mappings, &h, &run);
        }
    }

    fn hand_over(
        &mut self,
        switch: &mut Switch,
        now: Tick,
        mappings: [u32; 2],
        head: &Incoming<'_>,
        pieces: &[&[u8]],
    ) {
        let from = std::net::SocketAddr::new(head.from.ip().to_canonical(), head.from.port());
        let mapping = mappings[usize::from(from.is_ipv6())];
        switch.handle_event(
            self,
            now,
            HostEvent::UdpReceived {
                mapping,
                from,
                local: head.local,
                tos: head.tos,
                pieces,
            },
        );
    }

    fn udp_errors(&mut self, switch: &mut Switch, now: Tick, index: u32) {
        for _ in 0..RUN {
            let Some(Slot {
                kind: Kind::Udp(udp, mappings),
                ..
            }) = self.slots.get(index as usize)
            else {
                return;
            };
            let mappings = *mappings;
            let Ok(queued) = sys::recv_error(udp.as_fd()) else {
                return;
            };
            if let Some(report) = report(&queued, None) {
                let mapping = mappings[usize::from(report.to.is_ipv6())];
                switch.handle_event(self, now, HostEvent::UdpFailed { mapping, report });
            }
        }
    }

    /// Tells the switch of the network that acts what was learnt while it was sending. To be called at the end of
    /// each batch.
    pub fn settle(&mut self, switch: &mut Switch, now: Tick) {
        self.rest_lines(now);
        self.settle_echoes(switch, now);
        let mut next = 0;
        while let Some(&sock) = self.reporting.get(next) {
            let slot = self.slots.get_mut(sock.0 as usize);
            if slot.as_ref().is_some_and(|s| s.net != self.net) {
                next += 1;
                continue;
            }
            self.reporting.swap_remove(next);
            let Some(Slot {
                kind: Kind::Udp(udp, mappings),
                ..
            }) = slot
            else {
                continue;
            };
            let mappings = *mappings;
            for queued in udp.take_reports() {
                if let Some(report) = report(&queued, None) {
                    let mapping = mappings[usize::from(report.to.is_ipv6())];
                    switch.handle_event(self, now, HostEvent::UdpFailed { mapping, report });
                }
            }
        }
    }

    fn dns_event(&mut self, switch: &mut Switch, now: Tick, index: u32) {
        let Some(Slot {
            kind: Kind::Dns(socket, query),
            ..
        }) = self.slots.get(index as usize)
        else {
            return;
        };
        let query = *query;
        let mut message = vec![0; 65_536];
        match socket.recv(&mut message) {
            Ok(n) => {
                let event = HostEvent::DnsAnswer {
                    query,
                    message: message.get(..n).unwrap_or_default(),
                };
                switch.handle_event(self, now, event);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => switch.handle_event(self, now, HostEvent::DnsFailed { query }),
        }
    }

    /// The socket behind an id is still there.
    #[must_use]
    pub fn holds(&self, sock: SockId) -> bool {
        self.slots.contains(sock.0 as usize)
    }
}

/// An entry of an error queue as the switch wants it. Where the datagram went to is known from the queue, or it is
/// `instead`.
pub(super) fn report(
    queued: &sys::Report,
    instead: Option<std::net::IpAddr>,
) -> Option<IcmpReport<'_>> {
    let to = queued
        .to
        .or_else(|| instead.map(|a| std::net::SocketAddr::new(a, 0)))?;
    let to = std::net::SocketAddr::new(to.ip().to_canonical(), to.port());
    let v4 = to.is_ipv4();
    let (kind, code, info) = match queued.errno {
        // The host itself found the datagram too big for the path.
        libc::EMSGSIZE if queued.is_local => {
            if v4 {
                (3, 4, queued.info)
            } else {
                (2, 0, queued.info)
            }
        }
        libc::EMSGSIZE if v4 => (3, 4, queued.info),
        _ if queued.is_local => {
            if v4 {
                (3, 1, 0)
            } else {
                (1, 3, 0)
            }
        }
        _ => (queued.kind, queued.code, queued.info),
    };
    Some(IcmpReport {
        offender: queued.offender.map(|a| a.to_canonical()),
        kind,
        code,
        info,
        to,
        payload: &queued.payload,
    })
}
