//! One connection: reads a head, calls the service, writes the response, and again, until either side has enough.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::net::{self, RecvFlags, SendFlags};

use super::body::Body;
use super::error::HttpError;
use super::head::{self, Head};
use super::home::Stream;
use super::pipe::{self, Chunk, LAST_CHUNK, Reader, Writer, pipe};
use super::response::{self, After, Ending, Headers, Open, Opened, OpenedBody, Payload, Pieces, Response};
use super::socket::Socket;
use super::watch::{Caller, Patience};
use super::wire::Wire;
use super::{Answered, Peer, Request, Service, Shared};
use crate::{event, metrics};

/// The first piece of a streamed answer, which most often is all of it. Further ones are larger.
const FIRST_PIECE_BYTES: u64 = 16 * 1024;

/// How long a client that is sent away may go on sending before its connection is cut, as with nginx. Cutting at once would make
/// its kernel drop the response unread (RFC 9112, section 9.6), and many a sender reads only when it has sent all.
const LINGER: Duration = Duration::from_secs(30);

/// So many may; the others have less time.
const MAX_LINGERING: usize = 256;
const LINGER_IN_A_CROWD: Duration = Duration::from_secs(2);

/// What is read away of a peer that is refused and left: a request has come whole by then, or not at all.
const THROWN_AWAY_BYTES: usize = 4 * 1024;

pub(super) struct Connection {
    wire: Wire,
    shared: Arc<Shared>,
    peer: Peer,
}

impl Connection {
    pub(super) fn new(stream: Stream, shared: &Arc<Shared>, peer: Peer) -> Self {
        Self { wire: Wire::new(stream, shared.limits.stall_timeout), shared: Arc::clone(shared), peer }
    }

