//! ICMP echo of the host by a raw socket, where there are no ping sockets and weft was started with the right to it.
//! One socket a family gets every reply that the host does, and they are told apart here: by an identifier of our own,
//! which no two sessions of the process share, and by who was asked.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::Socket;
use switch_core::flow::host::{DatagramMeta, HostError};

use super::{ping, sys};
use crate::host::sys::random_seeds;

/// Sessions at most: identifiers have 16 bits, and some are to be free.
const MAX: usize = 60_000;
/// Replies and errors that wait for their networks at most: a few turns' worth.
const WAITING: usize = 1_024;

/// Who waits for the replies to an identifier.
#[derive(Debug, Clone, Copy)]
struct Session {
    net: u32,
    mapping: u32,
    /// Whom it asked last.
    to: Option<IpAddr>,
}

/// What came for a session.
#[derive(Debug)]
pub(super) enum Told {
    /// A reply: from whom, its sequence number and payload.
    Reply(IpAddr, u16, Vec<u8>),
    /// An error.
    Failed(sys::Report),
}

/// The socket of one family.
#[derive(Debug)]
pub(super) struct Raw {
    socket: Socket,
    v6: bool,
    sessions: HashMap<u16, Session>,
    /// What waits for the turn of its network and mapping.
    pub(super) waiting: Vec<(u32, u32, Told)>,
}

/// The next identifier. It begins anywhere: other programs, and other wefts, count from somewhere too.
fn next_ident() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        let [a, b, ..] = random_seeds()[0].to_le_bytes();
        AtomicU16::new(u16::from_le_bytes([a, b]))
    });
    next.fetch_add(1, Ordering::Relaxed)
}

