//! Uploads: which names and bodies are taken, what becomes of them on disk, and that a refused one leaves nothing.

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer, BOUNDARY, answers_to_the_end, connect, end_form, form, part, submit_form};

/// A form of `run.sh` and one part with this Content-Disposition.
fn with_part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    part(&mut body, "form-data; name=\"file\"; filename=\"run.sh\"", b"true\n");
    part(&mut body, disposition, content);
    end_form(&mut body);
    body
}

fn file_named(name: &str) -> String {
    format!("form-data; name=\"file\"; filename=\"{name}\"")
}

#[track_caller]
fn must_be_refused(client: &Client, answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.error(status).as_str()), (status, code), "{what}: {}", answer.text());
    // Nothing is left by the time of the answer.
    assert_eq!(client.directories(), Vec::<PathBuf>::new(), "{what}");
    client.must_be_well_and_empty(what);
}

// --- names

#[test]
fn a_file_lies_where_its_field_name_or_file_name_says() {
    let client = Client::start();
    let (x255, deep) = ("x".repeat(255), vec!["d"; 63].join("/"));
    let wide = "\u{e9}".repeat(127);
    let rows: Vec<(String, String)> = [
        (file_named("plain.txt"), "plain.txt"),
        (file_named("in put \u{e9}.txt"), "in put \u{e9}.txt"),
        // Server 2.x: the path as field name, its last component as file name.
        ("form-data; name=\"sub/dir/a.txt\"; filename=\"a.txt\"".into(), "sub/dir/a.txt"),
        ("form-data; name=\"sub/same\"; filename=\"sub/same\"".into(), "sub/same"),
        (file_named("other/b.txt"), "other/b.txt"),
        ("form-data; name=\"sub/xa.txt\"; filename=\"own.txt\"".into(), "own.txt"),
        // Its HTTP library: an extended field name.
        ("form-data; name*=utf-8''s%20%C3%A9.txt; filename=\"s \u{e9}.txt\"".into(), "s \u{e9}.txt"),
        ("form-data; name*=utf-8''ext%2Fd.txt; filename=\"d.txt\"".into(), "ext/d.txt"),
        ("form-data; name=\"file\"; filename*=UTF-8''%C3%A9t%C3%A9.txt".into(), "\u{e9}t\u{e9}.txt"),
        ("form-data; filename=\"no.txt\"; filename*=UTF-8'en'yes.txt".into(), "yes.txt"),
        ("FORM-DATA;FileName=token.txt;NAME=x".into(), "token.txt"),
        ("form-data; filename=\"no name.txt\"".into(), "no name.txt"),
        (file_named("quote\\\".txt"), "quote\".txt"),
        (file_named("web%22.txt"), "web\".txt"),
        (file_named("percent%41%2F"), "percent%41%2F"),
        (file_named(" lead and trail "), " lead and trail "),
        (file_named("-rf"), "-rf"),
        (file_named("*"), "*"),
        (file_named("..."), "..."),
        (file_named(".hidden"), ".hidden"),
        (file_named("..a/b.."), "..a/b.."),
        (file_named("a;b=c"), "a;b=c"),
        (file_named("\u{65e5}\u{672c}\u{8a9e}"), "\u{65e5}\u{672c}\u{8a9e}"),
        (file_named("sub/run.sh"), "sub/run.sh"),
        // Reserved at the top only: results of an earlier run may be uploaded.
        (file_named("old/.orchestrator.out"), "old/.orchestrator.out"),
        (file_named(".orchestrator"), ".orchestrator"),
    ]
    .into_iter()
    .map(|(disposition, path)| (disposition, path.to_owned()))
    .chain([x255, wide, format!("{deep}/leaf")].map(|path| (file_named(&path), path)))
    .collect();
    let mut body = form(&[("run.sh", b"true\n")]);
    body.truncate(body.len() - BOUNDARY.len() - 6);
    for (number, (disposition, _)) in rows.iter().enumerate() {
        part(&mut body, disposition, format!("content {number}").as_bytes());
    }
    end_form(&mut body);
    let answer = submit_form(client.address, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = client.result(&answer.json("id").unwrap());
    let mut expected: Vec<(String, Vec<u8>)> = rows
        .into_iter()
        .enumerate()
        .map(|(number, (_, path))| (path, format!("content {number}").into_bytes()))
        .collect();
    expected.push(("run.sh".into(), b"true\n".to_vec()));
    expected.sort();
    let mut found: Vec<_> = answer
        .files()
        .into_iter()
        .filter(|(name, _)| !name.ends_with('/') && (!name.starts_with(".orchestrator.")))
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_name_that_is_not_a_plain_relative_path_is_refused_and_nothing_is_left() {
    let client = Client::start();
    let (x256, deep) = ("x".repeat(256), vec!["d"; 64].join("/"));
    let long = vec!["x".repeat(200); 20].join("/");
    for (disposition, code) in [
        (file_named(""), "bad_path"),
        (file_named(".."), "bad_path"),
        (file_named("../a"), "bad_path"),
        (file_named("a/../b"), "bad_path"),
        (file_named("a/.."), "bad_path"),
        (file_named("."), "bad_path"),
        (file_named("./a"), "bad_path"),
        (file_named("/etc/passwd"), "bad_path"),
        (file_named("/"), "bad_path"),
        (file_named("a//b"), "bad_path"),
        (file_named("a/"), "bad_path"),
        (file_named(&x256), "bad_path"),
        (file_named(&format!("a/{x256}/b")), "bad_path"),
        (file_named(&"\u{e9}".repeat(128)), "bad_path"),
        (file_named(&format!("{deep}/leaf")), "bad_path"),
        (file_named(&long), "bad_path"),
        (file_named(".orchestrator.exit"), "bad_path"),
        (file_named(".orchestrator."), "bad_path"),
        (file_named(".orchestrator.x/y"), "bad_path"),
        (file_named("C:\\dir\\run.sh"), "bad_path"),
        (file_named("dir\\run.sh"), "bad_path"),
        (file_named("new%0Aline"), "bad_path"),
        (file_named("a\tb"), "bad_path"),
        (file_named("a\x01b"), "multipart_malformed"),
        (file_named("a\x7fb"), "multipart_malformed"),
        ("form-data; filename*=utf-8''a%00b".into(), "bad_path"),
        ("form-data; filename*=utf-8''..%2Fa".into(), "bad_path"),
        ("form-data; filename*=utf-8''".into(), "bad_path"),
        ("form-data; filename=\"good\"; filename*=utf-8''%2Fbad".into(), "bad_path"),
        ("form-data; name=\"/etc/passwd\"; filename=\"passwd\"".into(), "bad_path"),
        ("form-data; name=\"../a\"; filename=\"a\"".into(), "bad_path"),
        ("form-data; name=\"a/\"; filename=\"\"".into(), "bad_path"),
        (file_named("a\0b"), "multipart_malformed"),
        (file_named("run.sh"), "duplicate_path"),
        (file_named("run.sh/a"), "path_conflict"),
        ("form-data; filename=\"a".into(), "bad_part_header"),
        ("form-data; filename=\"a\"; filename=\"b\"".into(), "bad_part_header"),
        ("form-data; filename*=utf-8''%E9".into(), "bad_part_header"),
        ("form-data; filename*=koi8-r''a".into(), "bad_part_header"),
        ("form-data; filename*0=\"a\"; filename*1=\"b\"".into(), "bad_part_header"),
        ("attachment; filename=\"a\"".into(), "bad_part_header"),
    ] {
        let answer = submit_form(client.address, &with_part(&disposition, b"bad"));
        must_be_refused(&client, &answer, 400, code, &disposition);
    }
}

#[test]
fn two_parts_may_not_claim_one_path() {
    let client = Client::start();
    for (files, code) in [
        (&["a", "b", "a"][..], "duplicate_path"),
        (&["d/a", "d/a"], "duplicate_path"),
        (&["a", "a/b"], "path_conflict"),
        (&["a/b", "a"], "path_conflict"),
        (&["a/b/c", "a/b"], "path_conflict"),
    ] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, &b"x"[..])).collect();
        let answer = submit_form(client.address, &form(&files));
        must_be_refused(&client, &answer, 400, code, &format!("{files:?}"));
    }
}

