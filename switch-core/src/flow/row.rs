//! Stage 6: What is told of a flow to whoever asks.

use core::time::Duration;

use super::tcp::Key;
use crate::addr::PortId;

/// One flow, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRow {
    /// The endpoint that it belongs to.
    pub port: PortId,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: &'static str,
    /// Both sides, as the sandbox knows them; ICMP has its identifier for the ports.
    pub key: Key,
    /// Its state, in a word.
    pub state: &'static str,
    /// Payload from the sandbox and to it. Units: bytes.
    pub bytes: (u64, u64),
    /// Since the last packet.
    pub idle: Duration,
}
