//! Results: how a payload stands, its directory as a ZIP, and what is not there.

use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use miniserde::json::{Object, Value};

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer, answers_to_the_end, connect, conversation, read_answer, try_read_answer};

/// A script that runs until the file `go` is there.
const WAITS: &str = "touch begun; while [ ! -e go ]; do sleep 0.01; done";

fn partial(client: &Client, id: &str) -> Answer {
    client.get(&format!("/retrieve_partial/{id}"))
}

/// The Payload in an answer, its fields checked as the servers check them.
#[track_caller]
fn payload(answer: &Answer, http: u16, id: &str, status: &str) -> Object {
    assert_eq!(answer.status, http, "{}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    let object: Object = miniserde::json::from_str(&answer.text()).unwrap();
    assert!(matches!(&object["id"], Value::Number(number) if number.to_string() == id), "{}", answer.text());
    assert!(matches!(&object["status"], Value::String(word) if word == status), "{}", answer.text());
    assert!(matches!(&object["loc"], Value::String(loc) if loc.starts_with('/')), "{}", answer.text());
    assert!(matches!(&object["pid"], Value::Number(_)), "{}", answer.text());
    assert!(matches!(&object["killed"], Value::Bool(killed) if *killed == (status == "Killed")));
    assert!(matches!(&object["input"], Value::Object(input) if input.is_empty()), "{}", answer.text());
    object
}

fn names(answer: &Answer) -> Vec<String> {
    let mut names: Vec<String> = answer.files().into_iter().map(|file| file.0).collect();
    names.sort();
    names
}

// --- statuses

#[test]
fn a_payload_is_told_by_202_until_it_has_ended_and_by_its_zip_then() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let submitted = wire::submit_form(client.address, &wire::form(&[("run.sh", WAITS.as_bytes())]));
    let running = submitted.json("id").unwrap();
    payload(&submitted, 200, &running, "Prepared");
    client.wait_for_file(&running, "begun");
    let waiting = client.run("echo second");
    payload(&client.get(&format!("/retrieve/{running}")), 202, &running, "Running");
    payload(&client.get(&format!("/retrieve/{waiting}")), 202, &waiting, "Prepared");
    assert_eq!(client.get("/health").json("running").as_deref(), Some("1"));
    assert_eq!(client.get("/health").json("waiting").as_deref(), Some("1"));
    let loc = client.get(&format!("/retrieve/{running}")).json("loc").unwrap();
    fs::write(Path::new(&loc).join("go"), "").unwrap();
    for id in [running, waiting] {
        let answer = client.result(&id);
        assert_eq!(answer.status, 200);
        let disposition = format!("attachment; filename=\"{id}.zip\"");
        assert_eq!(answer.header("content-disposition"), Some(disposition));
        assert!(names(&answer).contains(&"run.sh".to_owned()));
    }
}

#[test]
fn a_payload_that_did_not_complete_is_told_by_200_and_json() {
    let client = Client::start();
    let failed = client.run("exit 3");
    let signalled = client.run("kill -KILL $$");
    let no_interpreter = client.submit(&[("run.sh", b"#!/no/such/interpreter\n")]);
    let invalid = client.submit(&[("other.sh", b"#!/bin/sh\n")]);
    let nested = client.submit(&[("sub/run.sh", b"true")]);
    let killed = client.run(WAITS);
    client.wait_for_file(&killed, "begun");
    let answer = client.post(&format!("/kill/{killed}"));
    assert_eq!((answer.status, answer.body.len()), (200, 0));

    let json = payload(&client.result(&failed), 200, &failed, "Failed");
    assert!(matches!(&json["exit_code"], Value::Number(code) if code.to_string() == "3"));
    let json = payload(&client.result(&signalled), 200, &signalled, "Failed");
    assert!(matches!((&json["exit_code"], &json["signal"]), (Value::Null, Value::Number(_))));
    let json = payload(&client.result(&no_interpreter), 200, &no_interpreter, "Failed");
    assert!(matches!(&json["error"], Value::String(why) if why.contains("/no/such/interpreter")));
    for id in [invalid, nested] {
        let json = payload(&client.result(&id), 200, &id, "Invalid");
        assert!(matches!(&json["error"], Value::String(_)));
        // Its directory is there all the same.
        assert!(!names(&partial(&client, &id)).is_empty());
    }
    payload(&client.result(&killed), 200, &killed, "Killed");
    assert!(names(&partial(&client, &killed)).contains(&"begun".to_owned()));
}

