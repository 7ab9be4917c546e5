//! Stage 6: ICMP echo through sockets of the host: one for each address and identifier of a sandbox. Source: RFC 5508.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use slab::Slab;

use super::event::IcmpReport;
use super::host::{DatagramMeta, EchoHost, HostError, Tx};
use super::row::FlowRow;
use super::tcp::Key;
use crate::addr::{Mac, PortId, SockId};
use crate::frag;
use crate::policy::limit::{Limits, Load};
use crate::policy::quota::Held;
use crate::respond::Gateway;
use crate::respond::icmp::{self, IcmpError};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::be16;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, PROTO_ICMP, PROTO_ICMPV6};
use crate::wire::vnet_hdr::VnetHdr;

/// Idle sessions live so long. Source: RFC 5508 REQ-2.
const IDLE: Duration = Duration::from_secs(60);
/// Sessions at most, and of one endpoint.
const MAX: usize = 4_096;
const MAX_OF_ONE: usize = 1_024;

#[derive(Debug)]
struct Session {
    guest: IpAddr,
    ident: u16,
    port: PortId,
    mac: Mac,
    sock: SockId,
    used: Tick,
    /// As the sandbox knows the other side, and as the host does.
    remote: (IpAddr, IpAddr),
    /// Payload from the sandbox, and to it.
    bytes: (u64, u64),
    /// Its part of what the endpoint may have.
    _share: Option<Held>,
}

/// The sessions of one owner.
#[derive(Debug, Default)]
pub struct EchoFlows {
    sessions: Slab<Session>,
    index: HashMap<(IpAddr, u16), u32>,
    /// When one has been idle for too long, or a little before.
    next: Option<Tick>,
    /// Of endpoints that have any.
    limits: HashMap<PortId, Arc<Limits>>,
    /// Identification of the next reply in pieces.
    ident: u32,
    out: Vec<u8>,
}

impl EchoFlows {
    /// Sets an endpoint's limits.
    pub fn set_limits(&mut self, port: PortId, limits: Option<&Arc<Limits>>) {
        match limits {
            Some(limits) => drop(self.limits.insert(port, Arc::clone(limits))),
            None => drop(self.limits.remove(&port)),
        }
    }

    /// The endpoint that a session belongs to.
    #[must_use]
    pub fn port_of(&self, mapping: u32) -> Option<PortId> {
        self.sessions.get(mapping as usize).map(|s| s.port)
    }

    /// True if a request goes on with what its sandbox asked this remote before. Shape: `icmp` starts at its header.
    #[must_use]
    pub fn knows(&self, ip: &Ip, icmp: &[u8]) -> bool {
        let id = be16(icmp, 4).and_then(|ident| self.index.get(&(ip.src, ident)));
        let session = id.and_then(|&id| self.sessions.get(id as usize));
        session.is_some_and(|s| s.remote.0 == ip.dst)
    }

