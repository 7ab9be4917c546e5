//! Stage 2: Formats that every packet crosses, one a file. `packet` is the parse of a whole frame, `emit`
//! writes headers; the rest are single formats.

pub mod checksum;
pub mod emit;
pub mod packet;
pub mod tcp;
pub mod too_big;
pub mod udp;
pub mod vlan;
pub mod vnet_hdr;

/// Reads two bytes in network order at an offset.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads four bytes in network order at an offset.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Overwrites bytes at an offset. False, and nothing written, where they do not fit.
#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> bool {
    match bytes.get_mut(at..at + value.len()) {
        Some(room) => {
            room.copy_from_slice(value);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
