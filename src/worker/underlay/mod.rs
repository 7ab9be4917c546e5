//! Stages 1, 7 and 8: Frames to and from other hosts, by UDP. The worker's own sockets; nothing here waits or allocates.

mod kept;
pub mod narrow;
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
        /// The network here, by whose socket they leave.
        vni: Vni,
    },
}

impl Way {
    /// The largest packet of IP inside, where the way takes packets of this size.
    #[must_use]
    pub fn inner(self, mtu: usize) -> u16 {
        let (v6, around) = match self {
            // UDP, VXLAN, Ethernet.
            Self::Vxlan { to, .. } => (to.is_ipv6(), 8 + 8 + 14),
            Self::Bare { to, .. } => (to.is_ipv6(), 8),
            // What the seal adds is its own matter, and so is the path.
            Self::Sealed { .. } => return u16::MAX,
        };
        let ip = if v6 { 40 } else { 20 };
        u16::try_from(mtu.saturating_sub(ip + around)).unwrap_or(u16::MAX)
    }
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
