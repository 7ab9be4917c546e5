//! A plain TAP of one queue over the tun-tap crate: for kernels and sandboxes that refuse virtio headers.

use std::io;
use std::os::fd::AsFd;

use tun_tap::{Iface, Mode};

use super::{Tap, TapCaps, sys};

/// Makes the plain TAP `name` in the network namespace of the calling thread: no header, no offload, frames of MTU size.
/// Errors: as [`Tap::open`].
pub fn open(name: &str) -> io::Result<Tap> {
    let iface = Iface::without_packet_info(name, Mode::Tap)?;
    let fd = sys::into_fd(iface);
    sys::set_nonblocking(&fd.as_fd())?;
    Ok(Tap {
        fd,
        caps: TapCaps::default(),
    })
}
