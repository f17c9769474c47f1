//! `/kill`: which payloads it ends, how, and what it leaves alone, also where it races with the payload's own end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE, is_alive, pid_in, place, processes_of, wait_for};
use crate::wire::{self, Answer};

fn kill(client: &Client, id: &str) {
    let answer = client.post(&format!("/kill/{id}"));
    assert_eq!((answer.status, answer.body.len()), (200, 0), "{}", answer.text());
}

fn assert_killed(answer: &Answer) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
    assert_eq!(answer.json("killed").as_deref(), Some("true"));
    assert_eq!(answer.json("error").as_deref(), Some("killed by request"));
}

/// Kills a payload that runs, and gives the answer once no process of it is left.
fn kill_and_wait(client: &Client, id: &str) -> Answer {
    kill(client, id);
    assert_killed(&client.get(&format!("/retrieve/{id}")));
    let answer = client.ended(id);
    assert_killed(&answer);
    assert_eq!(processes_of(id), Vec::<String>::new());
    answer
}

/// Starts a script, and gives its id and the processes that it names in `files`.
fn start(client: &Client, script: &str, files: &[&str]) -> (String, Vec<String>) {
    let id = client.run(script);
    let pids = files.iter().map(|file| pid_in(&client.wait_for_file(&id, file))).collect();
    (id, pids)
}

fn assert_gone(pids: &[String]) {
    for pid in pids {
        assert!(!is_alive(pid), "process {pid} is left");
    }
}

#[test]
fn kill_ends_a_payload_that_runs_and_its_row_says_so() {
    let client = Client::start();
    let (id, pids) = start(&client, "#!/bin/sh\necho $$ > pid\nsleep 600\n", &["pid"]);
    let answer = kill_and_wait(&client, &id);
    assert_gone(&pids);
    assert_eq!(answer.json("signal").as_deref(), Some("15"));
    assert_eq!(answer.json("exit_code").as_deref(), Some("null"));
    assert_eq!(answer.json("pid"), Some(pids[0].clone()));
    assert_ne!(answer.json("started_at").as_deref(), Some("null"));
    let files = client.get(&format!("/retrieve_partial/{id}"));
    assert_eq!(files.file(".orchestrator.exit").trim(), "143");
}

#[test]
fn kill_keeps_a_waiting_payload_from_ever_starting() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    let (first, _) =
        start(&client, "#!/bin/sh\necho $$ > pid\nwhile ! [ -e go ]; do sleep 0.02; done\n", &["pid"]);
    let killed = client.run("#!/bin/sh\necho > made\n");
    let after = client.run("#!/bin/sh\necho > made\n");
    let directory = client.loc(&killed);
    kill(&client, &killed);
    let answer = client.get(&format!("/retrieve/{killed}"));
    assert_killed(&answer);
    for field in ["started_at", "exit_code", "signal"] {
        assert_eq!(answer.json(field).as_deref(), Some("null"), "{field}");
    }
    assert_eq!(answer.json("pid").as_deref(), Some("0"));
    assert_ne!(answer.json("finished_at").as_deref(), Some("null"));
    fs::write(client.loc(&first).join("go"), "").unwrap();
    // The one behind it has run, so its own turn is over.
    client.result(&after).file("made");
    assert!(!directory.join("made").exists());
    assert!(!directory.join(".orchestrator.out").exists());
    assert_killed(&client.get(&format!("/retrieve/{killed}")));
    assert_eq!(client.get(&format!("/retrieve_partial/{killed}")).files().len(), 1);
}

#[test]
fn kill_leaves_an_ended_payload_as_it_is() {
    let client = Client::start();
    let completed = client.run("exit 0");
    let failed = client.run("exit 3");
    let invalid = client.submit(&[("other", b"x")]);
    for id in [&completed, &failed, &invalid] {
        client.ended(id);
        kill(&client, id);
    }
    assert_eq!(client.get(&format!("/retrieve/{completed}")).file(".orchestrator.exit").trim(), "0");
    for (id, status) in [(&failed, "Failed"), (&invalid, "Invalid")] {
        let answer = client.get(&format!("/retrieve/{id}"));
        assert_eq!(answer.json("status").as_deref(), Some(status));
        assert_eq!(answer.json("killed").as_deref(), Some("false"));
    }
}

#[test]
fn kill_of_an_unknown_payload_is_404() {
    let client = Client::start();
    let id = client.run("exit 0");
    for unknown in ["0", "4294967295", "99999999999", "abc", "-1"] {
        let answer = client.post(&format!("/kill/{unknown}"));
        assert_eq!((answer.status, answer.json("error").as_deref()), (404, Some("unknown_id")), "{unknown}");
    }
    client.result(&id).file(".orchestrator.exit");
}

