//! Stages 1, 7 and 8: Frames to and from other hosts, by UDP. The worker's own sockets; nothing here waits or allocates.

mod kept;
mod open;
mod run;
pub mod rx;
pub mod slow;
pub mod tx;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use switch_core::addr::{PeerId, Vni};

/// How frames get to the other host behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In VXLAN, in the clear.
    Vxlan {
        /// The other host, and its VXLAN port.
        to: SocketAddr,
        /// The network there.
        vni: Vni,
    },
    /// In VXLAN, sealed with the peer's key.
    Sealed {
        /// The other host.
        peer: PeerId,
        /// The network there.
        vni: Vni,
    },
    /// Packets of IP without any header before them. Source: flannel's udp backend.
    Bare {
        /// The other host.
        to: SocketAddr,
    },
}

/// Who may send frames for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A VXLAN node, by its address.
    Vxlan(IpAddr),
    /// A peer, by its key.
    Sealed(PeerId),
    /// A node that sends bare packets, by its address.
    Bare(IpAddr),
}
