//! Reads the repository's own sources for `layering`: which files there are, which paths they name.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where it is, from the top of the repository, with `/`.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) text: String,
}

/// Every text file below `dir` (from the top of the repository), leaving out what git would not carry.
pub(crate) fn files(dir: &str) -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![top.join(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if matches!(&*name, ".git" | "target" | "corpus" | "artifacts") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(Source {
                    path: relative(top, &path),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The Rust files below `dir`.
pub(crate) fn rust(dir: &str) -> Vec<Source> {
    let mut found = files(dir);
    found.retain(|source| source.path.ends_with(".rs"));
    found
}

fn relative(top: &Path, path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(top).unwrap_or(path).into();
    path.to_string_lossy().into_owned()
}

impl Source {
    /// Whether the whole file is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The words and marks of the code, without comments, literals and items under `cfg(test)`.
    pub(crate) fn tokens(&self) -> Vec<String> {
        without_tests(&tokens(&self.text))
    }

    /// Every path that the code names, `use` trees spelled out: `std::fs::File`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let tokens = self.tokens();
        let mut paths = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let first = at == 0 || tokens.get(at - 1).is_none_or(|before| before != "::");
            if is_word(token) && first && tokens.get(at + 1).is_some_and(|next| next == "::") {
                at = expand(&tokens, at, "", &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Adds the paths of the tree at `at` below `prefix`; returns where the tree ends.
fn expand(tokens: &[String], mut at: usize, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while let Some(token) = tokens.get(at) {
                    match token.as_str() {
                        "}" => return at + 1,
                        "," => at += 1,
                        _ => at = expand(tokens, at, &path, paths).max(at + 1),
                    }
                }
                return at;
            }
            Some(word) if is_word(word) || word == "*" => {
                if !path.is_empty() {
                    path.push_str("::");
                }
                path.push_str(word);
                at += 1;
                if tokens.get(at).is_some_and(|next| next == "::") {
                    at += 1;
                    continue;
                }
                // `use a as b`
                if tokens.get(at).is_some_and(|next| next == "as") {
                    at += 2;
                }
            }
            _ => {}
        }
        paths.push(path);
        return at;
    }
}

/// Cuts the text into words, `::` and single marks; comments and literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == 'r' && raw_hashes(&chars, i).is_some() {
            let hashes = raw_hashes(&chars, i).unwrap_or(0);
            i += hashes + 2;
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            i += hashes + 1;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character literal, or a lifetime.
            i += match (at(i + 1), at(i + 2)) {
                ('\\', _) => {
                    let end = (i + 3..chars.len()).find(|&n| at(n) == '\'');
                    end.map_or(1, |end| end + 1 - i)
                }
                (_, '\'') => 3,
                _ => 1,
            };
        } else if c.is_alphanumeric() || c == '_' {
            let begin = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(chars.iter().skip(begin).take(i - begin).collect());
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// How many `#` the raw string at `at` has, if one begins there.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars.iter().skip(at + 1).take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Leaves out each item that stands under an attribute `cfg` that names `test`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        let attribute = token == "#" && tokens.get(i + 1).is_some_and(|t| t == "[");
        let Some(end) = attribute.then(|| closing(tokens, i + 1)).flatten() else {
            kept.push(token.clone());
            i += 1;
            continue;
        };
        let words = tokens.get(i + 2..end).unwrap_or_default();
        let cfg_test = words.first().is_some_and(|w| w == "cfg")
            && words.iter().any(|w| w == "test")
            && !words.iter().any(|w| w == "not" || w == "any");
        i = end + 1;
        if cfg_test {
            i = item_end(tokens, i);
        }
    }
    kept
}

/// Where the item that begins at `at` ends: behind its `;`, or behind its braces.
fn item_end(tokens: &[String], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            ";" => return at + 1,
            "{" => return closing(tokens, at).map_or(tokens.len(), |end| end + 1),
            "(" | "[" => at = closing(tokens, at).unwrap_or(tokens.len()),
            _ => {}
        }
        at += 1;
    }
    at
}

/// The index of the bracket that closes the one at `at`.
fn closing(tokens: &[String], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn a_use_tree_is_spelled_out() {
    let source = Source {
        path: "x.rs".into(),
        text: "use std::{fs::{self, File as F}, net::IpAddr}; fn f() { std::thread::spawn(g) }\n\
               // use std::env;\n\
               #[cfg(test)] mod tests { use std::process::Command; }\n\
               const S: &str = \"std::time::Instant\"; const C: char = '\"';"
            .into(),
    };
    let expected = [
        "std::fs::self",
        "std::fs::File",
        "std::net::IpAddr",
        "std::thread::spawn",
    ];
    assert_eq!(source.paths(), expected);
}