#[test]
fn a_name_of_a_sender_cannot_break_the_answer() {
    let client = Client::start();
    for name in [
        "/a%22b\\c",
        "/<script>&amp;",
        "/\u{9b}31m\u{202e}\u{e9}",
        "/%0D%0AX: y",
        &format!("/{}", "\u{1f600}".repeat(500)),
    ] {
        let answer = submit_form(client.address, &with_part(&file_named(name), b"x"));
        // `error` parses the JSON.
        must_be_refused(&client, &answer, 400, "bad_path", name);
        assert!(answer.body.len() < 1500, "{}", answer.text());
    }
}

// --- modes and contents

#[test]
fn scripts_programs_and_run_sh_are_executable_and_nothing_else_is() {
    let client = Client::start();
    let rows: [(&str, &[u8], u32); 11] = [
        ("run.sh", b"echo no hash-bang", 0o755),
        ("script", b"#!/bin/sh\n", 0o755),
        ("shortest", b"#!", 0o755),
        ("sub/tool.py", b"#!/usr/bin/env python3\n", 0o755),
        ("elf", b"\x7fELF\x02\x01\x01", 0o755),
        ("sub/run.sh", b"echo", 0o644),
        ("half-elf", b"\x7fEL", 0o644),
        ("hash", b"#", 0o644),
        ("later.txt", b"\n#!/bin/sh\n", 0o644),
        ("empty", b"", 0o644),
        ("data.bin", &[0xff; 300], 0o644),
    ];
    let files: Vec<(&str, &[u8])> = rows.iter().map(|row| (row.0, row.1)).collect();
    let id = client.submit(&files);
    let answer = client.result(&id);
    let directory = client.directories().remove(0);
    let on_disk = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (name, content, mode) in rows {
        assert_eq!(on_disk(&directory.join(name)), mode, "{name}");
        assert_eq!(answer.mode(name), mode, "{name} in the ZIP");
        assert_eq!(fs::read(directory.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!((on_disk(&directory), on_disk(&directory.join("sub"))), (0o755, 0o755));
    assert_eq!(answer.mode("sub/"), 0o755);
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(crate::client::binary());
    command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(home.path());
    let client = Client::spawn(command, home.path());
    let id = client.submit(&[("run.sh", b"true"), ("sub/a.txt", b"a"), ("sub/b", b"#!")]);
    let answer = client.result(&id);
    let modes = ["run.sh", "sub/", "sub/a.txt", "sub/b"].map(|name| answer.mode(name));
    assert_eq!(modes, [0o755, 0o755, 0o644, 0o755]);
}

#[test]
fn contents_come_through_unchanged() {
    let client = Client::start();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    // Everything that looks like an end of a part, and is none.
    let tricky = format!("\r\n--\r\n--{}\r\n-{BOUNDARY}--\r\n\r\n--{BOUNDARY_START}\r\n", &BOUNDARY[..30]);
    let contents: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("line-end", b"\r\n"),
        ("line-ends", b"\n\r\r\n\r\n"),
        ("dashes", b"--"),
        ("tricky", tricky.as_bytes()),
        ("large", &large),
    ];
    let mut files = vec![("run.sh", &b"true"[..])];
    files.extend(contents);
    let answer = client.result(&client.submit(&files));
    let found = answer.files();
    for (name, content) in contents {
        let file = found.iter().find(|file| file.0 == name).unwrap();
        assert!(file.1 == content, "{name}: {} of {} bytes", file.1.len(), content.len());
    }
}

const BOUNDARY_START: &str = "----test-boundary";

#[test]
fn plain_form_fields_are_ignored() {
    let client = Client::start();
    let mut body = Vec::new();
    part(&mut body, "form-data; name=\"user_id\"", b"1");
    part(&mut body, "form-data; name=\"../../evil\"", &vec![b'x'; 100_000]);
    part(&mut body, "form-data; name=\"run.sh\"", b"exit 1");
    part(&mut body, "form-data; name=\"file\"; filename=\"run.sh\"", b"true");
    part(&mut body, "form-data", b"");
    end_form(&mut body);
    let answer = submit_form(client.address, &body);
    let answer = client.result(&answer.json("id").unwrap());
    assert_eq!(answer.file("run.sh"), "true");
    let names: Vec<String> = answer.files().into_iter().map(|file| file.0).collect();
    assert!(names.iter().all(|name| name == "run.sh" || name.starts_with(".orchestrator.")), "{names:?}");
}

#[test]
fn a_form_may_have_what_the_standard_allows_around_its_parts() {
    let client = Client::start();
    let disposition = file_named("run.sh");
    for (what, content_type, body) in [
        (
            "a preamble and an epilogue",
            "B",
            format!(
                "hello\r\n--B\r\nContent-Disposition: {disposition}\r\n\r\ntrue\r\n--B--\r\nbye\r\n--B\r\n"
            ),
        ),
        (
            "a file field that was left empty",
            "B",
            format!(
                "--B\r\nContent-Disposition: form-data; name=f; filename=\"\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\r\n--B\r\nContent-Disposition: {disposition}\r\n\r\ntrue\r\n--B--\r\n"
            ),
        ),
        (
            "no line end at the end",
            "B",
            format!("--B\r\nContent-Disposition: {disposition}\r\n\r\ntrue\r\n--B--"),
        ),
        (
            "white space after the boundary",
            "B",
            format!("--B \t\r\nContent-Disposition: {disposition}\r\n\r\ntrue\r\n--B--\r\n"),
        ),
        (
            "other headers",
            "B",
            format!(
                "--B\r\nX-A: b\r\ncontent-type: text/x-sh\r\nCONTENT-DISPOSITION: {disposition}\r\nContent-Transfer-Encoding: binary\r\n\r\ntrue\r\n--B--\r\n"
            ),
        ),
        (
            "a quoted boundary",
            "\"a b:c\"; charset=utf-8",
            format!("--a b:c\r\nContent-Disposition: {disposition}\r\n\r\ntrue\r\n--a b:c--\r\n"),
        ),
    ] {
        let answer = post(&client, &format!("multipart/form-data; boundary={content_type}"), body.as_bytes());
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert_eq!(client.result(&answer.json("id").unwrap()).file("run.sh"), "true", "{what}");
    }
}

/// Submits with a Content-Type of the test's own.
fn post(client: &Client, content_type: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /submit HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    wire::send(client.address, [head.as_bytes(), body].concat())
}

// --- bad bodies

#[test]
fn an_encoded_part_is_refused_and_told() {
    let client = Client::start();
    for (header, value) in [
        ("Content-Transfer-Encoding", "base64"),
        ("Content-Transfer-Encoding", "quoted-printable"),
        ("Content-Encoding", "gzip"),
    ] {
        let disposition = format!("{}\r\n{header}: {value}", file_named("run.sh"));
        let answer = submit_form(client.address, &with_part(&disposition, b"dHJ1ZQ=="));
        must_be_refused(&client, &answer, 400, "encoded_part", value);
        assert!(answer.text().contains(header) && answer.text().contains(value), "{}", answer.text());
    }
}

#[test]
fn a_form_without_a_file_is_refused() {
    let client = Client::start();
    let mut fields = Vec::new();
    part(&mut fields, "form-data; name=\"run.sh\"", b"true");
    end_form(&mut fields);
    let mut empty = Vec::new();
    end_form(&mut empty);
    for (what, body) in [("plain fields", &fields), ("nothing", &empty)] {
        must_be_refused(&client, &submit_form(client.address, body), 400, "no_files", what);
    }
}

#[test]
fn a_form_that_is_not_laid_out_as_one_is_refused() {
    let client = Client::start();
    let good = "Content-Disposition: form-data; name=\"file\"; filename=\"run.sh\"\r\n\r\ntrue\r\n";
    let long = "x".repeat(20_000);
    for (what, content_type, status, code, body) in [
        ("no type", "", 415, "not_multipart", format!("--B\r\n{good}--B--\r\n")),
        ("JSON", "application/json", 415, "not_multipart", "{}".into()),
        ("no boundary", "multipart/form-data", 400, "bad_boundary", format!("--B\r\n{good}--B--\r\n")),
        (
            "an empty boundary",
            "multipart/form-data; boundary=",
            400,
            "bad_boundary",
            format!("--\r\n{good}----\r\n"),
        ),
        (
            "two boundaries",
            "multipart/form-data; boundary=B; boundary=C",
            400,
            "bad_boundary",
            format!("--B\r\n{good}--B--\r\n"),
        ),
        (
            "another boundary",
            "multipart/form-data; boundary=C",
            400,
            "multipart_incomplete",
            format!("--B\r\n{good}--B--\r\n"),
        ),
        (
            "another boundary, much body",
            "multipart/form-data; boundary=C",
            400,
            "part_head_too_long",
            format!("--B\r\n{good}{long}{long}--B--\r\n"),
        ),
        (
            "no disposition",
            "multipart/form-data; boundary=B",
            400,
            "bad_part_header",
            "--B\r\nX: y\r\n\r\ntrue\r\n--B--\r\n".into(),
        ),
        (
            "a bad header",
            "multipart/form-data; boundary=B",
            400,
            "multipart_malformed",
            format!("--B\r\nno colon\r\n{good}--B--\r\n"),
        ),
        (
            "a header beyond any",
            "multipart/form-data; boundary=B",
            400,
            "part_head_too_long",
            format!("--B\r\nX: {long}\r\n{good}--B--\r\n"),
        ),
        (
            "bare line feeds",
            "multipart/form-data; boundary=B",
            400,
            "multipart_malformed",
            format!("--B\n{}--B--\n", good.replace('\r', "")),
        ),
        (
            "no last boundary",
            "multipart/form-data; boundary=B",
            400,
            "multipart_incomplete",
            format!("--B\r\n{good}--B\r\n"),
        ),
        (
            "no boundary after the content",
            "multipart/form-data; boundary=B",
            400,
            "multipart_incomplete",
            format!("--B\r\n{good}"),
        ),
        ("an empty body", "multipart/form-data; boundary=B", 400, "multipart_incomplete", String::new()),
    ] {
        must_be_refused(&client, &post(&client, content_type, body.as_bytes()), status, code, what);
    }
}

#[test]
fn every_beginning_of_a_form_is_refused_as_incomplete() {
    let client = Client::start();
    let body = form(&[("run.sh", b"true\n"), ("sub/a.txt", b"a\r\nb")]);
    // The line end after the last boundary is not asked for.
    for end in 0..body.len() - 2 {
        let answer = submit_form(client.address, &body[..end]);
        assert_eq!(answer.error(400), "multipart_incomplete", "{end}: {}", answer.text());
        assert!(client.directories().is_empty(), "{end}");
    }
    client.must_be_well_and_empty("forms that were cut");
}

#[test]
fn an_upload_that_breaks_off_leaves_no_file_no_row_and_takes_no_id() {
    let client = Client::start();
    let id = |client: &Client| client.run("true").parse::<u32>().unwrap();
    let first = id(&client);
    client.result(&first.to_string());
    let body = form(&[("run.sh", b"true\n"), ("sub/a.txt", &vec![b'x'; 200_000]), ("b.txt", b"b")]);
    let cuts =
        [0, 1, 30, 90, 130, 200, 400, 70_000, 150_000, body.len() - 60, body.len() - 5, body.len() - 1];
    let send = |cut: usize| {
        let mut stream = connect(client.address);
        stream.write_all(wire::submit_head(body.len()).as_bytes()).unwrap();
        stream.write_all(&body[..cut]).unwrap();
        stream
    };
    // Half of the connection stays open: the answer can be read.
    for cut in cuts {
        let mut stream = send(cut);
        stream.shutdown(Shutdown::Write).unwrap();
        let answers = answers_to_the_end(&mut stream);
        assert_eq!((answers.len(), answers[0].error(400)), (1, "body_interrupted".into()), "{cut}");
        assert_eq!(client.directories().len(), 1, "{cut}");
    }
    // All of it is closed.
    for cut in cuts {
        drop(send(cut));
    }
    wait_for("all refusals", || {
        (client.log().matches("upload refused").count() == 2 * cuts.len()).then_some(())
    });
    assert_eq!(client.directories().len(), 1);
    client.must_be_well_and_empty("uploads that broke off");
    assert_eq!(id(&client), first + 1);
}

// --- resources

#[test]
fn a_large_upload_needs_little_memory() {
    let client = Client::start();
    let mib = vec![0xa5; 1 << 20];
    let mut start = Vec::new();
    part(&mut start, &file_named("run.sh"), b"true");
    part(&mut start, &file_named("large"), b"");
    start.truncate(start.len() - 2);
    let mut end = b"\r\n".to_vec();
    end_form(&mut end);
    let mut stream = connect(client.address);
    let length = start.len() + 64 * mib.len() + end.len();
    stream.write_all(wire::submit_head(length).as_bytes()).unwrap();
    stream.write_all(&start).unwrap();
    for _ in 0..64 {
        stream.write_all(&mib).unwrap();
    }
    stream.write_all(&end).unwrap();
    let answer = wire::read_answer(&mut stream, false);
    assert_eq!(answer.status, 200, "{}", answer.text());
    client.result(&answer.json("id").unwrap());
    let file = client.directories().remove(0).join("large");
    assert_eq!(fs::metadata(file).unwrap().len(), 64 << 20);
    let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak_kib < 32 * 1024, "{peak_kib} KiB");
}

#[test]
fn an_upload_that_does_not_fit_is_told_507_and_makes_room_again() {
    let Some(disk) = crate::disk::SmallDisk::mount("size=1m,nr_inodes=40") else { return };
    let client = Client::at(disk.path(), &[("MIN_FREE", "0"), ("MIN_FREE_INODES", "0")]);
    let large = form(&[("run.sh", b"true"), ("large", &vec![b'x'; 4_000_000])]);
    let names: Vec<String> = (0..60).map(|n| format!("d{n}/f")).collect();
    let many = form(&names.iter().map(|name| (name.as_str(), &b"x"[..])).collect::<Vec<_>>());
    // What is announced is refused by its length; what is not, where it does not fit.
    for (what, body, code) in [
        ("a large file", &large, (503, "disk_low")),
        ("many files", &many, (507, "no_space")),
        ("a large file again", &large, (503, "disk_low")),
    ] {
        let answer = submit_form(client.address, body);
        assert_eq!(answer.error(code.0), code.1, "{what}: {}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{}", answer.head);
        assert!(client.directories().is_empty(), "{what}");
    }
    // The watch may have looked at the wrong moment; it looks again.
    wait_for("a healthy disk", || (client.get("/health").status == 200).then_some(()));
    let answer = client.result(&client.run("echo fits"));
    assert_eq!(answer.file(".orchestrator.out"), "fits\n");
}

#[test]
fn a_disk_that_is_full_is_not_ready_until_it_has_room_and_no_reason_for_a_restart() {
    let Some(disk) = crate::disk::SmallDisk::mount("size=256k") else { return };
    let client = Client::at(disk.path(), &[("MIN_FREE", "0"), ("MIN_FREE_INODES", "0")]);
    let ballast = disk.path().join("ballast");
    // Up to the last byte, which is an error.
    fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
    let answer = wait_for("a full disk", || Some(client.get("/ready")).filter(|a| a.status == 503));
    assert!(answer.text().contains("disk_low"), "{}", answer.text());
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(submit_form(client.address, &form(&[("run.sh", b"true")])).error(503), "disk_low");
    fs::remove_file(ballast).unwrap();
    wait_for("a ready client", || (client.get("/ready").status == 200).then_some(()));
    client.result(&client.run("true"));
}

#[test]
fn a_data_path_that_is_gone_is_told_as_a_failure_of_this_host() {
    let client = Client::start();
    let elsewhere = client.data.with_extension("elsewhere");
    fs::rename(&client.data, &elsewhere).unwrap();
    let answer = submit_form(client.address, &form(&[("run.sh", b"true")]));
    // Whether the watch of DATA_PATH knows already or not.
    assert_eq!(answer.error(503), "disk_failed");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    // The cause is for the log: the sender has no use for it.
    wait_for("the cause in the log", || client.log().contains("(os error 2)").then_some(()));
    fs::rename(&elsewhere, &client.data).unwrap();
    wait_for("/ready", || (client.get("/ready").status == 200).then_some(()));
    client.result(&client.run("true"));
}

// --- ids

#[test]
fn ids_count_up_from_a_random_start() {
    let mut firsts = Vec::new();
    for _ in 0..3 {
        let client = Client::start();
        let ids: Vec<u32> = (0..4).map(|_| client.run("true").parse().unwrap()).collect();
        assert!((1..1 << 30).contains(&ids[0]), "{ids:?}");
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
        firsts.push(ids[0]);
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 3, "{firsts:?}");
}

#[test]
fn uploads_at_once_get_an_id_and_a_directory_each() {
    let client = Client::start();
    let uploads: Vec<_> = (0..8)
        .map(|number| {
            let address = client.address;
            thread::spawn(move || {
                let content = vec![b'0' + number; 500_000];
                let answer = submit_form(address, &form(&[("run.sh", b"true"), ("a", &content)]));
                (number, answer.json("id").unwrap())
            })
        })
        .collect();
    let mut ids: Vec<u32> = Vec::new();
    for upload in uploads {
        let (number, id) = upload.join().unwrap();
        let files = client.result(&id).files();
        let content = &files.iter().find(|file| file.0 == "a").unwrap().1;
        assert!(content.len() == 500_000 && content.iter().all(|byte| *byte == b'0' + number));
        ids.push(id.parse().unwrap());
    }
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    assert_eq!(client.directories().len(), 8);
}

// --- curl

fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-sS", "-m", "20"]).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn curl_uploads_a_large_file_after_a_100_and_at_once() {
    let client = Client::start();
    let home = tempfile::tempdir().unwrap();
    let (script, large) = (home.path().join("run.sh"), home.path().join("large.bin"));
    fs::write(&script, "wc -c < large.bin").unwrap();
    fs::write(&large, vec![7; 2 << 20]).unwrap();
    let (script, large) = (format!("file=@{}", script.display()), format!("file=@{}", large.display()));
    let url = format!("http://{}/submit", client.address);
    for (extra, continues) in [
        (&["-v"][..], true),
        (&["-v", "--http1.0"], false),
        (&["-v", "-H", "Expect:"], false),
        (&["-v", "-H", "Transfer-Encoding: chunked"], true),
    ] {
        let (body, log) = curl(&[extra, &["-F", &script, "-F", &large, &url]].concat());
        assert_eq!(log.contains("< HTTP/1.1 100 Continue"), continues, "{extra:?}: {log}");
        // What curl prints when the 100 did not come in time.
        assert!(!log.contains("Done waiting for 100-continue"), "{extra:?}: {log}");
        let answer = client.result(&wire::json_field(&body, "id").unwrap());
        assert_eq!(answer.file(".orchestrator.out").trim(), "2097152");
    }
}

