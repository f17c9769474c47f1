//! `/payloads`: which payloads there are, how one stands, and its removal.

use std::io::{Read as _, Write as _};
use std::path::Path;

use miniserde::json::{Object, Value};

use crate::client::{Client, place, processes_of, wait_for};
use crate::wire::{self, Answer, connect, read_answer};

/// A script that runs until the file `go` is there.
const WAITS: &str = "touch begun; while [ ! -e go ]; do sleep 0.01; done";

fn delete(client: &Client, id: &str) -> Answer {
    wire::call(client.address, "DELETE", &format!("/payloads/{id}"))
}

/// The ids of a page, and where the next one begins.
#[track_caller]
fn page(client: &Client, query: &str) -> (Vec<String>, Option<String>) {
    let answer = client.get(&format!("/payloads{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let object: Object = miniserde::json::from_str(&answer.text()).unwrap();
    let Value::Array(payloads) = &object["payloads"] else { panic!("{}", answer.text()) };
    let id = |payload: &Value| match payload {
        Value::Object(payload) => match &payload["id"] {
            Value::Number(id) => id.to_string(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let next = match &object["next"] {
        Value::Null => None,
        Value::Number(next) => Some(next.to_string()),
        other => panic!("{other:?}"),
    };
    (payloads.iter().map(id).collect(), next)
}

#[test]
fn the_list_has_all_payloads_the_newest_first_page_by_page() {
    let client = Client::start();
    assert_eq!(page(&client, ""), (vec![], None));
    let mut ids: Vec<String> = (0..7).map(|code| client.run(&format!("exit {}", code % 2))).collect();
    for id in &ids {
        client.ended(id);
    }
    ids.reverse();
    assert_eq!(page(&client, ""), (ids.clone(), None));
    assert_eq!(page(&client, "?limit=7"), (ids.clone(), None));
    let mut seen = Vec::new();
    let mut query = "?limit=3".to_owned();
    loop {
        let (some, next) = page(&client, &query);
        assert!(some.len() == 3 || next.is_none());
        seen.extend(some);
        let Some(next) = next else { break };
        query = format!("?limit=3&before={next}");
    }
    assert_eq!(seen, ids);
    let odd: Vec<String> = ids.iter().skip(1).step_by(2).cloned().collect();
    assert_eq!(page(&client, "?status=Failed"), (odd.clone(), None));
    assert_eq!(page(&client, "?status=Failed&limit=2"), (odd[..2].to_vec(), Some(odd[1].clone())));
    assert_eq!(
        page(&client, &format!("?limit=2&before={}&status=Failed", odd[1])),
        (odd[2..].to_vec(), None)
    );
    assert_eq!(page(&client, "?status=Running"), (vec![], None));
    // Each is told as it is by itself.
    let one = client.get(&format!("/payloads/{}", ids[0])).text();
    assert!(client.get("/payloads?limit=1").text().starts_with(&format!("{{\"payloads\":[{one}],\"next\":")));
}

#[test]
fn what_the_list_cannot_give_is_400_and_says_why() {
    let client = Client::start();
    for (query, word) in [
        ("limit=0", "limit"),
        ("limit=1000000", "limit"),
        ("limit=ten", "limit"),
        ("before=x", "before"),
        ("before=99999999999", "before"),
        ("status=Done", "status"),
    ] {
        let answer = client.get(&format!("/payloads?{query}"));
        assert_eq!(answer.error(400), "bad_request");
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[test]
fn a_payload_is_told_by_json_whatever_its_status() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let completed = client.run("true");
    client.ended(&completed);
    let failed = client.run("exit 3");
    client.ended(&failed);
    let running = client.run(WAITS);
    client.wait_for_file(&running, "begun");
    let waiting = client.run("true");
    for (id, status) in
        [(&completed, "Completed"), (&failed, "Failed"), (&running, "Running"), (&waiting, "Prepared")]
    {
        let answer = client.get(&format!("/payloads/{id}"));
        assert_eq!((answer.status, answer.json("id")), (200, Some(id.clone())));
        assert_eq!(answer.json("status").as_deref(), Some(status));
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(wire::call(client.address, "HEAD", &format!("/payloads/{id}")).status, 200);
    }
    for unknown in ["0", "x", "2147483647", ""] {
        assert_eq!(client.get(&format!("/payloads/{unknown}")).error(404), "unknown_id");
        assert_eq!(delete(&client, unknown).error(404), "unknown_id");
    }
    assert_eq!(client.post(&format!("/payloads/{completed}")).error(405), "method_not_allowed");
    assert_eq!(
        client.post(&format!("/payloads/{completed}")).header("allow").as_deref(),
        Some("GET, HEAD, DELETE")
    );
}

#[test]
fn a_payload_that_has_ended_is_removed_for_good() {
    let (_home, data) = place();
    let client = Client::at(&data, &[]);
    let kept = client.run("true");
    client.ended(&kept);
    let id = client.run("mkdir -p deep/er; echo x > deep/er/file; chmod 0 deep");
    client.ended(&id);
    for _ in 0..2 {
        let answer = delete(&client, &id);
        assert_eq!(
            (answer.status, answer.json("status").as_deref()),
            (200, Some("Cleaned")),
            "{}",
            answer.text()
        );
        assert_eq!(client.directories().len(), 1, "the other one stays");
    }
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).error(404), "cleaned");
    assert_eq!(client.result(&id).json("status").as_deref(), Some("Cleaned"));
    assert_eq!(client.result(&kept).status, 200);
    client.kill();
    let client = Client::at(&data, &[]);
    assert_eq!(client.get(&format!("/payloads/{id}")).error(404), "unknown_id");
    assert_eq!(client.get(&format!("/payloads/{kept}")).status, 200);
}

#[test]
fn a_payload_that_runs_or_waits_is_ended_first() {
    let client = Client::with(&[("MAX_JOBS", "1"), ("KILL_GRACE", "1")]);
    let running = client.run(&format!("trap '' TERM; {WAITS}"));
    client.wait_for_file(&running, "begun");
    let waiting = client.run("true");
    for id in [&waiting, &running] {
        let answer = delete(&client, id);
        assert_eq!(
            (answer.status, answer.json("status").as_deref()),
            (200, Some("Cleaned")),
            "{}",
            answer.text()
        );
        assert_eq!(answer.json("killed").as_deref(), Some("true"));
        assert!(processes_of(id).is_empty());
    }
    assert!(client.directories().is_empty());
    client.must_be_well_and_empty("two removals");
}

#[test]
fn what_takes_long_to_end_is_202_and_removed_when_it_has() {
    // Looked for after an eighth of that.
    let client = Client::with(&[("KILL_GRACE", "600"), ("MAX_AGE", "16")]);
    let id = client.run(&format!("trap '' TERM; {WAITS}"));
    let begun = client.wait_for_file(&id, "begun");
    let answer = delete(&client, &id);
    assert_eq!((answer.status, answer.json("status").as_deref()), (202, Some("Killed")), "{}", answer.text());
    assert!(begun.exists());
    std::fs::write(begun.with_file_name("go"), "").unwrap();
    let is_cleaned = || (client.get(&format!("/payloads/{id}")).json("status")? == "Cleaned").then_some(());
    wait_for("the removal", is_cleaned);
    wait_for("the directory", || client.directories().is_empty().then_some(()));
}

/// The caller has gone, and so has the client: the next life knows that it was asked for.
#[test]
fn a_removal_that_was_asked_for_is_done_by_the_next_life() {
    let (_home, data) = place();
    let client = Client::at(&data, &[("KILL_GRACE", "600")]);
    let id = client.run(&format!("trap '' TERM; {WAITS}"));
    client.wait_for_file(&id, "begun");
    let mut caller = connect(client.address);
    write!(caller, "DELETE /payloads/{id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_for("the kill", || (client.get(&format!("/payloads/{id}")).json("killed")? == "true").then_some(()));
    drop(caller);
    assert_eq!(client.directories().len(), 1);
    client.kill();
    let client = Client::at(&data, &[]);
    let is_cleaned = || (client.get(&format!("/payloads/{id}")).json("status")? == "Cleaned").then_some(());
    wait_for("the removal", is_cleaned);
    wait_for("the directory", || client.directories().is_empty().then_some(()));
}

#[test]
fn a_result_that_is_being_sent_is_sent_to_its_end() {
    // What could not be removed is tried again after an eighth of that.
    let client = Client::with(&[("MAX_AGE", "40")]);
    let id = client.run("head -c 20000000 /dev/urandom > noise");
    client.ended(&id);
    let directory = client.directories().remove(0);
    let mut reader = connect(client.address);
    write!(reader, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = vec![0; 1000];
    reader.read_exact(&mut first).unwrap();
    let answer = delete(&client, &id);
    assert_eq!((answer.status, answer.json("status").as_deref()), (200, Some("Cleaned")));
    assert!(Path::new(&directory).exists(), "it is being read");
    reader.read_to_end(&mut first).unwrap();
    let answer = read_answer(&mut first.as_slice(), false);
    assert!(answer.files().iter().any(|(name, content)| name == "noise" && content.len() == 20_000_000));
    client.wait_for_log("directory removed at last");
    assert!(!directory.exists());
}
