//! The protocol: connections, heads, bodies, time-outs and limits, as bytes on the wire.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE, wait_for};
use crate::wire::{
    self, Answer, BOUNDARY, answers_to_the_end, connect, conversation, read_answer, send, try_send,
};

const NEXT: &str = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn get(stream: &mut TcpStream, path: &str) -> Answer {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_answer(stream, false)
}

/// The head of an upload that keeps its connection, with these fields for its framing.
fn upload_head(fields: &str) -> String {
    let content_type = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
    format!("POST /submit HTTP/1.1\r\nHost: a\r\n{content_type}\r\n{fields}\r\n")
}

fn small_form() -> Vec<u8> {
    wire::form(&[("run.sh", b"true\n"), ("a.txt", b"line one\r\nline two\r\n")])
}

/// A body in chunks of `size` bytes, without the last chunk.
fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        write!(out, "{:x}\r\n", chunk.len()).unwrap();
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn joined(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), body].concat()
}

// --- connections

#[test]
fn several_requests_go_over_one_connection() {
    let client = Client::start();
    let mut stream = connect(client.address);
    for _ in 0..5 {
        assert_eq!(get(&mut stream, "/").text(), r#"{"message":"pong"}"#);
        assert_eq!(get(&mut stream, "/nothing").error(404), "no_such_route");
        let body = small_form();
        let head = upload_head(&format!("Content-Length: {}\r\n", body.len()));
        stream.write_all(&joined(&head, &body)).unwrap();
        let answer = read_answer(&mut stream, false);
        let kept = answer.header("connection");
        assert_eq!((answer.status, kept.as_deref()), (200, Some("keep-alive")), "{}", answer.head);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let client = Client::start();
    let body = small_form();
    let mut requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /load HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    requests.extend(joined(&upload_head(&format!("Content-Length: {}\r\n", body.len())), &body));
    requests.extend_from_slice(b"PUT /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET");
    requests.extend(joined(&upload_head("Transfer-Encoding: chunked\r\n"), &chunks(&body, 50)));
    requests.extend_from_slice(b"0\r\n\r\nDELETE /load HTTP/1.1\r\nHost: a\r\n\r\n");
    requests.extend_from_slice(LAST.as_bytes());
    let answers = conversation(client.address, &requests);
    assert_eq!(statuses(&answers), [200, 200, 200, 404, 200, 405, 200]);
    assert_eq!(answers[0].text(), r#"{"message":"pong"}"#);
    assert!(answers[1].text().parse::<f64>().is_ok());
    assert_eq!(answers[2].json("status").as_deref(), Some("Prepared"));
    assert_eq!(answers[4].json("status").as_deref(), Some("Prepared"));
    assert_eq!(answers[6].json("status").as_deref(), Some("ok"));
}

#[test]
fn a_connection_ends_where_the_request_or_its_version_says_so() {
    let client = Client::start();
    for (head, answered, kept) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Some("close"), false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", Some("close"), false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n", Some("close"), false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Some("keep-alive"), true),
        ("GET / HTTP/1.0\r\n\r\n", Some("close"), false),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: close, keep-alive\r\n\r\n", Some("close"), false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Some("keep-alive"), true),
    ] {
        let answers = conversation(client.address, format!("{head}{LAST}"));
        assert_eq!(answers.len(), if kept { 2 } else { 1 }, "{head}");
        assert_eq!(answers[0].header("connection").as_deref(), answered, "{head}");
        assert_eq!((answers[0].status, answers[0].text()), (200, r#"{"message":"pong"}"#.into()), "{head}");
    }
}

#[test]
fn a_last_answer_arrives_whole_though_its_client_goes_on_sending() {
    let client = Client::start();
    let id = client.run("head -c 3000000 /dev/urandom > noise");
    client.result(&id);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.0\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    // To close a socket with unread bytes resets its connection, and what the peer has not got yet is lost.
    stream.write_all(b"what is no request").unwrap();
    thread::sleep(Duration::from_millis(200));
    let answer = read_answer(&mut stream, false);
    let noise = answer.files().into_iter().find(|(name, _)| name == "noise");
    assert_eq!((answer.status, noise.map(|(_, bytes)| bytes.len())), (200, Some(3_000_000)));
}

#[test]
fn head_of_every_route_has_the_headers_of_get_and_no_body() {
    let client = Client::start();
    let gone = client.run("true");
    client.result(&gone);
    fs::remove_dir_all(client.directories().remove(0)).unwrap();
    let done = client.run("echo done > result");
    let failed = client.run("exit 3");
    client.result(&done);
    client.result(&failed);
    let mut stream = connect(client.address);
    for (path, status) in [
        ("/".to_owned(), 200),
        ("/health".to_owned(), 200),
        ("/load".to_owned(), 200),
        (format!("/retrieve/{done}"), 200),
        (format!("/retrieve/{failed}"), 200),
        (format!("/retrieve_partial/{done}"), 200),
        (format!("/retrieve/{gone}"), 404),
        (format!("/retrieve_partial/{gone}"), 404),
        ("/retrieve/0".to_owned(), 404),
        ("/retrieve_partial/x".to_owned(), 404),
        ("/nothing".to_owned(), 404),
        ("/submit".to_owned(), 405),
        (format!("/kill/{done}"), 405),
    ] {
        write!(stream, "HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = read_answer(&mut stream, true);
        // A body after the HEAD would be taken for the head of this answer.
        let get = get(&mut stream, &path);
        assert_eq!((head.status, get.status), (status, status), "{path}");
        let fields = |answer: &Answer| -> Vec<String> {
            let is_steady = |line: &&str| {
                // The time, and how many digits the load has, may change in between.
                !(line.starts_with("Date:") || path == "/load" && line.starts_with("Content-Length:"))
            };
            answer.head.lines().filter(is_steady).map(str::to_owned).collect()
        };
        assert_eq!(fields(&head), fields(&get), "{path}");
        assert!(head.header("date").is_some(), "{}", head.head);
        assert_eq!(head.header("connection").as_deref(), Some("keep-alive"), "{}", head.head);
        let length = head.header("content-length").map(|length| length.parse::<usize>().unwrap());
        match head.header("transfer-encoding") {
            None => assert!(length.unwrap() > 0 && !get.body.is_empty(), "{path}"),
            Some(coding) => assert!(coding == "chunked" && length.is_none(), "{path}"),
        }
    }
}

// --- Expect

#[test]
fn a_client_that_waits_is_told_to_go_on_once_and_then_answered() {
    let client = Client::start();
    let body = small_form();
    let length = format!("Content-Length: {}\r\n", body.len());
    let chunked = [chunks(&body, 64), b"0\r\n\r\n".to_vec()].concat();
    let mut stream = connect(client.address);
    for (framing, body) in [(length.as_str(), &body), ("Transfer-Encoding: chunked\r\n", &chunked)] {
        stream.write_all(upload_head(&format!("{framing}Expect: 100-continue\r\n")).as_bytes()).unwrap();
        let interim = read_answer(&mut stream, false);
        assert_eq!((interim.status, interim.head.as_str()), (100, "HTTP/1.1 100 Continue\r\n\r\n"));
        for piece in body.chunks(60) {
            stream.write_all(piece).unwrap();
        }
        assert_eq!(read_answer(&mut stream, false).status, 200);
        assert_eq!(get(&mut stream, "/").status, 200);
    }
}

#[test]
fn a_refused_expectation_gets_its_status_without_100_and_the_connection_ends() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    let expect = "Expect: 100-continue\r\n";
    for (head, status) in [
        (upload_head(&format!("Content-Length: 1001\r\n{expect}")), 413),
        (format!("POST /submit HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n{expect}\r\n"), 415),
        (format!("POST /submit HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{expect}\r\n"), 415),
        (format!("POST /kill/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n{expect}\r\n"), 404),
        (format!("PUT /submit HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n{expect}\r\n"), 405),
        (upload_head("Content-Length: 1000\r\nExpect: 200-ok\r\n"), 417),
        (upload_head("Content-Length: 1000\r\nExpect: 100-continue, more\r\n"), 417),
    ] {
        // Whether the body comes all the same is not known: what comes next must not be taken for a request.
        let answers = conversation(client.address, format!("{head}{LAST}"));
        assert_eq!(statuses(&answers), [status], "{head}");
        assert_eq!(answers[0].header("connection").as_deref(), Some("close"), "{head}");
        answers[0].error(status);
    }
    client.must_be_well_and_empty("refused expectations");
}

#[test]
fn an_expectation_that_needs_no_100_gets_none() {
    let client = Client::start();
    let body = small_form();
    let length = format!("Content-Length: {}\r\n", body.len());
    // HTTP/1.0 has no 100 (RFC 9110, section 10.1.1).
    let old = upload_head(&format!("{length}Expect: 100-continue\r\n")).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(statuses(&conversation(client.address, joined(&old, &body))), [200]);
    for request in [
        "GET /load HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        "GET /load HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ] {
        assert_eq!(statuses(&conversation(client.address, request)), [200], "{request}");
    }
    // The body is there already: a 100 is allowed and useless.
    let head = upload_head(&format!("{length}Expect: 100-continue\r\nConnection: close\r\n"));
    let answers = conversation(client.address, joined(&head, &body));
    assert_eq!(answers.last().unwrap().status, 200);
}

// --- bodies

#[test]
fn a_chunked_body_is_understood_however_it_is_chunked() {
    let client = Client::start();
    let body = small_form();
    let plain = |size| [chunks(&body, size), b"0\r\n\r\n".to_vec()].concat();
    let whole =
        |size_line: &str, end: &str| [size_line.as_bytes(), b"\r\n", &body, b"\r\n", end.as_bytes()].concat();
    let (lower, upper) = (format!("{:x}", body.len()), format!("{:X}", body.len()));
    let mut stream = connect(client.address);
    for (what, encoded) in [
        ("single bytes", plain(1)),
        ("chunks of 7", plain(7)),
        ("chunks of 200", plain(200)),
        ("one chunk", plain(100_000)),
        ("lower case", whole(&lower, "0\r\n\r\n")),
        ("upper case", whole(&upper, "0\r\n\r\n")),
        ("leading zeros", whole(&format!("{lower:0>16}"), "0000\r\n\r\n")),
        ("an extension", whole(&format!("{lower};name=value"), "0;last\r\n\r\n")),
        ("a quoted extension", whole(&format!("{lower} ; a=\"x;y\" ;b"), "0 \t;\r\n\r\n")),
        ("a long extension", whole(&format!("{lower};{}", "x".repeat(3000)), "0\r\n\r\n")),
        ("trailers", whole(&lower, "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: b\r\n\r\n")),
    ] {
        stream.write_all(&joined(&upload_head("Transfer-Encoding: chunked\r\n"), &encoded)).unwrap();
        let answer = read_answer(&mut stream, false);
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        // The connection goes on behind exactly the last byte of the body.
        assert_eq!(get(&mut stream, "/").status, 200, "{what}");
        let result = client.result(&answer.json("id").unwrap());
        assert_eq!(result.file("a.txt"), "line one\r\nline two\r\n", "{what}");
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    let client = Client::start();
    let body = small_form();
    let chunked = [chunks(&body, 33), b"0;x=y\r\nTrailer: 1\r\n\r\n".to_vec()].concat();
    for (framing, body) in [
        (format!("Content-Length: {}\r\n", body.len()), &body),
        ("Transfer-Encoding: chunked\r\n".to_owned(), &chunked),
    ] {
        let mut stream = connect(client.address);
        stream.set_nodelay(true).unwrap();
        for byte in joined(&upload_head(&framing), body) {
            stream.write_all(&[byte]).unwrap();
        }
        let answer = read_answer(&mut stream, false);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let result = client.result(&answer.json("id").unwrap());
        assert_eq!(result.file("a.txt"), "line one\r\nline two\r\n");
    }
}

#[test]
fn a_chunked_body_that_breaks_the_rules_ends_the_connection_and_leaves_nothing() {
    let client = Client::start();
    let begun = chunks(&small_form()[..40], 40);
    let long_line = format!("5;{}\r\n", "x".repeat(5000));
    for (what, bad) in [
        ("no number", "xyz\r\nhello\r\n"),
        ("an empty size line", "\r\n\r\n"),
        ("an extension without a size", ";a=b\r\n\r\n"),
        ("white space for a size", " \r\n\r\n"),
        ("white space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("two numbers", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a size over 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size over 63 bits", "8000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("more zeros than any size", &format!("{:0>3000}\r\nhello\r\n0\r\n\r\n", "5")),
        ("a blank behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a comma", "5,5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a NUL in an extension", "5;a\u{0}\r\nhello\r\n0\r\n\r\n"),
        ("a carriage return in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a bare line feed in an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("a chunk without any line end", "5\r\nhello"),
        // To a reader that takes a bare line feed for a line's end, a request begins behind each of these.
        ("a bare line feed for the end of the body", "0\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a bare line feed behind the last size", "0\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a trailer without a colon", "0\r\nGET / HTTP/1.1\r\n\r\n"),
        ("a trailer with a bare line feed", "0\r\nX: 1\n\r\n"),
        ("a trailer with a carriage return", "0\r\nX: 1\r2\r\n\r\n"),
        ("a trailer with a NUL", "0\r\nX: 1\u{0}\r\n\r\n"),
        ("a trailer with a blank before its colon", "0\r\nX : 1\r\n\r\n"),
        ("a folded trailer", "0\r\nX: 1\r\n 2\r\n\r\n"),
        ("a bare line feed", "5\nhello\r\n0\r\n\r\n"),
        ("a carriage return inside", "5\rx\r\nhello\r\n0\r\n\r\n"),
        ("a line beyond any", &long_line),
        ("a chunk that is too long", "5\r\nhello, world\r\n0\r\n\r\n"),
        ("a chunk without its line end", "5\r\nhello0\r\n\r\n"),
        ("a chunk with a bare line feed", "5\r\nhello\n0\r\n\r\n"),
    ] {
        let body = [&begun, bad.as_bytes(), LAST.as_bytes()].concat();
        let upload = joined(&upload_head("Transfer-Encoding: chunked\r\n"), &body);
        let answers = conversation(client.address, upload);
        assert_eq!(statuses(&answers), [400], "{what}");
        assert_eq!(answers[0].error(400), "bad_request", "{what}: {}", answers[0].text());
        assert_eq!(answers[0].header("connection").as_deref(), Some("close"), "{what}");
        assert!(client.directories().is_empty(), "{what}");
        // The same where nobody reads the body: the answer is another, the end is not.
        let ignored = joined("POST /kill/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &body);
        let answers = conversation(client.address, ignored);
        assert_eq!(statuses(&answers), [404], "{what}");
        client.must_be_well_and_empty(what);
    }
}

#[test]
fn trailers_without_end_are_not_read_to_their_end() {
    let client = Client::start();
    let trailers = "X-Trailer: one of many\r\n".repeat(50_000);
    let head = "POST /kill/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answers = conversation(client.address, format!("{head}0\r\n{trailers}\r\n{LAST}"));
    assert_eq!(statuses(&answers), [404]);
}

#[test]
fn a_chunk_of_the_largest_size_is_no_overflow() {
    let client = Client::start();
    for size in ["ffffffffffffffff", "8000000000000000", "7fffffffffffffff"] {
        for head in [
            upload_head("Transfer-Encoding: chunked\r\n"),
            "POST /kill/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ] {
            let mut stream = connect(client.address);
            write!(stream, "{head}{size}\r\n--{BOUNDARY}\r\n").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let answers = answers_to_the_end(&mut stream);
            assert!(matches!(statuses(&answers).as_slice(), [400 | 404 | 413]), "{size}: {answers:?}");
        }
        client.must_be_well_and_empty(size);
    }
}

#[test]
fn a_body_that_nobody_wants_is_read_away_or_ends_the_connection() {
    let client = Client::start();
    let small = "x".repeat(60_000);
    let large = "x".repeat(1_000_000);
    let with_length = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let with_chunks = |line: &str, body: &str| {
        let chunks = String::from_utf8(chunks(body.as_bytes(), 9000)).unwrap();
        format!("{line} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    for (request, expected) in [
        (with_length("GET /load", NEXT), &[200, 200][..]),
        (with_length("POST /kill/7", &small), &[404, 200]),
        (with_chunks("PUT /nothing", &small), &[404, 200]),
        (with_length("POST /submit", &small), &[415, 200]),
        // All of the answer can be read although most of the body was not.
        (with_length("GET /load", &large), &[200]),
        (with_chunks("POST /load", &large), &[405]),
    ] {
        let answers = conversation(client.address, format!("{request}{LAST}"));
        let line = request.lines().next().unwrap();
        assert_eq!(statuses(&answers), expected, "{line} with {} bytes", request.len());
        // How much is to come of a chunked body nobody knows when the answer goes out.
        if request.contains("Content-Length") {
            let closes = answers[0].header("connection").as_deref() == Some("close");
            assert_eq!(closes, expected.len() == 1, "{line}");
        }
    }
}

// --- heads

/// A request that is answered by this status, whatever follows it.
fn bad_heads() -> Vec<(String, u16)> {
    let post = |fields: &str| format!("POST /submit HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    vec![
        // where the body ends
        (post("Content-Length: 3\r\nContent-Length: 3"), 400),
        (post("Content-Length: 3\r\nContent-Length: 4"), 400),
        (post("Content-Length: 3, 3"), 400),
        (post("Content-Length: abc"), 400),
        (post("Content-Length: -1"), 400),
        (post("Content-Length: +1"), 400),
        (post("Content-Length: 0x10"), 400),
        (post("Content-Length: 1 2"), 400),
        (post("Content-Length: 1.0"), 400),
        (post("Content-Length:"), 400),
        (post("Content-Length: \u{661}"), 400),
        (post("Content-Length: 99999999999999999999"), 413),
        (post("Content-Length: 9223372036854775808"), 413),
        (post("Content-Length: 3,"), 400),
        (post("Content-Length: 3;"), 400),
        (post("Content-Length : 3"), 400),
        (post("Content-Length\t: 3"), 400),
        (post("Content-Length: 3\r\n 4"), 400),
        (post("Content-Length:\r\n 3"), 400),
        (post("Content-Length: 3\r4"), 400),
        (post("Content-Length: 3\u{0}"), 400),
        (post("Content-Length: 3\r\nContent-length: 0"), 400),
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 3"), 400),
        ("POST /submit HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400),
        (post("Transfer-Encoding: gzip"), 501),
        (post("Transfer-Encoding: gzip, chunked"), 501),
        (post("Transfer-Encoding: chunked, chunked"), 501),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 501),
        (post("Transfer-Encoding: xchunked"), 501),
        (post("Transfer-Encoding: identity"), 501),
        (post("Transfer-Encoding: chunked, identity"), 501),
        (post("Transfer-Encoding: ,chunked"), 501),
        (post("Transfer-Encoding: chunked,"), 501),
        (post("Transfer-Encoding: chunked;q=1"), 501),
        (post("Transfer-Encoding: \"chunked\""), 501),
        (post("Transfer-Encoding:"), 501),
        (post("Transfer-Encoding: chunked\r\ntransfer-encoding: identity"), 501),
        (post("Transfer-Encoding : chunked"), 400),
        (post("Transfer-Encoding:\r\n chunked"), 400),
        (post("X: y\rTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding: chunked\nContent-Length: 3"), 400),
        (post("Transfer-Encoding: \u{b}chunked"), 400),
        // for whom
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n".into(), 400),
        // which form of target
        ("GET load HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET http:/load HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET http:///load HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET ://a/load HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        // not HTTP
        ("GET /\r\n\r\n".into(), 400),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), 400),
        ("G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("\u{0}\u{1}\u{2}\u{ff}\r\n\r\n".into(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\n".into(), 400),
        ("hello\r\n\r\n".into(), 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1 x\r\nHost: a\r\n\r\n".into(), 400),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /\u{0} HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (get("X-Folded: a\r\n b"), 400),
        (get("\tX: a"), 400),
        (get("X : a"), 400),
        (get("X\u{0}: a"), 400),
        (get("X: a\u{0}"), 400),
        (get("X: a\rb"), 400),
        (get("No colon here"), 400),
        (get(": no name"), 400),
        // other versions, and what stands in their place
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(), 505),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), 505),
        ("GET / http/1.1\r\nHost: a\r\n\r\n".into(), 505),
        ("GET / HTTP/1.11\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/01.1\r\nHost: a\r\n\r\n".into(), 505),
        ("GET / HTTP/1,1\r\nHost: a\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        // too much
        (get(&format!("X: {}", "x".repeat(20_000))), 431),
        (get(&"X: 1\r\n".repeat(200)), 431),
        (get(&format!("{}: 1", "x".repeat(20_000))), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(5000)), 414),
        (format!("GET /{}", "x".repeat(100_000)), 414),
    ]
}

#[test]
fn a_head_that_is_not_understood_is_refused_and_nothing_after_it_is_a_request() {
    let client = Client::start();
    for (bad, status) in bad_heads() {
        let shown = bad.chars().take(80).collect::<String>().escape_debug().to_string();
        let answers = conversation(client.address, format!("{bad}{LAST}"));
        assert_eq!(statuses(&answers), [status], "{shown}");
        answers[0].error(status);
        assert_eq!(answers[0].header("connection").as_deref(), Some("close"), "{shown}");
        client.must_be_well_and_empty(&shown);
    }
}

#[test]
fn a_good_request_before_a_bad_one_is_answered() {
    let client = Client::start();
    for (bad, status) in bad_heads().into_iter().step_by(7) {
        assert_eq!(
            statuses(&conversation(client.address, format!("{NEXT}{bad}"))),
            [200, status],
            "{bad:.80}"
        );
    }
}

#[test]
fn what_looks_odd_but_is_http_is_understood() {
    let client = Client::start();
    let fields = "X: 1\r\n".repeat(80);
    let long = format!("X: {}\r\n", "x".repeat(12_000));
    let target = format!("/?{}", "x".repeat(4000));
    for request in [
        // RFC 9112, section 2.2: at least one empty line before the request line is ignored.
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET http://example.org?x=/load HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: [::1]:9000\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET http://example.org:9000/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(),
        "GET http://example.org HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(),
        "GET /?x=http://b/nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhOsT:\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHOST: \t a \t \r\nX:\r\nY: \u{e9}\t\"\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{fields}Host: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{long}Host: a\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let answers = conversation(client.address, format!("{request}{LAST}"));
        assert_eq!(statuses(&answers), [200, 200], "{request:.80}");
        assert_eq!(answers[0].text(), r#"{"message":"pong"}"#, "{request:.80}");
    }
}

#[test]
fn a_target_that_is_no_ascii_leads_nowhere() {
    let client = Client::start();
    for (target, status) in
        [(&b"/\xc3\xa9"[..], 404), (b"/health\xc3\xa9", 404), (b"/\xff", 400), (b"/health\x80", 400)]
    {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat();
        assert_eq!(statuses(&conversation(client.address, request)), [status], "{}", target.escape_ascii());
    }
}

/// Some bytes of a request changed, left out, doubled or put in: mostly those that mean something.
fn damage(request: &mut Vec<u8>, random: &mut fastrand::Rng) {
    const BYTES: &[u8] = b"\r\n\r\n: ;=\"-/\\%*,0159afxHT\0\x7f\xff";
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..request.len());
        let byte = BYTES[random.usize(..BYTES.len())];
        match random.u8(..5) {
            0 => request[at] = byte,
            1 => request.insert(at, byte),
            2 => drop(request.remove(at)),
            3 => drop(request.drain(at..(at + 20).min(request.len() - 1))),
            _ => request.extend_from_within(at..(at + 40).min(request.len())),
        }
    }
}

#[test]
fn damaged_requests_are_answered_or_dropped_and_never_end_the_client() {
    let client = Client::with(&[("LOG", "error")]);
    let body = small_form();
    let chunked = [chunks(&body, 50), b"0\r\n\r\n".to_vec()].concat();
    let requests = [
        NEXT.as_bytes().to_vec(),
        joined(&upload_head(&format!("Content-Length: {}\r\n", body.len())), &body),
        joined(&upload_head("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"), &chunked),
        b"GET /retrieve/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec(),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for number in 0..600 {
        let mut request = requests[number % requests.len()].clone();
        damage(&mut request, &mut random);
        let mut stream = connect(client.address);
        // The other end may hang up before all is sent.
        let _ = stream.write_all(&request).and_then(|()| stream.shutdown(Shutdown::Write));
        for answer in answers_to_the_end(&mut stream) {
            let shown = request.escape_ascii();
            assert!(
                [100, 200, 400, 404, 405, 411, 413, 415, 417, 431, 501, 505].contains(&answer.status),
                "{shown}"
            );
            taken += usize::from(answer.json("status").as_deref() == Some("Prepared"));
        }
    }
    // Damage inside of a file's content is none; all others are refused, and left nothing.
    assert!(taken > 0);
    wait_for("the removal of all that was refused", || (client.directories().len() == taken).then_some(()));
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.log().lines().count(), 1, "{}", client.log());
}

// --- time-outs

#[test]
fn a_stray_line_end_after_a_request_is_not_the_start_of_another() {
    // RFC 9112, section 2.2: some senders put one behind a body.
    let client = Client::with(&[("HEAD_TIMEOUT", "1"), ("IDLE_TIMEOUT", "1")]);
    assert_eq!(statuses(&conversation(client.address, format!("{NEXT}\r\n"))), [200]);
}

#[test]
fn a_head_that_does_not_come_to_its_end_in_time_is_told_408() {
    let client = Client::with(&[("HEAD_TIMEOUT", "1")]);
    for (before, start) in [("", "GET"), ("", "GET / HTTP/1.1\r\nHost: a\r\n"), (NEXT, "GET / HT")] {
        let answers = conversation(client.address, format!("{before}{start}"));
        let answer = answers.last().unwrap();
        assert_eq!(answer.error(408), "request_timeout");
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert_eq!(answers.len(), 1 + usize::from(!before.is_empty()));
    }
}

#[test]
fn a_head_that_trickles_has_no_more_time_than_another() {
    let client = Client::with(&[("HEAD_TIMEOUT", "1")]);
    let begun = Instant::now();
    let mut stream = connect(client.address);
    let mut sender = stream.try_clone().unwrap();
    let trickle = thread::spawn(move || {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(200));
        for byte in head.bytes() {
            // The client hangs up at some time, which ends this.
            if sender.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(statuses(&answers_to_the_end(&mut stream)), [408]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(stream);
    trickle.join().unwrap();
}

#[test]
fn a_body_that_stands_still_is_told_408_and_leaves_nothing() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let body = small_form();
    let half = &body[..body.len() / 2];
    let length = upload_head(&format!("Content-Length: {}\r\n", body.len()));
    let chunked = upload_head("Transfer-Encoding: chunked\r\n");
    let waiting: Vec<TcpStream> = [
        joined(&length, half),
        joined(&length, b""),
        joined(&chunked, &chunks(half, 40)),
        joined(&chunked, b"40"),
        joined(&chunked, b"40\r\nhello"),
    ]
    .iter()
    .map(|request| {
        let mut stream = connect(client.address);
        stream.write_all(request).unwrap();
        stream
    })
    .collect();
    for mut stream in waiting {
        let answers = answers_to_the_end(&mut stream);
        assert_eq!(statuses(&answers), [408]);
        assert_eq!(answers[0].error(408), "request_timeout");
    }
    assert!(client.directories().is_empty());
    client.must_be_well_and_empty("bodies that stood still");
}

#[test]
fn a_body_that_moves_slowly_is_not_taken_for_one_that_stands() {
    let client = Client::with(&[("STALL_TIMEOUT", "1"), ("HEAD_TIMEOUT", "1"), ("IDLE_TIMEOUT", "1")]);
    let body = small_form();
    let mut stream = connect(client.address);
    stream.write_all(wire::submit_head(body.len()).as_bytes()).unwrap();
    for piece in body.chunks(body.len() / 6) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(read_answer(&mut stream, false).status, 200);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let client = Client::with(&[("IDLE_TIMEOUT", "1")]);
    let begun = Instant::now();
    let mut fresh = connect(client.address);
    let mut used = connect(client.address);
    assert_eq!(get(&mut used, "/").status, 200);
    for stream in [&mut fresh, &mut used] {
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).unwrap(), 0, "{}", String::from_utf8_lossy(&rest));
    }
    assert!((900..8000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

// --- limits

#[test]
fn an_upload_over_the_limit_is_refused_by_its_length_before_its_body() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    // Not a byte of the body is sent: the answer cannot have waited for it.
    let mut stream = connect(client.address);
    stream.write_all(upload_head("Content-Length: 4000000\r\n").as_bytes()).unwrap();
    let answer = read_answer(&mut stream, false);
    assert_eq!(answer.error(413), "content_too_large");
    assert!(answer.text().contains("1000 bytes"), "{}", answer.text());
    // All of it is sent, and the answer can be read all the same.
    let body = vec![b'x'; 4_000_000];
    let request = joined(&upload_head("Content-Length: 4000000\r\n"), &body);
    let answers = conversation(client.address, [&request, NEXT.as_bytes()].concat());
    assert_eq!(statuses(&answers), [413]);
    assert!(client.directories().is_empty());
    client.must_be_well_and_empty("a large upload");
}

#[test]
fn an_upload_over_the_limit_in_chunks_is_refused_where_it_passes_it() {
    let client = Client::with(&[("MAX_UPLOAD", "100000")]);
    let form = wire::form(&[("run.sh", b"true"), ("big", &vec![b'x'; 4_000_000])]);
    let body = [chunks(&form, 16_000), b"0\r\n\r\n".to_vec(), NEXT.into()].concat();
    let answers = conversation(client.address, joined(&upload_head("Transfer-Encoding: chunked\r\n"), &body));
    assert_eq!(statuses(&answers), [413]);
    assert_eq!(answers[0].error(413), "content_too_large");
    client.wait_for_log(
        "upload refused status=413 reason=\"The upload is over MAX_UPLOAD, 100000 bytes; send less.\"",
    );
    assert!(!client.log().contains("broke off"), "{}", client.log());
    assert!(client.directories().is_empty());
    client.must_be_well_and_empty("a large upload in chunks");
}

#[test]
fn a_sender_that_goes_on_for_longer_than_it_is_listened_to_can_read_its_refusal() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    let mut stream = connect(client.address);
    stream.write_all(upload_head("Content-Length: 4000000\r\n").as_bytes()).unwrap();
    // Sends slowly until the client hangs up on it, as it must at some time, but not while it is patient.
    let begun = Instant::now();
    while stream.write_all(&[b'x'; 4096]).is_ok() {
        assert!(begun.elapsed() < 3 * PATIENCE, "the connection does not end");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(read_answer(&mut stream, false).error(413), "content_too_large");
}

/// As Python's http.client does.
#[test]
fn a_sender_that_reads_only_when_it_has_sent_all_can_read_its_refusal() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    let mut stream = connect(client.address);
    stream.write_all(upload_head("Content-Length: 100000\r\n").as_bytes()).unwrap();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(500));
        stream.write_all(&[b'x'; 10_000]).expect("it is listened to");
    }
    assert_eq!(read_answer(&mut stream, false).error(413), "content_too_large");
}

#[test]
fn a_refused_sender_that_falls_silent_is_not_listened_to_for_long() {
    let client = Client::with(&[("MAX_UPLOAD", "1000")]);
    let mut stream = connect(client.address);
    stream.write_all(upload_head("Content-Length: 100000\r\n").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).error(413), "content_too_large");
    // Each look is a silence that is long enough.
    wait_for("the end of the connection", || {
        thread::sleep(Duration::from_secs(7));
        (0..2).find_map(|_| {
            thread::sleep(Duration::from_millis(100));
            stream.write_all(b"x").err()
        })
    });
}

#[test]
fn an_answer_tells_how_long_its_connection_is_kept_and_an_encoded_body_is_refused() {
    let client = Client::with(&[("IDLE_TIMEOUT", "33s")]);
    let mut stream = connect(client.address);
    let answer = get(&mut stream, "/health");
    assert_eq!(answer.header("keep-alive").as_deref(), Some("timeout=33"));
    let head = upload_head("Content-Length: 1\r\nContent-Encoding: gzip\r\n");
    stream.write_all(format!("{head}x").as_bytes()).unwrap();
    let answer = read_answer(&mut stream, false);
    assert_eq!(answer.error(415), "content_encoding");
    let form = small_form();
    let head = upload_head(&format!("Content-Length: {}\r\nContent-Encoding: identity\r\n", form.len()));
    let answer = send(client.address, joined(&head, &form));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn an_upload_of_just_the_limit_is_taken() {
    let body = small_form();
    let chunked = [chunks(&body, 64), b"0\r\n\r\n".to_vec()].concat();
    for (limit, status) in [(body.len(), 200), (body.len() - 1, 413)] {
        let client = Client::with(&[("MAX_UPLOAD", &limit.to_string())]);
        for (framing, body) in [
            (format!("Content-Length: {}\r\n", body.len()), &body),
            ("Transfer-Encoding: chunked\r\n".to_owned(), &chunked),
        ] {
            // Small enough to be read away: the connection goes on.
            let request = [&joined(&upload_head(&framing), body), LAST.as_bytes()].concat();
            let answers = conversation(client.address, request);
            assert_eq!(statuses(&answers), [status, 200], "{framing}");
        }
    }
}

#[test]
fn a_connection_above_the_limit_is_told_503_until_another_ends() {
    let client = Client::with(&[("MAX_CONNECTIONS", "2")]);
    let mut first = connect(client.address);
    let mut second = connect(client.address);
    assert_eq!(get(&mut first, "/").status, 200);
    assert_eq!(get(&mut second, "/").status, 200);
    for _ in 0..3 {
        let answers = conversation(client.address, NEXT);
        assert_eq!(statuses(&answers), [503]);
        assert_eq!(answers[0].error(503), "too_many_connections");
        assert_eq!(answers[0].header("retry-after").as_deref(), Some("1"));
        assert_eq!(answers[0].header("connection").as_deref(), Some("close"));
    }
    // Those that are inside notice nothing.
    assert_eq!(get(&mut first, "/").status, 200);
    assert_eq!(get(&mut second, "/").status, 200);
    drop(first);
    wait_for("a free place", || (client.get("/").status == 200).then_some(()));
    assert_eq!(get(&mut second, "/").status, 200);
}

/// Each that is refused is waited for a moment, so that it can read why; a crowd that says nothing must not use that up.
#[test]
fn a_connection_above_the_limit_is_told_503_beside_a_crowd_that_says_nothing() {
    let client = Client::with(&[("MAX_CONNECTIONS", "2")]);
    let crowd: Vec<TcpStream> = (0..300).map(|_| connect(client.address)).collect();
    for _ in 0..64 {
        let answer = try_send(client.address, NEXT).expect("an answer");
        assert_eq!(answer.error(503), "too_many_connections");
    }
    // The others were told, too, without having asked.
    for mut stream in crowd.into_iter().skip(2) {
        assert_eq!(read_answer(&mut stream, false).error(503), "too_many_connections");
    }
}

#[test]
fn hundreds_of_idle_connections_do_not_stand_in_the_way() {
    let client = Client::start();
    let mut idle: Vec<TcpStream> = (0..300).map(|_| connect(client.address)).collect();
    assert_eq!(client.get("/").status, 200);
    for stream in &mut idle {
        assert_eq!(get(stream, "/").status, 200);
    }
}

#[test]
fn a_peer_that_vanishes_at_any_point_does_no_harm() {
    let client = Client::start();
    let body = small_form();
    let request = joined(&upload_head(&format!("Content-Length: {}\r\n", body.len())), &body);
    for end in (0..request.len()).step_by(5) {
        let mut stream = connect(client.address);
        // An answer that nobody reads makes the kernel send a reset at the drop.
        stream.write_all(NEXT.as_bytes()).unwrap();
        stream.write_all(&request[..end]).unwrap();
    }
    wait_for("the removal of all that was cut off", || client.directories().is_empty().then_some(()));
    client.must_be_well_and_empty("peers that vanished");
}

#[test]
fn a_submit_without_a_body_or_without_a_form_is_told_what_is_missing() {
    let client = Client::start();
    let form = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
    for (fields, status, code) in [
        (form.as_str(), 411, "length_required"),
        ("X: y", 411, "length_required"),
        (&format!("{form}\r\nContent-Length: 0"), 400, "multipart_incomplete"),
        ("Content-Length: 0", 415, "not_multipart"),
        ("Content-Type: application/json\r\nContent-Length: 0", 415, "not_multipart"),
        ("Content-Type: multipart/mixed; boundary=x\r\nContent-Length: 0", 415, "not_multipart"),
        ("Content-Type: multipart/form-data\r\nContent-Length: 0", 400, "bad_boundary"),
        ("Content-Type: multipart/form-data; boundary=\r\nContent-Length: 0", 400, "bad_boundary"),
    ] {
        let head = format!("POST /submit HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let answers = conversation(client.address, format!("{head}{LAST}"));
        assert_eq!(statuses(&answers), [status, 200], "{fields}");
        assert_eq!(answers[0].error(status), code, "{fields}");
    }
    assert!(client.directories().is_empty());
}
