//! One connection: reads a head, calls the service, writes the response, and again, until either side has enough.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::body::Body;
use super::error::HttpError;
use super::head::{self, Head};
use super::home::Stream;
use super::pace::{Pace, Pool, Turn};
use super::pipe::{LAST_CHUNK, pipe};
use super::response::{self, Ending, Headers, Payload, Response, Streamed};
use super::{Request, Service, Shared};
use crate::{event, sys};

/// The read buffer of a waiting connection is on its stack and this small: most heads fit, and thousands of idle
/// connections cost one stack page each.
const FIRST_READ_BYTES: usize = 512;

/// The first piece of a streamed answer, which most often is all of it. Further ones are larger.
const FIRST_PIECE_BYTES: u64 = 16 * 1024;

/// How long a client that is sent away may go on sending before its connection is cut. Cutting at once would make its
/// kernel drop the response unread (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Timers are kept by their length: rounding keeps the number of different ones small.
const TIMER_STEP_MS: u128 = 100;

pub(super) struct Connection {
    stream: Stream,
    shared: Arc<Shared>,
    /// Bytes that came with the head or the line before and belong to what follows.
    input: Vec<u8>,
    /// How much of `input` is used up.
    used: usize,
    read_timeout: Option<Duration>,
    /// Of the body that is being read.
    reading: Pace,
    /// Of all that is written.
    writing: Pace,
    /// Bytes that the kernel had taken and the peer had not, where that is known of the start of a wait for room.
    unsent: Option<u64>,
    /// The disk thread of the transfer under way.
    turn: Option<Turn>,
}

impl Connection {
    pub(super) fn new(stream: Stream, shared: &Arc<Shared>) -> Self {
        Self {
            stream,
            shared: Arc::clone(shared),
            input: Vec::new(),
            used: 0,
            read_timeout: None,
            reading: Pace::default(),
            writing: Pace::default(),
            unsent: None,
            turn: None,
        }
    }

    /// Serves requests until the connection ends.
    pub(super) fn serve(&mut self, service: &impl Service) {
        if self.prepare().is_err() {
            return;
        }
        loop {
            match &self.next_head() {
                Ok(Some(head)) => match self.answer(head, service) {
                    Ok(true) => {}
                    Ok(false) => return self.linger(),
                    // The client is gone, or the response could not be completed: nothing more can be said.
                    Err(_) => return,
                },
                Ok(None) => return,
                Err(error) => {
                    event!(Debug, "request refused", status = error.status, reason = error.message);
                    if self.send_last(error.clone(), Headers::new()).is_ok() {
                        self.linger();
                    }
                    return;
                }
            }
        }
    }

    /// Tells a connection above the limit that it is one too many.
    pub(super) fn refuse(&mut self) {
        let message = "MAX_CONNECTIONS connections are open; try again later.";
        let error = HttpError::new(503, "too_many_connections", message);
        let headers = vec![("Retry-After", "1".into())];
        if self.prepare().is_ok() && self.send_last(error, headers).is_ok() {
            self.linger();
        }
    }

    fn prepare(&mut self) -> io::Result<()> {
        // Responses are written whole or in full chunks: waiting for more would only add latency.
        self.stream.set_nodelay(true)?;
        // Half, for a look in between at what the peer takes: see `write`.
        self.stream.set_write_timeout(Some(self.shared.limits.stall_timeout / 2))
    }

    pub(super) fn uploads(&self) -> Arc<Pool> {
        Arc::clone(&self.shared.uploads)
    }

    /// The body that is read from now on holds this disk thread, or none.
    pub(super) fn holds(&mut self, turn: Option<Turn>) {
        self.turn = turn;
    }

    // --- reading

