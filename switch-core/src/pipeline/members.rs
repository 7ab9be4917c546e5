//! Changes while the switch runs: endpoints and names come and go, the network's settings change.

use std::sync::Arc;

use super::{Port, Switch};
use crate::addr::{PortId, SockId};
use crate::flow::host::Host;
use crate::flow::row::FlowRow;
use crate::policy::host_rule::HostRule;
use crate::policy::quota::Quota;
use crate::respond::Guest;
use crate::time::Tick;

/// What of a network may change while its endpoints stay.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Endpoints may speak to each other.
    pub icc: bool,
    /// The world outside can be reached.
    pub uplink: bool,
    /// Search domains.
    pub search: Vec<String>,
    /// What of the host it may reach.
    pub rule: HostRule,
}

impl Switch {
    /// Adds an endpoint, with what the gateway gives out to it.
    pub fn add_port(&mut self, port: Port, guest: Guest) {
        // Whom the gateway cannot reach it does not speak for.
        if port.is_own() {
            self.config.gateway.guests.insert(guest);
        }
        self.rules.adopt(None, &port);
        self.ask_later(port.id);
        self.set_limits(&port);
        self.ports.insert(port);
        self.change_groups();
    }

    /// Tells the tables of flows what an endpoint may have.
    pub(super) fn set_limits(&mut self, port: &Port) {
        let limits = port.limits.as_ref();
        self.tcp.set_limits(port.id, limits);
        self.udp.set_limits(port.id, limits);
        self.echo.set_limits(port.id, limits);
    }

    /// Takes the host's UDP ports from what several switches share.
    pub fn share_ports(&mut self, ports: Arc<Quota>) {
        self.udp.share_ports(ports);
    }

    /// Changes an endpoint in place; its flows stay. False if there is none of that number.
    pub fn change_port(&mut self, port: Port) -> bool {
        let before = self.ports.get(port.id);
        let moves = before.is_some_and(|before| before.vlans != port.vlans);
        let known = before.is_some();
        if known {
            if moves {
                self.ask_later(port.id);
            }
            self.rules.adopt(self.ports.get(port.id), &port);
            self.set_limits(&port);
            self.ports.insert(port);
            self.change_groups();
        }
        known
    }

    /// Takes an endpoint out and ends its flows: their other sides are told, the sandbox is not.
    pub fn remove_port<H: Host>(&mut self, host: &mut H, id: PortId) {
        let Some(port) = self.ports.remove(id) else {
            return;
        };
        self.config.gateway.guests.remove(port.mac);
        self.rules.forget(id);
        self.forget_groups(id);
        self.tcp.remove_port(host, id);
        self.udp.remove_port(host, id);
        self.echo.remove_port(host, id);
    }

    /// An endpoint by its number.
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id)
    }

    /// Every endpoint, in the order of their numbers.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter()
    }

    /// Takes a published UDP port back.
    pub fn unpublish_udp<H: Host>(&mut self, host: &mut H, sock: SockId) {
        self.udp.unpublish(host, sock);
    }

    /// The flows as they are now.
    pub fn flow_rows(&self, now: Tick) -> impl Iterator<Item = FlowRow> + '_ {
        let tcp = self.tcp.rows(now);
        tcp.chain(self.udp.rows(now)).chain(self.echo.rows(now))
    }

    /// Changes the network in place.
    pub fn configure(&mut self, settings: Settings) {
        self.config.icc = settings.icc;
        self.config.gateway.uplink = settings.uplink;
        self.config.rule = settings.rule;
        self.config.gateway.search = settings.search;
    }

    /// Ends everything, as when the network goes.
    pub fn close<H: Host>(&mut self, host: &mut H) {
        let ids: Vec<PortId> = self.ports.iter().map(|p| p.id).collect();
        for id in ids {
            self.remove_port(host, id);
        }
    }
}