#[test]
fn kill_lets_a_payload_that_handles_sigterm_tidy_up() {
    let client = Client::with(&[("KILL_GRACE", "20")]);
    let script = "#!/bin/sh\n\
                  trap 'sleep 0.2; echo tidy > tidied; exit 3' TERM\n\
                  echo $$ > pid\nwhile :; do sleep 0.05; done\n";
    let (id, pids) = start(&client, script, &["pid"]);
    let answer = kill_and_wait(&client, &id);
    assert_gone(&pids);
    assert_eq!(answer.json("exit_code").as_deref(), Some("3"));
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).file("tidied"), "tidy\n");
}

#[test]
fn kill_gives_a_child_its_grace_even_if_run_sh_goes_at_once() {
    let client = Client::with(&[("KILL_GRACE", "20"), ("MAX_JOBS", "1")]);
    let script = "#!/bin/sh\n\
                  setsid sh -c 'trap \"sleep 0.3; echo late > late; exit\" TERM; echo $$ > child; \
                                while :; do sleep 0.05; done' &\n\
                  echo $$ > pid\nwait\n";
    let (id, pids) = start(&client, script, &["child", "pid"]);
    let next = client.run("exit 0");
    let answer = kill_and_wait(&client, &id);
    assert_gone(&pids);
    assert_eq!(answer.json("signal").as_deref(), Some("15"));
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).file("late"), "late\n");
    client.result(&next).file(".orchestrator.exit");
}

#[test]
fn kill_ends_by_force_what_ignores_sigterm_and_only_then_gives_the_slot_away() {
    let client = Client::with(&[("KILL_GRACE", "1"), ("MAX_JOBS", "1")]);
    let script = "#!/bin/sh\ntrap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n";
    let (id, pids) = start(&client, script, &["pid"]);
    let next = client.run(&format!("#!/bin/sh\nif [ -e /proc/{} ]; then echo there; fi\n", pids[0]));
    let asked = Instant::now();
    let answer = kill_and_wait(&client, &id);
    assert!(asked.elapsed() >= Duration::from_millis(900), "it had no grace");
    assert_gone(&pids);
    assert_eq!(answer.json("signal").as_deref(), Some("9"));
    assert_eq!(client.result(&next).file(".orchestrator.out"), "");
}

#[test]
fn kill_without_grace_is_by_force_at_once() {
    let client = Client::with(&[("KILL_GRACE", "0")]);
    let script = "#!/bin/sh\ntrap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n";
    let (id, pids) = start(&client, script, &["pid"]);
    kill_and_wait(&client, &id);
    assert_gone(&pids);
    let line = wait_for("the line of the end", || {
        let log = client.log();
        log.lines().find(|line| line.contains("payload ended")).map(str::to_owned)
    });
    assert!(line.contains("signal=SIGKILL ") && line.contains("error=\"killed by request\""), "{line}");
}

#[test]
fn kill_ends_a_child_that_called_setsid() {
    let client = Client::start();
    let script = "#!/bin/sh\n\
                  setsid sh -c 'echo $$ > session; sleep 600; :' &\n\
                  (setsid sh -c 'echo $$ > orphan; sleep 600; :' &)\n\
                  setsid sh -c 'setsid sh -c \"echo \\$\\$ > deep; sleep 600; :\" & sleep 600' &\n\
                  env -i setsid sh -c 'echo $$ > cleared; sleep 600; :' &\n\
                  wait\n";
    let (id, pids) = start(&client, script, &["session", "orphan", "deep", "cleared"]);
    kill_and_wait(&client, &id);
    assert_gone(&pids);
}

#[test]
fn kill_ends_by_force_a_child_that_called_setsid_and_ignores_sigterm() {
    let client = Client::with(&[("KILL_GRACE", "1")]);
    let script = "#!/bin/sh\n\
                  setsid sh -c 'trap \"\" TERM; echo $$ > session; while :; do sleep 0.1; done' &\n\
                  (setsid sh -c 'trap \"\" TERM; echo $$ > orphan; while :; do sleep 0.1; done' &)\n\
                  wait\n";
    let (id, pids) = start(&client, script, &["session", "orphan"]);
    kill_and_wait(&client, &id);
    assert_gone(&pids);
}

#[test]
fn kill_ends_an_orphan_with_an_empty_environment() {
    let client = Client::start();
    let script = "#!/bin/sh\n\
                  (env -i setsid sh -c 'echo $$ > cleared; exec sleep 600' &)\n\
                  echo $$ > pid\nsleep 600\n";
    let (id, pids) = start(&client, script, &["cleared", "pid"]);
    kill_and_wait(&client, &id);
    wait_for("the end of the orphan", || (!is_alive(&pids[0])).then_some(()));
}

