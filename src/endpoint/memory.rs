//! Stage 1, 8: The in-memory twin of an endpoint: two ends of one wire, for tests and benches of whole workers.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::{Caps, Endpoint, Received};

type Wire = Arc<ArrayQueue<(VnetHdr, Vec<u8>)>>;

/// One end. Frames that find the other end's queue full are lost, as on a TAP.
#[derive(Debug)]
pub struct MemoryEndpoint {
    inbox: Wire,
    outbox: Wire,
}

/// Makes both ends of a wire that holds `capacity` frames in each direction.
#[must_use]
pub fn pair(capacity: usize) -> (MemoryEndpoint, MemoryEndpoint) {
    let (a, b): (Wire, Wire) = (
        Arc::new(ArrayQueue::new(capacity)),
        Arc::new(ArrayQueue::new(capacity)),
    );
    (
        MemoryEndpoint {
            inbox: Arc::clone(&a),
            outbox: Arc::clone(&b),
        },
        MemoryEndpoint {
            inbox: b,
            outbox: a,
        },
    )
}

impl Endpoint for MemoryEndpoint {
    fn caps(&self) -> Caps {
        Caps {
            csum: true,
            tso: true,
            uso: true,
        }
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let (vnet, frame) = self.inbox.pop().ok_or(io::ErrorKind::WouldBlock)?;
        let room = buf
            .get_mut(..frame.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(&frame);
        Ok(Received {
            vnet,
            start: 0,
            end: frame.len(),
        })
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let whole = frame.iter().flat_map(|p| p.iter().copied()).collect();
        self.outbox
            .push((*vnet, whole))
            .map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_a_full_wire_loses() {
        let (mut a, mut b) = pair(1);
        let mut buf = [0; 64];
        assert_eq!(
            b.rx(&mut buf).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        a.tx(
            &VnetHdr::default(),
            &[IoSlice::new(b"head"), IoSlice::new(b"body")],
        )
        .unwrap();
        assert!(a.tx(&VnetHdr::default(), &[IoSlice::new(b"more")]).is_err());
        let got = b.rx(&mut buf).unwrap();
        assert_eq!(&buf[got.start..got.end], b"headbody");
    }
}
