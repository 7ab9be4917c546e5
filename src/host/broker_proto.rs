//! What the main process, the broker and its helpers say to each other, and the channel it goes over.
//!
//! Messages are JSON, one per packet of a `SOCK_SEQPACKET` socket, with descriptors beside them. This is the slow path.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switch_core::addr::Mac;

use super::fleet::{self, FleetError, Port, SandboxId};
use super::resolver::Resolvers;
use crate::endpoint::{How, Kind};

/// As many descriptors as one message can carry. Source: unix(7), SCM_MAX_FD.
pub const MAX_FDS: usize = 253;

/// Longer messages travel in a memfd: a command line may be two megabytes long.
const INLINE: usize = 32 * 1024;

/// How a sandbox is joined to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Network {
    /// A network namespace of its own with a TAP in it.
    #[default]
    Private,
    /// A network namespace of its own with loopback only.
    None,
    /// A network namespace of its own, or one that exists, in which somebody else makes the interfaces.
    Joined,
    /// The host's network.
    Host,
}

/// An address of the sandbox with its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address<A> {
    /// The sandbox's own address.
    pub addr: A,
    /// Length of the on-link prefix.
    pub prefix: u8,
    /// The switch's address, the default route's next hop.
    pub gateway: A,
}

/// What a sandbox is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// How it is joined to the world.
    pub network: Network,
    /// What is behind its interface; where absent a TAP, or what can be had where that cannot.
    pub kind: Option<Kind>,
    /// Name of the interface inside, at most 15 bytes.
    pub ifname: String,
    /// Hardware address of the interface inside.
    #[serde(with = "mac_bytes")]
    pub mac: Mac,
    /// Largest IP packet on the interface.
    pub mtu: u16,
    /// Largest super-frame that the sandbox may build, in bytes; the kernel's default where absent.
    pub gso_max_size: Option<u32>,
    /// Ask for the virtio header and offloads.
    pub vnet: bool,
    /// IPv4 address, if the sandbox has one.
    pub v4: Option<Address<Ipv4Addr>>,
    /// IPv6 address, if the sandbox has one.
    pub v6: Option<Address<Ipv6Addr>>,
    /// The sandbox's name; left as the host's when empty.
    pub hostname: String,
    /// Servers that resolv.conf inside names; the file is left as it is when there are none.
    pub dns: Vec<IpAddr>,
    /// Search domains that resolv.conf inside names.
    pub search: Vec<String>,
    /// More names for /etc/hosts inside.
    pub add_host: Vec<(String, IpAddr)>,
    /// Map the caller to itself and not to root.
    pub keep_id: bool,
    /// Set addresses and routes directly; otherwise the sandbox asks by DHCP and router solicitation.
    pub configure: bool,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            network: Network::Private,
            kind: None,
            ifname: "eth0".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            gso_max_size: None,
            vnet: true,
            v4: None,
            v6: None,
            hostname: String::new(),
            dns: Vec::new(),
            search: Vec::new(),
            add_host: Vec::new(),
            keep_id: false,
            configure: true,
        }
    }
}

pub(super) mod mac_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use switch_core::addr::Mac;

    pub(in crate::host) fn serialize<S: Serializer>(mac: &Mac, to: S) -> Result<S::Ok, S::Error> {
        mac.0.serialize(to)
    }

    pub(in crate::host) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Mac, D::Error> {
        <[u8; 6]>::deserialize(from).map(Mac)
    }
}

/// A network namespace that exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// That of a process.
    Pid(i32),
    /// A file that stands for it, such as /run/netns/NAME.
    Path(PathBuf),
}

/// What runs in a sandbox: the program and its arguments; directory and environment are those of `weft`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program, looked up in PATH, and arguments.
    pub argv: Vec<std::ffi::OsString>,
}

/// What a command is to know of the networks that its sandbox has joined since it was made, beside what its
/// [`SandboxSpec`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// More names for /etc/hosts inside.
    pub hosts: Vec<(String, IpAddr)>,
    /// More servers that resolv.conf inside names.
    pub dns: Vec<IpAddr>,
}

/// The closed set of what the main process may ask of the broker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Create(Box<SandboxSpec>),
    Attach(Target, Box<SandboxSpec>),
    Start(Command, Names),
    Signal(i32),
    Bind(Port),
    RawIcmp {
        v6: bool,
    },
    Sockets {
        v6: bool,
        count: usize,
    },
    /// One of many sandboxes is meant.
    Fleet(fleet::proto::Request),
}

/// A refusal, in one line, with the exit status that `run` should end with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What is wrong, where, and what to do.
    pub message: String,
    /// 125 for weft's own, 126 and 127 for a command that cannot be executed or found.
    pub status: i32,
    /// The kernel's error number, where it was one.
    pub errno: Option<i32>,
}

impl Failure {
    /// Puts an error and its causes on one line.
    #[must_use]
    pub fn new(error: &anyhow::Error) -> Self {
        if let Some(inner) = error.downcast_ref::<Self>() {
            return inner.clone();
        }
        let errno = error.chain().find_map(errno_of);
        Self {
            message: format!("{error:#}").replace('\n', " "),
            status: 125,
            errno,
        }
    }
}

fn errno_of(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error)
        .or_else(|| cause.downcast_ref::<Errno>().map(|e| *e as i32))
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    /// With the interface's descriptor where there is one.
    Created {
        pid: i32,
        how: Option<How>,
        warnings: Vec<String>,
    },
    Started {
        pid: i32,
        warnings: Vec<String>,
    },
    /// With the descriptors asked for.
    Descriptors,
    Refused(Failure),
    Fleet(Result<fleet::proto::Answer, FleetError>),
}

