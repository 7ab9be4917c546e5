//! Stage 1, 8: The endpoints that a worker reads, and those that it may only write, by port number.

use std::io::{self, IoSlice};

use switch_core::addr::PortId;
use switch_core::verdict::Drops;
use switch_core::wire::vnet_hdr::VnetHdr;

use crate::endpoint::Endpoint;
use crate::worker::budget::Waste;

/// What passed an endpoint on one worker.
#[derive(Debug, Clone, Default)]
pub struct LinkStats {
    /// Frames from the sandbox.
    pub rx_frames: u64,
    /// Bytes from the sandbox.
    pub rx_bytes: u64,
    /// Frames to the sandbox.
    pub tx_frames: u64,
    /// Bytes to the sandbox.
    pub tx_bytes: u64,
    /// Frames that the endpoint refused.
    pub tx_failed: u64,
    /// What the switch dropped of what it sent, and of what the world sent it.
    pub drops: Drops,
}

/// An endpoint on a worker.
pub struct Link {
    /// Where frames come from and go to.
    pub endpoint: Box<dyn Endpoint>,
    /// The place of its network.
    pub net: u32,
    /// This worker receives from it; others may still send.
    pub owned: bool,
    /// It stands in the line of those that may have a frame.
    pub ready: bool,
    /// How much of what it sends is thrown away.
    pub waste: Waste,
    /// What passed.
    pub stats: LinkStats,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("net", &self.net)
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// An endpoint that has seen nothing yet.
    #[must_use]
    pub fn new(endpoint: Box<dyn Endpoint>, net: u32, owned: bool) -> Self {
        Self {
            endpoint,
            net,
            owned,
            ready: false,
            waste: Waste::default(),
            stats: LinkStats::default(),
        }
    }

    fn send(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let sent = self.endpoint.tx(vnet, frame);
        match sent {
            Ok(()) => {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += frame.iter().map(|p| p.len() as u64).sum::<u64>();
            }
            Err(_) => self.stats.tx_failed += 1,
        }
        sent
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Links(Vec<Option<Link>>);

impl Links {
    /// The endpoint of a port.
    #[must_use]
    pub fn get(&self, port: PortId) -> Option<&Link> {
        self.0.get(port.0 as usize)?.as_ref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, port: PortId) -> Option<&mut Link> {
        self.0.get_mut(port.0 as usize)?.as_mut()
    }

    /// Adds an endpoint, in place of one with the same number.
    pub fn insert(&mut self, port: PortId, link: Link) {
        let at = port.0 as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(link);
    }

    /// Takes an endpoint out.
    pub fn remove(&mut self, port: PortId) -> Option<Link> {
        self.0.get_mut(port.0 as usize)?.take()
    }

    /// Every endpoint, in the order of the ports.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Link)> {
        let ports = (0..).map(PortId);
        ports
            .zip(&self.0)
            .filter_map(|(port, link)| Some((port, link.as_ref()?)))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PortId, &mut Link)> {
        let ports = (0..).map(PortId);
        ports
            .zip(&mut self.0)
            .filter_map(|(port, link)| Some((port, link.as_mut()?)))
    }

    /// Sends a frame to an endpoint of a network. False if that is not there, or did not take it.
    pub fn send(&mut self, net: u32, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        // The network is asked again, so that no mistake of a table can leak a frame.
        let link = self.get_mut(port).filter(|link| link.net == net);
        link.is_some_and(|link| link.send(vnet, frame).is_ok())
    }
}
