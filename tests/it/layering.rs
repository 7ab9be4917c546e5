//! The rules of the layout that no compiler checks, read from the sources.
//!
//! In the core the direction is `time addr verdict` < `wire frame sync` < the stages < `pipeline`.
//! A stage imports nothing beside it, with these exceptions: `nat` may import `conntrack`; `flow`,
//! which turns frames into the host's sockets and back, may import `conntrack` for its tables,
//! `policy` for the rule on the host's own addresses, `respond` for the ICMP errors about a packet,
//! and `frag` and `gso` to cut what it sends; `tunnel` may import `gso` to join what arrives, and
//! `l2` for the groups of multicast that hosts tell each other of. Every stage may import `flow::host`, the traits by which
//! the core asks the world. `events` (what the host reports) and
//! `gateway` (the switch's own station) are parts of `pipeline`, and its peers.

use crate::source::{Source, files, rust};

const CORE: &str = "switch-core/src";

/// Where packets pass, and so nothing may wait for another thread.
const NO_LOCKS: &[&str] = &[CORE, "src/worker", "src/endpoint", "src/host/sockets"];

/// Paths of the standard library and of crates that reach the world outside.
const WORLD: &[&str] = &[
    "libc",
    "nix",
    "mio",
    "socket2",
    "tokio",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::path",
    // Random bytes come from the caller, as time does, so that a simulation repeats.
    "ring::rand",
];

/// Names of things that make a thread wait for another.
const LOCKS: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "Barrier",
    "mpsc",
    "parking_lot",
    "crossbeam::channel",
    "ShardedLock",
];

/// Beside the order of the layers: who may import a stage of the same layer.
const BESIDE: &[(&str, &str)] = &[
    ("nat", "conntrack"),
    ("flow", "conntrack"),
    ("flow", "policy"),
    ("flow", "respond"),
    ("flow", "frag"),
    ("flow", "gso"),
    ("tunnel", "gso"),
    ("tunnel", "l2"),
];

/// In the shell: who must not know whom.
const STRANGERS: &[(&str, &[&str])] = &[
    ("src/worker", &["cli", "frontend", "control", "config"]),
    (
        "src/endpoint",
        &["cli", "frontend", "control", "config", "worker"],
    ),
    ("src/frontend", &["worker", "endpoint", "host"]),
];

const MAX_LINES: usize = 500;

/// Fails with all violations at once.
fn none(violations: &[String], rule: &str) {
    assert!(
        violations.is_empty(),
        "{rule}:\n  {}",
        violations.join("\n  ")
    );
}

/// Whether `path` is `prefix` or inside it.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Production code of the core: not its tests.
fn core() -> Vec<Source> {
    let mut sources = rust(CORE);
    assert!(!sources.is_empty(), "the core has sources");
    sources.retain(|source| !source.is_test());
    sources
}

#[test]
fn the_core_reaches_no_world() {
    let mut found = Vec::new();
    for source in core() {
        for path in source.paths() {
            if WORLD.iter().any(|world| within(&path, world)) {
                found.push(format!("{}: {path}", source.path));
            }
        }
    }
    none(
        &found,
        "the core has no descriptor, file, thread, process or clock",
    );
}

/// The layer of the stages, which do not know each other.
const STAGE: u8 = 2;

/// The layer of a module of the core.
fn layer(module: &str) -> u8 {
    match module {
        "time" | "addr" | "verdict" => 0,
        "wire" | "frame" | "sync" => 1,
        "pipeline" | "events" | "gateway" => 3,
        "testing" => 4,
        _ => STAGE,
    }
}

/// The modules from the root of the core to the file.
fn module_of(path: &str) -> Vec<&str> {
    let inner = path.strip_prefix(CORE).unwrap_or(path).trim_matches('/');
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    inner.split('/').collect()
}

