//! `--impair`: what a bad link does, as written: `loss=1%,reorder=5%,delay=2ms`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::endpoint::wrap::impairment::{Chance, Impairment, Per};

/// More than any link takes; what is under way meanwhile is held in memory.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Reads the list. What is not named is not done; each name stands once.
pub(super) fn parse(text: &str) -> Result<Impairment> {
    let mut plan = Impairment::default();
    let mut seen: Vec<&str> = Vec::new();
    for item in text.split(',') {
        let (key, value) = item
            .split_once('=')
            .with_context(|| format!("--impair '{text}': the form is NAME=VALUE,NAME=VALUE"))?;
        ensure!(
            !seen.contains(&key),
            "--impair '{text}': {key} is given twice"
        );
        seen.push(key);
        match key {
            "loss" => plan.loss = chance(key, value)?,
            "reorder" => plan.reorder = chance(key, value)?,
            "duplicate" => plan.duplicate = chance(key, value)?,
            "corrupt" => plan.corrupt = chance(key, value)?,
            "delay" => plan.delay = delay(value)?,
            "per" => {
                plan.per = match value {
                    "frame" => Per::Frame,
                    "segment" => Per::Segment,
                    _ => bail!("--impair per={value}: there are frame and segment"),
                };
            }
            "seed" => {
                plan.seed = value
                    .parse()
                    .ok()
                    .with_context(|| format!("--impair seed={value}: give a number"))?;
            }
            _ => bail!(
                "--impair '{item}': there are loss, reorder, duplicate, corrupt, delay, per and seed"
            ),
        }
    }
    ensure!(
        seen.iter().any(|key| !["per", "seed"].contains(key)),
        "--impair '{text}': nothing happens on this link; name loss, reorder, duplicate, corrupt or delay"
    );
    Ok(plan)
}

/// A share such as `1%` or `0.05%`.
fn chance(key: &str, value: &str) -> Result<Chance> {
    let wrong = || {
        format!(
            "--impair {key}={value}: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most"
        )
    };
    let number = value.strip_suffix('%').with_context(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| (1..=4).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    ensure!(digits(whole) && digits(part), wrong());
    // One hundredth has 10,000 millionths, so four decimals make a whole number.
    let millionths = format!("{whole}{part:0<4}").parse().ok();
    millionths.and_then(Chance::millionths).with_context(wrong)
}

/// A time such as `2ms`, `500us` or `1s`.
fn delay(value: &str) -> Result<Duration> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let read = |(unit, micros): (&str, u64)| {
        let number = value.strip_suffix(unit)?;
        let plain = number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| plain)?;
        number.checked_mul(micros).map(Duration::from_micros)
    };
    let time = units.into_iter().find_map(read);
    time.filter(|&t| t <= DELAY_MAX).with_context(|| {
        format!("--impair delay={value}: give a time up to 10s, such as 2ms or 500us")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_done() {
        let of = |n| Chance::millionths(n).unwrap();
        let all = parse(
            "loss=1%,reorder=5.25%,delay=2ms,duplicate=0.0001%,corrupt=100%,per=segment,seed=9",
        )
        .unwrap();
        assert_eq!(
            all,
            Impairment {
                loss: of(10_000),
                reorder: of(52_500),
                duplicate: of(1),
                corrupt: of(1_000_000),
                delay: Duration::from_millis(2),
                per: Per::Segment,
                seed: 9,
            }
        );
        assert_eq!(
            parse("delay=500us").unwrap().delay,
            Duration::from_micros(500)
        );
        assert_eq!(parse("delay=1s").unwrap().delay, Duration::from_secs(1));
    }

    #[test]
    fn nonsense_is_one_line() {
        let texts = [
            "",
            "loss",
            "los=1%",
            "loss=1",
            "loss=1%,loss=2%",
            "loss=101%",
            "loss=-1%",
            "loss=.5%",
            "loss=0.00001%",
            "loss=1e1%",
            "delay=2",
            "delay=+2ms",
            "delay=11s",
            "delay=18446744073709551615s",
            "seed=x",
            "per=packet",
            "per=frame,seed=1",
            "loss=1%,",
        ];
        let errors = texts.map(|t| format!("{:#}", parse(t).unwrap_err()));
        insta::assert_snapshot!(errors.join("\n"), @r"
        --impair '': the form is NAME=VALUE,NAME=VALUE
        --impair 'loss': the form is NAME=VALUE,NAME=VALUE
        --impair 'los=1%': there are loss, reorder, duplicate, corrupt, delay, per and seed
        --impair loss=1: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair 'loss=1%,loss=2%': loss is given twice
        --impair loss=101%: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair loss=-1%: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair loss=.5%: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair loss=0.00001%: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair loss=1e1%: give a share of 0% to 100%, such as 0.5%, with 4 decimals at most
        --impair delay=2: give a time up to 10s, such as 2ms or 500us
        --impair delay=+2ms: give a time up to 10s, such as 2ms or 500us
        --impair delay=11s: give a time up to 10s, such as 2ms or 500us
        --impair delay=18446744073709551615s: give a time up to 10s, such as 2ms or 500us
        --impair seed=x: give a number
        --impair per=packet: there are frame and segment
        --impair 'per=frame,seed=1': nothing happens on this link; name loss, reorder, duplicate, corrupt or delay
        --impair 'loss=1%,': the form is NAME=VALUE,NAME=VALUE
        ");
    }
}
