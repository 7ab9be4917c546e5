//! `[8]` The tag of a frame on its way out: left as it is, taken off, put on, or given another number. The frame
//! stays where it lies: what leaves is a list of its parts. Source: IEEE 802.1Q section 9.

use std::io::IoSlice;

use super::vnet_hdr::VnetHdr;

/// The EtherType of a tag.
pub const TPID: u16 = 0x8100;
/// The part of a tag that is the VLAN's number.
pub const VID: u16 = 0x0fff;
/// Where a tag stands: behind both addresses.
const AT: usize = 12;
/// Its length.
const LEN: u16 = 4;

/// What becomes of a frame's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retag {
    /// The frame leaves as it came.
    #[default]
    Keep,
    /// It leaves without the tag that it has.
    Pop,
    /// It leaves with this tag control information, and had none.
    Push(u16),
    /// It leaves with this tag control information in place of its own.
    Replace(u16),
}

impl Retag {
    /// What is to be done to a frame that has this tag control information, or none, so that it leaves as one of this
    /// VLAN, or untagged. Its priority stays, unless it leaves untagged.
    #[must_use]
    pub const fn new(has: Option<u16>, wants: Option<u16>) -> Self {
        match (has, wants) {
            (None, None) => Self::Keep,
            (Some(_), None) => Self::Pop,
            (None, Some(vid)) => Self::Push(vid & VID),
            (Some(tci), Some(vid)) if tci & VID == vid => Self::Keep,
            (Some(tci), Some(vid)) => Self::Replace((tci & !VID) | (vid & VID)),
        }
    }

    /// The tag to be written, for [`Self::pieces`].
    #[must_use]
    pub const fn tag(self) -> [u8; 4] {
        let tci = match self {
            Self::Keep | Self::Pop => 0,
            Self::Push(tci) | Self::Replace(tci) => tci,
        };
        let ([a, b], [c, d]) = (TPID.to_be_bytes(), tci.to_be_bytes());
        [a, b, c, d]
    }

    /// The frame as it leaves, in parts. Shape: `head` begins with the frame's Ethernet header and its tag; `tag` is
    /// [`Self::tag`]. Cost: no byte is copied.
    #[must_use]
    pub fn pieces<'a>(self, head: &'a [u8], tag: &'a [u8; 4]) -> [IoSlice<'a>; 3] {
        let (addresses, rest) = head.split_at_checked(AT).unwrap_or((head, &[]));
        let untagged = rest.get(usize::from(LEN)..).unwrap_or_default();
        let (tag, rest): (&[u8], _) = match self {
            Self::Keep => (&[], rest),
            Self::Pop => (&[], untagged),
            Self::Push(_) => (tag, rest),
            Self::Replace(_) => (tag, untagged),
        };
        [
            IoSlice::new(addresses),
            IoSlice::new(tag),
            IoSlice::new(rest),
        ]
    }

    /// The virtio header of the frame as it leaves: what it says of places in the frame moves with the tag.
    #[must_use]
    pub const fn vnet(self, vnet: &VnetHdr) -> VnetHdr {
        let mut out = *vnet;
        // A header of zeros says nothing about the frame.
        if !vnet.needs_csum() && !vnet.is_gso() {
            return out;
        }
        match self {
            Self::Keep | Self::Replace(_) => {}
            Self::Pop => {
                out.hdr_len = out.hdr_len.saturating_sub(LEN);
                out.csum_start = out.csum_start.saturating_sub(LEN);
            }
            Self::Push(_) => {
                out.hdr_len = out.hdr_len.saturating_add(LEN);
                out.csum_start = out.csum_start.saturating_add(LEN);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::Mac;
    use crate::gso::split::split;
    use crate::testing::packets::{Link, Segment};
    use crate::wire::checksum::l4_valid;
    use crate::wire::packet::{Kind, Packet};

    fn leave(retag: Retag, frame: &[u8]) -> Vec<u8> {
        let tag = retag.tag();
        let pieces = retag.pieces(frame, &tag);
        pieces.iter().flat_map(|p| p.iter().copied()).collect()
    }

    #[test]
    fn literal_bytes() {
        let bare = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45];
        let tagged = [
            1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0x60, 10, 8, 0, 0x45,
        ];
        let other = [
            1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0x60, 20, 8, 0, 0x45,
        ];
        let has = Some(0x600a);
        assert_eq!(leave(Retag::new(None, None), &bare), bare);
        assert_eq!(leave(Retag::new(has, Some(10)), &tagged), tagged);
        assert_eq!(leave(Retag::new(has, None), &tagged), bare);
        assert_eq!(leave(Retag::new(has, Some(20)), &tagged), other);
        let pushed = leave(Retag::new(None, Some(10)), &bare);
        assert_eq!(pushed[14..16], [0, 10], "of no priority");
        assert_eq!(
            [&pushed[..14], &pushed[16..]],
            [&tagged[..14], &tagged[16..]]
        );
        assert!(leave(Retag::Pop, &bare[..13]).len() <= 13, "cut short");
    }

    proptest! {
        /// A super-frame that gets a tag, and one that loses it again, is the same packets.
        #[test]
        fn offload_moves_with_the_tag(v6 in any::<bool>(), udp in any::<bool>(), vid in 1u16..4095, bytes in 1usize..6000) {
            let ends = if v6 { ["[fd00::1]:1", "[fd00::2]:2"] } else { ["10.0.0.1:1", "10.0.0.2:2"] };
            let [src, dst] = ends.map(|end| end.parse::<SocketAddr>().unwrap());
            let link = Link { src: Mac([2, 0, 0, 0, 0, 1]), dst: Mac([2, 0, 0, 0, 0, 2]) };
            let payload = vec![7; bytes];
            let (vnet, frame) = if udp {
                link.udp_run(src, dst, 1200, &payload)
            } else {
                link.tcp_run(src, dst, 1200, &Segment { payload: &payload, ..Segment::default() })
            };
            let push = Retag::new(None, Some(vid));
            let (tagged, with) = (leave(push, &frame), push.vnet(&vnet));
            let packet = Packet::parse(&tagged).unwrap();
            prop_assert_eq!(packet.vlan, Some(vid));
            let (mut sent, mut scratch) = (0, Vec::new());
            split(&tagged, &with, &mut scratch, &mut |segment: &[u8]| {
                let packet = Packet::parse(segment).unwrap();
                let Kind::Ip(ip) = packet.kind else { panic!("no IP packet") };
                assert_eq!(packet.vlan, Some(vid));
                assert!(l4_valid(ip.src, ip.dst, ip.proto, &segment[ip.l4..ip.end]));
                sent += 1;
            }).unwrap();
            prop_assert_eq!(sent, bytes.div_ceil(1200));
            let pop = Retag::new(packet.vlan, None);
            prop_assert_eq!(leave(pop, &tagged), frame);
            prop_assert_eq!(pop.vnet(&with), vnet);
        }
    }
}
