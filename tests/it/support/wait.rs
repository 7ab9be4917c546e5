//! Waiting for a condition, with a deadline. The only place of the tests that sleeps.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for anything that should happen at once, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// Asks until `condition` gives a value; fails, naming `what`, when `within` has passed.
#[track_caller]
pub(crate) fn value<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(PAUSE);
    }
}

/// Asks until `condition` holds; fails, naming `what`, when `within` has passed.
#[track_caller]
pub(crate) fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    value(what, within, || condition().then_some(()));
}

/// Asks until what is found is `wanted`; fails, showing both, when `within` has passed.
#[track_caller]
pub(crate) fn settled<T: PartialEq + std::fmt::Debug>(
    what: &str,
    wanted: &T,
    within: Duration,
    mut found: impl FnMut() -> T,
) {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline && found() != *wanted {
        sleep(PAUSE);
    }
    assert_eq!(found(), *wanted, "{what}");
}

/// Watches that `condition` holds for the whole of `span`.
#[track_caller]
pub(crate) fn holds(what: &str, span: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + span;
    while Instant::now() < deadline {
        assert!(condition(), "did not hold for {span:?}: {what}");
        sleep(PAUSE);
    }
}
