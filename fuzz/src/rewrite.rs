//! Cutting and merging of super-frames: no byte of payload lost, doubled or moved, every checksum right.
//! Shape: a virtio header, then the frame.

use switch_core::gso::merge::Run;
use switch_core::gso::split::split;
use switch_core::wire::checksum::{check_offload, fold, l4_valid, patch, sum};
use switch_core::wire::packet::{Ip, Kind, PROTO_TCP, Packet};
use switch_core::wire::tcp::TcpHeader;
use switch_core::wire::vnet_hdr::{DATA_VALID, VnetHdr};

use super::bytes::Bytes;

/// Runs the target.
pub fn run(data: &[u8]) {
    checksums(data);
    let mut bytes = Bytes::new(data);
    let vnet = VnetHdr::parse(&bytes.array());
    let frame = bytes.rest();
    let Ok(packet) = Packet::parse(frame) else {
        return;
    };
    let Kind::Ip(ip) = packet.kind else { return };
    if check_offload(frame.len(), &packet, &vnet).is_err() || !vnet.is_gso() {
        return;
    }
    let mut segments = Vec::new();
    let mut each = |segment: &[u8]| segments.push(segment.to_vec());
    let Ok(count) = split(frame, &vnet, &mut Vec::new(), &mut each) else {
        assert!(segments.is_empty(), "nothing is given before an error");
        return;
    };
    assert_eq!(count, segments.len());
    let mut sent = Vec::new();
    for segment in &segments {
        let (ip, payload) = read(segment);
        assert!(l4_valid(
            ip.src,
            ip.dst,
            ip.proto,
            segment.get(ip.l4..ip.end).unwrap_or_default()
        ));
        assert!(payload.len() <= usize::from(vnet.gso_size));
        sent.extend_from_slice(payload);
    }
    let (_, wanted) = read(frame);
    assert_eq!(sent, wanted, "the payload of {:?}", ip);
    merge(&segments, &sent);
}

/// The IP header and what follows the transport header.
fn read(frame: &[u8]) -> (Ip, &[u8]) {
    let Ok(Packet {
        kind: Kind::Ip(ip), ..
    }) = Packet::parse(frame)
    else {
        panic!("no IP packet");
    };
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    let header = if ip.proto == PROTO_TCP {
        TcpHeader::parse(message).map_or(0, |tcp| tcp.len)
    } else {
        8
    };
    (ip, message.get(header..).unwrap_or_default())
}

/// Merges what was cut; the runs together carry the payload, in order.
fn merge(segments: &[Vec<u8>], wanted: &[u8]) {
    // As a TAP marks what it has verified.
    let vnet = VnetHdr {
        flags: DATA_VALID,
        ..VnetHdr::default()
    };
    let mut merged = Vec::new();
    let mut run: Option<Run> = None;
    for segment in segments {
        let Ok(packet) = Packet::parse(segment) else {
            panic!("a segment of ours does not parse");
        };
        if let Some(payload) = run
            .as_mut()
            .and_then(|run| run.add(segment, &packet, &vnet))
        {
            merged.extend_from_slice(segment.get(payload).unwrap_or_default());
            continue;
        }
        run = Run::start(segment, &packet, &vnet);
        let payload = match &run {
            Some(run) => segment.get(run.first_payload()).unwrap_or_default(),
            None => read(segment).1,
        };
        merged.extend_from_slice(payload);
    }
    assert_eq!(merged, wanted);
}

/// The quick sums against RFC 1071 word by word, and a patch against a sum from scratch.
fn checksums(data: &[u8]) {
    let mut slow = 0_u64;
    for pair in data.chunks(2) {
        let word = [
            pair.first().copied().unwrap_or(0),
            pair.get(1).copied().unwrap_or(0),
        ];
        slow += u64::from(u16::from_be_bytes(word));
    }
    while slow > 0xffff {
        slow = (slow & 0xffff) + (slow >> 16);
    }
    assert_eq!(u64::from(fold(sum(data))), slow);

    let Some((before, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let Some((after, rest)) = rest.split_first_chunk::<4>() else {
        return;
    };
    let whole = |word: &[u8; 4]| !fold(sum(&[word, rest].concat()));
    let (patched, fresh) = (patch(whole(before), before, after), whole(after));
    // Zero has two spellings in ones' complement; both verify.
    assert!(patched == fresh || (patched ^ fresh == 0xffff && (patched == 0 || fresh == 0)));
}
