//! What an end of a TCP connection does, the stream it sends, and the check of what arrives.
//!
//! Every stream begins with its key, and its bytes follow from the key and their place: what arrives is checked
//! against itself as it comes, and bytes of another connection are found as well as some lost, doubled or moved.

use core::time::Duration;

use crate::time::Tick;

/// How fast an end takes what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// At once.
    #[default]
    Eager,
    /// A little at a time, with pauses.
    Choked,
    /// Nothing until the connection has stood so long, then at once.
    Late(Duration),
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
    /// After so many bytes it sends nothing for so long.
    pub rest: Option<(usize, Duration)>,
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
            rest: None,
        }
    }

    /// The same, but it reads a little at a time.
    #[must_use]
    pub const fn choked(self) -> Self {
        self.pace(Pace::Choked)
    }

    /// The same at another pace.
    #[must_use]
    pub const fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The same, but after so many bytes it sends nothing for so long.
    #[must_use]
    pub const fn rest(mut self, after: usize, time: Duration) -> Self {
        self.rest = Some((after, time));
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
        let key = self.key.to_le_bytes();
        let mut done = 0;
        while done < n {
            let piece = piece(&key, from + done, n - done);
            buf[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        }
        n
    }
}

/// Where an end stands in time: what its script lets it do by now, and when more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    opened: Option<Tick>,
    rests_until: Option<Tick>,
}

impl Clock {
    /// The connection stands.
    pub(super) fn open(&mut self, now: Tick) {
        self.opened = self.opened.or(Some(now));
    }

    /// How many bytes it may have sent by now.
    pub(super) fn may_send(&mut self, now: Tick, script: &Script, sent: usize) -> usize {
        match script.rest {
            Some((after, _)) if sent < after => after.min(script.send),
            Some((_, time)) if *self.rests_until.get_or_insert(now + time) > now => sent,
            _ => script.send,
        }
    }

    /// Whether it reads at all.
    pub(super) fn may_read(&self, now: Tick, script: &Script) -> bool {
        self.reads_at(script).is_none_or(|at| at <= now)
    }

    fn reads_at(&self, script: &Script) -> Option<Tick> {
        match script.pace {
            Pace::Late(time) => Some(self.opened? + time),
            Pace::Eager | Pace::Choked => None,
        }
    }

    /// When it may do what it may not now.
    pub(super) fn next(&self, now: Tick, script: &Script) -> Option<Tick> {
        let both = [self.reads_at(script), self.rests_until];
        both.into_iter().flatten().filter(|&at| at > now).min()
    }
}

/// After so many bytes a stream repeats. A prime: no segment's size divides it.
const PERIOD: usize = 16_381;

/// What streams are made of; each begins at a place of its own.
static BYTES: [u8; PERIOD] = {
    let mut bytes = [0; PERIOD];
    let mut i = 0;
    while i < PERIOD {
        bytes[i] = ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
        i += 1;
    }
    bytes
};

/// The bytes of a stream from place `from` on, up to `most`; fewer where a piece ends.
fn piece(key: &[u8; 8], from: usize, most: usize) -> &[u8] {
    let whole = if from < key.len() {
        &key[from..]
    } else {
        let begin = u64::from_le_bytes(*key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &BYTES[(begin as usize + from) % PERIOD..]
    };
    &whole[..whole.len().min(most)]
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
    pub fn take(&mut self, mut data: &[u8]) {
        while let [first, rest @ ..] = data {
            if self.len < 8 {
                self.key[self.len] = *first;
                self.len += 1;
                data = rest;
                continue;
            }
            let want = piece(&self.key, self.len, data.len());
            let (now, later) = data.split_at(want.len());
            if now != want && self.wrong.is_none() {
                let same = now.iter().zip(want).take_while(|(a, b)| a == b);
                self.wrong = Some(self.len + same.count());
            }
            self.len += now.len();
            data = later;
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
        let script = Script::new(77, 40_000);
        let good = stream(&script);
        assert!(accepts(&good, &script));
        let mut swapped = good.clone();
        swapped.swap(30_500, 30_501);
        let mut doubled = good.clone();
        doubled.copy_within(1_000..2_460, 2_460);
        for bad in [
            &good[..39_999],
            &swapped,
            &doubled,
            &stream(&Script::new(78, 40_000)),
        ] {
            assert!(!accepts(bad, &script));
        }
    }
}
