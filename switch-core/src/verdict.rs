//! What the pipeline decides about a frame, and the closed list of reasons to drop one.

use crate::addr::PortId;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame went no further. Each is a counter, a trace label and a line of `weft show drops`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }
        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The label in counters, traces and tables.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

drop_reasons! {
    /// Shorter than its own headers say, or than a header must be.
    Truncated = "truncated",
    /// A field has a value that its format does not allow.
    Malformed = "malformed",
    /// A verified checksum was wrong.
    BadChecksum = "bad-checksum",
    /// The virtio header contradicts the frame, or asks for absurd segments.
    BadOffload = "bad-offload",
    /// The source address is one that no station may have, or not the port's own.
    Spoofed = "spoofed",
    /// The destination is reserved for bridges (802.1D) and not forwarded.
    Reserved = "reserved-mac",
    /// Nobody wants this protocol.
    UnknownProtocol = "unknown-protocol",
    /// The destination is not routed (multicast, broadcast, link-local beyond the link).
    NotRouted = "not-routed",
    /// The rule on the host's own addresses refuses the destination.
    Refused = "refused",
    /// A segment of a conversation that is not known.
    NoFlow = "no-flow",
    /// A table of flows or mappings is full.
    TableFull = "table-full",
    /// The host has no descriptor, port or memory left.
    HostExhausted = "host-exhausted",
    /// The host's socket refused the datagram.
    HostError = "host-error",
    /// The filter of the mapping does not admit this remote.
    Filtered = "filtered",
    /// Outside of the window or already received.
    OutOfWindow = "out-of-window",
    /// Reassembly ran out of room or time, or pieces overlap.
    Fragment = "fragment",
    /// A rate limit.
    RateLimited = "rate-limited",
    /// The time to live ran out.
    TtlExpired = "ttl-expired",
    /// Larger than the MTU of the way out and not to be fragmented.
    TooBig = "too-big",
    /// The endpoint did not take the frame.
    TxFailed = "tx-failed",
    /// The frame would leave where it came in.
    Hairpin = "hairpin",
    /// The IP source is not an address of the endpoint.
    SpoofedAddress = "spoofed-address",
    /// An ARP packet speaks for another MAC or address than the endpoint's.
    SpoofedArp = "spoofed-arp",
    /// A neighbour discovery message speaks for another MAC or address than the endpoint's.
    SpoofedNd = "spoofed-nd",
    /// An endpoint answers DHCP or DHCPv6 that is no server of the network.
    RogueDhcp = "rogue-dhcp",
    /// An endpoint announces itself a router, redirects, or queries for groups.
    RogueRouter = "rogue-router",
    /// A rule of the endpoint or the network denies it.
    Denied = "denied",
    /// Endpoints of the network may not talk to each other, or both ports are isolated.
    Isolated = "isolated",
    /// More new conversations than the endpoint may open.
    NewFlowLimit = "new-flow-limit",
    /// More conversations at once than the endpoint may have.
    FlowLimit = "flow-limit",
    /// More broadcasts, multicasts or unknown destinations than the port may send.
    Storm = "storm",
    /// More stations behind the endpoint than there may be.
    MacLimit = "mac-limit",
    /// The VLAN is not one of the port's.
    Vlan = "vlan",
    /// The station flaps between ports and is held where it was.
    LoopGuard = "loop-guard",
    /// The service has no backend that can take the conversation.
    NoBackend = "no-backend",
    /// Multicast that nobody has joined.
    NoMember = "no-member",
    /// More multicast groups than the endpoint may join.
    GroupLimit = "group-limit",
    /// A datagram of the underlay is for a network that is not here, or that its sender is no part of.
    UnknownVni = "unknown-vni",
    /// Congestion was met on the way between hosts, and the packet's sender does not understand the mark.
    Congestion = "congestion",
    /// There is no key for the other host yet, or no more.
    NoKey = "no-key",
    /// A sealed datagram does not authenticate.
    Forged = "forged",
    /// A sealed datagram came before, or is so late that nobody knows.
    Replayed = "replayed",
    /// The sandbox sent faster than its endpoint was read, and the ring between them was full.
    RxOverrun = "rx-overrun",
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Sent to one endpoint.
    Forward(PortId),
    /// Sent to every other endpoint of the network.
    Flood,
    /// Answered by the gateway on the spot.
    Answer,
    /// Taken by a flow to the host.
    Translate,
    /// Thrown away, for this reason.
    Drop(DropReason),
}

/// A counter for each reason.
#[derive(Debug, Clone)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        if let Some(n) = self.0.get_mut(reason as usize) {
            *n += 1;
        }
    }

    /// Counts several.
    pub fn count_many(&mut self, reason: DropReason, count: usize) {
        if let Some(n) = self.0.get_mut(reason as usize) {
            *n += count as u64;
        }
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Those that happened, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&r| (r, self.get(r)))
            .filter(|&(_, n)| n > 0)
    }
}
