//! A bounded pipe of byte chunks between a coroutine and a disk thread, in either direction.
//! Its few buffers go round and round, so a transfer has the same memory whatever its size. Either side may wait; a side
//! that is dropped wakes the other.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use may::sync::Blocker;
use rustix::io::Errno;

use super::watch::Patience;

/// Bytes of data in a chunk: large enough that a system call for each costs little.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// Buffers of a pipe: one being filled, one being emptied, one in between.
const BUFFERS: usize = 3;

/// Room for the chunk-size line before the data, and for the line end and the last chunk after it (RFC 9112, section 7.1), so
/// that a chunk goes out in one write.
const FRAME_HEAD: usize = 10;
const FRAME_TAIL: usize = LINE_END.len() + LAST_CHUNK.len();
const LINE_END: &[u8] = b"\r\n";
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Makes the two ends. `expected` bytes, where known, keep the first buffer of a small transfer small.
pub(super) fn pipe(expected: Option<u64>) -> (Writer, Reader) {
    let first_bytes = expected.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(CHUNK_BYTES);
    let shared = Arc::new(Shared::default());
    let writer =
        Writer { shared: Arc::clone(&shared), filling: None, next_bytes: first_bytes.clamp(1, CHUNK_BYTES) };
    (writer, Reader { shared })
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    full: VecDeque<Filled>,
    free: Vec<Vec<u8>>,
    made: usize,
    end: Option<End>,
    /// The writer has said so since the reader looked last.
    is_at_work: bool,
    reader_is_gone: bool,
    waiting_writer: Option<Arc<Blocker>>,
    waiting_reader: Option<Arc<Blocker>>,
}

enum End {
    Finished,
    Failed(io::Error),
}

struct Filled {
    buffer: Vec<u8>,
    length: usize,
}

impl Shared {
    /// Held for a few instructions only, never while waiting; nothing in there can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waiting: Option<Arc<Blocker>>) {
    if let Some(blocker) = waiting {
        blocker.unpark();
    }
}

/// Waits until the other side wakes this one, for so long only where patience has an end. Both sides look at the state again
/// afterwards.
fn wait(blocker: &Arc<Blocker>, patience: Option<&mut Patience<'_>>) -> io::Result<()> {
    if let Some(patience) = patience {
        return patience.wait(blocker);
    }
    // Without a time-out, and coroutines are never cancelled here: there is no error to come.
    let _ = blocker.park(None);
    Ok(())
}

/// The other side has moved.
fn renew(patience: Option<&mut Patience<'_>>) {
    if let Some(patience) = patience {
        patience.renew();
    }
}

/// Where the body of an answer goes while it is made, on a disk thread.
pub trait Sink: io::Write {
    /// Lets `read` put bytes straight in the buffer that goes out next, and gives how many they are.
    fn fill(&mut self, read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize>;

    /// Says that the work goes on, though nothing comes of it yet: who waits does so anew. An error if he has gone.
    fn still_at_work(&mut self) -> io::Result<()>;
}

/// The end that bytes go into. Dropped without [`Writer::finish`], it tells the reader that something is missing.
pub(super) struct Writer {
    shared: Arc<Shared>,
    filling: Option<Filled>,
    next_bytes: usize,
}

impl Writer {
    /// The free part of the buffer that is being filled. Waits for a buffer; an error if the reader is gone, `ENOMEM` where no
    /// memory is left.
    pub(super) fn space(&mut self) -> io::Result<&mut [u8]> {
        self.space_within(None)
    }

    /// The same, for as long as patience lasts: then `TimedOut`.
    pub(super) fn space_within(&mut self, patience: Option<&mut Patience<'_>>) -> io::Result<&mut [u8]> {
        if self.filling.is_none() {
            let buffer = self.take_buffer(patience)?;
            self.filling = Some(Filled { buffer, length: 0 });
        }
        let filled = self.filling.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let end = filled.buffer.len() - FRAME_TAIL;
        Ok(&mut filled.buffer[FRAME_HEAD + filled.length..end])
    }

    /// Says that `count` bytes were put in [`Writer::space`]; sends the buffer when it is full, and says so.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        let Some(filled) = &mut self.filling else { return false };
        filled.length += count;
        let is_full = FRAME_HEAD + filled.length + FRAME_TAIL >= filled.buffer.len();
        if is_full {
            self.send();
        }
        is_full
    }

