//! What README tells users to type and to deploy: commands that are there, and the files of `deploy/` as they are.

use clap::Parser as _;
use clap::error::ErrorKind;
use weft::cli::args::Cli;
use yaml_rust2::{Yaml, YamlLoader};

use crate::source;

/// A file of the repository.
#[track_caller]
fn read(path: &str) -> String {
    let (dir, _) = path.rsplit_once('/').unwrap_or(("", path));
    let mut all = source::files(dir).into_iter();
    let found = all.find(|source| source.path == path);
    found.unwrap_or_else(|| panic!("no {path}")).text
}

/// Lines that README shows as code, without their margin.
fn shown(readme: &str) -> impl Iterator<Item = &str> {
    readme.lines().filter_map(|line| line.strip_prefix("    "))
}

/// A line of shell in words, as far as README goes: quotes, comments, and what the shell does with the output.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        if matches!(word, "#" | ">" | "|") {
            break;
        }
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// What is wrong with a command; nothing where the rest of one is left out, if that is allowed.
fn wrong(words: &[String], part: bool) -> Option<String> {
    let error = Cli::try_parse_from(words).err()?;
    let missing = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    let fine = error.kind() == ErrorKind::DisplayHelp || part && missing.contains(&error.kind());
    (!fine).then(|| format!("{words:?}: {error}"))
}

#[test]
fn every_command_of_readme_is_one() {
    let readme = read("README.md");
    let lines = shown(&readme).map(|line| line.trim_start_matches(['#', ' ']));
    let lines = lines.filter(|line| line.starts_with("weft ") && !line.contains("alone,"));
    let lines: Vec<_> = lines.map(words).collect();
    assert!(lines.len() > 30, "{lines:?}");
    // In the text a command may be named in part, and broken over lines. Brackets say what may be left out.
    let text = readme.replace('\n', " ");
    let spans = text.split('`').skip(1).step_by(2);
    let spans = spans.filter(|span| span.starts_with("weft ") && !span.contains('['));
    let spans: Vec<_> = spans.map(words).collect();
    assert!(spans.len() > 20, "{spans:?}");
    let lines = lines.iter().filter_map(|line| wrong(line, false));
    let spans = spans.iter().filter_map(|span| wrong(span, true));
    let wrong: Vec<_> = lines.chain(spans).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn readme_shows_the_files_that_are_deployed() {
    let shown: String = shown_with_gaps(&read("README.md"));
    for path in [
        "deploy/Dockerfile",
        "deploy/sidecar.yaml",
        "deploy/compose.yaml",
    ] {
        assert!(shown.contains(&read(path)), "README shows another {path}");
    }
}

/// As `shown`, with empty lines, which have no margin.
fn shown_with_gaps(readme: &str) -> String {
    let lines = readme
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(""));
    lines.map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn yaml(path: &str) -> Yaml {
    let mut all = YamlLoader::load_from_str(&read(path)).unwrap();
    assert_eq!(all.len(), 1, "{path}");
    all.remove(0)
}

#[track_caller]
fn list(of: &Yaml) -> Vec<String> {
    let all = of.as_vec().unwrap_or_else(|| panic!("no list: {of:?}"));
    all.iter().map(|y| y.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn runs(command: &Yaml) {
    let mut words = list(command);
    words.insert(0, "weft".to_owned());
    assert_eq!(wrong(&words, false), None);
}

#[test]
fn the_pod_has_commands_and_rights_that_there_are() {
    let pod = yaml("deploy/sidecar.yaml");
    assert_eq!(pod["kind"].as_str(), Some("Pod"));
    let weft = &pod["spec"]["initContainers"][0];
    runs(&weft["args"]);
    let probe = list(&weft["startupProbe"]["exec"]["command"]);
    let (program, words) = probe.split_first().unwrap();
    assert_eq!(program, "/weft");
    let words = [&["weft".to_owned()], words].concat();
    assert_eq!(wrong(&words, false), None);
    let context = &weft["securityContext"];
    assert_eq!(list(&context["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(list(&context["capabilities"]["add"]), ["NET_ADMIN"]);
    assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true));
    // Whatever is mounted is there, and nothing else.
    let names = |of: &Yaml| {
        let all = of.as_vec().unwrap().iter();
        let mut names: Vec<_> = all
            .map(|v| v["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&weft["volumeMounts"]), names(&pod["spec"]["volumes"]));
}

#[test]
fn the_services_have_commands_and_rights_that_there_are() {
    let file = yaml("deploy/compose.yaml");
    let weft = &file["services"]["weft"];
    runs(&weft["command"]);
    assert_eq!(weft["network_mode"].as_str(), Some("service:app"));
    assert!(!file["services"]["app"].is_badvalue());
    assert_eq!(list(&weft["cap_drop"]), ["ALL"]);
    assert_eq!(list(&weft["cap_add"]), ["NET_ADMIN"]);
    assert_eq!(list(&weft["devices"]), ["/dev/net/tun"]);
    assert_eq!(list(&weft["security_opt"]), ["no-new-privileges:true"]);
    assert_eq!(weft["read_only"].as_bool(), Some(true));
    for secret in list(&weft["secrets"]) {
        assert!(!file["secrets"][secret.as_str()]["file"].is_badvalue());
    }
}

#[test]
fn the_image_runs_what_was_built() {
    let file = read("deploy/Dockerfile");
    let last = |word: &str| {
        let mut lines = file.lines().rev();
        let line = lines.find_map(|line| line.strip_prefix(word));
        line.unwrap_or_else(|| panic!("no {word}")).trim()
    };
    assert_eq!(last("FROM "), "scratch");
    assert_eq!(last("ENTRYPOINT "), r#"["/weft"]"#);
    assert_eq!(last("COPY "), "--from=build /weft /weft");
    let command: Vec<String> = serde_json::from_str(last("CMD ")).unwrap();
    let words = [vec!["weft".to_owned()], command].concat();
    assert_eq!(wrong(&words, false), None);
}
