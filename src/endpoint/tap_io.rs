//! Stage 1, 8: Reading and writing of a TAP: one system call a frame, and a frame is up to 64 KB.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use switch_core::gso::split;
use switch_core::wire::vnet_hdr::{self, VnetHdr};

use super::{Caps, Endpoint, Received};

/// Pieces of a frame at most: headers, and 64 datagrams of a UDP super-frame.
const PIECES: usize = 66;

/// A TAP whose descriptor was opened inside the sandbox.
#[derive(Debug)]
pub struct TapEndpoint {
    fd: OwnedFd,
    caps: Caps,
    vnet: bool,
    /// For a TAP without offload: frames are put together and cut here.
    whole: Vec<u8>,
    cut: Vec<u8>,
}

impl TapEndpoint {
    /// Takes over a descriptor. `vnet` says whether a virtio header of 12 bytes leads every frame.
    #[must_use]
    pub fn new(fd: OwnedFd, vnet: bool, caps: Caps) -> Self {
        Self {
            fd,
            caps,
            vnet,
            whole: Vec::new(),
            cut: Vec::new(),
        }
    }

    fn must_cut(&self, vnet: &VnetHdr) -> bool {
        let partial = vnet.flags & vnet_hdr::NEEDS_CSUM != 0;
        let segments = match vnet.gso_kind() {
            vnet_hdr::GSO_NONE => false,
            vnet_hdr::GSO_UDP_L4 => !self.caps.uso,
            _ => !self.caps.tso,
        };
        !self.vnet || segments || (partial && !self.caps.csum)
    }

    fn tx_cut(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.whole.clear();
        for piece in frame {
            self.whole.extend_from_slice(piece);
        }
        let mut result = Ok(());
        let (fd, with_header) = (self.fd.as_fd(), self.vnet);
        let mut write = |segment: &[u8]| {
            let head = [0; vnet_hdr::LEN];
            let pieces = [IoSlice::new(&head), IoSlice::new(segment)];
            let from = usize::from(!with_header);
            if let Err(e) = nix::sys::uio::writev(fd, &pieces[from..]) {
                result = Err(e.into());
            }
        };
        if vnet.is_gso() {
            split::split(&self.whole, vnet, &mut self.cut, &mut write)
                .map_err(|r| io::Error::new(io::ErrorKind::InvalidData, r.name()))?;
        } else {
            switch_core::wire::checksum::complete_partial(&mut self.whole, vnet)
                .map_err(|r| io::Error::new(io::ErrorKind::InvalidData, r.name()))?;
            write(&self.whole);
        }
        result
    }
}

impl Endpoint for TapEndpoint {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let n = nix::unistd::read(&self.fd, buf)?;
        if !self.vnet {
            return Ok(Received {
                vnet: VnetHdr::default(),
                start: 0,
                end: n,
            });
        }
        let head = buf[..n]
            .first_chunk::<{ vnet_hdr::LEN }>()
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(Received {
            vnet: VnetHdr::parse(head),
            start: vnet_hdr::LEN,
            end: n,
        })
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        if self.must_cut(vnet) {
            return self.tx_cut(vnet, frame);
        }
        let head = vnet.encode();
        let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
        pieces.push(IoSlice::new(&head));
        pieces
            .try_extend_from_slice(frame)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        nix::sys::uio::writev(&self.fd, &pieces)?;
        Ok(())
    }
}
