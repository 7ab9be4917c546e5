//! Numbers by which control, store and data plane name the same thing. Given out once, never again.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A network.
    NetworkId
);
id!(
    /// An endpoint: one interface of one sandbox on one network.
    EndpointId
);
id!(
    /// A publish rule.
    PublishId
);
id!(
    /// A service: a virtual address with backends.
    ServiceId
);
id!(
    /// A peer: another host.
    PeerId
);