    /// Serves requests until the connection ends.
    pub(super) fn serve(&mut self, service: &impl Service) {
        if self.wire.prepare().is_err() {
            return;
        }
        let _open = metrics::CONNECTIONS.enter();
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
                    service.answered(&Answered { head: None, status: error.status, took: Duration::ZERO });
                    if self.send_last(error.clone()).is_ok() {
                        self.linger();
                    }
                    return;
                }
            }
        }
    }

    /// Lets a sender come to its end, so that it can read why it was refused. Not for too many at once.
    fn linger(&mut self) {
        let shared = Arc::clone(&self.shared);
        let lingering = Counted::enter(&shared.lingering);
        self.wire.linger(if lingering.before < MAX_LINGERING { LINGER } else { LINGER_IN_A_CROWD });
    }

    /// Tells a connection above the limit that it is one too many.
    pub(super) fn refuse(&mut self) {
        if self.wire.prepare().is_ok() && self.send_last(too_many()).is_ok() {
            self.wire.linger(LINGER_IN_A_CROWD);
        }
    }

    /// Tells somebody whom the service does not know by his address.
    pub(super) fn refuse_stranger(&mut self, address: IpAddr) {
        if self.wire.prepare().is_ok() && self.send_last(HttpError::stranger(address)).is_ok() {
            self.linger();
        }
    }

    /// Waits for the next request. `None` if the client closes the connection or has nothing to say for too long.
    /// Not inlined, so that its variables make room for those of the answer.
    #[inline(never)]
    fn next_head(&mut self) -> Result<Option<Head>, HttpError> {
        let mut deadline = None;
        let mut looked_at = 0;
        loop {
            // RFC 9112, section 2.2: empty lines before a request line are ignored; they do not begin a request.
            self.wire.consume(head::empty_lines(self.wire.unread()));
            let input = self.wire.unread();
            // A head ends with a line end, so without a new one there is nothing new to parse.
            let may_be_complete = input[looked_at.min(input.len())..].contains(&b'\n')
                || input.len() > head::MAX_HEAD_BYTES / 4;
            if may_be_complete && let Some((head, length)) = head::parse(input)? {
                self.wire.consume(length);
                return Ok(Some(head));
            }
            looked_at = input.len();
            let limits = self.shared.limits;
            let timeout = if input.is_empty() {
                deadline = None;
                limits.idle_timeout
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + limits.head_timeout);
                deadline.saturating_duration_since(Instant::now())
            };
            let was_idle = input.is_empty();
            match self.wire.read_within(timeout) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !was_idle => {
                    return Err(head_timeout());
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Answers one request. Gives whether the connection can be kept for the next one.
    /// Not inlined, as all that needs much stack: an idle connection keeps the pages that it has touched.
    #[inline(never)]
    fn answer(&mut self, head: &Head, service: &impl Service) -> io::Result<bool> {
        let shared = Arc::clone(&self.shared);
        let _in_flight = Counted::enter(&shared.in_flight);
        let begun = Instant::now();
        let mut body = Body::new(&mut self.wire, &shared, head);
        let response = service.call(Request {
            method: &head.method,
            is_head: head.without_body,
            path: &head.path,
            query: &head.query,
            content_type: head.content_type.as_deref(),
            content_encoding: head.content_encoding.as_deref(),
            fields: &head.fields,
            authorization: head.authorization.as_deref(),
            peer: self.peer,
            body: &mut body,
        });
        let rest = body.into_rest();
        let status = response.status();
        let sent = self.send(response, head, head.keep_alive && rest.is_small());
        let status = sent.as_ref().map_or(status, |sent| sent.status);
        let took = begun.elapsed();
        let asked = Some((&head.method, head.without_body, head.path.as_str()));
        service.answered(&Answered { head: asked, status, took });
        event!(
            Debug,
            "request answered",
            path = head.path,
            status = status,
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            sent = if sent.is_ok() { "whole" } else { "in part" },
        );
        // Only now: the client need not send the rest to get its answer.
        Ok(sent?.is_kept && rest.drain(&mut self.wire, &shared))
    }

    fn send(&mut self, response: Response, head: &Head, keep: bool) -> io::Result<Sent> {
        let Response { status, headers, payload } = response;
        let body = match payload {
            Payload::Whole(body) => body,
            Payload::Opened(open) => {
                return match self.send_opened(open, headers, head, keep)? {
                    Ok(sent) => Ok(sent),
                    // Nothing has been sent yet.
                    Err(refused) => self.send(refused.into(), head, keep),
                };
            }
            Payload::Live(pieces) => {
                let ending = if head.is_http_10 { Ending::Close } else { Ending::Chunked };
                let sent = Sent { status, is_kept: keep && ending != Ending::Close };
                let message = self.head(status, &headers, ending, sent.is_kept);
                let live = self.send_live(&message, pieces, ending, head.without_body);
                if live.is_err() && ending == Ending::Close {
                    self.wire.reset();
                }
                return live.map(|()| sent);
            }
        };
        let mut message = self.head(status, &headers, Ending::Length(body.len() as u64), keep);
        if !head.without_body {
            message.extend_from_slice(&body);
        }
        self.wire.write(&message)?;
        Ok(Sent { status, is_kept: keep })
    }

    fn head(&self, status: u16, headers: &Headers, ending: Ending, keep: bool) -> Vec<u8> {
        let after = if keep { After::Kept(self.shared.limits.idle_timeout) } else { After::Closed };
        response::head(status, headers, ending, after).into_bytes()
    }

    /// Sends pieces that are made on this coroutine, each as soon as it is there. Whatever ends them before their end ends the
    /// connection without the last chunk.
    #[inline(never)] // as all that needs much stack
    fn send_live(
        &mut self,
        head: &[u8],
        mut pieces: Pieces,
        ending: Ending,
        without_body: bool,
    ) -> io::Result<()> {
        self.wire.write(head)?;
        if without_body {
            return Ok(());
        }
        let _counted = metrics::FOLLOWERS.enter();
        self.wire.notice_vanished_peer();
        let shared = Arc::clone(&self.shared);
        loop {
            let caller = Caller::new(&shared.threads.watch, Some(self.wire.socket()));
            match pieces(&caller)? {
                Some(piece) if piece.is_empty() => {}
                Some(piece) if ending == Ending::Chunked => self.wire.write(&pipe::framed(piece))?,
                Some(piece) => self.wire.write(&piece)?,
                None if ending == Ending::Chunked => return self.wire.write(LAST_CHUNK),
                None => return Ok(()),
            }
        }
    }

    /// An error, after which the connection is closed.
    fn send_last(&mut self, error: HttpError) -> io::Result<()> {
        self.wire.write(last_message(error).as_bytes())
    }

    /// Sends what a disk thread finds and writes. A failure before the first byte is given back, to be told by a status; a later
    /// one can only end the connection before the end of the body.
    fn send_opened(
        &mut self,
        open: Open,
        mut headers: Headers,
        head: &Head,
        keep: bool,
    ) -> io::Result<Result<Sent, HttpError>> {
        let _counted = metrics::DOWNLOADS.enter();
        let (writer, mut reader) = pipe(Some(FIRST_PIECE_BYTES));
        // Filled before the first piece, or the end, goes into the pipe.
        let found = Arc::new(OnceLock::new());
        let (finder, without_body) = (Arc::clone(&found), head.without_body);
        let turn = self.shared.threads.downloads.run(move || produce(open, &finder, writer, without_body));
        self.wire.holds(Some(turn));
        let timeout = self.shared.limits.disk_timeout;
        let watch = self.shared.threads.watch();
        let first = reader.next_within(Some(&mut Patience::new(&watch, timeout).with(self.wire.socket())));
        let (first, found) = match (first, found.get()) {
            (Ok(first), Some(found)) => (first, found),
            (first, _) => {
                let has_begun = self.wire.is_served();
                self.wire.holds(None);
                let error = first.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                if error.kind() == io::ErrorKind::ConnectionAborted {
                    return Err(error);
                }
                return Ok(Err(match error.kind() {
                    io::ErrorKind::TimedOut if has_begun => HttpError::disk_stuck(timeout),
                    io::ErrorKind::TimedOut => HttpError::no_thread(timeout),
                    _ => error.downcast().unwrap_or_else(|_| answer_failed()),
                }));
            }
        };
        let ending = match found.length {
            Length::Known(length) => Ending::Length(length),
            Length::NoBody => Ending::NoBody,
            Length::Unknown if head.is_http_10 => Ending::Close,
            Length::Unknown => Ending::Chunked,
        };
        headers.extend_from_slice(&found.headers);
        let sent = Sent { status: found.status, is_kept: keep && ending != Ending::Close };
        let message = self.head(sent.status, &headers, ending, sent.is_kept);
        // Of a HEAD nothing comes.
        let ending = if without_body { Ending::NoBody } else { ending };
        let mut patience = Patience::new(&watch, timeout);
        let is_out = self.send_pieces(message, first, &mut reader, ending, &mut patience);
        if is_out.is_err() && ending == Ending::Close {
            // With an ordinary end, what has come would pass for all.
            self.wire.reset();
        }
        is_out.map(|()| Ok(sent))
    }

    /// Sends the head, and what comes out of the pipe, of which the first piece is there.
    fn send_pieces(
        &mut self,
        head: Vec<u8>,
        first: Option<Chunk>,
        reader: &mut Reader,
        ending: Ending,
        patience: &mut Patience<'_>,
    ) -> io::Result<()> {
        let mut message = head;
        let is_chunked = ending == Ending::Chunked;
        let mut left = if let Ending::Length(length) = ending { Some(length) } else { None };
        let mut next = first;
        let mut is_over = false;
        while let Some(mut chunk) = next {
            if let Some(left) = &mut left {
                *left = left.checked_sub(chunk.as_ref().len() as u64).ok_or(io::ErrorKind::InvalidData)?;
            }
            is_over = reader.is_at_end();
            let bytes = if is_chunked { chunk.framed(is_over) } else { chunk.as_ref() };
            if message.is_empty() {
                self.wire.write(bytes)?;
            } else {
                // The head and all of a small body in one packet.
                message.extend_from_slice(bytes);
                self.wire.write(&std::mem::take(&mut message))?;
            }
            drop(chunk);
            next = reader.next_within(Some(patience)).inspect_err(|error| {
                if error.kind() == io::ErrorKind::TimedOut {
                    let waited_s = self.shared.limits.disk_timeout.as_secs();
                    event!(Error, "answer cut: the disk does not answer", waited_s = waited_s);
                }
            })?;
        }
        if left.is_some_and(|left| left > 0) {
            // The end of the connection says that something is missing.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if is_chunked && !is_over {
            message.extend_from_slice(LAST_CHUNK);
        }
        self.wire.holds(None);
        self.wire.write(&message)
    }
}

/// What a disk thread has found, for the head.
struct Found {
    status: u16,
    headers: Headers,
    length: Length,
}

enum Length {
    NoBody,
    Unknown,
    Known(u64),
}

/// The part of a disk thread in an answer.
fn produce(open: Open, found: &OnceLock<Found>, mut writer: Writer, without_body: bool) {
    let Opened { status, headers, body } = match open(&mut writer) {
        Ok(opened) => opened,
        Err(refused) => return writer.fail(io::Error::other(refused)),
    };
    let length = match &body {
        OpenedBody::None => Length::NoBody,
        OpenedBody::Made { length, .. } => length.map_or(Length::Unknown, Length::Known),
    };
    let _ = found.set(Found { status, headers, length });
    match body {
        OpenedBody::Made { producer, .. } if !without_body => match producer(&mut writer) {
            Ok(()) => writer.finish(),
            Err(error) => writer.fail(error),
        },
        _ => writer.finish(),
    }
}

/// Tells a peer why it is not served, and closes the connection without a wait: a crowd that says nothing must not keep others from
/// being told. What the peer has sent is read first, else closing would cut the connection, and the answer with it.
pub(super) fn refuse_and_leave(socket: &Socket, error: HttpError) {
    let mut thrown_away = [0; THROWN_AWAY_BYTES];
    let _ = net::recv(socket, &mut thrown_away, RecvFlags::DONTWAIT);
    // The buffer of a new connection is empty: it takes all.
    let _ = net::send(socket, last_message(error).as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

pub(super) fn too_many() -> HttpError {
    let message = "MAX_CONNECTIONS connections are open; try again later.";
    HttpError::new(503, "too_many_connections", message).retry_after(1)
}

fn last_message(error: HttpError) -> String {
    let (status, headers, body) = error.into_parts(Headers::new());
    let mut message = response::head(status, &headers, Ending::Length(body.len() as u64), After::Closed);
    message.push_str(&body);
    message
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

/// Counts something for as long as it is there.
struct Counted<'c> {
    count: &'c AtomicUsize,
    /// How many there were.
    before: usize,
}

impl<'c> Counted<'c> {
    fn enter(count: &'c AtomicUsize) -> Self {
        let before = count.fetch_add(1, Ordering::Relaxed);
        Self { count, before }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
