//! Results that are fetched in pieces: the same bytes each time, a tag, a length once it is known, and parts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use crate::client::{Client, place, wait_for};
use crate::wire::{self, Answer, connect, read_answer};

/// Files that are stored, that are deflated in one piece and in several, small ones, links and directories.
const SCRIPT: &str = "seq 400000 > numbers; head -c 1500000 /dev/urandom > noise; mkdir -p a/b; ln -s nowhere a/link; \
                      for n in $(seq 50); do seq $n > a/b/$n; done; mkfifo pipe";

fn fetch(client: &Client, path: &str, fields: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
    wire::send(client.address, request)
}

/// A payload that has ended, whose result nobody has fetched.
fn ended(client: &Client, script: &str) -> (String, PathBuf) {
    let id = client.run(script);
    let path = format!("/payloads/{id}");
    wait_for("the end", || {
        Some(client.get(&path)).filter(|answer| answer.json("finished_at").as_deref() != Some("null"))
    });
    (id.clone(), client.get(&path).json("loc").unwrap().into())
}

#[test]
fn a_result_is_the_same_each_time_and_has_its_length_from_the_second_time_on() {
    for threads in ["1", "4"] {
        let client = Client::with(&[("ZIP_THREADS", threads)]);
        let (id, _) = ended(&client, SCRIPT);
        let path = format!("/retrieve/{id}");
        let first = fetch(&client, &path, "");
        assert_eq!((first.status, first.header("transfer-encoding").as_deref()), (200, Some("chunked")));
        let tag = first.header("etag").unwrap();
        assert!(tag.starts_with('"'), "{tag}");
        for _ in 0..4 {
            let again = fetch(&client, &path, "");
            assert!(again.body == first.body, "{threads} threads");
            assert_eq!(again.header("etag").as_ref(), Some(&tag));
            assert_eq!(again.header("content-length"), Some(first.body.len().to_string()));
            assert_eq!(again.header("accept-ranges").as_deref(), Some("bytes"));
        }
        let head = wire::call(client.address, "HEAD", &path);
        assert_eq!(head.header("content-length"), Some(first.body.len().to_string()));
        let known = fetch(&client, &path, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
}

#[test]
fn any_part_is_a_part_of_the_whole() {
    for threads in ["1", "3"] {
        let client = Client::with(&[("ZIP_THREADS", threads)]);
        let (id, _) = ended(&client, SCRIPT);
        let path = format!("/retrieve/{id}");
        // The first part is asked for before the length is known.
        let part = fetch(&client, &path, "Range: bytes=1000000-1999999\r\n");
        assert_eq!(part.status, 206);
        let whole = fetch(&client, &path, "").body;
        let length = whole.len();
        assert_eq!(part.header("content-range"), Some(format!("bytes 1000000-1999999/{length}")));
        assert!(part.body == whole[1_000_000..2_000_000]);
        for first in [0, 1, 65_536, length / 2, length - 30, length - 1] {
            let part = fetch(&client, &path, &format!("Range: bytes={first}-\r\n"));
            assert!(part.status == 206 && part.body == whole[first..], "{first}");
            let few = fetch(&client, &path, &format!("Range: bytes={first}-{}\r\n", first + 9));
            assert!(few.status == 206 && few.body == whole[first..(first + 10).min(length)], "{first}");
        }
        let beyond = fetch(&client, &path, &format!("Range: bytes={length}-\r\n"));
        assert_eq!(beyond.error(416), "range_not_satisfiable");
        assert_eq!(beyond.header("content-range"), Some(format!("bytes */{length}")));
    }
}

#[test]
fn curl_resumes_a_result_that_was_cut_the_very_first_time() {
    let client = Client::start();
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy.zip");
    let (id, _) = ended(&client, SCRIPT);
    let path = format!("/retrieve/{id}");
    for have in [1_u64, 700_000, 1_900_000] {
        // What came of it before the connection broke.
        let mut stream = connect(client.address);
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let head = read_answer(&mut stream, true);
        assert_eq!(head.status, 200);
        let mut got = Vec::new();
        stream.take(have).read_to_end(&mut got).unwrap();
        fs::write(&copy, &got).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-m", "60", "-C", "-", "-o"])
            .arg(&copy)
            .arg(format!("http://{}{path}", client.address));
        assert!(curl.status().unwrap().success());
        assert!(fs::read(&copy).unwrap() == fetch(&client, &path, "").body, "{have}");
    }
}

#[test]
fn a_directory_that_has_changed_gives_all_with_another_tag() {
    let client = Client::start();
    let (id, directory) = ended(&client, SCRIPT);
    let path = format!("/retrieve/{id}");
    let before = fetch(&client, &path, "");
    let tag = before.header("etag").unwrap();
    let part = || fetch(&client, &path, &format!("Range: bytes=1000-\r\nIf-Range: {tag}\r\n"));
    assert_eq!(part().status, 206);
    // Deep down, and of the same length.
    fs::write(directory.join("a/b/7"), fs::read(directory.join("a/b/7")).unwrap()).unwrap();
    let after = part();
    assert_eq!(after.status, 200);
    assert!(after.header("etag").unwrap() != tag && after.files().len() == before.files().len());
    // Its length is known anew with it.
    fs::write(directory.join("more"), "more").unwrap();
    let more = fetch(&client, &path, "");
    assert_eq!((more.status, more.header("content-length")), (200, None));
    assert_eq!(more.file("more"), "more");
    assert_eq!(fetch(&client, &path, "").header("content-length"), Some(more.body.len().to_string()));
}

#[test]
fn a_restart_changes_neither_the_bytes_nor_the_tag() {
    let (_home, data) = place();
    let client = Client::at(&data, &[]);
    let (id, _) = ended(&client, SCRIPT);
    let path = format!("/retrieve/{id}");
    let before = fetch(&client, &path, "");
    client.kill();
    let client = Client::at(&data, &[]);
    let tag = before.header("etag").unwrap();
    let part = fetch(&client, &path, &format!("Range: bytes=1000-\r\nIf-Range: {tag}\r\n"));
    assert!(part.status == 206 && part.body == before.body[1000..]);
}

#[test]
fn the_files_of_a_payload_that_failed_can_be_resumed_and_those_of_one_that_runs_cannot() {
    let client = Client::start();
    let (failed, _) = ended(&client, "seq 100000 > numbers; exit 3");
    let path = format!("/retrieve_partial/{failed}");
    let whole = fetch(&client, &path, "");
    assert!(fetch(&client, &path, "Range: bytes=100-\r\n").body == whole.body[100..]);
    let running = client.run("touch begun; while [ ! -e go ]; do sleep 0.01; done");
    let begun = client.wait_for_file(&running, "begun");
    let answer = fetch(&client, &format!("/retrieve_partial/{running}"), "Range: bytes=100-\r\n");
    assert_eq!((answer.status, answer.header("etag"), answer.header("accept-ranges")), (200, None, None));
    fs::write(begun.with_file_name("go"), "").unwrap();
}

/// Making a large archive for its length alone takes a while.
#[test]
fn nothing_is_made_on_for_a_caller_that_has_hung_up() {
    let client = Client::start();
    let (id, _) = ended(&client, "seq 20000000 > numbers");
    let path = format!("/retrieve/{id}");
    let mut stream = connect(client.address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nRange: bytes=30000000-\r\n\r\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(stream);
    client.wait_for_log("archive not sent to its end");
    let head = wire::call(client.address, "HEAD", &path);
    assert_eq!((head.status, head.header("content-length")), (200, None), "it came to its end");
}

/// A part that ends before the end does not fetch the result; one up to the end does.
#[test]
fn a_result_is_fetched_with_its_last_byte() {
    let client = Client::with(&[("GRACE", "5")]);
    let (id, _) = ended(&client, "seq 1000 > numbers");
    let path = format!("/retrieve/{id}");
    let is_told = || {
        let record =
            fs::read_dir(client.data.join(".orchestrator/records")).unwrap().next().unwrap().unwrap();
        String::from_utf8_lossy(&fs::read(record.path()).unwrap()).contains("\"told\":true")
    };
    assert_eq!(fetch(&client, &path, "Range: bytes=0-99\r\n").status, 206);
    assert_eq!(wire::call(client.address, "HEAD", &path).status, 200);
    assert!(!is_told());
    assert_eq!(fetch(&client, &path, "Range: bytes=100-\r\n").status, 206);
    wait_for("the note", || is_told().then_some(()));
}