    /// Waits for the next request. `None` if the client closes the connection or has nothing to say for too long.
    /// Not inlined, so that its variables make room for those of the answer.
    #[inline(never)]
    fn next_head(&mut self) -> Result<Option<Head>, HttpError> {
        let mut deadline = None;
        let mut looked_at = 0;
        loop {
            // RFC 9112, section 2.2: empty lines before a request line are ignored; they do not begin a request.
            self.consume(head::empty_lines(&self.input[self.used..]));
            let input = &self.input[self.used..];
            // A head ends with a line end, so without a new one there is nothing new to parse.
            let may_be_complete = input[looked_at.min(input.len())..].contains(&b'\n')
                || input.len() > head::MAX_HEAD_BYTES / 4;
            if may_be_complete && let Some((head, length)) = head::parse(input)? {
                self.consume(length);
                return Ok(Some(head));
            }
            looked_at = input.len();
            let limits = self.shared.limits;
            let timeout = if input.is_empty() {
                deadline = None;
                limits.idle_timeout
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.head_timeout);
                rounded(deadline.saturating_duration_since(Instant::now())).ok_or_else(head_timeout)?
            };
            let was_idle = input.is_empty();
            match self.set_read_timeout(timeout).and_then(|()| self.read_more()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !was_idle => {
                    return Err(head_timeout());
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads once, to the end of `input`. Nothing is allocated while it waits.
    #[inline(never)]
    fn read_more(&mut self) -> io::Result<usize> {
        let mut first = [0; FIRST_READ_BYTES];
        let count = self.stream.read(&mut first)?;
        // Where no read ever ends with a request or a chunk, nothing else would let go of what is used up.
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(&first[..count]);
        Ok(count)
    }

    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        if self.read_timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used == self.input.len() {
            // Given back, not kept: an idle connection has no buffer.
            self.input = Vec::new();
            self.used = 0;
        }
    }

    pub(super) fn has_no_input(&self) -> bool {
        self.input.is_empty()
    }

    /// Reads some bytes of a body: those that are here already, else from the socket.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = &self.input[self.used..];
        if input.is_empty() {
            return self.read_paced(|connection| connection.stream.read(buffer));
        }
        let count = input.len().min(buffer.len());
        buffer[..count].copy_from_slice(&input[..count]);
        self.consume(count);
        Ok(count)
    }

    /// Reads up to and with the next line feed, `most` bytes at the most.
    pub(super) fn read_line(&mut self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            let input = &self.input[self.used..];
            if let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                let line = input[..=end].to_vec();
                self.consume(line.len());
                return Ok(line);
            }
            if input.len() > most {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the chunked body is too long",
                ));
            }
            if self.read_paced(Self::read_more)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A body begins, whose pace is not that of the one before.
    pub(super) fn begin_body(&mut self) {
        self.reading = Pace::default();
    }

    /// One read of a body from the socket; `TimedOut` where the body stands still or as good as still.
    fn read_paced(&mut self, read: impl FnOnce(&mut Self) -> io::Result<usize>) -> io::Result<usize> {
        let window = self.shared.limits.stall_timeout;
        self.set_read_timeout(window)?;
        let begun = Instant::now();
        let count = read(self)?;
        self.reading.add(begun.elapsed(), count as u64);
        if count > 0 {
            self.reading.judge_if_due(window, self.turn.as_mut())?;
        }
        Ok(count)
    }

    // --- answering

    /// Answers one request. Gives whether the connection can be kept for the next one.
    /// Not inlined, as all that needs much stack: an idle connection keeps the pages that it has touched.
    #[inline(never)]
    fn answer(&mut self, head: &Head, service: &impl Service) -> io::Result<bool> {
        let shared = Arc::clone(&self.shared);
        let _in_flight = InFlight::enter(&shared);
        let begun = Instant::now();
        let mut body = Body::new(self, head);
        let response = service.call(Request {
            method: &head.method,
            path: &head.path,
            query: &head.query,
            content_type: head.content_type.as_deref(),
            body: &mut body,
        });
        let rest = body.into_rest();
        let status = response.status();
        let sent = self.send(response, head, head.keep_alive && rest.is_small());
        event!(
            Debug,
            "request answered",
            path = head.path,
            status = sent.as_ref().map_or(status, |sent| sent.status),
            took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            sent = if sent.is_ok() { "whole" } else { "in part" },
        );
        // Only now: the client need not send the rest to get its answer.
        Ok(sent?.is_kept && rest.drain(self))
    }

    fn send(&mut self, response: Response, head: &Head, keep: bool) -> io::Result<Sent> {
        let Response { status, headers, payload } = response;
        let ending = match &payload {
            Payload::Whole(body) => Ending::Length(body.len()),
            Payload::Streamed(_) if head.is_http_10 => Ending::Close,
            Payload::Streamed(_) => Ending::Chunked,
        };
        let sent = Sent { status, is_kept: keep && ending != Ending::Close };
        let connection = match (sent.is_kept, head.is_http_10) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        let mut message = response::head(status, &headers, ending, connection).into_bytes();
        match payload {
            Payload::Streamed(streamed) => {
                if let Err(refused) = self.send_streamed(message, streamed, ending, head.without_body)? {
                    // Nothing has been sent yet.
                    return self.send(refused.into(), head, keep);
                }
                return Ok(sent);
            }
            Payload::Whole(body) if !head.without_body => message.extend_from_slice(&body),
            Payload::Whole(_) => {}
        }
        self.write(&message)?;
        Ok(sent)
    }

    /// An error, after which the connection is closed.
    fn send_last(&mut self, error: HttpError, headers: Headers) -> io::Result<()> {
        let (status, headers, body) = error.into_parts(headers);
        let mut message = response::head(status, &headers, Ending::Length(body.len()), Some("close"));
        message.push_str(&body);
        self.write(message.as_bytes())
    }

    /// Sends what is written on a disk thread. A failure before the first byte is given back, to be told by a status; a later
    /// one can only end the connection without the last chunk.
    fn send_streamed(
        &mut self,
        head: Vec<u8>,
        streamed: Streamed,
        ending: Ending,
        without_body: bool,
    ) -> io::Result<Result<(), HttpError>> {
        let (mut writer, mut reader) = pipe(Some(FIRST_PIECE_BYTES));
        self.turn = Some(self.shared.downloads.run(move || match (streamed.check)() {
            Err(refused) => writer.fail(io::Error::other(refused)),
            Ok(()) if without_body => writer.finish(),
            Ok(()) => match (streamed.producer)(&mut writer) {
                Ok(()) => writer.finish(),
                Err(error) => writer.fail(error),
            },
        }));
        let mut message = head;
        let mut next = match reader.next() {
            Err(error) => {
                self.turn = None;
                return Ok(Err(error.downcast().unwrap_or_else(|_| answer_failed())));
            }
            first => first,
        };
        let is_chunked = ending == Ending::Chunked && !without_body;
        let mut is_over = false;
        while let Some(mut chunk) = next? {
            is_over = reader.is_at_end();
            let bytes = if is_chunked { chunk.framed(is_over) } else { chunk.as_ref() };
            if message.is_empty() {
                self.write(bytes)?;
            } else {
                // The head and all of a small body in one packet.
                message.extend_from_slice(bytes);
                self.write(&std::mem::take(&mut message))?;
            }
            drop(chunk);
            next = reader.next();
        }
        if is_chunked && !is_over {
            message.extend_from_slice(LAST_CHUNK);
        }
        self.turn = None;
        self.write(&message)?;
        Ok(Ok(()))
    }

    /// Writes all, unless the peer takes next to nothing of it. What it takes is seen by its acknowledgements: the kernel
    /// says that there is room again only when a third of its buffer is free, and on a slow link that takes minutes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let window = self.shared.limits.stall_timeout;
        let mut left = bytes;
        let mut wait = Pace::default();
        while !left.is_empty() {
            let begun = Instant::now();
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    left = &left[count..];
                    // In part means that the buffer is full, and the next wait begins now.
                    self.unsent = if left.is_empty() { None } else { Some(self.unsent_bytes()?) };
                    wait = Pace::default();
                    self.writing.add(begun.elapsed(), count as u64);
                    self.writing.judge_if_due(window, self.turn.as_mut())?;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let unsent = self.unsent_bytes()?;
                    let before = self.unsent.replace(unsent).unwrap_or(unsent);
                    wait.add(begun.elapsed(), before.saturating_sub(unsent));
                    wait.judge_if_due(window, self.turn.as_mut())?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn unsent_bytes(&self) -> io::Result<u64> {
        sys::unsent_bytes(self.stream.inner().as_fd())
    }

    /// Closes in a way that lets the client read the last response: no more is sent, what still comes is thrown away.
    fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut scratch = [0; FIRST_READ_BYTES];
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while let Some(left) = rounded(deadline.saturating_duration_since(Instant::now())) {
            match self.set_read_timeout(left).and_then(|()| self.stream.read(&mut scratch)) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// An answer that is out.
struct Sent {
    status: u16,
    is_kept: bool,
}

fn answer_failed() -> HttpError {
    HttpError::new(500, "answer_failed", "The answer could not be made; the client's log says why.")
}

fn head_timeout() -> HttpError {
    HttpError::new(408, "request_timeout", "The head of the request did not arrive in time; send it at once.")
}

/// Up to the next timer step; `None` if no time is left.
fn rounded(left: Duration) -> Option<Duration> {
    let steps = left.as_millis().div_ceil(TIMER_STEP_MS);
    let ms = u64::try_from(steps * TIMER_STEP_MS).ok()?;
    (ms > 0).then_some(Duration::from_millis(ms))
}

/// Counts a request for as long as it is being answered.
struct InFlight<'s>(&'s Shared);

impl<'s> InFlight<'s> {
    fn enter(shared: &'s Shared) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