#[test]
fn curl_is_told_that_its_upload_is_too_large_or_misnamed() {
    let client = Client::with(&[("MAX_UPLOAD", "3000000")]);
    let home = tempfile::tempdir().unwrap();
    let large = home.path().join("large.bin");
    fs::write(&large, vec![7; 8 << 20]).unwrap();
    let file = format!("file=@{}", large.display());
    let url = format!("http://{}/submit", client.address);
    let bad_name = format!("{file};filename=../large.bin");
    let with_code = ["-w", "%{http_code}"];
    for (extra, status) in [
        (&["-F", &file][..], "413"),
        (&["-F", &file, "-H", "Expect:"], "413"),
        (&["-F", &file, "-H", "Transfer-Encoding: chunked", "-H", "Expect:"], "413"),
        (&["-F", &bad_name, "-H", "Transfer-Encoding: chunked"], "400"),
    ] {
        let (body, _) = curl(&[&with_code, extra, &[&url]].concat());
        assert!(body.ends_with(&format!("}}{status}")), "{extra:?}: {body}");
    }
    assert!(client.directories().is_empty());
}

#[test]
fn curl_uploads_odd_names() {
    let client = Client::start();
    let home = tempfile::tempdir().unwrap();
    for (name, content) in
        [("run.sh", "true"), ("in put \u{e9}.txt", "one"), ("qu\"ote.txt", "two"), ("a.txt", "three")]
    {
        fs::write(home.path().join(name), content).unwrap();
    }
    let at = |name: &str| home.path().join(name).display().to_string();
    let url = format!("http://{}/submit", client.address);
    let plain = [
        format!("file=@{}", at("run.sh")),
        format!("file=@\"{}\"", at("in put \u{e9}.txt")),
        format!("sub/dir/a.txt=@{}", at("a.txt")),
        format!("file=@{};filename=\"named \u{e9}/b;c.txt\"", at("a.txt")),
        "user_id=1".to_owned(),
    ];
    let quoted = format!("file=@\"{}\"", at("qu\"ote.txt").replace('"', "\\\""));
    for escape in [&[][..], &["--form-escape"]] {
        let mut arguments: Vec<&str> = plain.iter().flat_map(|field| ["-F", field.as_str()]).collect();
        arguments.extend(["-F", &quoted]);
        arguments.extend(escape);
        arguments.push(&url);
        let (body, _) = curl(&arguments);
        let answer = client.result(&wire::json_field(&body, "id").unwrap_or_else(|| panic!("{body}")));
        assert_eq!(answer.file("in put \u{e9}.txt"), "one");
        assert_eq!(answer.file("qu\"ote.txt"), "two");
        assert_eq!(answer.file("sub/dir/a.txt"), "three");
        assert_eq!(answer.file("named \u{e9}/b;c.txt"), "three");
    }
}
