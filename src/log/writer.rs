//! The way to standard error, which may be a pipe that nobody reads, or a terminal that has been stopped: whoever logs never
//! waits for it. One thread writes; what it cannot take for now waits in memory, within bounds, and the rest is dropped and
//! counted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What waits to be written: some thousand lines.
const ROOM_BYTES: usize = 256 * 1024;

/// A pipe that says it can be written to takes so much at once (PIPE_BUF, pipe(7)).
const PIECE_BYTES: usize = 4096;

/// How long all lines together may wait that are written without the thread.
const PATIENCE: Duration = Duration::from_millis(500);

/// Pause where standard error takes nothing now and cannot be waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// How the line is written that says how many were dropped.
type Note = fn(u64) -> String;

struct State {
    waiting: VecDeque<String>,
    waiting_bytes: usize,
    dropped: u64,
    /// `None` while there is no thread.
    note: Option<Note>,
    is_writing: bool,
    /// What is left of [`PATIENCE`].
    patience: Duration,
}

static STATE: Mutex<State> = Mutex::new(State {
    waiting: VecDeque::new(),
    waiting_bytes: 0,
    dropped: 0,
    note: None,
    is_writing: false,
    patience: PATIENCE,
});
static FILLED: Condvar = Condvar::new();
static EMPTIED: Condvar = Condvar::new();

/// Starts the thread. Without it a line is written by its own thread, which may wait for a moment.
pub(super) fn start(note: Note) -> io::Result<()> {
    lock().note = Some(note);
    let thread = thread::Builder::new().name("log".to_owned()).spawn(work);
    if thread.is_err() {
        lock().note = None;
    }
    thread.map(drop)
}

/// Writes a line, its end included, as soon as that can be; drops it where too many wait.
pub(super) fn put(line: String) {
    let mut state = lock();
    if state.note.is_none() {
        state.patience = write_within(line.as_bytes(), state.patience);
        return;
    }
    state.take(line);
    let is_asleep = !state.is_writing;
    drop(state);
    if is_asleep {
        FILLED.notify_one();
    }
}

/// Waits until all is out, but not for long: for the end of the process.
pub(super) fn flush(at_most: Duration) {
    let is_busy = |state: &mut State| state.note.is_some() && (state.is_writing || !state.waiting.is_empty());
    let waited = EMPTIED.wait_timeout_while(lock(), at_most, is_busy);
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn take(&mut self, line: String) {
        let note = self.dropped_note();
        let bytes = line.len() + note.as_ref().map_or(0, String::len);
        if self.waiting_bytes + bytes > ROOM_BYTES {
            self.dropped += 1;
            return;
        }
        self.dropped = 0;
        self.waiting_bytes += bytes;
        self.waiting.extend(note.into_iter().chain([line]));
    }

    /// Stands where the lines are missing.
    fn dropped_note(&self) -> Option<String> {
        self.note.filter(|_| self.dropped > 0).map(|note| note(self.dropped))
    }
}

fn work() {
    let mut state = lock();
    loop {
        if state.waiting.is_empty()
            && let Some(note) = state.dropped_note()
        {
            state.dropped = 0;
            state.waiting_bytes += note.len();
            state.waiting.push_back(note);
        }
        let Some(line) = state.waiting.pop_front() else {
            state.is_writing = false;
            EMPTIED.notify_all();
            state = FILLED.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.is_writing = true;
        drop(state);
        write(line.as_bytes());
        state = lock();
        // Only now is its room free: what is being written is as much in memory as what waits.
        state.waiting_bytes -= line.len();
    }
}

/// By one write, so that lines of different processes do not mix. If standard error is gone there is nobody left to tell.
fn write(mut line: &[u8]) {
    while !line.is_empty() {
        match io::stderr().lock().write(line) {
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody who shares it has made it so (O_NONBLOCK is of the open file, not of the descriptor).
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !is_writable(Duration::from_secs(3600)) {
                    thread::sleep(PAUSE);
                }
            }
            Err(_) => return,
        }
    }
}

/// Gives the patience that is left.
fn write_within(line: &[u8], patience: Duration) -> Duration {
    let begun = Instant::now();
    let left = || patience.saturating_sub(begun.elapsed());
    for piece in line.chunks(PIECE_BYTES) {
        if !is_writable(left()) {
            return Duration::ZERO;
        }
        if io::stderr().lock().write_all(piece).is_err() {
            break;
        }
    }
    left()
}

fn is_writable(within: Duration) -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let within = Timespec::try_from(within).ok();
    poll(&mut fds, within.as_ref()).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            dropped: 0,
            note: Some(|number| format!("{number} dropped\n")),
            is_writing: true,
            patience: PATIENCE,
        }
    }

    #[test]
    fn what_has_no_room_is_dropped_and_told_where_it_is_missing() {
        let mut state = state();
        let line = "x".repeat(1023) + "\n";
        for _ in 0..300 {
            state.take(line.clone());
        }
        assert_eq!((state.waiting.len(), state.dropped), (256, 44));
        for _ in 0..2 {
            let written = state.waiting.pop_front().expect("a line");
            state.waiting_bytes -= written.len();
        }
        state.take("next\n".to_owned());
        assert_eq!(state.dropped, 0);
        assert_eq!(state.waiting.iter().rev().take(2).rev().collect::<Vec<_>>(), ["44 dropped\n", "next\n"]);
    }
}
