//! Responses: what a service hands back, and the bytes of their heads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use super::HttpError;
use super::watch::Caller;
use crate::clock;

/// Writes a body piece by piece on a disk thread. An error ends the connection before the body is complete, which is
/// how HTTP tells a reader that something is missing.
type Producer = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// Says on a disk thread, before the first byte is sent, whether there can be one.
type Check = Box<dyn FnOnce() -> Result<(), HttpError> + Send>;

/// Gives the next piece of a body on the coroutine of the connection, and waits there for it as long as it likes. `None` is the
/// end; an error ends the connection before the body is complete.
pub(super) type Pieces = Box<dyn FnMut(&Caller<'_>) -> io::Result<Option<Vec<u8>>> + Send>;

/// What follows the head.
pub(super) enum Payload {
    /// All of it, with its length.
    Whole(Vec<u8>),
    /// Made while it is sent, in chunks.
    Streamed(Streamed),
    /// Sent piece by piece as it comes to be, in chunks.
    Live(Pieces),
}

/// A body that is made while it is sent.
pub(super) struct Streamed {
    pub(super) check: Check,
    pub(super) producer: Producer,
}

/// Names and values of header fields, beside those that the connection adds.
pub(super) type Headers = Vec<(&'static str, Cow<'static, str>)>;

/// The answer to a request.
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) payload: Payload,
}

impl Response {
    /// A JSON body.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", Cow::Borrowed("application/json"))],
            payload: Payload::Whole(body.into()),
        }
    }

    /// A body of this type.
    pub fn text(content_type: &'static str, body: String) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type", Cow::Borrowed(content_type))],
            payload: Payload::Whole(body.into_bytes()),
        }
    }

    /// No body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), payload: Payload::Whole(Vec::new()) }
    }

    /// A body that `producer` writes on a disk thread while it is sent, unless `check` has an error to tell instead. For HEAD
    /// only `check` is called.
    pub fn streamed(
        content_type: &'static str,
        check: impl FnOnce() -> Result<(), HttpError> + Send + 'static,
        producer: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let streamed = Streamed { check: Box::new(check), producer: Box::new(producer) };
        Self {
            status: 200,
            headers: vec![("Content-Type", Cow::Borrowed(content_type))],
            payload: Payload::Streamed(streamed),
        }
    }

    /// A body that comes piece by piece, over hours maybe, and holds no thread meanwhile. `pieces` must not block: it waits as
    /// coroutines do, and gives up with an error when its caller has hung up.
    pub fn live(
        content_type: &'static str,
        pieces: impl FnMut(&Caller<'_>) -> io::Result<Option<Vec<u8>>> + Send + 'static,
    ) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type", Cow::Borrowed(content_type))],
            payload: Payload::Live(Box::new(pieces)),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Content-Length.
    Length(usize),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The end of the connection: HTTP/1.0 knows no chunks.
    Close,
}

/// What becomes of the connection.
#[derive(Clone, Copy)]
pub(super) enum After {
    Closed,
    /// It waits so long for the next request, which is told so that none is sent into a connection that is being closed.
    Kept(Duration),
}

/// The head as it goes on the wire (RFC 9112, section 4).
pub(super) fn head(status: u16, headers: &Headers, ending: Ending, after: After) -> String {
    let mut head = String::with_capacity(256);
    let date = httpdate::HttpDate::from(clock::system_time(clock::now_ms()));
    // Writing to a String cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {}\r\nDate: {date}\r\n", status, reason(status));
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = match ending {
        Ending::Length(length) => write!(head, "Content-Length: {length}\r\n"),
        Ending::Chunked => write!(head, "Transfer-Encoding: chunked\r\n"),
        Ending::Close => Ok(()),
    };
    let _ = match after {
        After::Closed => write!(head, "Connection: close\r\n"),
        After::Kept(idle) => {
            write!(head, "Connection: keep-alive\r\nKeep-Alive: timeout={}\r\n", idle.as_secs())
        }
    };
    head.push_str("\r\n");
    head
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
