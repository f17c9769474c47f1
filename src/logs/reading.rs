//! A reader of one payload's outputs: where it is in each, and what comes next. Everything here may wait for the disk.

use std::io;
use std::path::PathBuf;

use super::Logs;
use super::event_stream::{add_line, whole_characters};
use super::output::Output;
use super::watcher::{Watched, Watcher};
use crate::data::{STDERR_FILE, STDOUT_FILE};
use crate::payload::PayloadId;

/// What is read of an output at a time, and so the longest line that comes in one piece. A slow reader holds one such piece, and
/// there may be a thousand.
const PIECE_BYTES: usize = 16 * 1024;

/// Events are longer than their lines: no more are made at a time once they have so many bytes.
const EVENT_BYTES: usize = 16 * 1024;

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Stdout => STDOUT_FILE,
            Self::Stderr => STDERR_FILE,
        }
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// After so many bytes.
    Offset(u64),
    /// With the last so many lines of what is there.
    Tail(u64),
}

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// As server-sent events.
    Events,
}

/// A reader of one or both outputs of a payload.
pub struct Reading {
    id: PayloadId,
    directory: PathBuf,
    form: Form,
    /// Who is asked to tell of what comes later, if that is wanted.
    watcher: Option<Watcher>,
    parts: Vec<Part>,
}

struct Part {
    stream: Stream,
    from: Place,
    open: Option<Open>,
}

/// An output that is there.
struct Open {
    output: Output,
    offset: u64,
    /// Beyond this nothing is read, by who does not follow.
    limit: u64,
    /// Whether anything has been read at `offset`: else it may be one that is still to come.
    has_read: bool,
    /// Whether it is followed; held for its Drop.
    watched: Option<Watched>,
}

impl Reading {
    /// A reader of these outputs, each from its place. Nothing is opened yet. `follows`: what comes later is to be told of.
    pub fn new(
        logs: &Logs,
        id: PayloadId,
        directory: PathBuf,
        outputs: impl IntoIterator<Item = (Stream, Place)>,
        form: Form,
        follows: bool,
    ) -> Self {
        let parts = outputs.into_iter().map(|(stream, from)| Part { stream, from, open: None }).collect();
        let watcher = follows.then(|| logs.watcher.clone());
        Self { id, directory, form, watcher, parts }
    }

    /// Opens what is there and not open yet. An error is that of the payload's directory, of an output, or of inotify(7).
    pub fn open(&mut self) -> io::Result<()> {
        for part in self.parts.iter_mut().filter(|part| part.open.is_none()) {
            let Some(output) = Output::open(&self.directory, part.stream.file())? else { continue };
            // Before the first look at it: what comes after that is told of.
            let watch = |by: &Watcher| by.watch(self.id, output.file());
            let watched = self.watcher.as_ref().map(watch).transpose()?;
            let bytes = output.bytes()?;
            let limit = if watched.is_some() { u64::MAX } else { bytes };
            let offset = match part.from {
                Place::Offset(offset) => offset,
                Place::Tail(lines) => output.tail(lines, bytes)?,
            };
            part.open = Some(Open { output, offset, limit, has_read: false, watched });
        }
        Ok(())
    }

    /// What comes next, as it goes out; nothing if there is nothing now. `is_final`: nothing will be written any more.
    ///
    /// As events, and where there are two outputs, whole lines only, as long as their end may be to come.
    pub fn next(&mut self, is_final: bool) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        for index in 0..self.parts.len() {
            let is_all = self.take(index, is_final, &mut piece)?;
            // Of what is all there, one output after the other.
            if is_final && !is_all {
                break;
            }
        }
        Ok(piece)
    }

    /// Where to go on after what has been read: one number for each output.
    pub fn position(&self) -> String {
        let offsets = self.parts.iter().map(|part| match (&part.open, part.from) {
            (Some(open), _) => open.offset.to_string(),
            (None, Place::Offset(offset)) => offset.to_string(),
            (None, Place::Tail(_)) => "0".to_owned(),
        });
        offsets.collect::<Vec<_>>().join(",")
    }

    /// Adds what comes next of one output. Gives whether that is all that there is now.
    fn take(&mut self, index: usize, is_final: bool, piece: &mut Vec<u8>) -> io::Result<bool> {
        let keeps_lines = self.form == Form::Events || self.parts.len() > 1;
        let part = &mut self.parts[index];
        let Some(open) = &mut part.open else { return Ok(true) };
        let end = open.output.bytes()?.min(open.limit);
        if end < open.offset && open.has_read && open.watched.is_some() {
            // The payload has cut it and begins anew.
            open.offset = 0;
        }
        let bytes = open.output.read(open.offset, end, PIECE_BYTES)?;
        let is_at_end = open.offset.saturating_add(bytes.len() as u64) >= end;
        let usable = if keeps_lines { whole_lines(&bytes, is_final && is_at_end) } else { bytes.len() };
        open.has_read |= usable > 0;
        if self.form == Form::Plain {
            open.offset += usable as u64;
            piece.extend_from_slice(&bytes[..usable]);
            return Ok(is_at_end && usable == bytes.len());
        }
        let event = part.stream.name();
        let mut used = 0;
        for line in bytes[..usable].split_inclusive(|byte| *byte == b'\n') {
            if piece.len() >= EVENT_BYTES {
                break;
            }
            used += line.len();
            self.advance(index, line.len());
            add_line(piece, event, &self.position(), line);
        }
        Ok(is_at_end && used == bytes.len())
    }

    fn advance(&mut self, index: usize, count: usize) {
        if let Some(open) = &mut self.parts[index].open {
            open.offset += count as u64;
        }
    }
}