    /// Sends what is there. Never an empty chunk: on the wire that would be the end.
    pub(super) fn send(&mut self) {
        if self.filling.as_ref().is_some_and(|filled| filled.length > 0) {
            self.pass_on(None);
        }
    }

    /// The regular end.
    pub(super) fn finish(mut self) {
        self.pass_on(Some(End::Finished));
    }

    /// An end that the reader gets as this error.
    pub(super) fn fail(mut self, error: io::Error) {
        self.filling = None;
        self.pass_on(Some(End::Failed(error)));
    }

    /// Hands over what is there, and the end with it if that is known: the reader is woken once.
    fn pass_on(&mut self, end: Option<End>) {
        let last = self.filling.take().filter(|filled| filled.length > 0);
        let mut state = self.shared.lock();
        state.full.extend(last);
        if state.end.is_none() {
            state.end = end;
        }
        let waiting = state.waiting_reader.take();
        drop(state);
        wake(waiting);
    }

    fn take_buffer(&mut self, mut patience: Option<&mut Patience<'_>>) -> io::Result<Vec<u8>> {
        loop {
            let mut state = self.shared.lock();
            if state.reader_is_gone {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if let Some(buffer) = state.free.pop() {
                renew(patience);
                return Ok(buffer);
            }
            if state.made < BUFFERS {
                state.made += 1;
                drop(state);
                let bytes = std::mem::replace(&mut self.next_bytes, CHUNK_BYTES);
                let bytes = FRAME_HEAD + bytes + FRAME_TAIL;
                let mut buffer = Vec::new();
                buffer.try_reserve_exact(bytes).map_err(|_| Errno::NOMEM)?;
                buffer.resize(bytes, 0);
                return Ok(buffer);
            }
            let blocker = Blocker::current();
            state.waiting_writer = Some(Arc::clone(&blocker));
            drop(state);
            wait(&blocker, patience.as_deref_mut())?;
        }
    }
}

impl io::Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let space = self.space()?;
        let count = space.len().min(data.len());
        space[..count].copy_from_slice(&data[..count]);
        self.advance(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Writer {
    fn fill(&mut self, read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let count = read(self.space()?)?;
        self.advance(count);
        Ok(count)
    }

    fn still_at_work(&mut self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.reader_is_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.is_at_work = true;
        let waiting = state.waiting_reader.take();
        drop(state);
        wake(waiting);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.filling = None;
        self.pass_on(Some(End::Failed(io::ErrorKind::UnexpectedEof.into())));
    }
}

/// The end that bytes come out of.
pub(super) struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    /// The next chunk. Waits for it; `None` after the regular end.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        self.next_within(None)
    }

    /// The same, for as long as patience lasts: then `TimedOut`.
    pub(super) fn next_within(
        &mut self,
        mut patience: Option<&mut Patience<'_>>,
    ) -> io::Result<Option<Chunk>> {
        loop {
            let mut state = self.shared.lock();
            if let Some(filled) = state.full.pop_front() {
                renew(patience);
                return Ok(Some(Chunk { filled, shared: Arc::clone(&self.shared) }));
            }
            match state.end.take() {
                Some(End::Finished) => {
                    state.end = Some(End::Finished);
                    return Ok(None);
                }
                Some(End::Failed(error)) => {
                    state.end = Some(End::Finished);
                    return Err(error);
                }
                None => {}
            }
            if std::mem::take(&mut state.is_at_work)
                && let Some(patience) = &mut patience
            {
                drop(state);
                patience.sign_of_life()?;
                continue;
            }
            let blocker = Blocker::current();
            state.waiting_reader = Some(Arc::clone(&blocker));
            drop(state);
            wait(&blocker, patience.as_deref_mut())?;
        }
    }

    /// Whether it is known by now that nothing more comes, and that nothing is missing.
    pub(super) fn is_at_end(&self) -> bool {
        let state = self.shared.lock();
        state.full.is_empty() && matches!(state.end, Some(End::Finished))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.reader_is_gone = true;
        let waiting = state.waiting_writer.take();
        drop(state);
        wake(waiting);
    }
}

impl Iterator for Reader {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        Self::next(self).transpose()
    }
}

/// Some bytes out of a pipe; its buffer goes back when it is dropped.
pub struct Chunk {
    filled: Filled,
    shared: Arc<Shared>,
}

