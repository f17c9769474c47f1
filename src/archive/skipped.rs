//! The list of what an archive had to leave out, capped so that a hostile tree cannot fill the memory with it.
//! Nothing here decides what is skipped.

use std::fmt::{Display, Write as _};

/// Lines beyond this number are only counted.
const MAX_LINES: usize = 1_000;
/// A path longer than this many characters is cut in the list; ZIP names may have 65,535 bytes.
const MAX_PATH_CHARS: usize = 512;

/// A path that is not in the archive, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the archived directory; made printable: control characters escaped, invalid UTF-8 replaced, long ones cut.
    pub path: String,
    /// One clause for people.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(super) struct SkipList {
    first: Vec<Skipped>,
    total: u64,
}

impl SkipList {
    pub(super) fn add(&mut self, path: &[u8], reason: impl Display) {
        self.total += 1;
        if self.first.len() < MAX_LINES {
            self.first.push(Skipped { path: printable(path), reason: reason.to_string() });
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn into_first(self) -> Vec<Skipped> {
        self.first
    }

    /// One line per path and a last one for those beyond the cap; `None` if nothing was skipped.
    pub(super) fn as_text(&self) -> Option<String> {
        if self.total == 0 {
            return None;
        }
        let mut text = String::new();
        for Skipped { path, reason } in &self.first {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{path}: {reason}");
        }
        let more = self.total - self.first.len() as u64;
        if more > 0 {
            let _ = writeln!(text, "and {more} more");
        }
        Some(text)
    }
}

/// A path on one line: a name may hold line ends, which would forge lines of the list.
pub(super) fn printable(path: &[u8]) -> String {
    // A character has at most four bytes, so that the rest of a very long path need not be decoded.
    let start = path.get(..MAX_PATH_CHARS * 4).unwrap_or(path);
    let mut text = String::new();
    let mut chars = String::from_utf8_lossy(start).into_owned();
    if let Some((end, _)) = chars.char_indices().nth(MAX_PATH_CHARS) {
        chars.truncate(end);
        chars.push('…');
    }
    for c in chars.chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_skipped_makes_no_text() {
        assert_eq!(SkipList::default().as_text(), None);
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let mut list = SkipList::default();
        list.add(b"a\nb: fine", "broken");
        assert_eq!(list.as_text().as_deref(), Some("a\\nb: fine: broken\n"));
    }

    #[test]
    fn lines_and_paths_are_capped_and_counted() {
        let mut list = SkipList::default();
        for _ in 0..MAX_LINES + 7 {
            list.add(&vec![b'x'; 60_000], "too long");
        }
        let text = list.as_text().unwrap();
        assert_eq!(text.lines().count(), MAX_LINES + 1);
        assert!(text.ends_with("and 7 more\n"));
        assert!(text.len() < MAX_LINES * (MAX_PATH_CHARS + 32));
        assert_eq!(list.total(), MAX_LINES as u64 + 7);
    }
}
