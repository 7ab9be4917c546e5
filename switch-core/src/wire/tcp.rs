//! Stage 2: The TCP header and its options. Source: RFC 9293 section 3.1, RFC 7323, RFC 2018.

use arrayvec::ArrayVec;

use super::{be16, be32};
use crate::verdict::DropReason;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement field counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;
/// The receiver saw congestion marks.
pub const ECE: u8 = 0x40;
/// The sender has reduced its window.
pub const CWR: u8 = 0x80;

/// The fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Next byte expected.
    pub ack: u32,
    /// `FIN` to `URG`, and the ECN flags above.
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// Bytes of the header with its options.
    pub len: usize,
}

impl TcpHeader {
    /// Reads a header. Shape: `segment` starts at it and ends with the segment.
    /// Errors: `Truncated`, `Malformed`.
    #[inline]
    pub fn parse(segment: &[u8]) -> Result<Self, DropReason> {
        let head = segment.first_chunk::<20>().ok_or(DropReason::Truncated)?;
        let len = usize::from(head[12] >> 4) * 4;
        if len < 20 {
            return Err(DropReason::Malformed);
        }
        if len > segment.len() {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            src_port: u16::from_be_bytes([head[0], head[1]]),
            dst_port: u16::from_be_bytes([head[2], head[3]]),
            seq: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            ack: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
            flags: head[13],
            window: u16::from_be_bytes([head[14], head[15]]),
            len,
        })
    }
}

/// The options that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Largest segment that the sender takes.
    pub mss: Option<u16>,
    /// Shift of the sender's window fields.
    pub wscale: Option<u8>,
    /// The sender understands selective acknowledgements.
    pub sack_permitted: bool,
    /// Value and echo.
    pub timestamps: Option<(u32, u32)>,
    /// Selective acknowledgements: start and end.
    pub sack: ArrayVec<(u32, u32), 4>,
}

impl TcpOptions {
    /// Reads options; what is unknown or broken is passed over, as RFC 9293 section 3.2 asks.
    #[must_use]
    pub fn parse(mut options: &[u8]) -> Self {
        let mut out = Self::default();
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                0 => break,
                1 => {
                    options = rest;
                    continue;
                }
                _ => {}
            }
            let Some(len) = rest.first().map(|&l| usize::from(l)).filter(|&l| l >= 2) else {
                break;
            };
            let Some((option, after)) = options.split_at_checked(len) else {
                break;
            };
            match (kind, len) {
                (2, 4) => out.mss = be16(option, 2),
                (3, 3) => out.wscale = option.get(2).copied(),
                (4, 2) => out.sack_permitted = true,
                (8, 10) => out.timestamps = be32(option, 2).zip(be32(option, 6)),
                (5, _) => {
                    for block in option.get(2..).unwrap_or_default().chunks_exact(8) {
                        if let Some(range) = be32(block, 0).zip(be32(block, 4)) {
                            let _ = out.sack.try_push(range);
                        }
                    }
                }
                _ => {}
            }
            options = after;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_of_a_linux_syn() {
        let bytes = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
        ];
        let o = TcpOptions::parse(&bytes);
        assert_eq!(
            (o.mss, o.wscale, o.sack_permitted),
            (Some(1460), Some(7), true)
        );
        assert_eq!(o.timestamps, Some((1, 2)));
    }

    #[test]
    fn broken_options_end_the_walk_and_keep_what_came_before() {
        for tail in [
            &[2, 0][..],
            &[2, 1],
            &[2],
            &[8, 10, 0],
            &[0, 3, 3, 9],
            &[3, 3],
        ] {
            let o = TcpOptions::parse(&[&[1, 2, 4, 5, 0xb4][..], tail].concat());
            assert_eq!(
                (o.mss, o.wscale, o.timestamps),
                (Some(1460), None, None),
                "{tail:?}"
            );
        }
        let unknown = TcpOptions::parse(&[254, 4, 0, 0, 2, 3, 9, 3, 3, 7]);
        assert_eq!(
            (unknown.mss, unknown.wscale),
            (None, Some(7)),
            "a length that is not the option's"
        );
        let blocks = TcpOptions::parse(&[&[5, 34][..], &[7; 32]].concat());
        assert_eq!(blocks.sack.as_slice(), [(0x0707_0707, 0x0707_0707); 4]);
    }

    #[test]
    fn headers_of_literal_bytes() {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&[0, 80, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 2, 0x60, 0xc2, 1, 0]);
        let h = TcpHeader::parse(&bytes).unwrap();
        assert_eq!((h.src_port, h.dst_port, h.seq, h.ack), (80, 8080, 1, 2));
        assert_eq!((h.flags, h.window, h.len), (CWR | ECE | SYN, 256, 24));
        assert_eq!(TcpHeader::parse(&bytes[..23]), Err(DropReason::Truncated));
        bytes[12] = 0x40;
        assert_eq!(TcpHeader::parse(&bytes), Err(DropReason::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TcpOptions::parse(&bytes);
            if let Ok(h) = TcpHeader::parse(&bytes) {
                prop_assert!(h.len >= 20 && h.len <= bytes.len());
            }
        }
    }
}
