//! Stage 1, 8: Endpoints: where frames come from and go to.
//!
//! The owner alone receives; any worker may transmit. Capture and fault injection wrap an endpoint.

mod cut;
pub mod datagrams;
pub mod memory;
mod opened;
pub mod packet;
pub mod tap;
pub mod tap_io;
pub mod udp;
pub mod wrap;

pub use opened::{How, Kind, Opened};

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use switch_core::wire::vnet_hdr::VnetHdr;

/// Bytes that a receive buffer needs: virtio header, Ethernet with a tag, and the largest super-frame.
pub const RX_BUFFER: usize = 12 + 18 + 65_535 + 3;

/// What an endpoint can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Caps {
    /// Partial checksums.
    pub csum: bool,
    /// TCP super-frames.
    pub tso: bool,
    /// UDP super-frames.
    pub uso: bool,
}

/// One received frame: its offload header, and where it lies in the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// What is still to be done to it.
    pub vnet: VnetHdr,
    /// Where it starts in the buffer.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// A source and sink of frames.
pub trait Endpoint: Send {
    /// What it can take.
    fn caps(&self) -> Caps;
    /// The descriptor to poll, where there is one.
    fn fd(&self) -> Option<RawFd>;
    /// When `rx` is to be called although the descriptor is not readable, for a frame that is held back.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// True for one that may hold frames back, which `poll_timeout` tells of.
    fn holds(&self) -> bool {
        false
    }
    /// How many frames were lost on their way in since this was last asked.
    fn lost(&mut self) -> u64 {
        0
    }
    /// Lets the interface behind it end with its last descriptor, where it would outlive that.
    fn let_end(&self) {}
    /// Receives one frame. Errors: `WouldBlock` when none waits, `Interrupted` when the next one may; others mean that it is gone.
    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received>;
    /// Transmits one frame given in pieces.
    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()>;
}
