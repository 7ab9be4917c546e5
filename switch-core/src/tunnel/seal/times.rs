//! The protocol's times, and what they follow from.

use core::time::Duration;

/// The initiator of a session makes a new one after this. Source: WireGuard, REKEY_AFTER_TIME.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The other side makes one after this, where the initiator did not: it may have forgotten that it was.
/// Source: WireGuard's initiator that only receives waits until 165 s; that leaves too few tries at 30 % loss.
pub const REKEY_LATE: Duration = Duration::from_secs(150);
/// No key is used longer than this. Source: WireGuard, REJECT_AFTER_TIME.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// The first wait for a response; it doubles with each try. Longer than most paths' round trip: a second try makes the
/// answer to the first useless. WireGuard waits 5 s, which at 30 % loss is a long silence.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(300);
/// The longest wait while there is hope. Source: WireGuard, REKEY_TIMEOUT.
pub(super) const LONG_WAIT: Duration = Duration::from_secs(5);
/// How long that is. Source: WireGuard, REKEY_ATTEMPT_TIME.
pub const ATTEMPT: Duration = Duration::from_secs(90);
/// The wait after it, for peers that a session is always kept with; for others the attempt ends.
pub(super) const SLOW_WAIT: Duration = Duration::from_secs(15);
/// When a peer that does not answer is said to be unreachable.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(10);

/// How often the counters of a session that is used are looked at.
pub(super) const LOOK_BUSY: Duration = Duration::from_millis(500);
/// How often those of one that is not. Also the time in which a receiver that has nothing to send says that it hears:
/// at the look after the one that saw something come.
pub(super) const LOOK_IDLE: Duration = Duration::from_secs(1);
/// A peer that was sent something, and not heard for this long, has lost the session, or its path: a handshake tells.
/// Two looks of the peer's and a slow round trip are less. WireGuard takes 15 s, with a keep-alive after 10.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Who was heard this recently is there, whatever a stray or a stale message suggests.
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// Strays, which anyone can send, are looked up no more often: it walks all peers.
pub(super) const STRAY_GAP: Duration = Duration::from_millis(100);
/// A peer that was sent data this recently gets a new session, also where none is kept at all times.
pub(super) const RECENT: Duration = Duration::from_secs(30);
/// Initiations of one peer are answered no more often. Source: Linux WireGuard, INITIATIONS_PER_SECOND 50.
pub(super) const ANSWER_GAP: Duration = Duration::from_millis(20);
/// How long a session that was asked for by `demand` is kept. Longer than any session.
pub(super) const DEMAND: Duration = Duration::from_secs(200);
