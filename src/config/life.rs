//! Times that people write: 90s, 30m, 24h, 7d.

/// Units, the largest first. Units: seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// The longest that can be said. Units: seconds. Ten years: nobody means more.
const LONGEST: u64 = 3650 * 86_400;

/// Reads a number with its unit, or bare seconds. Gives seconds.
/// Errors: one line that says what is wrong.
pub fn parse(text: &str) -> Result<u64, String> {
    let unit = |&(mark, seconds): &(char, u64)| Some((text.strip_suffix(mark)?, seconds));
    let (digits, unit) = UNITS.iter().find_map(unit).unwrap_or((text, 1));
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse::<u64>().unwrap_or(u64::MAX));
    let number = number.ok_or("give a number with s, m, h or d behind it, such as 24h")?;
    let seconds = number.saturating_mul(unit);
    if seconds > LONGEST {
        return Err("at most 3650d".to_owned());
    }
    Ok(seconds)
}

/// A time in its largest unit that is not too coarse, rounded down.
#[must_use]
pub fn show(seconds: u64) -> String {
    let fine = |(_, unit): &&(char, u64)| seconds >= 2 * unit;
    let (mark, unit) = UNITS.iter().find(fine).unwrap_or(&('s', 1));
    format!("{}{mark}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("0", 0, "0s"),
            ("90", 90, "90s"),
            ("90s", 90, "90s"),
            ("30m", 1800, "30m"),
            ("24h", 86_400, "24h"),
            ("36h", 129_600, "36h"),
            ("7d", 604_800, "7d"),
            ("3650d", LONGEST, "3650d"),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
            assert_eq!(show(seconds), shown);
        }
        assert_eq!((show(86_399), show(119)), ("23h".into(), "119s".into()));
        for text in [
            "",
            "h",
            "-1",
            "1w",
            "1hh",
            "1 h",
            "+1",
            "1.5h",
            "3651d",
            "99999999999999999999",
        ] {
            let said = parse(text).unwrap_err();
            assert_eq!(said.lines().count(), 1, "{text}");
        }
    }
}