#[test]
fn a_payload_that_is_too_old_is_cleaned_then_unknown() {
    let client = Client::with(&[("MAX_AGE", "1")]);
    let id = client.run("true");
    let is_cleaned = |answer: &Answer| answer.json("status").as_deref() == Some("Cleaned");
    let answer = client.retrieve_when(&id, is_cleaned);
    payload(&answer, 200, &id, "Cleaned");
    assert_eq!(partial(&client, &id).status, 404);
    // One of the answers may still have been on its way.
    wait_for("the removal", || client.directories().is_empty().then_some(()));
    let answer = client.retrieve_when(&id, |answer| answer.status == 404);
    assert_eq!(answer.error(404), "unknown_id");
    assert_eq!(client.post(&format!("/kill/{id}")).error(404), "unknown_id");
}

#[test]
fn an_id_that_was_never_given_is_404() {
    let client = Client::start();
    let id: u32 = client.run("true").parse().unwrap();
    let before = (id - 1).to_string();
    let after = (id + 1).to_string();
    for route in ["retrieve", "retrieve_partial", "kill"] {
        for unknown in [
            &before,
            &after,
            "0",
            "-1",
            "+1",
            "1.0",
            "0x1",
            "x",
            "2147483648",
            "4294967296",
            "99999999999999999999",
            "%31",
            "1%00",
            "..",
            "",
            &format!("{id}x"),
            &format!("x{id}"),
        ] {
            let path = format!("/{route}/{unknown}");
            let answer = if route == "kill" { client.post(&path) } else { client.get(&path) };
            assert_eq!(answer.error(404), "unknown_id", "{path}");
        }
        for path in [
            format!("/{route}"),
            format!("/{route}/{id}/"),
            format!("/{route}/{id}/run.sh"),
            format!("//{route}/{id}"),
        ] {
            let answer = if route == "kill" { client.post(&path) } else { client.get(&path) };
            assert_eq!(answer.error(404), "no_such_route", "{path}");
        }
    }
}

#[test]
fn an_id_of_an_earlier_life_that_is_not_taken_up_is_404_although_its_directory_is_there() {
    let home = tempfile::tempdir().unwrap();
    let id = {
        let client = Client::at(home.path(), &[]);
        let id = client.run("true");
        client.result(&id);
        id
    };
    let client = Client::at(home.path(), &[("RECOVER", "off")]);
    assert_eq!(client.directories().len(), 1);
    for path in [format!("/retrieve/{id}"), format!("/retrieve_partial/{id}")] {
        assert_eq!(client.get(&path).error(404), "unknown_id");
    }
}

#[test]
fn a_directory_that_somebody_removed_is_404_and_no_half_a_zip() {
    let client = Client::start();
    let id = client.run("true");
    client.result(&id);
    fs::remove_dir_all(client.directories().remove(0)).unwrap();
    for path in [format!("/retrieve/{id}"), format!("/retrieve_partial/{id}")] {
        assert_eq!(client.get(&path).error(404), "directory_gone", "{path}");
    }
}

// --- ZIPs

