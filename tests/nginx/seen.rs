//! What each server saw in the bytes: how many requests, and whether the last one was the sentinel, which every message is
//! followed by. Whoever sees the end of a message elsewhere does not see the sentinel.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use crate::wire::{connect, json_field};

/// A request that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The one behind the message.
    Sentinel,
    /// Any other.
    Other,
    /// One that was answered before its body was read, the last on its connection: whether that had an end is not known.
    Early,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// What was said to the bytes that were refused, if any were.
    pub refusal: Option<String>,
    /// Whether the last answer says that the connection ends with it. Told of the client only.
    pub closes: bool,
}

/// Whether an exchange comes to its end although more could follow: what waits for more has not refused what it has.
pub fn ends_at_once(address: SocketAddr, request: &[u8]) -> bool {
    let mut stream = connect(address);
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let _ = stream.write_all(request);
    let end = stream.read_to_end(&mut Vec::new());
    end.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
}

/// Sends everything, and gives all that comes back until the connection ends, in whichever way.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    // Who has refused may hang up before all is sent.
    let _ = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answers = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answers,
            Ok(count) => answers.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answers,
            Err(error) => panic!("no end: {error}, {}", request.escape_ascii()),
        }
    }
}

/// The answers one by one: status, head, body. No body here holds a status line.
fn answers(bytes: &[u8]) -> Vec<(u16, String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let is_start = |at: usize| {
        let status = text.as_bytes().get(at + 9..at + 13);
        status.is_some_and(|status| status[..3].iter().all(u8::is_ascii_digit) && status[3] == b' ')
    };
    let mut starts: Vec<usize> =
        text.match_indices("HTTP/1.1 ").map(|found| found.0).filter(|at| is_start(*at)).collect();
    starts.push(text.len());
    let mut found = Vec::new();
    for range in starts.windows(2) {
        let answer = &text[range[0]..range[1]];
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let status = head[9..12].parse().unwrap();
        if status != 100 {
            found.push((status, head.to_owned(), body.to_owned()));
        }
    }
    // HTTP/0.9: a body and nothing else.
    if found.is_empty() && !bytes.is_empty() && !text.starts_with("HTTP/1.1 ") {
        found.push((200, "X-Upstream: 0.9".to_owned(), text.into_owned()));
    }
    found
}

pub fn by_nginx(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for (status, head, body) in answers(bytes) {
        if !head.contains("X-Upstream: ") {
            seen.refusal = Some(status.to_string());
            break;
        }
        seen.requests.push(if body == "sentinel" { Request::Sentinel } else { Request::Other });
    }
    seen
}

/// Codes of refusals that are about the request as HTTP. All others are about what it asks for.
const REFUSALS: &[&str] = &[
    "bad_request",
    "body_interrupted",
    "content_too_large",
    "expectation_failed",
    "head_too_large",
    "http_version_not_supported",
    "request_timeout",
    "transfer_encoding",
    "uri_too_long",
];

pub fn by_client(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for (status, head, body) in answers(bytes) {
        seen.closes = head.contains("Connection: close");
        let code = json_field(&body, "error").unwrap_or_default();
        if REFUSALS.contains(&code.as_str()) {
            seen.refusal = Some(format!("{status} {}", json_field(&body, "message").unwrap()));
            break;
        }
        seen.requests.push(match (status, body.as_str(), code.as_str()) {
            (200, report, _) if report.starts_with(r#"{"status":"ok""#) => Request::Sentinel,
            // The parser of forms has looked for the boundary up to the end of the body.
            (_, _, "multipart_incomplete") => Request::Other,
            _ => Request::Early,
        });
    }
    // Where another answer follows, the end was found.
    let is_refused = seen.refusal.is_some();
    let last = seen.requests.len().saturating_sub(usize::from(!is_refused));
    for request in seen.requests.iter_mut().take(last).filter(|request| **request == Request::Early) {
        *request = Request::Other;
    }
    seen
}