/// `timeout(1)`, `set -m` of a shell and many a build tool put their children in process groups of their own.
#[test]
fn kill_ends_a_child_in_a_process_group_of_its_own() {
    let client = Client::with(&[("KILL_GRACE", "1"), ("MAX_JOBS", "1")]);
    let script = "#!/bin/bash\n\
                  set -m\n\
                  sh -c 'echo $$ > job; exec sleep 600' &\n\
                  timeout 600 sh -c 'echo $$ > limited; exec sleep 600' &\n\
                  echo $$ > pid\nwait\n";
    let (id, pids) = start(&client, script, &["job", "limited", "pid"]);
    kill_and_wait(&client, &id);
    assert_gone(&pids);
    client.result(&client.run("exit 0")).file(".orchestrator.exit");
}

#[test]
fn kill_ends_grandchildren_at_any_depth() {
    let client = Client::start();
    let script = "#!/bin/sh\n\
                  sh -c 'sh -c \"sh -c \\\"echo \\\\\\$\\\\\\$ > deepest; sleep 600; :\\\"; :\"; :'\n";
    let (id, pids) = start(&client, script, &["deepest"]);
    kill_and_wait(&client, &id);
    assert_gone(&pids);
}

#[test]
fn kill_ends_a_payload_that_forks_all_the_time() {
    let client = Client::with(&[("KILL_GRACE", "1")]);
    let script = "#!/bin/sh\n\
                  echo $$ > pid\n\
                  sh -c 'trap \"\" TERM; while :; do setsid sleep 600 & sleep 0.02; done' &\n\
                  while :; do setsid sleep 600 & sleep 0.02; done\n";
    let (id, pids) = start(&client, script, &["pid"]);
    wait_for("some children", || (processes_of(&id).len() > 20).then_some(()));
    kill_and_wait(&client, &id);
    assert_gone(&pids);
}

#[test]
fn kill_ends_a_stopped_payload_without_waiting_for_the_grace_to_pass() {
    let client = Client::with(&[("KILL_GRACE", "600")]);
    let script = "#!/bin/sh\n\
                  setsid sh -c 'trap \"echo tidy > tidied; exit\" TERM; echo $$ > session; \
                                while :; do sleep 0.1; done' &\n\
                  echo $$ > pid\nwait\n";
    let (id, pids) = start(&client, script, &["pid", "session"]);
    for pid in &pids {
        assert!(Command::new("kill").args(["-STOP", pid]).status().unwrap().success());
    }
    kill_and_wait(&client, &id);
    assert_gone(&pids);
    client.get(&format!("/retrieve_partial/{id}")).file("tidied");
}

#[test]
fn kill_can_be_asked_for_again_and_again() {
    let client = Client::with(&[("KILL_GRACE", "1")]);
    let script = "#!/bin/sh\ntrap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n";
    let (id, pids) = start(&client, script, &["pid"]);
    let mut asked = 0;
    wait_for("the end under a hail of kills", || {
        kill(&client, &id);
        asked += 1;
        let answer = client.get(&format!("/retrieve/{id}"));
        assert_killed(&answer);
        (answer.json("finished_at").as_deref() != Some("null")).then_some(())
    });
    assert!(asked > 1);
    assert_gone(&pids);
    kill(&client, &id);
    assert_killed(&client.get(&format!("/retrieve/{id}")));
}

#[test]
fn kill_of_one_payload_leaves_the_others_alone() {
    let client = Client::with(&[("MAX_JOBS", "2")]);
    let script = "#!/bin/sh\n\
                  setsid sh -c 'echo $$ > session; sleep 600; :' &\n\
                  (setsid sh -c 'echo $$ > orphan; sleep 600; :' &)\n\
                  echo $$ > pid\nwhile ! [ -e go ]; do sleep 0.02; done\n";
    let (killed, killed_pids) = start(&client, script, &["session", "orphan", "pid"]);
    let (spared, spared_pids) = start(&client, script, &["session", "orphan", "pid"]);
    kill_and_wait(&client, &killed);
    assert_gone(&killed_pids);
    for pid in &spared_pids {
        assert!(is_alive(pid), "a process of the other payload is gone");
    }
    fs::write(client.loc(&spared).join("go"), "").unwrap();
    client.result(&spared).file(".orchestrator.exit");
}

