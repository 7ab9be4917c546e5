//! Looking once more before sleeping: on a virtual machine a wake-up costs tens of microseconds, on both sides, so
//! between the steps of a dense conversation a worker polls a little while before it blocks. It yields the processor
//! between two looks, and does none of it once the gaps are longer than what it would spin.

use std::time::Duration;

/// The longest gap worth spinning over: what a wake-up costs here.
const MOST: Duration = Duration::from_micros(50);
/// Where it begins, once gaps become short.
const FIRST: Duration = Duration::from_micros(10);

/// How long to look before blocking, learnt from how long the last waits were.
#[derive(Debug)]
pub struct Spin {
    window: Duration,
    most: Duration,
}

impl Spin {
    /// `cores` that this process may run on: with one, spinning only keeps away whom it waits for.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            window: Duration::ZERO,
            most: if cores > 1 { MOST } else { Duration::ZERO },
        }
    }

    /// How long to look before the next wait.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Takes in how long a wait was in all. A short one widens the window, a long one halves it, two or three end it.
    pub fn waited(&mut self, time: Duration) {
        self.window = if time <= self.most {
            (self.window * 2).clamp(FIRST, MOST).min(self.most)
        } else if self.window > FIRST {
            self.window / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn short_waits_widen_the_window_up_to_its_bound() {
        let mut spin = Spin::new(2);
        assert_eq!(spin.window(), Duration::ZERO);
        for _ in 0..10 {
            spin.waited(SHORT);
        }
        assert_eq!(spin.window(), MOST);
    }

    #[test]
    fn a_few_long_waits_end_it() {
        let mut spin = Spin::new(2);
        for _ in 0..10 {
            spin.waited(SHORT);
        }
        for _ in 0..4 {
            assert!(spin.window() > Duration::ZERO);
            spin.waited(LONG);
        }
        assert_eq!(spin.window(), Duration::ZERO);
    }

    #[test]
    fn never_on_one_core() {
        let mut spin = Spin::new(1);
        spin.waited(Duration::ZERO);
        spin.waited(SHORT);
        assert_eq!(spin.window(), Duration::ZERO);
    }
}
