//! MAX_DISK and MAX_LOG: what a payload may leave on the disk.

use std::fs;
use std::time::{Duration, Instant};

use crate::client::{Client, is_alive, pid_in, wait_for};

#[test]
fn a_payload_whose_directory_grows_too_large_is_killed_and_says_why() {
    let client = Client::with(&[("MAX_DISK", "3000000"), ("KILL_GRACE", "1")]);
    let small = client.run("#!/bin/sh\nhead -c 1000000 /dev/zero > data\nsleep 2\n");
    let large = client
        .run("#!/bin/sh\necho $$ > pid\nmkdir -p a/b\nhead -c 5000000 /dev/zero > a/b/data\nsleep 1000\n");
    let pid = pid_in(&client.wait_for_file(&large, "pid"));
    let answer = client.ended(&large);
    assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
    assert!(answer.json("error").unwrap().contains("MAX_DISK, 3000000 bytes"), "{}", answer.text());
    assert!(!is_alive(&pid));
    client.result(&small).file("data");
    client.must_be_well_and_empty("a payload over MAX_DISK");
}

#[test]
fn output_is_kept_by_head_and_tail_within_its_bound() {
    let client = Client::with(&[("MAX_LOG", "10000")]);
    let script = "#!/bin/sh\necho first\nseq 1000000\necho last\necho error >&2\nexit 0\n";
    let answer = client.result(&client.run(script));
    let out = answer.file(".orchestrator.out");
    assert!(out.len() <= 10_000, "{}", out.len());
    assert!(out.starts_with("first\n1\n2\n") && out.ends_with("\n1000000\nlast\n"), "{out}");
    assert!(out.contains("bytes are left out here: MAX_LOG]"), "{out}");
    assert_eq!(answer.file(".orchestrator.err"), "error\n");
    assert_eq!(answer.file(".orchestrator.exit").trim(), "0");
}

#[test]
fn output_within_the_bound_is_whole_and_the_beginning_is_there_while_it_runs() {
    let client = Client::with(&[("MAX_LOG", "10000")]);
    let id =
        client.run("#!/bin/sh\nseq 500\necho > there\nwhile ! [ -e go ]; do sleep 0.02; done\nprintf end\n");
    let there = client.wait_for_file(&id, "there");
    let numbers: Vec<String> = (1..=500).map(|number| number.to_string()).collect();
    let head = numbers.join("\n") + "\n";
    wait_for("the head", || {
        (client.get(&format!("/retrieve_partial/{id}")).file(".orchestrator.out") == head).then_some(())
    });
    fs::write(there.with_file_name("go"), "").unwrap();
    assert_eq!(client.result(&id).file(".orchestrator.out"), head + "end");
}

/// The end of a payload is not the end of its output, where somebody holds it.
#[test]
fn a_daemon_that_holds_the_output_or_a_payload_that_closes_it_ends_all_the_same() {
    let client = Client::with(&[("MAX_LOG", "10000")]);
    let begun = Instant::now();
    let held = client.run("#!/bin/sh\necho before\nsetsid sleep 1000 &\n");
    let closed = client.run("#!/bin/sh\necho before\nexec >&- 2>&-\nexit 0\n");
    let flooded = client.run("#!/bin/sh\n(setsid yes &)\nexec >&-\nsleep 0.3\n");
    assert_eq!(client.result(&held).file(".orchestrator.out"), "before\n");
    assert_eq!(client.result(&closed).file(".orchestrator.out"), "before\n");
    assert!(client.result(&flooded).file(".orchestrator.out").len() <= 10_000);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    client.must_be_well_and_empty("payloads with odd ways with their output");
}

#[test]
fn bounded_output_leaves_no_descriptor_behind() {
    let client = Client::with(&[("MAX_LOG", "10000")]);
    let count = || fs::read_dir(format!("/proc/{}/fd", client.pid())).unwrap().count();
    client.result(&client.run("echo"));
    let before = count();
    for _ in 0..50 {
        client.result(&client.run("seq 10000"));
    }
    wait_for("as few as before", || (count() <= before + 2).then_some(()));
}
