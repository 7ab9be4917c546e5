//! Why something that was asked for is refused: a stable code for programs, one line for people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// What went wrong. The text and the status of a code never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its text.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }
        }
    };
}

codes! {
    /// Not the form of a request, or of a file.
    BadRequest = "bad-request", 400;
    /// A name that cannot be one.
    BadName = "bad-name", 400;
    /// Not a subnet, or one that cannot be used.
    BadSubnet = "bad-subnet", 400;
    /// Not an address, or one that cannot be used.
    BadAddress = "bad-address", 400;
    /// Not a MAC address of an interface.
    BadMac = "bad-mac", 400;
    /// Not a way to name a sandbox.
    BadSandbox = "bad-sandbox", 400;
    /// Not a rule of published ports, or of a service's.
    BadPorts = "bad-ports", 400;
    /// Not a rule or limit of a policy.
    BadPolicy = "bad-policy", 400;
    /// Not a key, or one that cannot be a peer's.
    BadKey = "bad-key", 400;
    /// Not an invite, or one that does not fit this host.
    BadInvite = "bad-invite", 400;
    /// An option's value that cannot be used, or options that exclude each other.
    BadOption = "bad-option", 400;
    /// A static address outside of its network.
    AddressOutside = "address-outside", 400;
    /// Another user than the daemon's.
    OtherUser = "other-user", 403;
    /// The daemon may not enter the sandbox.
    NotPermitted = "not-permitted", 403;
    /// There is no such path in the API.
    NoRoute = "no-route", 404;
    /// There is no network of that name.
    UnknownNetwork = "unknown-network", 404;
    /// There is no endpoint of that name on the network.
    UnknownEndpoint = "unknown-endpoint", 404;
    /// There is no sandbox of that name.
    UnknownSandbox = "unknown-sandbox", 404;
    /// There is no publish rule of that number.
    UnknownPublish = "unknown-publish", 404;
    /// There is no service of that name on the network.
    UnknownService = "unknown-service", 404;
    /// There is no peer of that name.
    UnknownPeer = "unknown-peer", 404;
    /// The path does not know that method.
    NoMethod = "no-method", 405;
    /// The request took too long to arrive.
    TimeOut = "time-out", 408;
    /// A name that something else has.
    NameTaken = "name-taken", 409;
    /// A MAC address that another endpoint has.
    MacTaken = "mac-taken", 409;
    /// An address that something else has.
    AddressTaken = "address-taken", 409;
    /// A key that another peer has.
    KeyTaken = "key-taken", 409;
    /// A number of an overlay that another network has.
    VniTaken = "vni-taken", 409;
    /// Addresses that are handed out here, or by another peer.
    RangeTaken = "range-taken", 409;
    /// A subnet that overlaps another network's.
    SubnetOverlap = "subnet-overlap", 409;
    /// Every private subnet overlaps a route of the host or a network.
    NoFreeSubnet = "no-free-subnet", 409;
    /// A network without a free address.
    PoolFull = "pool-full", 409;
    /// A network with endpoints or services on it.
    NetworkInUse = "network-in-use", 409;
    /// The sandbox is on the network already.
    Connected = "connected", 409;
    /// The sandbox has an interface of that name already.
    InterfaceExists = "interface-exists", 409;
    /// A port of the host that another rule or another program has.
    PortTaken = "port-taken", 409;
    /// The namespace is gone.
    SandboxGone = "sandbox-gone", 410;
    /// A request that is too large.
    TooLarge = "too-large", 413;
    /// The kernel, or a helper of ours, has refused.
    Refused = "refused", 500;
    /// The store could not be written.
    Store = "store", 500;
    /// This switch cannot do that.
    Unsupported = "unsupported", 501;
    /// The switch is ending.
    Ending = "ending", 503;
    /// A table of the switch is full.
    Full = "full", 507;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A refusal. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// For people: what is wrong, where, what to do, in one line.
    pub message: String,
    /// The key at fault, where it is one of a table that was written; a file's place is found by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// A refusal with its code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
        }
    }

    /// Names the key at fault, unless that is known more closely already.
    #[must_use]
    pub fn at(mut self, field: &str) -> Self {
        self.field.get_or_insert_with(|| field.to_owned());
        self
    }

    /// Puts the table's name before the key's.
    #[must_use]
    pub fn inside(mut self, table: &str) -> Self {
        self.field = Some(match self.field {
            Some(field) => format!("{table}.{field}"),
            None => table.to_owned(),
        });
        self
    }
}

/// What a check of ours says, under a code.
pub(crate) fn coded<T>(code: Code, field: &str, result: anyhow::Result<T>) -> Result<T, Problem> {
    result.map_err(|e| Problem::new(code, format!("{e:#}")).at(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|c| c.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for &code in Code::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
            assert!((400..600).contains(&code.status()));
        }
    }

    #[test]
    fn fields_nest() {
        let problem = Problem::new(Code::BadName, "x").at("ip").at("other");
        assert_eq!(
            problem.inside("endpoint").field.as_deref(),
            Some("endpoint.ip")
        );
    }
}
