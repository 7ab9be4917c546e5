//! A correction of smoltcp's keep-alives, which carry a byte one before what is sent next. Once a FIN
//! is sent that byte stands in the FIN's place, and a peer that has not got the FIN must take it for
//! data. In its place goes what the guest did send there: the FIN.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use crate::testing::packets::{Link, Segment};
use crate::wire::packet::{Kind, PROTO_TCP, Packet};
use crate::wire::tcp::{FIN, TcpHeader};

/// By the two ends: the sequence number of the FIN.
#[derive(Debug, Default)]
pub(super) struct Fins(BTreeMap<(SocketAddr, SocketAddr), u32>);

impl Fins {
    /// Looks at a frame that leaves, and makes a probe in a FIN's place that FIN again.
    pub(super) fn correct(&mut self, frame: &mut Vec<u8>) {
        let Ok(packet) = Packet::parse(frame) else {
            return;
        };
        let Kind::Ip(ip) = packet.kind else { return };
        if ip.proto != PROTO_TCP || ip.frag.is_some() {
            return;
        }
        let Ok(tcp) = TcpHeader::parse(&frame[ip.l4..ip.end]) else {
            return;
        };
        let payload = ip.end - ip.l4 - tcp.len;
        let (src, dst) = ((ip.src, tcp.src_port).into(), (ip.dst, tcp.dst_port).into());
        if tcp.flags & FIN != 0 {
            let at = tcp.seq.wrapping_add(payload as u32);
            self.0.insert((src, dst), at);
        } else if payload == 1 && self.0.get(&(src, dst)) == Some(&tcp.seq) {
            let link = Link {
                src: packet.src,
                dst: packet.dst,
            };
            let segment = Segment {
                seq: tcp.seq,
                ack: tcp.ack,
                flags: tcp.flags | FIN,
                window: tcp.window,
                options: &frame[ip.l4 + 20..ip.l4 + tcp.len],
                payload: &[],
            };
            *frame = link.tcp(src, dst, &segment);
        }
    }
}
