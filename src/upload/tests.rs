//! Tests of `receive` as its caller sees it: bodies in, files or nothing out.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Error, ErrorKind};
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::HEAD_LIMIT_BYTES;
use super::testing::{BOUNDARY, Files, Place, form, named, pieces};
use super::*;

fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect()
}

/// A form of every kind of part, its files, and the length up to and with the final boundary.
fn sample() -> (Vec<u8>, Files, usize) {
    let mut body = b"a preamble\r\n".to_vec();
    body.extend(form(&[
        (&named("run.sh"), b"#!/bin/sh\ncat d/e/in.txt\n"),
        ("form-data; name=\"user_id\"", b"1"),
        ("form-data; name*=utf-8''d%2Fe%2Fin.txt; filename=\"in.txt\"", b"line\r\n--\r\n-"),
        (&named("empty"), b""),
    ]));
    let end = body.len() - 2;
    body.extend(b"an epilogue");
    let expected = files(&[
        ("d/", b""),
        ("d/e/", b""),
        ("d/e/in.txt", b"line\r\n--\r\n-"),
        ("empty", b""),
        ("run.sh", b"#!/bin/sh\ncat d/e/in.txt\n"),
    ]);
    (body, expected, end)
}

#[test]
fn a_form_becomes_files_however_it_is_cut_into_pieces() {
    let (body, expected, _) = sample();
    for piece_bytes in (1..40).chain([100, body.len()]) {
        let place = Place::new();
        let received = place.receive(pieces(&body, piece_bytes)).unwrap();
        assert_eq!(received, Received { files: 3, bytes: 36, fields: 1 });
        assert_eq!(place.files(), expected, "{piece_bytes}");
    }
}

#[test]
fn pieces_may_be_empty() {
    let (body, expected, _) = sample();
    let place = Place::new();
    let body = pieces(&body, 3).flat_map(|piece| [Ok(Bytes::new()), piece]);
    place.receive(body).unwrap();
    assert_eq!(place.files(), expected);
}

#[test]
fn a_body_that_ends_early_at_any_byte_leaves_nothing() {
    let (body, _, end) = sample();
    for piece_bytes in [1, 7, body.len()] {
        for cut in 0..end {
            let place = Place::new();
            let error = place.receive(pieces(&body[..cut], piece_bytes)).unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (Kind::Sender, "multipart_incomplete"),
                "{cut} by {piece_bytes}: {error}"
            );
            assert!(place.is_empty(), "{cut} by {piece_bytes}");
        }
        for cut in end..body.len() {
            assert!(Place::new().receive(pieces(&body[..cut], piece_bytes)).is_ok(), "{cut}");
        }
    }
}

#[test]
fn a_body_that_breaks_off_at_any_byte_leaves_nothing_and_says_how() {
    let (body, _, _) = sample();
    for piece_bytes in [1, body.len()] {
        for cut in 0..=body.len() {
            let place = Place::new();
            let broken = pieces(&body[..cut], piece_bytes)
                .chain(iter::once_with(|| Err(Error::from(ErrorKind::ConnectionReset))));
            let error = place.receive(broken).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Interrupted, "body_interrupted"));
            let UploadError::ReadBody { source } = error else {
                unreachable!("{error}");
            };
            assert_eq!(source.kind(), ErrorKind::ConnectionReset);
            assert!(place.is_empty(), "{cut} by {piece_bytes}");
        }
    }
}

#[test]
fn the_body_is_read_to_its_end_and_not_beyond() {
    let (body, _, _) = sample();
    let epilogue = vec![b'x'; 100_000];
    let given = AtomicUsize::new(0);
    let mut rest = pieces(&body, 5).chain(pieces(&epilogue, 1000));
    let mut ended = false;
    let counted = iter::from_fn(|| {
        assert!(!ended, "asked again after the end");
        let piece = rest.next();
        ended = piece.is_none();
        given.fetch_add(1, Ordering::Relaxed);
        piece
    });
    Place::new().receive(counted).unwrap();
    assert!(ended);
    assert_eq!(given.into_inner(), body.len().div_ceil(5) + 100 + 1);
}

