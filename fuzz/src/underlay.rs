//! What other hosts send, and what leaves for them: datagrams of any bytes are gathered into frames, which say nothing that
//! the datagrams did not; and a super-frame is cut as the copying cutter cuts it.
//! Shape: a byte of choices and a virtio header; then pieces, each a datagram's frame.

use switch_core::addr::Vni;
use switch_core::gso::split::split;
use switch_core::tunnel::cut::{Cut, MAX_HEADERS};
use switch_core::tunnel::gather::{Gather, Said};
use switch_core::tunnel::{ecn, entropy, vxlan};
use switch_core::wire::checksum::l4_valid;
use switch_core::wire::packet::{Kind, Packet};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::bytes::Bytes;

/// Datagrams of one buffer at most.
const MOST: usize = 64;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let choice = bytes.u8();
    let vnet = VnetHdr::parse(&bytes.array());
    let mut frames = Vec::new();
    while !bytes.is_empty() && frames.len() < MOST {
        frames.push(bytes.piece().to_vec());
    }
    for frame in &mut frames {
        cut(&vnet, frame);
        let whole = frame.len();
        let _number = entropy::of_flow(frame);
        let valid = is_valid(frame);
        let before = frame.clone();
        // A mark changes no checksum but the header's, which is mended.
        if ecn::inward(frame, choice) {
            assert_eq!((frame.len(), is_valid(frame)), (whole, valid));
        } else {
            assert_eq!(*frame, before);
        }
    }
    let said = if choice & 4 == 0 {
        Said::Nothing
    } else {
        Said::Partial(vnet.csum_start, vnet.csum_offset)
    };
    gather(&frames, said, choice & 8 != 0);
}

fn is_valid(frame: &[u8]) -> Option<bool> {
    let Kind::Ip(ip) = Packet::parse(frame).ok()?.kind else {
        return None;
    };
    let message = frame.get(ip.l4..ip.end)?;
    Some(l4_valid(ip.src, ip.dst, ip.proto, message))
}

/// Cuts a frame both ways.
fn cut(vnet: &VnetHdr, frame: &[u8]) {
    let mut theirs = Vec::new();
    let copied = split(frame, vnet, &mut Vec::new(), &mut |f| {
        theirs.push(f.to_vec());
    });
    let Ok(cut) = Cut::new(frame, frame.len(), vnet) else {
        // It refuses more: what is no super-frame, and headers of a length that nobody has.
        return;
    };
    assert_eq!(copied, Ok(cut.count()));
    for (n, theirs) in theirs.iter().enumerate() {
        let payload = frame.get(cut.payload(n)).unwrap_or_default();
        let total = switch_core::wire::checksum::sum(payload);
        let mut head = [0; MAX_HEADERS];
        assert_eq!(cut.write(frame, n, Some(total), &mut head), Ok(()));
        let head = head.get(..cut.headers()).unwrap_or_default();
        assert_eq!([head, payload].concat(), *theirs);
    }
}

/// Gathers frames as they lie in a buffer, behind headers of a seal.
fn gather(frames: &[Vec<u8>], said: Said, covered: bool) {
    const SEAL: usize = 16;
    let lead = vxlan::header(Vni::from_be_bytes([0, 0, 7]));
    let mut buf: Vec<u8> = Vec::new();
    for frame in frames {
        buf.extend_from_slice(&[0xee; SEAL]);
        buf.extend_from_slice(&lead);
        buf.extend_from_slice(frame);
    }
    let (mut gather, mut at) = (Gather::default(), 0);
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut each = |vnet: &VnetHdr, frame: &[u8]| {
        if !vnet.is_gso() {
            out.push(frame.to_vec());
            return;
        }
        let cut = split(frame, vnet, &mut Vec::new(), &mut |f| out.push(f.to_vec()));
        assert!(cut.is_ok(), "what was joined can be cut");
    };
    for frame in frames {
        let len = vxlan::HEADER + frame.len();
        let to = if covered { gather.cover(&buf, at) } else { at };
        assert!(to <= at);
        buf.copy_within(at + SEAL..at + SEAL + len, to);
        gather.push(
            &mut buf,
            to + vxlan::HEADER..to + len,
            said,
            1450,
            &mut each,
        );
        at += SEAL + len;
    }
    gather.end(&mut buf, &mut each);
    if said == Said::Nothing {
        assert!(out.len() >= frames.len(), "none is lost");
        let wrong = |frames: &[Vec<u8>]| {
            let all = frames.iter().filter_map(|f| is_valid(f));
            all.filter(|valid| !valid).count()
        };
        // One whose checksum is only the pseudo-header's sum is completed by who cuts it.
        assert!(wrong(&out) <= wrong(frames), "a bad checksum was made");
    }
}
