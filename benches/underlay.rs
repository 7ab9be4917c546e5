//! One host of two, reduced to what a tunnel costs: a TAP in one namespace and an underlay socket in another, joined by
//! the modules that a worker has, with no switch between them. Without arguments it does nothing.
//!
//!     underlay SANDBOX_NETNS IFNAME HOST_NETNS LOCAL REMOTE [aes|chacha]
//!
//! `LOCAL` and `REMOTE` are addresses of the underlay. With a cipher all is sealed, by keys that are no secret.
#![allow(missing_docs, reason = "a bench is a program")]

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sched::{CloneFlags, setns};
use switch_core::addr::{PeerId, PortId, Vni};
use switch_core::tunnel::seal::{KEY_LEN, OpenKey, SendKey, Suite};
use switch_core::tunnel::vxlan;
use weft::endpoint::tap::{Tap, TapOptions};
use weft::endpoint::tap_io::TapEndpoint;
use weft::endpoint::udp::{Name, PathMtu, UnderlaySocket};
use weft::endpoint::{Endpoint, Opened, RX_BUFFER};
use weft::worker::budget::Turn;
use weft::worker::underlay::rx::{Carrier, Target, UnderlayRx};
use weft::worker::underlay::tx::{Sockets, UnderlayTx};
use weft::worker::underlay::{Origin, Way};

const PORT: PortId = PortId::remote(0);
const PEER: PeerId = PeerId(0);
const NET: u32 = 0;
const MTU: u16 = 1450;

fn enter(path: &str) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Where a host is.
struct Ends<'a> {
    sandbox: &'a str,
    name: &'a str,
    host: &'a str,
    local: IpAddr,
    remote: IpAddr,
}

struct Host {
    tap: TapEndpoint,
    socket: UnderlaySocket,
    tx: UnderlayTx,
    rx: UnderlayRx,
    carrier: Carrier,
    buffer: Vec<u8>,
}

impl Host {
    fn new(ends: &Ends<'_>, suite: Option<Suite>) -> anyhow::Result<Self> {
        let Ends {
            sandbox,
            name,
            host,
            local,
            remote,
        } = *ends;
        enter(sandbox)?;
        let opened = Opened::from(Tap::open(name, &TapOptions::default())?);
        let tap = TapEndpoint::new(opened.fd, opened.how.vnet, opened.how.caps);
        enter(host)?;
        let vni = Vni::new(7).context("a VNI")?;
        let to = SocketAddr::new(remote, vxlan::PORT);
        let socket = UnderlaySocket::service(SocketAddr::new(local, vxlan::PORT), PathMtu::Known)?;
        let mut sockets = Sockets::default();
        let mut rx = UnderlayRx::new(None);
        let target = Target {
            port: PORT,
            net: NET,
            mtu: MTU,
        };
        let family = usize::from(local.is_ipv6());
        let (tx, carrier) = if let Some(suite) = suite {
            sockets.sealed[family] = Some(socket.try_clone()?);
            let mut tx = UnderlayTx::new(sockets);
            // One key each way, numbered by the end of the address.
            let number = |ip: IpAddr| u32::from(ip.to_string().as_bytes().last() == Some(&b'1'));
            let key = |n: u32| [n.to_le_bytes()[0]; KEY_LEN];
            let (ours, theirs) = (number(local), number(remote));
            let send = SendKey::new(suite, &key(ours), theirs).context("a key")?;
            let open = OpenKey::new(suite, &key(theirs), ours).context("a key")?;
            tx.set_key(PEER, Some((Arc::new(send), Name::from(to))));
            tx.set_way(PORT, NET, Way::Sealed { peer: PEER, vni });
            rx.add_key(open, PEER, (to, None));
            rx.accept(vni, Origin::Sealed(PEER), target);
            (tx, Carrier::Sealed)
        } else {
            for salt in 0..4 {
                let source = UnderlaySocket::source(local.is_ipv6(), PathMtu::Known, salt)?;
                sockets.vxlan[family].push(source);
            }
            let mut tx = UnderlayTx::new(sockets);
            tx.set_way(PORT, NET, Way::Vxlan { to, vni });
            rx.accept(vni, Origin::Vxlan(remote), target);
            (tx, Carrier::Vxlan)
        };
        Ok(Self {
            tap,
            socket,
            tx,
            rx,
            carrier,
            buffer: vec![0; RX_BUFFER],
        })
    }

    /// A turn of the TAP. True if it may have more.
    fn outward(&mut self) -> io::Result<bool> {
        let mut turn = Turn::new(false);
        while !turn.over() {
            match self.tap.rx(&mut self.buffer) {
                Ok(got) => {
                    turn.spend(got.end - got.start);
                    let frame = &self.buffer[got.start..got.end];
                    self.tx.send(NET, PORT, &got.vnet, &[IoSlice::new(frame)]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // Down, for now.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// A turn of the socket. True if it may have more.
    fn inward(&mut self) -> io::Result<bool> {
        let tap = &mut self.tap;
        self.rx
            .turn(&self.socket, self.carrier, &mut |_, _, vnet, frame| {
                let _lost = tap.tx(vnet, &[IoSlice::new(frame)]);
            })
    }

    fn run(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(8);
        let tap = self.tap.fd().ok_or(io::ErrorKind::Unsupported)?;
        for (fd, token) in [(tap, Token(0)), (self.socket.fd(), Token(1))] {
            poll.registry()
                .register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        }
        let mut more = [true; 2];
        loop {
            let wait = more.contains(&true).then_some(std::time::Duration::ZERO);
            match poll.poll(&mut events, wait) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            for event in &events {
                more[event.token().0] = true;
            }
            if more[0] {
                more[0] = self.outward()?;
            }
            if more[1] {
                more[1] = self.inward()?;
            }
            self.tx.flush();
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [sandbox, name, host, local, remote, cipher @ ..] = &arguments[..] else {
        return Ok(());
    };
    let suite = match cipher {
        [] => None,
        [name] if name == "aes" => Some(Suite::Aes256Gcm),
        _ => Some(Suite::ChaCha20Poly1305),
    };
    let (local, remote) = (local.parse()?, remote.parse()?);
    let ends = Ends {
        sandbox,
        name,
        host,
        local,
        remote,
    };
    Host::new(&ends, suite)?.run()?;
    Ok(())
}
