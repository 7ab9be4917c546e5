//! `[7]` The record that says which groups of a network a host wants.

use core::net::IpAddr;

use super::record::{GROUPS, head};
use super::{ANNOUNCE_HEADER, MAX_ANNOUNCE, Reader};
use crate::addr::Vni;
use crate::l2::snoop::{Family, Group, Wants};

/// Bytes of the body before the groups.
const HEAD: usize = 5;
/// Bytes of the groups, so that the record fits one message.
const MOST: usize = MAX_ANNOUNCE - ANNOUNCE_HEADER - 3 - HEAD;
/// Set in a VLAN: the address is one of IPv6.
const V6: u16 = 1 << 15;
/// Of a number in a tag; none has more bits.
const VID: u16 = 0x0fff;

const fn len(family: Family) -> usize {
    match family {
        Family::V4 => 2 + 4,
        Family::V6 => 2 + 16,
    }
}

const fn bit(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// What fits one record: of a family with too many groups all is wanted.
fn fitted(wants: &Wants) -> Wants {
    let mut wants = wants.clone();
    let bytes = |wants: &Wants, family| {
        let of = wants.groups().iter().filter(|(_, g)| g.family() == family);
        of.count() * len(family)
    };
    loop {
        let [v4, v6] = Family::ALL.map(|family| bytes(&wants, family));
        if v4 + v6 <= MOST {
            return wants;
        }
        wants = wants.with_all(if v6 > v4 { Family::V6 } else { Family::V4 });
    }
}

/// The record that says what of a network's multicast a host wants. Of a family with more groups than one message
/// holds, all.
#[must_use]
pub fn groups(vni: Vni, wants: &Wants) -> Box<[u8]> {
    let wants = fitted(wants);
    let bytes = wants.groups().iter().map(|(_, g)| len(g.family()));
    let body = HEAD + bytes.sum::<usize>();
    let mut out = Vec::with_capacity(3 + body);
    head(&mut out, GROUPS, body);
    out.extend_from_slice(&vni.get().to_le_bytes());
    let only = Family::ALL.into_iter().filter(|&f| !wants.is_all(f));
    out.push(only.fold(0, |bits, family| bits | bit(family)));
    for (vlan, group) in wants.groups() {
        match group.address() {
            IpAddr::V4(a) => {
                out.extend_from_slice(&(vlan & VID).to_le_bytes());
                out.extend_from_slice(&a.octets());
            }
            IpAddr::V6(a) => {
                out.extend_from_slice(&(vlan & VID | V6).to_le_bytes());
                out.extend_from_slice(&a.octets());
            }
        }
    }
    out.into()
}

/// Reads the body. None: it breaks off, or names what is no group.
pub(super) fn read_groups(reader: &mut Reader<'_>) -> Option<(Vni, Wants)> {
    let vni = Vni::new(reader.u32()?)?;
    let families = reader.u8()?;
    let only = Family::ALL.map(|family| families & bit(family) != 0);
    let mut groups = Vec::new();
    while !reader.0.is_empty() {
        let vlan = reader.u16()?;
        let address = if vlan & V6 == 0 {
            IpAddr::from(reader.array::<4>()?)
        } else {
            IpAddr::from(reader.array::<16>()?)
        };
        groups.push((vlan & VID, Group::of(address)?));
    }
    Some((vni, Wants::new(only, groups)))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Record, Records};
    use super::*;

    fn vni() -> Vni {
        Vni::new(9).unwrap()
    }

    fn group(text: &str) -> Group {
        Group::of(text.parse().unwrap()).unwrap()
    }

    fn back(bytes: &[u8]) -> Option<Record<'_>> {
        Records::check(bytes)?.next()
    }

    #[test]
    fn what_is_wanted_has_these_bytes() {
        let wants = Wants::new(
            [true, true],
            [(0, group("239.1.2.3")), (5, group("ff15::1"))],
        );
        let bytes = groups(vni(), &wants);
        let plain = [
            &[
                6, 29, 0, 9, 0, 0, 0, 3, 0, 0, 239, 1, 2, 3, 5, 0x80, 0xff, 0x15,
            ][..],
            &[0; 13],
            &[1],
        ]
        .concat();
        assert_eq!(*bytes, *plain);
        assert_eq!(back(&bytes), Some(Record::Groups(vni(), wants)));
        let all = groups(vni(), &Wants::default());
        assert_eq!(*all, [6, 5, 0, 9, 0, 0, 0, 0]);
        assert_eq!(back(&all), Some(Record::Groups(vni(), Wants::default())));
    }

    #[test]
    fn of_too_many_all_are_wanted() {
        let v4 = |n: u32| {
            let [a, b, ..] = n.to_le_bytes();
            (0, group(&format!("239.1.{a}.{b}")))
        };
        let v6 = |n: u32| (0, group(&format!("ff15::{n:x}")));
        for (count4, count6, all) in [
            (190, 1, [false, false]),
            (190, 3, [true, false]),
            (10, 70, [false, true]),
            (300, 90, [true, true]),
        ] {
            let named = (0..count4).map(v4).chain((0..count6).map(v6));
            let bytes = groups(vni(), &Wants::new([true, true], named));
            assert!(bytes.len() <= MAX_ANNOUNCE - ANNOUNCE_HEADER);
            let Some(Record::Groups(_, wants)) = back(&bytes) else {
                panic!("{count4} and {count6}");
            };
            let told = Family::ALL.map(|family| wants.is_all(family));
            assert_eq!(told, all, "{count4} and {count6}");
        }
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let good = groups(vni(), &Wants::new([true, true], [(0, group("239.1.2.3"))]));
        for (at, byte) in [(10, 10), (10, 224), (9, 0x80), (6, 1)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            if at == 10 && byte == 224 {
                bytes[11..13].fill(0);
            }
            assert_eq!(back(&bytes), None, "byte {at} is {byte}");
        }
    }
}
