//! What is not taken, for now or for good, is told before its body is read, and `/ready` says the same beforehand.

use std::fs;
use std::io::Write as _;

use crate::client::{Client, wait_for};
use crate::wire::{self, Answer};

fn form() -> Vec<u8> {
    wire::form(&[("run.sh", b"true")])
}

/// Sends the head of a submit, and not a byte of the body.
fn submit_head_only(client: &Client, length: usize) -> Answer {
    let mut stream = wire::connect(client.address);
    stream.write_all(wire::submit_head(length).as_bytes()).unwrap();
    wire::read_answer(&mut stream, false)
}

fn reasons(answer: &Answer) -> String {
    assert_eq!(answer.json("error").as_deref(), Some("not_ready"), "{}", answer.text());
    let text = answer.text();
    text.split_once("\"reasons\":").unwrap().1.trim_end_matches('}').to_owned()
}

#[test]
fn a_client_with_nothing_to_do_is_ready() {
    let client = Client::start();
    let answer = client.get("/ready");
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ready"}"#));
    assert_eq!(wire::call(client.address, "POST", "/ready").error(405), "method_not_allowed");
}

#[test]
fn a_full_queue_takes_no_more_until_a_payload_has_been_started() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("MAX_QUEUE", "2"), ("KILL_GRACE", "0")]);
    let running = client.run("exec sleep 1000");
    client.retrieve_when(&running, |answer| answer.json("status").as_deref() == Some("Running"));
    let waiting: Vec<String> = (0..2).map(|_| client.run("true")).collect();
    let ready = client.get("/ready");
    assert_eq!((ready.status, reasons(&ready).as_str()), (503, r#"["queue_full"]"#));
    assert!(ready.header("retry-after").is_some());
    assert_eq!(client.get("/health").status, 200);
    for answer in [submit_head_only(&client, 1000), wire::submit_form(client.address, &form())] {
        assert_eq!(answer.error(503), "queue_full");
        assert!(
            answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()),
            "{}",
            answer.head
        );
    }
    assert_eq!(client.directories().len(), 3);
    assert_eq!(client.post(&format!("/kill/{running}")).status, 200);
    for id in &waiting {
        client.result(id);
    }
    assert_eq!(client.get("/ready").status, 200);
    client.result(&client.run("true"));
}

/// Many that come at once all see room before their bodies are read; the last word is said when they are queued.
#[test]
fn a_queue_never_holds_more_than_it_may() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("MAX_QUEUE", "5"), ("KILL_GRACE", "0")]);
    let running = client.run("exec sleep 1000");
    client.retrieve_when(&running, |answer| answer.json("status").as_deref() == Some("Running"));
    let body = form();
    let mut streams: Vec<_> = (0..20).map(|_| wire::connect(client.address)).collect();
    for stream in &mut streams {
        stream.write_all(wire::submit_head(body.len()).as_bytes()).unwrap();
        stream.write_all(&body[..body.len() - 1]).unwrap();
    }
    for stream in &mut streams {
        stream.write_all(&body[body.len() - 1..]).unwrap();
    }
    let answers: Vec<Answer> = streams.iter_mut().map(|stream| wire::read_answer(stream, false)).collect();
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(taken, 5);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.error(503), "queue_full");
    }
    assert_eq!(client.health("waiting"), 5);
    assert_eq!(client.directories().len(), 6, "a refused upload has left something");
}

#[test]
fn what_has_to_stay_free_is_kept_free() {
    let client = Client::with(&[("MIN_FREE", &u64::MAX.to_string())]);
    let ready = client.get("/ready");
    assert_eq!((ready.status, reasons(&ready).as_str()), (503, r#"["disk_low"]"#));
    assert!(ready.json("message").unwrap().contains("MIN_FREE"), "{}", ready.text());
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(submit_head_only(&client, 1000).error(503), "disk_low");
    assert!(client.directories().is_empty());

    let client = Client::with(&[("MIN_FREE_INODES", &u64::MAX.to_string())]);
    let answer = submit_head_only(&client, 1000);
    assert_eq!(answer.error(503), "disk_low");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    wait_for("the reason in the log", || {
        client.log().contains("upload refused status=503 reason=disk_low").then_some(())
    });
    assert!(answer.text().contains("MIN_FREE_INODES"), "{}", answer.text());
}

#[test]
fn an_upload_that_would_not_leave_enough_free_is_refused_by_its_length_or_where_it_does_not() {
    let Some(disk) = crate::disk::SmallDisk::mount("size=40m") else { return };
    let client = Client::at(disk.path(), &[("MIN_FREE", "20000000")]);
    assert_eq!(submit_head_only(&client, 30_000_000).error(503), "disk_low");
    client.result(&client.submit(&[("run.sh", b"true"), ("data", &vec![b'x'; 8_000_000])]));
    // In chunks nothing is announced.
    let mut stream = wire::connect(client.address);
    let head = wire::submit_head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.write_all(head.as_bytes()).unwrap();
    let body = wire::form(&[("run.sh", b"true"), ("data", &vec![b'x'; 30_000_000])]);
    for piece in body.chunks(1_000_000) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let answer = wire::read_answer(&mut stream, false);
    assert_eq!(answer.error(507), "disk_low");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    client.wait_for_log(
        "upload refused status=507 reason=\"The upload would take what has to stay free (MIN_FREE)",
    );
    assert!(!client.log().contains("broke off"), "{}", client.log());
    wait_for("its removal", || (client.directories().len() == 1).then_some(()));
    client.result(&client.run("true"));
}

#[test]
fn a_stopping_client_is_not_ready_and_says_so() {
    let client = Client::start();
    let id = client.run("exec sleep 1000");
    client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Running"));
    client.signal("TERM");
    let ready = wait_for("the stop", || Some(client.get("/ready")).filter(|answer| answer.status == 503));
    assert_eq!(reasons(&ready), r#"["stopping"]"#);
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(submit_head_only(&client, 1000).error(503), "stopping");
}

#[test]
fn a_disk_that_does_not_work_is_told_before_the_body_is_read() {
    let client = Client::start();
    let away = client.data.with_file_name("away");
    fs::rename(&client.data, &away).unwrap();
    let ready = wait_for("the trouble", || Some(client.get("/ready")).filter(|answer| answer.status == 503));
    assert!(reasons(&ready).contains("disk_failed"), "{}", ready.text());
    assert_eq!(client.get("/health").status, 503);
    let answer = submit_head_only(&client, 1000);
    assert_eq!(answer.error(503), "disk_failed");
    fs::rename(&away, &client.data).unwrap();
    wait_for("the end of the trouble", || (client.get("/ready").status == 200).then_some(()));
    client.result(&client.run("true"));
}
