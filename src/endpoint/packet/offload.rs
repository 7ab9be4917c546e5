//! What a veth end may leave to whoever receives its frames: only what a virtio header can say.
//!
//! A veth driver has every offload there is, as it hands frames to another stack that has them too. A header has no
//! words for super-frames inside of tunnels, for those of SCTP, or for its checksum: with these the far end would get
//! frames that say too little, or none.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Caps;
use super::sys::{self, GET_SET_INFO, GET_STRINGS, ROOM, SET_FEATURES};

/// The set of strings that has the features' names. Source: linux/ethtool.h.
const FEATURES: u32 = 4;
/// Words of a name.
const NAME: usize = 8;

/// Ways of sending that stay with the stack, by the beginnings of their names.
const PLAIN: [&str; 10] = [
    "tx-gre",
    "tx-ipxip",
    "tx-udp_tnl",
    "tx-sctp",
    "tx-esp",
    "tx-fcoe",
    "tx-gso-",
    "tx-tunnel",
    "tx-checksum-sctp",
    "tx-checksum-fcoe",
];
/// UDP super-frames.
const UDP: &str = "tx-udp-segmentation";

/// Tells whether a feature is one that a header has no words for.
fn is_unspeakable(name: &str, caps: Caps) -> bool {
    PLAIN.iter().any(|one| name.starts_with(one)) || (name == UDP && !caps.uso)
}

/// Has the stack behind the interface `name` do itself what a packet socket with these abilities cannot be told of.
/// Errors: the kernel's.
pub fn plain_offloads(name: &str, caps: Caps) -> io::Result<()> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let names = features(&fd, name)?;
    // The command, the number of blocks, and of each block what is set, and to what.
    let mut request = [0; ROOM];
    request[0] = SET_FEATURES;
    request[1] = u32::try_from(names.len().div_ceil(32)).map_err(io::Error::other)?;
    for (at, feature) in names.iter().enumerate() {
        if is_unspeakable(feature, caps) {
            request[2 + 2 * (at / 32)] |= 1 << (at % 32);
        }
    }
    sys::ethtool(&fd, name, &mut request)
}

/// The names of the features, each at its number.
fn features(fd: &OwnedFd, name: &str) -> io::Result<Vec<String>> {
    // The command, nothing, a mask of 64 bits, and room for one answer.
    let mut request = [0; ROOM];
    request[0] = GET_SET_INFO;
    let mask = (1_u64 << FEATURES).to_ne_bytes();
    for (word, bytes) in request[2..4].iter_mut().zip(mask.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    sys::ethtool(fd, name, &mut request)?;
    let count = request[4];
    request[..3].copy_from_slice(&[GET_STRINGS, FEATURES, count]);
    sys::ethtool(fd, name, &mut request)?;
    let name_of = |words: &[u32]| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        let text: Vec<u8> = bytes.take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&text).into_owned()
    };
    let names = request[3..].chunks_exact(NAME).map(name_of);
    Ok(names.take(count as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_cut_by_the_stack_and_plain_runs_are_not() {
        let caps = Caps {
            csum: true,
            tso: true,
            uso: true,
        };
        for name in [
            "tx-udp_tnl-segmentation",
            "tx-gre-csum-segmentation",
            "tx-checksum-sctp",
        ] {
            assert!(is_unspeakable(name, caps), "{name}");
        }
        for name in [
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "tx-tcp-ecn-segmentation",
        ] {
            assert!(!is_unspeakable(name, caps), "{name}");
        }
        for (uso, refused) in [(true, false), (false, true)] {
            let caps = Caps { uso, ..caps };
            assert_eq!(is_unspeakable(UDP, caps), refused);
        }
        assert!(!is_unspeakable("tx-checksum-ip-generic", caps));
    }

    #[test]
    fn features_have_names() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None).unwrap();
        let names = features(&fd, "lo").unwrap();
        assert!(names.iter().any(|name| name == UDP), "{names:?}");
        let error = features(&fd, "nothing0").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