#[test]
fn a_zip_holds_every_file_directory_and_link_with_its_mode_and_time() {
    let client = Client::start();
    let script = "
        mkdir -p made/deep/er empty locked
        echo hidden > .hidden
        echo deep > 'made/deep/er/with space \u{e9}.txt'
        : > made/nothing
        chmod 0600 .hidden
        chmod 0751 made
        chmod 0700 empty
        ln -s made/deep here
        ln -s /etc/passwd outside
        ln -s nowhere broken
        mkfifo pipe
        ln .hidden hard
        touch -d 2001-02-03T04:05:06Z made/nothing
        echo to out; echo to err >&2";
    let id = client.run(script);
    let answer = client.result(&id);
    let expected = [
        ".hidden",
        ".orchestrator.err",
        ".orchestrator.exit",
        ".orchestrator.out",
        ".orchestrator.skipped",
        "broken",
        "empty/",
        "hard",
        "here",
        "locked/",
        "made/",
        "made/deep/",
        "made/deep/er/",
        "made/deep/er/with space \u{e9}.txt",
        "made/nothing",
        "outside",
        "run.sh",
    ];
    assert_eq!(names(&answer), expected);
    for (name, content) in [
        (".hidden", "hidden\n"),
        ("hard", "hidden\n"),
        ("made/deep/er/with space \u{e9}.txt", "deep\n"),
        ("made/nothing", ""),
        ("here", "made/deep"),
        ("outside", "/etc/passwd"),
        ("broken", "nowhere"),
        (".orchestrator.out", "to out\n"),
        (".orchestrator.err", "to err\n"),
        ("run.sh", script),
    ] {
        assert_eq!(answer.file(name), content, "{name}");
    }
    assert_eq!(answer.file(".orchestrator.exit").trim(), "0");
    assert_eq!(answer.file(".orchestrator.skipped"), "pipe: it is a named pipe\n");
    let modes = [".hidden", "made/", "empty/", "run.sh", "made/nothing"].map(|name| answer.mode(name));
    assert_eq!(modes, [0o600, 0o751, 0o700, 0o755, 0o644]);
    let mut zip = zip::ZipArchive::new(Cursor::new(&answer.body)).unwrap();
    for (name, is_link) in
        [("here", true), ("outside", true), ("broken", true), ("hard", false), ("made/", false)]
    {
        assert_eq!(zip.by_name(name).unwrap().is_symlink(), is_link, "{name}");
    }
    unpacks_to_the_same(&answer, &client.directories()[0]);
}

/// By a program that others use.
fn unpacks_to_the_same(answer: &Answer, directory: &Path) {
    let home = tempfile::tempdir().unwrap();
    let (zip, out) = (home.path().join("a.zip"), home.path().join("out"));
    fs::write(&zip, &answer.body).unwrap();
    match Command::new("unzip").arg("-q").arg(&zip).arg("-d").arg(&out).env("TZ", "UTC").status() {
        Err(error) => return println!("skipped: unzip: {error}"),
        Ok(status) => assert!(status.success()),
    }
    let list = |root: &Path| {
        // A mode of the root itself and sizes of directories are nobody's business.
        let format = "%P %y %m %l\\n";
        let output = Command::new("find")
            .arg(root)
            .args([
                "-mindepth",
                "1",
                "!",
                "-type",
                "p",
                "!",
                "-name",
                ".orchestrator.skipped",
                "-printf",
                format,
            ])
            .output();
        let mut lines: Vec<String> =
            String::from_utf8(output.unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(list(&out), list(directory));
    let modified = fs::metadata(out.join("made/nothing")).unwrap().modified().unwrap();
    assert_eq!(modified, std::time::UNIX_EPOCH + Duration::from_secs(981_173_106));
}

#[test]
fn several_threads_make_an_archive_that_others_unpack_and_end_with_it() {
    let client = Client::with(&[("ZIP_THREADS", "4")]);
    let script = "
        mkdir -p made sources
        touch -d 2001-02-03T04:05:06Z made/nothing
        seq 1000000 > made/numbers
        head -c 3000000 /dev/urandom > made/noise
        for n in $(seq 300); do seq $n $((n * 7)) > sources/$n.txt; done";
    let id = client.run(script);
    let answer = client.result(&id);
    let directory = client.directories().remove(0);
    unpacks_to_the_same(&answer, &directory);
    let files = answer.files();
    assert!(files.len() > 300);
    for (name, content) in files.iter().filter(|(name, _)| !name.ends_with('/')) {
        assert!(fs::read(directory.join(name)).unwrap() == *content, "{name}");
    }
    assert!(answer.body.len() < 3_000_000 + 3_500_000, "{}", answer.body.len()); // the numbers had 6.9 MB

    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    wait_for("the broken transfer", || client.log().contains("archive not sent to its end").then_some(()));
    wait_for("the end of its threads", || (threads_called("zip", &client) == 0).then_some(()));
}

fn threads_called(name: &str, client: &Client) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|found| found.trim_end() == name).count()
}

