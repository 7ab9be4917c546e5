//! The command line as clap sees it. It only collects; `config` checks.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::daemon::{DaemonCommand, UpArgs};
use super::sidecar::SidecarArgs;
use crate::config::NetOptions;

/// A virtual switch for containers that lives wholly in user space
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    infer_subcommands = false
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Those of the daemon are known by name, so that they can be refused by name.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a command in a network of its own
    Run(RunArgs),
    /// Gives a network to a namespace that exists
    Attach(AttachArgs),
    /// Shows what this machine allows, and the command that mends what it does not
    Doctor(DoctorArgs),
    /// Shows weft at work between namespaces of its own, with measured figures
    Demo(DemoArgs),
    /// Prints completions for a shell
    Completions(CompletionArgs),
    /// Prints the manual page of weft, or of one of its commands
    Man(ManArgs),
    /// Runs the switch as a daemon: many sandboxes, many networks
    Up(UpArgs),
    /// Puts the application that it shares a network namespace with, as in a pod, on an overlay network
    Sidecar(SidecarArgs),
    /// What the daemon is asked.
    #[command(flatten)]
    Daemon(DaemonCommand),
    /// Follows one packet through the switch (from weft 0.2)
    Trace(LaterArgs),
    /// Starts and stops captures (from weft 0.2)
    Capture(LaterArgs),
    /// Shows the busiest flows as they change (from weft 0.2)
    Top(LaterArgs),
    /// Sends a capture through the switch again (from weft 0.2)
    Replay(LaterArgs),
}

impl Command {
    /// Its name, as typed.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Attach(_) => "attach",
            Self::Doctor(_) => "doctor",
            Self::Demo(_) => "demo",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Up(_) => "up",
            Self::Sidecar(_) => "sidecar",
            Self::Daemon(_) => "daemon",
            Self::Trace(_) => "trace",
            Self::Capture(_) => "capture",
            Self::Top(_) => "top",
            Self::Replay(_) => "replay",
        }
    }
}

/// `weft run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The network's options.
    #[command(flatten)]
    pub options: NetOptions,
    /// Reads options from a TOML file; those given here win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stays the calling user inside, in place of root
    #[arg(long)]
    pub keep_id: bool,
    /// The command and its arguments; what follows its first word is its own
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `weft attach`
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The network's options.
    #[command(flatten)]
    pub options: NetOptions,
    /// Reads options from a TOML file; those given here win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A process, or a network namespace by its path or its name under /run/netns
    #[arg(value_name = "PID|NETNS")]
    pub target: String,
}

/// `weft doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
    /// Runs the probes that need a namespace to throw away, and prints what they found.
    #[arg(long, hide = true)]
    pub probe_namespace: bool,
}

/// `weft demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// So many hosts: 1 for sandboxes and the outside, 2 for an encrypted network of two hosts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub hosts: u8,
    /// One of the demo's own parts.
    #[arg(long, hide = true)]
    pub part: Option<String>,
}

/// `weft completions`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Shells that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// elvish
    Elvish,
}

/// `weft man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command; weft itself if none is named
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
    /// Writes every page to a file of this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

