//! Request bodies: by length or in chunks, read straight from the socket, and fed to a disk thread through a pipe.

use std::io;
use std::sync::Arc;

use super::Shared;
use super::error::HttpError;
use super::head::{self, Framing, Head};
use super::pipe::{Reader, pipe};
use super::reply::{Claim, Missing, reply};
use super::watch::{Caller, Patience};
use super::wire::Wire;
use crate::{event, metrics};

/// A chunk-size line or a trailer section longer than this is not believed (RFC 9112, section 7.1.1: bound extensions).
const MAX_LINE_BYTES: usize = 4 * 1024;

/// Digits of a chunk size, leading zeros included.
const MAX_SIZE_DIGITS: usize = 16;

/// An unread rest up to this size is read away, so that the connection can be kept.
const MAX_DRAIN_BYTES: u64 = 64 * 1024;

/// The body of one request. Reading it is up to the service; what it leaves is drained or ends the connection.
pub struct Body<'c> {
    wire: &'c mut Wire,
    shared: &'c Shared,
    state: State,
    /// The client waits for `100 Continue` before it sends the body.
    owes_continue: bool,
    length: Option<u64>,
    is_announced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Left(u64),
    /// A chunk-size line is to come.
    ChunkSize,
    /// So many bytes of a chunk, then its line end, are to come.
    Chunk(u64),
    /// The trailer section is to come, and may have so many bytes more.
    Trailers(usize),
    /// All has been read.
    End,
    /// The framing is lost: no further byte can be understood.
    Broken,
}

impl<'c> Body<'c> {
    pub(super) fn new(wire: &'c mut Wire, shared: &'c Shared, head: &Head) -> Self {
        let (state, length) = match head.framing {
            Framing::None | Framing::Length(0) => (State::End, Some(0)),
            Framing::Length(length) => (State::Left(length), Some(length)),
            Framing::Chunked => (State::ChunkSize, None),
        };
        let owes_continue = head.expects_continue && state != State::End;
        wire.begin_body();
        Self { wire, shared, state, owes_continue, length, is_announced: head.framing != Framing::None }
    }

    /// Whether the head announces a body at all, an empty one included.
    pub fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// Whether its sender asks first (`Expect: 100-continue`), and has not been told to go on.
    pub fn is_held_back(&self) -> bool {
        self.owes_continue
    }

