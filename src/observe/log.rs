//! The log: to stderr, warnings by default, more by `WEFT_LOG`.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// The variable that says how much is logged, such as `info` or `weft::host=debug`.
pub const VARIABLE: &str = "WEFT_LOG";

/// Sets the log up, once a process. Logs go to stderr, where the sandbox's command writes too, so only warnings do by default.
/// Errors: the variable holds no filter, or the log is set up already.
pub fn init() -> Result<()> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let filter = filter(&text)?;
    let stderr = std::io::stderr();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr.is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|e| anyhow!("setting up the log: {e}"))
}

fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(text)
        .map_err(|e| anyhow!("{VARIABLE}='{text}': {e}; give a level (error, warn, info, debug) or weft::MODULE=LEVEL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (text, shown) in [
            ("", "warn"),
            ("debug", "debug"),
            ("weft::host=info", "weft::host=info"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), shown, "{text}");
        }
        insta::assert_snapshot!(filter("weft=loud").unwrap_err(), @r#"WEFT_LOG='weft=loud': error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5; give a level (error, warn, info, debug) or weft::MODULE=LEVEL"#);
    }
}
