//! What an end of a TCP connection does, the stream it sends, and the check of what arrives.
//!
//! Every stream begins with its key, and its bytes follow from the key and their place: what arrives is checked
//! against itself as it comes, and a byte of another connection is found as well as one lost, doubled or moved.

/// How fast an end takes what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// At once.
    #[default]
    Eager,
    /// A little at a time, with pauses.
    Choked,
}

/// When an end closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// When it has sent everything; it goes on reading.
    #[default]
    Sent,
    /// When it has sent everything and the other end has closed.
    Second,
    /// When it has sent everything, by a reset.
    Reset,
    /// Never.
    Never,
}

/// What one end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Script {
    /// Which stream it sends.
    pub key: u64,
    /// How many bytes of it.
    pub send: usize,
    /// How it reads.
    pub pace: Pace,
    /// How it ends.
    pub end: End,
}

impl Script {
    /// Sends `send` bytes of stream `key`, then closes; reads at once.
    #[must_use]
    pub const fn new(key: u64, send: usize) -> Self {
        Self {
            key,
            send,
            pace: Pace::Eager,
            end: End::Sent,
        }
    }

    /// The same, but it reads a little at a time.
    #[must_use]
    pub const fn choked(mut self) -> Self {
        self.pace = Pace::Choked;
        self
    }

    /// The same with another end.
    #[must_use]
    pub const fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Writes the bytes from place `from` on to `buf`. Returns how many: fewer at the stream's end.
    pub fn fill(&self, from: usize, buf: &mut [u8]) -> usize {
        let n = buf.len().min(self.send.saturating_sub(from));
        for (i, byte) in buf[..n].iter_mut().enumerate() {
            *byte = byte_at(self.key, from + i);
        }
        n
    }
}

/// Byte number `i` of a stream.
#[must_use]
pub const fn byte_at(key: u64, i: usize) -> u8 {
    if i < 8 {
        return key.to_le_bytes()[i];
    }
    ((i as u64 ^ key.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// What has arrived of a stream.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    key: [u8; 8],
    len: usize,
    wrong: Option<usize>,
}

impl Taken {
    /// Takes the next bytes.
    pub fn take(&mut self, data: &[u8]) {
        for &byte in data {
            if self.len < 8 {
                self.key[self.len] = byte;
            } else if byte != byte_at(u64::from_le_bytes(self.key), self.len) {
                self.wrong = self.wrong.or(Some(self.len));
            }
            self.len += 1;
        }
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if nothing has arrived.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Holds it against the whole stream of the other end. Panics: where a byte differs, is missing or too many.
    #[track_caller]
    pub fn check(&self, sent: &Script) {
        assert_eq!(self.wrong, None, "the first wrong byte of {}", self.len);
        assert_eq!(self.len, sent.send, "bytes that arrived");
        let known = self.len.min(8);
        assert_eq!(
            self.key[..known],
            sent.key.to_le_bytes()[..known],
            "the stream of another connection"
        );
    }

    /// As `check`, for a stream that was cut off: what has arrived is its beginning.
    #[track_caller]
    pub fn check_prefix(&self, sent: &Script) {
        let send = self.len;
        assert!(send <= sent.send, "more than was sent");
        self.check(&Script { send, ..*sent });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(script: &Script) -> Vec<u8> {
        let mut bytes = vec![0; script.send + 3];
        let n = script.fill(0, &mut bytes);
        bytes.truncate(n);
        bytes
    }

    fn accepts(bytes: &[u8], script: &Script) -> bool {
        let mut taken = Taken::default();
        taken.take(bytes);
        std::panic::catch_unwind(|| taken.check(script)).is_ok()
    }

    #[test]
    fn only_the_stream_itself_passes() {
        let script = Script::new(77, 1_000);
        let good = stream(&script);
        assert!(accepts(&good, &script));
        let mut swapped = good.clone();
        swapped.swap(500, 501);
        let mut doubled = good.clone();
        doubled.copy_within(100..200, 200);
        for bad in [
            &good[..999],
            &swapped,
            &doubled,
            &stream(&Script::new(78, 1_000)),
        ] {
            assert!(!accepts(bad, &script));
        }
    }
}
