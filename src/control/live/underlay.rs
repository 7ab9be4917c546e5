//! Sockets of the underlay: one of each family for every worker and port, and some to send VXLAN from.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use switch_core::addr::Vni;

use super::LivePlane;
use crate::cluster::Command;
use crate::control::plane::PlaneError;
use crate::control::spec::{Carrier, OverlaySpec};
use crate::endpoint::udp::{PathMtu, UnderlaySocket};
use crate::worker::tunnels;
use crate::worker::underlay::rx;
use crate::worker::underlay::tx::{Sockets, UnderlayTx};

/// Ports to send VXLAN from, of each family.
const SOURCES: u16 = 4;

/// Ports of the host that peers send to.
#[derive(Debug, Default)]
pub(super) struct Underlays {
    /// Their places on the boards, of both families, and how many networks use them.
    ports: BTreeMap<u16, Used>,
    /// Every worker has sockets to send from.
    sends: bool,
}

/// The workers' sockets of a port, and whether they are of IPv6.
type Family = (bool, Vec<UnderlaySocket>);

#[derive(Debug)]
struct Used {
    carrier: Carrier,
    place: usize,
    networks: usize,
}

impl Underlays {
    fn free_place(&self) -> Option<usize> {
        (0..tunnels::SOCKETS / 2).find(|&place| self.ports.values().all(|used| used.place != place))
    }
}

