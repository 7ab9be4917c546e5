//! Stages 1 and 8: a packet socket on the addressless end of a veth pair, for sandboxes that may not have a TAP.
//!
//! Frames come and go with the virtio header that a TAP's have, so whole super-frames pass. Short ones come by a ring
//! that is shared with the kernel, long ones by the socket's queue (`ring`). Frames are sent with one call each, by
//! any worker: a transmit ring would cost two copies where a call costs one, as the kernel copies what it forwards to
//! the other end of a pair out of a ring that user space can write to.

mod lost;
mod offload;
mod ring;
mod sys;

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recv, sendmsg, setsockopt, socket,
    sockopt,
};
use switch_core::wire::vnet_hdr::{self, VnetHdr};

use self::lost::Lost;
pub use self::offload::plain_offloads;
use self::ring::{Place, Ring, Slot, VNET};
use super::cut::{Cutter, must_cut};
use super::{Caps, Endpoint, How, Kind, Received};

/// Bytes of frames that wait in the socket's queues, asked for: some hundred super-frames, as the kernel doubles it. Root gets
/// it, others what `net.core.rmem_max` and `wmem_max` leave of it.
const QUEUE: usize = 4 << 20;
/// Pieces of a frame at most: the virtio header, headers, and 64 datagrams of a UDP super-frame.
const PIECES: usize = 67;
/// Where a tag is in a frame: behind the two addresses.
const TAG_AT: usize = 12;
/// Bytes of a tag.
const TAG: u16 = 4;
/// When to look first whether an interface that went down is gone: the kernel says that it is down some milliseconds
/// before it goes, and nothing after that.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// When to look at the latest.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How frames come and go by a socket of [`open`].
#[must_use]
pub fn how() -> How {
    How {
        kind: Kind::Packet,
        vnet: true,
        caps: caps(),
    }
}

/// What packet sockets of this kernel take. UDP super-frames came with Linux 6.2.
#[must_use]
pub fn caps() -> Caps {
    let name = nix::sys::utsname::uname().ok();
    let release = name.as_ref().and_then(|n| n.release().to_str());
    Caps {
        csum: true,
        tso: true,
        uso: release.is_some_and(|r| is_at_least(r, (6, 2))),
    }
}

/// Compares a kernel's release, such as `6.18.3-generic`.
fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

/// Opens a packet socket on the interface of this index, in the network namespace of the calling thread, with its ring.
/// It does not block. Errors: `PermissionDenied` without CAP_NET_RAW there; `ENODEV`, `ENOMEM`.
pub fn open(ifindex: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol it hears nothing until it is bound: frames of another interface would queue before.
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    sys::set_option(&fd, libc::PACKET_VNET_HDR, 1)?;
    sys::set_option(&fd, libc::PACKET_IGNORE_OUTGOING, 1)?;
    sys::set_option(
        &fd,
        libc::PACKET_VERSION,
        libc::tpacket_versions::TPACKET_V2 as i32,
    )?;
    sys::set_option(&fd, libc::PACKET_COPY_THRESH, 1)?;
    setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &QUEUE))?;
    setsockopt(&fd, sockopt::SndBufForce, &QUEUE)
        .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &QUEUE))?;
    ring::make(&fd)?;
    sys::bind(&fd, ifindex)?;
    Ok(fd)
}

/// A socket of [`open`], as one worker has it.
#[derive(Debug)]
pub struct PacketEndpoint {
    fd: OwnedFd,
    caps: Caps,
    /// The receiver's alone.
    ring: Option<Ring>,
    lost: Lost,
    down: Option<Down>,
    cutter: Cutter,
}

/// An interface that is down, or gone.
#[derive(Debug, Clone, Copy)]
struct Down {
    /// When to look which of the two.
    look: Instant,
    /// How long after that to look again.
    then: Duration,
}

impl PacketEndpoint {
    /// Takes over a descriptor to send by, and with `owned` to receive by. One process has one that receives.
    /// Errors: those of mmap(2).
    pub fn new(fd: OwnedFd, caps: Caps, owned: bool) -> io::Result<Self> {
        let ring = owned.then(|| Ring::map(&fd)).transpose()?;
        Ok(Self {
            fd,
            caps,
            ring,
            lost: Lost::default(),
            down: None,
            cutter: Cutter::default(),
        })
    }

