//! Stage 6: What the host's sockets report back to flows.

use core::net::{IpAddr, SocketAddr};

use super::host::HostError;

/// An ICMP error that the host received about one of our datagrams (IP_RECVERR).
#[derive(Debug, Clone, Copy)]
pub struct IcmpReport<'a> {
    /// Who sent it; none for an error of the host itself.
    pub offender: Option<IpAddr>,
    /// ICMP type, in the family of the datagram.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The second word of the message: the MTU of "too big".
    pub info: u32,
    /// Where the datagram was going.
    pub to: SocketAddr,
    /// The beginning of its payload.
    pub payload: &'a [u8],
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub enum HostEvent<'a> {
    /// A connection stands.
    TcpConnected {
        /// Its flow.
        flow: u32,
    },
    /// A connection could not be made.
    TcpFailed {
        /// Its flow.
        flow: u32,
        /// Why.
        error: HostError,
        /// What the network said, where it did.
        report: Option<IcmpReport<'a>>,
    },
    /// There is something to read.
    TcpReadable {
        /// The flow.
        flow: u32,
        /// The end of the stream, or an error, was reported too.
        ending: bool,
    },
    /// There is room to write.
    TcpWritable {
        /// The flow.
        flow: u32,
    },
    /// Datagrams of one remote, of one size but for the last.
    UdpReceived {
        /// The mapping.
        mapping: u32,
        /// The remote.
        from: SocketAddr,
        /// The local address it sent to.
        local: Option<IpAddr>,
        /// DSCP and ECN.
        tos: u8,
        /// The payloads.
        pieces: &'a [&'a [u8]],
    },
    /// An error about a datagram of a mapping.
    UdpFailed {
        /// The mapping.
        mapping: u32,
        /// What was said.
        report: IcmpReport<'a>,
    },
    /// An echo reply.
    EchoReply {
        /// The mapping.
        mapping: u32,
        /// Who answered.
        from: IpAddr,
        /// Sequence number.
        seq: u16,
        /// Payload.
        payload: &'a [u8],
    },
    /// An error about an echo request; the payload starts at its ICMP header.
    EchoFailed {
        /// The mapping.
        mapping: u32,
        /// What was said.
        report: IcmpReport<'a>,
    },
    /// A resolver answered.
    DnsAnswer {
        /// The query.
        query: u32,
        /// The message.
        message: &'a [u8],
    },
    /// A resolver is not there.
    DnsFailed {
        /// The query.
        query: u32,
    },
}
