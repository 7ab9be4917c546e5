//! What becomes of sessions: new keys, restarts, sleep and clocks that leap.

use std::time::Duration;

use super::world::{Link, WALL, World, addr};

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Option<Duration> = Some(Duration::from_secs(25));

/// A host that is started again, with its clock right, an hour ahead or an hour behind, is back within a second.
#[test]
fn a_host_that_restarts_is_back_at_once() {
    const HOUR: u64 = 3_600_000_000_000;
    for (case, wall) in [WALL + 60_000_000_000, WALL + HOUR, WALL - HOUR]
        .into_iter()
        .enumerate()
    {
        let mut world = World::mesh(2, Link::GOOD, case as u64);
        world.run(60 * SECOND);
        assert!(world.joined(0, 1));
        world.restart(1, wall);
        world.run(SECOND);
        world.introduce(1, 0, Some(addr(0)), KEEP);
        let took = world.resume(0, 1, 20 * SECOND).unwrap();
        assert!(took < SECOND, "{took:?} in case {case}");
    }
}
