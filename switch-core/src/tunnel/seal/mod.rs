//! [7] The sealed protocol: an authenticated, encrypted datagram between two hosts. Neighbours: `super::vxlan`, whose
//! frames it carries.

mod data;
mod nonce;
mod suite;
mod window;

pub use data::{
    CONTROL, DATA, HEADER_LEN, OpenError, OpenKey, Opened, PARTIAL, Reserved, SealError, SendKey,
    SessionStats, TAG_LEN, receiver,
};
pub use nonce::{REJECT_AFTER_UNITS, REKEY_AFTER_UNITS, UNIT};
pub use suite::{KEY_LEN, Suite};
pub use window::WINDOW;
