//! Somebody who listens between the hosts.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::net::Net;

/// Frames that are kept at most.
const KEPT: usize = 20_000;
/// How soon the listener notices that it is no longer wanted.
const LOOK: Duration = Duration::from_millis(50);
/// Of every protocol. Source: linux/if_ether.h, ETH_P_ALL.
const ALL: u16 = 3;

/// A capture that is under way.
pub(super) struct Wire {
    ended: Arc<AtomicBool>,
    listener: JoinHandle<Vec<Vec<u8>>>,
}

impl Wire {
    /// Begins to keep each frame that passes a host. Errors: those of a socket.
    pub(super) fn tap(at: &Net) -> io::Result<Self> {
        let mut socket = at.enter(|| {
            let all = Protocol::from(i32::from(ALL.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(all))
        })?;
        socket.set_read_timeout(Some(LOOK))?;
        let ended = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&ended);
        let listener = thread::spawn(move || {
            let mut frames: Vec<Vec<u8>> = Vec::new();
            let mut buffer = vec![0; 1 << 17];
            loop {
                match socket.read(&mut buffer) {
                    Ok(len) if frames.len() < KEPT => frames.push(buffer[..len].to_vec()),
                    Ok(_) => {}
                    // What has come before the end is all taken by now.
                    Err(_) if wanted.load(Ordering::Relaxed) => return frames,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { ended, listener })
    }

    /// Ends it, and gives what was heard.
    pub(super) fn end(self) -> Vec<Vec<u8>> {
        self.ended.store(true, Ordering::Relaxed);
        self.listener.join().unwrap_or_default()
    }
}

/// How many frames hold these bytes.
pub(super) fn with(frames: &[Vec<u8>], bytes: &[u8]) -> usize {
    let holds = |frame: &&Vec<u8>| frame.windows(bytes.len()).any(|w| w == bytes);
    frames.iter().filter(holds).count()
}

/// Bytes as a person reads them: in hexadecimal, and as text where they are some.
pub(super) fn dump(bytes: &[u8]) -> Vec<String> {
    let line = |row: &[u8]| {
        let hex: String = row.iter().map(|b| format!("{b:02x} ")).collect();
        let plain = |&b: &u8| {
            if b.is_ascii_graphic() || b == b' ' {
                char::from(b)
            } else {
                '.'
            }
        };
        let text: String = row.iter().map(plain).collect();
        format!("    {hex:<48} {text}")
    };
    bytes.chunks(16).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_for_is_found_wherever_it_stands() {
        let frames = [b"xx needle".to_vec(), b"needl".to_vec(), b"needle".to_vec()];
        assert_eq!(with(&frames, b"needle"), 2);
        assert_eq!(with(&[], b"needle"), 0);
    }

    #[test]
    fn a_dump_has_both_hexadecimal_and_text() {
        let lines = dump(b"a text of 19 bytes\n");
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("61 20 74") && lines[0].ends_with("a text of 19 byt"));
        assert!(lines[1].contains("65 73 0a") && lines[1].ends_with("es."));
    }
}
