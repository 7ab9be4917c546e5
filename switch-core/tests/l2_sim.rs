//! The switch against the reference: whoever sends what to whom, each frame reaches the same ports, or is dropped
//! for the same reason.

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use switch_core::addr::{Mac, PortId};
use switch_core::testing::model::{Fate, Model};
use switch_core::testing::net::{GATEWAY, Setup};
use switch_core::testing::packets::{EXPERIMENT, Link};
use switch_core::verdict::Verdict;
use switch_core::wire::vnet_hdr::VnetHdr;

const GUESTS: u8 = 4;
const BRIDGES: u8 = 2;
const PORTS: u8 = GUESTS + BRIDGES;

#[derive(Debug, Clone)]
enum Op {
    /// From a port, by a station, to a station.
    Send(u8, Station, Station),
    /// Time passes. Units: seconds.
    Wait(u64),
}

#[derive(Debug, Clone)]
enum Station {
    /// A port's own.
    Port(u8),
    /// Behind a bridge, now this one and now that.
    Behind(u8),
    Gateway,
    Broadcast,
    Group(u8),
    Reserved(u8),
    Stranger,
}

impl Station {
    fn mac(&self) -> Mac {
        match *self {
            Self::Port(n) => Setup::addresses(n).mac,
            Self::Behind(n) => Mac([2, 1, 1, 1, 1, n]),
            Self::Gateway => GATEWAY,
            Self::Broadcast => Mac([0xff; 6]),
            Self::Group(n) => Mac([1, 0, 0x5e, 0, 0, n]),
            Self::Reserved(n) => Mac([1, 0x80, 0xc2, 0, 0, n]),
            Self::Stranger => Mac([2, 9, 9, 9, 9, 9]),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let station = prop_oneof![
        5 => (0..PORTS).prop_map(Station::Port),
        5 => (0..3u8).prop_map(Station::Behind),
        1 => Just(Station::Gateway),
        1 => Just(Station::Broadcast),
        1 => (1..9u8).prop_map(Station::Group),
        1 => (0..16u8).prop_map(Station::Reserved),
        1 => Just(Station::Stranger),
    ];
    let behind = (GUESTS..PORTS, (0..3u8).prop_map(Station::Behind));
    let own = (0..PORTS).prop_map(|n| (n, Station::Port(n)));
    let spoofed = (0..GUESTS, (0..PORTS).prop_map(Station::Port));
    let back = prop_oneof![(0..PORTS).prop_map(Station::Port), Just(Station::Gateway)];
    let looped = (GUESTS..PORTS, back);
    let sender = prop_oneof![10 => own, 10 => behind, 2 => spoofed, 1 => looped];
    prop_oneof![
        9 => (sender, station).prop_map(|((port, from), to)| Op::Send(port, from, to)),
        1 => prop_oneof![0..8u64, 8..400u64].prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_reference(ops in vec(op(), 1..80)) {
        let setup = Setup {
            guests: GUESTS,
            bridges: BRIDGES,
            ..Setup::default()
        };
        let mut net = setup.build();
        let ports = (0..PORTS).map(|n| (PortId(n.into()), Station::Port(n).mac()));
        let bridges = (GUESTS..PORTS).map(|n| PortId(n.into()));
        let mut model = Model::new(GATEWAY, ports.collect(), bridges.collect());
        for op in ops {
            let (port, src, to) = match op {
                Op::Wait(seconds) => {
                    net.run_for(Duration::from_secs(seconds));
                    continue;
                }
                Op::Send(port, src, to) => (PortId(port.into()), src.mac(), to.mac()),
            };
            let frame = Link { src, dst: to }.frame(EXPERIMENT, &[7; 60]);
            net.host.frames.clear();
            let verdict = net.hand_in(port, &(VnetHdr::default(), frame.clone()));
            let seconds = u32::try_from(net.now().as_nanos() / 1_000_000_000).unwrap();
            let fate = model.frame(seconds, port, to, src);
            let mut reached: Vec<PortId> = Vec::new();
            for (to, _, sent) in net.host.frames.drain(..) {
                prop_assert_eq!(&sent, &frame, "changed on its way");
                reached.push(to);
            }
            reached.sort_unstable();
            let what = match verdict {
                Verdict::Drop(reason) => Fate::Drop(reason),
                Verdict::Forward(_) | Verdict::Flood | Verdict::Answer | Verdict::Translate => {
                    Fate::Reach(reached)
                }
            };
            prop_assert_eq!(what, fate);
        }
    }
}
