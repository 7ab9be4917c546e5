//! Stage 2: The UDP header. Source: RFC 768.

use crate::verdict::DropReason;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header and payload; in a super-frame of all its datagrams together.
    pub len: u16,
    /// Checksum; zero is none over IPv4.
    pub checksum: u16,
}

impl UdpHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// Reads a header. Shape: `datagram` starts at it and ends with the IP packet.
    /// Errors: `Truncated` where there are fewer bytes than it says, `Malformed` where it says fewer than 8.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        let h = datagram.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let len = u16::from_be_bytes([h[4], h[5]]);
        if len < 8 {
            return Err(DropReason::Malformed);
        }
        if usize::from(len) > datagram.len() {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            len,
            checksum: u16::from_be_bytes([h[6], h[7]]),
        })
    }
}