impl Chunk {
    /// The chunk as the wire has it: size line, data, line end, and after that the last chunk if `is_last`. Leading zeros are
    /// part of the grammar (RFC 9112, section 7.1: `chunk-size = 1*HEXDIG`).
    pub(super) fn framed(&mut self, is_last: bool) -> &[u8] {
        let Filled { buffer, length } = &mut self.filled;
        let head = format!("{length:08x}\r\n");
        buffer[..FRAME_HEAD].copy_from_slice(head.as_bytes());
        let data_end = FRAME_HEAD + *length;
        let line_end = data_end + LINE_END.len();
        buffer[data_end..line_end].copy_from_slice(LINE_END);
        let end = line_end + LAST_CHUNK.len();
        buffer[line_end..end].copy_from_slice(LAST_CHUNK);
        &buffer[..if is_last { end } else { line_end }]
    }
}

/// Bytes of no pipe as one chunk of the wire. There must be some: of none it would be the last chunk.
/// Takes them, so that a slow reader holds them once.
pub(super) fn framed(bytes: Vec<u8>) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.reserve_exact(bytes.len() + LINE_END.len());
    framed.extend_from_slice(&bytes);
    drop(bytes);
    framed.extend_from_slice(LINE_END);
    framed
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.filled.buffer[FRAME_HEAD..FRAME_HEAD + self.filled.length]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.filled.buffer);
        let mut state = self.shared.lock();
        if buffer.len() < FRAME_HEAD + CHUNK_BYTES + FRAME_TAIL {
            // The first one may be small; one that goes round would cut a large transfer in small pieces.
            state.made -= 1;
        } else {
            state.free.push(buffer);
        }
        let waiting = state.waiting_writer.take();
        drop(state);
        wake(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::thread;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| u8::try_from(n % 251).expect("small")).collect()
    }

    #[test]
    fn bytes_come_out_as_they_went_in_with_three_buffers_in_all() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7] {
            let (mut writer, mut reader) = pipe(None);
            let sent = bytes(size);
            let expected = sent.clone();
            let thread = thread::spawn(move || {
                writer.write_all(&sent).expect("read to the end");
                writer.finish();
            });
            let mut seen = Vec::new();
            while let Some(chunk) = reader.next().expect("no failure") {
                seen.extend_from_slice(chunk.as_ref());
            }
            thread.join().expect("no panic");
            assert_eq!(seen, expected);
            assert!(reader.shared.lock().made <= BUFFERS);
        }
    }

    #[test]
    fn of_a_small_first_buffer_no_other_piece_is_as_small() {
        let (mut writer, mut reader) = pipe(Some(100));
        let thread = thread::spawn(move || {
            writer.write_all(&bytes(100 + 5 * CHUNK_BYTES)).expect("read to the end");
            writer.finish();
        });
        let mut pieces = Vec::new();
        while let Some(chunk) = reader.next().expect("no failure") {
            pieces.push(chunk.as_ref().len());
        }
        thread.join().expect("no panic");
        assert_eq!(pieces, [100, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES]);
    }

    #[test]
    fn a_writer_that_vanishes_is_an_error_for_the_reader_once() {
        let (mut writer, mut reader) = pipe(None);
        writer.write_all(b"half").expect("space");
        writer.send();
        drop(writer);
        assert_eq!(reader.next().expect("data first").expect("a chunk").as_ref(), b"half");
        let error = reader.next().map(|_| ()).expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(reader.next().expect("told already").is_none());
    }

    #[test]
    fn a_reader_that_vanishes_stops_a_waiting_writer() {
        let (mut writer, reader) = pipe(None);
        let thread =
            thread::spawn(move || writer.write_all(&bytes(10 * CHUNK_BYTES)).map_err(|error| error.kind()));
        drop(reader);
        assert_eq!(thread.join().expect("no panic"), Err(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_chunk_is_framed_in_place() {
        let (mut writer, mut reader) = pipe(Some(5));
        writer.write_all(b"hello").expect("space");
        assert!(!reader.is_at_end());
        writer.finish();
        let mut chunk = reader.next().expect("no failure").expect("a chunk");
        assert!(reader.is_at_end());
        assert_eq!(chunk.framed(false), b"00000005\r\nhello\r\n");
        assert_eq!(chunk.framed(true), b"00000005\r\nhello\r\n0\r\n\r\n");
    }
}
