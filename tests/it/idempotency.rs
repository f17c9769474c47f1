//! Uploads that are sent again with the same `Idempotency-Key`: one payload, run once, whatever was lost in between.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::client::{Client, place, uncontained, wait_for};
use crate::wire::{self, Answer, BOUNDARY, connect, read_answer};

/// A submit with this key, whole.
fn request(key: &str, script: &str) -> Vec<u8> {
    with_fields(&format!("Idempotency-Key: {key}\r\n"), &wire::form(&[("run.sh", script.as_bytes())]))
}

fn with_fields(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /submit HTTP/1.1\r\nHost: test\r\n{fields}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn submit(client: &Client, key: &str, script: &str) -> Answer {
    wire::send(client.address, request(key, script))
}

/// The id in an answer that must be 200.
#[track_caller]
fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json("id").unwrap()
}

/// A script that leaves a line in `log` each time that it is run.
fn counted(log: &Path) -> String {
    format!("echo run >> {}", log.display())
}

#[test]
fn the_same_key_gives_the_same_payload_and_another_key_another() {
    let (home, data) = place();
    let log = home.path().join("log");
    let client = Client::at(&data, &uncontained(&[]));
    let first = id(&submit(&client, "\"a key\"", &counted(&log)));
    client.ended(&first);
    // What it holds is not looked at, nor whether it is a form at all.
    for again in [
        submit(&client, "\"a key\"", "other"),
        wire::send(client.address, with_fields("Idempotency-Key: \"a key\"\r\n", b"")),
    ] {
        assert_eq!(id(&again), first);
        assert_eq!(again.json("status").as_deref(), Some("Completed"), "as it stands now");
    }
    let bare = id(&submit(&client, "8e03978e", &counted(&log)));
    assert_eq!(id(&submit(&client, "\"8e03978e\"", &counted(&log))), bare);
    assert_ne!(bare, first);
    let without = client.run(&counted(&log));
    for id in [&bare, &without] {
        client.ended(id);
    }
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 3);
    assert_eq!(client.directories().len(), 3);
}

#[test]
fn a_key_lives_as_long_as_its_payload_over_restarts_too() {
    let (home, data) = place();
    let log = home.path().join("log");
    let client = Client::at(&data, &uncontained(&[("MAX_JOBS", "1")]));
    let first = id(&submit(&client, "one", &counted(&log)));
    client.ended(&first);
    let client = {
        client.kill();
        Client::at(&data, &uncontained(&[("MAX_AGE", "2")]))
    };
    assert_eq!(id(&submit(&client, "one", &counted(&log))), first);
    let status = || client.get(&format!("/payloads/{first}")).json("status");
    wait_for("its end by age", || (status()? == "Cleaned").then_some(()));
    assert_eq!(submit(&client, "one", &counted(&log)).json("status").as_deref(), Some("Cleaned"));
    wait_for("being forgotten", || (client.get(&format!("/payloads/{first}")).status == 404).then_some(()));
    let anew = id(&submit(&client, "one", &counted(&log)));
    assert_ne!(anew, first);
    client.ended(&anew);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);
}

/// The client is killed at any moment of the upload, and the sender sends again until it has its answer.
#[test]
fn whatever_is_lost_one_key_is_one_payload() {
    let (home, data) = place();
    let log = home.path().join("log");
    for round in 0..8_u64 {
        let client = Client::at(&data, &uncontained(&[]));
        let mut stream = connect(client.address);
        stream.write_all(&request(&format!("round-{round}"), &counted(&log))).unwrap();
        thread::sleep(Duration::from_millis(round));
        drop(stream);
        client.kill();
        let client = Client::at(&data, &uncontained(&[]));
        let first = id(&submit(&client, &format!("round-{round}"), &counted(&log)));
        assert_eq!(id(&submit(&client, &format!("round-{round}"), &counted(&log))), first);
        client.ended(&first);
        let of_key = client.directories().len();
        assert_eq!(of_key, usize::try_from(round).unwrap() + 1, "one directory a key");
    }
}

#[test]
fn a_second_one_while_the_first_is_received_is_409() {
    let client = Client::start();
    let body = wire::form(&[("run.sh", b"true")]);
    let whole = with_fields("Idempotency-Key: \"same\"\r\nExpect: 100-continue\r\n", &body);
    let (head, rest) = whole.split_at(whole.len() - body.len());
    let mut first = connect(client.address);
    first.write_all(head).unwrap();
    assert_eq!(read_answer(&mut first, false).status, 100);
    let second = || submit(&client, "same", "true");
    let answer = second();
    assert_eq!(answer.error(409), "key_in_use");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(submit(&client, "other", "true").status, 200, "others are not held up");
    first.write_all(rest).unwrap();
    let taken = id(&read_answer(&mut first, false));
    assert_eq!(id(&second()), taken);

    // One that breaks off, and one that is refused, leave no key.
    let mut broken = connect(client.address);
    broken.write_all(&request("broken", "true")[..300]).unwrap();
    drop(broken);
    let refused = with_fields("Idempotency-Key: refused\r\n", b"no form");
    assert_eq!(wire::send(client.address, refused).status, 400);
    for key in ["broken", "refused"] {
        let answer =
            wait_for(key, || Some(submit(&client, key, "true")).filter(|answer| answer.status != 409));
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn one_that_was_taken_is_told_also_where_no_other_would_be() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("MAX_QUEUE", "1"), ("GRACE", "30")]);
    let running = id(&submit(&client, "running", "touch begun; while [ ! -e go ]; do sleep 0.01; done"));
    let begun = client.wait_for_file(&running, "begun");
    let waiting = id(&submit(&client, "waiting", "true"));
    assert_eq!(submit(&client, "more", "true").error(503), "queue_full");
    assert_eq!(id(&submit(&client, "waiting", "true")), waiting);
    client.signal("TERM");
    client.wait_for_log("client stopping");
    assert_eq!(submit(&client, "more", "true").error(503), "stopping");
    assert_eq!(id(&submit(&client, "running", "true")), running);
    fs::write(begun.with_file_name("go"), "").unwrap();
}

#[test]
fn what_is_no_key_is_400() {
    let client = Client::start();
    for bad in ["", "\"\"", "\"a", "a b", "a\r\nIdempotency-Key: b", "\"caf\u{e9}\"", &"k".repeat(256)] {
        let answer = submit(&client, bad, "true");
        assert_eq!(answer.error(400), "bad_request", "{bad}");
        assert!(answer.text().contains("Idempotency-Key"), "{}", answer.text());
    }
    assert!(client.directories().is_empty());
    assert_eq!(submit(&client, &"k".repeat(255), "true").status, 200);
}

/// The body is read to its end, or not asked for at all: in both cases the connection goes on.
#[test]
fn a_large_body_that_is_sent_again_gets_its_answer() {
    let client = Client::start();
    let first = id(&submit(&client, "large", "true"));
    let body = wire::form(&[("large", &vec![b'x'; 8_000_000])]);
    let mut stream = connect(client.address);
    stream.write_all(&with_fields("Idempotency-Key: large\r\n", &body)).unwrap();
    assert_eq!(id(&read_answer(&mut stream, false)), first);
    write!(stream, "GET /payloads/{first} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(id(&read_answer(&mut stream, false)), first);

    let mut stream = connect(client.address);
    let whole = with_fields("Idempotency-Key: large\r\nExpect: 100-continue\r\n", &body);
    stream.write_all(&whole[..whole.len() - body.len()]).unwrap();
    assert_eq!(id(&read_answer(&mut stream, false)), first);
}
