//! Rooms: a payload sees its own processes and files alone, leaves nothing for the next one, and nothing of it escapes. Each test has a
//! control that shows the same without, or a payload beside it that lives on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::client::{Client, children_of, is_alive, line_of, place, uncontained, wait_for};
use crate::sleepers::Sleepers;
use crate::wire::Answer;

/// Whether payloads of this client have rooms. Not so where the host refuses namespaces, which the output tells.
fn has_rooms(client: &Client) -> bool {
    let has = client.log().lines().any(|line| line.contains("listening") && line.contains("pid_namespace"));
    if !has {
        println!("skipped: {}", client.log());
    }
    has
}

fn out(answer: &Answer) -> String {
    answer.file(".orchestrator.out")
}

fn ran(client: &Client, script: &str) -> String {
    out(&client.ended(&client.run(script)))
}

/// The keepers of its rooms.
fn keepers(client: &Client) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", client.pid())).unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let is_keeper = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|command| command.starts_with(b"job-orchestrator\0keeper\0"))
    };
    pids.filter(is_keeper).collect()
}

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
}

#[test]
fn a_payload_sees_no_process_but_its_own() {
    let client = Client::with(&[("SANDBOX", "best")]);
    if !has_rooms(&client) {
        return;
    }
    let look = format!(
        "#!/bin/sh\n[ -e /proc/{0} ] && echo client\nkill -0 {0} 2>/dev/null && echo signal\n[ -e /proc/$$/stat ] && echo own\n",
        client.pid()
    );
    assert_eq!(ran(&client, &look), "own\n");
    let open = Client::with(&uncontained(&[]));
    assert_eq!(
        ran(&open, &look.replace(&client.pid().to_string(), &open.pid().to_string())),
        "client\nsignal\nown\n"
    );
}

#[test]
fn a_signal_to_all_reaches_the_own_processes_alone() {
    let client = Client::with(&[("SANDBOX", "best"), ("MAX_JOBS", "2")]);
    if !has_rooms(&client) {
        return;
    }
    let lasting =
        client.run("#!/bin/sh\necho > runs\nwhile ! [ -e go ]; do sleep 0.02; done\necho through\n");
    let file = client.wait_for_file(&lasting, "runs");
    let answer = client.ended(&client.run("#!/bin/sh\nsleep 600 &\nkill -9 -1\nsleep 0.1\nkill -9 $$\n"));
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    fs::write(file.with_file_name("go"), "").unwrap();
    assert_eq!(out(&client.ended(&lasting)), "through\n");
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn a_payload_sees_no_other_and_no_home_and_writes_nothing_outside() {
    let client = Client::with(&[("SANDBOX", "best"), ("MAX_JOBS", "1")]);
    if !has_rooms(&client) {
        return;
    }
    client.ended(&client.run("#!/bin/sh\necho secret > secret\n"));
    let look = "#!/bin/sh\ncat ../*/secret 2>/dev/null\nls -A /root /home /run 2>/dev/null | grep -v '^$\\|:$'\n\
                touch ../here 2>/dev/null && echo beside\necho end\n";
    assert_eq!(ran(&client, look), "end\n");
    assert!(!client.data.join("here").exists());
    let open = Client::with(&uncontained(&[("MAX_JOBS", "1")]));
    open.ended(&open.run("#!/bin/sh\necho secret > secret\n"));
    let seen = ran(&open, look);
    assert!(seen.starts_with("secret\n") && seen.ends_with("beside\nend\n"), "{seen}");
}

#[test]
fn temporary_places_are_private_writable_and_gone_afterwards() {
    let client = Client::with(&[("SANDBOX", "best"), ("MAX_JOBS", "1")]);
    if !has_rooms(&client) {
        return;
    }
    let name = format!("of-{}", client.pid());
    let script = format!(
        "#!/bin/sh\nfor at in /tmp /var/tmp /dev/shm; do [ -e $at/{name} ] && echo found; done\n\
         for at in /tmp /var/tmp /dev/shm \"$TMPDIR\"; do echo x > $at/{name} || echo closed; done\necho end\n"
    );
    for _ in 0..2 {
        assert_eq!(ran(&client, &script), "end\n");
    }
    assert!(!Path::new("/tmp").join(name).exists());
}

#[test]
fn the_pid_that_is_told_is_the_hosts() {
    let client = Client::with(&[("SANDBOX", "best")]);
    if !has_rooms(&client) {
        return;
    }
    let id = client.run("#!/bin/sh\necho $$ > pid\nsleep 600\n");
    let inside = line_of(&client.wait_for_file(&id, "pid"));
    let pid =
        client.retrieve_when(&id, |answer| answer.json("pid").as_deref() != Some("0")).json("pid").unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("NSpid:\t{pid}\t{inside}\n")), "{status}");
    assert_eq!(children_of(client.pid()).iter().filter(|(child, _)| *child == pid).count(), 1);
    kill(&pid);
    assert_eq!(client.ended(&id).json("signal").as_deref(), Some("9"));
}

