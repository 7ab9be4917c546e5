//! Endpoints that are not read for a while, because all that they send is thrown away.

use switch_core::addr::PortId;
use switch_core::time::Tick;

use super::Board;
use crate::worker::budget::REST;

/// Those that rest, the first to come back first.
#[derive(Debug, Default)]
pub(super) struct Resting(Vec<(Tick, PortId)>);

impl Resting {
    /// When the first comes back.
    pub(super) fn until(&self) -> Option<Tick> {
        self.0.first().map(|&(until, _)| until)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An endpoint is gone.
    pub(super) fn forget(&mut self, port: PortId) {
        self.0.retain(|&(_, resting)| resting != port);
    }
}

impl Board {
    /// Leaves an endpoint alone for a while, and says whether it could. It is marked as one that stands in the line, and
    /// is not polled, so that what it sends wakes nobody.
    pub(super) fn rest(&mut self, now: Tick, port: PortId) -> bool {
        let rests = self.io.ignore(port);
        if rests {
            if let Some(link) = self.io.links.get_mut(port) {
                link.ready = true;
            }
            // All rest for as long, so the list is in order.
            self.resting.0.push((now + REST, port));
        }
        rests
    }

    /// Puts those back into the line whose rest is over.
    pub(in crate::worker) fn wake_rested(&mut self, now: Tick) {
        while self.resting.until().is_some_and(|until| until <= now) {
            let (_, port) = self.resting.0.remove(0);
            if self.io.heed(port).is_ok() {
                self.ready.push_back(port);
            } else {
                // Read without being polled, it would be asleep for ever once it is empty.
                self.resting.0.push((now + REST, port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;
    use std::time::Duration;

    use mio::{Events, Poll};
    use switch_core::l2::table::MacTable;
    use switch_core::pipeline::Switch;
    use switch_core::testing::setup::Setup;
    use switch_core::wire::vnet_hdr::VnetHdr;

    use super::*;
    use crate::endpoint::Endpoint;
    use crate::endpoint::memory::{self, MemoryEndpoint};
    use crate::host::sockets::HostIo;
    use crate::host::sockets::links::Link;

    const PORT: PortId = PortId(0);
    const TURN: u64 = 64;

    /// A board with one endpoint, and the sandbox's end of its wire.
    fn board(poll: &Poll) -> (Board, MemoryEndpoint) {
        let setup = Setup::default();
        let table = Arc::new(MacTable::new(16));
        let switch = Switch::new(Tick::ZERO, setup.config(), table);
        let (near, far) = memory::pair(1024).unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let io = HostIo::new(registry, vec![Box::new(near)], Arc::default(), [None, None]);
        let mut board = Board::new(io, Some(switch));
        board.begin().unwrap();
        turn(&mut board, Tick::ZERO);
        (board, far)
    }

    /// Sends frames that are too short to be any.
    fn flood(far: &mut MemoryEndpoint, frames: u64) {
        for _ in 0..frames {
            far.tx(&VnetHdr::default(), &[IoSlice::new(&[0; 10])])
                .unwrap();
        }
    }

    /// A turn of the worker's. Gives how many frames it read.
    fn turn(board: &mut Board, now: Tick) -> u64 {
        let before = board.counts().0;
        let mut lost = Vec::new();
        board.wake_rested(now);
        board.run_endpoints(now, &mut lost);
        board.end_batch(now);
        assert!(lost.is_empty(), "{lost:?}");
        board.counts().0 - before
    }

    /// Whether the endpoint has an event.
    fn heard(poll: &mut Poll, board: &mut Board) -> bool {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        let heard = !events.is_empty();
        if heard {
            board.wake(PORT);
        }
        heard
    }

    #[test]
    fn who_sends_nothing_but_waste_is_read_once_a_while() {
        let mut poll = Poll::new().unwrap();
        let (mut board, mut far) = board(&poll);
        let mut now = Tick::ZERO;
        flood(&mut far, 3 * TURN + 5);
        assert!(heard(&mut poll, &mut board));
        for _ in 0..3 {
            assert_eq!(turn(&mut board, now), TURN);
            flood(&mut far, 1);
            assert!(!heard(&mut poll, &mut board), "it is not polled");
            assert!(!board.is_busy() && !board.is_passed_on());
            assert_eq!(board.deadline().map(|at| at.since(now)), Some(REST));
            assert_eq!(turn(&mut board, now + REST / 2), 0);
            now = now + REST;
        }
        assert_eq!(turn(&mut board, now), 5 + 3, "the rest of it");
        assert!(board.is_passed_on());
        flood(&mut far, 1);
        assert!(heard(&mut poll, &mut board), "it is polled again");
        assert_eq!(turn(&mut board, now), 1);
    }

    #[test]
    fn one_that_goes_while_it_rests_leaves_no_trace() {
        let mut poll = Poll::new().unwrap();
        let (mut board, mut far) = board(&poll);
        flood(&mut far, TURN + 1);
        assert!(heard(&mut poll, &mut board));
        assert_eq!(turn(&mut board, Tick::ZERO), TURN);
        assert!(board.detach(PORT).is_some());
        assert!(board.is_passed_on());
        let (near, mut far) = memory::pair(1024).unwrap();
        board
            .attach(PORT, Link::new(Box::new(near), 0, true))
            .unwrap();
        flood(&mut far, 1);
        assert!(heard(&mut poll, &mut board));
        assert_eq!(turn(&mut board, Tick::ZERO + REST), 1);
        assert!(!board.is_busy());
    }

    #[test]
    fn who_sends_what_is_taken_is_read_on() {
        let mut poll = Poll::new().unwrap();
        let (mut board, mut far) = board(&poll);
        let mac = Setup::addresses(0).mac;
        // To another station: nobody knows it, so all hear it, who are none.
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame[6..12].copy_from_slice(&mac.0);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        for _ in 0..2 * TURN {
            far.tx(&VnetHdr::default(), &[IoSlice::new(&frame)])
                .unwrap();
        }
        assert!(heard(&mut poll, &mut board));
        assert_eq!(turn(&mut board, Tick::ZERO), TURN);
        assert!(board.is_busy(), "{:?}", board.net(0));
        assert_eq!(turn(&mut board, Tick::ZERO), TURN);
    }
}
