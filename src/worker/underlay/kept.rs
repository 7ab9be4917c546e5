//! Stage 7: Small frames that wait for the end of the batch, so that those of one way leave by one call.

use std::io::{self, IoSlice};
use std::ops::Range;

use arrayvec::ArrayVec;
use switch_core::addr::PortId;

use crate::endpoint::udp::{BATCH, MAX_SEGMENTS, MAX_SEND, Name, Outgoing, UnderlaySocket};

/// Bytes that wait at most.
const BYTES: usize = 512 * 1024;
/// Frames that wait at most.
const FRAMES: usize = 1024;
/// Runs that wait at most.
const RUNS: usize = 256;
/// Pieces of the runs that one call gives.
const PIECES: usize = 512;

/// Datagrams of one size to one place by one socket.
#[derive(Debug, Clone, Copy)]
struct Run {
    port: PortId,
    to: Name,
    socket: u8,
    tos: u8,
    /// Nothing may follow: the last is short.
    closed: bool,
    size: usize,
    bytes: usize,
    count: usize,
    /// The first and the last of its datagrams.
    ends: (usize, usize),
}

/// A datagram, and the next of its run.
#[derive(Debug, Clone)]
struct Datagram {
    at: Range<usize>,
    next: Option<usize>,
}

/// A run to which more may be added: which one, of which batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Open {
    batch: u64,
    run: usize,
}

/// What is the same for a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct To {
    pub(super) port: PortId,
    pub(super) name: Name,
    /// The place of the socket.
    pub(super) socket: u8,
    pub(super) tos: u8,
    /// The kernel cuts runs.
    pub(super) segments: bool,
}

/// All that waits.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    datagrams: Vec<Datagram>,
    runs: Vec<Run>,
    batch: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(BYTES),
            datagrams: Vec::with_capacity(FRAMES),
            runs: Vec::with_capacity(RUNS),
            batch: 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// True if nothing more of `len` bytes may be added before what waits has left.
    pub(super) fn is_full(&self, len: usize) -> bool {
        self.bytes.len() + len > BYTES || self.datagrams.len() == FRAMES || self.runs.len() == RUNS
    }

    /// True if the run waits still.
    pub(super) fn holds(&self, open: Open) -> bool {
        open.batch == self.batch
    }

    /// Bytes that wait: where the next datagram starts.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where the next datagram is put together: its bytes are added here, and then [`Self::add`]ed, or cut off.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes the bytes from `start` on a datagram, of the open run if it is one of that.
    pub(super) fn add(&mut self, start: usize, to: &To, open: &mut Open) {
        let len = self.bytes.len() - start;
        let this = self.datagrams.len();
        self.datagrams.push(Datagram {
            at: start..start + len,
            next: None,
        });
        if open.batch == self.batch
            && let Some(run) = self.runs.get_mut(open.run)
            && to.segments
            && !run.closed
            && run.socket == to.socket
            && run.tos == to.tos
            && len <= run.size
            && run.count < MAX_SEGMENTS
            && run.bytes + len <= MAX_SEND
        {
            self.datagrams[run.ends.1].next = Some(this);
            run.ends.1 = this;
            run.count += 1;
            run.bytes += len;
            run.closed = len < run.size;
            return;
        }
        *open = Open {
            batch: self.batch,
            run: self.runs.len(),
        };
        self.runs.push(Run {
            port: to.port,
            to: to.name,
            socket: to.socket,
            tos: to.tos,
            closed: false,
            size: len,
            bytes: len,
            count: 1,
            ends: (this, this),
        });
    }

    /// Sends all. `failed` is told of each run that did not go: by which port, how many datagrams, and why.
    pub(super) fn flush(
        &mut self,
        sockets: &mut [Option<UnderlaySocket>],
        mut failed: impl FnMut(PortId, usize, &io::Error),
    ) {
        for (place, socket) in (0..).zip(sockets.iter_mut()) {
            let Some(socket) = socket else { continue };
            let mut from = 0;
            while let Some(next) = self.send_some(place, socket, from, &mut failed) {
                from = next;
            }
        }
        self.bytes.clear();
        self.datagrams.clear();
        self.runs.clear();
        self.batch += 1;
    }

    /// Sends the next runs of a socket by one call. Returns where to go on, if there may be more.
    fn send_some(
        &self,
        place: u8,
        socket: &mut UnderlaySocket,
        from: usize,
        failed: &mut impl FnMut(PortId, usize, &io::Error),
    ) -> Option<usize> {
        let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
        let mut chosen: ArrayVec<(usize, Range<usize>), BATCH> = ArrayVec::new();
        for (i, run) in self
            .runs
            .iter()
            .enumerate()
            .skip(from)
            .filter(|(_, r)| r.socket == place)
        {
            if chosen.is_full() || pieces.remaining_capacity() < run.count {
                break;
            }
            let start = pieces.len();
            self.pieces_of(run, &mut pieces);
            chosen.push((i, start..pieces.len()));
        }
        let (first, last) = (chosen.first()?.0, chosen.last()?.0);
        let out: ArrayVec<Outgoing<'_>, BATCH> = chosen
            .iter()
            .map(|(i, range)| self.outgoing(&self.runs[*i], &pieces[range.clone()]))
            .collect();
        match socket.send_many(&out) {
            Ok(sent) if sent == out.len() => Some(last + 1),
            Ok(sent) => Some(chosen[sent].0),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                self.send_singly(socket, &self.runs[first], failed);
                Some(first + 1)
            }
            Err(e) => {
                failed(self.runs[first].port, self.runs[first].count, &e);
                Some(first + 1)
            }
        }
    }

    fn outgoing<'a>(&'a self, run: &'a Run, pieces: &'a [IoSlice<'a>]) -> Outgoing<'a> {
        let segment = if run.count > 1 { run.size } else { 0 };
        Outgoing {
            to: &run.to,
            tos: run.tos,
            segment: u16::try_from(segment).unwrap_or(0),
            pieces,
        }
    }

    /// Neighbours in memory are one piece.
    fn pieces_of<'a>(&'a self, run: &Run, pieces: &mut ArrayVec<IoSlice<'a>, PIECES>) {
        let mut whole = self.datagrams[run.ends.0].at.clone();
        let mut next = self.datagrams[run.ends.0].next;
        while let Some(i) = next {
            let at = self.datagrams[i].at.clone();
            if at.start == whole.end {
                whole.end = at.end;
            } else {
                pieces.push(IoSlice::new(&self.bytes[whole]));
                whole = at;
            }
            next = self.datagrams[i].next;
        }
        pieces.push(IoSlice::new(&self.bytes[whole]));
    }

    fn send_singly(
        &self,
        socket: &mut UnderlaySocket,
        run: &Run,
        failed: &mut impl FnMut(PortId, usize, &io::Error),
    ) {
        let mut next = Some(run.ends.0);
        while let Some(i) = next {
            let one = &self.datagrams[i];
            let out = Outgoing {
                to: &run.to,
                tos: run.tos,
                segment: 0,
                pieces: &[IoSlice::new(&self.bytes[one.at.clone()])],
            };
            if let Err(e) = socket.send(&out) {
                failed(run.port, 1, &e);
            }
            next = one.next;
        }
    }
}
