//! The files of a sandbox: /proc and /sys of its own, and an /etc that names the switch as its resolver.
//!
//! Runs in PID 1, in a mount namespace of its own. /etc is an overlay: a file bind-mounted over resolv.conf would vanish
//! when the host renames its own, and one in the overlay's upper layer does not.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::broker_proto::{Network, SandboxSpec};
use super::sys;

const NONE: Option<&str> = None;

/// Services of the host that would answer names past the switch.
const RESOLVER_SOCKETS: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];

/// Cuts the mount namespace off from the host: what is mounted here is not seen there.
pub(super) fn make_private() -> nix::Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
}

/// Mounts /proc of the PID namespace of the calling process.
pub(super) fn mount_proc() -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE)
}

/// Makes the files of the sandbox, as far as this machine lets it. Gives a warning for each part refused.
pub(super) fn prepare(spec: &SandboxSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.network == Network::Host {
        return warnings;
    }
    if let Err(error) = mount_sys() {
        tracing::debug!(%error, "/sys is the host's");
    }
    let files = files(spec);
    if let Err(overlay) = overlay_etc(&files)
        && let Err(links) = link_etc(&files)
    {
        warnings.push(format!(
            "/etc inside is the host's, names may not resolve (overlay: {overlay}; tmpfs: {links})"
        ));
    }
    for path in RESOLVER_SOCKETS {
        if !spec.dns.is_empty() && Path::new(path).is_dir() {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            if let Err(error) = mount(Some("none"), path, Some("tmpfs"), flags, NONE) {
                tracing::debug!(path, %error, "not hidden");
            }
        }
    }
    warnings
}

/// A fresh /sys shows the sandbox's links. The control groups are mounted below the old one and are taken along.
fn mount_sys() -> io::Result<()> {
    let groups = open_path(Path::new("/sys/fs/cgroup")).ok();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE)?;
    if let Some(groups) = groups {
        bind(&groups, Path::new("/sys/fs/cgroup"))?;
    }
    Ok(())
}

/// Name below /etc and content of each file that is the sandbox's own.
fn files(spec: &SandboxSpec) -> Vec<(&'static str, String)> {
    let mut files = vec![("hosts", hosts(spec))];
    if !spec.hostname.is_empty() {
        files.push(("hostname", format!("{}\n", spec.hostname)));
    }
    if !spec.dns.is_empty() {
        files.push(("resolv.conf", resolv_conf(&spec.dns, &spec.search)));
    }
    files
}

fn hosts(spec: &SandboxSpec) -> String {
    let mut lines: Vec<(IpAddr, &str)> = vec![
        (Ipv4Addr::LOCALHOST.into(), "localhost"),
        (
            Ipv6Addr::LOCALHOST.into(),
            "localhost ip6-localhost ip6-loopback",
        ),
    ];
    let v4 = spec
        .v4
        .map(|a| (IpAddr::from(a.addr), IpAddr::from(a.gateway)));
    let v6 = spec
        .v6
        .map(|a| (IpAddr::from(a.addr), IpAddr::from(a.gateway)));
    let private = spec.network == Network::Private;
    for (own, gateway) in [v4, v6].into_iter().flatten().filter(|_| private) {
        if !spec.hostname.is_empty() {
            lines.push((own, &spec.hostname));
        }
        lines.push((gateway, "gateway"));
    }
    if spec.network == Network::None && !spec.hostname.is_empty() {
        lines.push((Ipv4Addr::LOCALHOST.into(), &spec.hostname));
    }
    lines.extend(
        spec.add_host
            .iter()
            .map(|(name, addr)| (*addr, name.as_str())),
    );
    let mut text = String::new();
    for (addr, names) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{addr}\t{names}");
    }
    text
}

