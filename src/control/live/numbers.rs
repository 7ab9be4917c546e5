//! Places on the boards: a number that is given back rests as long as can be, so that what still means the one who
//! had it does not meet another.

use std::collections::VecDeque;

use crate::control::plane::PlaneError;

/// How many numbers rest before one is given out again.
const REST: usize = 256;

/// Numbers from 0 up to a limit.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
    limit: u32,
    free: VecDeque<u32>,
}

impl Numbers {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            next: 0,
            limit,
            free: VecDeque::new(),
        }
    }

    /// A number that nobody has. Errors: `Full` when all are given out; `what` are they.
    pub(super) fn take(&mut self, what: &'static str) -> Result<u32, PlaneError> {
        if self.next < self.limit && self.free.len() < REST {
            self.next += 1;
            return Ok(self.next - 1);
        }
        let limit = self.limit.into();
        let full = PlaneError::Full { what, limit };
        self.free.pop_front().ok_or(full)
    }

    pub(super) fn give_back(&mut self, number: u32) {
        self.free.push_back(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_given_out_again() {
        let mut numbers = Numbers::new(1000);
        let first = numbers.take("things").unwrap();
        numbers.give_back(first);
        for _ in 1..REST {
            let other = numbers.take("things").unwrap();
            assert_ne!(other, first);
            numbers.give_back(other);
        }
        assert_eq!(
            numbers.take("things"),
            Ok(first),
            "the one that rested longest"
        );
    }

    #[test]
    fn none_is_given_out_twice_and_all_are() {
        let mut numbers = Numbers::new(3);
        let all: Vec<_> = std::iter::from_fn(|| numbers.take("things").ok()).collect();
        assert_eq!(all, [0, 1, 2]);
        numbers.give_back(1);
        assert_eq!(numbers.take("things"), Ok(1));
        assert!(numbers.take("things").is_err());
    }
}
