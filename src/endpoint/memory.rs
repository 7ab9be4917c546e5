//! Stage 1, 8: The in-memory twin of an endpoint: two ends of one wire, for tests and benches of whole workers.
//!
//! A frame's buffer goes back to its sender once it has been read, so that a wire that was full once allocates no more.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::{Caps, Endpoint, RX_BUFFER, Received};

/// One direction.
#[derive(Debug)]
struct Wire {
    frames: ArrayQueue<(VnetHdr, Vec<u8>)>,
    /// Buffers that have been read.
    spare: ArrayQueue<Vec<u8>>,
    /// Readable while frames wait, so that a worker can poll for them.
    bell: EventFd,
}

impl Wire {
    fn new(capacity: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            frames: ArrayQueue::new(capacity),
            // One more may be on its way in, and one on its way out.
            spare: ArrayQueue::new(capacity + 2),
            bell: EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        }))
    }

    fn give_back(&self, buffer: Vec<u8>) {
        // One too many is freed.
        let _ = self.spare.push(buffer);
    }

    fn pop(&self) -> Option<(VnetHdr, Vec<u8>)> {
        self.frames.pop().or_else(|| {
            // Silenced first, then looked again: whoever rings in between is heard either way.
            let _ = self.bell.read();
            self.frames.pop()
        })
    }
}

/// One end. Frames that find the other end's queue full are lost, as on a TAP.
#[derive(Debug)]
pub struct MemoryEndpoint {
    inbox: Arc<Wire>,
    outbox: Arc<Wire>,
}

/// Makes both ends of a wire that holds `capacity` frames in each direction. Errors: no descriptor is left.
pub fn pair(capacity: usize) -> io::Result<(MemoryEndpoint, MemoryEndpoint)> {
    let (a, b) = (Wire::new(capacity)?, Wire::new(capacity)?);
    let near = MemoryEndpoint {
        inbox: Arc::clone(&a),
        outbox: Arc::clone(&b),
    };
    let far = MemoryEndpoint {
        inbox: b,
        outbox: a,
    };
    Ok((near, far))
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
        Some(self.inbox.bell.as_fd().as_raw_fd())
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let (vnet, frame) = self.inbox.pop().ok_or(io::ErrorKind::WouldBlock)?;
        let end = frame.len();
        let room = buf.get_mut(..end).ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(&frame);
        self.inbox.give_back(frame);
        Ok(Received {
            vnet,
            start: 0,
            end,
        })
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let spare = self.outbox.spare.pop();
        let mut whole = spare.unwrap_or_else(|| Vec::with_capacity(RX_BUFFER));
        whole.clear();
        for piece in frame {
            whole.extend_from_slice(piece);
        }
        if let Err((_, lost)) = self.outbox.frames.push((*vnet, whole)) {
            self.outbox.give_back(lost);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // It may be at its most already, and readable then.
        let _ = self.outbox.bell.write(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_readable(end: &MemoryEndpoint) -> bool {
        let mut fds = [PollFd::new(end.inbox.bell.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn what_goes_in_comes_out_and_a_full_wire_loses() {
        let (mut a, mut b) = pair(1).unwrap();
        let mut buf = [0; 64];
        assert!(!is_readable(&b));
        assert_eq!(
            b.rx(&mut buf).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        a.tx(
            &VnetHdr::default(),
            &[IoSlice::new(b"head"), IoSlice::new(b"body")],
        )
        .unwrap();
        assert!(is_readable(&b));
        assert!(a.tx(&VnetHdr::default(), &[IoSlice::new(b"more")]).is_err());
        let got = b.rx(&mut buf).unwrap();
        assert_eq!(&buf[got.start..got.end], b"headbody");
        assert!(b.rx(&mut buf).is_err());
        assert!(!is_readable(&b), "all has been read");
    }

    #[test]
    fn a_buffer_is_used_again() {
        let (mut a, mut b) = pair(1).unwrap();
        let mut buf = [0; 64];
        for round in 0..3 {
            a.tx(&VnetHdr::default(), &[IoSlice::new(&[round; 8])])
                .unwrap();
            assert!(a.outbox.spare.is_empty());
            let got = b.rx(&mut buf).unwrap();
            assert_eq!(buf[got.start..got.end], [round; 8]);
            assert_eq!(a.outbox.spare.len(), 1);
        }
    }
}
