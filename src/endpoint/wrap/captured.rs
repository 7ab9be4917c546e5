//! An endpoint whose frames are written to a capture, both ways.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use switch_core::wire::vnet_hdr::VnetHdr;

use super::pcap::{Direction, PcapWriter};
use crate::endpoint::{Caps, Endpoint, Received};

/// The wrapper.
pub struct Captured {
    inner: Box<dyn Endpoint>,
    writer: PcapWriter,
}

impl Captured {
    /// Captures what passes `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn Endpoint>, writer: PcapWriter) -> Self {
        Self { inner, writer }
    }
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured")
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

impl Endpoint for Captured {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn fd(&self) -> Option<RawFd> {
        self.inner.fd()
    }

    fn lost(&mut self) -> u64 {
        self.inner.lost()
    }

    fn holds(&self) -> bool {
        self.inner.holds()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        match self.inner.rx(buf) {
            Ok(got) => {
                let frame = [IoSlice::new(&buf[got.start..got.end])];
                self.writer.frame(now(), Direction::Out, &got.vnet, &frame);
                Ok(got)
            }
            Err(e) => {
                // Nothing more for now: whoever follows the file gets to see what there was.
                self.writer.flush();
                Err(e)
            }
        }
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.writer.frame(now(), Direction::In, vnet, frame);
        self.inner.tx(vnet, frame)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.writer.flush();
    }
}
