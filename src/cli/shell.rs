//! `weft completions` and `weft man`: what a shell and a reader get, made from the one definition of the command line.

use std::fs;
use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Generator, generate, shells};
use clap_mangen::Man;

use super::args::{Cli, CompletionArgs, ManArgs, Shell};

/// Writes the completions of a shell to stdout.
pub(super) fn completions(args: &CompletionArgs) -> Result<()> {
    put(&script(args.shell))
}

fn script(shell: Shell) -> Vec<u8> {
    fn made(shell: impl Generator) -> Vec<u8> {
        let mut text = Vec::new();
        generate(shell, &mut Cli::command(), "weft", &mut text);
        text
    }
    match shell {
        Shell::Bash => made(shells::Bash),
        Shell::Zsh => made(shells::Zsh),
        Shell::Fish => made(shells::Fish),
        Shell::Elvish => made(shells::Elvish),
    }
}

/// Writes the page of weft or of one command to stdout, or every page to files of a directory.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let pages = pages()?;
    if let Some(folder) = &args.dir {
        for (name, page) in &pages {
            let path = folder.join(format!("{name}.1"));
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(());
    }
    let command = args.command.as_deref();
    let name = command.map_or_else(|| "weft".to_owned(), |command| format!("weft-{command}"));
    let page = pages.iter().find(|(page, _)| *page == name);
    let (_, page) = page.with_context(|| {
        format!(
            "man '{}': there is no such command; see 'weft --help'",
            command.unwrap_or("weft")
        )
    })?;
    put(page)
}

/// Every page by its name: weft's own, and one for each command.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command();
    // Gives each command its full name, and what it inherits.
    root.build();
    std::iter::once(&root)
        .chain(root.get_subcommands())
        .map(|command| {
            let name = command.get_display_name().unwrap_or("weft").to_owned();
            let mut page = Vec::new();
            Man::new(command.clone()).render(&mut page)?;
            Ok((name, page))
        })
        .collect()
}

fn put(text: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(text) {
        // A reader that went away has seen enough.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("writing to stdout"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every option that the help shows, with its command's full name.
    fn options() -> Vec<(String, String)> {
        let mut root = Cli::command();
        root.build();
        let mut found = Vec::new();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let name = command.get_display_name().unwrap_or("weft");
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                if let Some(long) = arg.get_long() {
                    found.push((name.to_owned(), long.to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn every_option_is_in_its_page() {
        let pages = pages().unwrap();
        let options = options();
        assert!(options.len() > 50, "{options:?}");
        for (command, option) in options {
            let (_, page) = pages.iter().find(|(name, _)| *name == command).unwrap();
            let page = String::from_utf8_lossy(page).replace('\\', "");
            assert!(
                page.contains(&format!("--{option}")),
                "{command} --{option}"
            );
        }
    }

    #[test]
    fn every_option_is_in_every_shells_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for (command, option) in options() {
                // Fish writes them without dashes.
                let spelt = [format!("--{option}"), format!("-l {option}")];
                assert!(
                    spelt.iter().any(|s| script.contains(s)),
                    "{shell:?}: {command} --{option}"
                );
            }
        }
    }
}
