//! The fuzzer's seeds and past crashes, through the same code as the fuzz targets. What a crash broke
//! stands in one sentence in its file's name.

use std::fs;
use std::path::Path;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the fuzz crate's library, which stands on nothing but the core"
)]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Runs a target over its committed inputs.
#[track_caller]
fn replay(target: &str, run: fn(&[u8])) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for dir in ["fuzz/corpus", "tests/regress"] {
        let Ok(entries) = fs::read_dir(top.join(dir).join(target)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            // Shown when the test fails.
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            count += 1;
        }
    }
    assert!(count > 0, "no inputs for {target}");
}

#[test]
fn underlay() {
    replay("underlay", fuzz::underlay::run);
}

#[test]
fn announce() {
    replay("announce", fuzz::announce::run);
}

#[test]
fn frame() {
    replay("frame", fuzz::frame::run);
}

#[test]
fn rewrite() {
    replay("rewrite", fuzz::rewrite::run);
}

#[test]
fn pipeline() {
    replay("pipeline", fuzz::pipeline::run);
}

#[test]
fn dns() {
    replay("dns", fuzz::dns::run);
}

#[test]
fn dhcp() {
    replay("dhcp", fuzz::dhcp::run);
}

#[test]
fn multicast() {
    replay("multicast", fuzz::multicast::run);
}

#[test]
fn seal() {
    replay("seal", fuzz::seal::run);
}

#[test]
fn sim() {
    replay("sim", fuzz::sim::run);
}
