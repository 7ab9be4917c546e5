//! Policies, as far as this plane has them: the guard on sources, and isolation.

use super::LivePlane;
use crate::control::plane::PlaneError;
use crate::control::policy::{Action, PolicyLimits, PolicyScope, PolicySpec};

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
            let (slot, port, _) = self.member(id)?;
            self.on_all(move |board| {
                board.with(slot, |switch, _| switch.change_port(port.clone()));
            })?;
        }
        Ok(())
    }
}

/// Refuses what this plane has not.
fn supported(policy: &PolicySpec) -> Result<(), PlaneError> {
    let open = policy.ingress == Action::Allow && policy.egress == Action::Allow;
    if !policy.rules.is_empty() || !open {
        return Err(PlaneError::Unsupported("a policy with rules"));
    }
    if policy.limits != PolicyLimits::default() {
        return Err(PlaneError::Unsupported("a policy with limits"));
    }
    Ok(())
}
