//! Stages 1 and 8: a TAP interface, made inside the sandbox's network namespace.
//!
//! The kernel hands whole TCP and UDP super-frames through it when [`TapCaps`] says so: each frame then has a
//! virtio header of [`VNET_LEN`] bytes before it. Where the kernel refuses the header, [`simple`] makes a plain one.

pub mod simple;
mod sys;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use super::{Caps, How, Kind, Opened};

/// Length of the virtio header that leads every frame when [`TapCaps::vnet`] is set. Source: linux/virtio_net.h.
pub const VNET_LEN: usize = 12;

/// The kernel's clone device.
pub const DEVICE: &str = "/dev/net/tun";

/// Set in the environment, weft makes plain TAPs, as on a kernel that refuses virtio headers.
pub const NO_VNET_HEADER: &str = "WEFT_NO_VNET_HEADER";

/// Longest interface name, without the closing zero. Source: linux/if.h, IFNAMSIZ.
pub const NAME_MAX: usize = 15;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO: u32 = 0x06;
const TUN_F_ECN: u32 = 0x08;
const TUN_F_USO: u32 = 0x60;

/// Offload sets, widest first: USO came with Linux 6.2, and every set needs the checksum bit.
const OFFLOADS: [u32; 4] = [
    TUN_F_CSUM | TUN_F_TSO | TUN_F_ECN | TUN_F_USO,
    TUN_F_CSUM | TUN_F_TSO | TUN_F_ECN,
    TUN_F_CSUM,
    0,
];

/// What is asked of the kernel when a TAP is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOptions {
    /// Ask for the virtio header and the offloads; without it a plain TAP is made.
    pub vnet: bool,
    /// Make one queue of many; each queue is a descriptor of its own from one more [`Tap::open`].
    pub multi_queue: bool,
    /// Leave the interface to end with its namespace and not with the descriptor: closing that then takes
    /// microseconds, where the end of an interface takes 10 to 30 ms.
    pub persist: bool,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self {
            vnet: true,
            multi_queue: false,
            persist: false,
        }
    }
}

/// What the kernel granted. `offload` holds `TUN_F_*` bits: what the sandbox's stack may leave for us to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TapCaps {
    /// Every frame is led by a virtio header of [`VNET_LEN`] bytes, in native byte order.
    pub vnet: bool,
    /// The `TUN_F_*` bits in force. Source: linux/if_tun.h.
    pub offload: u32,
}

impl TapCaps {
    /// True if checksums may be left partial.
    #[must_use]
    pub const fn csum(self) -> bool {
        self.vnet && self.offload & TUN_F_CSUM != 0
    }

    /// True if TCP super-frames of both families come and go.
    #[must_use]
    pub const fn tso(self) -> bool {
        self.vnet && self.offload & TUN_F_TSO == TUN_F_TSO
    }

    /// True if UDP super-frames of both families come and go.
    #[must_use]
    pub const fn uso(self) -> bool {
        self.vnet && self.offload & TUN_F_USO == TUN_F_USO
    }
}

impl From<Tap> for Opened {
    fn from(tap: Tap) -> Self {
        let granted = tap.caps;
        let how = How {
            kind: Kind::Tap,
            vnet: granted.vnet,
            caps: Caps {
                csum: granted.csum(),
                tso: granted.tso(),
                uso: granted.uso(),
            },
        };
        Self { fd: tap.fd, how }
    }
}

/// An open TAP: the descriptor, which is non-blocking, and what it can do.
#[derive(Debug)]
pub struct Tap {
    /// One read or write is one frame.
    pub fd: OwnedFd,
    /// What the kernel granted.
    pub caps: TapCaps,
}

/// Lets a TAP end with its last descriptor, also one that was to outlive it. Errors: those of the TUN driver.
pub(super) fn let_end(fd: &OwnedFd) -> io::Result<()> {
    sys::set_persist(fd, false)
}

impl Tap {
    /// Makes the TAP `name` in the network namespace of the calling thread, with the widest offloads the kernel has.
    /// The interface lives as long as the descriptor does, unless it is to persist. Cost: some 10 ms in the kernel.
    /// Errors: `NotFound` or `PermissionDenied` from the clone device, `ResourceBusy` when the name is taken.
    /// Source: Documentation/networking/tuntap.rst.
    pub fn open(name: &str, options: &TapOptions) -> io::Result<Self> {
        check_name(name)?;
        let tap = Self::open_any(name, options)?;
        if options.persist {
            tap.persist()?;
        }
        Ok(tap)
    }

    /// Lets the interface outlive its descriptors. Errors: those of the TUN driver.
    pub fn persist(&self) -> io::Result<()> {
        sys::set_persist(&self.fd, true)
    }

    fn open_any(name: &str, options: &TapOptions) -> io::Result<Self> {
        if !options.vnet || std::env::var_os(NO_VNET_HEADER).is_some() {
            return simple::open(name);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)?;
        let fd = OwnedFd::from(file);
        match sys::set_interface(&fd, name, options.multi_queue) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && !options.multi_queue => {
                return simple::open(name);
            }
            Err(e) => return Err(e),
        }
        if let Err(e) = sys::set_vnet_header_len(&fd, VNET_LEN) {
            if options.multi_queue {
                return Err(e);
            }
            drop(fd);
            return simple::open(name);
        }
        let offload = OFFLOADS
            .into_iter()
            .find(|&set| sys::set_offload(&fd, set).is_ok())
            .unwrap_or(0);
        Ok(Self {
            fd,
            caps: TapCaps {
                vnet: true,
                offload,
            },
        })
    }
}

/// Tells whether `name` can name an interface.
/// Errors: `InvalidInput` with the reason.
pub fn check_name(name: &str) -> io::Result<()> {
    let bad = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if name.is_empty() || name.len() > NAME_MAX {
        return bad("an interface name has 1 to 15 bytes");
    }
    if name == "." || name == ".." || name.contains(['/', ':', '%']) {
        return bad("an interface name has no slash, colon or percent sign");
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return bad("an interface name has no space");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse() {
        for good in ["eth0", "a", "fifteen-bytes-x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "sixteen-bytes-xx", "a/b", "..", "a b", "tap%d", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_need_the_header() {
        let all = OFFLOADS[0];
        assert_eq!(all, 0x6f);
        let caps = TapCaps {
            vnet: true,
            offload: all,
        };
        assert!(caps.csum() && caps.tso() && caps.uso());
        let old = TapCaps {
            vnet: true,
            offload: 0x0f,
        };
        assert!(old.tso() && !old.uso());
        let plain = TapCaps {
            vnet: false,
            offload: all,
        };
        assert!(!plain.csum() && !plain.tso() && !plain.uso());
    }
}
