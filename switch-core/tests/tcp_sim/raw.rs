//! Single segments, where a stack would not send what matters.

use core::net::SocketAddr;
use core::time::Duration;

use switch_core::addr::PortId;
use switch_core::flow::tcp::Limits;
use switch_core::testing::host::{Peer, TcpServer};
use switch_core::testing::net::{GATEWAY, Setup, SimNet};
use switch_core::testing::packets::{Link, Segment};
use switch_core::testing::script::{Pace, Script};
use switch_core::time::Tick;
use switch_core::verdict::Verdict;
use switch_core::wire::tcp::{ACK, FIN, RST, SYN};
use switch_core::wire::vnet_hdr::VnetHdr;

pub(crate) const SERVER: &str = "192.0.2.9:80";

/// A client without a stack: the second guest, which no frame reaches.
pub(crate) struct Client {
    pub(crate) net: SimNet,
    /// What it sends.
    script: Script,
    iss: u32,
    pub(crate) ack: u32,
}

/// A segment that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// Bytes of payload.
    pub(crate) len: u32,
}

impl Client {
    /// One that has not sent anything yet. `limits` are those of the switch, `server` is what it talks to.
    pub(crate) fn new(limits: Limits, server: TcpServer) -> Self {
        let setup = Setup {
            guests: 2,
            limits,
            ..Setup::default()
        };
        let mut net = setup.build();
        let mut faults = setup.faults;
        faults.delay = Duration::from_secs(1 << 20);
        net.down[1].set_faults(faults);
        net.host.tcp_servers.insert(SERVER.parse().unwrap(), server);
        Self {
            net,
            script: Script::new(1, 1 << 20),
            iss: u32::MAX - 5_000,
            ack: 0,
        }
    }

    /// Connects to a server of this script.
    fn connect(limits: Limits, down: Script) -> Self {
        let mut client = Self::new(limits, TcpServer::Near(down));
        client.segment(SYN, u32::MAX, &[]);
        let got = client.got();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].flags, SYN | ACK);
        assert_eq!(got[0].ack, client.seq(0));
        client.ack = got[0].seq.wrapping_add(1);
        client.segment(ACK, 0, &[]);
        client
    }

    /// The sequence number of a place in the stream.
    pub(crate) fn seq(&self, place: u32) -> u32 {
        self.iss.wrapping_add(1).wrapping_add(place)
    }

    pub(crate) fn segment(&mut self, flags: u8, place: u32, payload: &[u8]) -> Verdict {
        let addresses = Setup::addresses(1);
        let link = Link {
            src: addresses.mac,
            dst: GATEWAY,
        };
        let (from, to): (SocketAddr, SocketAddr) =
            ((addresses.v4, 5_000).into(), SERVER.parse().unwrap());
        let segment = Segment {
            options: &[],
            seq: self.seq(place),
            ack: self.ack,
            flags,
            window: 65_535,
            payload,
        };
        let frame = link.tcp(from, to, &segment);
        self.net.hand_in(PortId(1), &(VnetHdr::default(), frame))
    }

    /// Sends the bytes of these places.
    pub(crate) fn send(&mut self, flags: u8, from: u32, to: u32) -> Verdict {
        let mut payload = vec![0; (to - from) as usize];
        self.script.fill(from as usize, &mut payload);
        self.segment(flags | ACK, from, &payload)
    }

    /// What has come within some time.
    pub(crate) fn got(&mut self) -> Vec<Got> {
        self.net.run_for(Duration::from_millis(30));
        let frames = self.net.down[1].arrived(Tick::NEVER);
        let tcp = frames.iter().filter(|(_, frame)| frame[23] == 6);
        tcp.map(|(_, frame)| Got {
            seq: u32::from_be_bytes(frame[38..42].try_into().unwrap()),
            ack: u32::from_be_bytes(frame[42..46].try_into().unwrap()),
            flags: frame[47],
            len: u32::try_from(frame.len()).unwrap() - 34 - u32::from(frame[46] >> 4) * 4,
        })
        .collect()
    }

    pub(crate) fn peer(&self) -> &Peer {
        let server: SocketAddr = SERVER.parse().unwrap();
        let mut peers = self.net.host.peers();
        peers.find(|peer| peer.remote == server).unwrap()
    }

    /// The server has got the stream's first `len` bytes, and its end if `end`.
    #[track_caller]
    fn check(&self, len: u32, end: bool) {
        let script = Script {
            send: len as usize,
            ..self.script
        };
        self.peer().taken().check(&script);
        assert_eq!(self.peer().was_shut(), end);
    }
}

