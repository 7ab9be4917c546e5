//! Stage 6: UDP: one host socket for each address and port of a sandbox, so that mapping is independent of the
//! other endpoint; what may come back is a choice. Source: RFC 4787.

mod down;
mod known;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::io::IoSlice;

use ahash::RandomState;
use arrayvec::ArrayVec;
use slab::Slab;

use super::host::{DatagramMeta, HostError, UdpHost};
use super::row::FlowRow;
use super::tcp::{Cx, Key};
use crate::addr::{Mac, PortId, SockId};
use crate::conntrack::expiry::Wheel;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::Ip;
use crate::wire::vnet_hdr::{GSO_UDP_L4, VnetHdr};

pub use self::down::{Datagrams, present};

/// Idle mappings live so long. Source: RFC 4787 REQ-5.
const IDLE: Duration = Duration::from_secs(300);
/// Those that only ever spoke to port 53. Source: REQ-5 allows less for well-known ports.
const IDLE_DNS: Duration = Duration::from_secs(30);
/// Mappings of an endpoint at most.
const MAX_MAPPINGS: usize = 4_096;
/// Remotes that a mapping remembers for its filter; the oldest is forgotten.
const MAX_REMOTES: usize = 64;
/// Datagrams in one send. Source: UDP_MAX_SEGMENTS of older kernels.
const MAX_RUN: usize = 64;
/// Payload of one send. Source: 65,535 less IPv4 and UDP headers.
const MAX_BYTES: usize = 65_507;
/// Larger datagrams are sent from where they lie; smaller ones are copied together, which costs less than a call.
const COPY_LIMIT: usize = 2_048;

/// Which remotes may answer. Source: RFC 4787 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// Anyone.
    EndpointIndependent,
    /// Addresses that the sandbox has sent to.
    #[default]
    AddressDependent,
    /// Addresses and ports that it has sent to.
    AddressAndPortDependent,
}

#[derive(Debug, Clone, Copy)]
struct Remote {
    /// As the sandbox knows it.
    shown: SocketAddr,
    /// As the host knows it.
    real: SocketAddr,
    /// The host's address that it spoke to.
    local: Option<IpAddr>,
}

#[derive(Debug)]
struct Mapping {
    guest: SocketAddr,
    port: PortId,
    mac: Mac,
    sock: SockId,
    remotes: Vec<Remote>,
    last: usize,
    published: bool,
    only_dns: bool,
    used: Tick,
    /// Payload from the sandbox, and to it.
    bytes: (u64, u64),
    /// The largest packet that gets through behind the endpoint, and until when that is believed.
    narrow: Option<(u16, Tick)>,
}

impl Mapping {
    fn idle(&self) -> Duration {
        if self.only_dns { IDLE_DNS } else { IDLE }
    }

    /// Makes the remote of this shown address the current one, and remembers it if it is new.
    fn select(&mut self, remote: Remote) {
        let current = self.remotes.get(self.last);
        if current.is_some_and(|r| r.shown == remote.shown) {
            return;
        }
        let known = self.remotes.iter().position(|r| r.shown == remote.shown);
        self.last = known.unwrap_or_else(|| {
            if self.remotes.len() >= MAX_REMOTES {
                self.remotes.remove(0);
            }
            self.remotes.push(remote);
            self.remotes.len() - 1
        });
    }

    fn current(&mut self) -> Option<&mut Remote> {
        self.remotes.get_mut(self.last)
    }
}

/// A run of datagrams that will leave in one call.
#[derive(Debug)]
struct Run {
    mapping: u32,
    to: SocketAddr,
    meta: DatagramMeta,
    size: usize,
    count: usize,
    open: bool,
    bytes: Vec<u8>,
}

/// The mappings of one owner.
#[derive(Debug)]
pub struct UdpFlows {
    mappings: Slab<Mapping>,
    index: HashMap<SocketAddr, u32, RandomState>,
    wheel: Wheel,
    run: Run,
    filter: Filter,
    /// The host's own range for outgoing ports, which is left to it.
    ephemeral: (u16, u16),
    /// Mappings at most: the endpoint's share, and never more than half of the host's range.
    limit: usize,
    /// Identification of the last datagram that was cut.
    large_id: u32,
    out: Vec<u8>,
}