/// A command of a later release: whatever follows is taken, so that its name is what the error is about.
#[derive(Debug, Args)]
pub struct LaterArgs {
    /// Anything.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> RunArgs {
        let words = std::iter::once("weft").chain(line.split_whitespace());
        let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not run: {line}")
        };
        args
    }

    fn error(line: &str) -> String {
        let words = std::iter::once("weft").chain(line.split_whitespace());
        crate::cli::exit::usage_line(&Cli::try_parse_from(words).unwrap_err())
    }

    #[test]
    fn the_tree_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        for (line, command) in [
            ("run bash", "bash"),
            ("run -- bash", "bash"),
            (
                "run bash -c true --mtu 9000 -p 1",
                "bash -c true --mtu 9000 -p 1",
            ),
            ("run --mtu 9000 -- curl -v -- x", "curl -v -- x"),
            (
                "run -p 8080:80 -- python3 -m http.server 80",
                "python3 -m http.server 80",
            ),
            (
                "run -p 8080:80 python3 -m http.server 80",
                "python3 -m http.server 80",
            ),
            ("run env -- --help", "env -- --help"),
            ("run ls --help", "ls --help"),
            ("run -- --odd", "--odd"),
        ] {
            let args = run(line);
            let got: Vec<_> = args.command.iter().map(|w| w.to_string_lossy()).collect();
            assert_eq!(got.join(" "), command, "{line}");
        }
        assert_eq!(run("run bash --mtu 9000").options.mtu, None);
    }

    #[test]
    fn every_option_has_its_place() {
        let args = run(
            "run --network none --network web --name n --hostname h --alias 22 --alias 23 --socket 24 --ifname e --kind packet --ip 1 --ip6 2 --subnet 3 --subnet6 4 --mac 5 --mtu 6 \
            -p 7 --publish 8 --expose 9 -P --dns 10 --dns-search 11 --add-host 12 --host-loopback 13 --host-access --pcap 14 --impair 21 \
            --workers 15 --queues 16 --config 17 --ready-fd 18 --pid-file 19 --keep-id --user 20 --udp-filter endpoint-independent \
            --vlan 25 --trunk 26 --native 27 --priority -28 --no-configure --sysctl 29 x",
        );
        let o = &args.options;
        assert_eq!(o.publish, ["7", "8"]);
        assert_eq!(o.network, ["none", "web"]);
        assert_eq!(o.alias, ["22", "23"]);
        assert!(o.publish_all && o.host_access && args.keep_id);
        assert_eq!(
            (o.workers, o.queues, o.ready_fd, o.mtu),
            (Some(15), Some(16), Some(18), Some(6))
        );
        assert_eq!(
            (o.vlan, o.trunk.as_deref(), o.native, o.priority),
            (Some(25), Some("26"), Some(27), Some(-28))
        );
        assert!(o.no_configure && o.sysctl == ["29"]);
    }

    #[test]
    fn later_commands_take_anything() {
        for line in ["trace eth0 any", "replay -x f", "top"] {
            let words = std::iter::once("weft").chain(line.split_whitespace());
            let name = Cli::try_parse_from(words).unwrap().command.name();
            assert_eq!(Some(name), line.split_whitespace().next(), "{line}");
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        let lines = [
            "",
            "runn x",
            "run",
            "run --publis 80 x",
            "run --mtu big x",
            "run --udp-filter none x",
            "run -p",
            "attach",
            "attach 1 2",
            "doctor --jsn",
            "run --mtu 1 --mtu 2 x",
            "run --keep-id=yes x",
            "-x",
            "attach --keep-id 1",
        ];
        let errors = lines.map(|l| format!("{l}\n    {}", error(l)));
        insta::assert_snapshot!(errors.join("\n"), @r"
            no command given; see 'weft --help'
        runn x
            unrecognized subcommand 'runn'; tip: a similar subcommand exists: 'run'; see 'weft --help'
        run
            the following required arguments were not provided: <COMMAND>...; see 'weft run --help'
        run --publis 80 x
            unexpected argument '--publis' found; tip: a similar argument exists: '--publish'; see 'weft run --help'
        run --mtu big x
            invalid value 'big' for '--mtu <BYTES>': invalid digit found in string; see 'weft --help'
        run --udp-filter none x
            invalid value 'none' for '--udp-filter <FILTER>'; [possible values: endpoint-independent, address-dependent, address-and-port-dependent]; see 'weft --help'
        run -p
            a value is required for '--publish <PORTS>' but none was supplied; see 'weft --help'
        attach
            the following required arguments were not provided: <PID|NETNS>; see 'weft attach --help'
        attach 1 2
            unexpected argument '2' found; see 'weft attach --help'
        doctor --jsn
            unexpected argument '--jsn' found; tip: a similar argument exists: '--json'; see 'weft doctor --help'
        run --mtu 1 --mtu 2 x
            the argument '--mtu <BYTES>' cannot be used multiple times; see 'weft run --help'
        run --keep-id=yes x
            unexpected value 'yes' for '--keep-id' found; no more were expected; see 'weft run --help'
        -x
            unexpected argument '-x' found; see 'weft --help'
        attach --keep-id 1
            unexpected argument '--keep-id' found; see 'weft attach --help'
        ");
    }
}