    /// Who sends it.
    pub fn caller(&self) -> Caller<'_> {
        Caller::new(&self.shared.threads.watch, Some(self.wire.socket()))
    }

    /// Its length, where the head tells it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Runs `job` on a disk thread while this coroutine feeds it the body. `job` gets the chunks and, where the client
    /// breaks off or breaks the protocol, the error (`TimedOut`, `UnexpectedEof`, `InvalidData`, or the socket's own);
    /// it may stop early. It starts with the first full chunk or the end of the body, so that small uploads hold no
    /// thread while they arrive.
    ///
    /// Where it does not take a chunk, or end, within the time that a disk has, the error says so. It goes on by itself then, for
    /// nobody: before it makes something for good it has to ask [`Chunks::claim`].
    pub fn feed<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Chunks) -> T + Send + 'static,
    ) -> Result<T, HttpError> {
        let _counted = metrics::UPLOADS.enter();
        let (mut writer, reader) = pipe(self.length);
        let (teller, asker) = reply();
        let teller = Arc::new(teller);
        let run = move || {
            if !teller.is_awaited() {
                return;
            }
            let mut chunks = Chunks { reader, claim: Arc::clone(&teller) as Arc<dyn Claim> };
            let result = job(&mut chunks);
            // The pipe is closed before the result is told: who waits for the result has stopped feeding by then.
            drop(chunks);
            if let Some(teller) = Arc::into_inner(teller) {
                teller.tell(result);
            }
        };
        let shared = self.shared;
        let mut patience = Patience::new(&shared.threads.watch, shared.limits.disk_timeout);
        let mut waiting = Some(run);
        let mut start = || waiting.take().map(|run| shared.threads.uploads.run(run));
        loop {
            if self.state == State::End {
                // Known before there is anything to read: no room is made for it.
                writer.finish();
                break;
            }
            // Without space the job wants no more, and its result tells why; or it has come to a halt.
            let space = match writer.space_within(Some(&mut patience)) {
                Ok(space) => space,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    writer.fail(error);
                    break;
                }
                Err(_) => break,
            };
            match self.read(space) {
                Ok(0) => {
                    writer.finish();
                    break;
                }
                Ok(count) => {
                    if writer.advance(count)
                        && let Some(turn) = start()
                    {
                        self.wire.holds(Some(turn));
                    }
                }
                Err(error) => {
                    writer.fail(error);
                    break;
                }
            }
        }
        if let Some(turn) = start() {
            self.wire.holds(Some(turn));
        }
        let result = asker.wait(&mut patience);
        let has_begun = self.wire.is_served();
        self.wire.holds(None);
        result.map_err(|missing| match missing {
            Missing::Late if has_begun => HttpError::disk_stuck(shared.limits.disk_timeout),
            Missing::Late => HttpError::no_thread(shared.limits.disk_timeout),
            Missing::Lost => {
                event!(Error, "upload lost: its disk thread ended without a result");
                HttpError::new(500, "upload_lost", "The upload was lost inside the client; send it again.")
            }
        })
    }

    /// Reads some bytes; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.read_framed(buffer);
        if result.is_err() {
            self.state = State::Broken;
        }
        result
    }

    fn read_framed(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                State::End => return Ok(0),
                State::Broken => return Err(io::ErrorKind::InvalidData.into()),
                State::Left(left) => {
                    let count = self.read_up_to(left, buffer)?;
                    let left = left - count as u64;
                    self.state = if left == 0 { State::End } else { State::Left(left) };
                    return Ok(count);
                }
                State::Chunk(0) => {
                    if self.line()? != b"\r\n" {
                        return Err(invalid("a chunk is longer than its size line says"));
                    }
                    self.state = State::ChunkSize;
                }
                State::Chunk(left) => {
                    let count = self.read_up_to(left, buffer)?;
                    self.state = State::Chunk(left - count as u64);
                    return Ok(count);
                }
                State::ChunkSize => {
                    self.state = match chunk_size(&self.line()?) {
                        Some(0) => State::Trailers(MAX_LINE_BYTES),
                        Some(size) => State::Chunk(size),
                        None => return Err(invalid("a chunk-size line is not understood")),
                    };
                }
                State::Trailers(left) => {
                    // Trailer fields are read and dropped: none is asked for here. What is no field may be the next request
                    // to another reader, which took a bare line feed for the end of this one.
                    let line = self.line()?;
                    self.state = match left.checked_sub(line.len()) {
                        _ if line == b"\r\n" => State::End,
                        _ if !head::is_field_line(&line) => {
                            return Err(invalid("a trailer is no header field"));
                        }
                        Some(left) => State::Trailers(left),
                        None => return Err(invalid("the trailer section is too long")),
                    };
                }
            }
        }
    }

    fn read_up_to(&mut self, most: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.send_continue()?;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.wire.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }

    /// One line with its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        self.send_continue()?;
        self.wire.read_line(MAX_LINE_BYTES)
    }

    fn send_continue(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.owes_continue) && self.wire.unread().is_empty() {
            self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    /// What of the body is still unread, for later.
    pub(super) fn into_rest(self) -> Rest {
        Rest { state: self.state, owes_continue: self.owes_continue }
    }

    #[inline(never)] // for its buffer on the stack
    fn read_away(&mut self) -> io::Result<()> {
        let mut scratch = [0; 1024];
        let mut drained = 0;
        loop {
            match self.read(&mut scratch)? {
                0 => return Ok(()),
                count => drained += count as u64,
            }
            if drained > MAX_DRAIN_BYTES {
                return Ok(());
            }
        }
    }
}

/// The unread rest of a body.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    state: State,
    owes_continue: bool,
}

impl Rest {
    /// Whether it is worth reading away so that the connection can be kept.
    pub(super) fn is_small(self) -> bool {
        let is_small = match self.state {
            State::End => return true,
            State::Broken => false,
            State::Left(left) => left <= MAX_DRAIN_BYTES,
            State::ChunkSize | State::Chunk(_) | State::Trailers(_) => true,
        };
        // A client that waits for 100 Continue and gets a final answer may send the body or not: nobody can tell.
        is_small && !self.owes_continue
    }

    /// Reads it away. Gives whether the next request can be told from this one.
    pub(super) fn drain(self, wire: &mut Wire, shared: &Shared) -> bool {
        if self.state == State::End {
            return true;
        }
        let Self { state, owes_continue } = self;
        let mut body = Body { wire, shared, state, owes_continue, length: None, is_announced: true };
        body.read_away().is_ok_and(|()| body.state == State::End)
    }
}

/// The chunks of a body as the disk thread gets them.
pub struct Chunks {
    reader: Reader,
    claim: Arc<dyn Claim>,
}

impl Chunks {
    /// Whether the sender still waits for what becomes of this body. If so, he does to the end from now on: there must be nothing
    /// left to do that may hang. If not, he has been told that it failed.
    pub fn claim(&self) -> bool {
        self.claim.claim()
    }
}

impl Iterator for Chunks {
    type Item = io::Result<super::Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        Iterator::next(&mut self.reader)
    }
}

/// The size in a chunk-size line (RFC 9112, section 7.1). Extensions are ignored, but nothing that is none is taken for
/// one: neither blanks behind the size nor control characters. `None` if it is not understood.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let is_extension =
        rest.trim_ascii_start().starts_with(b";") && rest.iter().all(|byte| head::is_text(*byte));
    let is_plain = (1..=MAX_SIZE_DIGITS).contains(&digits) && (rest.is_empty() || is_extension);
    let size = std::str::from_utf8(size).ok().filter(|_| is_plain)?;
    u64::from_str_radix(size, 16).ok().filter(|size| *size <= head::MAX_LENGTH)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
