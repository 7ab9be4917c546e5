//! Who had the addresses of a network before, so that neighbours which remember that can be told who has them now.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use switch_core::addr::Mac;

/// Addresses that are remembered; of more, the one that was left longest ago is forgotten.
const MOST: usize = 4_096;

/// Addresses that nobody has now, and the MAC of who had each last.
#[derive(Debug, Default)]
pub(super) struct Left {
    macs: BTreeMap<IpAddr, Mac>,
    order: VecDeque<IpAddr>,
}

impl Left {
    /// An address is nobody's any more.
    pub(super) fn note(&mut self, addr: IpAddr, mac: Mac) {
        if self.macs.insert(addr, mac).is_some() {
            self.order.retain(|known| *known != addr);
        }
        self.order.push_back(addr);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.macs.remove(&oldest);
        }
    }

    /// An address is somebody's again. True if another MAC had it before.
    pub(super) fn take(&mut self, addr: IpAddr, mac: Mac) -> bool {
        let before = self.macs.remove(&addr);
        if before.is_some() {
            self.order.retain(|known| *known != addr);
        }
        before.is_some_and(|before| before != mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_mac_is_told_from_the_same_one_and_once() {
        let mut left = Left::default();
        let addr = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
        let [one, two] = [1, 2].map(|n| Mac([2, 0, 0, 0, 0, n]));
        assert!(!left.take(addr(1), one), "nobody had it");
        left.note(addr(1), one);
        assert!(!left.take(addr(1), one));
        left.note(addr(1), one);
        assert!(left.take(addr(1), two) && !left.take(addr(1), one));
        let most = u32::try_from(MOST).unwrap();
        for n in 0..=most {
            left.note(addr(n), one);
            left.note(addr(n), two);
        }
        assert_eq!((left.macs.len(), left.order.len()), (MOST, MOST));
        assert!(!left.take(addr(0), one), "the oldest is forgotten");
        assert!(left.take(addr(1), one) && left.take(addr(most), one));
    }
}
