//! The command line from outside: exit codes, and errors of one line that say what is wrong, where, and what to do.

use std::fs;

use assert_cmd::Command;

/// What weft printed and how it ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn weft(args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    let output = command.args(args).env_remove("WEFT_LOG").output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Asserts weft's own failure: 125, nothing on stdout, one line on stderr that holds `part`.
fn refused(args: &[&str], part: &str) {
    let ended = weft(args);
    assert_eq!(ended.code, Some(125), "{args:?}: {}", ended.err);
    assert_eq!(ended.out, "", "{args:?}");
    assert_eq!(ended.err.lines().count(), 1, "{args:?}: {}", ended.err);
    assert!(ended.err.starts_with("weft: "), "{args:?}: {}", ended.err);
    assert!(ended.err.contains(part), "{args:?}: {}", ended.err);
}

#[test]
fn usage_is_refused_in_one_line() {
    refused(&[], "no command given; see 'weft --help'");
    refused(&["weave"], "'weave'");
    refused(&["run"], "<COMMAND>");
    refused(&["run", "--publis", "80", "true"], "'--publish'");
    refused(&["run", "--mtu", "big", "true"], "--mtu");
    refused(&["attach"], "<PID|NETNS>");
    refused(&["attach", "--keep-id", "1"], "--keep-id");
    refused(&["doctor", "now"], "'now'");
}

#[test]
fn bad_values_are_refused_before_anything_starts() {
    refused(&["run", "-p", "0:80", "true"], "publish '0:80': port 0");
    refused(
        &["run", "-p", "80", "-p", "127.0.0.1:80", "true"],
        "overlaps",
    );
    refused(
        &["run", "--subnet", "10.1.2.0/24", "--ip", "10.1.3.4", "true"],
        "outside the subnet 10.1.2.0/24",
    );
    refused(&["run", "--mtu", "65522", "true"], "65521");
    refused(&["run", "--ifname", "lo", "true"], "--ifname 'lo'");
    refused(
        &["run", "--network", "none", "-p", "80", "true"],
        "--publish needs a network",
    );
    refused(
        &["run", "--impair", "loss=1", "true"],
        "--impair loss=1: give a share of 0% to 100%",
    );
    refused(
        &["attach", "--impair", "delay=2", "1"],
        "--impair delay=2: give a time up to 10s",
    );
    refused(
        &["run", "--network", "none", "--impair", "loss=1%", "true"],
        "--impair needs a network",
    );
    refused(&["attach", "0"], "attach '0'");
}

#[test]
fn later_commands_name_their_release() {
    let release = "comes with weft 0.2";
    for name in ["trace", "capture", "top", "replay"] {
        refused(&[name], release);
        refused(
            &[name, "create", "--driver", "bridge"],
            &format!("'weft {name}' {release}"),
        );
    }
}

#[test]
fn a_file_of_options_is_checked_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    let path = path.to_str().unwrap();
    refused(&["run", "--config", path, "true"], "No such file");
    fs::write(path, "mtu = 1500\nsubnett = 'x'\n").unwrap();
    refused(
        &["run", "--config", path, "true"],
        &format!("config {path}:2:1: unknown field `subnett`"),
    );
    fs::write(path, "publish = ['80', '80']\n").unwrap();
    refused(&["run", "--config", path, "true"], "overlaps");
    fs::write(path, "impair = 'delay=2'\n").unwrap();
    refused(&["run", "--config", path, "true"], "--impair delay=2");
}

#[test]
fn help_and_version_succeed_on_stdout() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let ended = weft(args);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{args:?}");
        assert!(ended.out.contains("weft"), "{args:?}");
    }
}

#[test]
fn a_wrong_log_filter_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    let output = command
        .args(["run", "true"])
        .env("WEFT_LOG", "weft=loud")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("WEFT_LOG='weft=loud'")
    );
}

#[test]
fn doctor_agrees_with_itself() {
    let text = weft(&["doctor"]);
    let json = weft(&["doctor", "--json"]);
    assert_eq!(text.code, json.code);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["can_run"].as_bool(), Some(json.code == Some(0)));
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() > 10);
    for check in checks {
        assert!(
            text.out.contains(check["name"].as_str().unwrap()),
            "{check}"
        );
        // What is wrong has its price named.
        let bad = matches!(check["status"].as_str(), Some("warn" | "fail"));
        assert!(!bad || check["cost"].is_string(), "{check}");
    }
}

#[test]
fn an_invite_is_read_from_the_standard_input() {
    for (text, part) in [
        ("", "not an invite"),
        ("weft1.AAAA\n", "cut short"),
        ("weft peer add weft1.", "cut short"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        let output = command
            .args(["peer", "add", "-"])
            .env_remove("WEFT_LOG")
            .write_stdin(text)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{told}");
        assert!(told.contains(part) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn completions_and_pages_are_printed() {
    for shell in ["bash", "zsh", "fish", "elvish"] {
        let ended = weft(&["completions", shell]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{shell}");
        assert!(ended.out.contains("host-loopback"), "{shell}");
    }
    refused(&["completions", "tcsh"], "'tcsh'");
    for (args, title) in [
        (&["man"][..], ".TH weft 1"),
        (&["man", "run"], ".TH weft-run 1"),
    ] {
        let ended = weft(args);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{args:?}");
        assert!(ended.out.contains(title), "{args:?}: {}", ended.out);
    }
    refused(&["man", "weave"], "'weave'");
    let folder = tempfile::tempdir().unwrap();
    let ended = weft(&["man", "--dir", folder.path().to_str().unwrap()]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    for page in ["weft.1", "weft-run.1", "weft-attach.1", "weft-doctor.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
}
