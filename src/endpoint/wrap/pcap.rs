//! Stage 1, 8: Capture of an endpoint's frames to a pcapng file.
//! Source: the IETF draft "PCAP Now Generic Dump File Format", sections 4.1 to 4.3.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IoSlice};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};
use switch_core::wire::checksum::complete_partial;
use switch_core::wire::vnet_hdr::{self, VnetHdr};

/// Bytes gathered before they go to the file.
const BUFFER: usize = 256 * 1024;
/// Frames up to this get their true checksum; longer ones would cost the packet's way more than a reader gains.
const CHEAP: usize = 2048;
/// More than the longest super-frame with its headers.
const SNAPLEN: u32 = 0x4_0000;

/// Bits of `epb_flags`. Source: section 4.3, "Enhanced Packet Block Flags Word".
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
const CHECKSUM_NOT_READY: u32 = 1 << 9;
const CHECKSUM_VALID: u32 = 1 << 10;
const TCP_SEGMENTATION: u32 = 1 << 11;

const NOT_READY: &str = "A checksum like this one's is left to be completed where the frame is sent on: it is no error. \
     Frames of this kind have bit 9 of their flags set, and frames still to be cut into segments bit 11.";

/// Where a frame goes, as the sandbox sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the sandbox.
    In,
    /// From the sandbox.
    Out,
}

/// Writes frames to a pcapng file. The first failure, such as a full disk, ends the capture with one warning and nothing else.
pub struct PcapWriter {
    out: Option<PcapNgWriter<BufWriter<File>>>,
    whole: Vec<u8>,
    explained: bool,
}

impl fmt::Debug for PcapWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapWriter")
            .field("running", &self.out.is_some())
            .finish_non_exhaustive()
    }
}

impl PcapWriter {
    /// Starts a capture in `file`, whose content the caller has cut to nothing. `interface` is the name shown.
    /// Errors: the file cannot be written to.
    pub fn new(file: File, interface: &str) -> io::Result<Self> {
        let mut out = start(BufWriter::with_capacity(BUFFER, file), interface).map_err(to_io)?;
        // What is wrong with the file shows now, and not some frames later.
        io::Write::flush(out.get_mut())?;
        Ok(Self {
            out: Some(out),
            whole: Vec::new(),
            explained: false,
        })
    }

    /// True until a write has failed.
    #[must_use]
    pub fn running(&self) -> bool {
        self.out.is_some()
    }

    /// Writes one frame given in pieces.
    /// Units: nanoseconds since 1970. Cost: one copy of the frame, and a checksum where it is short and partial.
    pub fn frame(
        &mut self,
        now: u64,
        direction: Direction,
        vnet: &VnetHdr,
        pieces: &[IoSlice<'_>],
    ) {
        let Some(out) = &mut self.out else {
            return;
        };
        self.whole.clear();
        for piece in pieces {
            self.whole.extend_from_slice(piece);
        }
        let mut flags = match direction {
            Direction::In => INBOUND,
            Direction::Out => OUTBOUND,
        };
        flags |= checksum_state(&mut self.whole, vnet);
        let mut options = vec![EnhancedPacketOption::Flags(flags)];
        if flags & CHECKSUM_NOT_READY != 0 && !self.explained {
            self.explained = true;
            options.push(EnhancedPacketOption::Comment(Cow::Borrowed(NOT_READY)));
        }
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(now),
            original_len: u32::try_from(self.whole.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&self.whole),
            options,
        };
        let written = out.write_pcapng_block(block).map(drop).map_err(to_io);
        self.stop_on(written);
    }

    /// Hands what is buffered to the file, for a reader who follows it.
    pub fn flush(&mut self) {
        if let Some(out) = &mut self.out {
            let flushed = io::Write::flush(out.get_mut());
            self.stop_on(flushed);
        }
    }

    fn stop_on(&mut self, result: io::Result<()>) {
        if let Err(e) = result {
            tracing::warn!("the capture ends here, its file cannot be written: {e}");
            self.out = None;
        }
    }
}

fn start(
    out: BufWriter<File>,
    interface: &str,
) -> Result<PcapNgWriter<BufWriter<File>>, PcapError> {
    let program = concat!("weft ", env!("CARGO_PKG_VERSION"));
    let section = SectionHeaderBlock {
        endianness: Endianness::native(),
        options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(program))],
        ..SectionHeaderBlock::default()
    };
    let mut out = PcapNgWriter::with_section_header(out, section)?;
    out.write_pcapng_block(InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: SNAPLEN,
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(interface)),
            InterfaceDescriptionOption::IfTsResol(9),
        ],
    })?;
    Ok(out)
}

