//! Stage 6: The mappings' lives: how they begin, what they may take of the host, and when they end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Mapping, UdpFlows};
use crate::addr::{Mac, PortId, SockId};
use crate::flow::host::UdpHost;
use crate::flow::row::FlowRow;
use crate::flow::tcp::Key;
use crate::policy::limit::Limits;
use crate::policy::quota::{Held, Quota};
use crate::time::Tick;
use crate::verdict::DropReason;

/// Idle mappings live so long. Source: RFC 4787 REQ-5.
const IDLE: Duration = Duration::from_secs(300);
/// Those that only ever spoke to port 53. Source: REQ-5 allows less for well-known ports.
const IDLE_DNS: Duration = Duration::from_secs(30);
/// Who has been idle for less makes no room. Source: RFC 4787 REQ-5, the least.
const IDLE_LEAST: Duration = Duration::from_secs(120);
/// Mappings of an endpoint at most.
const MAX_MAPPINGS: usize = 4_096;

/// What an endpoint has, and may have.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) limits: Option<Arc<Limits>>,
    /// Mappings that are not published.
    mappings: usize,
    /// None of its mappings makes room before.
    full_until: Tick,
}

/// Half of a range of ports: what of the host's own all switches together may use.
#[must_use]
pub fn half((first, last): (u16, u16)) -> u64 {
    u64::from(last.saturating_sub(first)) / 2 + 1
}

impl Mapping {
    /// One that nothing has passed yet.
    fn new(
        now: Tick,
        sock: SockId,
        (port, mac): (PortId, Mac),
        guest: SocketAddr,
        published: bool,
    ) -> Self {
        Self {
            guest,
            port,
            mac,
            sock,
            remotes: Vec::new(),
            last: 0,
            published,
            only_dns: !published,
            used: now,
            bytes: (0, 0),
            narrow: None,
            _parts: (None, None),
        }
    }

    fn idle(&self) -> Duration {
        if self.only_dns { IDLE_DNS } else { IDLE }
    }
}

impl UdpFlows {
    /// Sets an endpoint's limits.
    pub fn set_limits(&mut self, port: PortId, limits: Option<&Arc<Limits>>) {
        if limits.is_some() || self.shares.contains_key(&port) {
            self.shares.entry(port).or_default().limits = limits.map(Arc::clone);
        }
        let rates = self.shares.values().filter_map(|s| s.limits.as_ref());
        self.limited = rates.map(|l| l.rates()).any(|r| r.ingress.is_some());
    }

    /// Takes the host's ports from what several switches share, and leaves some to the endpoints of others.
    pub fn share_ports(&mut self, ports: Arc<Quota>) {
        self.ports = ports;
        self.fair = true;
    }

    /// Opens a mapping for an address and port of a sandbox.
    /// Errors: `TableFull`, `FlowLimit`, `HostExhausted`.
    pub(super) fn open<H: UdpHost>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
        mac: Mac,
        guest: SocketAddr,
    ) -> Result<u32, DropReason> {
        let parts = self.parts(host, now, port)?;
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
        let mut mapping = Mapping::new(now, sock, (port, mac), guest, false);
        mapping._parts = parts;
        self.insert(now, mapping);
        self.shares.entry(port).or_default().mappings += 1;
        Ok(id)
    }

    /// A new mapping's part of what its endpoint may have, and of the host's ports. Where there is none, the
    /// endpoint's own that has been idle longest makes room.
    fn parts<H: UdpHost>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
    ) -> Result<(Option<Held>, Option<Held>), DropReason> {
        if self.shares.entry(port).or_default().mappings >= MAX_MAPPINGS {
            self.evict(host, now, port)?;
        }
        let free = match self.free_port(port) {
            Some(free) => free,
            None => {
                self.evict(host, now, port)?;
                self.free_port(port).ok_or(DropReason::TableFull)?
            }
        };
        let limits = self.shares.get(&port).and_then(|s| s.limits.as_ref());
        let own = limits.map(|l| l.holds()).transpose()?;
        Ok((own, Some(free)))
    }

    /// A port of the host, if the endpoint may have one more.
    fn free_port(&self, port: PortId) -> Option<Held> {
        if !self.fair {
            return self.ports.take();
        }
        let own = self.shares.get(&port).map_or(0, |s| s.mappings);
        self.ports.take_fairly(own as u64)
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
    pub fn publish(&mut self, now: Tick, sock: SockId, owner: (PortId, Mac), guest: SocketAddr) {
        self.insert(now, Mapping::new(now, sock, owner, guest, true));
    }

    /// Makes room: the endpoint's mapping idle longest goes, if it has been idle for the RFC's minimum.
    /// Errors: `TableFull`.
    fn evict<H: UdpHost>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
    ) -> Result<(), DropReason> {
        // Who opens at line rate does not have all looked at each time.
        if self.shares.get(&port).is_some_and(|s| now < s.full_until) {
            return Err(DropReason::TableFull);
        }
        let own = |m: &Mapping| m.port == port && !m.published;
        let oldest = self.mappings.iter().filter(|(_, m)| own(m));
        let oldest = oldest.min_by_key(|(_, m)| m.used);
        let Some((id, used)) = oldest.map(|(id, m)| (id, m.used)) else {
            return Err(DropReason::TableFull);
        };
        if now.since(used) >= IDLE_LEAST {
            self.remove(host, u32::try_from(id).unwrap_or(u32::MAX));
            return Ok(());
        }
        self.shares.entry(port).or_default().full_until = used + IDLE_LEAST;
        Err(DropReason::TableFull)
    }

    fn remove<H: UdpHost>(&mut self, host: &mut H, id: u32) {
        if let Some(mapping) = self.mappings.try_remove(id as usize) {
            self.index.remove(&mapping.guest);
            self.wheel.cancel(id);
            host.udp_close(mapping.sock);
            if let Some(share) = self.shares.get_mut(&mapping.port)
                && !mapping.published
            {
                share.mappings = share.mappings.saturating_sub(1);
                // Now there is room.
                share.full_until = Tick::ZERO;
            }
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
        self.shares.remove(&port);
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
