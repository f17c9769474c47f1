//! Bytes, cut at any places, through a real socket into the real connection loop. What comes back and what the service saw
//! must fit together and must fit a second reading of the same bytes; and it must not depend on the cuts, beyond what is
//! left open to a recipient.

#![no_main]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use fuzz::http::{
    Address, Body, HttpError, Limits, Listener, Method, Opened, Request, Response, Server, Service, Threads,
};
use fuzz::reference::{self, Framing, Head, Next, Reader, Verdict};
use fuzz::script;
use libfuzzer_sys::fuzz_target;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Nothing has to time out here, since the sender's side is closed in the end: a wait this long is a finding.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two pieces, so that they arrive apart. The connection loop is awake sooner.
const CUT_PAUSE: Duration = Duration::from_micros(30);

/// Further cuts are no cuts: each costs a pause.
const MOST_CUTS: usize = 12;

/// An unread rest up to this size is read away and the connection kept.
const MOST_DRAINED_BYTES: u64 = 64 * 1024;

/// The longest streamed answer.
const MOST_STREAMED_BYTES: usize = 150_000;

/// Carries the number of the call that made the answer.
const SEEN: &str = "X-Seen";

fuzz_target!(|input: &[u8]| {
    let pieces = script::pieces(input);
    let whole: Vec<u8> = pieces.concat();
    let in_one = check(&whole, &exchange(&[whole.as_slice()]));
    if pieces.len() > 1 {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let in_pieces = check(&whole, &exchange(&pieces));
        if !in_one.is_open && !in_pieces.is_open {
            assert_eq!(in_one, in_pieces, "the cuts make a difference");
        }
    }
});

// --- the service

/// What the service saw of one request.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    method: Method,
    path: String,
    is_announced: bool,
    length: Option<u64>,
    reading: Reading,
}

/// What it read of the body.
#[derive(Clone, Debug, PartialEq)]
enum Reading {
    /// It did not ask for it.
    Nothing,
    /// It stopped somewhere.
    Some,
    /// To the end.
    All(Vec<u8>),
    /// To an error.
    Broken(ErrorKind),
}

/// The calls of the connection that is open. There is one at a time, and all its calls are over when it is closed.
static CALLS: Mutex<Vec<Call>> = Mutex::new(Vec::new());

struct Recorder;

impl Service for Recorder {
    fn call(&self, request: Request<'_, '_>) -> Response {
        let reading = read(request.path, request.body);
        let answer = answer(request.path);
        let mut calls = CALLS.lock().expect("no panic");
        calls.push(Call {
            method: request.method.clone(),
            path: request.path.to_owned(),
            is_announced: request.body.is_announced(),
            length: request.body.length(),
            reading,
        });
        answer.header(SEEN, (calls.len() - 1).to_string())
    }
}

fn read(path: &str, body: &mut Body<'_>) -> Reading {
    match path {
        "/all" => {
            let all = body.feed(|chunks| {
                let mut all = Vec::new();
                for chunk in &mut *chunks {
                    let chunk = chunk.map_err(|error| error.kind())?;
                    assert!(!chunk.as_ref().is_empty(), "an empty chunk");
                    all.extend_from_slice(chunk.as_ref());
                }
                assert!(chunks.next().is_none(), "a chunk after the end");
                Ok(all)
            });
            all.expect("the disk thread gives a result").map_or_else(Reading::Broken, Reading::All)
        }
        "/some" => {
            body.feed(|chunks| drop(chunks.next())).expect("the disk thread gives a result");
            Reading::Some
        }
        _ => Reading::Nothing,
    }
}

/// `/stream/<n>` is an answer of n bytes, `/break/<n>` one that fails after n, `/absent` one that has nothing to send.
fn answer(path: &str) -> Response {
    let number = |text: &str| text.parse().ok().filter(|number| *number <= MOST_STREAMED_BYTES);
    if let Some(length) = path.strip_prefix("/stream/").and_then(number) {
        Response::opened(move |_| Ok(Opened::whole(None, move |out| out.write_all(&streamed(length)))))
    } else if let Some(length) = path.strip_prefix("/break/").and_then(number) {
        Response::opened(move |_| {
            Ok(Opened::whole(None, move |out| {
                out.write_all(&streamed(length))?;
                Err(io::Error::other("on purpose"))
            }))
        })
    } else if path == "/absent" {
        Response::opened(|_| Err(HttpError::new(404, "absent", "On purpose.")))
    } else if path == "/refuse" {
        HttpError::new(413, "content_too_large", "On \"purpose\".").into()
    } else {
        Response::json(200, "{}")
    }
}

fn streamed(length: usize) -> Vec<u8> {
    (0..251_u8).cycle().take(length).collect()
}

