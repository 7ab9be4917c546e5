//! `[7]` What an announcement is made of: endpoints and networks that are there or gone, and the name of the host.
//!
//! A service of a host is an endpoint too: its MAC is its own (`nat::service::station`), its addresses are the virtual ones.
//!
//! A record has a kind (u8), the length of its body (u16), and the body. A kind that is not known is skipped.
//!
//! | kind | record | body |
//! |---|---|---|
//! | 1 | endpoint | VNI u32, MAC 6, addresses u8 (low half: how many IPv4, high half: IPv6), names u8, the IPv4 addresses, the IPv6 addresses, the names |
//! | 2 | endpoint gone | VNI u32, MAC 6 |
//! | 3 | network | VNI u32, ranges u8 (halves as above), name, IPv4 ranges, IPv6 ranges |
//! | 4 | network gone | VNI u32 |
//! | 5 | host | name |
//! | 6 | groups | VNI u32, families u8 (bit 0: of IPv4 only the groups that follow are wanted, bit 1: of IPv6), the groups |
//!
//! A name is its length (u8) and so many bytes of lower-case ASCII; the first of an endpoint's is its own, the others
//! are aliases. A range is its first and its last address. A group is its VLAN (u16, 0 for none, bit 15 set for IPv6) and
//! its address; one whose family is not among those is ignored. A host that tells no groups of a network wants all.

use core::net::IpAddr;

use arrayvec::ArrayVec;

use super::Reader;
use super::groups::{groups, read_groups};
use super::prefix::Range;
use crate::addr::{Mac, Vni};
use crate::l2::snoop::Wants;

/// Addresses of one endpoint.
pub const MAX_ADDRS: usize = 4;
/// Names of one endpoint, its own among them.
pub const MAX_NAMES: usize = 8;
/// Bytes of all names of one endpoint, the lengths counted.
pub const MAX_NAME_BYTES: usize = 512;
/// Ranges of one network that one host hands out from.
pub const MAX_RANGES: usize = 4;

const ENDPOINT: u8 = 1;
const GONE: u8 = 2;
const NETWORK: u8 = 3;
const NETWORK_GONE: u8 = 4;
const HOST: u8 = 5;
pub(super) const GROUPS: u8 = 6;

/// Bytes before an endpoint's addresses.
const ENDPOINT_HEAD: usize = 12;

/// An endpoint as its host announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Its network.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses; IPv4 stands first once it was announced.
    pub addrs: ArrayVec<IpAddr, MAX_ADDRS>,
    /// Its own name and then its aliases, in lower case; none for an endpoint that only has addresses.
    pub names: Box<[Box<str>]>,
}

/// A network as a host is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Which one.
    pub vni: Vni,
    /// What the host calls it.
    pub name: Box<str>,
    /// Where the host hands out addresses from.
    pub ranges: ArrayVec<Range, MAX_RANGES>,
}

/// Why something cannot be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A group address, or none.
    #[error("{0} is no MAC that an endpoint may have")]
    Mac(Mac),
    /// Unspecified, loopback or multicast, or given twice.
    #[error("{0} is no address that an endpoint may have, or is given twice")]
    Addr(IpAddr),
    /// Not lower-case letters, digits, hyphens, underscores and dots, or too long.
    #[error(
        "a name has lower-case letters, digits, hyphens and underscores, at most 63 between two dots and 253 in all"
    )]
    Name,
    /// More names than are announced.
    #[error("more than {MAX_NAMES} names, or {MAX_NAME_BYTES} bytes of names")]
    Names,
}

/// True for a name that may be announced. Source: RFC 1123 section 2.1, and underscores, which stand in many names
/// of containers.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(inner)
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn is_host(addr: IpAddr) -> bool {
    let plain = !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast();
    plain
        && match addr {
            IpAddr::V4(a) => !a.is_broadcast(),
            IpAddr::V6(a) => a.to_ipv4_mapped().is_none(),
        }
}

/// Every address may be an endpoint's, and none stands twice.
fn bad_addr(mut addrs: impl Iterator<Item = IpAddr> + Clone) -> Option<IpAddr> {
    while let Some(addr) = addrs.next() {
        if !is_host(addr) || addrs.clone().any(|other| other == addr) {
            return Some(addr);
        }
    }
    None
}

pub(super) fn head(out: &mut Vec<u8>, kind: u8, body: usize) {
    out.push(kind);
    out.extend_from_slice(&u16::try_from(body).unwrap_or(u16::MAX).to_le_bytes());
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name.as_bytes());
}

fn read_name<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let len = reader.u8()?;
    let name = core::str::from_utf8(reader.take(usize::from(len))?).ok()?;
    is_name(name).then_some(name)
}

/// How many there are of each family, in the halves of a byte.
fn halves(addrs: impl Iterator<Item = IpAddr>) -> u8 {
    addrs.fold(0, |n, a| n + if a.is_ipv4() { 1 } else { 16 })
}

