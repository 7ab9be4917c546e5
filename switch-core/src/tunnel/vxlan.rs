//! `[7]` The VXLAN header: eight bytes between the UDP header and the inner Ethernet frame. Source: RFC 7348 section 5.
//!
//! ```text
//! byte 0    flags: 0x08 says that the identifier is valid
//! byte 1-3  reserved
//! byte 4-6  VNI, big endian
//! byte 7    reserved
//! ```
//! What is reserved is zero on sending, exactly: a Linux device refuses a datagram where it is not. It is ignored on receipt.

use crate::addr::Vni;

/// The length of the header, in bytes.
pub const HEADER: usize = 8;

/// The port that IANA gave to VXLAN.
pub const PORT: u16 = 4789;

/// The flag without which the identifier is not valid.
const FLAG_VNI: u8 = 0x08;

/// The header that leads each frame of a network.
#[must_use]
pub const fn header(vni: Vni) -> [u8; HEADER] {
    let [a, b, c] = vni.to_be_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

/// Reads the header at the start of a datagram; gives the identifier and the inner frame.
/// None for a datagram that is too short, or whose identifier is not valid.
#[must_use]
pub fn parse(datagram: &[u8]) -> Option<(Vni, &[u8])> {
    let (&[flags, _, _, _, a, b, c, _], frame) = datagram.split_first_chunk::<HEADER>()?;
    (flags & FLAG_VNI != 0).then_some((Vni::from_be_bytes([a, b, c]), frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_zero_on_sending_and_ignored_on_receipt() {
        let vni = Vni::new(0x00ab_cdef).unwrap();
        let header = header(vni);
        assert_eq!(header, [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(parse(&header), Some((vni, [].as_slice())));
        assert_eq!(
            parse(&[0xff, 1, 2, 3, 0xab, 0xcd, 0xef, 4, 9]),
            Some((vni, [9].as_slice()))
        );
    }

    #[test]
    fn without_the_flag_or_too_short_it_is_none() {
        assert_eq!(parse(&[0xf7, 0, 0, 0, 0, 0, 1, 0]), None);
        let whole = header(Vni::new(1).unwrap());
        for length in 0..HEADER {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }
}
