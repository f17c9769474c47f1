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

/// What an output has beyond its file, which MAX_LOG bounds, while its payload runs.
pub struct Beyond {
    /// Bytes in the file.
    pub head: u64,
    /// Bytes after them that are gone.
    pub left_out: u64,
    /// The last bytes, which come after those.
    pub tail: Vec<u8>,
    /// Once these are in the file too: the length of the line before them that says how much is left out.
    pub note_bytes: Option<u64>,
}

/// Tells what an output has beyond its file at the moment.
pub type Live = Box<dyn Fn() -> Beyond + Send>;

/// Finds that of an output, where there is any.
pub type FindLive = Box<dyn Fn(Stream) -> Option<Live> + Send>;

/// A reader of one or both outputs of a payload.
pub struct Reading {
    id: PayloadId,
    directory: PathBuf,
    form: Form,
    find_live: FindLive,
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
    /// What it has beyond the file, as long as `offset` counts what is left out.
    live: Option<Live>,
    /// Where the file ended when that was last looked at.
    head: u64,
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
        find_live: FindLive,
    ) -> Self {
        let parts = outputs.into_iter().map(|(stream, from)| Part { stream, from, open: None }).collect();
        let watcher = follows.then(|| logs.watcher.clone());
        Self { id, directory, form, find_live, watcher, parts }
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
            // After the file: if it has ended in between, there is none, and all is in the file.
            let live = watched.as_ref().and_then(|_| (self.find_live)(part.stream));
            part.open = Some(Open { output, offset, limit, has_read: false, live, head: 0, watched });
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
            // What is beyond the file has no place of its own before the end: who goes on from there gets it again.
            (Some(open), _) if open.live.is_some() => open.offset.min(open.head).to_string(),
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
        let Fetched { left_out, bytes, is_at_end } = open.fetch()?;
        if left_out > 0 {
            let note = format!("[{left_out} bytes are left out here: MAX_LOG]");
            match self.form {
                Form::Plain => piece.extend_from_slice(format!("\n{note}\n").as_bytes()),
                Form::Events => add_line(piece, part.stream.name(), &open.head.to_string(), note.as_bytes()),
            }
        }
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

/// What comes next of an output.
struct Fetched {
    /// Bytes before it that are gone, and that the reader has not been told of.
    left_out: u64,
    bytes: Vec<u8>,
    /// Whether that is all that there is now.
    is_at_end: bool,
}

impl Open {
    /// What is at `offset`.
    fn fetch(&mut self) -> io::Result<Fetched> {
        let mut left_out = 0;
        if let Some(live) = &self.live {
            let beyond = live();
            self.head = beyond.head;
            let start = beyond.head + beyond.left_out;
            if self.offset > beyond.head || beyond.note_bytes.is_none() && self.offset == beyond.head {
                left_out = start.saturating_sub(self.offset);
                self.offset = self.offset.max(start);
            }
            match beyond.note_bytes {
                None if self.offset >= start => return Ok(self.of_tail(left_out, start, &beyond.tail)),
                None => {}
                Some(note_bytes) => {
                    // All is in the file, where a line stands for what is left out.
                    if self.offset > beyond.head {
                        self.offset = self.offset - beyond.left_out + note_bytes;
                    }
                    self.live = None;
                }
            }
        }
        let end = self.output.bytes()?.min(self.limit);
        if end < self.offset && self.has_read && self.watched.is_some() {
            // The payload has cut it and begins anew.
            self.offset = 0;
        }
        let bytes = self.output.read(self.offset, end, PIECE_BYTES)?;
        let is_at_end = self.offset.saturating_add(bytes.len() as u64) >= end;
        Ok(Fetched { left_out, bytes, is_at_end })
    }

    fn of_tail(&self, left_out: u64, start: u64, tail: &[u8]) -> Fetched {
        let from = usize::try_from(self.offset - start).unwrap_or(usize::MAX).min(tail.len());
        let rest = &tail[from..];
        let bytes = rest[..rest.len().min(PIECE_BYTES)].to_vec();
        Fetched { left_out, is_at_end: bytes.len() == rest.len(), bytes }
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
    use std::sync::{Arc, Mutex};

    fn reading(payload: &Path, outputs: &[(Stream, Place)], form: Form, follows: bool) -> Reading {
        let logs = Logs::new(|_| ());
        let outputs = outputs.iter().copied();
        let mut reading =
            Reading::new(&logs, 1, payload.to_owned(), outputs, form, follows, Box::new(|_| None));
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
    fn what_max_log_keeps_back_is_told_as_it_comes_and_the_rest_from_the_file() {
        let payload = tempfile::tempdir().expect("a temporary directory");
        let path = payload.path().join(STDOUT_FILE);
        fs::write(&path, "head").expect("written");
        let state = Arc::new(Mutex::new((0, "", None)));
        let seen = Arc::clone(&state);
        let find: FindLive = Box::new(move |_| {
            let seen = Arc::clone(&seen);
            Some(Box::new(move || {
                let (left_out, tail, note_bytes) = *seen.lock().expect("no panic");
                Beyond { head: 4, left_out, tail: tail.into(), note_bytes }
            }))
        });
        let logs = Logs::new(|_| ());
        let mut reading =
            Reading::new(&logs, 1, payload.path().to_owned(), [STDOUT], Form::Plain, true, find);
        reading.open().expect("opened");
        let mut told = |left_out, tail, note_bytes| {
            *state.lock().expect("no panic") = (left_out, tail, note_bytes);
            let text = String::from_utf8(reading.next(false).expect("read")).expect("UTF-8");
            (text, reading.position())
        };
        let place = |text: &str| (text.to_owned(), "4".to_owned());
        assert_eq!(told(0, "", None), place("head"));
        assert_eq!(told(0, "ab", None), place("ab"));
        assert_eq!(told(1, "bc", None), place("c"));
        assert_eq!(told(5, "fg", None), place("\n[2 bytes are left out here: MAX_LOG]\nfg"));
        assert_eq!(told(5, "fg", None), place(""));
        let note = "\n[6 bytes are left out here: MAX_LOG]\n";
        fs::write(&path, format!("head{note}gh")).expect("written");
        let end = 4 + note.len() + 2;
        assert_eq!(told(6, "", Some(note.len() as u64)), ("h".to_owned(), end.to_string()));
        assert_eq!(told(6, "", Some(note.len() as u64)), (String::new(), end.to_string()));
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
