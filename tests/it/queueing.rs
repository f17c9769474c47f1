//! Slots: how many payloads run at once, in which order they start, how soon, and how long they may run.

use std::fs;
use std::time::{Duration, Instant};

use crate::client::{Client, is_alive, pid_in, processes_of, uncontained, wait_for};

/// Runs until the test makes the file `go` beside the payload directories.
const UNTIL_GO: &str = "#!/bin/sh\necho > ../began.$PAYLOAD_ID\nwhile ! [ -e ../go ]; do sleep 0.02; done\n";

fn began(client: &Client) -> usize {
    let entries = fs::read_dir(&client.data).unwrap();
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("began."))
        .count()
}

#[test]
fn one_slot_runs_payloads_in_the_order_of_their_submits() {
    let client = Client::with(&uncontained(&[("MAX_JOBS", "1")]));
    let first = client.run(UNTIL_GO);
    wait_for("the first start", || (began(&client) == 1).then_some(()));
    let ids: Vec<String> = (0..20).map(|_| client.run("#!/bin/sh\necho $PAYLOAD_ID >> ../order\n")).collect();
    for id in &ids {
        assert_eq!(client.get(&format!("/retrieve/{id}")).json("status").as_deref(), Some("Prepared"));
    }
    assert_eq!((client.health("running"), client.health("waiting")), (1, 20));
    fs::write(client.data.join("go"), "").unwrap();
    client.result(&first);
    for id in &ids {
        client.result(id).file(".orchestrator.exit");
    }
    let order = fs::read_to_string(client.data.join("order")).unwrap();
    assert_eq!(order.lines().collect::<Vec<_>>(), ids);
}

#[test]
fn as_many_payloads_as_slots_run_at_once_and_no_more() {
    let client = Client::with(&uncontained(&[("MAX_JOBS", "3")]));
    let ids: Vec<String> = (0..7).map(|_| client.run(UNTIL_GO)).collect();
    wait_for("three at once", || (began(&client) == 3).then_some(()));
    // A fourth would have been started by the same turn of the runner's loop that makes room for this one to be killed.
    assert_eq!(client.post(&format!("/kill/{}", ids[6])).status, 200);
    client.ended(&ids[6]);
    assert_eq!((client.health("running"), client.health("waiting"), began(&client)), (3, 3, 3));
    let statuses: Vec<_> =
        ids[..6].iter().map(|id| client.get(&format!("/retrieve/{id}")).json("status").unwrap()).collect();
    assert_eq!(statuses, ["Running", "Running", "Running", "Prepared", "Prepared", "Prepared"]);
    fs::write(client.data.join("go"), "").unwrap();
    for id in &ids[..6] {
        client.result(id).file(".orchestrator.exit");
    }
    assert_eq!((client.health("running"), client.health("waiting")), (0, 0));
}

#[test]
fn a_slot_that_comes_free_is_taken_at_once() {
    let client = Client::with(&[("MAX_JOBS", "2"), ("LOG", "warn")]);
    let started = Instant::now();
    let ids: Vec<String> = (0..100).map(|_| client.run("exit 0")).collect();
    for id in &ids {
        client.result(id).file(".orchestrator.exit");
    }
    // Fifty in a row on each slot: a runner that looks ten times a second would need five seconds for that.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_payload_starts_within_milliseconds_of_its_submit() {
    let client = Client::start();
    let mut delays: Vec<Duration> = (0..9)
        .map(|_| {
            let id = client.run("exit 0");
            let submitted = Instant::now();
            client.result(&id);
            submitted.elapsed()
        })
        .collect();
    delays.sort_unstable();
    // To the end even, and in a debug build beside other tests; the median, since a single one may meet a busy machine.
    assert!(delays[4] < Duration::from_millis(200), "{delays:?}");
}

#[test]
fn a_payload_over_its_time_limit_is_killed_and_says_why() {
    let client = Client::with(&[("TIME_LIMIT", "1"), ("KILL_GRACE", "1")]);
    let script = "#!/bin/sh\n\
                  setsid sh -c 'trap \"\" TERM; echo $$ > session; while :; do sleep 0.1; done' &\n\
                  trap 'echo tidy > tidied; exit 0' TERM\n\
                  while :; do sleep 0.1; done\n";
    let id = client.run(script);
    let pid = pid_in(&client.wait_for_file(&id, "session"));
    let answer = client.ended(&id);
    assert_eq!(answer.json("status").as_deref(), Some("Killed"));
    assert_eq!(answer.json("killed").as_deref(), Some("true"));
    let error = answer.json("error").unwrap();
    assert!(error.contains("TIME_LIMIT") && error.contains("1s"), "{error}");
    let wall_s: f64 = answer.json("wall_s").unwrap().parse().unwrap();
    assert!(wall_s >= 1.0, "{wall_s}");
    assert!(!is_alive(&pid));
    assert_eq!(processes_of(&id), Vec::<String>::new());
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).file("tidied"), "tidy\n");
}

#[test]
fn the_time_limit_counts_from_the_start_and_not_from_the_submit() {
    let client = Client::with(&[("TIME_LIMIT", "3"), ("MAX_JOBS", "1")]);
    let ids = [client.run("sleep 1.6"), client.run("sleep 1.6")];
    for id in &ids {
        client.result(id).file(".orchestrator.exit");
    }
}