fn put_addr(out: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

impl Announced {
    /// The record that announces it. Errors: see [`RecordError`].
    pub fn record(&self) -> Result<Box<[u8]>, RecordError> {
        if !self.mac.is_station() {
            return Err(RecordError::Mac(self.mac));
        }
        if let Some(addr) = bad_addr(self.addrs.iter().copied()) {
            return Err(RecordError::Addr(addr));
        }
        let bytes: usize = self.names.iter().map(|n| n.len() + 1).sum();
        if self.names.len() > MAX_NAMES || bytes > MAX_NAME_BYTES {
            return Err(RecordError::Names);
        }
        if !self.names.iter().all(|n| is_name(n)) {
            return Err(RecordError::Name);
        }
        let v6s = self.addrs.iter().filter(|a| a.is_ipv6());
        let v4s = self.addrs.iter().filter(|a| a.is_ipv4());
        let len = ENDPOINT_HEAD + 4 * v4s.clone().count() + 16 * v6s.clone().count() + bytes;
        let mut out = Vec::with_capacity(3 + len);
        head(&mut out, ENDPOINT, len);
        out.extend_from_slice(&self.vni.get().to_le_bytes());
        out.extend_from_slice(&self.mac.0);
        out.push(halves(self.addrs.iter().copied()));
        out.push(u8::try_from(self.names.len()).unwrap_or(u8::MAX));
        for &addr in v4s.chain(v6s) {
            put_addr(&mut out, addr);
        }
        for name in &self.names {
            put_name(&mut out, name);
        }
        Ok(out.into())
    }
}

/// The record that takes an endpoint back.
#[must_use]
pub fn gone(vni: Vni, mac: Mac) -> [u8; 13] {
    let mut out = [0; 13];
    let v = vni.get().to_le_bytes();
    let m = mac.0;
    let bytes = [
        GONE, 10, 0, v[0], v[1], v[2], v[3], m[0], m[1], m[2], m[3], m[4], m[5],
    ];
    out.copy_from_slice(&bytes);
    out
}

impl Network {
    /// The record that announces it. Errors: `Name`.
    pub fn record(&self) -> Result<Box<[u8]>, RecordError> {
        if !is_name(&self.name) {
            return Err(RecordError::Name);
        }
        let v6s = self.ranges.iter().filter(|r| r.first().is_ipv6());
        let v4s = self.ranges.iter().filter(|r| r.first().is_ipv4());
        let len = 6 + self.name.len() + 8 * v4s.clone().count() + 32 * v6s.clone().count();
        let mut out = Vec::with_capacity(3 + len);
        head(&mut out, NETWORK, len);
        out.extend_from_slice(&self.vni.get().to_le_bytes());
        out.push(halves(self.ranges.iter().map(|r| r.first())));
        put_name(&mut out, &self.name);
        for range in v4s.chain(v6s) {
            put_addr(&mut out, range.first());
            put_addr(&mut out, range.last());
        }
        Ok(out.into())
    }
}

/// The record that takes a network back.
#[must_use]
pub fn network_gone(vni: Vni) -> [u8; 7] {
    let v = vni.get().to_le_bytes();
    [NETWORK_GONE, 4, 0, v[0], v[1], v[2], v[3]]
}

/// The record that names the host. Errors: `Name`.
pub fn host(name: &str) -> Result<Box<[u8]>, RecordError> {
    if !is_name(name) {
        return Err(RecordError::Name);
    }
    let mut out = Vec::with_capacity(4 + name.len());
    head(&mut out, HOST, 1 + name.len());
    put_name(&mut out, name);
    Ok(out.into())
}

/// The body of an endpoint's record, checked. The table keeps it as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointView<'a>(&'a [u8]);

impl<'a> EndpointView<'a> {
    /// Checks a body. None: it breaks off, has bytes too many, or says what no endpoint may have.
    #[must_use]
    pub fn check(body: &'a [u8]) -> Option<Self> {
        let view = Self(body);
        let mut reader = Reader(body);
        Vni::new(reader.u32()?)?;
        let mac = Mac(reader.array()?);
        let (halves, names) = (reader.u8()?, reader.u8()?);
        let count = usize::from(halves & 15) + usize::from(halves >> 4);
        if !mac.is_station() || count > MAX_ADDRS || usize::from(names) > MAX_NAMES {
            return None;
        }
        reader.take(view.names_at() - ENDPOINT_HEAD)?;
        if reader.0.len() > MAX_NAME_BYTES {
            return None;
        }
        for _ in 0..names {
            read_name(&mut reader)?;
        }
        let whole = reader.0.is_empty() && bad_addr(view.addrs()).is_none();
        whole.then_some(view)
    }

    /// A body that was checked before.
    pub(in crate::tunnel) const fn checked(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The bytes, as they are kept.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its network.
    #[must_use]
    pub fn vni(self) -> Vni {
        // The fourth byte is zero in what was checked.
        let [a, b, c] = self.array(0);
        Vni::from_be_bytes([c, b, a])
    }

    /// Its MAC.
    #[must_use]
    pub fn mac(self) -> Mac {
        Mac(self.array(4))
    }

    /// Its addresses, IPv4 first.
    pub fn addrs(self) -> impl Iterator<Item = IpAddr> + Clone + use<'a> {
        let (v4, v6) = self.counts();
        let after = ENDPOINT_HEAD + 4 * v4;
        let v4s = (0..v4).map(move |n| IpAddr::from(self.array::<4>(ENDPOINT_HEAD + 4 * n)));
        let v6s = (0..v6).map(move |n| IpAddr::from(self.array::<16>(after + 16 * n)));
        v4s.chain(v6s)
    }

    /// Its own name and then its aliases.
    pub fn names(self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut reader = Reader(self.0.get(self.names_at()..).unwrap_or_default());
        core::iter::from_fn(move || read_name(&mut reader))
    }

    /// All that it says.
    #[must_use]
    pub fn to_owned(self) -> Announced {
        Announced {
            vni: self.vni(),
            mac: self.mac(),
            addrs: self.addrs().collect(),
            names: self.names().map(Into::into).collect(),
        }
    }

    fn counts(self) -> (usize, usize) {
        let [halves] = self.array(10);
        (usize::from(halves & 15), usize::from(halves >> 4))
    }

    fn names_at(self) -> usize {
        let (v4, v6) = self.counts();
        ENDPOINT_HEAD + 4 * v4 + 16 * v6
    }

    /// Zeros where the body is shorter, which a checked one is not.
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().unwrap_or([0; N])
    }
}

