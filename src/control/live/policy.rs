//! Policies: the guard on sources, isolation, limits.
//!
//! An endpoint has what its own policy says and what its network's says: of limits its own go before, of the rest
//! the stricter counts.

use std::sync::Arc;

use switch_core::policy::limit::{self, Limits, Rates};

use super::LivePlane;
use crate::control::ids::EndpointId;
use crate::control::plane::PlaneError;
use crate::control::policy::{Action, PolicyLimits, PolicyScope, PolicySpec, Rate};

impl LivePlane {
    pub(super) fn put_policy(
        &mut self,
        scope: PolicyScope,
        policy: Option<&PolicySpec>,
    ) -> Result<(), PlaneError> {
        if let Some(policy) = policy {
            supported(policy)?;
        }
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
        }
        Ok(())
    }

    /// Brings what an endpoint has of policies up to date. What has not changed is kept with its state: a bucket
    /// is not filled by a change of something else.
    pub(super) fn enact(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let own = end.policy.as_ref();
        let network = self.net(end.spec.network)?.policy.as_ref();
        let rates = rates(own.map(|p| &p.limits), network.map(|p| &p.limits));
        if let Some(end) = self.ends.get_mut(&id)
            && end.limits.rates() != rates
        {
            end.limits = Arc::new(Limits::new(rates));
        }
        Ok(())
    }
}

/// The rates of an endpoint: its own, its network's, or the default.
fn rates(own: Option<&PolicyLimits>, network: Option<&PolicyLimits>) -> Rates {
    let pick = |of: fn(&PolicyLimits) -> Option<Rate>, default: Option<limit::Rate>| {
        let set = own.and_then(of).or_else(|| network.and_then(of));
        set.map_or(default, |r| Some(limit::Rate::new(r.per_second, r.burst)))
    };
    Rates {
        egress: pick(|l| l.egress, Rates::DEFAULT.egress),
        ingress: pick(|l| l.ingress, Rates::DEFAULT.ingress),
        broadcast: pick(|l| l.broadcast, Rates::DEFAULT.broadcast),
        new_flows: pick(|l| l.new_flows, Rates::DEFAULT.new_flows),
    }
}

/// Refuses what this plane has not.
fn supported(policy: &PolicySpec) -> Result<(), PlaneError> {
    let open = policy.ingress == Action::Allow && policy.egress == Action::Allow;
    if !policy.rules.is_empty() || !open {
        return Err(PlaneError::Unsupported("a policy with rules"));
    }
    if policy.limits.macs.is_some() || policy.limits.flows.is_some() {
        return Err(PlaneError::Unsupported("a limit on MACs or flows"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_limits_go_before_its_networks() {
        let rate = |per_second| {
            Some(Rate {
                per_second,
                burst: 1,
            })
        };
        let own = PolicyLimits {
            egress: rate(5),
            ..PolicyLimits::default()
        };
        let network = PolicyLimits {
            egress: rate(6),
            broadcast: rate(7),
            ..PolicyLimits::default()
        };
        let both = rates(Some(&own), Some(&network));
        assert_eq!(both.egress, Some(limit::Rate::new(5, 1)));
        assert_eq!(both.broadcast, Some(limit::Rate::new(7, 1)));
        assert_eq!(both.new_flows, Rates::DEFAULT.new_flows);
        assert_eq!(rates(None, None), Rates::DEFAULT);
    }
}
