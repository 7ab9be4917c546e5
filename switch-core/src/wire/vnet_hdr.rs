//! [2] The virtio header that leads every frame of a TAP with offload. Source: linux/virtio_net.h.

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
