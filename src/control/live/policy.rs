//! Policies: the guard on sources, isolation, limits, rules.
//!
//! An endpoint has what its own policy says and what its network's says: its own rules are asked first and its own
//! limits go before; of the rest the stricter counts.

use std::sync::Arc;

use switch_core::l2::table::Keeping;
use switch_core::policy::compile::{self, Rules};

use super::{End, LivePlane};
use crate::control::ids::EndpointId;
use crate::control::plane::PlaneError;
use crate::control::policy::{
    Action, Direction, PolicyLimits, PolicyScope, PolicySpec, Remote, STATIONS_OF_ONE, Transport,
};

impl LivePlane {
    pub(super) fn put_policy(
        &mut self,
        scope: PolicyScope,
        policy: Option<&PolicySpec>,
    ) -> Result<(), PlaneError> {
        let policy = policy.cloned();
        let touched: Vec<_> = match scope {
            PolicyScope::Endpoint(id) => {
                let end = self.ends.get_mut(&id).ok_or(PlaneError::NoEndpoint(id))?;
                end.policy = policy;
                vec![id]
            }
            PolicyScope::Network(id) => {
                let net = self.nets.get_mut(&id).ok_or(PlaneError::NoNetwork(id))?;
                net.policy = policy;
                let ends = self.ends.iter().filter(|(_, e)| e.spec.network == id);
                ends.map(|(&id, _)| id).collect()
            }
        };
        for id in touched {
            self.enact(id)?;
            let (slot, port, _) = self.member(id)?;
            self.on_all(move |board| {
                board.with(slot, |switch, _| switch.change_port(port.clone()));
            })?;
            self.settle_splicing(id)?;
        }
        Ok(())
    }

    /// Brings what an endpoint has of policies up to date. What has not changed is kept with its state: a bucket
    /// is not filled by a change of something else.
    pub(super) fn enact(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let own = end.policy.as_ref();
        let network = self.net(end.spec.network)?.policy.as_ref();
        let limits = [own, network].map(|p| p.map(|p| &p.limits));
        let limits = PolicyLimits::in_force(limits[0], limits[1]);
        let rates = limits.rates();
        let rules = self.rules_of(own, network).compile().map(Arc::new);
        self.keep_stations(end, limits.macs.unwrap_or(STATIONS_OF_ONE))?;
        if let Some(end) = self.ends.get_mut(&id) {
            end.rules = rules;
            if end.limits.rates() != rates {
                end.limits = Arc::new(end.limits.changed(rates));
            }
        }
        Ok(())
    }

    fn keep_stations(&self, end: &End, limit: u32) -> Result<(), PlaneError> {
        let net = &self.net(end.spec.network)?.spec;
        let keeping = Keeping {
            limit,
            ageing: net.ageing,
            hold: net.loop_hold,
        };
        self.macs.keep(end.port, keeping);
        Ok(())
    }

    fn rules_of(&self, own: Option<&PolicySpec>, network: Option<&PolicySpec>) -> Rules {
        let both = || own.into_iter().chain(network);
        let strictest = |of: fn(&PolicySpec) -> Action| {
            let mut closed = both().map(of).filter(|a| *a != Action::Allow);
            action(closed.next().unwrap_or_default())
        };
        let rules = both().flat_map(|p| &p.rules).map(|rule| compile::Rule {
            direction: match rule.direction {
                Direction::Ingress => compile::Direction::Ingress,
                Direction::Egress => compile::Direction::Egress,
            },
            action: action(rule.action),
            remote: self.remote(&rule.remote),
            transport: match rule.transport {
                Transport::Any => compile::Transport::Any,
                Transport::Tcp => compile::Transport::Tcp,
                Transport::Udp => compile::Transport::Udp,
                Transport::Icmp => compile::Transport::Icmp,
            },
            ports: rule.ports,
        });
        Rules {
            rules: rules.collect(),
            ingress: strictest(|p| p.ingress),
            egress: strictest(|p| p.egress),
        }
    }

    fn remote(&self, remote: &Remote) -> compile::Remote {
        match remote {
            Remote::Any => compile::Remote::Any,
            Remote::Prefix(addr, len) => compile::Remote::Prefixes(vec![(*addr, *len)]),
            Remote::Name(name) => compile::Remote::Name(name.clone()),
            // A network that is gone has nobody on it.
            Remote::Network(id) => {
                let spec = self.nets.get(id).map(|net| &net.spec);
                let v4 = spec.and_then(|s| s.v4);
                let v6 = spec.and_then(|s| s.v6);
                let v4 = v4.map(|s| (s.network.into(), s.prefix));
                let v6 = v6.map(|s| (s.network.into(), s.prefix));
                compile::Remote::Prefixes(v4.into_iter().chain(v6).collect())
            }
        }
    }
}

fn action(action: Action) -> compile::Action {
    match action {
        Action::Allow => compile::Action::Allow,
        Action::Drop => compile::Action::Drop,
        Action::Reject => compile::Action::Reject,
    }
}