#[test]
fn a_link_in_the_place_of_the_payload_is_not_a_way_out() {
    let client = Client::start();
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("secret"), "secret").unwrap();
    let id = client.run("mkdir sub");
    client.result(&id);
    let directory = client.directories().remove(0);
    fs::remove_dir(directory.join("sub")).unwrap();
    symlink(secret.path(), directory.join("sub")).unwrap();
    let answer = partial(&client, &id);
    assert_eq!(answer.file("sub"), secret.path().to_str().unwrap());
    assert!(!names(&answer).iter().any(|name| name.contains("secret")), "{:?}", names(&answer));
}

#[test]
fn a_result_can_be_fetched_again_and_by_many_at_once() {
    let client = Client::start();
    let id = client.run("head -c 3000000 /dev/urandom > noise");
    let first = client.result(&id);
    let noise = fs::read(client.directories()[0].join("noise")).unwrap();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (address, path) = (client.address, format!("/retrieve/{id}"));
            thread::spawn(move || wire::call(address, "GET", &path).body)
        })
        .collect();
    for reader in readers {
        assert!(reader.join().unwrap() == first.body);
    }
    let files = first.files();
    assert!(files.iter().any(|(name, content)| name == "noise" && *content == noise));
}

#[test]
fn a_partial_result_is_the_directory_as_it_is_now() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let running = client.run(&format!("echo early; {WAITS}; echo late"));
    client.wait_for_file(&running, "begun");
    let waiting = client.submit(&[("run.sh", b"true"), ("a.txt", b"a")]);
    let answer = partial(&client, &running);
    assert_eq!((answer.status, answer.file(".orchestrator.out").as_str()), (200, "early\n"));
    assert!(!names(&answer).contains(&".orchestrator.exit".to_owned()));
    assert_eq!(names(&partial(&client, &waiting)), ["a.txt", "run.sh"]);
    let loc = client.get(&format!("/retrieve/{running}")).json("loc").unwrap();
    fs::write(Path::new(&loc).join("go"), "").unwrap();
    client.result(&running);
    assert_eq!(partial(&client, &running).file(".orchestrator.out"), "early\nlate\n");
}

#[test]
fn a_file_that_grows_while_it_is_sent_makes_no_broken_zip() {
    let client = Client::start();
    let id = client.run("touch begun; while [ ! -e go ]; do echo line >> log; done");
    let log = client.wait_for_file(&id, "log");
    wait_for("its first line", || (fs::metadata(&log).unwrap().len() > 0).then_some(()));
    for _ in 0..10 {
        // Reading checks lengths and sums.
        assert!(partial(&client, &id).file("log").starts_with("line\n"));
    }
    let loc = client.get(&format!("/retrieve/{id}")).json("loc").unwrap();
    fs::write(Path::new(&loc).join("go"), "").unwrap();
}

// --- the wire

