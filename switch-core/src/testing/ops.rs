//! Any sequence of operations on a simulated network, and the check of what became of every connection.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use super::guest::{Tcp, TcpId};
use super::host::{Peer, Receive, TcpServer};
use super::link::Faults;
use super::net::SimNet;
use super::oracle::{Outcome, Story};
use super::script::{Script, Taken};
use super::setup::Setup;
use crate::flow::host::HostError;

/// Guests of such a network.
pub const GUESTS: u8 = 3;
/// Time in which everything comes to rest once links are good: two hours until a silent end is asked, and the
/// longest pauses of scripts.
const REST: Duration = Duration::from_secs(3 * 3_600);
/// So often guests ask whether a silent end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What may happen. Guests and connections are counted round: any number names one.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// A guest connects to a server of its own.
    Connect {
        /// Which guest.
        guest: u8,
        /// By IPv6.
        v6: bool,
        /// The server is on the host itself.
        near: bool,
        /// The guest's end, and the server.
        scripts: (Script, Script),
    },
    /// A client of the host connects to a published port of a guest.
    Accept {
        /// Which guest.
        guest: u8,
        /// By IPv6.
        v6: bool,
        /// The guest's end, and the client.
        scripts: (Script, Script),
    },
    /// A guest connects to the next.
    Between {
        /// Which guest.
        guest: u8,
        /// Its end, and the other's.
        scripts: (Script, Script),
    },
    /// A guest connects to where nobody is.
    Refused {
        /// Which guest.
        guest: u8,
        /// The host itself knows it.
        at_once: bool,
    },
    /// The guest's end of a connection is killed.
    KillNear(u8),
    /// The other end is.
    KillFar(u8),
    /// Time passes. Units: microseconds.
    Wait(u32),
    /// The links of a guest change.
    Links(u8, Faults),
    /// Percent of frames that endpoints do not take.
    Full(u8),
    /// The way to servers changes.
    RoundTrip(Duration),
    /// Sockets to come have such receive buffers.
    Receive(Receive),
    /// A guest begins or ceases to hand over super-frames.
    Offload(u8, bool),
}

/// Where an end is.
#[derive(Debug, Clone, Copy)]
enum Far {
    /// A socket of the host whose remote is this.
    Host(SocketAddr),
    /// A guest.
    Guest(usize, TcpId),
    /// Nowhere.
    Nobody,
}

#[derive(Debug)]
struct Connection {
    story: Story,
    near: (usize, TcpId),
    far: Far,
}

/// A network and what was done to it.
#[derive(Debug)]
pub struct Run {
    /// The network.
    pub net: SimNet,
    connections: Vec<Connection>,
}