fn client() -> Client {
    Client::connect(Limits::default(), Script::new(2, 0))
}

#[test]
fn the_last_segment_carries_data_and_the_end() {
    let mut client = client();
    client.send(0, 0, 1_000);
    client.send(FIN, 1_000, 1_500);
    let last = *client.got().last().unwrap();
    assert_eq!(last.ack, client.seq(1_501));
    client.check(1_500, true);
}

#[test]
fn an_end_beyond_a_hole_waits_for_what_is_before_it() {
    let mut client = client();
    client.send(FIN, 1_000, 1_500);
    assert_eq!(client.got().last().unwrap().ack, client.seq(0));
    assert!(!client.peer().was_shut());
    client.send(0, 0, 1_000);
    assert_eq!(client.got().last().unwrap().ack, client.seq(1_501));
    client.check(1_500, true);
}

#[test]
fn an_end_that_comes_again_with_more_or_less_before_it_counts_once() {
    let mut client = client();
    client.send(0, 0, 1_000);
    client.send(FIN, 500, 1_500);
    client.send(FIN, 0, 1_500);
    client.send(FIN, 1_500, 1_500);
    client.send(0, 1_400, 1_500);
    // Nothing may follow an end.
    client.send(0, 1_500, 2_000);
    let got = client.got();
    assert!(!got.is_empty());
    assert_eq!(got.last().unwrap().ack, client.seq(1_501));
    client.check(1_500, true);
}

/// An acknowledgement that rides on data is no sign of a loss. Source: RFC 5681 section 2.
#[test]
fn a_hole_is_told_although_data_goes_the_other_way() {
    let mut client = Client::connect(Limits::default(), Script::new(2, 1 << 20));
    for place in [1_000, 2_000, 3_000] {
        let last = *client.got().last().unwrap();
        client.ack = last.seq.wrapping_add(last.len);
        client.send(0, place, place + 1_000);
        let got = client.got();
        assert!(got.iter().any(|got| got.len > 0), "data");
        let told = |got: &Got| got.len == 0 && got.ack == client.seq(0);
        assert!(got.iter().any(told), "at {place}");
        client.ack = got.last().unwrap().seq;
        client.segment(ACK, 0, &[]);
    }
}

/// Source: RFC 5961 section 3.2.
#[test]
fn a_reset_counts_only_at_its_place() {
    let mut client = client();
    client.send(0, 0, 1_000);
    client.got();
    for place in [1_001, 3_000, 999, 0] {
        client.segment(RST, place, &[]);
        let challenged = client.got().iter().any(|got| got.flags == ACK);
        assert_eq!(challenged, place > 1_000, "at {place}");
        assert!(client.peer().closed.is_none(), "at {place}");
    }
    client.segment(RST, 1_000, &[]);
    client.got();
    assert!(client.peer().closed.is_some_and(|closed| closed.reset));
    assert_eq!(client.net.switch.flows().0, 0);
}

/// Memory for what cannot be passed on may be all in use, part of it by what is ahead of a hole. What fills the
/// hole needs none of it, if the server takes it.
#[test]
fn a_hole_is_filled_when_the_memory_is_full() {
    let limits = Limits {
        window_budget: 160 << 10,
        ..Limits::default()
    };
    let mut client = Client::connect(limits, Script::new(2, 0));
    client.send(0, 9_000, 10_000);
    client.got();
    // Servers that take nothing. What their clients send fills the memory.
    let late = Script::new(3, 0).pace(Pace::Late(Duration::from_secs(3_600)));
    let server: SocketAddr = "192.0.2.10:80".parse().unwrap();
    let servers = &mut client.net.host.tcp_servers;
    servers.insert(server, TcpServer::Near(late));
    for key in 0..60 {
        client.net.guests[0].connect(server, Script::new(10 + key, 100_000));
    }
    client.net.run_for(Duration::from_secs(60));
    for from in (0..9_000).step_by(1_000) {
        client.send(0, from, from + 1_000);
    }
    assert_eq!(client.got().last().unwrap().ack, client.seq(10_000));
    client.check(10_000, false);
}