/// The payload ends by itself at about the moment of the kill: either may come first, and both are a good end.
#[test]
fn kill_may_race_with_the_end_of_a_payload() {
    let client = Client::with(&[("MAX_JOBS", "2"), ("KILL_GRACE", "1"), ("LOG", "warn")]);
    let races: Vec<String> = thread::scope(|scope| {
        let race = |number: u64| {
            let code = if number.is_multiple_of(2) { 0 } else { 3 };
            let id = client.run(&format!("#!/bin/sh\n(setsid sleep 600 &)\nsleep 600 &\nexit {code}\n"));
            // Not to wait for something, but to hit another moment each time: from before the start to after the end.
            thread::sleep(Duration::from_micros(number * 300));
            kill(&client, &id);
            id
        };
        let racers: Vec<_> = (0..4)
            .map(|racer| scope.spawn(move || (0..25).map(|n| race(n * 4 + racer)).collect::<Vec<_>>()))
            .collect();
        racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect()
    });
    for id in &races {
        let answer = client.ended(id);
        if answer.header("content-type").as_deref() == Some("application/json") {
            let status = answer.json("status").unwrap();
            assert!(["Killed", "Failed"].contains(&&*status), "{}", answer.text());
            assert_eq!(answer.json("killed").as_deref() == Some("true"), status == "Killed");
        }
    }
    for id in &races {
        wait_for("the end of what was left behind", || processes_of(id).is_empty().then_some(()));
    }
    assert_eq!((client.health("running"), client.health("waiting")), (0, 0));
    client.result(&client.run("exit 0")).file(".orchestrator.exit");
}

/// Between a look at /proc and the signal to the group, a child may leave the group: it must get its SIGTERM, too.
#[test]
fn kill_reaches_a_child_that_calls_setsid_at_that_moment() {
    // Only SIGTERM can end these payloads within the patience of a test.
    let client = Client::with(&[("MAX_JOBS", "1"), ("KILL_GRACE", "600"), ("LOG", "warn")]);
    let script = "#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8; do setsid sleep 600 & done\nsleep 600\n";
    for number in 0..30 {
        let id = client.run(script);
        client.retrieve_when(&id, |answer| answer.json("status").as_deref() != Some("Prepared"));
        // Not to wait for something, but to hit another moment each time.
        thread::sleep(Duration::from_micros(number * 200));
        kill_and_wait(&client, &id);
    }
}

#[test]
fn kill_may_race_with_the_start_of_a_payload() {
    let client = Client::with(&[("MAX_JOBS", "4"), ("KILL_GRACE", "1"), ("LOG", "warn")]);
    let mut ids = Vec::new();
    for number in 0..60 {
        let script = ["sleep 600", "#!/no/such/interpreter\n", "#!/bin/sh\nsetsid sleep 600 &\nsleep 600\n"];
        let id = client.run(script[number % 3]);
        kill(&client, &id);
        ids.push(id);
    }
    for id in &ids {
        let answer = client.ended(id);
        let status = answer.json("status").unwrap();
        assert!(["Killed", "Failed"].contains(&&*status), "{}", answer.text());
        let noted = answer.json("loc").map(|loc| Path::new(&loc).join(".orchestrator.exit").exists());
        let was_started = answer.json("pid").as_deref() != Some("0");
        assert_eq!(noted, Some(was_started), "{}", answer.text());
        wait_for("the end of its processes", || processes_of(id).is_empty().then_some(()));
    }
    assert_eq!((client.health("running"), client.health("waiting")), (0, 0));
    client.result(&client.run("exit 0")).file(".orchestrator.exit");
}

/// Three kills of one payload that waits, at once; the client is gone with the first answer.
#[test]
fn a_kill_that_was_answered_holds_in_the_next_life_whoever_asked_for_it_too() {
    for durable in ["on", "off"] {
        for _ in 0..5 {
            let (_home, data) = place();
            let journal = data.with_file_name("journal");
            let client = Client::at(&data, &[("MAX_JOBS", "1"), ("DURABLE", durable)]);
            let running = client.run("#!/bin/sh\necho > on\nwhile :; do sleep 0.1; done\n");
            client.wait_for_file(&running, "on");
            let waiting = client.run(&format!("echo ran >> {}", journal.display()));
            let (answered_tx, answered_rx) = std::sync::mpsc::channel();
            for id in [&waiting, &waiting, &waiting, &running] {
                let (address, path, answered) = (client.address, format!("/kill/{id}"), answered_tx.clone());
                let is_of_waiting = *id == waiting;
                thread::spawn(move || {
                    // The last ones may find nobody any more.
                    let answer = std::panic::catch_unwind(|| wire::call(address, "POST", &path).status);
                    let _ = answered.send((is_of_waiting, answer));
                });
            }
            let first = answered_rx.recv_timeout(PATIENCE).unwrap();
            client.kill();
            let (is_of_waiting, Ok(200)) = first else { panic!("not answered") };
            let next = Client::at(&data, &[("MAX_JOBS", "1")]);
            let id = if is_of_waiting { &waiting } else { &running };
            assert_eq!(next.result(id).json("status").as_deref(), Some("Killed"), "DURABLE={durable}");
            next.result(&next.run("true"));
            assert!(!is_of_waiting || !journal.exists(), "DURABLE={durable}: it was run");
        }
    }
}