    /// Takes an echo request of a sandbox to `real`. Shape: `icmp` starts at the ICMP header.
    /// Errors: `TableFull`, `FlowLimit`; `Host` errors as drop reasons; `Refused` where the host has neither ping nor raw sockets for us.
    pub fn from_guest<H: EchoHost>(
        &mut self,
        host: &mut H,
        now: Tick,
        (port, mac): (PortId, Mac),
        (ip, real): (&Ip, IpAddr),
        icmp: &[u8],
    ) -> Result<(), DropReason> {
        let &[_, _, _, _, i0, i1, s0, s1] = icmp.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let (ident, seq) = (u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1]));
        let key = (ip.src, ident);
        let id = match self.index.get(&key) {
            Some(&id) => id,
            None => {
                let own = self.sessions.iter().filter(|(_, s)| s.port == port);
                if self.sessions.len() >= MAX || own.count() >= MAX_OF_ONE {
                    return Err(DropReason::TableFull);
                }
                let limits = self.limits.get(&port);
                let share = limits.map(|l| l.holds()).transpose()?;
                let id =
                    u32::try_from(self.sessions.vacant_key()).map_err(|_| DropReason::TableFull)?;
                let sock = host.echo_open(id, ip.src.is_ipv6()).map_err(|e| {
                    if e == HostError::Exhausted {
                        e.reason()
                    } else {
                        DropReason::Refused
                    }
                })?;
                self.sessions.insert(Session {
                    guest: ip.src,
                    ident,
                    port,
                    mac,
                    sock,
                    used: now,
                    remote: (ip.dst, real),
                    bytes: (0, 0),
                    _share: share,
                });
                self.index.insert(key, id);
                self.next.get_or_insert(now + IDLE);
                id
            }
        };
        let Some(session) = self.sessions.get_mut(id as usize) else {
            return Err(DropReason::NoFlow);
        };
        session.used = now;
        session.remote = (ip.dst, real);
        session.bytes.0 += icmp.len().saturating_sub(8) as u64;
        let meta = DatagramMeta {
            ttl: (ip.ttl <= 32).then(|| ip.ttl.saturating_sub(1).max(1)),
            tos: ip.tos,
            dont_fragment: ip.dont_fragment,
            source: None,
        };
        host.echo_send(
            session.sock,
            real,
            meta,
            seq,
            icmp.get(8..).unwrap_or_default(),
        )
        .map_err(|_| DropReason::HostError)
    }

    /// Brings an echo reply to its sandbox: who answers, with what number and payload.
    /// Errors: `NoFlow`; `RateLimited` where the endpoint may have no more.
    pub fn from_host<H: Tx>(
        &mut self,
        host: &mut H,
        now: Tick,
        gw: &Gateway,
        mapping: u32,
        (from, seq, payload): (IpAddr, u16, &[u8]),
    ) -> Result<(), DropReason> {
        let Some(s) = self.sessions.get_mut(mapping as usize) else {
            return Err(DropReason::NoFlow);
        };
        let headers = if s.guest.is_ipv4() { 42 } else { 62 };
        let load = || Load {
            frames: 1,
            bytes: (headers + payload.len()) as u64,
        };
        let limits = self.limits.get(&s.port);
        if limits.is_some_and(|l| !l.receives(now, load)) {
            return Err(DropReason::RateLimited);
        }
        s.bytes.1 += payload.len() as u64;
        let shown = if from == s.remote.1 { s.remote.0 } else { from };
        let [i0, i1] = s.ident.to_be_bytes();
        let [s0, s1] = seq.to_be_bytes();
        icmp::echo_reply(
            (gw.mac, s.mac),
            (shown, s.guest),
            [i0, i1, s0, s1],
            payload,
            &mut self.out,
        );
        self.ident = self.ident.wrapping_add(1);
        // A reply to a ping with much payload is larger than the link, as the request was before it was put together.
        let _ = frag::fragment(&self.out, gw.mtu, self.ident, &mut |pieces| {
            host.tx(s.port, &VnetHdr::default(), pieces);
        });
        Ok(())
    }

    /// Turns an error about an echo request into one about the sandbox's own packet.
    pub fn failed<H: Tx>(
        &mut self,
        host: &mut H,
        gw: &Gateway,
        mapping: u32,
        report: &IcmpReport<'_>,
    ) {
        let Some(s) = self.sessions.get(mapping as usize) else {
            return;
        };
        let v4 = s.guest.is_ipv4();
        let shown = s.remote.0;
        let router = match report.offender {
            Some(a) if a != s.remote.1 => a,
            _ => shown,
        };
        // The host quotes the request with its own identifier; the sandbox wants its own back.
        let mut quoted = report.payload.to_vec();
        if quoted.len() < 8 {
            quoted = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 0];
        }
        if let Some(field) = quoted.get_mut(4..6) {
            field.copy_from_slice(&s.ident.to_be_bytes());
        }
        let mut original = HeaderBuf::new();
        original.eth(gw.mac, s.mac, if v4 { 0x0800 } else { 0x86dd });
        original.ip(
            s.guest,
            shown,
            if v4 { PROTO_ICMP } else { PROTO_ICMPV6 },
            1,
            0,
            quoted.len(),
        );
        let whole = [original.as_slice(), &quoted].concat();
        let what = IcmpError::Raw {
            kind: report.kind,
            code: report.code,
            info: report.info,
        };
        if icmp::error(gw, router, &whole, what, &mut self.out) {
            host.tx(s.port, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
    }

    /// Removes sessions that have been idle.
    pub fn handle_timeout<H: EchoHost>(&mut self, host: &mut H, now: Tick) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        let index = &mut self.index;
        self.sessions.retain(|_, s| {
            let keep = now.since(s.used) < IDLE;
            if !keep {
                index.remove(&(s.guest, s.ident));
                host.echo_close(s.sock);
            }
            keep
        });
        self.next = self.sessions.iter().map(|(_, s)| s.used + IDLE).min();
    }

    /// The sessions as they are now.
    pub fn rows(&self, now: Tick) -> impl Iterator<Item = FlowRow> + '_ {
        self.sessions.iter().map(move |(_, s)| FlowRow {
            port: s.port,
            protocol: "icmp",
            key: Key {
                guest: s.guest,
                guest_port: s.ident,
                remote: s.remote.0,
                remote_port: s.ident,
            },
            state: "open",
            bytes: s.bytes,
            idle: now.since(s.used),
        })
    }

    /// Ends an endpoint's sessions.
    pub fn remove_port<H: EchoHost>(&mut self, host: &mut H, port: PortId) {
        let index = &mut self.index;
        self.sessions.retain(|_, s| {
            if s.port == port {
                index.remove(&(s.guest, s.ident));
                host.echo_close(s.sock);
            }
            s.port != port
        });
        self.limits.remove(&port);
    }

    /// The next deadline, or a little before it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.next
    }
}
