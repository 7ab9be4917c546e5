//! Services: every worker has all of a network's, with one health for each backend. On an overlay some may be on other
//! hosts: those are found by their names.

use std::net::IpAddr;
use std::sync::Arc;

use switch_core::addr::{PortId, Vni};
use switch_core::nat::service::{Face, Server, ServiceConfig, Services};
use switch_core::tunnel::control::record::Announced;

use super::announce::sealed;
use super::{LivePlane, Net};
use crate::cluster::Command;
use crate::control::ids::{EndpointId, NetworkId, ServiceId};
use crate::control::plane::PlaneError;
use crate::control::spec::{Backend, ServiceSpec};

impl LivePlane {
    pub(super) fn put_service(&mut self, spec: &ServiceSpec) -> Result<(), PlaneError> {
        self.net(spec.network)?;
        let before = self.services.insert(spec.id, spec.clone());
        self.watch(spec.network);
        self.serve(spec.network)?;
        match before.filter(|b| b.network != spec.network) {
            Some(before) => {
                self.watch(before.network);
                self.serve(before.network)
            }
            None => Ok(()),
        }
    }

    pub(super) fn drop_service(&mut self, id: ServiceId) -> Result<(), PlaneError> {
        let spec = self.services.remove(&id).ok_or(PlaneError::NoService(id))?;
        self.watch(spec.network);
        self.serve(spec.network)
    }

    /// Asks to be told where those are that serve and are not here.
    fn watch(&self, network: NetworkId) {
        let vni = self.nets.get(&network).and_then(|net| sealed(&net.spec));
        let (Some(cluster), Some((_, vni))) = (&self.cluster, vni) else {
            return;
        };
        let services = self.services.values().filter(|s| s.network == network);
        let names = services.flat_map(|s| &s.elsewhere);
        let names = names.map(|name| name.as_str().into()).collect();
        cluster.tell(Command::Watch(vni, names));
    }

    /// Takes note of where those are.
    pub(super) fn take_backends(&mut self, vni: Vni, found: Vec<(PortId, Announced)>) {
        let is_it = |net: &Net| sealed(&net.spec).is_some_and(|(_, of)| of == vni);
        let Some((&network, _)) = self.nets.iter().find(|(_, net)| is_it(net)) else {
            return;
        };
        self.elsewhere.insert(network, found);
        if let Err(e) = self.serve(network) {
            tracing::warn!("services of network {vni}: {e}");
        }
    }

    /// Brings the services that an endpoint is a backend of up to date: it has come, or gone.
    pub(super) fn backend_changed(
        &mut self,
        network: NetworkId,
        id: EndpointId,
    ) -> Result<(), PlaneError> {
        let serves = |s: &ServiceSpec| s.backends.iter().any(|b| b.endpoint == id);
        let mut services = self.services.values().filter(|s| s.network == network);
        if services.any(serves) {
            self.serve(network)?;
        }
        Ok(())
    }

    /// Tells every worker what a network's services are.
    fn serve(&mut self, network: NetworkId) -> Result<(), PlaneError> {
        let list: Vec<ServiceConfig> = self
            .services
            .values()
            .filter(|s| s.network == network)
            .map(|s| self.service_config(s))
            .collect();
        // One that was taken away with its network has nobody to tell.
        let Some(net) = self.nets.get_mut(&network) else {
            return Ok(());
        };
        let services = Arc::new(Services::new(&list, net.services.as_deref()));
        net.services = Some(Arc::clone(&services));
        let slot = net.slot;
        self.on_all(move |board| {
            board.with(slot, |switch, _| switch.set_services(Arc::clone(&services)));
        })?;
        Ok(())
    }

    fn service_config(&self, spec: &ServiceSpec) -> ServiceConfig {
        let server = |backend: &Backend| {
            let end = self.ends.get(&backend.endpoint)?;
            let addrs = both(backend.v4.map(IpAddr::V4), backend.v6.map(IpAddr::V6));
            Some(Server {
                port: end.port,
                mac: end.spec.mac,
                addrs,
            })
        };
        let found = self.elsewhere.get(&spec.network).into_iter().flatten();
        let named = |names: &[Box<str>]| {
            let own = names.first().map(|name| &**name);
            spec.elsewhere.iter().any(|name| Some(name.as_str()) == own)
        };
        let strangers = found.filter(|(_, endpoint)| named(&endpoint.names));
        let strangers = strangers.map(|(port, endpoint)| Server {
            port: *port,
            mac: endpoint.mac,
            addrs: endpoint.addrs.to_vec(),
        });
        let faces = spec.ports.iter().map(|port| Face {
            proto: port.proto.number(),
            port: port.port,
            target: port.target,
        });
        ServiceConfig {
            addrs: both(spec.v4.map(IpAddr::V4), spec.v6.map(IpAddr::V6)),
            faces: faces.collect(),
            servers: spec
                .backends
                .iter()
                .filter_map(server)
                .chain(strangers)
                .collect(),
        }
    }
}

fn both(v4: Option<IpAddr>, v6: Option<IpAddr>) -> Vec<IpAddr> {
    v4.into_iter().chain(v6).collect()
}
