//! Stage 8: What an endpoint cannot take is finished here: checksums written, super-frames cut.

use std::io::{self, IoSlice};

use switch_core::gso::split;
use switch_core::wire::checksum;
use switch_core::wire::vnet_hdr::{self, VnetHdr};

use super::Caps;

/// Room for a frame that is put together and for one that is cut from it.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    whole: Vec<u8>,
    cut: Vec<u8>,
}

/// Tells whether an endpoint with these abilities needs the frame finished first.
pub(super) fn must_cut(caps: Caps, vnet: &VnetHdr) -> bool {
    let partial = vnet.flags & vnet_hdr::NEEDS_CSUM != 0;
    let segments = match vnet.gso_kind() {
        vnet_hdr::GSO_NONE => false,
        vnet_hdr::GSO_UDP_L4 => !caps.uso,
        _ => !caps.tso,
    };
    segments || (partial && !caps.csum)
}

impl Cutter {
    /// Gives what the frame is made of to `write`, with nothing left to be done.
    /// Errors: `InvalidData` for a header that contradicts its frame; the last one of `write`.
    pub(super) fn finish(
        &mut self,
        vnet: &VnetHdr,
        frame: &[IoSlice<'_>],
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.whole.clear();
        for piece in frame {
            self.whole.extend_from_slice(piece);
        }
        let refused = |name: &str| io::Error::new(io::ErrorKind::InvalidData, name);
        if !vnet.is_gso() {
            checksum::complete_partial(&mut self.whole, vnet).map_err(|r| refused(r.name()))?;
            return write(&self.whole);
        }
        let mut result = Ok(());
        let mut one = |segment: &[u8]| {
            if let Err(e) = write(segment) {
                result = Err(e);
            }
        };
        split::split(&self.whole, vnet, &mut self.cut, &mut one).map_err(|r| refused(r.name()))?;
        result
    }
}