fn server() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    let start = || {
        let any = Address::Ip(([127, 0, 0, 1], 0).into());
        let listener = Listener::bind(&any).expect("a port to listen on");
        let Address::Ip(address) = *listener.address() else { unreachable!("it was asked for a port") };
        let limits = Limits {
            max_connections: 64,
            max_refusals: 64,
            head_timeout: PATIENCE,
            idle_timeout: PATIENCE,
            stall_timeout: PATIENCE,
            disk_timeout: PATIENCE,
        };
        Server::start(vec![listener], limits, Threads::start(64, 64).expect("threads"), Recorder);
        address
    };
    *ADDRESS.get_or_init(start)
}

// --- the client's side

/// One connection, from its beginning to its end.
struct Exchange {
    calls: Vec<Call>,
    received: Vec<u8>,
    /// It ended by a reset: what was still on its way may be lost.
    was_reset: bool,
}

fn exchange(pieces: &[&[u8]]) -> Exchange {
    CALLS.lock().expect("no panic").clear();
    let stream = TcpStream::connect(server()).expect("a connection");
    stream.set_nodelay(true).expect("an open socket");
    stream.set_nonblocking(true).expect("an open socket");
    let mut received = Vec::new();
    let end = talk(&stream, pieces, &mut received);
    let was_reset = match end {
        Ok(()) => false,
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => true,
        Err(error) => panic!("the connection does not end: {error}"),
    };
    Exchange { calls: std::mem::take(&mut CALLS.lock().expect("no panic")), received, was_reset }
}