#[test]
fn look_alikes_of_the_boundary_are_content() {
    let content = [
        "\r\n--XBOUNDARY",
        "\r\n--XBOUNDARYY\r\n",
        "\r\n-XBOUNDARYX\r\n",
        "\n--XBOUNDARYX\r\n",
        "\r--XBOUNDARYX--",
        "\r\n --XBOUNDARYX",
        "\r\n\r\n--\r\n--X\r\r\n--XB\r",
        "\r\n--xboundaryx",
        "\r\n\r\n\r\n\r\n",
        "\r\n--XBOUNDARY",
    ]
    .concat();
    let body = form(&[(&named("a"), content.as_bytes()), (&named("b"), b"\r")]);
    for piece_bytes in (1..60).chain([body.len()]) {
        let place = Place::new();
        place.receive(pieces(&body, piece_bytes)).unwrap();
        let expected = files(&[("a", content.as_bytes()), ("b", b"\r")]);
        assert_eq!(place.files(), expected, "{piece_bytes}");
    }
}

#[test]
fn a_body_that_is_not_multipart_is_refused() {
    for (body, code) in [
        (&b""[..], "multipart_incomplete"),
        (b"{\"a\":1}", "multipart_incomplete"),
        (b"--OTHER\r\n\r\n\r\n--OTHER--\r\n", "multipart_incomplete"),
        (b"--XBOUNDARYX--\r\n", "no_files"),
        (b"--XBOUNDARYX--", "no_files"),
        (b"--XBOUNDARYX???", "multipart_malformed"),
        (b"--XBOUNDARYX\n\n\n", "multipart_malformed"),
        (b"--XBOUNDARYX\r\nno header\r\n\r\n\r\n--XBOUNDARYX--\r\n", "multipart_malformed"),
        (b"--XBOUNDARYX\r\nContent-Disposition: \x01\r\n\r\n\r\n--XBOUNDARYX--\r\n", "multipart_malformed"),
        (b"--XBOUNDARYX\r\nX: y\r\n\r\n\r\n--XBOUNDARYX--\r\n", "bad_part_header"),
        (b"--XBOUNDARYX\r\n\r\nno headers\r\n\r\n--XBOUNDARYX--\r\n", "bad_part_header"),
    ] {
        for piece_bytes in [1, 1000] {
            let place = Place::new();
            let error = place.receive(pieces(body, piece_bytes)).unwrap_err();
            assert_eq!(error.code(), code, "{}: {error}", body.escape_ascii());
            assert_eq!(error.kind(), Kind::Sender);
            assert!(place.is_empty());
        }
    }
}

/// Gives `head`, then `line` for ever, and counts the bytes.
fn flood<'a>(
    head: &'a str,
    line: &'static str,
    piece_bytes: usize,
    given: &'a AtomicUsize,
) -> impl Iterator<Item = io::Result<Bytes>> + Send + 'a {
    let mut bytes = head.bytes().chain(line.bytes().cycle());
    iter::from_fn(move || {
        given.fetch_add(piece_bytes, Ordering::Relaxed);
        Some(Ok(bytes.by_ref().take(piece_bytes).collect()))
    })
}

#[test]
fn a_flood_before_a_part_ends_soon() {
    let head = format!("--{BOUNDARY}\r\n");
    let second = format!("--{BOUNDARY}\r\nContent-Disposition: {}\r\n\r\nx\r\n--{BOUNDARY}\r\n", named("a"));
    for (head, line, part) in [
        ("", "a preamble\r\n", 1),
        ("", "\r\n--XBOUNDARY", 1),
        (&head, "X-Header: x\r\n", 1),
        (&head, "x", 1),
        (&head[..head.len() - 2], " ", 1),
        (&second, "X-Header: x\r\n", 2),
    ] {
        for piece_bytes in [1, 1000, 65536] {
            let given = AtomicUsize::new(0);
            let place = Place::new();
            let error = place.receive(flood(head, line, piece_bytes, &given)).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Sender, "part_head_too_long"));
            assert!(error.to_string().contains(&format!("part {part} ")), "{error}");
            // One piece may hold the end of the part before, another the end of the limit.
            let limit = head.len() + HEAD_LIMIT_BYTES + 2 * piece_bytes;
            assert!(given.into_inner() <= limit, "{line:?} by {piece_bytes}");
            assert!(place.is_empty());
        }
    }
}