fn resolv_conf(dns: &[IpAddr], search: &[String]) -> String {
    let mut text = String::new();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Lays the files over the host's /etc. Names that are looked up before the host makes them may stay absent inside.
fn overlay_etc(files: &[(&str, String)]) -> io::Result<()> {
    let original = open_path(Path::new("/etc"))?;
    // Until the overlay stands, its layers lie on a tmpfs at the very place that it will cover.
    mount_tmpfs("/etc")?;
    let result = (|| {
        fs::create_dir("/etc/upper")?;
        fs::create_dir("/etc/work")?;
        for (name, content) in files {
            fs::write(Path::new("/etc/upper").join(name), content)?;
        }
        let layers = format!(
            "lowerdir=/proc/self/fd/{},upperdir=/etc/upper,workdir=/etc/work",
            original.as_raw_fd()
        );
        // Without rights in the first user namespace only `user.*` attributes can be written.
        let with_attributes = format!("{layers},userxattr");
        let lay = |options: &str| {
            mount(
                Some("overlay"),
                "/etc",
                Some("overlay"),
                MsFlags::empty(),
                Some(options),
            )
        };
        lay(&with_attributes).or_else(|_| lay(&layers))?;
        Ok(())
    })();
    if result.is_err() {
        nix::mount::umount2("/etc", nix::mount::MntFlags::MNT_DETACH)?;
    }
    result
}

/// Makes an /etc of links to the host's files, for kernels and sandboxes that refuse overlays.
pub(super) fn link_etc(files: &[(&str, String)]) -> io::Result<()> {
    // Copied before it is covered: a recursive bind would bring the cover along.
    let original = sys::clone_mounts(c"/etc")?;
    mount_tmpfs("/etc")?;
    let result = (|| {
        fs::create_dir("/etc/.host")?;
        sys::place_mounts(&original, c"/etc/.host")?;
        for (name, content) in files {
            fs::write(Path::new("/etc").join(name), content)?;
        }
        for entry in fs::read_dir("/etc/.host")? {
            let name = entry?.file_name();
            // A sandbox inside a sandbox meets the outer one's own.
            if name != ".host" && !files.iter().any(|(own, _)| OsStr::new(own) == name) {
                link_entry(&name)?;
            }
        }
        Ok(())
    })();
    if result.is_err() {
        nix::mount::umount2("/etc", nix::mount::MntFlags::MNT_DETACH)?;
    }
    result
}

fn link_entry(name: &OsStr) -> io::Result<()> {
    let host = Path::new(".host").join(name);
    // A link is copied as it is: a relative one would point elsewhere from a directory deeper.
    let target = fs::read_link(Path::new("/etc").join(&host)).unwrap_or(host);
    symlink(target, Path::new("/etc").join(name))
}

fn mount_tmpfs(at: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("weft"),
        at,
        Some("tmpfs"),
        flags,
        Some("mode=0755,size=16m"),
    )
}

fn open_path(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

fn bind(from: &File, to: &Path) -> nix::Result<()> {
    let from = format!("/proc/self/fd/{}", from.as_raw_fd());
    // Mounts below come along: a user namespace may not uncover what they hide.
    mount(
        Some(from.as_str()),
        to,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
}

#[cfg(test)]
mod tests {
    use super::super::broker_proto::Address;
    use super::*;

    #[test]
    fn hosts_and_resolv_conf() {
        let spec = SandboxSpec {
            hostname: "box".to_owned(),
            v4: Some(Address {
                addr: Ipv4Addr::new(10, 87, 0, 2),
                prefix: 24,
                gateway: Ipv4Addr::new(10, 87, 0, 1),
            }),
            dns: vec![Ipv4Addr::new(10, 87, 0, 1).into()],
            search: vec!["a.example".to_owned(), "b.example".to_owned()],
            add_host: vec![("db".to_owned(), Ipv4Addr::new(192, 0, 2, 7).into())],
            ..SandboxSpec::default()
        };
        let files = files(&spec);
        let text = |name| {
            files
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, t)| t.as_str())
        };
        assert_eq!(
            text("resolv.conf"),
            Some("search a.example b.example\nnameserver 10.87.0.1\n")
        );
        assert_eq!(text("hostname"), Some("box\n"));
        assert_eq!(
            text("hosts"),
            Some(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 10.87.0.2\tbox\n10.87.0.1\tgateway\n192.0.2.7\tdb\n"
            )
        );
    }
}
