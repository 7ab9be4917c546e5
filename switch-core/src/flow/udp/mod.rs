//! Stage 6: UDP: one host socket for each address and port of a sandbox, so that mapping is independent of the
//! other endpoint; what may come back is a choice. Source: RFC 4787.

mod down;
mod known;
mod life;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use ahash::RandomState;
use slab::Slab;

use self::life::Share;
use super::host::{DatagramMeta, HostError, UdpHost};
use super::tcp::Cx;
use crate::addr::{Mac, PortId, SockId};
use crate::conntrack::expiry::Wheel;
use crate::policy::quota::{Held, Quota};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::Ip;
use crate::wire::vnet_hdr::{GSO_UDP_L4, VnetHdr};

pub use self::down::{Datagrams, present};
pub use self::life::half;

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
    /// Its part of what the endpoint may have, and of the host's ports.
    _parts: (Option<Held>, Option<Held>),
}

impl Mapping {
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
    /// The host's ports that may be used: never more than half of its range.
    ports: Arc<Quota>,
    /// Others take theirs from the same.
    fair: bool,
    shares: HashMap<PortId, Share>,
    /// Some endpoint has a limit on what it may receive.
    limited: bool,
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
            ports: Arc::new(Quota::new(half(ephemeral))),
            fair: false,
            shares: HashMap::new(),
            limited: false,
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
    /// Errors: `TableFull`, `FlowLimit`, `HostExhausted`, `HostError`.
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
}
