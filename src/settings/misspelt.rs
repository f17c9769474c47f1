//! Names that are nearly those of settings: `MAX_JOB`, `max_jobs`, `MAX-JOBS`. Nothing here reads the environment.

use super::table::ALL;

/// The setting whose name was most likely meant, if the name is none itself. Short names have too many neighbours that mean
/// something else, such as `HOME` beside `HOST`: there only the case may differ.
pub(super) fn meant_by(name: &str) -> Option<&'static str> {
    let upper = name.to_uppercase().replace('-', "_");
    let near = ALL.iter().map(|setting| (distance(&upper, setting.name), setting.name));
    let (distance, meant) = near.min_by_key(|(distance, _)| *distance)?;
    let allowed = match meant.len() {
        8.. => 2,
        5.. => 1,
        _ => 0,
    };
    (distance <= allowed && name != meant).then_some(meant)
}

/// How many letters have to be put in, left out, exchanged, or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // Environments are full of long names that cannot be near.
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows = [(0..=b.len()).collect::<Vec<_>>(), Vec::new(), Vec::new()];
    for (i, x) in a.iter().enumerate() {
        rows.rotate_right(1);
        let [row, before, two_before] = &mut rows;
        row.clear();
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut least =
                (at(before, j) + usize::from(x != y)).min(at(before, j + 1) + 1).min(at(row, j) + 1);
            let is_swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if is_swapped {
                least = least.min(at(two_before, j - 1) + 1);
            }
            row.push(least);
        }
    }
    rows.first().and_then(|row| row.last()).copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_a_name_is_seen() {
        for (name, meant) in [
            ("MAX_JOB", "MAX_JOBS"),
            ("MAXJOBS", "MAX_JOBS"),
            ("max_jobs", "MAX_JOBS"),
            ("max-job", "MAX_JOBS"),
            ("MAX_UPLAOD", "MAX_UPLOAD"),
            ("DATAPATH", "DATA_PATH"),
            ("TIMELIMIT", "TIME_LIMIT"),
            ("TIME_LIMITS", "TIME_LIMIT"),
            ("port", "PORT"),
            ("GRACES", "GRACE"),
        ] {
            assert_eq!(meant_by(name), Some(meant), "{name}");
        }
    }

    #[test]
    fn what_other_programs_have_in_the_environment_is_left_alone() {
        for name in [
            "HOME",
            "LANG",
            "PATH",
            "HOSTS",
            "POST",
            "SHELL",
            "USER",
            "TERM",
            "LOGNAME",
            "HOSTNAME",
            "PWD",
            "MAIL",
            "OLDPWD",
            "LC_ALL",
            "CLASSPATH",
            "LD_PATH",
            "GOPATH",
            "MANPATH",
            "INFOPATH",
            "JOURNAL_STREAM",
            "LOGS",
        ] {
            assert_eq!(meant_by(name), None, "{name}");
        }
        for setting in ALL {
            assert_eq!(meant_by(setting.name), None);
        }
    }

    #[test]
    fn the_distance_counts_slips() {
        for (a, b, slips) in [
            ("", "", 0),
            ("a", "", 1),
            ("ab", "ba", 1),
            ("abc", "abc", 0),
            ("abc", "axc", 1),
            ("abcd", "acbd", 1),
            ("abcd", "bc", 2),
        ] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
        }
    }
}
