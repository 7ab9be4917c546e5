//! Stage 6: Writing segments to the sandbox.

use core::net::IpAddr;
use std::io::IoSlice;

use arrayvec::ArrayVec;

use super::Cx;
use super::seq::dist;
use super::state::{Flow, Key};
use crate::addr::{Mac, PortId};
use crate::flow::host::Tx;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, PROTO_TCP};
use crate::wire::tcp::{ACK, FIN, RST, SYN, TcpHeader};
use crate::wire::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, VnetHdr};

/// Window scale that we offer: 65,535 << 7 is 8 MB, above the largest grant.
pub(super) const SCALE: u8 = 7;

/// What distinguishes one segment of a flow from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
    /// Payload a segment; 0 for frames that are never cut.
    pub(super) mss: u16,
    pub(super) tos: u8,
}

/// Writes one frame from the remote side of `key` to the sandbox.
pub(super) fn write<H: Tx>(
    host: &mut H,
    from: Mac,
    (port, to): (PortId, Mac),
    key: &Key,
    shape: &Shape<'_>,
) -> bool {
    let mut head = HeaderBuf::new();
    let l4_len = 20 + shape.options.len() + shape.payload.len();
    let (l4, gso) = match (key.remote, key.guest) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (34, GSO_TCPV4),
        _ => (54, GSO_TCPV6),
    };
    head.eth(to, from, if l4 == 34 { 0x0800 } else { 0x86dd });
    head.ip(key.remote, key.guest, PROTO_TCP, 64, shape.tos, l4_len);
    head.tcp(
        key.remote_port,
        key.guest_port,
        shape.seq,
        shape.ack,
        shape.flags,
        shape.window,
        shape.options,
    );
    let mut vnet: VnetHdr = head.set_partial(l4, key.remote, key.guest, PROTO_TCP, l4_len);
    if shape.mss != 0 && shape.payload.len() > usize::from(shape.mss) {
        vnet.gso_type = gso;
        vnet.gso_size = shape.mss;
        vnet.hdr_len = u16::try_from(head.as_slice().len()).unwrap_or(u16::MAX);
    }
    host.tx(
        port,
        &vnet,
        &[IoSlice::new(head.as_slice()), IoSlice::new(shape.payload)],
    )
}

/// Sends a segment of an established flow, which carries the acknowledgement and the window of now.
/// Returns the change of the right edge, for the budget.
pub(super) fn send<H: Tx>(
    host: &mut H,
    cx: &Cx,
    flow: &mut Flow,
    flags: u8,
    seq: u32,
    payload: &[u8],
) -> u32 {
    let (window, grown) = next_window(flow);
    let mut options: ArrayVec<u8, 40> = ArrayVec::new();
    if payload.is_empty() && flow.sack_ok {
        sack_option(flow, &mut options);
    }
    if payload.is_empty() {
        flow.twice = None;
    }
    flow.acked = flow.rcv_nxt;
    flow.ack_at = crate::time::Tick::NEVER;
    // What rides on data is no duplicate acknowledgement and has no room for what lies beyond a hole: the sandbox would
    // learn of a loss from its clock alone.
    let hole = flow.ahead.as_ref().is_some_and(|a| !a.is_empty());
    flow.todo.ack &= (hole || flow.twice.is_some()) && !payload.is_empty();
    flow.todo.ack_later = false;
    let shape = Shape {
        flags: flags | ACK,
        seq,
        ack: flow.rcv_nxt,
        window,
        options: &options,
        payload,
        mss: flow.mss,
        tos: flow.tos,
    };
    write(host, cx.mac, (flow.port, flow.mac), &flow.key, &shape);
    grown
}

/// The window field for the next segment, and by how much the right edge moves with it.
/// The field is rounded up, and the edge with it: what was offered is never taken back.
fn next_window(flow: &mut Flow) -> (u16, u32) {
    let edge = flow.wanted_edge();
    let room = edge.wrapping_sub(flow.rcv_nxt);
    let units = room.div_ceil(1 << flow.rcv_scale).min(65_535);
    let edge = super::seq::max(
        flow.rcv_edge,
        flow.rcv_nxt.wrapping_add(units << flow.rcv_scale),
    );
    let grown = edge.wrapping_sub(flow.rcv_edge);
    flow.rcv_edge = edge;
    (u16::try_from(units).unwrap_or(u16::MAX), grown)
}

/// Tells what came twice, then what lies beyond the first hole, the newest first.
/// Source: RFC 2018 section 4, RFC 2883 section 4.
fn sack_option(flow: &Flow, options: &mut ArrayVec<u8, 40>) {
    let ahead = flow.ahead.as_ref().map(|a| a.blocks()).unwrap_or_default();
    let blocks: ArrayVec<(u32, u32), 4> = flow.twice.into_iter().chain(ahead).take(4).collect();
    if blocks.is_empty() {
        return;
    }
    let len = u8::try_from(2 + 8 * blocks.len()).unwrap_or(2);
    let _ = options.try_extend_from_slice(&[1, 1, 5, len]);
    for (start, end) in blocks {
        let _ = options.try_extend_from_slice(&start.to_be_bytes());
        let _ = options.try_extend_from_slice(&end.to_be_bytes());
    }
}

/// The options of a SYN or SYN-ACK of ours.
pub(super) fn syn_options(mss: u16, sack: bool, scale: bool) -> ArrayVec<u8, 40> {
    let mut options: ArrayVec<u8, 40> = ArrayVec::new();
    let [hi, lo] = mss.to_be_bytes();
    let _ = options.try_extend_from_slice(&[2, 4, hi, lo]);
    if sack {
        let _ = options.try_extend_from_slice(&[1, 1, 4, 2]);
    }
    if scale {
        let _ = options.try_extend_from_slice(&[1, 3, 3, SCALE]);
    }
    options
}

/// Answers a stray segment with a reset.
pub(super) fn refuse<H: Tx>(
    host: &mut H,
    cx: &Cx,
    port: PortId,
    guest: Mac,
    ip: &Ip,
    hdr: &TcpHeader,
    len: usize,
) {
    if hdr.flags & RST != 0 {
        return;
    }
    let key = Key {
        guest: ip.src,
        guest_port: hdr.src_port,
        remote: ip.dst,
        remote_port: hdr.dst_port,
    };
    let (seq, ack, flags) = if hdr.flags & ACK != 0 {
        (hdr.ack, 0, RST)
    } else {
        let flags = u32::from(hdr.flags & SYN != 0) + u32::from(hdr.flags & FIN != 0);
        let data = dist(len.saturating_sub(hdr.len));
        (0, hdr.seq.wrapping_add(data).wrapping_add(flags), RST | ACK)
    };
    let shape = Shape {
        flags,
        seq,
        ack,
        window: 0,
        options: &[],
        payload: &[],
        mss: 0,
        tos: 0,
    };
    write(host, cx.mac, (port, guest), &key, &shape);
}
