//! What comes over the underlay and is no frame: handshakes, control messages, and the news that a peer has moved. It
//! goes to the thread that keeps the sessions, by a queue that drops when it is full.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::addr::PeerId;
use switch_core::tunnel::seal::SendKey;

/// Bytes of a message at most: what one datagram of an ordinary link carries.
pub const LONGEST: usize = 2_048;
/// Messages that wait at most.
const WAITING: usize = 256;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A datagram that is no data message: of the handshake, or of nobody.
    Handshake,
    /// A control message, which was sealed by a peer with the session of this index.
    Control(PeerId, u32),
    /// A peer's newest datagram, of the session of this index, did not come by the way of the last one: from elsewhere,
    /// or to another address of the host. Or it is the session's first.
    Moved(PeerId, u32),
    /// Something for a peer was larger than what the kernel sends there.
    TooBig(PeerId),
}

/// A message, and the way that it came.
#[derive(Debug, Clone)]
pub struct SlowMessage {
    /// The underlay's address of the sender.
    pub from: SocketAddr,
    /// Which of the host's addresses it came to.
    pub to: Option<IpAddr>,
    /// What it is.
    pub what: What,
    /// Its bytes; none for a move.
    pub bytes: ArrayVec<u8, LONGEST>,
}

/// The queue, of which every worker has a sending end.
#[derive(Debug, Clone)]
pub struct Slow {
    queue: Arc<ArrayQueue<SlowMessage>>,
    wake: Arc<EventFd>,
    /// Somebody here has joined a group of multicast, or has left one.
    groups: Arc<AtomicBool>,
    /// Something long is sent to peers.
    busy: Arc<AtomicBool>,
}

impl Slow {
    /// An empty queue. Errors: there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            queue: Arc::new(ArrayQueue::new(WAITING)),
            wake: Arc::new(EventFd::from_value_and_flags(0, flags)?),
            groups: Arc::default(),
            busy: Arc::default(),
        })
    }

    /// Adds a message. False if there was no room, or it was too long.
    pub(super) fn push(
        &self,
        (from, to): (SocketAddr, Option<IpAddr>),
        what: What,
        bytes: &[u8],
    ) -> bool {
        let Ok(bytes) = bytes.try_into() else {
            return false;
        };
        if self
            .queue
            .push(SlowMessage {
                from,
                to,
                what,
                bytes,
            })
            .is_err()
        {
            return false;
        }
        // It fails only when it was not read for 2^64 messages.
        let _ = self.wake.write(1);
        true
    }

    /// As [`Self::push`], for what anybody can forge: it leaves most of the room to others.
    pub(super) fn push_stray(&self, ends: (SocketAddr, Option<IpAddr>), bytes: &[u8]) {
        if self.queue.len() < WAITING / 4 {
            self.push(ends, What::Handshake, bytes);
        }
    }

    /// Tells that something for a peer was larger than what the kernel sends there. It leaves most of the room to others.
    pub(super) fn push_too_big(&self, peer: PeerId) {
        if self.queue.len() < WAITING / 4 {
            let nobody = SocketAddr::from(([0; 4], 0));
            self.push((nobody, None), What::TooBig(peer), &[]);
        }
    }

    /// Tells that somebody here has joined a group of multicast, or has left one.
    pub fn groups_changed(&self) {
        if !self.groups.swap(true, Ordering::Release) {
            let _ = self.wake.write(1);
        }
    }

    /// True if that was told since it was asked last.
    #[must_use]
    pub fn take_groups(&self) -> bool {
        self.groups.swap(false, Ordering::Acquire)
    }

    /// Tells that something was sealed with a key that the peer's path may not carry, if so. Cost: two loads, while it is
    /// known.
    #[inline]
    pub(super) fn stir(&self, key: &SendKey) {
        let told = !key.has_long() || self.busy.load(Ordering::Relaxed);
        if !told && !self.busy.swap(true, Ordering::Relaxed) {
            let _ = self.wake.write(1);
        }
    }

    /// True while something long is sent to peers, or was when that was asked last.
    #[must_use]
    pub fn is_stirred(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Nothing long was sent for a while: the next is to be told.
    pub fn calm(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    /// What wakes the reader: it is readable when something waits.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes note of the waking. To be called before the messages are taken.
    pub fn rest(&self) {
        // WouldBlock: nobody has woken us.
        let _ = self.wake.read();
    }

    /// Takes the oldest message.
    #[must_use]
    pub fn pop(&self) -> Option<SlowMessage> {
        self.queue.pop()
    }
}