/// Sends the pieces, closes this side, and reads to the end. Reads meanwhile, as the answers to many small requests may be
/// more than the sockets hold.
fn talk(mut stream: &TcpStream, pieces: &[&[u8]], received: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut left: VecDeque<&[u8]> = pieces.iter().copied().collect();
    let mut is_open = true;
    loop {
        match left.front_mut() {
            None if is_open => {
                is_open = false;
                stream.shutdown(Shutdown::Write).or_else(not_connected)?;
            }
            None => {}
            Some(piece) => match stream.write(piece) {
                Ok(count) => {
                    *piece = &piece[count..];
                    if piece.is_empty() {
                        left.pop_front();
                        if (pieces.len() - MOST_CUTS.min(pieces.len()) + 1..).contains(&left.len()) {
                            thread::sleep(CUT_PAUSE);
                        }
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It wants no more; what it said before is still to be read.
                Err(_) => left.clear(),
            },
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(stream, !left.is_empty())?,
            Err(error) => return Err(error),
        }
    }
}

fn not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

fn wait(stream: &TcpStream, for_space: bool) -> io::Result<()> {
    let flags = if for_space { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let most = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(&stream, flags)], Some(&most)) {
        Ok(0) => Err(ErrorKind::TimedOut.into()),
        // libFuzzer has a timer of its own.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

// --- the judgement

/// What of an exchange must not depend on the cuts.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    calls: Vec<Call>,
    was_refused: bool,
    /// Something was left open to the recipient, so that two exchanges may differ.
    is_open: bool,
}

fn check(sent: &[u8], exchange: &Exchange) -> Outcome {
    let mut outcome = Outcome { calls: exchange.calls.clone(), ..Outcome::default() };
    let mut reader = Reader::new(sent);
    let mut answers = Answers { rest: &exchange.received };
    let mut calls = exchange.calls.iter().enumerate();
    loop {
        let next = reader.head();
        // How much of it was looked at before the end depends on how it arrived.
        outcome.is_open |= matches!(next, Next::Incomplete);
        let interim = answers.interim();
        if answers.rest.is_empty() {
            assert!(!interim, "nothing after 100 Continue");
            assert!(exchange.was_reset || calls.next().is_none(), "a call without an answer");
            assert!(
                exchange.was_reset || !matches!(&next, Next::Head(head) if head.verdict == Verdict::Serve),
                "a good request without an answer: {next:?}"
            );
            return outcome;
        }
        let answer = answers.head();
        // The answers to calls that are not the service's own: those that could not be begun.
        let is_unbegun = matches!(answer.status, 404 | 500);
        if answer.seen.is_none() && !is_unbegun {
            outcome.was_refused = true;
            assert!(!interim, "100 Continue and a refusal");
            assert!(calls.next().is_none(), "a refusal in the place of an answer");
            assert!((400..=505).contains(&answer.status), "a refusal by status {}", answer.status);
            assert!(answer.closes && answer.is_json, "a refusal must close, and say why");
            match &next {
                Next::End => panic!("a refusal of nothing"),
                Next::Incomplete => {}
                Next::Head(head) if head.verdict == Verdict::Serve => panic!("{head:?} is refused"),
                Next::Head(head) => outcome.is_open |= head.verdict == Verdict::Either,
            }
            answers.body(&answer, false);
            assert!(answers.rest.is_empty(), "something follows a refusal");
            return outcome;
        }
        let Next::Head(head) = next else { panic!("an answer without a request") };
        let (expected, call) = calls.next().expect("a call for each answer");
        if is_unbegun {
            let is_failure = call.path.starts_with("/break/") && head.method != b"HEAD";
            assert!(
                if answer.status == 500 { is_failure } else { call.path == "/absent" },
                "{}",
                answer.status
            );
        } else {
            assert_eq!(answer.seen, Some(expected), "the answers are out of order");
        }
        outcome.is_open |= head.verdict == Verdict::Either;
        check_call(&head, call);
        assert!(!interim || (head.expects_continue && call.is_announced), "100 Continue unasked for");
        let body = reader.body(head.framing);
        check_reading(&head, call, &body, &mut outcome);
        let is_whole = check_answer(&head, call, &answer, &mut answers);
        if after(&head, call, &body, &answer, is_whole) == After::Ends {
            assert!(answers.rest.is_empty(), "the connection goes on after its end");
            assert!(calls.next().is_none(), "a call after the end of the connection");
            return outcome;
        }
        if answers.rest.is_empty() && after(&head, call, &body, &answer, is_whole) == After::IsOpen {
            outcome.is_open = true;
            return outcome;
        }
    }
}

/// The head, as the service saw it.
fn check_call(head: &Head<'_>, call: &Call) {
    if let Verdict::Refuse(why) = head.verdict {
        panic!("{why}, and served: {head:?}");
    }
    let method = match head.method {
        b"GET" | b"HEAD" => Method::Get,
        b"POST" => Method::Post,
        b"DELETE" => Method::Delete,
        other => Method::Other(String::from_utf8_lossy(other).into_owned()),
    };
    assert_eq!(call.method, method);
    assert_eq!(call.path.as_bytes(), reference::path(head.target), "the path of {head:?}");
    let (is_announced, length) = match head.framing {
        Framing::None => (false, Some(0)),
        Framing::Length(length) => (true, Some(length)),
        Framing::Chunked => (true, None),
    };
    assert_eq!((call.is_announced, call.length), (is_announced, length), "the framing of {head:?}");
}

/// The body, as the service saw it.
fn check_reading(head: &Head<'_>, call: &Call, body: &reference::Body, outcome: &mut Outcome) {
    match (&call.reading, body) {
        (Reading::All(read), reference::Body::Whole(sent) | reference::Body::Doubtful(sent)) => {
            assert!(read == sent, "the service read another body than was sent: {head:?}");
        }
        (Reading::All(_), reference::Body::Broken) => {
            panic!("a broken body was taken for a whole one: {head:?}")
        }
        (Reading::Broken(kind), reference::Body::Whole(_)) => {
            panic!("a whole body was taken for a broken one, {kind:?}: {head:?}");
        }
        (Reading::Broken(kind), _) => assert!(
            matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::InvalidData),
            "a body broken off by {kind:?}"
        ),
        (Reading::Some | Reading::Nothing, _) => {}
    }
    outcome.is_open |= matches!(body, reference::Body::Doubtful(_));
}

/// The answer to a call. Gives whether it is whole.
fn check_answer(head: &Head<'_>, call: &Call, answer: &Answer, answers: &mut Answers<'_>) -> bool {
    let is_head = head.method == b"HEAD";
    assert!(answer.closes || head.keep_alive, "the connection is kept against the sender's wish: {head:?}");
    let Some((kind, length)) = call.path[1.min(call.path.len())..].split_once('/') else {
        return answers.body(answer, is_head).is_some();
    };
    let body = answers.body(answer, is_head);
    match (kind, length.parse().ok().filter(|length| *length <= MOST_STREAMED_BYTES)) {
        ("stream", Some(length)) if !is_head => {
            assert!(
                body.as_ref().is_some_and(|body| *body == streamed(length)),
                "another stream than was made"
            );
            assert_eq!(answer.framing == Some(Length::ToTheEnd), head.is_http_10);
        }
        ("break", Some(length)) if !is_head => match body {
            Some(_) if head.is_http_10 || answer.status == 500 => {}
            Some(body) => panic!("an answer of {} bytes, to end after {length}, is whole", body.len()),
            None => return false,
        },
        _ => {}
    }
    body.is_some()
}

#[derive(PartialEq)]
enum After {
    Ends,
    GoesOn,
    /// It may end or go on.
    IsOpen,
}

/// What has to become of the connection.
fn after(head: &Head<'_>, call: &Call, body: &reference::Body, answer: &Answer, is_whole: bool) -> After {
    let is_read =
        matches!(call.reading, Reading::All(_)) || matches!(head.framing, Framing::None | Framing::Length(0));
    let unread = match head.framing {
        Framing::Length(length) => length,
        _ => match body {
            reference::Body::Whole(bytes) => bytes.len() as u64,
            _ => 0,
        },
    };
    if *body == reference::Body::Broken
        || answer.closes
        || !is_whole
        || answer.framing == Some(Length::ToTheEnd)
    {
        let has_reason = !head.keep_alive
            || *body == reference::Body::Broken
            || !is_whole
            || answer.framing == Some(Length::ToTheEnd)
            || (!is_read && (unread > MOST_DRAINED_BYTES || head.expects_continue))
            || matches!(call.reading, Reading::Broken(_))
            || call.path.starts_with("/break/");
        assert!(has_reason, "closed for no reason: {head:?}");
        return After::Ends;
    }
    let is_open = matches!(call.reading, Reading::Some)
        || matches!(body, reference::Body::Doubtful(_))
        || (!is_read && unread > MOST_DRAINED_BYTES);
    if is_open { After::IsOpen } else { After::GoesOn }
}

/// The head of an answer.
struct Answer {
    status: u16,
    seen: Option<usize>,
    closes: bool,
    is_json: bool,
    framing: Option<Length>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Length {
    Bytes(usize),
    Chunked,
    ToTheEnd,
}

/// What was received, read as strictly as RFC 9112 allows.
struct Answers<'r> {
    rest: &'r [u8],
}

impl<'r> Answers<'r> {
    /// Whether an interim answer was there.
    fn interim(&mut self) -> bool {
        let rest = self.rest.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n");
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn line(&mut self) -> &'r str {
        let end = self.rest.windows(2).position(|two| two == b"\r\n").expect("a whole line");
        let line = std::str::from_utf8(&self.rest[..end]).expect("a line of ASCII");
        assert!(line.chars().all(|c| c == '\t' || (' '..='~').contains(&c)), "{line:?}");
        self.rest = &self.rest[end + 2..];
        line
    }

    fn head(&mut self) -> Answer {
        let line = self.line();
        let status = line.strip_prefix("HTTP/1.1 ").expect("a status line");
        let (status, reason) = status.split_once(' ').expect("a reason, if only an empty one");
        assert!(status.len() == 3 && !reason.is_empty(), "{line}");
        let status = status.parse().expect("a status");
        let mut answer = Answer { status, seen: None, closes: false, is_json: false, framing: None };
        let mut has_date = false;
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a field");
            let framing = match name {
                "Content-Length" => Length::Bytes(value.parse().expect("a length")),
                "Transfer-Encoding" => {
                    assert_eq!(value, "chunked");
                    Length::Chunked
                }
                "Connection" => {
                    assert!(matches!(value, "close" | "keep-alive"));
                    answer.closes = value == "close";
                    continue;
                }
                SEEN => {
                    answer.seen = Some(value.parse().expect("a number"));
                    continue;
                }
                "Content-Type" => {
                    answer.is_json = value == "application/json";
                    continue;
                }
                "Keep-Alive" => {
                    assert!(value.starts_with("timeout="), "{value}");
                    continue;
                }
                "Date" => {
                    has_date = true;
                    continue;
                }
                _ => panic!("an unexpected field: {line}"),
            };
            assert!(answer.framing.replace(framing).is_none(), "two framings");
        }
        assert!(has_date);
        assert!(answer.framing.is_some() || answer.closes, "no end");
        answer.framing.get_or_insert(Length::ToTheEnd);
        answer
    }

    /// The body of an answer; `None` if it breaks off.
    fn body(&mut self, answer: &Answer, is_head: bool) -> Option<Vec<u8>> {
        if is_head {
            return Some(Vec::new());
        }
        let body = match answer.framing? {
            Length::Bytes(length) => self.take(length).expect("all of the body").to_vec(),
            Length::ToTheEnd => std::mem::take(&mut self.rest).to_vec(),
            Length::Chunked => {
                let mut all = Vec::new();
                loop {
                    if self.rest.is_empty() {
                        return None;
                    }
                    let line = self.line();
                    let size = usize::from_str_radix(line, 16).expect("a chunk size");
                    let chunk = self.take(size).expect("all of the chunk");
                    assert_eq!(self.line(), "");
                    if size == 0 {
                        break all;
                    }
                    all.extend_from_slice(chunk);
                }
            }
        };
        if answer.is_json {
            let text = std::str::from_utf8(&body).expect("UTF-8");
            assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
        }
        Some(body)
    }

    fn take(&mut self, length: usize) -> Option<&'r [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}
