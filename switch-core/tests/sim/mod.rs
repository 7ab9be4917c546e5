//! A guest, a wire and a host in virtual time.

mod host;
mod wire;

use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::sync::Arc;

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use switch_core::addr::{Mac, NetworkId, PortId};
use switch_core::flow::event::HostEvent;
use switch_core::flow::tcp::Limits;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Config, Port, Switch};
use switch_core::policy::host_rule::HostRule;
use switch_core::respond::{Gateway, Guest};
use switch_core::time::Tick;
use switch_core::wire::vnet_hdr::VnetHdr;

pub(crate) use self::host::SimHost;
pub(crate) use self::wire::{Faults, Wire};

/// Byte `i` of every stream.
pub(crate) fn pattern(i: usize) -> u8 {
    (i.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// What the host does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Bytes that it sends.
    pub(crate) down: usize,
    /// It takes little at a time, and stalls.
    pub(crate) choke: bool,
}

/// One step of virtual time.
const STEP: Duration = Duration::from_micros(200);

/// All of it.
pub(crate) struct World {
    /// The switch under test.
    pub(crate) switch: Switch,
    /// The host.
    pub(crate) host: SimHost,
    /// What the guest's application received.
    pub(crate) received: Vec<u8>,
    now: Duration,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: smoltcp::iface::SocketHandle,
    sent: usize,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.sockets.get::<tcp::Socket<'_>>(self.handle).state();
        write!(
            f,
            "at {:?}: guest {state}, sent {}, got {}; host took {}; drops {:?}",
            self.now,
            self.sent,
            self.received.len(),
            self.host.taken.len(),
            self.switch.drops().iter().collect::<Vec<_>>()
        )
    }
}

const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);

impl World {
    /// A guest that is about to connect.
    pub(crate) fn new(seed: u64, faults: Faults, plan: Plan) -> Self {
        let mut wire = Wire::new(seed, faults);
        let mut config = IfaceConfig::new(HardwareAddress::Ethernet(EthernetAddress(GUEST.0)));
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::v4(10, 0, 0, 2), 24)).unwrap());
        iface
            .routes_mut()
            .add_default_ipv4_route(Ipv4Address::new(10, 0, 0, 1))
            .unwrap();
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(
                iface.context(),
                (IpAddress::v4(192, 0, 2, 1), 80),
                40_000 + (seed % 1000) as u16,
            )
            .unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let gateway = Gateway {
            mac: GATEWAY,
            v4: Some((Ipv4Addr::new(10, 0, 0, 1), 24)),
            v6: None,
            mtu: 1500,
            v6_default_route: false,
            search: Vec::new(),
            guests: vec![Guest {
                mac: GUEST,
                name: "guest".into(),
                v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
                v6: None,
            }],
        };
        let config = Config {
            network: NetworkId(0),
            gateway,
            ports: vec![Port {
                id: PortId(0),
                mac: GUEST,
                mtu: 1500,
                uso: true,
            }],
            rule: HostRule::default(),
            filter: Default::default(),
            ephemeral: (32_768, 60_999),
            limits: Limits::default(),
            seeds: [seed, 2, 3, 4],
        };
        let switch = Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(64)));
        let host = SimHost::new(seed, plan);
        Self {
            switch,
            host,
            received: Vec::new(),
            now: Duration::ZERO,
            wire,
            iface,
            sockets,
            handle,
            sent: 0,
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now.as_nanos() as u64)
    }

    /// The guest's connection is over.
    pub(crate) fn guest_done(&self) -> bool {
        let state = self.sockets.get::<tcp::Socket<'_>>(self.handle).state();
        matches!(state, tcp::State::Closed | tcp::State::TimeWait)
    }

    /// Runs until the guest's connection has ended, or virtual time has.
    pub(crate) fn run(&mut self, up: usize, limit: Duration) {
        while self.now < limit && !(self.guest_done() && self.host.closed) {
            self.step(up);
        }
        // What has arrived is still to be read.
        (0..64).for_each(|_| self.step(up));
    }

    /// Lets time pass.
    pub(crate) fn idle(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(0);
        }
    }

    fn step(&mut self, up: usize) {
        self.now += STEP;
        self.application(up);
        let instant = Instant::from_micros(self.now.as_micros() as i64);
        self.iface.poll(instant, &mut self.wire, &mut self.sockets);
        let now = self.tick();
        for frame in self.wire.from_guest() {
            self.switch
                .handle_frame(&mut self.host, now, PortId(0), &VnetHdr::default(), &frame);
        }
        for event in self.host.events(now) {
            let event = match event {
                host::Event::Connected(flow) => HostEvent::TcpConnected { flow },
                host::Event::Readable(flow, ending) => HostEvent::TcpReadable { flow, ending },
                host::Event::Writable(flow) => HostEvent::TcpWritable { flow },
            };
            self.switch.handle_event(&mut self.host, now, event);
        }
        self.switch.flush(&mut self.host, now);
        while self.switch.run_ready(&mut self.host, now) {}
        if self.switch.poll_timeout().is_some_and(|at| at <= now) {
            self.switch.handle_timeout(&mut self.host, now);
        }
        self.wire.to_guest(&mut self.host.frames);
    }

    fn application(&mut self, up: usize) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        if socket.can_recv() {
            let received = &mut self.received;
            socket
                .recv(|data| (data.len(), received.extend_from_slice(data)))
                .unwrap();
        }
        while socket.can_send() && self.sent < up {
            let sent = self.sent;
            let n = socket.send(|room| {
                let n = room.len().min(up - sent);
                room[..n]
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, b)| *b = pattern(sent + i));
                (n, n)
            });
            self.sent += n.unwrap();
        }
        if self.sent == up
            && matches!(
                socket.state(),
                tcp::State::Established | tcp::State::CloseWait
            )
        {
            socket.close();
        }
    }
}
