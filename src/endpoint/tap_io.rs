//! Stage 1, 8: Reading and writing of a TAP: one system call a frame, and a frame is up to 64 KB.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use switch_core::wire::vnet_hdr::{self, VnetHdr};

use super::cut::{Cutter, must_cut};
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
    cutter: Cutter,
}

impl TapEndpoint {
    /// Takes over a descriptor. `vnet` says whether a virtio header of 12 bytes leads every frame.
    #[must_use]
    pub fn new(fd: OwnedFd, vnet: bool, caps: Caps) -> Self {
        Self {
            fd,
            caps,
            vnet,
            cutter: Cutter::default(),
        }
    }

    fn tx_cut(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let (fd, with_header) = (self.fd.as_fd(), self.vnet);
        self.cutter.finish(vnet, frame, |segment| {
            let head = [0; vnet_hdr::LEN];
            let pieces = [IoSlice::new(&head), IoSlice::new(segment)];
            let from = usize::from(!with_header);
            nix::sys::uio::writev(fd, &pieces[from..])?;
            Ok(())
        })
    }
}

impl Endpoint for TapEndpoint {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }

    fn let_end(&self) {
        // It may have gone with its namespace.
        let _gone = super::tap::let_end(&self.fd);
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
        if !self.vnet || must_cut(self.caps, vnet) {
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, recv, socketpair};
    use switch_core::addr::Mac;
    use switch_core::testing::packets::{Link, Segment};
    use switch_core::wire::checksum::l4_valid;
    use switch_core::wire::packet::{Kind, Packet};

    use super::*;

    const PAYLOAD: usize = 5000;

    /// An endpoint, and where the frames that it writes come out: a socket keeps their bounds as a TAP does.
    fn endpoint(vnet: bool, caps: Caps) -> (TapEndpoint, OwnedFd) {
        let flags = SockFlag::SOCK_NONBLOCK;
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (TapEndpoint::new(near, vnet, caps), far)
    }

    fn frames(far: &OwnedFd) -> Vec<Vec<u8>> {
        let mut buf = vec![0; 70_000];
        let next = || {
            let n = recv(
                far.as_raw_fd(),
                &mut buf,
                nix::sys::socket::MsgFlags::empty(),
            )
            .ok()?;
            Some(buf[..n].to_vec())
        };
        std::iter::from_fn(next).collect()
    }

    /// Super-frames of TCP and UDP, of both families.
    fn runs(size: u16) -> Vec<(VnetHdr, Vec<u8>)> {
        let link = Link {
            src: Mac([2, 0, 0, 0, 0, 1]),
            dst: Mac([2, 0, 0, 0, 0, 2]),
        };
        let payload: Vec<u8> = (0..PAYLOAD).map(|n| n.to_le_bytes()[0]).collect();
        let ends = [["10.0.0.1:1", "10.0.0.2:2"], ["[fd00::1]:1", "[fd00::2]:2"]];
        let ends = ends.map(|both| both.map(|end| end.parse::<SocketAddr>().unwrap()));
        let segment = Segment {
            payload: &payload,
            ..Segment::default()
        };
        let both = ends.iter().flat_map(|&[src, dst]| {
            [
                link.tcp_run(src, dst, size, &segment),
                link.udp_run(src, dst, size, &payload),
            ]
        });
        both.collect()
    }

    #[test]
    fn a_plain_tap_gets_frames_of_the_links_size() {
        for (vnet, header) in [(false, 0), (true, vnet_hdr::LEN)] {
            let (mut tap, far) = endpoint(vnet, Caps::default());
            for (run, whole) in runs(1200) {
                let (head, rest) = whole.split_at(40);
                tap.tx(&run, &[IoSlice::new(head), IoSlice::new(rest)])
                    .unwrap();
                let frames = frames(&far);
                assert_eq!(frames.len(), PAYLOAD.div_ceil(1200));
                let mut payload = Vec::new();
                for frame in &frames {
                    let (lead, frame) = frame.split_at(header);
                    assert_eq!(lead, vec![0; header], "nothing is left to be done");
                    let Kind::Ip(ip) = Packet::parse(frame).unwrap().kind else {
                        panic!("no IP packet: {frame:?}");
                    };
                    assert!(l4_valid(ip.src, ip.dst, ip.proto, &frame[ip.l4..ip.end]));
                    let l4 = if ip.proto == 6 { 20 } else { 8 };
                    payload.extend_from_slice(&frame[ip.l4 + l4..ip.end]);
                }
                assert_eq!(payload, whole[whole.len() - PAYLOAD..]);
            }
        }
    }

    #[test]
    fn what_the_kernel_cuts_is_left_to_it() {
        let caps = Caps {
            csum: true,
            tso: true,
            uso: false,
        };
        let (mut tap, far) = endpoint(true, caps);
        for (run, whole) in runs(1200) {
            tap.tx(&run, &[IoSlice::new(&whole)]).unwrap();
            let frames = frames(&far);
            if run.gso_kind() == vnet_hdr::GSO_UDP_L4 {
                assert_eq!(frames.len(), PAYLOAD.div_ceil(1200), "before Linux 6.2");
            } else {
                assert_eq!(frames, [[&run.encode()[..], &whole].concat()]);
            }
        }
    }

    #[test]
    fn a_run_of_absurd_segments_is_refused() {
        let (mut tap, far) = endpoint(false, Caps::default());
        for (run, whole) in runs(1) {
            assert!(tap.tx(&run, &[IoSlice::new(&whole)]).is_err());
        }
        assert!(frames(&far).is_empty());
    }
}
