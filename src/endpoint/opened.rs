//! Stages 1 and 8: An endpoint's descriptor on its way from where it was opened to who polls it.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::packet::PacketEndpoint;
use super::tap_io::TapEndpoint;
use super::{Caps, Endpoint};

/// What is behind an interface in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Kind {
    /// A TAP.
    #[default]
    Tap,
    /// The other end of a veth pair, which has no address, and a packet socket on it.
    Packet,
}

/// How frames come and go by a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// What it is a descriptor of.
    pub kind: Kind,
    /// A virtio header leads every frame.
    pub vnet: bool,
    /// What the kernel granted.
    pub caps: Caps,
}

/// A descriptor, which does not block, and how to use it.
#[derive(Debug)]
pub struct Opened {
    /// The descriptor.
    pub fd: OwnedFd,
    /// How frames come and go.
    pub how: How,
}

impl Opened {
    /// One more for the same interface. Errors: no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            how: self.how,
        })
    }

    /// Makes an endpoint of it, to send by, and with `owned` to receive by: of one interface one may.
    /// Errors: a ring cannot be mapped.
    pub fn endpoint(self, owned: bool) -> io::Result<Box<dyn Endpoint>> {
        let How { kind, vnet, caps } = self.how;
        Ok(match kind {
            Kind::Tap => Box::new(TapEndpoint::new(self.fd, vnet, caps)),
            Kind::Packet => Box::new(PacketEndpoint::new(self.fd, caps, owned)?),
        })
    }
}