/// Completes a partial checksum where that is cheap, and says in flags how it stands.
fn checksum_state(frame: &mut [u8], vnet: &VnetHdr) -> u32 {
    if vnet.is_gso() {
        let cut = if vnet.gso_kind() == vnet_hdr::GSO_UDP_L4 {
            0
        } else {
            TCP_SEGMENTATION
        };
        return CHECKSUM_NOT_READY | cut;
    }
    if vnet.needs_csum() {
        // A header that points outside of the frame is shown as it came.
        let complete = frame.len() <= CHEAP && complete_partial(frame, vnet).is_ok();
        return if complete {
            CHECKSUM_VALID
        } else {
            CHECKSUM_NOT_READY
        };
    }
    if vnet.csum_trusted() {
        CHECKSUM_VALID
    } else {
        0
    }
}

fn to_io(error: PcapError) -> io::Error {
    if let PcapError::IoError(e) = error {
        e
    } else {
        io::Error::other(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    fn partial(len: usize) -> (Vec<u8>, VnetHdr) {
        let mut frame = vec![7; len];
        // The checksum field holds the pseudo-header's sum.
        frame[40..42].copy_from_slice(&[0x12, 0x34]);
        let vnet = VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 6,
            ..VnetHdr::default()
        };
        (frame, vnet)
    }

    #[test]
    fn frames_can_be_read_back() {
        let mut file = tempfile::tempfile().unwrap();
        let mut pcap = PcapWriter::new(file.try_clone().unwrap(), "eth0").unwrap();
        let (short, vnet) = partial(100);
        let (long, _) = partial(CHEAP + 1);
        let halves = [IoSlice::new(&short[..33]), IoSlice::new(&short[33..])];
        pcap.frame(1_700_000_000_123_456_789, Direction::Out, &vnet, &halves);
        pcap.frame(1, Direction::In, &vnet, &[IoSlice::new(&long)]);
        pcap.frame(2, Direction::In, &vnet, &[IoSlice::new(&long)]);
        pcap.frame(3, Direction::In, &VnetHdr::default(), &[]);
        let gso = VnetHdr {
            gso_type: vnet_hdr::GSO_TCPV4,
            gso_size: 1000,
            ..vnet
        };
        pcap.frame(4, Direction::Out, &gso, &[IoSlice::new(&short)]);
        let absurd = VnetHdr {
            csum_start: 9000,
            ..vnet
        };
        pcap.frame(5, Direction::Out, &absurd, &[IoSlice::new(&short)]);
        drop(pcap);

        io::Seek::rewind(&mut file).unwrap();
        let mut reader = PcapNgReader::new(file).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(p) = block.unwrap().into_owned() {
                seen.push(p);
            }
        }
        let flags: Vec<u32> = seen
            .iter()
            .map(|p| {
                let EnhancedPacketOption::Flags(flags) = p.options[0] else {
                    panic!("no flags")
                };
                flags
            })
            .collect();
        assert_eq!(
            flags,
            [
                OUTBOUND | CHECKSUM_VALID,
                INBOUND | CHECKSUM_NOT_READY,
                INBOUND | CHECKSUM_NOT_READY,
                INBOUND,
                OUTBOUND | CHECKSUM_NOT_READY | TCP_SEGMENTATION,
                OUTBOUND | CHECKSUM_NOT_READY,
            ]
        );
        assert_eq!(seen.iter().filter(|p| p.options.len() > 1).count(), 1);
        assert_eq!(
            seen[0].timestamp,
            Duration::from_nanos(1_700_000_000_123_456_789)
        );
        let mut whole = short;
        complete_partial(&mut whole, &vnet).unwrap();
        assert_eq!(seen[0].data, whole);
        assert_eq!(seen[1].data, long);
    }

    #[test]
    fn a_full_disk_ends_the_capture_only() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert!(PcapWriter::new(full, "eth0").is_err());

        // A pipe whose reader leaves stands for a disk that fills later.
        let (mut reader, writer) = io::pipe().unwrap();
        let mut pcap =
            PcapWriter::new(File::from(std::os::fd::OwnedFd::from(writer)), "eth0").unwrap();
        reader.read_exact(&mut [0; 28]).unwrap();
        drop(reader);
        let frame = vec![0; 60_000];
        for now in 0..10 {
            pcap.frame(
                now,
                Direction::In,
                &VnetHdr::default(),
                &[IoSlice::new(&frame)],
            );
        }
        assert!(!pcap.running());
        pcap.flush();
    }
}
