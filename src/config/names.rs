//! Names that the kernel or DNS will be given: hosts, domains, interfaces.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

/// Longest host name that the kernel takes. Source: linux/utsname.h.
const HOST_NAME_MAX: usize = 64;
/// Longest interface name. Source: IFNAMSIZ of linux/if.h, less its NUL.
const IF_NAME_MAX: usize = 15;

/// Checks a host name. Errors: says what is wrong. Source: RFC 1123 section 2.1.
pub fn host(option: &str, name: &str) -> Result<String> {
    ensure!(
        name.len() <= HOST_NAME_MAX,
        "{option} '{name}': longer than {HOST_NAME_MAX} bytes"
    );
    domain(option, name)
}

/// Checks a domain name and takes its final dot off. Errors: says what is wrong. Source: RFC 1035 section 2.3.4.
pub fn domain(option: &str, name: &str) -> Result<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    ensure!(
        bare.len() <= 253,
        "{option} '{name}': longer than 253 bytes"
    );
    let label = |l: &str| {
        // Underscores stand in many names of containers, and no resolver minds.
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(inner)
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    ensure!(
        bare.split('.').all(label),
        "{option} '{name}': a name has letters, digits and hyphens, at most 63 between two dots"
    );
    Ok(bare.to_owned())
}

/// Checks an interface's name. Errors: says what is wrong. Source: `dev_valid_name` of net/core/dev.c.
pub fn interface(name: &str) -> Result<String> {
    ensure!(
        !name.is_empty() && name.len() <= IF_NAME_MAX,
        "--ifname '{name}': an interface's name has 1 to {IF_NAME_MAX} bytes"
    );
    let bad = |b: u8| matches!(b, b'/' | b':' | b'%') || !b.is_ascii_graphic();
    ensure!(
        !name.bytes().any(bad) && name != "." && name != "..",
        "--ifname '{name}': '/', ':', '%', blanks and the names '.' and '..' cannot be used"
    );
    ensure!(name != "lo", "--ifname 'lo': that is the loopback's name");
    Ok(name.to_owned())
}

/// What an `--add-host` points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTarget {
    /// An address.
    Addr(IpAddr),
    /// The gateway, in both families; Docker's word for it is `host-gateway`.
    Gateway,
}

/// Splits `NAME:ADDR`. Errors: names the text.
pub fn add_host(text: &str) -> Result<(String, HostTarget)> {
    let (name, addr) = text
        .split_once([':', '='])
        .with_context(|| format!("--add-host '{text}': the form is NAME:ADDR"))?;
    let name = domain("--add-host", name)?;
    if matches!(addr, "gateway" | "host-gateway") {
        return Ok((name, HostTarget::Gateway));
    }
    let bare = addr
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(addr);
    let addr: IpAddr = bare
        .parse()
        .ok()
        .with_context(|| format!("--add-host '{text}': '{addr}' is not an address"))?;
    Ok((name, HostTarget::Addr(addr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["a", "web-1", "web_1", "a.example.", &"a".repeat(63)] {
            assert!(host("--hostname", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "-a",
            "a-",
            "a..b",
            "a b",
            "é",
            "a/b",
            &"a".repeat(64),
            &"a.".repeat(40),
        ] {
            assert!(host("--hostname", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interfaces() {
        for good in ["eth0", "a", "fifteen-bytes-1", "wl.7"] {
            assert!(interface(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "lo",
            ".",
            "..",
            "a/b",
            "a:1",
            "a b",
            "eth%d",
            "sixteen-bytes-12",
            "é",
        ] {
            assert!(interface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_with_addresses() {
        let addr = |s: &str| HostTarget::Addr(s.parse().unwrap());
        assert_eq!(
            add_host("db:10.0.0.1").unwrap(),
            ("db".into(), addr("10.0.0.1"))
        );
        assert_eq!(
            add_host("db:2001:db8::1").unwrap(),
            ("db".into(), addr("2001:db8::1"))
        );
        assert_eq!(
            add_host("db=[2001:db8::1]").unwrap(),
            ("db".into(), addr("2001:db8::1"))
        );
        assert_eq!(
            add_host("h:host-gateway").unwrap(),
            ("h".into(), HostTarget::Gateway)
        );
        for bad in ["db", "db:", ":10.0.0.1", "db:ten", "d b:10.0.0.1"] {
            assert!(add_host(bad).is_err(), "{bad}");
        }
    }
}