impl Run {
    /// A network in which nothing has happened.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let setup = Setup {
            seed,
            guests: GUESTS,
            ..Setup::default()
        };
        let mut net = setup.build();
        for guest in &mut net.guests {
            guest.keep_alive = Some(KEEP_ALIVE);
        }
        Self {
            net,
            connections: Vec::new(),
        }
    }

    /// Does an operation.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Connect {
                guest,
                v6,
                near,
                scripts,
            } => {
                let story = self.story(scripts);
                let to = self.remote(v6);
                let server = if near {
                    TcpServer::Near(story.far)
                } else {
                    TcpServer::Serve(story.far)
                };
                self.connect(guest, to, server, Far::Host(to), story);
            }
            Op::Refused { guest, at_once } => {
                let mut story = self.story((Script::new(0, 10), Script::new(0, 0)));
                story.broken = true;
                let server = if at_once {
                    TcpServer::FailsAtOnce(HostError::Refused)
                } else {
                    TcpServer::Fails(HostError::Refused)
                };
                self.connect(guest, self.remote(false), server, Far::Nobody, story);
            }
            Op::Accept { guest, v6, scripts } => self.accept(guest, v6, scripts),
            Op::Between { guest, scripts } => self.between(guest, scripts),
            Op::KillNear(which) => self.kill(which, true),
            Op::KillFar(which) => self.kill(which, false),
            Op::Wait(micros) => self.net.run_for(Duration::from_micros(micros.into())),
            Op::Links(guest, faults) => {
                let n = usize::from(guest % GUESTS);
                self.net.up[n].set_faults(faults);
                self.net.down[n].set_faults(faults);
            }
            Op::Full(percent) => self.net.host.endpoint_full = percent,
            Op::RoundTrip(time) => self.net.host.round_trip = time,
            Op::Receive(receive) => self.net.host.receive = receive,
            Op::Offload(guest, on) => self.net.guests[usize::from(guest % GUESTS)].offload = on,
        }
    }

    /// Each connection has streams of its own.
    fn story(&self, (near, far): (Script, Script)) -> Story {
        let key = self.connections.len() as u64 * 2;
        Story {
            near: Script { key, ..near },
            far: Script {
                key: key + 1,
                ..far
            },
            broken: false,
        }
    }

    /// An address outside that no other connection has.
    fn remote(&self, v6: bool) -> SocketAddr {
        let n = self.connections.len() as u16;
        let ip: IpAddr = if v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
        } else {
            let [high, low] = n.to_be_bytes();
            Ipv4Addr::new(198, 18, high, low).into()
        };
        (ip, 443).into()
    }

    fn connect(&mut self, guest: u8, to: SocketAddr, server: TcpServer, far: Far, story: Story) {
        let n = usize::from(guest % GUESTS);
        self.net.host.tcp_servers.insert(to, server);
        let near = (n, self.net.guests[n].connect(to, story.near));
        self.connections.push(Connection { story, near, far });
    }

    fn accept(&mut self, guest: u8, v6: bool, scripts: (Script, Script)) {
        let story = self.story(scripts);
        let guest = guest % GUESTS;
        let n = usize::from(guest);
        let from = self.remote(v6);
        let port = 1_000 + self.connections.len() as u16;
        let near = (n, self.net.guests[n].listen(port, story.near));
        let addresses = Setup::addresses(guest);
        let ip: IpAddr = if v6 {
            addresses.v6.into()
        } else {
            addresses.v4.into()
        };
        self.net
            .connect_in(guest, from, (ip, port).into(), story.far);
        let far = Far::Host(from);
        self.connections.push(Connection { story, near, far });
    }

    fn between(&mut self, guest: u8, scripts: (Script, Script)) {
        let story = self.story(scripts);
        let (from, to) = (guest % GUESTS, (guest % GUESTS + 1) % GUESTS);
        let (n, m) = (usize::from(from), usize::from(to));
        let port = 1_000 + self.connections.len() as u16;
        let far = Far::Guest(m, self.net.guests[m].listen(port, story.far));
        let to = (Setup::addresses(to).v4, port).into();
        let near = (n, self.net.guests[n].connect(to, story.near));
        self.connections.push(Connection { story, near, far });
    }

    fn kill(&mut self, which: u8, near: bool) {
        let count = self.connections.len().max(1);
        let Some(connection) = self.connections.get_mut(usize::from(which) % count) else {
            return;
        };
        let (n, id) = connection.near;
        match connection.far {
            _ if near => self.net.guests[n].abort(id),
            Far::Host(remote) => {
                // It may be over already, or not begun.
                connection.story.broken |= self.net.host.break_off(remote);
                return;
            }
            Far::Guest(m, id) => self.net.guests[m].abort(id),
            Far::Nobody => {}
        }
        connection.story.broken = true;
    }

    /// Makes all links good, waits until everything has come to rest, and holds it against the stories.
    /// Panics: where a connection has not ended as it must, or something is left of one that has.
    pub fn finish(mut self) {
        for link in self.net.up.iter_mut().chain(&mut self.net.down) {
            link.set_faults(Faults::default());
        }
        self.net.host.endpoint_full = 0;
        let connections = core::mem::take(&mut self.connections);
        let rest = self.net.run(REST, |net| {
            connections.iter().all(|c| Ends::of(net, c).are_at_rest(c))
        });
        for (n, connection) in connections.iter().enumerate() {
            let ends = Ends::of(&self.net, connection);
            assert!(
                rest || ends.are_at_rest(connection),
                "connection {n} is not at rest: {connection:?}, {ends:?}"
            );
        }
        // Longer than a finished connection still answers.
        self.net.run_for(Duration::from_secs(30));
        let mut open = 0;
        for connection in &connections {
            let ends = Ends::of(&self.net, connection);
            ends.check(connection);
            let outside = matches!(connection.far, Far::Host(_));
            open += usize::from(outside && !connection.story.outcome().is_over());
        }
        assert_eq!(self.net.host.open(), open, "sockets");
        assert_eq!(self.net.switch.flows().0, open, "flows");
        if open == 0 {
            assert_eq!(self.net.switch.tcp_budget(), 0, "window budget");
        }
    }
}