impl LivePlane {
    /// Listens to what peers send to a port, for one more network.
    /// Errors: `Refused` where the port is somebody else's; `Full`.
    pub(super) fn open_underlay(&mut self, overlay: &OverlaySpec) -> Result<(), PlaneError> {
        let (carrier, port) = (overlay.carrier, overlay.port);
        let heard_as = heard_as(overlay).ok_or(PlaneError::Unsupported("a network number"))?;
        let used = self.underlays.ports.get_mut(&port);
        if let Some(used) = used.filter(|used| used.carrier == carrier) {
            used.networks += 1;
            return Ok(());
        }
        let limit = (tunnels::SOCKETS / 2) as u64;
        let what = "ports of overlay networks";
        let full = PlaneError::Full { what, limit };
        let place = self.underlays.free_place().ok_or(full)?;
        let all = |e: &io::Error| PlaneError::Refused {
            message: format!("UDP port {port} for {carrier}: {e}"),
            errno: e.raw_os_error(),
        };
        self.can_send()?;
        let mut families = Vec::new();
        for (v6, at) in [
            (false, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
            (true, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        ] {
            match services(at, carrier, self.hands.len()) {
                Ok(sockets) => families.push((v6, sockets)),
                // A host may be without IPv6.
                Err(e) if v6 && e.kind() != io::ErrorKind::AddrInUse => {}
                Err(e) => return Err(all(&e)),
            }
        }
        let used = Used {
            carrier,
            place,
            networks: 1,
        };
        self.underlays.ports.insert(port, used);
        match heard_as {
            rx::Carrier::Sealed => self.send_sealed(&families).map_err(|e| all(&e))?,
            rx::Carrier::Bare(vni) => self.send_bare(vni, &families).map_err(|e| all(&e))?,
            rx::Carrier::Vxlan => {}
        }
        for (v6, sockets) in families {
            let at = 2 * place + usize::from(v6);
            for (worker, socket) in sockets.into_iter().enumerate() {
                let heard = self.on(worker, move |board| board.listen(at, socket, heard_as))?;
                heard.map_err(|e| all(&e))?;
            }
        }
        Ok(())
    }

    /// Has what is sealed leave by the sockets that peers send to.
    fn send_sealed(&mut self, families: &[Family]) -> io::Result<()> {
        for worker in 0..self.hands.len() {
            let sockets = copies(families, worker)?;
            self.on(worker, move |board| {
                if let Some(underlay) = &mut board.io.underlay {
                    underlay.set_sealed(sockets);
                }
            })
            .map_err(|e| ended(&e))?;
        }
        let sockets = copies(families, 0)?;
        let cluster = self.cluster().map_err(|e| ended(&e))?;
        cluster.tell(Command::Sockets(sockets));
        Ok(())
    }

    /// Has the packets of a network leave by the sockets that its peers send to.
    fn send_bare(&self, vni: Vni, families: &[Family]) -> io::Result<()> {
        for worker in 0..self.hands.len() {
            let sockets = copies(families, worker)?;
            self.on(worker, move |board| {
                if let Some(underlay) = &mut board.io.underlay {
                    underlay.set_bare(vni, sockets);
                }
            })
            .map_err(|e| ended(&e))?;
        }
        Ok(())
    }

    /// One network less wants to know what peers send to a port.
    pub(super) fn close_underlay(&mut self, overlay: &OverlaySpec) -> Result<(), PlaneError> {
        let (carrier, port) = (overlay.carrier, overlay.port);
        let Some(used) = self.underlays.ports.get_mut(&port) else {
            return Ok(());
        };
        used.networks = used.networks.saturating_sub(1);
        // That of the seal stays open: a peer behind a NAT knows it.
        if used.networks > 0 || carrier == Carrier::Sealed {
            return Ok(());
        }
        let place = used.place;
        self.underlays.ports.remove(&port);
        // They come back, and are closed here.
        let bare = Vni::new(overlay.vni).filter(|_| carrier == Carrier::FlannelUdp);
        let closed = self.on_all(move |board| {
            if let (Some(vni), Some(underlay)) = (bare, &mut board.io.underlay) {
                underlay.set_bare(vni, [None, None]);
            }
            [false, true].map(|v6| board.close_underlay(2 * place + usize::from(v6)))
        })?;
        drop(closed);
        Ok(())
    }

    /// Gives every worker sockets to send from, once.
    fn can_send(&mut self) -> Result<(), PlaneError> {
        if self.underlays.sends {
            return Ok(());
        }
        for worker in 0..self.hands.len() {
            let salt = u16::try_from(worker).unwrap_or(0) * 2 * SOURCES;
            let sources = |v6: bool| -> Vec<UnderlaySocket> {
                let salts = (0..SOURCES).map(|n| salt + 2 * n + u16::from(v6));
                let opened = salts.map(|salt| UnderlaySocket::source(v6, PathMtu::Known, salt));
                // One that cannot be had is missed by nobody but those who look at its port.
                opened.filter_map(Result::ok).collect()
            };
            let sockets = Sockets {
                vxlan: [sources(false), sources(true)],
                ..Sockets::default()
            };
            let slow = self.slow.clone();
            self.on(worker, move |board| {
                let underlay = UnderlayTx::new(sockets).telling(slow.clone());
                board.open_tunnels(slow);
                board.io.underlay = Some(Box::new(underlay));
            })?;
        }
        self.underlays.sends = true;
        Ok(())
    }
}

/// A socket for each worker. Errors: `AddrInUse` for a port that somebody listens on, another weft included.
fn services(at: SocketAddr, carrier: Carrier, workers: usize) -> io::Result<Vec<UnderlaySocket>> {
    // Sockets that share a port would not notice another's, if that is willing to share it, too.
    alone(at)?;
    let path = match carrier {
        Carrier::Sealed => PathMtu::Probed,
        Carrier::Vxlan | Carrier::FlannelUdp => PathMtu::Known,
    };
    let all = (0..workers).map(|_| UnderlaySocket::service(at, path));
    let all: Vec<UnderlaySocket> = all.collect::<io::Result<_>>()?;
    let count = u32::try_from(workers).ok().filter(|&count| count > 1);
    if let (Carrier::Sealed, Some(first), Some(count)) = (carrier, all.first(), count) {
        first.steer(count)?;
    }
    Ok(all)
}

fn alone(at: SocketAddr) -> io::Result<()> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())
}

/// What the datagrams of a network are. `None` for a number that no network can have.
fn heard_as(overlay: &OverlaySpec) -> Option<rx::Carrier> {
    let vni = Vni::new(overlay.vni)?;
    Some(match overlay.carrier {
        Carrier::Vxlan => rx::Carrier::Vxlan,
        Carrier::Sealed => rx::Carrier::Sealed,
        Carrier::FlannelUdp => rx::Carrier::Bare(vni),
    })
}

/// Another descriptor of each of one worker's sockets, of IPv4 and IPv6.
fn copies(families: &[Family], worker: usize) -> io::Result<[Option<UnderlaySocket>; 2]> {
    let mut both = [None, None];
    for (v6, sockets) in families {
        let socket = sockets.get(worker).map(UnderlaySocket::try_clone);
        both[usize::from(*v6)] = socket.transpose()?;
    }
    Ok(both)
}

fn ended(e: &PlaneError) -> io::Error {
    io::Error::other(e.to_string())
}
