//! The differences that are known, and why each is as it is. Two kinds are allowed: the client refuses what nginx takes, which
//! loses nothing but a sloppy sender; and the client takes what nginx refuses, for a reason that has no part in where a
//! message ends. That both take a message and see its end in different places is never allowed: there is no table for it.

use crate::seen::{Request, Seen};

/// Where the client is stricter. The name, what it says to the sender, and the reason.
const STRICTER: &[(&str, &str, &str)] = &[
    (
        "names of fields",
        "invalid header name",
        "RFC 9110, 5.1: a name is a token. nginx leaves such a field out without a word (ignore_invalid_headers), and takes a \
         line without a colon for a field; whoever is behind it may see a field there",
    ),
    (
        "values of fields",
        "invalid header value",
        "RFC 9110, 5.5: no controls. nginx takes all but NUL and CR, and takes CR CR LF for a line's end",
    ),
    (
        "request lines",
        "invalid token",
        "RFC 9112, 3: single spaces, and a version. nginx takes several, and HTTP/0.9, which has no version",
    ),
    (
        "line ends",
        "invalid new line",
        "RFC 9112, 2.2 and 2.3: one digit in a version, nothing behind it, and no bare CR. nginx takes more digits, blanks \
         behind them, and CRs before a request line",
    ),
    (
        "versions",
        "Only HTTP/1.1 and HTTP/1.0",
        "RFC 9110, 2.5 would have HTTP/1.2 and up read as 1.1; there is none, nor will there be (RFC 9112 is 1.1 for good)",
    ),
    (
        "bodies in chunks",
        "The body breaks the rules of HTTP",
        "RFC 9112, 7.1: CRLF behind sizes, data and trailers, nothing but an extension behind a size, trailers that are fields. \
         nginx takes bare LF, any byte behind a blank, and anything for a trailer. More zeros than 16 digits are refused too, \
         which the grammar allows and nobody sends",
    ),
    (
        "unread bodies in chunks",
        "(nothing: it was answered already)",
        "RFC 9110, 15.5 and RFC 9112, 9.3: the same, where the answer does not depend on the body: the connection ends",
    ),
    (
        "hosts",
        "The Host field is no host",
        "RFC 9110, 7.2: uri-host and port. nginx refuses few characters and never looks at the port",
    ),
    (
        "expectations",
        "The only expectation that is met",
        "RFC 9110, 10.1.1: 417 for one that is not met. nginx ignores it",
    ),
    (
        "long heads",
        "over 16384 bytes",
        "RFC 9110, 5.4: a limit of its own. nginx has 4 buffers of 16 KiB here",
    ),
    ("many fields", "over 96 header fields", "RFC 9110, 5.4: a limit of its own"),
    ("long targets", "over 4096 bytes", "RFC 9110, 4.1: a limit of its own"),
    (
        "closing",
        "(nothing: it ends the connection)",
        "RFC 9110, 7.6.1 and RFC 9112, 9.3: `close` anywhere in the list wins, and HTTP/1.0 is kept for the exact word. nginx \
         looks for the letters, and believes the last field",
    ),
];

type IsOne = fn(&[u8]) -> bool;

/// Where the client is laxer. The name, which messages it is about, and the reason.
const LAXER: &[(&str, IsOne, &str)] = &[
    (
        "any token for a method",
        |message| some_line(message, |line| is_request_line(line) && !is_method_of_nginx(word(line, 0))),
        "RFC 9110, 9.1: a method is a token; an unknown one is told 405. nginx takes capitals, - and _, and refuses TRACE itself",
    ),
    (
        "OPTIONS of all",
        |message| some_line(message, |line| line.starts_with(b"OPTIONS * ")),
        "RFC 9112, 3.2.4: it is HTTP. nginx refuses it",
    ),
    (
        "paths as they are",
        |message| {
            some_line(message, |line| {
                is_request_line(line) && (has(word(line, 1), b"%") || has(word(line, 1), b".."))
            })
        },
        "RFC 3986, 6: nothing is decoded and no dots are followed here: such a path leads nowhere, 404. nginx does both, and \
         refuses what cannot be",
    ),
    (
        "authorities by the book",
        |message| some_line(message, |line| is_request_line(line) && has(word(line, 1), b"://")),
        "RFC 3986, 3.2.2: sub-delims and dots anywhere in a name. nginx knows letters, digits, dots, - and _ there",
    ),
    (
        "an empty Host, or one of dots",
        |message| {
            some_value(message, b"host", |value| {
                let host = value.trim_ascii();
                host.is_empty() || host == b"." || has(host, b"..")
            })
        },
        "RFC 9110, 7.2: Host is empty where the target has no authority. RFC 3986, 3.2.2: names may have dots anywhere",
    ),
    (
        "tabs around values",
        |message| {
            let is_padded = |value: &[u8]| {
                let value = value.strip_suffix(b"\r").unwrap_or(value);
                value.trim_ascii().len() < trimmed(value, b" ").len()
            };
            [&b"host"[..], b"content-length", b"transfer-encoding"]
                .iter()
                .any(|name| some_value(message, name, is_padded))
        },
        "RFC 9110, 5.6.3: optional white space is spaces and tabs. nginx takes off spaces only, and refuses the value",
    ),
];

