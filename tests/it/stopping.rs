//! SIGTERM and SIGINT: what is still answered, what becomes of payloads that run and wait, and how the client goes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, is_alive, pid_in, processes_of, wait_for};
use crate::wire;

const UNTIL_GO: &str =
    "#!/bin/sh\necho $$ > pid\nwhile ! [ -e go ]; do sleep 0.02; done\necho result > made\n";
const UNSTOPPABLE: &str = "#!/bin/sh\n\
                           setsid sh -c 'trap \"\" TERM; echo $$ > session; while :; do sleep 0.1; done' &\n\
                           trap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n";

/// Starts `UNTIL_GO` and waits until it runs. Gives the id and the pid.
fn start(client: &Client, script: &str) -> (String, String) {
    let id = client.run(script);
    let pid = pid_in(&client.wait_for_file(&id, "pid"));
    (id, pid)
}

fn go(client: &Client, id: &str) {
    fs::write(client.loc(id).join("go"), "").unwrap();
}

/// Sends the signal and waits until it has been heard.
fn stop(client: &Client, signal: &str) {
    client.signal(signal);
    wait_for("draining", || {
        (client.get("/health").json("draining").as_deref() == Some("true")).then_some(())
    });
}

/// Signals once more, when that is no part of the first signal any more, and waits for the end.
fn end_at_once(client: &mut Client, signal: &str) {
    thread::sleep(Duration::from_millis(1100));
    client.signal(signal);
    assert!(client.wait().code().is_some(), "it did not end by itself");
}