/// One thing that is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// An endpoint is there.
    Endpoint(EndpointView<'a>),
    /// An endpoint is gone.
    Gone(Vni, Mac),
    /// The host is on a network.
    Network(Network),
    /// The host is no longer on a network.
    NetworkGone(Vni),
    /// What the host is called.
    Host(&'a str),
    /// What of a network's multicast the host wants.
    Groups(Vni, Wants),
}

impl<'a> Record<'a> {
    fn read(kind: u8, body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let record = match kind {
            ENDPOINT => return EndpointView::check(body).map(Record::Endpoint),
            GONE => Record::Gone(Vni::new(reader.u32()?)?, Mac(reader.array()?)),
            NETWORK => Record::Network(network(&mut reader)?),
            NETWORK_GONE => Record::NetworkGone(Vni::new(reader.u32()?)?),
            HOST => Record::Host(read_name(&mut reader)?),
            GROUPS => {
                let (vni, wants) = read_groups(&mut reader)?;
                Record::Groups(vni, wants)
            }
            _ => return None,
        };
        reader.0.is_empty().then_some(record)
    }

    /// Appends the record.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Endpoint(view) => {
                head(out, ENDPOINT, view.0.len());
                out.extend_from_slice(view.0);
            }
            Self::Gone(vni, mac) => out.extend_from_slice(&gone(*vni, *mac)),
            // What was read has names that may be written.
            Self::Network(network) => out.extend(network.record().into_iter().flatten()),
            Self::NetworkGone(vni) => out.extend_from_slice(&network_gone(*vni)),
            Self::Host(name) => out.extend(host(name).into_iter().flatten()),
            Self::Groups(vni, wants) => out.extend_from_slice(&groups(*vni, wants)),
        }
    }
}

fn network(reader: &mut Reader<'_>) -> Option<Network> {
    let vni = Vni::new(reader.u32()?)?;
    let halves = reader.u8()?;
    let name = read_name(reader)?.into();
    let mut ranges = ArrayVec::new();
    for _ in 0..halves & 15 {
        let (first, last) = (reader.array::<4>()?, reader.array::<4>()?);
        ranges
            .try_push(Range::new(first.into(), last.into())?)
            .ok()?;
    }
    for _ in 0..halves >> 4 {
        let (first, last) = (reader.array::<16>()?, reader.array::<16>()?);
        ranges
            .try_push(Range::new(first.into(), last.into())?)
            .ok()?;
    }
    Some(Network { vni, name, ranges })
}

/// The records of an announcement, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<'a>(Reader<'a>);

impl<'a> Records<'a> {
    /// Checks each record. None: one breaks off or is malformed.
    #[must_use]
    pub fn check(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        while !reader.0.is_empty() {
            let (kind, body) = split(&mut reader)?;
            let known = (ENDPOINT..=GROUPS).contains(&kind);
            if known && Record::read(kind, body).is_none() {
                return None;
            }
        }
        Some(Self(Reader(bytes)))
    }

    /// The bytes, as they came.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0.0
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        loop {
            let (kind, body) = split(&mut self.0)?;
            if let Some(record) = Record::read(kind, body) {
                return Some(record);
            }
        }
    }
}

fn split<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let len = reader.u16()?;
    Some((kind, reader.take(usize::from(len))?))
}