impl UdpFlows {
    /// No mappings yet. `ephemeral` is the host's ip_local_port_range.
    #[must_use]
    pub fn new(now: Tick, filter: Filter, ephemeral: (u16, u16), seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            mappings: Slab::new(),
            index: HashMap::with_hasher(RandomState::with_seeds(a, b, c, d)),
            wheel: Wheel::new(now),
            run: Run {
                mapping: u32::MAX,
                to: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
                meta: DatagramMeta::default(),
                size: 0,
                count: 0,
                open: false,
                bytes: Vec::with_capacity(MAX_BYTES),
            },
            filter,
            ephemeral,
            limit: MAX_MAPPINGS.min(usize::from(ephemeral.1.saturating_sub(ephemeral.0)) / 2 + 1),
            large_id: 0,
            out: Vec::new(),
        }
    }

    /// Mappings in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// The endpoint that a mapping belongs to.
    #[must_use]
    pub fn port_of(&self, mapping: u32) -> Option<PortId> {
        self.mappings.get(mapping as usize).map(|m| m.port)
    }

    /// Takes a datagram, or a super-frame of them, from a sandbox to `real`.
    /// Shape: `payload` is what follows the UDP header.
    /// Errors: `TableFull`, `HostExhausted`, `HostError`.
    pub fn from_guest<H: UdpHost>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: (PortId, Mac, SocketAddr),
        (shown, real): (SocketAddr, SocketAddr),
        (ip, vnet): (&Ip, &VnetHdr),
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let (port, mac, guest) = from;
        let id = match self.index.get(&guest) {
            Some(&id) => id,
            None => self.open(host, cx.now, port, mac, guest)?,
        };
        let Some(mapping) = self.mappings.get_mut(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        mapping.used = cx.now;
        mapping.bytes.0 += payload.len() as u64;
        mapping.only_dns &= shown.port() == 53;
        mapping.select(Remote {
            shown,
            real,
            local: None,
        });
        let Some(remote) = mapping.current().copied() else {
            return Err(DropReason::NoFlow);
        };
        let meta = DatagramMeta {
            source: remote.local,
            ttl: (ip.ttl <= 32).then(|| ip.ttl.saturating_sub(1).max(1)),
            tos: ip.tos,
            dont_fragment: ip.dont_fragment,
        };
        if vnet.gso_kind() == GSO_UDP_L4 && payload.len() > usize::from(vnet.gso_size) {
            self.flush(host);
            return self.send_super(host, id, remote.real, meta, payload, vnet.gso_size);
        }
        let run = &mut self.run;
        let same = run.count > 0 && run.mapping == id && run.to == remote.real && run.meta == meta;
        let fits = run.open
            && payload.len() <= run.size
            && run.count < MAX_RUN
            && run.bytes.len() + payload.len() <= MAX_BYTES;
        if !(same && fits) {
            self.flush(host);
        }
        if payload.len() > COPY_LIMIT || payload.is_empty() {
            return self.send(host, id, remote.real, meta, payload, 0);
        }
        let run = &mut self.run;
        if run.count == 0 {
            (run.mapping, run.to, run.meta, run.size, run.open) =
                (id, remote.real, meta, payload.len(), true);
        }
        run.count += 1;
        run.open = payload.len() == run.size;
        run.bytes.extend_from_slice(payload);
        Ok(())
    }

    fn send<H: UdpHost>(
        &mut self,
        host: &mut H,
        id: u32,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[u8],
        segment: u16,
    ) -> Result<(), DropReason> {
        let Some(mapping) = self.mappings.get(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        host.udp_send(mapping.sock, to, meta, &[IoSlice::new(payload)], segment)
            .map_err(HostError::reason)
    }

    fn send_super<H: UdpHost>(
        &mut self,
        host: &mut H,
        id: u32,
        to: SocketAddr,
        meta: DatagramMeta,
        payload: &[u8],
        size: u16,
    ) -> Result<(), DropReason> {
        let each = usize::from(size).max(1);
        let lot = each * MAX_RUN.min(MAX_BYTES / each).max(1);
        for piece in payload.chunks(lot) {
            let segment = if piece.len() > each { size } else { 0 };
            self.send(host, id, to, meta, piece, segment)?;
        }
        Ok(())
    }

    /// Ends a batch: what was put together leaves. Returns what was lost.
    pub fn flush<H: UdpHost>(&mut self, host: &mut H) -> Option<(DropReason, usize)> {
        if self.run.count == 0 {
            return None;
        }
        let count = core::mem::take(&mut self.run.count);
        let bytes = core::mem::take(&mut self.run.bytes);
        let segment = if count > 1 {
            u16::try_from(self.run.size).unwrap_or(0)
        } else {
            0
        };
        let sent = self.send(
            host,
            self.run.mapping,
            self.run.to,
            self.run.meta,
            &bytes,
            segment,
        );
        self.run.bytes = bytes;
        self.run.bytes.clear();
        sent.err().map(|reason| (reason, count))
    }

    fn open<H: UdpHost>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
        mac: Mac,
        guest: SocketAddr,
    ) -> Result<u32, DropReason> {
        if self.mappings.len() >= self.limit {
            self.evict(host, now)?;
        }
        let id = u32::try_from(self.mappings.vacant_key()).map_err(|_| DropReason::TableFull)?;
        let any: IpAddr = if guest.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let wanted = guest.port();
        let (low, high) = self.ephemeral;
        let keep = wanted >= 1024 && !(low..=high).contains(&wanted);
        let kept = if keep {
            host.udp_open(id, SocketAddr::new(any, wanted)).ok()
        } else {
            None
        };
        let (sock, _) = match kept {
            Some(opened) => opened,
            None => host
                .udp_open(id, SocketAddr::new(any, 0))
                .map_err(|_| DropReason::HostExhausted)?,
        };
        self.insert(
            now,
            Mapping {
                guest,
                port,
                mac,
                sock,
                remotes: Vec::new(),
                last: 0,
                published: false,
                only_dns: true,
                used: now,
                bytes: (0, 0),
                narrow: None,
            },
        );
        Ok(id)
    }

    fn insert(&mut self, now: Tick, mapping: Mapping) -> u32 {
        let guest = mapping.guest;
        let id = u32::try_from(self.mappings.insert(mapping)).unwrap_or(u32::MAX);
        self.index.insert(guest, id);
        self.wheel.arm(id, now + IDLE_DNS);
        id
    }

    /// The id that the next mapping will have: a published socket is opened under it.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        u32::try_from(self.mappings.vacant_key()).unwrap_or(u32::MAX)
    }

    /// Makes a published port the mapping of its inner port.
    pub fn publish(
        &mut self,
        now: Tick,
        sock: SockId,
        (port, mac): (PortId, Mac),
        guest: SocketAddr,
    ) {
        self.insert(
            now,
            Mapping {
                guest,
                port,
                mac,
                sock,
                remotes: Vec::new(),
                last: 0,
                published: true,
                only_dns: false,
                used: now,
                bytes: (0, 0),
                narrow: None,
            },
        );
    }

    /// Makes room: the mapping idle longest goes, if it has been idle for the RFC's minimum of two minutes.
    fn evict<H: UdpHost>(&mut self, host: &mut H, now: Tick) -> Result<(), DropReason> {
        let oldest = self
            .mappings
            .iter()
            .filter(|(_, m)| !m.published)
            .min_by_key(|(_, m)| m.used)
            .map(|(id, m)| (id, m.used));
        match oldest {
            Some((id, used)) if now.since(used) >= Duration::from_secs(120) => {
                self.remove(host, u32::try_from(id).unwrap_or(u32::MAX));
                Ok(())
            }
            _ => Err(DropReason::TableFull),
        }
    }

    fn remove<H: UdpHost>(&mut self, host: &mut H, id: u32) {
        if let Some(mapping) = self.mappings.try_remove(id as usize) {
            self.index.remove(&mapping.guest);
            self.wheel.cancel(id);
            host.udp_close(mapping.sock);
        }
    }

    /// The mappings as they are now, each with the remote that it spoke with last.
    pub fn rows(&self, now: Tick) -> impl Iterator<Item = FlowRow> + '_ {
        self.mappings.iter().map(move |(_, m)| {
            let any = SocketAddr::new(
                match m.guest.ip() {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                },
                0,
            );
            let remote = m.remotes.get(m.last).map_or(any, |r| r.shown);
            FlowRow {
                port: m.port,
                protocol: "udp",
                key: Key {
                    guest: m.guest.ip(),
                    guest_port: m.guest.port(),
                    remote: remote.ip(),
                    remote_port: remote.port(),
                },
                state: if m.published { "published" } else { "open" },
                bytes: m.bytes,
                idle: now.since(m.used),
            }
        })
    }

    /// Ends an endpoint's mappings, published ones too.
    pub fn remove_port<H: UdpHost>(&mut self, host: &mut H, port: PortId) {
        let of_port = self.mappings.iter().filter(|(_, m)| m.port == port);
        let ids: Vec<usize> = of_port.map(|(id, _)| id).collect();
        for id in ids {
            self.remove(host, u32::try_from(id).unwrap_or(u32::MAX));
        }
    }

    /// Ends one mapping, as when its published port is taken back.
    pub fn unpublish<H: UdpHost>(&mut self, host: &mut H, sock: SockId) {
        let of_sock = self.mappings.iter().filter(|(_, m)| m.sock == sock);
        // One of each family.
        let found: ArrayVec<u32, 2> = of_sock
            .filter_map(|(id, _)| u32::try_from(id).ok())
            .take(2)
            .collect();
        for id in found {
            self.remove(host, id);
        }
    }

    /// Removes mappings that have been idle.
    pub fn handle_timeout<H: UdpHost>(&mut self, host: &mut H, now: Tick) {
        let mut due: ArrayVec<u32, 64> = ArrayVec::new();
        let mut late = Vec::new();
        self.wheel.expire(now, &mut |id| {
            if due.try_push(id).is_err() {
                late.push(id);
            }
        });
        for id in due.into_iter().chain(late) {
            let Some(mapping) = self.mappings.get(id as usize) else {
                continue;
            };
            let end = mapping.used + mapping.idle();
            if mapping.published {
                continue;
            }
            if end <= now {
                self.remove(host, id);
            } else {
                self.wheel.arm(id, end);
            }
        }
    }

    /// The next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.wheel.poll_timeout()
    }
}
