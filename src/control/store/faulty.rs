//! A disk in memory that loses power at the Nth write, for tests.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// The disk: what was synced, what was written since, and how many writes are left.
#[derive(Debug, Default)]
struct State {
    /// As after the last sync.
    synced: Vec<u8>,
    /// As the system would read it.
    seen: Vec<u8>,
    /// Writes (and cuts and syncs) until the power goes; `None` for never.
    left: Option<u64>,
    /// How many there were.
    count: u64,
    /// Half of the last write reaches the disk.
    tear: bool,
}

/// A handle on the disk: all handles see one disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

fn dead() -> io::Error {
    io::Error::other("the power is gone")
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power goes at the `n`th write from now on. What was not synced is lost, or, with `tear`, half there.
    pub(crate) fn fail_at(&self, n: u64, tear: bool) {
        let mut state = self.state();
        state.left = Some(n);
        state.tear = tear;
    }

    /// It can be written again: what was full has room. What was written is seen, synced or not.
    pub(crate) fn heal(&self) {
        self.state().left = None;
    }

    /// Writes so far.
    pub(crate) fn count(&self) -> u64 {
        self.state().count
    }

    /// The disk after the power has come back.
    pub(crate) fn reborn(&self) -> Self {
        let state = self.state();
        let kept = if state.tear {
            &state.seen
        } else {
            &state.synced
        };
        Self(Arc::new(Mutex::new(State {
            synced: kept.clone(),
            seen: kept.clone(),
            ..State::default()
        })))
    }

    fn step(&self, act: impl FnOnce(&mut State, bool)) -> io::Result<()> {
        let mut state = self.state();
        state.count += 1;
        match state.left {
            Some(0) => return Err(dead()),
            Some(1) => {
                state.left = Some(0);
                act(&mut state, true);
                return Err(dead());
            }
            Some(ref mut left) => *left -= 1,
            None => {}
        }
        act(&mut state, false);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if state.left == Some(0) {
            return Err(dead());
        }
        let at = index(offset);
        let bytes = state.seen.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(|state, last| {
            if !last {
                state.seen.resize(index(len), 0);
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(|state, last| {
            if !last {
                state.synced.clone_from(&state.seen);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(|state, last| {
            let at = index(offset);
            let len = if last { data.len() / 2 } else { data.len() };
            state.seen[at..at + len].copy_from_slice(&data[..len]);
        })
    }
}
