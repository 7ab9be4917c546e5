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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes() {
        let bytes = [0x04, 0xd2, 0, 53, 0, 10, 0xab, 0xcd, 1, 2, 0];
        let header = UdpHeader {
            src_port: 1234,
            dst_port: 53,
            len: 10,
            checksum: 0xabcd,
        };
        assert_eq!(UdpHeader::parse(&bytes), Ok(header));
        assert_eq!(UdpHeader::parse(&bytes[..9]), Err(DropReason::Truncated));
        assert_eq!(UdpHeader::parse(&bytes[..7]), Err(DropReason::Truncated));
        let short = [0, 1, 0, 2, 0, 7, 0, 0];
        assert_eq!(UdpHeader::parse(&short), Err(DropReason::Malformed));
    }
}
