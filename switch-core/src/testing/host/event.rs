//! What the sockets of the simulated host report.

use core::net::{IpAddr, SocketAddr};

use crate::flow::event::{HostEvent, IcmpReport};
use crate::flow::host::HostError;

/// An ICMP error as the host keeps it.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) offender: IpAddr,
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
}

impl Report {
    /// As the switch takes it.
    #[must_use]
    pub fn borrow(&self) -> IcmpReport<'_> {
        IcmpReport {
            offender: Some(self.offender),
            kind: self.kind,
            code: self.code,
            info: 0,
            to: self.to,
            payload: &self.payload,
        }
    }
}

/// What a socket reports. The fields are those of the core's `HostEvent`.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each stands in HostEvent")]
pub enum Event {
    TcpConnected {
        flow: u32,
    },
    TcpFailed {
        flow: u32,
        error: HostError,
    },
    TcpReadable {
        flow: u32,
        ending: bool,
    },
    TcpWritable {
        flow: u32,
    },
    UdpReceived {
        mapping: u32,
        from: SocketAddr,
        tos: u8,
        pieces: Vec<Vec<u8>>,
    },
    UdpFailed {
        mapping: u32,
        report: Report,
    },
    EchoReply {
        mapping: u32,
        from: IpAddr,
        seq: u16,
        payload: Vec<u8>,
    },
    EchoFailed {
        mapping: u32,
        report: Report,
    },
    DnsAnswer {
        query: u32,
        message: Vec<u8>,
    },
    DnsFailed {
        query: u32,
    },
}

impl Event {
    /// Gives it as the switch takes it.
    pub fn give(&self, to: impl FnOnce(HostEvent<'_>)) {
        let pieces: Vec<&[u8]> = if let Self::UdpReceived { pieces, .. } = self {
            pieces.iter().map(Vec::as_slice).collect()
        } else {
            Vec::new()
        };
        let event = match self {
            &Self::TcpConnected { flow } => HostEvent::TcpConnected { flow },
            &Self::TcpFailed { flow, error } => HostEvent::TcpFailed {
                flow,
                error,
                report: None,
            },
            &Self::TcpReadable { flow, ending } => HostEvent::TcpReadable { flow, ending },
            &Self::TcpWritable { flow } => HostEvent::TcpWritable { flow },
            &Self::UdpReceived {
                mapping, from, tos, ..
            } => HostEvent::UdpReceived {
                mapping,
                from,
                local: None,
                tos,
                pieces: &pieces,
            },
            Self::UdpFailed { mapping, report } => HostEvent::UdpFailed {
                mapping: *mapping,
                report: report.borrow(),
            },
            Self::EchoReply {
                mapping,
                from,
                seq,
                payload,
            } => HostEvent::EchoReply {
                mapping: *mapping,
                from: *from,
                seq: *seq,
                payload,
            },
            Self::EchoFailed { mapping, report } => HostEvent::EchoFailed {
                mapping: *mapping,
                report: report.borrow(),
            },
            Self::DnsAnswer { query, message } => HostEvent::DnsAnswer {
                query: *query,
                message,
            },
            &Self::DnsFailed { query } => HostEvent::DnsFailed { query },
        };
        to(event);
    }
}
