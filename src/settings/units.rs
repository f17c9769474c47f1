//! Times and sizes as people write them: `90m`, `10d`, `2G`. A plain number has the unit that it always had: seconds, bytes.

use std::time::Duration;

/// Units of time in milliseconds, the longest first.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size in bytes, of 1024 each.
const SIZES: [(&str, u64); 4] = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// The longest time: what was the largest number of seconds before there were units.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// A time such as `90`, `500ms`, `90s`, `15m`, `12h` or `10d`; at most 4294967295 s.
pub fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() { 1000 } else { factor(&TIMES, unit)? };
    number.checked_mul(factor).map(Duration::from_millis).filter(|time| *time <= LONGEST)
}

/// A size such as `1048576`, `512K`, `16M` or `2G`, in bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() { 1 } else { factor(&SIZES, unit)? };
    number.checked_mul(factor)
}

/// A time in the longest unit that tells it exactly: `90m`, `1500ms`, `0s`.
pub fn shown(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let unit = TIMES.iter().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
    unit.map_or_else(|| "0s".to_owned(), |(unit, factor)| format!("{}{unit}", ms / factor))
}

/// A size in the largest unit that tells it exactly: `2G`, `1000`.
pub fn shown_size(bytes: u64) -> String {
    let unit = SIZES.iter().rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Digits, and what follows them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    // A number that is too large, and none at all, are errors here.
    Some((digits.parse().ok()?, unit))
}

fn factor(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == name).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_plain_numbers_are_seconds() {
        for (text, ms) in [
            ("0", 0),
            ("90", 90_000),
            ("250ms", 250),
            ("90s", 90_000),
            ("90m", 5_400_000),
            ("12h", 43_200_000),
            ("10d", 864_000_000),
            ("4294967295", 4_294_967_295_000),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "+1", "1.5h", "1 h", "1H", "1M", "1w", "1h30m", " 1", "4294967296"] {
            assert_eq!(time(text), None, "{text}");
        }
        // Too large for the number, for the product, and for the bound.
        for text in ["99999999999999999999", "18446744073709551615d", "49711d"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_units_and_plain_numbers_are_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("1023", 1023),
            ("1K", 1024),
            ("16M", 16_777_216),
            ("2G", 2_147_483_648),
            ("1T", 1_099_511_627_776),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1k", "1KB", "1KiB", "1.5G", "1 G", "1e9", "16777216T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_as_it_can_be_given() {
        for text in ["0s", "1ms", "1500ms", "59s", "90m", "23h", "10d"] {
            assert_eq!(time(text).map(shown).as_deref(), Some(text));
        }
        assert_eq!(time("3600").map(shown).as_deref(), Some("1h"));
    }

    #[test]
    fn a_size_is_shown_as_it_can_be_given() {
        for text in ["0", "1023", "1K", "1000", "1536M", "2G", "3T"] {
            assert_eq!(size(text).map(shown_size).as_deref(), Some(text));
        }
    }
}