#[test]
fn the_limit_on_headers_does_not_depend_on_the_pieces() {
    for (header_bytes, taken) in [(HEAD_LIMIT_BYTES - 1024, true), (HEAD_LIMIT_BYTES, false)] {
        let disposition = format!("{}; x={}", named("b"), "x".repeat(header_bytes));
        let body = form(&[(&named("a"), b"1"), (&disposition, b"2")]);
        for piece_bytes in [1, 1000, 65536] {
            let place = Place::new();
            let received = place.receive(pieces(&body, piece_bytes));
            let code = received.map_err(|error| error.code());
            let expected = Received { files: 2, bytes: 2, fields: 0 };
            let expected = if taken { Ok(expected) } else { Err("part_head_too_long") };
            assert_eq!(code, expected, "{header_bytes} by {piece_bytes}");
        }
    }
}

#[test]
fn the_limit_on_a_preamble_does_not_depend_on_the_pieces() {
    for (preamble_bytes, taken) in [(HEAD_LIMIT_BYTES - 1024, true), (HEAD_LIMIT_BYTES, false)] {
        let body = [vec![b'x'; preamble_bytes], form(&[(&named("a"), b"1")])].concat();
        for piece_bytes in [1, 1000, 65536] {
            let received = Place::new().receive(pieces(&body, piece_bytes));
            assert_eq!(received.is_ok(), taken, "{preamble_bytes} by {piece_bytes}");
        }
    }
}

#[test]
fn no_more_of_a_large_file_is_in_memory_than_two_pieces() {
    const PIECE_BYTES: usize = 65536;
    const PIECES: usize = 1024;
    let place = Place::new();
    let path = place.directory().join("large");
    let (head, tail) = around("large");
    let piece = Bytes::from(vec![b'\r'; PIECE_BYTES]);
    let mut given = 0;
    let middle = iter::repeat_n(piece, PIECES).inspect(|piece| {
        let written = fs::metadata(&path).map_or(0, |file| file.len());
        assert!(given - written <= 2 * PIECE_BYTES as u64, "{given} {written}");
        given += piece.len() as u64;
    });
    let body = iter::once(head).chain(middle).chain(iter::once(tail));
    let received = place.receive(body.map(Ok)).unwrap();
    assert_eq!(received.bytes, (PIECE_BYTES * PIECES) as u64);
}

#[test]
fn no_more_of_many_small_files_is_in_memory_than_two_pieces() {
    const PIECE_BYTES: usize = 65536;
    let names: Vec<String> = (0..5000).map(|number| named(&number.to_string())).collect();
    let parts: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let body = form(&parts);
    let part_bytes = body.len() / parts.len();
    let place = Place::new();
    let directory = place.directory();
    let mut given = 0;
    let body = pieces(&body, PIECE_BYTES).inspect(|_| {
        let written = fs::read_dir(&directory).unwrap().count() * part_bytes;
        assert!(given <= written + 2 * PIECE_BYTES, "{given} {written}");
        given += PIECE_BYTES;
    });
    assert_eq!(place.receive(body).unwrap().files, 5000);
}

#[test]
fn one_huge_piece_is_taken() {
    let content = vec![b'x'; 3_000_000];
    let body = form(&[(&named("a"), &content), (&named("b"), &content)]);
    let place = Place::new();
    place.receive(iter::once(Ok(Bytes::from(body)))).unwrap();
    assert!(place.files() == files(&[("a", &content), ("b", &content)]));
}

/// What stands before and after the content of a form's only file.
fn around(name: &str) -> (Bytes, Bytes) {
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: {}\r\n\r\n", named(name));
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    (head.into(), tail.into())
}

