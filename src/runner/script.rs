//! What `run.sh` is, by its first bytes: what the kernel would run wrongly, or not at all, is told before the start.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::limits::{Request, RequestError};

/// The script of a payload.
pub(super) const SCRIPT: &str = "run.sh";

/// How much of a program the kernel looks at (`BINPRM_BUF_SIZE`, Linux 5.1). A `#!` line has to end within, its newline
/// included; of a longer one it takes a part for the whole, or nothing.
const LOOKED_AT: usize = 256;

/// What editors put before a text, the longer ones first where one begins with another.
const MARKS: [(&[u8], &str); 5] = [
    (b"\xEF\xBB\xBF", "UTF-8"),
    (b"\xFF\xFE\0\0", "UTF-32"),
    (b"\0\0\xFE\xFF", "UTF-32"),
    (b"\xFF\xFE", "UTF-16"),
    (b"\xFE\xFF", "UTF-16"),
];

/// Why a `run.sh` can never run as it was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScriptError {
    #[error("run.sh is empty, so there is nothing to run; send it with its content")]
    Empty,
    #[error(
        "run.sh begins with a byte order mark ({0}), so no #! line is seen; save it as UTF-8 without a byte order mark"
    )]
    ByteOrderMark(&'static str),
    #[error("run.sh is in UTF-16 or UTF-32, which no shell reads; save it as UTF-8")]
    Wide,
    #[error(
        "the #! line of run.sh is longer than the kernel reads, 255 bytes; shorten it, or have a small run.sh call the other one"
    )]
    LongFirstLine,
    #[error(
        "run.sh has the line ends of Windows (CRLF), so a carriage return is part of each command, and of the interpreter's name; save it with those of Unix (LF), as dos2unix does"
    )]
    CarriageReturns,
}

/// Looks at the script in `directory`. One that cannot be read tells nothing here; its start says why.
pub(super) fn check(directory: &Path) -> Result<(), ScriptError> {
    let Some(first) = first_bytes(&directory.join(SCRIPT)) else { return Ok(()) };
    judge(&first)
}

fn judge(first: &[u8]) -> Result<(), ScriptError> {
    if first.is_empty() {
        return Err(ScriptError::Empty);
    }
    if let Some((_, encoding)) = MARKS.iter().find(|(mark, _)| first.starts_with(mark)) {
        return Err(ScriptError::ByteOrderMark(encoding));
    }
    if [&b"#\0!\0"[..], b"\0#\0!", b"#\0\0\0!\0", b"\0\0\0#\0\0\0!"]
        .iter()
        .any(|wide| first.starts_with(wide))
    {
        return Err(ScriptError::Wide);
    }
    let is_whole = first.len() < LOOKED_AT || first.contains(&b'\n');
    if first.starts_with(b"#!") && !is_whole {
        return Err(ScriptError::LongFirstLine);
    }
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(text) = line.strip_suffix(b"\r") else { return Ok(()) };
    // A program may have such bytes by chance.
    let is_text = text.iter().all(|byte| *byte >= b' ' || *byte == b'\t');
    if is_text && is_whole { Err(ScriptError::CarriageReturns) } else { Ok(()) }
}

/// The limits that its `#JOB` lines ask for.
pub(super) fn request(directory: &Path) -> Result<Request, RequestError> {
    let file = open(&directory.join(SCRIPT));
    file.map_or_else(|| Ok(Request::default()), |file| Request::of_script(BufReader::new(file)))
}

/// As much as the kernel looks at. `None` of what is no file, or cannot be read.
fn first_bytes(script: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LOOKED_AT);
    open(script)?.take(LOOKED_AT as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn open(script: &Path) -> Option<File> {
    // NONBLOCK: another payload may have put a pipe there.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(script).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

/// Whether the kernel takes the script for a program and not for text.
pub(super) fn is_elf(directory: &Path) -> bool {
    first_bytes(&directory.join(SCRIPT)).is_some_and(|bytes| bytes.starts_with(b"\x7fELF"))
}

/// The interpreter of the `#!` line, without its argument.
pub(super) fn interpreter(directory: &Path) -> Option<String> {
    let bytes = first_bytes(&directory.join(SCRIPT))?;
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let name = line.split([' ', '\t']).find(|word| !word.is_empty())?;
    // The usual trap with files from Windows: the carriage return is part of the name.
    Some(name.replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_take_wrongly_is_told() {
        let line = |length: usize, rest: &str| {
            let mut line = format!("#!/bin/sh {}", "x".repeat(length - 10)).into_bytes();
            line.extend_from_slice(rest.as_bytes());
            line.truncate(LOOKED_AT);
            line
        };
        for (first, judged) in [
            (&b""[..], Err(ScriptError::Empty)),
            (b"\xEF\xBB\xBF#!/bin/sh\n", Err(ScriptError::ByteOrderMark("UTF-8"))),
            (b"\xEF\xBB\xBFecho\n", Err(ScriptError::ByteOrderMark("UTF-8"))),
            (b"\xFF\xFE#\0!\0", Err(ScriptError::ByteOrderMark("UTF-16"))),
            (b"\xFE\xFF\0#\0!", Err(ScriptError::ByteOrderMark("UTF-16"))),
            (b"\xFF\xFE\0\0#\0\0\0", Err(ScriptError::ByteOrderMark("UTF-32"))),
            (b"\0\0\xFE\xFF\0\0\0#", Err(ScriptError::ByteOrderMark("UTF-32"))),
            (b"#\0!\0/\0", Err(ScriptError::Wide)),
            (b"#!/bin/sh", Ok(())),
            (b"#!/bin/sh\r\n", Err(ScriptError::CarriageReturns)),
            (b"#!/usr/bin/env bash\r\necho\r\n", Err(ScriptError::CarriageReturns)),
            (b"#!/bin/sh\r", Err(ScriptError::CarriageReturns)),
            (b"echo\r\nexit 0\r\n", Err(ScriptError::CarriageReturns)),
            (b"\r\n", Err(ScriptError::CarriageReturns)),
            (b"echo\necho\r\n", Ok(())),
            (b"\x7fELF\0\0\r\n", Ok(())),
            (b"\x7fELF\0\0", Ok(())),
            (&line(255, "\nexit 0\n"), Ok(())),
            (&line(255, ""), Ok(())),
            (&line(256, "\nexit 0\n"), Err(ScriptError::LongFirstLine)),
            (&line(256, ""), Err(ScriptError::LongFirstLine)),
            (&[b'x'; LOOKED_AT], Ok(())),
        ] {
            assert_eq!(judge(first), judged, "{}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn the_interpreter_is_named_as_the_kernel_would_read_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(SCRIPT);
        for (text, named) in [
            ("#!/bin/x\n", Some("/bin/x")),
            ("#! \t/usr/bin/env python3 -u\n", Some("/usr/bin/env")),
            ("#!/bin/sh\r\n", Some("/bin/sh\\r")),
            ("echo\n", None),
            ("#!\n", None),
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(interpreter(directory.path()).as_deref(), named, "{text:?}");
        }
    }
}
