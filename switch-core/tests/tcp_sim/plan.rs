//! One connection from its beginning to its end.

use core::time::Duration;

use switch_core::testing::guest::TcpId;
use switch_core::testing::host::{Closed, Receive, TcpServer};
use switch_core::testing::link::Faults;
use switch_core::testing::net::{Setup, SimNet};
use switch_core::testing::script::Script;

pub(crate) const SERVER: &str = "192.0.2.1:80";
pub(crate) const LIMIT: Duration = Duration::from_secs(900);

/// What a transfer is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) server: &'static str,
    pub(crate) up: Script,
    pub(crate) down: Script,
    pub(crate) offload: bool,
    pub(crate) receive: Receive,
}

impl Plan {
    pub(crate) fn new(seed: u64, up: usize, down: usize) -> Self {
        Self {
            seed,
            faults: Faults::default(),
            server: SERVER,
            up: Script::new(seed + 1_000, up),
            down: Script::new(seed + 2_000, down),
            offload: seed % 2 == 1,
            receive: Receive::default(),
        }
    }

    /// A network in which the guest has just begun to connect.
    pub(crate) fn start(&self) -> (SimNet, TcpId) {
        let setup = Setup {
            seed: self.seed,
            faults: self.faults,
            ..Setup::default()
        };
        let mut net = setup.build();
        net.host.receive = self.receive;
        let to = self.server.parse().unwrap();
        net.host.tcp_servers.insert(to, TcpServer::Serve(self.down));
        net.guests[0].offload = self.offload;
        let id = net.guests[0].connect(to, self.up);
        (net, id)
    }

    /// Goes on until the guest's end is over, one way or the other, and the host's socket is closed.
    #[track_caller]
    pub(crate) fn end(net: &mut SimNet, id: TcpId, limit: Duration) {
        let done = net.run(limit, |net| {
            let tcp = net.guests[0].tcp(id);
            let closed = net.host.peers().all(|peer| peer.closed.is_some());
            closed && (tcp.is_done() || tcp.is_broken())
        });
        assert!(done, "not over: {:?}, {:?}", net.guests[0], net.host);
        // What is under way still arrives.
        net.run_for(Duration::from_secs(1));
    }

    /// Wants every byte at its place and an orderly end.
    #[track_caller]
    pub(crate) fn orderly(&self, net: &SimNet, id: TcpId) {
        let tcp = net.guests[0].tcp(id);
        assert!(tcp.is_done(), "the guest's end: {tcp:?}");
        tcp.taken().check(&self.down);
        let peer = net.host.peers().next().unwrap();
        peer.taken().check(&self.up);
        assert!(peer.was_shut(), "the guest's end did not reach the host");
        let orderly = Closed {
            reset: false,
            unread: 0,
        };
        assert_eq!(peer.closed, Some(orderly));
    }

    /// Runs from beginning to end.
    #[track_caller]
    pub(crate) fn run(&self) -> (SimNet, TcpId) {
        let (mut net, id) = self.start();
        Self::end(&mut net, id, LIMIT);
        (net, id)
    }

    /// Runs, and wants every byte at its place and an orderly end.
    #[track_caller]
    pub(crate) fn check(&self) -> SimNet {
        let (net, id) = self.run();
        self.orderly(&net, id);
        net
    }
}