#[test]
fn a_zip_goes_in_chunks_and_the_connection_on() {
    let client = Client::start();
    // Of one that runs no length is ever known.
    let id = client.run(&format!("head -c 200000 /dev/urandom > noise; {WAITS}"));
    let begun = client.wait_for_file(&id, "begun");
    let mut stream = connect(client.address);
    for method in ["GET", "HEAD", "GET"] {
        write!(stream, "{method} /retrieve_partial/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream, method == "HEAD");
        assert_eq!((answer.status, answer.header("transfer-encoding").as_deref()), (200, Some("chunked")));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
        if method == "GET" {
            assert!(answer.body.len() > 200_000 && names(&answer).contains(&"noise".to_owned()));
        }
    }
    fs::write(begun.with_file_name("go"), "").unwrap();
}

#[test]
fn http_1_0_gets_a_zip_without_chunks_up_to_the_end_of_the_connection() {
    let client = Client::start();
    let id = client.run(&format!("head -c 200000 /dev/urandom > noise; {WAITS}"));
    let begun = client.wait_for_file(&id, "begun");
    let expected = partial(&client, &id).body;
    for field in ["", "Connection: keep-alive\r\n"] {
        let answers =
            conversation(client.address, format!("GET /retrieve_partial/{id} HTTP/1.0\r\n{field}\r\n"));
        assert_eq!((answers.len(), answers[0].status), (1, 200));
        assert_eq!(
            (answers[0].header("transfer-encoding"), answers[0].header("content-length")),
            (None, None)
        );
        assert_eq!(answers[0].header("connection").as_deref(), Some("close"));
        assert!(answers[0].body == expected);
        let mut stream = connect(client.address);
        write!(stream, "HEAD /retrieve_partial/{id} HTTP/1.0\r\n{field}\r\n").unwrap();
        assert_eq!(read_answer(&mut stream, true).header("connection").as_deref(), Some("close"));
        assert!(answers_to_the_end(&mut stream).is_empty());
    }
    fs::write(begun.with_file_name("go"), "").unwrap();
}

#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let client = Client::start();
    let id =
        client.run("head -c 30000000 /dev/zero | tr '\\0' x > large; head -c 20000000 /dev/urandom > noise");
    client.retrieve_when(&id, |answer| answer.status == 200);
    for bytes in [0, 1, 100, 100_000] {
        let mut stream = connect(client.address);
        write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stream.read_exact(&mut vec![0; bytes]).unwrap();
    }
    wait_for("four broken transfers", || {
        (client.log().matches("archive not sent to its end").count() == 4).then_some(())
    });
    client.must_be_well_and_empty("readers that went away");
}

#[test]
fn a_reader_that_stands_still_is_cut_off_and_can_tell() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let id = client.run("head -c 30000000 /dev/urandom > noise");
    client.retrieve_when(&id, |answer| answer.status == 200);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_for("the end of the client's patience", || {
        client.log().contains("archive not sent to its end").then_some(())
    });
    // What the kernel has buffered is no whole answer: the last chunk is missing.
    try_read_answer(&mut stream, false).unwrap_err();
    client.must_be_well_and_empty("a reader that stood still");
}

#[test]
fn a_reader_that_is_slow_but_moves_gets_all() {
    let client = Client::with(&[("STALL_TIMEOUT", "1")]);
    let id = client.run("head -c 12000000 /dev/urandom > noise");
    client.retrieve_when(&id, |answer| answer.status == 200);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    for _ in 0..6 {
        let before = bytes.len();
        let wanted = u64::try_from(2_000_000).unwrap();
        (&stream).take(wanted).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() - before, 2_000_000);
        thread::sleep(Duration::from_millis(400));
    }
    stream.read_to_end(&mut bytes).unwrap();
    let answer = read_answer(&mut bytes.as_slice(), false);
    assert!(names(&answer).contains(&"noise".to_owned()));
}

#[test]
fn curl_fetches_results() {
    let client = Client::start();
    let done = client.run("echo hello > result.txt");
    client.result(&done);
    let failed = client.run("exit 1");
    client.result(&failed);
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://{}{path}", client.address);
        let output =
            Command::new("curl").args(["-sS", "-m", "20"]).args(arguments).arg(url).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let expected = client.get(&format!("/retrieve/{done}")).body;
    for arguments in [&[][..], &["--http1.0"], &["--http2"], &["-H", "Connection: close"]] {
        assert!(curl(arguments, &format!("/retrieve/{done}")) == expected, "{arguments:?}");
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let head = text(curl(&["-I"], &format!("/retrieve/{done}")));
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Type: application/zip"),
        "{head}"
    );
    let head = text(curl(&["-I"], "/retrieve/0"));
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
    assert!(text(curl(&[], &format!("/retrieve/{failed}"))).contains("\"status\":\"Failed\""));
    assert!(text(curl(&["-X", "POST", "-w", "%{http_code}"], &format!("/kill/{failed}"))) == "200");
}