/// How many of these bytes are whole lines. What is longer than a piece comes in pieces, and what is the last has no line end
/// to wait for.
fn whole_lines(bytes: &[u8], is_last: bool) -> usize {
    if is_last {
        return bytes.len();
    }
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => last + 1,
        None if bytes.len() >= PIECE_BYTES => whole_characters(bytes),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::path::Path;

    fn reading(payload: &Path, outputs: &[(Stream, Place)], form: Form, follows: bool) -> Reading {
        let logs = Logs::new(|_| ());
        let outputs = outputs.iter().copied();
        let mut reading = Reading::new(&logs, 1, payload.to_owned(), outputs, form, follows);
        reading.open().expect("opened");
        reading
    }

    fn all(reading: &mut Reading) -> String {
        let mut text = Vec::new();
        loop {
            let piece = reading.next(true).expect("read");
            if piece.is_empty() {
                return String::from_utf8(text).expect("UTF-8");
            }
            assert!(piece.len() <= 2 * (PIECE_BYTES + EVENT_BYTES), "{}", piece.len());
            text.extend(piece);
        }
    }

    const STDOUT: (Stream, Place) = (Stream::Stdout, Place::Offset(0));
    const STDERR: (Stream, Place) = (Stream::Stderr, Place::Offset(0));

    #[test]
    fn all_comes_out_whatever_its_size_and_form() {
        let payload = tempfile::tempdir().expect("a temporary directory");
        let lines: Vec<_> =
            (0..9000).map(|number| format!("line {number} {}", "ä".repeat(number % 50))).collect();
        let text = lines.join("\n") + "\n";
        fs::write(payload.path().join(STDOUT_FILE), &text).expect("written");
        fs::write(payload.path().join(STDERR_FILE), "a part").expect("written");
        let of = |outputs: &[_], form| all(&mut reading(payload.path(), outputs, form, false));
        assert_eq!(of(&[STDOUT], Form::Plain), text);
        assert_eq!(of(&[STDOUT, STDERR], Form::Plain), text.clone() + "a part");
        let events = of(&[STDOUT, STDERR], Form::Events);
        let lines: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert!(text.lines().chain(["a part"]).eq(lines.iter().copied()));
        let last = format!("event: stderr\nid: {},6\ndata: a part\n\n", text.len());
        assert!(events.ends_with(&last), "{}", &events[events.len() - 100..]);
        // From any event on, the rest is the same.
        let (before, after) = events.split_once("data: line 4711").expect("there");
        let id = before.rsplit_once("id: ").expect("there").1.trim_end();
        let offset = id.split(',').next().expect("two").parse().expect("a number");
        let rest = of(&[(Stream::Stdout, Place::Offset(offset))], Form::Events);
        let rest: String = rest.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let after = after.split_once("\n\n").expect("an end").1;
        let after: String = after.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(rest + "a part", after);
    }

    #[test]
    fn a_line_waits_for_its_end_where_lines_count() {
        let payload = tempfile::tempdir().expect("a temporary directory");
        let mut file = File::create(payload.path().join(STDOUT_FILE)).expect("created");
        let mut plain = reading(payload.path(), &[STDOUT], Form::Plain, true);
        let mut lines = reading(payload.path(), &[STDOUT], Form::Events, true);
        let told = |reading: &mut Reading, is_final| {
            String::from_utf8(reading.next(is_final).expect("read")).expect("UTF-8")
        };
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(told(&mut plain, false), "one\ntw");
        assert_eq!(told(&mut lines, false), "event: stdout\nid: 4\ndata: one\n\n");
        assert_eq!(told(&mut lines, false), "");
        file.write_all(b"o").expect("written");
        assert_eq!(told(&mut plain, false), "o");
        assert_eq!(told(&mut lines, true), "event: stdout\nid: 7\ndata: two\n\n");
        assert_eq!(told(&mut lines, true), "");
        file.write_all("€".repeat(PIECE_BYTES).as_bytes()).expect("written");
        let piece = told(&mut lines, false);
        assert!(piece.ends_with("€\n\n") && piece.len() > PIECE_BYTES - 3, "{}", piece.len());
    }

    #[test]
    fn an_output_that_is_cut_is_read_anew() {
        let payload = tempfile::tempdir().expect("a temporary directory");
        let file = File::options().append(true).create(true).open(payload.path().join(STDOUT_FILE));
        let mut file = file.expect("created");
        let mut ahead = reading(payload.path(), &[(Stream::Stdout, Place::Offset(6))], Form::Plain, true);
        let mut all = reading(payload.path(), &[STDOUT], Form::Plain, true);
        file.write_all(b"first\n").expect("written");
        assert_eq!(all.next(false).expect("read"), b"first\n");
        assert_eq!(ahead.next(false).expect("read"), b"");
        file.set_len(0).expect("cut");
        file.write_all(b"new\n").expect("written");
        assert_eq!(all.next(false).expect("read"), b"new\n");
        assert_eq!(ahead.next(false).expect("read"), b"", "what it waits for is yet to come");
    }
}