#[test]
fn values_of_wanted_fields_are_given_and_others_are_passed_over() {
    let long = [b'1'; 1000];
    let body = form(&[
        ("form-data; name=\"time_limit\"", b"2h"),
        (&named("run.sh"), b"echo"),
        ("form-data; name=\"user_id\"", b"1"),
        ("form-data; name=\"job_cpus\"", &long),
        ("form-data; name=\"time_limit\"", b""),
        ("form-data; name=\"time_limit\"; filename=\"time_limit\"", b"a file"),
    ]);
    for piece_bytes in [1, 7, body.len()] {
        let place = Place::new();
        let mut wanted = Wanted::of(&["time_limit", "job_cpus"]);
        let received =
            receive(pieces(&body, piece_bytes), BOUNDARY, &place.directory(), false, &mut wanted).unwrap();
        assert_eq!(received, Received { files: 2, bytes: 10, fields: 1 });
        let cut = "1".repeat(VALUE_BYTES);
        let expected = [("time_limit", "2h"), ("job_cpus", &cut), ("time_limit", "")];
        assert_eq!(wanted.values().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn plain_fields_alone_are_no_files() {
    let large = vec![b'x'; 100_000];
    let place = Place::new();
    let body = form(&[("form-data; name=\"a\"", &large), ("form-data; name=\"b/c\"", b"")]);
    let error = place.receive(pieces(&body, 4096)).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Sender, "no_files"));
    assert!(place.is_empty());
}

#[test]
fn a_bad_part_is_named_and_takes_the_good_ones_before_it_along() {
    let long = named(&"x".repeat(256));
    for (disposition, code, quoted) in [
        (named("../a"), "bad_path", r#"the name "../a" has a component `..`"#),
        (named("/etc/a"), "bad_path", r#""/etc/a" is an absolute path"#),
        (named(""), "bad_path", r#""" is empty"#),
        (named("d//e"), "bad_path", r#""d//e" has an empty component, by a slash too many"#),
        (named(".orchestrator.exit"), "bad_path", "reserved prefix"),
        (long, "bad_path", "has a component of 256 bytes, and 255 are the most"),
        (named("./a"), "bad_path", r#""./a" has a component `.`; leave that out"#),
        (named(r"C:\dir\run.sh"), "bad_path", "is a path of Windows with its drive"),
        (named(r"dir\run.sh"), "bad_path", "holds a backslash; separate directories by `/`"),
        (named("a\tb"), "bad_path", r#""a\tb" holds the control character U+0009"#),
        (
            named("a\x01b"),
            "multipart_malformed",
            "a header has a control character, most likely in its file name",
        ),
        (named("a\nb"), "multipart_malformed", "or a line end in a file name"),
        (
            named("a\rb"),
            "multipart_malformed",
            "a header has a control character, most likely in its file name",
        ),
        (
            named("a\x7fb"),
            "multipart_malformed",
            "a header has a control character, most likely in its file name",
        ),
        (named("a%0Ab"), "bad_path", "holds the control character U+000A"),
        ("form-data; name=\"x/../../a\"; filename=\"a\"".into(), "bad_path", r#""x/../../a""#),
        (
            "form-data; filename*=utf-8''a%00b".into(),
            "bad_path",
            r#""a\0b" holds the control character U+0000"#,
        ),
        (
            "form-data; filename*=utf-8''%ff".into(),
            "bad_part_header",
            r#"''%ff" has a name that is not UTF-8"#,
        ),
        ("form-data; filename=\"a".into(), "bad_part_header", r#""form-data; filename=\"a""#),
        (named("d/first"), "duplicate_path", r#"the path "d/first" is given twice"#),
        (named("d"), "path_conflict", r#"the path "d" needs"#),
        (named("d/first/x"), "path_conflict", r#"the path "d/first/x" needs"#),
    ] {
        let place = Place::new();
        let body = form(&[(&named("d/first"), b"1"), (&disposition, b"2")]);
        let error = place.receive(pieces(&body, 1000)).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Sender, code), "{disposition}");
        let message = error.to_string();
        assert!(message.starts_with("part 2: ") && message.contains(quoted), "{message}");
        assert!(place.is_empty(), "{disposition}");
    }
}

#[test]
fn a_part_whose_content_would_have_to_be_decoded_is_refused() {
    for (header, value, is_taken) in [
        ("Content-Transfer-Encoding", "base64", false),
        ("content-transfer-encoding", " Quoted-Printable ", false),
        ("Content-Transfer-Encoding", "x-uuencode", false),
        ("Content-Transfer-Encoding", "binary", true),
        ("Content-Transfer-Encoding", "8BIT", true),
        ("Content-Transfer-Encoding", "7bit", true),
        ("Content-Encoding", "gzip", false),
        ("Content-Encoding", "identity", true),
    ] {
        let place = Place::new();
        let body = form(&[(&format!("{}\r\n{header}: {value}", named("a")), b"eA==")]);
        match place.receive(pieces(&body, 1000)) {
            Ok(_) => assert!(is_taken, "{header}: {value}"),
            Err(error) => {
                assert_eq!((is_taken, error.kind(), error.code()), (false, Kind::Sender, "encoded_part"));
                let told = format!("part 1: its {header} is {:?}", value.trim());
                assert!(error.to_string().to_lowercase().starts_with(&told.to_lowercase()), "{error}");
            }
        }
    }
}

#[test]
fn a_file_field_that_was_left_empty_is_passed_over() {
    let empty = named("");
    let encoded = format!("{}\r\nContent-Transfer-Encoding: base64", named(""));
    let body = form(&[(&empty, b""), (&named("run.sh"), b"x"), (&encoded, b"")]);
    for piece_bytes in [1, 5, 1000] {
        let place = Place::new();
        let received = place.receive(pieces(&body, piece_bytes)).unwrap();
        assert_eq!(received, Received { files: 1, bytes: 1, fields: 2 });
        assert_eq!(place.files(), files(&[("run.sh", b"x")]));
    }
    let error = Place::new().receive(pieces(&form(&[(&empty, b"")]), 100)).unwrap_err();
    assert!(error.to_string().contains("no part with a file name (1 without)"), "{error}");
}

#[test]
fn a_boundary_in_the_middle_of_a_line_of_the_preamble_and_a_folded_header_are_told() {
    for (body, told) in [
        ("see --XBOUNDARYX in a line\r\n", "part 1: it is not laid out as RFC 7578 wants it"),
        (
            "--XBOUNDARYX\r\nContent-Disposition: form-data;\r\n name=a\r\n\r\nx\r\n--XBOUNDARYX--",
            "part 1: a line among the headers is none, such as a header in two lines",
        ),
    ] {
        for piece_bytes in [1, 7, 1000] {
            let place = Place::new();
            let error = place.receive(pieces(body.as_bytes(), piece_bytes)).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Sender, "multipart_malformed"));
            assert!(error.to_string().starts_with(told), "{error}");
        }
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_the_disks_fault() {
    let place = Place::new();
    let (body, ..) = sample();
    for directory in [place.directory().join("no/parent"), "/proc/payload".into(), "/dev/null/payload".into()]
    {
        let error =
            receive(pieces(&body, 100), BOUNDARY, &directory, false, &mut Wanted::default()).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Disk, "disk_error"));
        assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_directory_that_was_there_before_is_left_alone() {
    let place = Place::new();
    let (body, ..) = sample();
    fs::create_dir(place.directory()).unwrap();
    fs::write(place.directory().join("results"), "of another payload").unwrap();
    let error = place.receive(pieces(&body, 100)).unwrap_err();
    assert_eq!(error.kind(), Kind::Disk);
    assert_eq!(place.files(), files(&[("results", b"of another payload")]));
}

#[test]
fn no_damage_to_a_body_makes_it_panic_or_leave_something() {
    let (body, ..) = sample();
    // xorshift: the same damage in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut damaged = body.clone();
        for _ in 0..=random(3) {
            let at = random(damaged.len());
            match random(4) {
                0 => damaged[at] = u8::try_from(random(256)).unwrap(),
                1 => damaged[at] = b"\r\n-\"\\;=%'/.\0"[random(12)],
                2 => drop(damaged.drain(at..(at + random(30)).min(body.len() - 40).max(at))),
                _ => {
                    let copy = damaged[at..(at + random(60)).min(damaged.len())].to_vec();
                    damaged.splice(at..at, copy);
                }
            }
        }
        let place = Place::new();
        match place.receive(pieces(&damaged, 1 + random(50))) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Sender, "{error}");
                assert!(place.is_empty(), "{}", damaged.escape_ascii());
                refused += 1;
            }
        }
    }
    // Damage to content alone is none of our business; damage elsewhere has to be noticed.
    assert!(taken > 100 && refused > 1000, "{taken} {refused}");
}