pub enum Verdict {
    Same,
    Stricter(&'static str),
    Laxer(&'static str),
    Unknown(String),
}

pub fn names() -> impl Iterator<Item = &'static str> {
    STRICTER.iter().map(|entry| entry.0).chain(LAXER.iter().map(|entry| entry.0))
}

pub fn judge(message: &[u8], ours: &Seen, theirs: &Seen) -> Verdict {
    if are_same(&ours.requests, &theirs.requests) {
        return Verdict::Same;
    }
    let met = common(&ours.requests, &theirs.requests);
    let (our_next, their_next) = (ours.requests.get(met), theirs.requests.get(met));
    match (our_next, their_next, &ours.refusal, &theirs.refusal) {
        // What nginx took for the sentinel is beyond reproach: who refuses it has begun to read elsewhere. Unless it was
        // refused for what stands between the two.
        (None, Some(Request::Other), Some(told), _) => by_our_words(told),
        (None, Some(Request::Sentinel), Some(told), _)
            if met > 0 && told.contains("invalid new line") && ends_in_a_bare_return(message) =>
        {
            by_our_words(told)
        }
        (None, Some(_), None, _) if ours.closes => Verdict::Stricter("closing"),
        (None, Some(_), None, _) if ours.requests.last() == Some(&Request::Early) => {
            Verdict::Stricter("unread bodies in chunks")
        }
        (Some(Request::Other | Request::Early), None, _, Some(_)) => by_the_message(message),
        _ => Verdict::Unknown("ANOTHER END OF THE MESSAGE".to_owned()),
    }
}

fn are_same(ours: &[Request], theirs: &[Request]) -> bool {
    match ours.split_last() {
        Some((Request::Early, before)) => {
            before == theirs || common(ours, theirs) == ours.len().max(theirs.len())
        }
        _ => ours == theirs,
    }
}

/// How many requests both saw.
fn common(ours: &[Request], theirs: &[Request]) -> usize {
    let is_same = |(ours, theirs): &(&Request, &Request)| {
        ours == theirs || (**ours, **theirs) == (Request::Early, Request::Other)
    };
    ours.iter().zip(theirs).take_while(is_same).count()
}

fn by_our_words(told: &str) -> Verdict {
    match STRICTER.iter().find(|entry| told.contains(entry.1)) {
        Some(entry) => Verdict::Stricter(entry.0),
        None => Verdict::Unknown(format!("the client is stricter: {told}")),
    }
}

fn by_the_message(message: &[u8]) -> Verdict {
    match LAXER.iter().find(|entry| entry.1(message)) {
        Some(entry) => Verdict::Laxer(entry.0),
        None => Verdict::Unknown("the client is laxer".to_owned()),
    }
}

// --- what a message holds

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn trimmed<'t>(mut text: &'t [u8], of: &[u8]) -> &'t [u8] {
    while let [first, rest @ ..] = text
        && of.contains(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && of.contains(last)
    {
        text = rest;
    }
    text
}

/// Whether a CR without an LF is among the line ends that a message ends in. A last one stands before the sentinel.
fn ends_in_a_bare_return(message: &[u8]) -> bool {
    let end = message.iter().rev().take_while(|byte| b"\r\n".contains(byte)).count();
    let ends = &message[message.len() - end..];
    ends.ends_with(b"\r") || has(ends, b"\r\r")
}

fn some_line(message: &[u8], is_one: impl Fn(&[u8]) -> bool) -> bool {
    message.split(|byte| *byte == b'\n').any(is_one)
}

/// Whether a field of this name has such a value, the end of its line but for the line feed included.
fn some_value(message: &[u8], name: &[u8], is_one: impl Fn(&[u8]) -> bool) -> bool {
    some_line(message, |line| {
        let colon = line.iter().position(|byte| *byte == b':');
        colon.is_some_and(|at| line[..at].eq_ignore_ascii_case(name) && is_one(&line[at + 1..]))
    })
}

fn is_request_line(line: &[u8]) -> bool {
    has(line, b" HTTP/1.")
}

fn word(line: &[u8], number: usize) -> &[u8] {
    line.split(|byte| *byte == b' ').nth(number).unwrap_or_default()
}

fn is_method_of_nginx(method: &[u8]) -> bool {
    method.iter().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(byte)) && method != b"TRACE"
}
