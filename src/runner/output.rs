//! The output of payloads within MAX_LOG: the head goes to the file as it comes, of the rest the tail is kept in memory and
//! written at the end, so that a payload that prints without end wears out no flash. Without MAX_LOG none of this is at
//! work: a payload then writes to its files itself.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::io::{Errno, ioctl_fionbio};

use super::inbox::{Inbox, Sender, inbox};
use crate::event;
use crate::metrics;
use crate::payload::PayloadId;

/// A tail is held in memory, twice for each payload that runs.
const MAX_TAIL_BYTES: u64 = 64 * 1024;

/// Room for the line that says how much is missing.
const NOTE_BYTES: u64 = 100;

const READ_BYTES: usize = 64 * 1024;

/// What is still read at the end: as much as a pipe can hold by default's limit (pipe(7)). Who goes on writing then is no
/// part of the payload.
const LAST_BYTES: usize = 1024 * 1024;

/// The pipes of all payloads that run, emptied by one thread; cheap to clone.
pub(super) struct Outputs {
    max_log: u64,
    begun: Sender<Arc<Output>>,
    /// Of payloads that run: their standard output, then their standard error.
    known: Arc<Mutex<Known>>,
    /// Told of each payload that prints what does not go to its file at once.
    told: Arc<OnceLock<Box<Told>>>,
}

type Known = HashMap<PayloadId, Vec<Weak<Output>>>;
type Told = dyn Fn(PayloadId) + Send + Sync;

/// One output of one payload.
pub struct Output {
    pipe: PipeReader,
    state: Mutex<State>,
    told: Arc<OnceLock<Box<Told>>>,
}

/// What an output has beyond its file.
pub struct KeptBack {
    /// Bytes that went to the file as they came.
    pub head: u64,
    /// Bytes after them that are gone.
    pub left_out: u64,
    /// The last bytes, which come after those.
    pub tail: Vec<u8>,
    /// Once the tail is in the file too: the length of the line before it that says how much is left out, 0 if nothing is.
    pub note_bytes: Option<u64>,
}

struct State {
    payload: PayloadId,
    file: File,
    head: u64,
    head_left: u64,
    tail: VecDeque<u8>,
    tail_bytes: usize,
    /// Bytes that are in neither.
    left_out: u64,
    note_bytes: u64,
    is_ended: bool,
    has_failed: bool,
}

/// What a payload writes to in the place of a file. Reading does not wait.
pub(super) struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Pipe {
    /// One that /proc shows as the file `path`, removed: so a process that holds it is known by it, as it is by the log itself
    /// without MAX_LOG. What was at `path` is removed. Where the file system takes no named pipes it is one without a name.
    pub(super) fn named(path: &Path) -> io::Result<Self> {
        Self::with_name(path).or_else(|_| Self::without_name())
    }

    fn with_name(path: &Path) -> io::Result<Self> {
        let create = || mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR);
        match create() {
            Err(Errno::EXIST) => {
                fs::remove_file(path)?;
                create()?;
            }
            result => result?,
        }
        // Neither waits for the other end.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reader = open(path, OFlags::RDONLY | flags, Mode::empty())?;
        let writer = open(path, OFlags::WRONLY | flags, Mode::empty())?;
        fs::remove_file(path)?;
        ioctl_fionbio(&writer, false)?;
        Ok(Self { reader: reader.into(), writer: writer.into() })
    }

    fn without_name() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        ioctl_fionbio(&reader, true)?;
        Ok(Self { reader, writer })
    }
}

impl Outputs {
    /// Starts the thread. `max_log` is in bytes, 1024 at least.
    pub(super) fn start(max_log: u64) -> io::Result<Self> {
        let (begun, inbox) = inbox()?;
        thread::Builder::new().name("output".to_owned()).spawn(move || empty_pipes(&inbox))?;
        Ok(Self { max_log, begun, known: Arc::default(), told: Arc::default() })
    }

    /// Lets a pipe end up in `file`. The writing end is for the payload.
    pub(super) fn begin(&self, payload: PayloadId, file: File, pipe: Pipe) -> (Arc<Output>, PipeWriter) {
        let Pipe { reader: pipe, writer } = pipe;
        let tail_bytes = (self.max_log / 4).min(MAX_TAIL_BYTES);
        let state = State {
            payload,
            file,
            head: 0,
            head_left: self.max_log - tail_bytes - NOTE_BYTES,
            tail: VecDeque::new(),
            tail_bytes: usize::try_from(tail_bytes).unwrap_or(0),
            left_out: 0,
            note_bytes: 0,
            is_ended: false,
            has_failed: false,
        };
        let output = Arc::new(Output { pipe, state: Mutex::new(state), told: Arc::clone(&self.told) });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_payload = known.entry(payload).or_default();
        // Of an attempt to start it that failed in between.
        of_payload.retain(|output| output.strong_count() > 0);
        of_payload.push(Arc::downgrade(&output));
        drop(known);
        self.begun.send(Arc::clone(&output));
        (output, writer)
    }

