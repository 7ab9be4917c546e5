//! [7] The sealed protocol: an authenticated, encrypted datagram between two hosts. Neighbours: `super::vxlan`, whose
//! frames it carries.

mod cookie;
mod data;
mod drive;
mod event;
mod keys;
mod load;
mod node;
mod noise;
mod nonce;
mod peer;
mod receive;
mod refuse;
mod shared;
mod suite;
mod times;
mod window;
mod wire;

pub use data::{
    CONTROL, DATA, HEADER_LEN, OpenError, OpenKey, Opened, PARTIAL, Reserved, SealError, SendKey,
    SessionStats, TAG_LEN, receiver,
};
pub use event::{AddError, Event, NodeConfig, PeerConfig, SendError, State, Status};
pub use keys::{HostSecret, NetworkSecret, PublicKey, Random};
pub use load::MAX_SOURCES;
pub use node::Node;
pub use nonce::{REJECT_AFTER_UNITS, REKEY_AFTER_UNITS, UNIT};
pub use refuse::{Refusal, Refusals};
pub use shared::{MAX_PEERS, MAX_QUEUED, MAX_SECRETS};
pub use suite::{KEY_LEN, Suite};
pub use times::{ATTEMPT, REJECT_AFTER, REKEY_AFTER, REKEY_LATE, UNREACHABLE_AFTER};
pub use window::WINDOW;
pub use wire::{COOKIE_LEN, INITIATION_LEN, RESPONSE_LEN};

/// The longest control message that a datagram carries. Units: bytes. Source: 65,507 in UDP over IPv4.
pub const MAX_CONTROL: usize = 65_507 - HEADER_LEN - TAG_LEN;
