//! What was lost between the sandbox and us. The kernel counts what finds the ring full, and super-frames that a virtio
//! header has no words for, in 32 bits and until it is asked; a long frame whose slot came but whose bytes had no room in
//! the socket's queue it does not count.

use std::os::fd::OwnedFd;

use super::sys;

/// What was lost, as far as it was noticed.
#[derive(Debug, Default)]
pub(super) struct Lost {
    frames: u64,
    /// Slots that said so since the kernel was last asked.
    told: u16,
}

impl Lost {
    /// A frame whose bytes are nowhere.
    pub(super) fn note(&mut self) {
        self.frames += 1;
    }

    /// A slot says that others found no room. Asks the kernel now and then, so that its count does not go round.
    pub(super) fn told(&mut self, fd: &OwnedFd) {
        self.told = self.told.wrapping_add(1);
        if self.told == 0 {
            self.ask(fd);
        }
    }

    /// How many since this was last asked.
    pub(super) fn take(&mut self, fd: &OwnedFd) -> u64 {
        self.ask(fd);
        std::mem::take(&mut self.frames)
    }

    fn ask(&mut self, fd: &OwnedFd) {
        // A socket that cannot be asked has nothing to tell.
        self.frames += sys::take_drops(fd).map_or(0, u64::from);
    }
}
