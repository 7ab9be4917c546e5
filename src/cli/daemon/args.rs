//! The daemon's commands as clap sees them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::wish::{
    EndpointWish, InviteWish, NetworkWish, PeerWish, PolicyWish, PublishWish, ServiceWish,
};

/// Whom to ask, and how to show the answer.
#[derive(Debug, Clone, Default, Args)]
pub struct Output {
    /// Prints JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// The switch's socket [default: that of the user's own switch]
    #[arg(long, global = true, value_name = "FILE")]
    pub socket: Option<PathBuf>,
}

/// `weft network`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Creates a network
    Create(Box<NetworkWish>),
    /// Lists networks
    Ls,
    /// Shows one network in full
    Inspect {
        /// The network.
        #[arg(value_name = "NETWORK")]
        name: String,
    },
    /// Removes networks that nothing is on
    Rm {
        /// The networks.
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
    },
    /// Removes every network that nothing is on
    Prune,
}

/// `weft endpoint`
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Connects a sandbox to a network
    Connect(Box<EndpointWish>),
    /// Disconnects a sandbox from a network
    Disconnect {
        /// The network.
        network: String,
        /// The sandbox's name.
        sandbox: String,
    },
    /// Lists endpoints
    Ls {
        /// Of one network only
        #[arg(long)]
        network: Option<String>,
    },
    /// Shows one endpoint in full
    Inspect {
        /// The network.
        network: String,
        /// The sandbox's name.
        sandbox: String,
    },
}

/// `weft publish`
#[derive(Debug, Subcommand)]
pub enum PublishCommand {
    /// Publishes ports of a sandbox
    Add(PublishWish),
    /// Lists published ports
    Ls,
    /// Takes publish rules away
    Rm {
        /// Their numbers, as listed.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u32>,
    },
}

/// `weft service`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Creates a service: a virtual address with backends
    Create(ServiceWish),
    /// Gives a service other ports or backends
    Set(ServiceWish),
    /// Lists services
    Ls {
        /// Of one network only
        #[arg(long)]
        network: Option<String>,
    },
    /// Removes a service
    Rm {
        /// The network.
        network: String,
        /// The service.
        #[arg(value_name = "SERVICE")]
        name: String,
    },
}

/// `weft peer add`
#[derive(Debug, Args)]
pub struct PeerAddArgs {
    /// The peer; or an invite, or - for one on the standard input, in the place of all the rest.
    #[command(flatten)]
    pub wish: PeerWish,
    /// What the inviting host is called here [default: what it calls itself]
    #[arg(long = "name", value_name = "NAME")]
    pub rename: Option<String>,
}

/// `weft peer`
#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Prints the line that another host runs to become a peer
    Invite(InviteWish),
    /// Adds a peer: one that is described, or the one whose invite is given in place of its name, or with - on the standard input
    Add(Box<PeerAddArgs>),
    /// Lists peers
    Ls,
    /// Shows one peer in full
    Inspect {
        /// The peer.
        #[arg(value_name = "PEER")]
        name: String,
    },
    /// Removes peers, and invites that nobody has taken
    Rm {
        /// The peers.
        #[arg(value_name = "PEER", required = true)]
        names: Vec<String>,
    },
    /// Measures the round trip to a peer
    Ping {
        /// The peer.
        #[arg(value_name = "PEER")]
        name: String,
        /// So many probes
        #[arg(long, short = 'c', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
}

/// `weft key`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Prints the public half of the host's key, which is made if there is none
    Show {
        /// The store beside which the key is [default: that of the user's own switch]
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
    },
    /// Makes the host's key and prints its public half
    New {
        /// The store beside which the key is [default: that of the user's own switch]
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
        /// Also in place of one that is there, which a switch that runs then leaves at once: peers do not know the new one
        #[arg(long)]
        replace: bool,
        /// The socket of the switch whose key it is [default: that of the user's own switch]
        #[arg(long, value_name = "FILE")]
        socket: Option<PathBuf>,
    },
}

/// Whose policy.
#[derive(Debug, Clone, Args)]
pub struct PolicyScopeArgs {
    /// The network.
    pub network: String,
    /// One sandbox on it [default: everyone]
    #[arg(long)]
    pub sandbox: Option<String>,
}

/// `weft policy`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Sets what may pass, in place of what was set before
    Set {
        /// Whose.
        #[command(flatten)]
        scope: PolicyScopeArgs,
        /// The policy.
        #[command(flatten)]
        wish: Box<PolicyWish>,
    },
    /// Shows what may pass
    Show {
        /// Whose.
        #[command(flatten)]
        scope: PolicyScopeArgs,
    },
    /// Goes back to the default
    Rm {
        /// Whose.
        #[command(flatten)]
        scope: PolicyScopeArgs,
    },
}

/// `weft apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file.
    pub file: PathBuf,
    /// Shows the difference and changes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `weft check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file.
    pub file: PathBuf,
}

/// `weft show`
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// Learned MACs
    Macs {
        /// Of one network only
        #[arg(long)]
        network: Option<String>,
    },
    /// Members of multicast groups, routers, and who asks
    Groups {
        /// Of one network only
        #[arg(long)]
        network: Option<String>,
    },
    /// Flows
    Flows {
        /// So many at most
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Frames dropped, by reason
    Drops,
    /// Counters of every endpoint
    Stats,
    /// Workers
    Workers,
    /// Peers: state, round trip, path MTU, loss, bytes, drops
    Peers,
    /// The daemon, and what it has to tell
    Daemon,
}

/// The commands that ask the daemon, to be flattened into the command line.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Creates, lists, inspects and removes networks
    Network {
        /// What of it.
        #[command(subcommand)]
        command: NetworkCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Connects, disconnects, lists and inspects endpoints
    Endpoint {
        /// What of it.
        #[command(subcommand)]
        command: EndpointCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Adds, lists and removes published ports
    Publish {
        /// What of it.
        #[command(subcommand)]
        command: PublishCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Creates, changes, lists and removes services
    Service {
        /// What of it.
        #[command(subcommand)]
        command: ServiceCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Sets, shows and removes policies of networks and endpoints
    Policy {
        /// What of it.
        #[command(subcommand)]
        command: PolicyCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Invites, adds, lists, inspects, removes and pings peers: other hosts
    Peer {
        /// What of it.
        #[command(subcommand)]
        command: PeerCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Makes and shows the host's key
    Key {
        /// What of it.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Makes everything as a file says, and changes only the difference
    Apply {
        /// Which file.
        #[command(flatten)]
        args: ApplyArgs,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Checks a file and points at what is wrong in it
    Check(CheckArgs),
    /// Shows tables of the switch
    Show {
        /// Which.
        #[command(subcommand)]
        command: ShowCommand,
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
    /// Ends the switch: interfaces go, what was made stays for the next start
    Down {
        /// Whom to ask.
        #[command(flatten)]
        output: Output,
    },
}