impl Raw {
    /// Takes a raw socket, and has the kernel keep from it all but replies: a flood of anything else at the host costs
    /// nothing here.
    pub(super) fn new(socket: Socket, v6: bool) -> Self {
        ping::want_errors(&socket, v6);
        // Best effort: what comes all the same is passed over. Source: icmp_filter in linux/icmp.h, icmp6_filter in
        // linux/icmpv6.h: a bit that is set blocks its type.
        let _ = if v6 {
            let mut blocked = [u32::MAX; 8];
            blocked[129 / 32] &= !(1 << (129 % 32));
            sys::set_words(socket.as_fd(), libc::IPPROTO_ICMPV6, 1, &blocked)
        } else {
            sys::set_words(socket.as_fd(), libc::SOL_RAW, 1, &[!1])
        };
        Self {
            socket,
            v6,
            sessions: HashMap::new(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Begins a session; gives its identifier. Errors: `Exhausted`.
    pub(super) fn open(&mut self, net: u32, mapping: u32) -> Result<u16, HostError> {
        if self.sessions.len() >= MAX {
            return Err(HostError::Exhausted);
        }
        loop {
            let ident = next_ident();
            if let std::collections::hash_map::Entry::Vacant(place) = self.sessions.entry(ident) {
                place.insert(Session {
                    net,
                    mapping,
                    to: None,
                });
                return Ok(ident);
            }
        }
    }

    /// Ends a session. What had come for it is for nobody.
    pub(super) fn close(&mut self, ident: u16) {
        if let Some(s) = self.sessions.remove(&ident) {
            self.waiting
                .retain(|&(net, mapping, _)| (net, mapping) != (s.net, s.mapping));
        }
    }

    /// Sends an echo request of a session.
    pub(super) fn send(
        &mut self,
        ident: u16,
        to: IpAddr,
        meta: &DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> io::Result<()> {
        if let Some(session) = self.sessions.get_mut(&ident) {
            session.to = Some(to);
        }
        // Sessions share the socket, and each may want it otherwise.
        sys::forbid_fragments(self.socket.as_fd(), self.v6, meta.dont_fragment);
        ping::send(&self.socket, to, meta, (ident, seq), payload)
    }

    /// Sorts what has come, `turns` packets at most. True if there may be more.
    pub(super) fn receive(&mut self, turns: usize, buf: &mut [u8]) -> bool {
        for _ in 0..turns {
            match ping::recv(&self.socket, self.v6, true, buf) {
                Ok(Some(reply)) => {
                    let told = Told::Reply(reply.from, reply.seq, reply.payload.to_vec());
                    self.sort(reply.ident, Some(reply.from), told);
                }
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.errors(turns);
                    return false;
                }
                // What an earlier request met; its story is in the queue.
                Err(_) => self.errors(turns),
            }
        }
        true
    }

    fn errors(&mut self, turns: usize) {
        for _ in 0..turns {
            let Ok(report) = sys::recv_error(self.socket.as_fd()) else {
                return;
            };
            // The payload is the request, from its ICMP header on. Every program's requests are told here.
            let Some(&[_, _, _, _, i0, i1]) = report.payload.first_chunk() else {
                continue;
            };
            let to = report.to.map(|to| to.ip().to_canonical());
            self.sort(u16::from_be_bytes([i0, i1]), to, Told::Failed(report));
        }
    }

    /// Puts aside what is for a session of ours, from the one that it asked.
    fn sort(&mut self, ident: u16, remote: Option<IpAddr>, mut told: Told) {
        let Some(session) = self.sessions.get(&ident) else {
            return;
        };
        let asked = session.to.filter(|&to| remote.is_none_or(|r| r == to));
        let Some(asked) = asked.filter(|_| self.waiting.len() < WAITING) else {
            return;
        };
        if let Told::Failed(report) = &mut told {
            report.to.get_or_insert_with(|| (asked, 0).into());
        }
        self.waiting.push((session.net, session.mapping, told));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A raw socket needs a right; what is under test needs none of its own.
    fn raw() -> Raw {
        let (domain, kind) = (socket2::Domain::IPV4, socket2::Type::DGRAM);
        Raw::new(Socket::new(domain, kind, None).unwrap(), false)
    }

    fn reply(from: IpAddr) -> Told {
        Told::Reply(from, 1, vec![7])
    }

    #[test]
    fn every_session_has_an_identifier_of_its_own() {
        let (mut a, mut b) = (raw(), raw());
        let mut idents: Vec<u16> = (0..2_000)
            .map(|mapping| if mapping % 2 == 0 { &mut a } else { &mut b }.open(0, mapping))
            .map(Result::unwrap)
            .collect();
        idents.sort_unstable();
        idents.dedup();
        assert_eq!(
            idents.len(),
            2_000,
            "of two networks with the same numbers, too"
        );
    }

    #[test]
    fn replies_go_to_who_asked_and_only_from_whom_it_asked() {
        let mut raw = raw();
        let [asked, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let (first, second) = (raw.open(3, 10).unwrap(), raw.open(4, 10).unwrap());
        raw.sort(first, Some(asked), reply(asked));
        assert!(raw.waiting.is_empty(), "nobody was asked");
        for session in raw.sessions.values_mut() {
            session.to = Some(asked);
        }
        raw.sort(second, Some(asked), reply(asked));
        raw.sort(second, Some(other), reply(other));
        raw.sort(second.wrapping_add(1), Some(asked), reply(asked));
        let whose: Vec<_> = raw.waiting.iter().map(|w| (w.0, w.1)).collect();
        assert_eq!(whose, [(4, 10)]);
        raw.close(second);
        assert!(raw.waiting.is_empty());
        raw.sort(second, Some(asked), reply(asked));
        assert!(raw.waiting.is_empty(), "it is over");
    }

    #[test]
    fn a_flood_of_replies_is_bounded() {
        let mut raw = raw();
        let asked = IpAddr::from([192, 0, 2, 1]);
        let ident = raw.open(0, 0).unwrap();
        if let Some(session) = raw.sessions.get_mut(&ident) {
            session.to = Some(asked);
        }
        for _ in 0..100_000 {
            raw.sort(ident, Some(asked), reply(asked));
        }
        assert_eq!(raw.waiting.len(), WAITING);
    }
}
