//! One end of a TCP connection in a guest: the application that follows a script.

use core::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use crate::testing::Random;
use crate::testing::script::{Clock, End, Pace, Script, Taken};
use crate::time::Tick;

/// Pauses of a choked reader.
const PAUSE: Duration = Duration::from_millis(2);

/// The application's end of a connection.
#[derive(Debug)]
pub struct Tcp {
    pub(super) handle: SocketHandle,
    pub(super) script: Script,
    sent: usize,
    taken: Taken,
    established: bool,
    peer_ended: bool,
    crossed: bool,
    state: State,
    closing: bool,
    clock: Clock,
    /// When it reads again.
    pause: Option<Tick>,
    /// When it has something to do, if the stack says nothing before.
    pub(super) next: Option<Tick>,
}

impl Tcp {
    pub(super) fn new(handle: SocketHandle, script: Script) -> Self {
        Self {
            handle,
            script,
            sent: 0,
            taken: Taken::default(),
            established: false,
            peer_ended: false,
            crossed: false,
            state: State::Closed,
            closing: false,
            clock: Clock::default(),
            pause: None,
            next: None,
        }
    }

    /// What has arrived.
    #[must_use]
    pub fn taken(&self) -> &Taken {
        &self.taken
    }

    /// What it does.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// It has stood at some time.
    #[must_use]
    pub fn was_established(&self) -> bool {
        self.established
    }

    /// It waits for its connection.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.state == State::Listen
    }

    /// Both ends have closed, each after the other's last byte.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.peer_ended && matches!(self.state, State::Closed | State::TimeWait)
    }

    /// The other end has closed; this one may still send.
    #[must_use]
    pub fn peer_has_ended(&self) -> bool {
        self.peer_ended
    }

    /// Both ends closed before they knew of the other's.
    #[must_use]
    pub fn closes_crossed(&self) -> bool {
        self.crossed
    }

    /// It was refused or reset.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.peer_ended && self.state == State::Closed
    }

    /// Does what can be done. Returns whether it did anything.
    pub(super) fn drive(
        &mut self,
        now: Tick,
        socket: &mut Socket<'_>,
        random: &mut Random,
    ) -> bool {
        let before = (self.sent, self.taken.len(), self.closing);
        self.state = socket.state();
        self.established |= socket.may_send();
        if self.established {
            self.clock.open(now);
        }
        self.crossed |= self.state == State::Closing;
        self.read(now, socket, random);
        self.peer_ended |= matches!(
            self.state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        self.write(now, socket);
        let end = match self.script.end {
            End::Sent | End::Reset => true,
            // Bytes that wait are read first.
            End::Second => self.peer_ended && !socket.can_recv(),
            End::Never => false,
        };
        // In LAST-ACK this stack heeds no window update, and what waits for one would never go.
        let clear = socket.state() != State::CloseWait || socket.send_queue() == 0;
        let end = end && (clear || self.script.end == End::Reset);
        if end && self.established && !self.closing && self.sent == self.script.send {
            self.closing = true;
            if self.script.end == End::Reset {
                socket.abort();
            } else {
                socket.close();
            }
        }
        self.next = [self.pause, self.clock.next(now, &self.script)]
            .into_iter()
            .flatten()
            .min();
        before != (self.sent, self.taken.len(), self.closing)
    }

    fn read(&mut self, now: Tick, socket: &mut Socket<'_>, random: &mut Random) {
        if self.pause.is_some_and(|at| at > now) || !self.clock.may_read(now, &self.script) {
            return;
        }
        self.pause = None;
        while socket.can_recv() {
            let most = match self.script.pace {
                Pace::Eager | Pace::Late(_) => usize::MAX,
                Pace::Choked => 1 + random.below(3_000) as usize,
            };
            let taken = &mut self.taken;
            let read = socket.recv(|data| {
                let n = data.len().min(most);
                taken.take(&data[..n]);
                (n, ())
            });
            read.unwrap();
            if self.script.pace == Pace::Choked && random.chance(30) {
                self.pause = Some(now + PAUSE);
                return;
            }
        }
    }

    fn write(&mut self, now: Tick, socket: &mut Socket<'_>) {
        while socket.can_send() {
            let (script, sent) = (self.script, self.sent);
            let most = self.clock.may_send(now, &script, sent) - sent;
            if most == 0 {
                return;
            }
            let wrote = socket.send(|room| {
                let n = room.len().min(most);
                let n = script.fill(sent, &mut room[..n]);
                (n, n)
            });
            self.sent += wrote.unwrap();
        }
    }
}
