//! `[7]` What the announcements of peers come to, told to the program.

use core::net::IpAddr;
use std::sync::Arc;

use super::rules::Allowed;
use super::table::{Contested, Holder};
use crate::addr::{Mac, PeerId, Vni};
use crate::l2::snoop::Wants;
use crate::tunnel::control::prefix::Range;
use crate::tunnel::control::record::{Announced, Network};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something that a peer announces is refused. Each is a counter of the peer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $name,)* }
        impl Refusal {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The label in counters and tables.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

refusals! {
    /// The peer may not be on the network.
    Network = "network-not-allowed",
    /// An address is in no prefix that the peer may use, or this host hands it out.
    Address = "address-not-allowed",
    /// A range is in no prefix that the peer may use.
    Range = "range-not-allowed",
    /// More endpoints than the peer may have.
    TooMany = "too-many-endpoints",
    /// More endpoints than there may be in all.
    Full = "table-full",
    /// Too many wait for what another has.
    Crowded = "too-many-wait",
    /// More records than the peer may send in this time. They come again.
    Flood = "announcement-rate",
    /// A message of a stream that is over.
    Over = "stream-over",
}

/// What of a peer's announcements is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A message as a whole.
    Message,
    /// A network.
    Network(Vni),
    /// A range that the peer hands out from.
    Range(Vni, Range),
    /// An endpoint.
    Endpoint(Vni, Mac),
    /// An address of an endpoint, which is there with its others.
    Address(Vni, Mac, IpAddr),
}

impl Subject {
    /// The network that it is of.
    #[must_use]
    pub const fn vni(self) -> Option<Vni> {
        match self {
            Self::Message => None,
            Self::Network(vni)
            | Self::Range(vni, _)
            | Self::Endpoint(vni, _)
            | Self::Address(vni, ..) => Some(vni),
        }
    }
}

/// What has happened. What concerns one peer comes in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An endpoint is there.
    Up {
        /// Where it is.
        peer: PeerId,
        /// What it is.
        endpoint: Announced,
    },
    /// An endpoint that is there has other addresses or names.
    Changed {
        /// Where it is.
        peer: PeerId,
        /// What it is now; its network and MAC are the same.
        endpoint: Announced,
    },
    /// An endpoint is gone.
    Down {
        /// Where it was.
        peer: PeerId,
        /// Its network.
        vni: Vni,
        /// Its MAC.
        mac: Mac,
    },
    /// A peer is on a network, or hands out from other ranges than before.
    NetworkUp {
        /// Who.
        peer: PeerId,
        /// The network as the peer has it.
        network: Network,
    },
    /// A peer is no longer on a network. Its endpoints there are told apart.
    NetworkDown {
        /// Who.
        peer: PeerId,
        /// Which network.
        vni: Vni,
    },
    /// A peer says what its host is called.
    Host {
        /// Who.
        peer: PeerId,
        /// The name.
        name: Box<str>,
    },
    /// A peer wants something else of a network's multicast than before. At first it is all.
    Wants {
        /// Who.
        peer: PeerId,
        /// The network.
        vni: Vni,
        /// What it wants.
        wants: Arc<Wants>,
    },
    /// All that a peer has was told.
    Complete {
        /// Who.
        peer: PeerId,
    },
    /// An endpoint asks for what another has, and waits until that one gives it back.
    Conflict {
        /// Where it is.
        peer: PeerId,
        /// Its network.
        vni: Vni,
        /// Its MAC.
        mac: Mac,
        /// What it asks for.
        over: Contested,
        /// Who has it.
        holder: Holder,
    },
    /// Something that a peer announces is refused. Told once of each reason, until the peer's rules are set anew.
    Refused {
        /// Who.
        peer: PeerId,
        /// Why.
        why: Refusal,
        /// What.
        what: Subject,
        /// What the peer may announce on that network, where it may be on it.
        allowed: Option<Allowed>,
    },
    /// Two hosts hand out from the same addresses.
    Overlap {
        /// Who.
        peer: PeerId,
        /// On which network.
        vni: Vni,
        /// The peer's range.
        range: Range,
        /// Who else.
        with: Holder,
        /// The other's range.
        other: Range,
    },
    /// A network has another name on this host, or a network of this name has another number.
    OtherNetwork {
        /// Who.
        peer: PeerId,
        /// The network as the peer has it.
        theirs: Network,
        /// As this host has it.
        ours: (Vni, Box<str>),
    },
    /// Endpoints of two hosts have the same name.
    SameName {
        /// Who came later.
        holder: Holder,
        /// The network.
        vni: Vni,
        /// The MAC of the later one.
        mac: Mac,
        /// The name.
        name: Box<str>,
        /// Who has it already.
        other: Holder,
    },
}
