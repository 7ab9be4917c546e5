//! Stage 6: A sandbox, or a router in it, says that what came for it was too big.

use super::Switch;
use crate::flow::tcp::{Cx, Key};
use crate::respond::icmp;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Ip, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::too_big::TooBig;

impl Switch {
    /// Makes what follows to that address smaller. Shape: `message` starts at the ICMP header.
    /// Errors: `NoFlow`, `OutOfWindow` for what was not sent; `BadChecksum`, `Spoofed`, `UnknownProtocol`.
    pub(super) fn too_big(
        &mut self,
        cx: &Cx,
        (packet, ip): (&Packet, &Ip),
        message: &[u8],
        said: &TooBig,
    ) -> Result<Verdict, DropReason> {
        if !icmp::valid(ip, message) {
            return Err(DropReason::BadChecksum);
        }
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        match said.proto {
            PROTO_TCP => {
                let key = Key {
                    guest: said.dst.ip(),
                    guest_port: said.dst.port(),
                    remote: said.src.ip(),
                    remote_port: said.src.port(),
                };
                self.tcp.too_big(packet.src, &key, said.seq, said.mtu)?;
            }
            PROTO_UDP => {
                self.udp
                    .too_big(cx.now, packet.src, (said.dst, said.src), said.mtu)?;
            }
            _ => return Err(DropReason::UnknownProtocol),
        }
        Ok(Verdict::Translate)
    }
}
