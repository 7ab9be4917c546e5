//! A route netlink socket: one request and its acknowledgement, or one dump, at a time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};

/// Room for one datagram of a dump: the kernel fills at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket for requests. Errors: those of socket(2).
    pub fn open() -> io::Result<Self> {
        Self::with_groups(0, SockFlag::empty())
    }

    /// Opens a non-blocking socket that hears the multicast groups of `groups` (`RTMGRP_*` bits).
    /// Errors: those of socket(2) and bind(2).
    pub fn subscribe(groups: u32) -> io::Result<Self> {
        Self::with_groups(groups, SockFlag::SOCK_NONBLOCK)
    }

    fn with_groups(groups: u32, flags: SockFlag) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | flags,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        if groups == 0 {
            // A lost answer must be an error, never a process that hangs.
            let patience = nix::sys::time::TimeVal::new(10, 0);
            setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
        }
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// The descriptor to poll.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends `message` with `flags` added and waits for the kernel's answer.
    /// Errors: the kernel's, as an error number.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK, |_| {})
    }

    /// Sends `message` and gives each message of the answer to `each`, up to and with the acknowledgement.
    /// Errors: the kernel's, as an error number.
    pub fn query(
        &mut self,
        message: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask(message, NLM_F_ACK, each)
    }

    /// Asks for everything of the kind of `message` and gives each to `each`.
    /// Errors: the kernel's, as an error number.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask(message, NLM_F_DUMP, each)
    }

    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let wanted = self.sequence;
        loop {
            let mut done = None;
            self.receive(|header, payload| {
                if header.sequence_number != wanted || done.is_some() {
                    return;
                }
                if let NetlinkPayload::InnerMessage(message) = payload {
                    each(message);
                } else if let NetlinkPayload::Done(_) = payload {
                    done = Some(Ok(()));
                } else if let NetlinkPayload::Error(answer) = payload {
                    done = Some(answer.code.map_or(Ok(()), |code| {
                        Err(io::Error::from_raw_os_error(code.get().saturating_abs()))
                    }));
                }
            })?;
            if let Some(result) = done {
                return result;
            }
        }
    }

    /// Receives one datagram and gives each message in it to `each`; messages that do not parse are skipped.
    /// Errors: `WouldBlock` when none waits on a subscription; `ENOBUFS` when the kernel dropped some.
    pub fn receive(
        &mut self,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        let len = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => break len,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        // The length field leads each message, in native order; messages are aligned to four bytes.
        while let Some(size) = rest.first_chunk::<4>() {
            let size = usize::try_from(u32::from_ne_bytes(*size)).unwrap_or(usize::MAX);
            let Some(one) = rest.get(..size).filter(|one| one.len() >= 16) else {
                break;
            };
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                let (header, payload) = message.into_parts();
                each(&header, payload);
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}
