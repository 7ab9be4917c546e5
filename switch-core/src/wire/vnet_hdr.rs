//! `[2]` The virtio header that leads every frame of a TAP with offload. Source: linux/virtio_net.h.

/// The L4 checksum field holds only the pseudo-header's sum.
pub const NEEDS_CSUM: u8 = 1;
/// The kernel has verified the checksum.
pub const DATA_VALID: u8 = 2;
/// Not a super-frame.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// Datagrams of one UDP flow.
pub const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP kind: the segments carry ECN marks.
pub const GSO_ECN: u8 = 0x80;
/// Bytes on a TAP, with the field `num_buffers`.
pub const LEN: usize = 12;

/// What is still to be done to a frame: checksum, segmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHdr {
    /// `NEEDS_CSUM` or `DATA_VALID`.
    pub flags: u8,
    /// One of the `GSO_` kinds, perhaps with `GSO_ECN`.
    pub gso_type: u8,
    /// Length of all headers; a hint.
    pub hdr_len: u16,
    /// Payload bytes a segment.
    pub gso_size: u16,
    /// Where the checksum starts, from the frame's start.
    pub csum_start: u16,
    /// Where the checksum field is, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Reads the header. Shape: native byte order, as a TAP gives it on little-endian and big-endian alike.
    #[must_use]
    #[inline]
    pub const fn parse(b: &[u8; LEN]) -> Self {
        Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_ne_bytes([b[2], b[3]]),
            gso_size: u16::from_ne_bytes([b[4], b[5]]),
            csum_start: u16::from_ne_bytes([b[6], b[7]]),
            csum_offset: u16::from_ne_bytes([b[8], b[9]]),
        }
    }

    /// Reads the header without the field `num_buffers`, as a packet socket gives it.
    #[must_use]
    #[inline]
    pub const fn parse_short(b: &[u8; LEN - 2]) -> Self {
        Self::parse(&[
            b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], 0, 0,
        ])
    }

    /// Writes the header, with one buffer.
    #[must_use]
    #[inline]
    pub const fn encode(&self) -> [u8; LEN] {
        let h = self.hdr_len.to_ne_bytes();
        let g = self.gso_size.to_ne_bytes();
        let s = self.csum_start.to_ne_bytes();
        let o = self.csum_offset.to_ne_bytes();
        [
            self.flags,
            self.gso_type,
            h[0],
            h[1],
            g[0],
            g[1],
            s[0],
            s[1],
            o[0],
            o[1],
            0,
            0,
        ]
    }

    /// The kind of super-frame, without the ECN bit.
    #[must_use]
    pub const fn gso_kind(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }

    /// True for a super-frame.
    #[must_use]
    pub const fn is_gso(&self) -> bool {
        self.gso_kind() != GSO_NONE
    }

    /// True if the checksum is partial.
    #[must_use]
    pub const fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// True if nobody needs to look at the checksum any more: it is partial, or verified.
    #[must_use]
    pub const fn csum_trusted(&self) -> bool {
        self.flags & (NEEDS_CSUM | DATA_VALID) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes() {
        let n = u16::to_ne_bytes;
        let fields = [[1, 0x81], n(66), n(1448), n(34), n(16), [0, 0]];
        let raw: [u8; LEN] = fields.concat().try_into().unwrap();
        let h = VnetHdr::parse(&raw);
        assert_eq!(
            (h.hdr_len, h.gso_size, h.csum_start, h.csum_offset),
            (66, 1448, 34, 16)
        );
        assert_eq!(
            (h.gso_kind(), h.is_gso(), h.needs_csum()),
            (GSO_TCPV4, true, true)
        );
        assert_eq!(h.encode(), raw);
        let none = VnetHdr::default();
        assert!(!none.is_gso() && !none.csum_trusted() && none.encode() == [0; LEN]);
        assert!(
            VnetHdr {
                flags: DATA_VALID,
                ..none
            }
            .csum_trusted()
        );
    }
}