    /// Nothing waits. Why?
    fn look(&mut self) -> io::Error {
        let error = getsockopt(&self.fd, sockopt::SocketError).unwrap_or(0);
        let now = Instant::now();
        let begun = self.down.or_else(|| {
            (error != 0).then_some(Down {
                look: now,
                then: FIRST_LOOK,
            })
        });
        let Some(down) = begun else {
            return io::ErrorKind::WouldBlock.into();
        };
        if down.look <= now {
            if !sys::is_bound(&self.fd).unwrap_or(false) {
                return Errno::ENODEV.into();
            }
            self.down = Some(Down {
                look: now + down.then,
                then: (down.then * 2).min(LAST_LOOK),
            });
        }
        Errno::EIO.into()
    }

    /// Takes a frame from the socket's queue.
    fn rx_queued(&self, buf: &mut [u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let mut got = recv(self.fd.as_raw_fd(), buf, flags);
        if got == Err(Errno::ENETDOWN) {
            // An error that waits is told first, and once; the frame stands behind it.
            got = recv(self.fd.as_raw_fd(), buf, flags);
        }
        got.ok()
            .filter(|&n| n <= buf.len())
            .ok_or_else(|| io::ErrorKind::Interrupted.into())
    }

    fn rx_slot(&self, ring: &Ring, slot: &Slot, buf: &mut [u8]) -> io::Result<usize> {
        match slot.place {
            Place::Queue => self.rx_queued(buf),
            Place::Here(at, len) => {
                let copied = buf.get_mut(..len).is_some_and(|to| ring.copy(at, to));
                copied
                    .then_some(len)
                    .ok_or_else(|| io::ErrorKind::Interrupted.into())
            }
            Place::Lost => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

/// Puts a tag back into a frame that starts at [`VNET`]. Gives where the frame starts then.
fn put_tag(buf: &mut [u8], tag: [u8; 4], vnet: &mut VnetHdr) -> usize {
    let start = VNET - tag.len();
    buf.copy_within(VNET..VNET + TAG_AT, start);
    buf[start + TAG_AT..VNET + TAG_AT].copy_from_slice(&tag);
    // Nothing said stays nothing: a TAP refuses a length that is less than a header's.
    if vnet.hdr_len != 0 {
        vnet.hdr_len = vnet.hdr_len.saturating_add(TAG);
    }
    if vnet.flags & vnet_hdr::NEEDS_CSUM != 0 {
        vnet.csum_start = vnet.csum_start.saturating_add(TAG);
    }
    start
}

impl Endpoint for PacketEndpoint {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }

    fn lost(&mut self) -> u64 {
        match self.ring {
            Some(_) => self.lost.take(&self.fd),
            None => 0,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.down.map(|down| down.look)
    }

    fn holds(&self) -> bool {
        self.down.is_some()
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let Some(mut ring) = self.ring.take() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let got = ring.next().map(|slot| {
            let got = self.rx_slot(&ring, &slot, buf);
            ring.give_back();
            if slot.losing {
                self.lost.told(&self.fd);
            }
            if got.is_err() {
                self.lost.note();
            }
            got.map(|end| (end, slot.tag))
        });
        self.ring = Some(ring);
        let Some(got) = got else {
            return Err(self.look());
        };
        self.down = None;
        let (end, tag) = got?;
        let head = buf[..end]
            .first_chunk::<VNET>()
            .filter(|_| end >= VNET + TAG_AT)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let mut vnet = VnetHdr::parse_short(head);
        let start = tag.map_or(VNET, |tag| put_tag(buf, tag, &mut vnet));
        Ok(Received { vnet, start, end })
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        let send = |pieces: &[IoSlice<'_>]| {
            sendmsg::<()>(fd, pieces, &[], MsgFlags::MSG_DONTWAIT, None).map(|_| ())
        };
        if must_cut(self.caps, vnet) {
            let head = [0; VNET];
            return self.cutter.finish(vnet, frame, |segment| {
                Ok(send(&[IoSlice::new(&head), IoSlice::new(segment)])?)
            });
        }
        let head = vnet.encode();
        let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
        pieces.push(IoSlice::new(&head[..VNET]));
        pieces
            .try_extend_from_slice(frame)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(send(&pieces)?)
    }
}