/// Both ends of a connection as they are.
#[derive(Debug)]
struct Ends<'a> {
    near: &'a Tcp,
    far: Other<'a>,
}

#[derive(Debug)]
enum Other<'a> {
    /// None if the switch has not asked for it, or not yet.
    Peer(Option<&'a Peer>),
    Guest(&'a Tcp),
}

/// The application has got what there is, and its end is over if it must be.
fn guest_rests(tcp: &Tcp, sent: &Script, outcome: Outcome, (closes, other): (bool, bool)) -> bool {
    let done = tcp.is_done() || tcp.is_broken();
    match outcome {
        // What was killed early may never have reached the other end.
        Outcome::Cut => done || tcp.is_listening(),
        _ if closes && other => tcp.is_done() && tcp.taken().len() == sent.send,
        Outcome::Whole { .. } => tcp.taken().len() == sent.send && tcp.peer_has_ended() == other,
    }
}

impl<'a> Ends<'a> {
    fn of(net: &'a SimNet, connection: &Connection) -> Self {
        let (n, id) = connection.near;
        let far = match connection.far {
            Far::Host(remote) => Other::Peer(net.host.peers().find(|peer| peer.remote == remote)),
            Far::Guest(m, id) => Other::Guest(net.guests[m].tcp(id)),
            Far::Nobody => Other::Peer(None),
        };
        Self {
            near: net.guests[n].tcp(id),
            far,
        }
    }

    fn are_at_rest(&self, connection: &Connection) -> bool {
        let outcome = connection.story.outcome();
        let (near, far) = match outcome {
            Outcome::Whole {
                near_closes,
                far_closes,
            } => (near_closes, far_closes),
            Outcome::Cut => (true, true),
        };
        let Story {
            near: up,
            far: down,
            ..
        } = &connection.story;
        guest_rests(self.near, down, outcome, (near, far))
            && match self.far {
                Other::Guest(tcp) => guest_rests(tcp, up, outcome, (far, near)),
                Other::Peer(None) => outcome == Outcome::Cut,
                Other::Peer(Some(peer)) => match outcome {
                    Outcome::Cut => peer.closed.is_some(),
                    Outcome::Whole { .. } => {
                        peer.closed.is_some() == (near && far)
                            && peer.was_shut() == near
                            && peer.taken().len() == up.send
                    }
                },
            }
    }

    fn check(&self, connection: &Connection) {
        let nothing = Taken::default();
        let at_far = match self.far {
            Other::Guest(tcp) => tcp.taken(),
            Other::Peer(peer) => peer.map_or(&nothing, Peer::taken),
        };
        connection.story.check(self.near.taken(), at_far);
        if let (Other::Peer(Some(peer)), Outcome::Whole { .. }) =
            (&self.far, connection.story.outcome())
            && let Some(closed) = peer.closed
        {
            // A kernel would answer with a reset to bytes unread.
            assert!(
                !closed.reset && closed.unread == 0,
                "{connection:?}: {closed:?}"
            );
        }
    }
}