/// The top module of the core that `path`, named inside `module`, leads to.
fn leads_to<'a>(path: &'a str, module: &[&'a str]) -> Option<&'a str> {
    let mut steps = path.split("::").peekable();
    if steps.next_if_eq(&"crate").is_some() {
        return steps.next();
    }
    let ups = path.split("::").take_while(|&step| step == "super").count();
    if ups == 0 || ups < module.len() {
        // Inside its own module, or another crate's.
        return None;
    }
    steps.nth(ups)
}

#[test]
fn layers_import_downwards() {
    let mut found = Vec::new();
    for source in core() {
        let module = module_of(&source.path);
        let Some(&from) = module.first() else {
            continue;
        };
        if from == "lib" {
            continue;
        }
        for path in source.paths() {
            let Some(to) = leads_to(&path, &module) else {
                continue;
            };
            let fine = from == to
                || layer(to) < layer(from)
                || (layer(to) == layer(from) && layer(from) != STAGE)
                || BESIDE.contains(&(from, to));
            // What the stages ask of the world: traits, with no code of a flow behind them.
            let world = path.contains("flow::host");
            // A macro or a type at the root has no layer.
            if !fine && !world && to.starts_with(char::is_lowercase) {
                found.push(format!("{}: {path}", source.path));
            }
        }
    }
    none(&found, "imports go from a later layer to an earlier one");
}

#[test]
fn nothing_waits_where_packets_pass() {
    let mut found = Vec::new();
    for dir in NO_LOCKS {
        for source in rust(dir).iter().filter(|source| !source.is_test()) {
            let mut names = source.paths();
            names.extend(source.tokens());
            for name in names {
                if LOCKS.iter().any(|lock| within(&name, lock)) {
                    found.push(format!("{}: {name}", source.path));
                }
            }
        }
    }
    none(
        &found,
        "no lock and no blocking channel in the packet's way",
    );
}

#[test]
fn the_shell_keeps_its_directions() {
    let mut found = Vec::new();
    for (dir, strangers) in STRANGERS {
        for source in rust(dir).iter().filter(|source| !source.is_test()) {
            for path in source.paths() {
                if strangers
                    .iter()
                    .any(|s| within(&path, &format!("crate::{s}")))
                {
                    found.push(format!("{}: {path}", source.path));
                }
            }
        }
    }
    none(&found, "modules of the shell that must not know each other");
}

#[test]
fn files_are_short() {
    let found: Vec<String> = files(".")
        .iter()
        .filter(|source| source.path.ends_with(".rs"))
        .map(|source| (source, source.text.lines().count()))
        .filter(|&(_, lines)| lines > MAX_LINES)
        .map(|(source, lines)| format!("{}: {lines} lines", source.path))
        .collect();
    none(&found, "files of more than 500 lines");
}

#[test]
fn unsafe_lives_in_sys_files() {
    let mut found = Vec::new();
    for source in rust("src").iter().chain(&rust(CORE)) {
        let fenced = source.path.starts_with("src/") && source.path.ends_with("/sys.rs");
        if !fenced && source.tokens().iter().any(|token| token == "unsafe") {
            found.push(source.path.clone());
        }
    }
    none(&found, "unsafe outside of the shell's sys.rs files");
}

#[test]
fn nothing_names_a_developers_machine() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let mut found = Vec::new();
    for source in files(".") {
        for (number, line) in source.text.lines().enumerate() {
            // Only from the top: `/proc/PID/root/` is a place of every machine.
            let named = |place: &&str| {
                line.match_indices(*place).any(|(at, _)| {
                    let before = line.get(..at).and_then(|text| text.chars().next_back());
                    !before.is_some_and(|c| c.is_alphanumeric() || "}.*_-".contains(c))
                })
            };
            if places.iter().any(named) {
                found.push(format!("{}:{}: {line}", source.path, number + 1));
            }
        }
    }
    none(&found, "paths of a developer's machine");
}

#[test]
fn a_path_leads_to_its_module() {
    assert_eq!(leads_to("crate::wire::tcp", &["flow", "udp"]), Some("wire"));
    assert_eq!(
        leads_to("super::super::wire::tcp", &["flow", "udp"]),
        Some("wire")
    );
    assert_eq!(leads_to("super::table::Table", &["flow", "udp"]), None);
    assert_eq!(leads_to("smoltcp::wire", &["respond"]), None);
}