/// In a session of its own, with no environment and no output: nothing shows where it comes from.
fn hidden(time: &str, then: &str) -> String {
    format!(
        "#!/bin/sh\n(cd /; exec env -i setsid sleep {time} >/dev/null 2>&1 </dev/null) &\necho > begun\n{then}\n"
    )
}

#[test]
fn what_hides_where_it_comes_from_ends_with_its_payload_and_with_the_client() {
    let (_home, data) = place();
    let client = Client::at(&data, &[("MAX_JOBS", "2"), ("LINGER", "0")]);
    if !has_rooms(&client) {
        return;
    }
    let sleepers = Sleepers::new();
    let lasting = Sleepers::new();
    let other = client.run(&hidden(&lasting.time, "sleep 600"));
    client.wait_for_file(&other, "begun");
    wait_for("the other's", || (lasting.pids().len() == 1).then_some(()));
    let answer = client.ended(&client.run(&hidden(&sleepers.time, "sleep 0.2")));
    assert_eq!(answer.json("status").as_deref().unwrap_or("Completed"), "Completed");
    assert_eq!(sleepers.pids(), Vec::<String>::new());
    assert_eq!(lasting.pids().len(), 1);
    client.kill();
    wait_for("the end of all", || lasting.pids().is_empty().then_some(()));
}

#[test]
fn a_room_whose_keeper_was_ended_is_replaced() {
    let client = Client::with(&[("SANDBOX", "best"), ("MAX_JOBS", "1")]);
    if !has_rooms(&client) {
        return;
    }
    assert_eq!(ran(&client, "#!/bin/sh\necho first\n"), "first\n");
    // One that is free.
    let before = keepers(&client);
    assert_eq!(before.len(), 1);
    kill(&before[0]);
    client.wait_for_log("the keeper of a room has ended");
    assert_eq!(ran(&client, "#!/bin/sh\necho second\n"), "second\n");
    // One that a payload lives in, which ends with it.
    let sleepers = Sleepers::new();
    let id = client.run(&hidden(&sleepers.time, "sleep 600"));
    client.wait_for_file(&id, "begun");
    wait_for("the sleeper", || (sleepers.pids().len() == 1).then_some(()));
    let taken = keepers(&client);
    assert!(taken.len() == 1 && taken != before);
    kill(&taken[0]);
    let answer = client.ended(&id);
    assert_eq!(answer.json("signal").as_deref(), Some("9"), "{}", answer.text());
    assert!(sleepers.pids().is_empty() && !is_alive(&taken[0]));
    assert_eq!(ran(&client, "#!/bin/sh\necho third\n"), "third\n");
}

#[test]
fn a_room_is_used_again_and_what_a_kill_ends_with_sigkill_gets_another_one() {
    let client = Client::with(&[("SANDBOX", "best"), ("MAX_JOBS", "1"), ("KILL_GRACE", "100ms")]);
    if !has_rooms(&client) {
        return;
    }
    for _ in 0..3 {
        ran(&client, "#!/bin/sh\ntrue\n");
    }
    let first = keepers(&client);
    let id = client.run("#!/bin/sh\ntrap '' TERM\necho > begun\nwhile :; do sleep 0.05; done\n");
    client.wait_for_file(&id, "begun");
    assert_eq!(keepers(&client), first, "the same for all");
    client.post(&format!("/kill/{id}"));
    assert_eq!(client.ended(&id).json("status").as_deref(), Some("Killed"));
    assert_eq!(ran(&client, "#!/bin/sh\necho on\n"), "on\n");
    assert_ne!(keepers(&client), first);
}
