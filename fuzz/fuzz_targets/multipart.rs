//! A Content-Type and a body in pieces through the real upload, into a real directory. All or nothing must come of it,
//! inside the directory, as the body says, and the same however the body is cut.
//!
//! The input is a script: a line with the Content-Type, then the body.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use fuzz::place::{clear, place};
use fuzz::script;
use fuzz::upload::{self, Received, Wanted};
use libfuzzer_sys::fuzz_target;

/// Bodies up to this size are also given byte by byte.
const BYTEWISE_BYTES: usize = 1024;

/// A part's head up to this size is taken. How much of a longer one is looked at depends on how it arrives.
const MOST_HEAD_BYTES: usize = 16 * 1024;

/// Names that are the client's own, at the top of the directory.
const RESERVED_PREFIX: &str = ".orchestrator.";

fuzz_target!(|input: &[u8]| {
    let line_bytes = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, body) = input.split_at(line_bytes);
    let Ok(boundary) = upload::boundary(&String::from_utf8_lossy(line)) else {
        return;
    };
    assert!((1..=70).contains(&boundary.len()), "a boundary of {} bytes", boundary.len());
    let pieces = script::pieces(body.get(1..).unwrap_or_default());
    let whole = pieces.concat();
    let in_one = receive(&[&whole], &boundary);
    check(&in_one, &whole, &boundary);
    let is_same = |pieces: &[&[u8]]| {
        let in_pieces = receive(pieces, &boundary);
        let is_at_bound = whole.len() > MOST_HEAD_BYTES && (is_too_long(&in_one) || is_too_long(&in_pieces));
        assert!(is_at_bound || in_one == in_pieces, "cuts make {in_pieces:?} of {in_one:?}");
    };
    if pieces.len() > 1 {
        is_same(&pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    if (2..=BYTEWISE_BYTES).contains(&whole.len()) {
        is_same(&whole.chunks(1).collect::<Vec<_>>());
    }
    broken_off(&whole, &boundary);
});

fn is_too_long(outcome: &Outcome) -> bool {
    matches!(outcome, Err(("part_head_too_long", _)))
}

/// What came of a body: the files, by path, with content and mode; or what the sender is told.
type Outcome = Result<(Received, BTreeMap<String, File>), (&'static str, String)>;

/// A directory has no content.
#[derive(Debug, PartialEq)]
struct File {
    content: Option<Vec<u8>>,
    mode: u32,
}

fn receive(pieces: &[&[u8]], boundary: &str) -> Outcome {
    let body = pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece)));
    receive_from(body, boundary)
}

fn receive_from(body: impl Iterator<Item = io::Result<Bytes>> + Send, boundary: &str) -> Outcome {
    let place = place("multipart");
    let directory = place.join("payload");
    let result = upload::receive(body, boundary, &directory, false, &mut Wanted::default());
    let beside = fs::read_dir(place).expect("the place").count();
    match result {
        Ok(received) => {
            assert_eq!(beside, 1, "something is beside the payload directory");
            let mut files = BTreeMap::new();
            gather(&directory, "", &mut files);
            clear(&directory);
            Ok((received, files))
        }
        Err(error) => {
            assert_eq!(beside, 0, "{error}, and something is left");
            Err((error.code(), error.to_string()))
        }
    }
}

fn gather(directory: &Path, above: &str, files: &mut BTreeMap<String, File>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name of UTF-8, as all were given");
        let metadata = entry.metadata().expect("an entry");
        assert!(metadata.is_dir() || metadata.is_file(), "neither file nor directory: {name:?}");
        let path = format!("{above}{name}");
        let content = if metadata.is_dir() {
            gather(&entry.path(), &format!("{path}/"), files);
            None
        } else {
            Some(fs::read(entry.path()).expect("a file"))
        };
        files.insert(path, File { content, mode: metadata.permissions().mode() & 0o7777 });
    }
}

/// Whether what was written is what the body says.
fn check(outcome: &Outcome, body: &[u8], boundary: &str) {
    let Ok((received, files)) = outcome else { return };
    let contents = files.values().filter_map(|file| file.content.as_ref());
    let bytes: usize = contents.clone().map(Vec::len).sum();
    let found = Received { files: contents.count() as u64, bytes: bytes as u64, fields: received.fields };
    assert_eq!(*received, found, "other files were written than reported");
    assert!(received.files > 0, "a success without files");
    for (path, file) in files {
        assert!(!path.starts_with(RESERVED_PREFIX), "{path:?}");
        assert!(!path.contains(|c: char| c.is_control() || c == '\\'), "{path:?}");
        let Some(content) = &file.content else {
            assert_eq!(file.mode, 0o755, "{path:?}");
            let prefix = format!("{path}/");
            assert!(files.keys().any(|other| other.starts_with(&prefix)), "an empty directory: {path:?}");
            continue;
        };
        let is_program = path == "run.sh" || content.starts_with(b"#!") || content.starts_with(b"\x7fELF");
        assert_eq!(file.mode, if is_program { 0o755 } else { 0o644 }, "{path:?}");
        // Between the end of its part's headers and the next boundary line, and with no boundary line inside.
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        let framed = [b"\r\n\r\n", content.as_slice(), &delimiter].concat();
        assert!(has(body, &framed), "{path:?} is not in the body as it is on the disk");
        assert!(!has(content, &delimiter), "{path:?} goes on behind a boundary line");
    }
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A sender that breaks off in the middle leaves nothing, whatever it has sent by then.
fn broken_off(body: &[u8], boundary: &str) {
    let half = Bytes::copy_from_slice(&body[..body.len() / 2]);
    let pieces = [Ok(half), Err(io::ErrorKind::ConnectionReset.into())].into_iter();
    assert!(receive_from(pieces, boundary).is_err(), "half a body is taken for a whole one");
}