/// A submit that has been sent up to its last byte, and that byte.
fn upload_under_way(client: &Client) -> (std::net::TcpStream, Vec<u8>) {
    let before = client.directories().len();
    let mut body = wire::form(&[("run.sh", b"exit 0"), ("data", &vec![b'x'; 100_000])]);
    let rest = body.split_off(body.len() - 1);
    let mut stream = wire::connect(client.address);
    stream.write_all(wire::submit_head(body.len() + 1).as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    wait_for("a directory", || (client.directories().len() > before).then_some(()));
    (stream, rest)
}

#[test]
fn an_idle_client_ends_at_once_and_well() {
    for signal in ["TERM", "INT"] {
        let mut client = Client::start();
        client.result(&client.run("exit 0"));
        let asked = Instant::now();
        client.signal(signal);
        assert_eq!(client.wait().code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
}

#[test]
fn an_open_connection_without_a_request_does_not_hold_the_client() {
    let mut client = Client::start();
    let mut half = wire::connect(client.address);
    half.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let _idle = wire::connect(client.address);
    client.get("/health");
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
}

#[test]
fn a_stopping_client_takes_nothing_new_and_answers_for_what_it_has() {
    for signal in ["TERM", "INT"] {
        let mut client = Client::with(&[("MAX_JOBS", "2"), ("RECOVER", "off")]);
        let (slow, _) = start(&client, UNTIL_GO);
        let (quick, _) = start(&client, UNTIL_GO);
        let waiting = client.run("#!/bin/sh\necho > made\n");
        let directory = client.loc(&waiting);
        stop(&client, signal);

        let before = client.directories().len();
        let refused = wire::submit_form(client.address, &wire::form(&[("run.sh", b"exit 0")]));
        assert_eq!((refused.status, refused.json("error").as_deref()), (503, Some("stopping")));
        assert_eq!(client.directories().len(), before);
        assert_eq!(client.get("/health").status, 200);
        assert_eq!(client.get(&format!("/retrieve/{slow}")).json("status").as_deref(), Some("Running"));
        client.get(&format!("/retrieve_partial/{slow}")).file("pid");
        assert_eq!(client.post("/kill/0").status, 404);

        let never_started = client.ended(&waiting);
        assert_eq!(never_started.json("status").as_deref(), Some("Killed"));
        assert_eq!(never_started.json("killed").as_deref(), Some("true"));
        assert_eq!(never_started.json("started_at").as_deref(), Some("null"));
        let reason = never_started.json("error").unwrap();
        assert!(reason.contains("client was stopped"), "{reason}");

        go(&client, &quick);
        assert_eq!(client.result(&quick).file("made"), "result\n");
        go(&client, &slow);
        assert_eq!(client.wait().code(), Some(0));
        assert!(!directory.join("made").exists());
        let of_slow = fs::read_dir(&client.data).unwrap().flatten();
        assert_eq!(of_slow.filter(|entry| entry.path().join("made").exists()).count(), 2);
    }
}

/// What a payload leaves behind is ended link by link: only the end of a parent brings its child here.
#[test]
fn a_stop_right_after_the_end_of_a_payload_leaves_no_process() {
    let mut client = Client::start();
    let id = client.submit(&[
        ("run.sh", b"#!/bin/sh\nsetsid ./link 60 &\nwhile ! [ -e deepest ]; do sleep 0.02; done\n"),
        ("link", b"#!/bin/sh\nif [ $1 = 0 ]; then echo > deepest; sleep 600; else setsid ./link $(($1-1)); fi\n:\n"),
    ]);
    client.result(&id).file("deepest");
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
    let left = processes_of(&id);
    for pid in &left {
        let _ = Command::new("kill").args(["-KILL", pid]).status();
    }
    assert!(left.is_empty(), "{} processes are left", left.len());
}

#[test]
fn a_stopping_client_still_kills_on_request() {
    let mut client = Client::start();
    let (id, pid) = start(&client, UNTIL_GO);
    stop(&client, "TERM");
    assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    assert_eq!(client.wait().code(), Some(0));
    assert!(!is_alive(&pid));
}

#[test]
fn a_payload_that_outlives_the_grace_is_killed_and_told_why() {
    let mut client = Client::with(&[("GRACE", "1"), ("KILL_GRACE", "2")]);
    let (id, pid) = start(&client, UNSTOPPABLE);
    let session = pid_in(&client.wait_for_file(&id, "session"));
    let asked = Instant::now();
    client.signal("TERM");
    // It ignores SIGTERM, so the client has to stay for KILL_GRACE, and can be asked.
    let answer = client.retrieve_when(&id, |answer| answer.status != 202);
    assert!(asked.elapsed() >= Duration::from_secs(1), "it had no grace");
    assert_eq!(answer.json("status").as_deref(), Some("Killed"));
    assert_eq!(answer.json("killed").as_deref(), Some("true"));
    let reason = answer.json("error").unwrap();
    assert!(reason.contains("client was stopped"), "{reason}");
    assert!(is_alive(&pid));
    assert_eq!(client.wait().code(), Some(0));
    assert!(!is_alive(&pid) && !is_alive(&session));
}

#[test]
fn a_payload_that_heeds_sigterm_may_tidy_up_when_the_client_stops() {
    let mut client = Client::with(&[("GRACE", "0"), ("KILL_GRACE", "20")]);
    let script = "#!/bin/sh\ntrap 'sleep 0.2; echo tidy > tidied; exit 0' TERM\necho $$ > pid\n\
                  while :; do sleep 0.05; done\n";
    let (id, pid) = start(&client, script);
    let directory = client.loc(&id);
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
    assert!(!is_alive(&pid));
    assert_eq!(fs::read_to_string(directory.join("tidied")).unwrap(), "tidy\n");
    assert_eq!(fs::read_to_string(directory.join(".orchestrator.exit")).unwrap().trim(), "0");
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut client = Client::with(&[("KILL_GRACE", "600"), ("GRACE", "600")]);
        let (id, pid) = start(&client, UNSTOPPABLE);
        let session = pid_in(&client.wait_for_file(&id, "session"));
        stop(&client, first);
        end_at_once(&mut client, second);
        assert!(!is_alive(&pid) && !is_alive(&session));
    }
}

#[test]
fn a_second_signal_ends_a_payload_that_is_being_ended_already() {
    let mut client = Client::with(&[("KILL_GRACE", "600"), ("GRACE", "600")]);
    let (id, pid) = start(&client, UNSTOPPABLE);
    let session = pid_in(&client.wait_for_file(&id, "session"));
    assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    stop(&client, "TERM");
    end_at_once(&mut client, "TERM");
    assert!(!is_alive(&pid) && !is_alive(&session));
}

/// `timeout 3 job-orchestrator client` signals the client, and then its whole group.
#[test]
fn two_signals_within_a_moment_are_one() {
    let mut client = Client::with(&[("GRACE", "600"), ("MAX_JOBS", "1")]);
    let (id, _) = start(&client, UNTIL_GO);
    client.run("exit 0");
    client.signal("TERM");
    client.signal("CONT");
    client.signal("TERM");
    client.signal("INT");
    client.wait_for_log("client stopping grace_s=600 running=1 waiting=1");
    thread::sleep(Duration::from_millis(1500));
    go(&client, &id);
    client.result(&id).file("made");
    assert_eq!(client.wait().code(), Some(0));
    assert!(!client.log().contains("second signal"), "{}", client.log());
}

#[test]
fn a_response_under_way_is_completed_before_the_client_goes() {
    let mut client = Client::start();
    let (id, _) = start(&client, UNTIL_GO);
    // Far more than the sockets' buffers hold, and not compressible.
    let made = client.run("#!/bin/sh\nhead -c 33554432 /dev/urandom > random\n");
    client.retrieve_when(&made, |answer| answer.status == 200);
    let mut stream = wire::connect(client.address);
    write!(stream, "GET /retrieve/{made} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = [0; 17];
    stream.read_exact(&mut first).unwrap();
    stop(&client, "TERM");
    // The last payload ends now, so that only this response is left to wait for.
    let last = client.loc(&id).join(".orchestrator.exit");
    go(&client, &id);
    wait_for("the end of the last payload", || last.exists().then_some(()));
    let answer = wire::read_answer(&mut first.chain(&mut stream), false);
    assert_eq!(answer.files().iter().find(|file| file.0 == "random").unwrap().1.len(), 33_554_432);
    assert_eq!(client.wait().code(), Some(0));
}

#[test]
fn a_reader_that_stands_still_does_not_hold_the_client_beyond_the_grace() {
    let mut client = Client::with(&[("GRACE", "1")]);
    let made = client.run("#!/bin/sh\nhead -c 33554432 /dev/urandom > random\n");
    client.retrieve_when(&made, |answer| answer.status == 200);
    let mut stream = wire::connect(client.address);
    write!(stream, "GET /retrieve/{made} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 17]).unwrap();
    let asked = Instant::now();
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn an_upload_that_ends_while_the_client_stops_is_refused_or_kept_for_the_next_life() {
    let mut client = Client::start();
    let (running, _) = start(&client, UNTIL_GO);
    let (mut stream, rest) = upload_under_way(&client);
    stop(&client, "TERM");
    stream.write_all(&rest).unwrap();
    let answer = wire::read_answer(&mut stream, false);
    if answer.status == 503 {
        wait_for("the removal of its directory", || (client.directories().len() == 1).then_some(()));
    } else {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let waits = client.get(&format!("/retrieve/{}", answer.json("id").unwrap()));
        assert_eq!(waits.json("status").as_deref(), Some("Prepared"), "{}", waits.text());
    }
    go(&client, &running);
    assert_eq!(client.wait().code(), Some(0));
}

/// With nothing else to wait for, the client goes when it has answered: a 200 would promise what it will not do.
#[test]
fn the_last_upload_of_a_stopping_client_is_refused_and_leaves_nothing() {
    let mut client = Client::start();
    let (mut stream, rest) = upload_under_way(&client);
    stop(&client, "TERM");
    stream.write_all(&rest).unwrap();
    let answer = wire::read_answer(&mut stream, false);
    assert_eq!(
        (answer.status, answer.json("error").as_deref()),
        (503, Some("stopping")),
        "{}",
        answer.text()
    );
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(client.directories().len(), 0);
}

/// The server asks twice a second: a client that left with the last end would take the result with it.
#[test]
fn a_result_that_comes_while_the_client_stops_can_still_be_fetched() {
    let mut client = Client::start();
    let id = client.run("#!/bin/sh\necho > runs\nwhile ! [ -e go ]; do sleep 0.02; done\n");
    let runs = client.wait_for_file(&id, "runs");
    client.signal("TERM");
    wait_for("the stop", || client.log().contains("client stopping").then_some(()));
    fs::write(runs.with_file_name("go"), "").unwrap();
    wait_for("the end of the payload", || client.log().contains("payload ended").then_some(()));
    thread::sleep(Duration::from_millis(500)); // as long as the server may take to ask
    assert_eq!(client.result(&id).file(".orchestrator.exit"), "0\n");
    assert!(client.wait().success());
}
