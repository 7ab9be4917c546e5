//! `--pcap`: what passed, in a file that Wireshark opens.

use std::fs::File;

use pcap_file::pcapng::{Block, PcapNgReader};

use crate::support::netns::{self, OUTSIDE, have};
use crate::support::{guest, servers};

#[test]
fn the_capture_holds_what_passed() {
    netns::inside(|world| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capture.pcapng");
        let name = path.to_str().unwrap().to_owned();
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        let sandbox = world.sandbox(&["--pcap", &name]);
        guest::fetch(&sandbox.net, page);
        sandbox.weft.stop();

        let mut reader = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let (mut up, mut down) = (0, 0);
        while let Some(block) = reader.next_block() {
            let Block::EnhancedPacket(packet) = block.unwrap() else {
                continue;
            };
            let Ok(headers) = etherparse::PacketHeaders::from_ethernet_slice(&packet.data) else {
                continue;
            };
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else {
                continue;
            };
            up += usize::from(ip.destination == OUTSIDE.octets());
            down += usize::from(ip.source == OUTSIDE.octets());
        }
        assert!(
            up >= 3 && down >= 2,
            "handshake, request and answer: {up} up, {down} down"
        );

        if have("tshark") {
            let said = sandbox.net.enter(|| {
                std::process::Command::new("tshark")
                    .args(["-n", "-r", &name, "-Y", "http"])
                    .output()
            });
            let said = said.unwrap();
            let text = String::from_utf8_lossy(&said.stdout);
            assert!(
                text.contains("GET / HTTP/1.0") && text.contains("200 OK"),
                "{said:?}"
            );
        }
    });
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    netns::inside(|world| {
        world
            .run(&["--pcap", "/no/such/dir/x.pcapng"], &["true"])
            .refused(&["/no/such/dir/x.pcapng"]);
    });
}
