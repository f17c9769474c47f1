//! One output of a payload, as a file that others write meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::data::directory;

/// How far back the last lines are looked for: a bound to what one request may read.
const MOST_OF_TAIL: u64 = 4 * 1024 * 1024;

/// Pieces that they are looked for in.
const LOOK_BYTES: usize = 16 * 1024;

pub(super) struct Output {
    file: File,
}

impl Output {
    /// The output with this name in the directory of a payload; `None` where there is none: it was not made yet, or the payload has
    /// removed it, or put something else in its place. No link is followed.
    pub(super) fn open(payload: &Path, name: &str) -> io::Result<Option<Self>> {
        let directory = openat(CWD, payload, directory::FLAGS, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            opened => File::from(opened?),
        };
        let is_file = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
        Ok(is_file.then_some(Self { file }))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0))
    }

    /// What is from `offset` to `end`, but no more than `most` bytes.
    pub(super) fn read(&self, offset: u64, end: u64, most: usize) -> io::Result<Vec<u8>> {
        let count = usize::try_from(end.saturating_sub(offset)).unwrap_or(most).min(most);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count).map_err(|_| Errno::NOMEM)?;
        bytes.resize(count, 0);
        let mut filled = 0;
        while filled < count {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                // It has been cut meanwhile.
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Where the last so many lines of the first `end` bytes begin; where they are longer than [`MOST_OF_TAIL`], those that begin within
    /// that.
    pub(super) fn tail(&self, lines: u64, end: u64) -> io::Result<u64> {
        let first = end.saturating_sub(MOST_OF_TAIL);
        // Line ends that are still to be passed: that of the last line, too, if it has one.
        let mut left = lines;
        let mut start = end;
        let mut begin = end;
        while begin > first && left > 0 {
            let from = begin.saturating_sub(LOOK_BYTES as u64).max(first);
            let bytes = self.read(from, begin, LOOK_BYTES)?;
            for (index, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                let after = from + index as u64 + 1;
                if after == end {
                    continue;
                }
                start = after;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            begin = from;
        }
        Ok(if lines > 0 && left > 0 && first == 0 { 0 } else { start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str) -> Output {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(text.as_bytes(), 0).expect("written");
        Output { file }
    }

    #[test]
    fn the_last_lines_are_found_with_and_without_a_line_end_at_the_end() {
        let long = format!("{}\n{}\nlast\n", "a".repeat(LOOK_BYTES), "b".repeat(2 * LOOK_BYTES));
        for (text, lines, expected) in [
            ("", 3, ""),
            ("one\ntwo\nthree\n", 0, ""),
            ("one\ntwo\nthree\n", 1, "three\n"),
            ("one\ntwo\nthree", 2, "two\nthree"),
            ("one\ntwo\nthree\n", 3, "one\ntwo\nthree\n"),
            ("one\ntwo\n", 9, "one\ntwo\n"),
            ("\n\n\n", 2, "\n\n"),
            (&long, 2, &long[LOOK_BYTES + 1..]),
        ] {
            let start = output(text).tail(lines, text.len() as u64).expect("read");
            assert_eq!(&text[usize::try_from(start).expect("small")..], expected, "{lines} of {text:.20}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_to_be_looked_through_is_left_out() {
        let most = usize::try_from(MOST_OF_TAIL).expect("small");
        let text = format!("{}\nlast\n", "a".repeat(most));
        let start = output(&text).tail(5, text.len() as u64).expect("read");
        assert_eq!(&text[usize::try_from(start).expect("small")..], "last\n");
    }

    #[test]
    fn what_is_no_file_is_no_output() {
        let payload = tempfile::tempdir().expect("a temporary directory");
        let open = |name| Output::open(payload.path(), name).expect("the directory is there").is_some();
        std::fs::write(payload.path().join("file"), "x").expect("written");
        std::os::unix::fs::symlink("file", payload.path().join("link")).expect("made");
        std::fs::create_dir(payload.path().join("directory")).expect("made");
        rustix::fs::mkfifoat(CWD, payload.path().join("pipe"), Mode::RUSR).expect("made");
        assert!(open("file"));
        assert!(!open("link") && !open("directory") && !open("pipe") && !open("none"));
        assert!(Output::open(&payload.path().join("gone"), "file").is_err());
    }
}
