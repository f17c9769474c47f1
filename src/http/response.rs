//! Responses: what a service hands back, and the bytes of their heads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::time::Duration;

use super::HttpError;
use super::pipe::Sink;
use super::watch::Caller;
use crate::clock::{self, UnixMs};

/// Writes a body piece by piece on a disk thread. An error ends the connection before the body is complete, which is
/// how HTTP tells a reader that something is missing.
type Producer = Box<dyn FnOnce(&mut dyn Sink) -> io::Result<()> + Send>;

/// Finds out on a disk thread, before the first byte is sent, what the answer is.
pub(super) type Open = Box<dyn FnOnce(&mut dyn Sink) -> Result<Opened, HttpError> + Send>;

/// Gives the next piece of a body on the coroutine of the connection, and waits there for it as long as it likes. `None` is the
/// end; an error ends the connection before the body is complete.
pub(super) type Pieces = Box<dyn FnMut(&Caller<'_>) -> io::Result<Option<Vec<u8>>> + Send>;

/// What follows the head.
pub(super) enum Payload {
    /// All of it, with its length.
    Whole(Vec<u8>),
    /// Made by a disk thread while it is sent.
    Opened(Open),
    /// Sent piece by piece as it comes to be, in chunks.
    Live(Pieces),
}

/// What a disk thread has found an answer to be.
pub struct Opened {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: OpenedBody,
}

/// What follows the head of such an answer.
pub(super) enum OpenedBody {
    /// Nothing, and no length either.
    None,
    /// Made while it is sent: in chunks, unless its length is known.
    Made { length: Option<u64>, producer: Producer },
}

impl Opened {
    /// 200, and what `producer` writes: `length` bytes, where that is known. Another number cuts the answer.
    pub fn whole(
        length: Option<u64>,
        producer: impl FnOnce(&mut dyn Sink) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let body = OpenedBody::Made { length, producer: Box::new(producer) };
        Self { status: 200, headers: Headers::new(), body }
    }

    /// 206, and these bytes of `length`, which `producer` writes.
    pub fn part(
        range: &Range<u64>,
        length: u64,
        producer: impl FnOnce(&mut dyn Sink) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let content_range = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
        let whole = Self::whole(Some(range.end - range.start), producer);
        Self { status: 206, ..whole }.header("Content-Range", content_range)
    }

    /// 304: the caller has it.
    pub fn not_modified() -> Self {
        Self { status: 304, headers: Headers::new(), body: OpenedBody::None }
    }

    /// 416: it has only `length` bytes.
    pub fn beyond_end(length: u64) -> Self {
        let message = format!("The range begins at the end or beyond it: there are {length} bytes.");
        let (status, headers, body) =
            HttpError::new(416, "range_not_satisfiable", message).into_parts(Headers::new());
        let length_of_body = Some(body.len() as u64);
        let whole = Self::whole(length_of_body, move |out| out.write_all(body.as_bytes()));
        Self { status, headers, ..whole }.header("Content-Range", format!("bytes */{length}"))
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds Last-Modified, in whole seconds, never in the future (RFC 9110, section 8.8.2.1).
    pub fn last_modified(self, at: UnixMs) -> Self {
        let date = httpdate::HttpDate::from(clock::system_time(at.min(clock::now_ms())));
        self.header("Last-Modified", date.to_string())
    }
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

    /// An answer that `open` finds on a disk thread. What it gives is written there too while it is sent; for HEAD it is not.
    pub fn opened(open: impl FnOnce(&mut dyn Sink) -> Result<Opened, HttpError> + Send + 'static) -> Self {
        Self { status: 200, headers: Headers::new(), payload: Payload::Opened(Box::new(open)) }
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
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// There is none, by its status (RFC 9112, section 6.3).
    NoBody,
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
        Ending::Close | Ending::NoBody => Ok(()),
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
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
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
