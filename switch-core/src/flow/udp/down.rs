//! Stage 6: UDP from the host to the sandbox: datagrams, and errors about the sandbox's own.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::IoSlice;

use arrayvec::ArrayVec;

use super::{Filter, MAX_BYTES, MAX_RUN, Mapping, Remote, UdpFlows};
use crate::addr::{Mac, PortId};
use crate::flow::event::IcmpReport;
use crate::flow::host::Tx;
use crate::flow::large;
use crate::flow::tcp::Cx;
use crate::policy::limit::{Limits, Load};
use crate::respond::Gateway;
use crate::respond::icmp::{self, IcmpError};
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::PROTO_UDP;
use crate::wire::vnet_hdr::{GSO_UDP_L4, VnetHdr};

/// How long a smaller MTU is believed, before a larger datagram tries again. Source: RFC 1191 section 6.3.
const NARROW: Duration = Duration::from_secs(600);

impl Mapping {
    /// The largest packet for the sandbox now.
    fn mtu(&self, cx: &Cx) -> u16 {
        match self.narrow {
            Some((mtu, until)) if cx.now < until => mtu.min(cx.mtu),
            _ => cx.mtu,
        }
    }
}

impl UdpFlows {
    /// Takes datagrams of one remote from the host to the sandbox: one super-frame where the endpoint takes it. Gives
    /// how many of them the endpoint's limit left out. Errors: `NoFlow`, `Filtered`.
    pub fn from_host<H: Tx>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        gw: &Gateway,
        mut event: Datagrams<'_>,
    ) -> Result<usize, DropReason> {
        let Some(mapping) = self.mappings.get_mut(event.mapping as usize) else {
            return Err(DropReason::NoFlow);
        };
        let shown = match mapping.remotes.iter().find(|r| r.real == event.from) {
            Some(known) => known.shown,
            None => SocketAddr::new(present(event.from.ip(), gw), event.from.port()),
        };
        let admitted = mapping.published
            || match self.filter {
                Filter::EndpointIndependent => true,
                Filter::AddressDependent => {
                    mapping.remotes.iter().any(|r| r.shown.ip() == shown.ip())
                }
                Filter::AddressAndPortDependent => mapping.remotes.iter().any(|r| r.shown == shown),
            };
        if !admitted {
            return Err(DropReason::Filtered);
        }
        if mapping.published {
            // One shown address may stand for several clients of the host's own: the last one is answered.
            let remote = Remote {
                shown,
                real: event.from,
                local: event.local,
            };
            mapping.select(remote);
            if let Some(current) = mapping.current() {
                *current = remote;
            }
            mapping.used = cx.now;
        }
        let all = event.pieces.len();
        if self.limited {
            let limits = self
                .shares
                .get(&mapping.port)
                .and_then(|s| s.limits.as_ref());
            let lets = limits.map_or(all, |l| received(l, cx, shown.is_ipv4(), event.pieces));
            event.pieces = event.pieces.get(..lets).unwrap_or_default();
        }
        let lost = all - event.pieces.len();
        let bytes: usize = event.pieces.iter().map(|p| p.len()).sum();
        mapping.bytes.1 += bytes as u64;
        let (port, to) = (mapping.port, (mapping.mac, mapping.guest));
        let mtu = mapping.mtu(cx);
        let room = usize::from(mtu).saturating_sub(if shown.is_ipv4() { 28 } else { 48 });
        let first = event.pieces.first().map_or(0, |p| p.len());
        if first > room {
            for piece in event.pieces {
                self.large_id = self.large_id.wrapping_add(1);
                large::send(
                    host,
                    (port, cx.mac, to.0),
                    (shown, to.1),
                    (event.tos, mtu, self.large_id),
                    piece,
                );
            }
            return Ok(lost);
        }
        // Datagrams without a byte cannot share a frame: there is no segment size of zero.
        let lot = if cx.uso && first > 0 {
            MAX_RUN.min((MAX_BYTES - 40) / first).max(1)
        } else {
            1
        };
        for run in event.pieces.chunks(lot) {
            write(host, cx, (port, to.0), (shown, to.1), event.tos, run);
        }
        Ok(lost)
    }

    /// A datagram of `to.1` for the mapping of `to.0` was larger than a link behind the endpoint: later ones go in
    /// pieces. Units: `mtu` with the IP header. Errors: `NoFlow` for what this sandbox cannot have got.
    pub fn too_big(
        &mut self,
        now: Tick,
        mac: Mac,
        (guest, remote): (SocketAddr, SocketAddr),
        mtu: u16,
    ) -> Result<(), DropReason> {
        let id = self.index.get(&guest).ok_or(DropReason::NoFlow)?;
        let mapping = self.mappings.get_mut(*id as usize);
        let mapping = mapping
            .filter(|m| m.mac == mac && m.remotes.iter().any(|r| r.shown == remote))
            .ok_or(DropReason::NoFlow)?;
        mapping.narrow = Some((mtu, now + NARROW));
        Ok(())
    }

    /// Turns an error of the host's socket into an ICMP message about the sandbox's own datagram.
    pub fn failed<H: Tx>(
        &mut self,
        host: &mut H,
        gw: &Gateway,
        mapping: u32,
        report: &IcmpReport<'_>,
    ) {
        let Some(m) = self.mappings.get(mapping as usize) else {
            return;
        };
        let Some(remote) = m.remotes.iter().find(|r| r.real == report.to) else {
            return;
        };
        let shown = remote.shown;
        let router = match (report.offender, shown.is_ipv4()) {
            (Some(a), _) if a.is_loopback() || a == report.to.ip() => shown.ip(),
            (Some(a), _) => a,
            (None, true) => gw.v4.map_or_else(|| shown.ip(), |v| v.0.into()),
            (None, false) => gw.v6.map_or_else(|| shown.ip(), |v| v.0.into()),
        };
        let mut original = HeaderBuf::new();
        original.eth(gw.mac, m.mac, if shown.is_ipv4() { 0x0800 } else { 0x86dd });
        original.ip(
            m.guest.ip(),
            shown.ip(),
            PROTO_UDP,
            1,
            0,
            8 + report.payload.len(),
        );
        original.udp(m.guest.port(), shown.port(), report.payload.len());
        original.set_full(
            if shown.is_ipv4() { 34 } else { 54 },
            m.guest.ip(),
            shown.ip(),
            PROTO_UDP,
            &[report.payload],
        );
        let whole = [original.as_slice(), report.payload].concat();
        let what = IcmpError::Raw {
            kind: report.kind,
            code: report.code,
            info: report.info,
        };
        if icmp::error(gw, router, &whole, what, &mut self.out) {
            host.tx(m.port, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
    }
}

/// How many of these datagrams, from the first on, an endpoint may have.
fn received(limits: &Limits, cx: &Cx, v4: bool, pieces: &[&[u8]]) -> usize {
    let head = if v4 { 20 } else { 40 };
    let may_have = |piece: &&&[u8]| {
        let packet = 8 + piece.len();
        // In pieces, where it is larger than the link.
        let frames = packet.div_ceil(usize::from(cx.mtu).saturating_sub(head).max(1));
        limits.receives(cx.now, || Load {
            frames: frames as u64,
            bytes: (packet + frames * (14 + head)) as u64,
        })
    };
    pieces.iter().take_while(may_have).count()
}

/// Datagrams as they come from the host.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams<'a> {
    /// The mapping.
    pub mapping: u32,
    /// The remote.
    pub from: SocketAddr,
    /// The local address that it sent to.
    pub local: Option<IpAddr>,
    /// DSCP and ECN.
    pub tos: u8,
    /// Payloads of one size, but for the last, which may be smaller.
    pub pieces: &'a [&'a [u8]],
}

