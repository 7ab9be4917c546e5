//! `[7]` Blocks and ranges of addresses: what a peer may announce, and what a host hands out from.

use core::fmt;
use core::net::IpAddr;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    bits: u8,
}

impl Prefix {
    /// Checks that the length is one of the family's and that no bit is set behind it.
    #[must_use]
    pub fn new(addr: IpAddr, bits: u8) -> Option<Self> {
        let width = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = Self { addr, bits };
        (bits <= width && prefix.masked(addr) == addr).then_some(prefix)
    }

    /// The block of this length that an address is in; none for a length that the family does not have.
    #[must_use]
    pub fn around(addr: IpAddr, bits: u8) -> Option<Self> {
        Self::new(Self { addr, bits }.masked(addr), bits)
    }

    /// The first address.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// Bits that all addresses of the block share.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// True for an address of the block.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && self.masked(addr) == self.addr
    }

    /// True if every address of the range is in the block.
    #[must_use]
    pub fn covers(self, range: Range) -> bool {
        self.contains(range.first) && self.contains(range.last)
    }

    fn masked(self, addr: IpAddr) -> IpAddr {
        let keep = u32::from(self.bits);
        match addr {
            IpAddr::V4(a) => {
                let mask = !u32::MAX.checked_shr(keep).unwrap_or(0);
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = !u128::MAX.checked_shr(keep).unwrap_or(0);
                IpAddr::V6((a.to_bits() & mask).into())
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

/// Addresses from a first to a last one, both counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// Checks that both are of one family and in order.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let one = first.is_ipv4() == last.is_ipv4();
        (one && first <= last).then_some(Self { first, last })
    }

    /// The first address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The last address.
    #[must_use]
    pub const fn last(self) -> IpAddr {
        self.last
    }

    /// True for an address of the range. IPv4 sorts before IPv6, so families do not mix.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// True if an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}