/// What happens without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The command has ended with this status, 128 + n for signal n; all of the sandbox has ended with it.
    Exited(i32),
    /// The namespace that was attached to has come to its end.
    Ended,
    /// The host's resolvers have changed.
    Resolvers(Resolvers),
    /// One of many sandboxes has come to its end; it is to be left.
    SandboxEnded(SandboxId),
    /// The broker or the sandbox's helper has died.
    Lost(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromBroker {
    Answer(Answer),
    Event(Event),
}

/// What the broker tells a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHelper {
    /// The user namespace is mapped, or why not.
    Mapped(Option<Failure>),
    Start(Command, Names),
    Signal(i32),
    Sockets {
        v6: bool,
        count: usize,
    },
}

/// What a helper tells the broker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromHelper {
    /// It has made a user namespace that wants its maps written.
    MapMe,
    Answer(Answer),
    Event(Event),
}

/// What PID 1 of a sandbox tells its helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    /// /proc cannot be mounted: try again without a PID namespace.
    NoProc,
    Started {
        warnings: Vec<String>,
    },
    Refused(Failure),
    Exited(i32),
}

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Channel {
    /// Makes both ends. Errors: those of socketpair(2).
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let end = |fd| Self {
            fd,
            buffer: vec![0; INLINE + 1],
        };
        Ok((end(a), end(b)))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends a message and copies of the descriptors, at most [`MAX_FDS`] less one.
    pub(super) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut raws: Vec<RawFd> = Vec::with_capacity(fds.len() + 1);
        let parcel;
        let body: &[u8] = if text.len() > INLINE {
            let mut file = File::from(memfd_create(c"weft-message", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&text)?;
            file.rewind()?;
            parcel = file;
            raws.push(parcel.as_raw_fd());
            &[]
        } else {
            &text
        };
        let mark = [u8::from(body.is_empty())];
        raws.extend(fds.iter().map(AsRawFd::as_raw_fd));
        let rights = [ControlMessage::ScmRights(&raws)];
        let control = if raws.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let pieces = [IoSlice::new(&mark), IoSlice::new(body)];
        loop {
            match sendmsg::<()>(
                self.fd.as_raw_fd(),
                &pieces,
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for a message and takes its descriptors; `None` when the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.take(MsgFlags::MSG_CMSG_CLOEXEC)
    }

    /// As [`Self::receive`], but fails with `WouldBlock` when no message waits.
    pub(super) fn try_receive<T: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.take(MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT)
    }

    fn take<T: DeserializeOwned>(
        &mut self,
        flags: MsgFlags,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let len = loop {
            let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
            let mut pieces = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
                Ok(message) => {
                    let len = message.bytes;
                    if let Ok(controls) = message.cmsgs() {
                        for control in controls {
                            if let ControlMessageOwned::ScmRights(raws) = control {
                                fds.extend(raws.into_iter().map(super::sys::received));
                            }
                        }
                    } else {
                        // This process had no room for all of them.
                        fds.extend(first_descriptors(&space).map(super::sys::received));
                    }
                    break len;
                }
                Err(Errno::EINTR) => {}
                // The other end was killed with messages of ours unread.
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        };
        let Some((mark, body)) = self.buffer.get(..len).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let message = if *mark == 0 {
            serde_json::from_slice(body)?
        } else if fds.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        } else {
            let mut text = Vec::new();
            File::from(fds.remove(0)).read_to_end(&mut text)?;
            serde_json::from_slice(&text)?
        };
        Ok(Some((message, fds)))
    }
}

/// The descriptors at the head of control data that the kernel has cut short. Source: cmsg(3), SCM_RIGHTS.
fn first_descriptors(space: &[u8]) -> impl Iterator<Item = RawFd> {
    let number = |at: usize| {
        let bytes = space.get(at..at + 4).and_then(|b| b.first_chunk().copied());
        bytes.map_or(0, i32::from_ne_bytes)
    };
    let head = size_of::<libc::cmsghdr>();
    let len = space.first_chunk().map_or(0, |b| usize::from_ne_bytes(*b));
    let kind = (number(size_of::<usize>()), number(size_of::<usize>() + 4));
    let end = if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        len
    } else {
        head
    };
    (head..end)
        .step_by(4)
        .take_while(move |at| at + 4 <= end)
        .map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_travels_with_its_descriptors() {
        let (a, mut b) = Channel::pair().unwrap();
        let spec = SandboxSpec {
            hostname: "box".to_owned(),
            ..SandboxSpec::default()
        };
        let file = tempfile::tempfile().unwrap();
        a.send(&Request::Create(Box::new(spec.clone())), &[file.as_fd()])
            .unwrap();
        let (request, fds) = b.receive::<Request>().unwrap().unwrap();
        assert!(matches!(request, Request::Create(got) if *got == spec));
        assert!(super::super::sys::same_file(&fds[0], &file).unwrap());
        assert_eq!(
            b.try_receive::<Request>().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(a);
        assert!(b.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn a_long_command_line_goes_whole() {
        let (a, mut b) = Channel::pair().unwrap();
        let argv = vec!["x".repeat(120_000).into(), "y".repeat(120_000).into()];
        let command = Command { argv };
        let file = tempfile::tempfile().unwrap();
        a.send(&command, &[file.as_fd()]).unwrap();
        let (got, fds) = b.receive::<Command>().unwrap().unwrap();
        assert_eq!(got, command);
        assert_eq!(fds.len(), 1);
    }
}