/// The address by which a sandbox knows a client: its own, unless that means something else inside.
#[must_use]
pub fn present(client: IpAddr, gw: &Gateway) -> IpAddr {
    match client {
        IpAddr::V4(a) => {
            let inside = gw.v4.is_some_and(|(own, prefix)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                own.to_bits() & mask == a.to_bits() & mask
            });
            match gw.v4 {
                Some((own, _)) if inside || a.is_loopback() || a.is_link_local() => own.into(),
                _ => client,
            }
        }
        IpAddr::V6(a) => {
            let inside = gw.v6.is_some_and(|(own, prefix)| {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                own.to_bits() & mask == a.to_bits() & mask
            });
            match gw.v6 {
                Some((own, _)) if inside || a.is_loopback() || a.is_unicast_link_local() => {
                    own.into()
                }
                _ => client,
            }
        }
    }
}

/// Writes one frame of one or more datagrams.
fn write<H: Tx>(
    host: &mut H,
    cx: &Cx,
    (port, mac): (PortId, Mac),
    (from, to): (SocketAddr, SocketAddr),
    tos: u8,
    run: &[&[u8]],
) {
    let len: usize = run.iter().map(|p| p.len()).sum();
    let v4 = from.is_ipv4();
    let mut head = HeaderBuf::new();
    head.eth(mac, cx.mac, if v4 { 0x0800 } else { 0x86dd });
    head.ip(from.ip(), to.ip(), PROTO_UDP, 64, tos, 8 + len);
    head.udp(from.port(), to.port(), len);
    let mut vnet = head.set_partial(
        if v4 { 34 } else { 54 },
        from.ip(),
        to.ip(),
        PROTO_UDP,
        8 + len,
    );
    if run.len() > 1 {
        vnet.gso_type = GSO_UDP_L4;
        vnet.gso_size = run
            .first()
            .map_or(0, |p| u16::try_from(p.len()).unwrap_or(u16::MAX));
    }
    let mut pieces: ArrayVec<IoSlice<'_>, 65> = ArrayVec::new();
    pieces.push(IoSlice::new(head.as_slice()));
    pieces.extend(run.iter().take(MAX_RUN).map(|p| IoSlice::new(p)));
    host.tx(port, &vnet, &pieces);
}