    /// Takes what is left in the pipe and completes the file. Nobody but strangers can write to it now.
    pub(super) fn end(&self, output: &Output) {
        let mut left = LAST_BYTES;
        while left > 0 {
            match output.take() {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
        let mut state = output.lock();
        state.end();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&state.payload);
        drop(state);
        self.begun.wake();
    }

    /// The output of a payload that runs, by its number: 0 is standard output, 1 standard error.
    pub(super) fn find(&self, payload: PayloadId, number: usize) -> Option<Arc<Output>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&payload)?.get(number)?.upgrade()
    }

    /// `told` is called with each payload that prints what does not go to its file at once. The first call counts.
    pub(super) fn when_kept_back(&self, told: impl Fn(PayloadId) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }
}

fn empty_pipes(inbox: &Inbox<Arc<Output>>) {
    let mut outputs: Vec<Arc<Output>> = Vec::new();
    loop {
        let mut waited_for = vec![PollFd::from_borrowed_fd(inbox.bell(), PollFlags::IN)];
        waited_for.extend(outputs.iter().map(|output| PollFd::new(&output.pipe, PollFlags::IN)));
        if let Err(errno) = poll(&mut waited_for, None)
            && errno != Errno::INTR
        {
            event!(Error, "cannot wait for the output of payloads", error = errno.to_string());
            return;
        }
        let is_ready: Vec<bool> = waited_for.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = is_ready.iter().skip(1);
        outputs.retain(|output| {
            let is_open = ready.next() != Some(&true) || output.take_some();
            is_open && !output.lock().is_ended
        });
        if is_ready.first() == Some(&true) {
            outputs.extend(inbox.take());
        }
    }
}

impl Output {
    /// Reads once; 0 at the end of all writers.
    fn take(&self) -> io::Result<usize> {
        let mut state = self.lock();
        let mut buffer = vec![0; READ_BYTES];
        let count = (&self.pipe).read(&mut buffer)?;
        state.keep(&buffer[..count]);
        let kept_back = (!state.tail.is_empty()).then_some(state.payload);
        drop(state);
        if let (Some(payload), Some(told)) = (kept_back, self.told.get()) {
            told(payload);
        }
        Ok(count)
    }

    /// What it has beyond its file now. May wait for the disk: its file is written under the same lock.
    pub fn kept_back(&self) -> KeptBack {
        let state = self.lock();
        KeptBack {
            head: state.head,
            left_out: state.left_out,
            tail: state.tail.iter().copied().collect(),
            note_bytes: state.is_ended.then_some(state.note_bytes),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there may be more.
    fn take_some(&self) -> bool {
        match self.take() {
            Ok(count) => count > 0,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

impl State {
    fn keep(&mut self, bytes: &[u8]) {
        let head_bytes = usize::try_from(self.head_left).unwrap_or(usize::MAX).min(bytes.len());
        let (head, rest) = bytes.split_at(head_bytes);
        self.head_left -= head.len() as u64;
        self.head += head.len() as u64;
        self.write(head);
        // Of very much only the end can stay.
        let (passed_over, rest) = rest.split_at(rest.len().saturating_sub(self.tail_bytes));
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.tail_bytes);
        self.left_out += (passed_over.len() + surplus) as u64;
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    fn end(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if self.left_out > 0 {
            metrics::LIMITS.add("max_log");
            let note = format!("\n[{} bytes are left out here: MAX_LOG]\n", self.left_out);
            self.note_bytes = note.len() as u64;
            self.write(note.as_bytes());
        }
        let (first, second) = tail.as_slices();
        self.write(first);
        self.write(second);
        self.is_ended = true;
    }

    /// What does not fit on the disk is lost, once told: a payload is not stopped by its own output.
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.file.write_all(bytes)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            event!(Warn, "output of a payload is lost", payload = self.payload, error = error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LOG: u64 = 4096;

    fn logged(printed: &[u8], piece: usize) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log");
        let outputs = Outputs::start(MAX_LOG).expect("started");
        let pipe = Pipe::named(&path).expect("a pipe");
        let (output, mut pipe) = outputs.begin(1, File::create(&path).expect("created"), pipe);
        for piece in printed.chunks(piece) {
            pipe.write_all(piece).expect("read by the thread");
        }
        outputs.end(&output);
        fs::read(path).expect("there")
    }

    #[test]
    fn what_fits_is_kept_whole_and_of_more_the_head_and_the_tail() {
        let text: Vec<u8> = (0..40_000_u32).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        let whole = usize::try_from(MAX_LOG - NOTE_BYTES).expect("small");
        for piece in [100, 5000, text.len()] {
            for length in [0, 1, whole - 1, whole] {
                assert_eq!(logged(&text[..length], piece), &text[..length], "{length} by {piece}");
            }
            for length in [whole + 1, 2 * whole, text.len()] {
                let kept = logged(&text[..length], piece);
                assert!(kept.len() as u64 <= MAX_LOG, "{}", kept.len());
                let kept = String::from_utf8(kept).expect("ASCII");
                let (head, rest) = kept.split_once("\n[").expect("a note");
                let (count, tail) = rest.split_once(" bytes are left out here: MAX_LOG]\n").expect("a note");
                assert!(text.starts_with(head.as_bytes()) && text[..length].ends_with(tail.as_bytes()));
                let count: usize = count.parse().expect("a number");
                assert_eq!(head.len() + count + tail.len(), length);
            }
        }
    }
}
