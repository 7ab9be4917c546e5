//! [2] Reassembly of what a sandbox sends in pieces. Bounded in datagrams, pieces, bytes and time;
//! pieces that overlap end their datagram (RFC 5722, and a good habit for IPv4).

use core::net::IpAddr;
use core::time::Duration;

use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, sum};
use crate::wire::packet::{Kind, Packet};
use crate::wire::put;

/// Datagrams under way at most.
const MAX_DATAGRAMS: usize = 64;
/// Pieces of one datagram at most: 65,535 bytes in pieces of the IPv6 minimum MTU are 53.
const MAX_PIECES: usize = 64;
/// How long a datagram may take. Source: RFC 8200 section 4.5 says 60 s, RFC 4963 why less is wiser.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Datagram {
    key: (IpAddr, IpAddr, u8, u32),
    born: Tick,
    /// Ethernet and IP header of the first piece.
    head: Option<Vec<u8>>,
    /// Length, once the last piece is here.
    total: Option<usize>,
    pieces: Vec<(usize, Vec<u8>)>,
}

/// Datagrams in pieces.
#[derive(Debug, Default)]
pub struct Reassembly {
    datagrams: Vec<Datagram>,
}

impl Reassembly {
    /// Takes a piece. Returns the whole frame, without fragment header, when it was the last one missing.
    /// Errors: `Fragment` when a bound or an overlap ends the datagram.
    pub fn push(
        &mut self,
        now: Tick,
        frame: &[u8],
        packet: &Packet,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let Kind::Ip(ip) = packet.kind else {
            return Err(DropReason::Malformed);
        };
        let Some(info) = ip.frag else {
            return Err(DropReason::Malformed);
        };
        self.handle_timeout(now);
        let key = (ip.src, ip.dst, ip.proto, info.id);
        let at = match self.datagrams.iter().position(|d| d.key == key) {
            Some(at) => at,
            None => {
                if self.datagrams.len() >= MAX_DATAGRAMS {
                    self.datagrams.remove(0);
                }
                self.datagrams.push(Datagram {
                    key,
                    born: now,
                    head: None,
                    total: None,
                    pieces: Vec::new(),
                });
                self.datagrams.len() - 1
            }
        };
        let data = frame.get(ip.l4..ip.end).unwrap_or_default();
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return Err(DropReason::Fragment);
        };
        let (start, end) = (
            usize::from(info.offset),
            usize::from(info.offset) + data.len(),
        );
        let bad = end > 65_535
            || data.is_empty()
            || (info.more && data.len() % 8 != 0)
            || datagram.pieces.len() >= MAX_PIECES
            || datagram.total.is_some_and(|t| end > t || !info.more)
            || datagram
                .pieces
                .iter()
                .any(|(s, d)| start < s + d.len() && *s < end);
        if bad {
            self.datagrams.remove(at);
            return Err(DropReason::Fragment);
        }
        if !info.more {
            datagram.total = Some(end);
        }
        if start == 0 {
            let header = if ip.src.is_ipv4() {
                ip.l4
            } else {
                packet.l3 + 40
            };
            datagram.head = frame.get(..header).map(<[u8]>::to_vec);
        }
        datagram.pieces.push((start, data.to_vec()));
        let have: usize = datagram.pieces.iter().map(|(_, d)| d.len()).sum();
        if datagram.total != Some(have) || datagram.head.is_none() {
            return Ok(None);
        }
        let done = self.datagrams.remove(at);
        Ok(whole(done, packet, ip.proto))
    }

    /// Forgets datagrams that took too long.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.datagrams.retain(|d| now.since(d.born) < PATIENCE);
    }

    /// Datagrams under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// True if none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
}

fn whole(mut datagram: Datagram, packet: &Packet, proto: u8) -> Option<Vec<u8>> {
    let mut frame = datagram.head?;
    let header = frame.len();
    datagram.pieces.sort_unstable_by_key(|p| p.0);
    for (_, data) in &datagram.pieces {
        frame.extend_from_slice(data);
    }
    let l3 = packet.l3;
    if datagram.key.0.is_ipv4() {
        let total = u16::try_from(frame.len() - l3).ok()?;
        put(&mut frame, l3 + 2, &total.to_be_bytes());
        put(&mut frame, l3 + 6, &[0, 0]);
        put(&mut frame, l3 + 10, &[0, 0]);
        let csum = finish(fold(sum(frame.get(l3..header)?)));
        put(&mut frame, l3 + 10, &csum.to_be_bytes());
    } else {
        let len = u16::try_from(frame.len() - header).ok()?;
        put(&mut frame, l3 + 4, &len.to_be_bytes());
        put(&mut frame, l3 + 6, &[proto]);
    }
    Some(frame)
}
