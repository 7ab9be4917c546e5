//! Echo requests of sandboxes, and what comes back: by ping sockets, else by the raw socket.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use mio::{Interest, Token};
use switch_core::addr::SockId;
use switch_core::flow::event::HostEvent;
use switch_core::flow::host::{DatagramMeta, EchoHost, HostError};
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use super::dispatch::report;
use super::ping::PingSock;
use super::raw::Told;
use super::tcp::host_error;
use super::{HostIo, Kind, SHARED, Slot, sys};

/// Packets taken from one socket in one turn.
const TURN: usize = 64;
/// The largest packet.
const LARGEST: usize = 65_536;

impl EchoHost for HostIo {
    fn echo_open(&mut self, mapping: u32, v6: bool) -> Result<SockId, HostError> {
        let opened = match PingSock::open(v6) {
            Ok(ping) => {
                let fd = ping.as_fd().as_raw_fd();
                self.insert(fd, Interest::READABLE, Kind::Echo(ping, mapping))
            }
            Err(e) => match self.raw_icmp[usize::from(v6)].as_mut() {
                Some(raw) => {
                    let ident = raw.open(self.net, mapping)?;
                    let opened = self.poll_raw(v6);
                    opened.and_then(|()| self.stand_in(Kind::RawEcho { v6, ident }))
                }
                None => Err(e),
            },
        };
        opened.map_err(|e| host_error(&e))
    }

    fn echo_send(
        &mut self,
        sock: SockId,
        to: IpAddr,
        meta: DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> Result<(), HostError> {
        let sent = match self.slots.get_mut(sock.0 as usize) {
            Some(Slot {
                kind: Kind::Echo(ping, _),
                ..
            }) => ping.send(to, &meta, seq, payload),
            Some(&mut Slot {
                kind: Kind::RawEcho { v6, ident },
                ..
            }) => match self.raw_icmp[usize::from(v6)].as_mut() {
                Some(raw) => raw.send(ident, to, &meta, seq, payload),
                None => return Err(HostError::Other),
            },
            _ => return Err(HostError::Other),
        };
        sent.map_err(|e| host_error(&e))
    }

    fn echo_close(&mut self, sock: SockId) {
        if let Some(&Slot {
            kind: Kind::RawEcho { v6, ident },
            ..
        }) = self.slots.get(sock.0 as usize)
            && let Some(raw) = self.raw_icmp[usize::from(v6)].as_mut()
        {
            raw.close(ident);
        }
        self.close(sock);
    }
}

impl HostIo {
    /// Has the raw socket polled, once it is of use.
    fn poll_raw(&mut self, v6: bool) -> io::Result<()> {
        let at = usize::from(v6);
        if self.raw_polled[at] {
            return Ok(());
        }
        if let Some(fd) = self.raw_icmp[at]
            .as_ref()
            .map(|raw| raw.as_fd().as_raw_fd())
        {
            let acts = std::mem::replace(&mut self.net, SHARED);
            let polled = self.insert(fd, Interest::READABLE, Kind::Raw { v6 });
            self.net = acts;
            polled?;
        }
        self.raw_polled[at] = true;
        Ok(())
    }

    /// Sorts what the socket of this token has for the sessions of any network. True if it may have more.
    pub fn handle_shared(&mut self, token: Token) -> bool {
        let Some(index) = self.find(token) else {
            return false;
        };
        let Some(&Slot {
            kind: Kind::Raw { v6 },
            ..
        }) = self.slots.get(index as usize)
        else {
            return false;
        };
        let mut buf = std::mem::take(&mut self.echo_buf);
        buf.resize(LARGEST, 0);
        let raw = self.raw_icmp[usize::from(v6)].as_mut();
        let more = raw.is_some_and(|raw| raw.receive(TURN, &mut buf));
        self.echo_buf = buf;
        more
    }

    /// The networks for which something waits.
    #[must_use]
    pub fn awaited(&self) -> Vec<u32> {
        let raws = self.raw_icmp.iter().flatten();
        let mut nets: Vec<u32> = raws
            .flat_map(|raw| raw.waiting.iter().map(|w| w.0))
            .collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    /// Gives the network that acts what waits for it.
    pub(super) fn settle_echoes(&mut self, switch: &mut Switch, now: Tick) {
        for at in 0..self.raw_icmp.len() {
            let Some(raw) = self.raw_icmp[at].as_mut() else {
                continue;
            };
            let acts = self.net;
            let (ours, others) = std::mem::take(&mut raw.waiting)
                .into_iter()
                .partition(|w| w.0 == acts);
            raw.waiting = others;
            let ours: Vec<_> = ours;
            for (_, mapping, told) in ours {
                self.tell(switch, now, mapping, &told);
            }
        }
    }

    fn tell(&mut self, switch: &mut Switch, now: Tick, mapping: u32, told: &Told) {
        match told {
            &Told::Reply(from, seq, ref payload) => {
                let event = HostEvent::EchoReply {
                    mapping,
                    from,
                    seq,
                    payload,
                };
                switch.handle_event(self, now, event);
            }
            Told::Failed(queued) => {
                if let Some(report) = report(queued, queued.offender) {
                    switch.handle_event(self, now, HostEvent::EchoFailed { mapping, report });
                }
            }
        }
    }

    /// Takes what a ping socket has. True if it may have more.
    pub(super) fn echo_event(&mut self, switch: &mut Switch, now: Tick, index: u32) -> bool {
        // The buffer leaves the table while the switch, which is handed the table, reads from it.
        let mut buf = std::mem::take(&mut self.echo_buf);
        buf.resize(LARGEST, 0);
        let mut more = true;
        for _ in 0..TURN {
            let Some(Slot {
                kind: Kind::Echo(ping, mapping),
                ..
            }) = self.slots.get(index as usize)
            else {
                more = false;
                break;
            };
            let mapping = *mapping;
            match ping.recv(&mut buf) {
                Ok(Some(r)) => {
                    let event = HostEvent::EchoReply {
                        mapping,
                        from: r.from,
                        seq: r.seq,
                        payload: r.payload,
                    };
                    switch.handle_event(self, now, event);
                }
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(_) => self.echo_error(switch, now, index),
            }
        }
        self.echo_buf = buf;
        self.echo_error(switch, now, index);
        more
    }

    fn echo_error(&mut self, switch: &mut Switch, now: Tick, index: u32) {
        let Some(Slot {
            kind: Kind::Echo(ping, mapping),
            ..
        }) = self.slots.get(index as usize)
        else {
            return;
        };
        let mapping = *mapping;
        if let Ok(queued) = sys::recv_error(ping.as_fd()) {
            self.tell(switch, now, mapping, &Told::Failed(queued));
        }
    }
}
