//! How payloads end by themselves: exit codes, signals, what they used, and what they leave behind.

use std::fs;
use std::process::Command;

use crate::client::{Client, children_of, is_alive, pid_in, processes_of, uncontained, wait_for};
use crate::sleepers::Sleepers;

/// Waits until no ended child of the client is left unreaped.
fn wait_until_all_are_reaped(pid: u32) {
    wait_for("the reaping of all", || {
        let zombies = children_of(pid).into_iter().filter(|(_, state)| *state == 'Z').count();
        (zombies == 0).then_some(())
    });
}

#[test]
fn every_exit_code_comes_through() {
    let client = Client::with(&[("MAX_JOBS", "4"), ("LOG", "warn")]);
    let ids: Vec<String> = (0..=255).map(|code| client.run(&format!("exit {code}"))).collect();
    for (code, id) in (0..=255).zip(ids) {
        let answer = client.ended(&id);
        if code == 0 {
            assert_eq!(answer.file(".orchestrator.exit").trim(), "0");
            continue;
        }
        assert_eq!(answer.json("status").as_deref(), Some("Failed"));
        assert_eq!(answer.json("exit_code"), Some(code.to_string()));
        assert_eq!(answer.json("signal").as_deref(), Some("null"));
        assert_eq!(answer.json("killed").as_deref(), Some("false"));
        let files = client.get(&format!("/retrieve_partial/{id}"));
        assert_eq!(files.file(".orchestrator.exit").trim(), code.to_string());
    }
    wait_until_all_are_reaped(client.pid());
}

#[test]
fn a_signal_is_a_failure_and_is_told() {
    let client = Client::start();
    for (signal, name) in [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (6, "SIGABRT"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (31, "SIGSYS"),
        (34, "SIGRTMIN"),
    ] {
        let id = client.run(&format!("#!/bin/sh\nulimit -c 0\nkill -{signal} $$\nsleep 60\n"));
        let answer = client.ended(&id);
        assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
        assert_eq!(answer.json("signal"), Some(signal.to_string()));
        assert_eq!(answer.json("exit_code").as_deref(), Some("null"));
        assert_eq!(answer.json("killed").as_deref(), Some("false"));
        let error = answer.json("error").unwrap();
        assert!(error.contains(name) && error.contains(&signal.to_string()), "{error}");
        assert_eq!(error.contains("out of memory"), signal == 9, "{error}");
        client.wait_for_log(&format!("signal={name} "));
        let files = client.get(&format!("/retrieve_partial/{id}"));
        assert_eq!(files.file(".orchestrator.exit").trim(), (128 + signal).to_string());
    }
}

#[test]
fn the_time_and_memory_of_a_payload_are_counted() {
    let client = Client::start();
    let number = |id: &str, field: &str| -> f64 { client.ended(id).json(field).unwrap().parse().unwrap() };
    // They fail, so that the answer is the row and not the ZIP.
    let idle = client.run("#!/bin/sh\nsleep 0.4\nexit 1\n");
    let busy = client.run("#!/bin/sh\ni=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\nexit 1\n");
    let child = client.run("#!/bin/sh\nsh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'\nexit 1\n");
    let large = client.run("#!/bin/sh\nhead -c 50000000 /dev/zero | tail -c 50000000 | wc -c\nexit 1\n");

    assert!((0.4..10.0).contains(&number(&idle, "wall_s")), "{}", number(&idle, "wall_s"));
    assert!(number(&idle, "user_s") + number(&idle, "system_s") < 0.2);
    for id in [busy, child] {
        let cpu = number(&id, "user_s") + number(&id, "system_s");
        assert!(number(&id, "user_s") > 0.03, "{cpu}");
        // One thread cannot use more than the clock has; the margin is for the grain of the counters.
        assert!(cpu < number(&id, "wall_s") + 0.1, "{cpu}, {}", number(&id, "wall_s"));
    }
    assert!((50e6..150e6).contains(&number(&large, "max_rss_bytes")), "{}", number(&large, "max_rss_bytes"));
    assert!((1e5..40e6).contains(&number(&idle, "max_rss_bytes")), "{}", number(&idle, "max_rss_bytes"));
}

#[test]
fn the_wall_clock_runs_while_the_payload_does() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\nwhile :; do sleep 1; done\n");
    let answer = client.retrieve_when(&id, |answer| {
        answer.json("wall_s").and_then(|wall_s| wall_s.parse().ok()).is_some_and(|wall_s: f64| wall_s > 0.2)
    });
    assert_eq!(answer.json("status").as_deref(), Some("Running"));
    assert_eq!(answer.json("finished_at").as_deref(), Some("null"));
    assert_ne!(answer.json("started_at").as_deref(), Some("null"));
}

#[test]
fn orphans_that_end_are_reaped_and_do_not_disturb_their_payload() {
    let client = Client::start();
    // Each subshell ends at once, so its background child is nobody's.
    let script = "#!/bin/sh\n\
                  for n in 1 2 3 4 5 6 7 8 9 10; do (setsid sh -c 'exit 9' &); (sh -c 'exit 8' &); done\n\
                  (setsid sh -c 'echo $$ > orphan; exit 5' &)\n\
                  while ! [ -s orphan ] || [ -e /proc/$(cat orphan) ]; do sleep 0.02; done\n\
                  exit 7\n";
    let ids: Vec<String> = (0..4).map(|_| client.run(script)).collect();
    for id in ids {
        assert_eq!(client.ended(&id).json("exit_code").as_deref(), Some("7"));
    }
    wait_until_all_are_reaped(client.pid());
    assert_eq!(children_of(client.pid()), []);
}

#[test]
fn what_a_payload_leaves_behind_is_ended_with_it() {
    let client = Client::start();
    let sleepers = Sleepers::new();
    let time = &sleepers.time;
    let script = format!(
        "#!/bin/sh\n\
         sh -c 'echo $$ > group; exec sleep {time}' &\n\
         setsid sh -c 'echo $$ > session; exec sleep {time}' &\n\
         (setsid sh -c 'trap \"\" TERM HUP; echo $$ > double; sleep {time}; sleep {time}' &)\n\
         env -i setsid sh -c 'echo $$ > cleared; exec sleep {time}' &\n\
         while ! [ -s group -a -s session -a -s double -a -s cleared ]; do sleep 0.02; done\n"
    );
    let id = client.run(&script);
    client.result(&id);
    wait_for("the end of what sleeps", || sleepers.pids().is_empty().then_some(()));
    wait_for("the end of all", || processes_of(&id).is_empty().then_some(()));
    wait_for("the end of all", || children_of(client.pid()).is_empty().then_some(()));
}

#[test]
fn what_a_payload_leaves_behind_is_ended_while_the_children_of_another_live_on() {
    let client = Client::with(&[("MAX_JOBS", "2")]);
    let lasting = "#!/bin/sh\n\
                   sh -c 'echo $$ > group; exec sleep 600' &\n\
                   setsid sh -c 'echo $$ > session; exec sleep 600' &\n\
                   (setsid sh -c 'echo $$ > double; exec sleep 600' &)\n\
                   (env -i setsid sh -c 'echo $$ > cleared; exec sleep 600' &)\n\
                   while ! [ -e go ]; do sleep 0.02; done\n";
    let lasting_id = client.run(lasting);
    let files = ["group", "session", "double", "cleared"];
    let lasting_pids: Vec<String> =
        files.iter().map(|file| pid_in(&client.wait_for_file(&lasting_id, file))).collect();

    let sleepers = Sleepers::new();
    let time = &sleepers.time;
    let script = format!(
        "#!/bin/sh\n\
         sh -c 'echo $$ > group; exec sleep {time}' &\n\
         setsid sh -c 'echo $$ > session; exec sleep {time}' &\n\
         (setsid sh -c 'echo $$ > double; exec sleep {time}' &)\n\
         while ! [ -s group -a -s session -a -s double ]; do sleep 0.02; done\n"
    );
    client.result(&client.run(&script));
    wait_for("the end of what sleeps", || sleepers.pids().is_empty().then_some(()));
    for (file, pid) in files.iter().zip(&lasting_pids) {
        assert!(is_alive(pid), "{file} of the other payload is gone");
    }

    fs::write(client.loc(&lasting_id).join("go"), "").unwrap();
    client.result(&lasting_id);
    for (file, pid) in files.iter().zip(&lasting_pids) {
        wait_for(&format!("the end of {file}"), || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn a_child_that_hides_where_it_comes_from_is_ended_while_another_payload_runs() {
    let client = Client::with(&[("MAX_JOBS", "2")]);
    let lasting = client.run("#!/bin/sh\necho > runs\nwhile :; do sleep 1; done\n");
    client.wait_for_file(&lasting, "runs");
    let sleepers = Sleepers::new();
    let script = format!(
        "#!/bin/sh\n\
         env -i setsid sh -c 'echo $$ > cleared; exec sleep {}' &\n\
         while ! [ -s cleared ]; do sleep 0.02; done\n",
        sleepers.time
    );
    client.result(&client.run(&script));
    wait_for("the end of a child with an empty environment", || sleepers.pids().is_empty().then_some(()));
    assert_eq!(client.get(&format!("/retrieve/{lasting}")).json("status").as_deref(), Some("Running"));
}

#[test]
fn a_background_job_with_a_group_of_its_own_is_ended_with_its_payload() {
    let client = Client::start();
    let sleepers = Sleepers::new();
    let script = format!(
        "#!/bin/sh\n\
         timeout 600 sh -c 'echo $$ > limited; exec sleep {}' &\n\
         while ! [ -s limited ]; do sleep 0.02; done\n",
        sleepers.time
    );
    let id = client.run(&script);
    client.result(&id);
    wait_for("the end of a job under timeout(1)", || sleepers.pids().is_empty().then_some(()));
    wait_for("the end of all", || processes_of(&id).is_empty().then_some(()));
}

/// How scripts log, and how they compress what they print: by processes that `run.sh` does not wait for.
#[test]
fn what_helpers_of_a_script_still_write_at_its_end_is_in_the_result() {
    let client = Client::with(&[("MAX_JOBS", "4"), ("LOG", "warn"), ("LINGER", "60")]);
    let tee = "#!/bin/bash\nexec > >(tee out.log) 2>&1\necho hello\n";
    let gzip = "#!/bin/bash\nseq 1 300000 > >(gzip > n.gz)\n";
    let ids: Vec<_> = (0..20).map(|_| (client.run(tee), client.run(gzip))).collect();
    for (tee, gzip) in ids {
        let answer = client.ended(&tee);
        assert_eq!(answer.file("out.log"), "hello\n");
        assert_eq!(answer.file(".orchestrator.out"), "hello\n");
        let packed = client.data.join("n.gz");
        let (_, bytes) = client.ended(&gzip).files().into_iter().find(|(name, _)| name == "n.gz").unwrap();
        fs::write(&packed, bytes).unwrap();
        let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        assert!(unpacked.stdout.ends_with(b"\n300000\n"));
    }
}

#[test]
fn the_row_and_the_log_say_how_those_ended_that_a_script_left_behind() {
    let client = Client::with(&[("MAX_JOBS", "4"), ("LINGER", "1"), ("KILL_GRACE", "1")]);
    for (left, how) in [
        ("sleep 600 &", "ended by SIGTERM"),
        ("setsid sleep 600 &", "ended by SIGTERM"),
        (
            "sh -c 'trap \"\" TERM; echo > deaf; sleep 600; sleep 600' & while ! [ -e deaf ]; do sleep 0.02; done",
            "ended by SIGKILL",
        ),
        ("sleep 0.2 &", "ended by itself"),
    ] {
        let id = client.run(&format!("#!/bin/sh\n{left}\nexit 3\n"));
        let answer = client.get(&format!("/retrieve/{id}?wait=60"));
        assert_eq!(answer.json("left_over").as_deref(), Some(how), "{left}: {}", answer.text());
        assert_eq!(answer.json("exit_code").as_deref(), Some("3"), "{left}: {}", answer.text());
        client.wait_for_log(&format!("run.sh left processes behind payload={id} left_over=\"{how}\""));
        wait_for("the end of all", || processes_of(&id).is_empty().then_some(()));
    }
    let id = client.run("#!/bin/sh\nsleep 0.1 &\nwait\nexit 3\n");
    let answer = client.ended(&id);
    assert_eq!(answer.json("left_over"), None, "{}", answer.text());
    client.wait_for_log(&format!("payload ended payload={id}"));
    assert!(!client.log().contains(&format!("left processes behind payload={id}")));
}

#[test]
fn a_kill_a_time_limit_and_a_stop_end_what_lingers_and_say_so() {
    let script = "#!/bin/sh\nsleep 600 &\necho > over\nexit 3\n";
    let settings = [("LINGER", "600"), ("KILL_GRACE", "20"), ("TIME_LIMIT", "2"), ("GRACE", "0")];
    let lingers = |client: &Client, id: &str| {
        client.wait_for_file(id, "over");
        // Its only process is the one that it left.
        wait_for("the end of run.sh", || (processes_of(id).len() == 1).then_some(()));
        assert_eq!(client.get(&format!("/retrieve/{id}")).json("status").as_deref(), Some("Running"));
    };
    let must_tell = |client: &Client, id: &str, reason: &str| {
        let answer = client.ended(id);
        assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
        assert!(answer.json("error").unwrap().contains(reason), "{}", answer.text());
        assert_eq!(answer.json("left_over").as_deref(), Some("ended by SIGTERM"), "{}", answer.text());
        client.wait_for_log(&format!("run.sh left processes behind payload={id}"));
    };
    let client = Client::with(&settings);
    let id = client.run(script);
    must_tell(&client, &id, "TIME_LIMIT");

    let client = Client::with(&settings[..2]);
    let id = client.run(script);
    lingers(&client, &id);
    assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    must_tell(&client, &id, "killed by request");

    let mut client = Client::with(&[settings[0], settings[1], settings[3]]);
    let id = client.run(script);
    lingers(&client, &id);
    client.signal("TERM");
    must_tell(&client, &id, "the client was stopped");
    assert_eq!(client.wait().code(), Some(0));
}

#[test]
fn a_child_that_the_client_was_started_with_is_left_alone() {
    // A shell that becomes the client hands its background job over to it.
    let client = Client::through(&["bash", "-c", "sleep 600 >/dev/null 2>&1 & exec \"$@\"", "bash"]);
    let (stranger, _) = children_of(client.pid()).pop().unwrap();
    let sleepers = Sleepers::new();
    client.result(&client.run(&format!(
        "#!/bin/sh\n(setsid sh -c 'echo $$ > orphan; exec sleep {}' &)\n\
         while ! [ -s orphan ]; do sleep 0.02; done\n",
        sleepers.time
    )));
    wait_for("the end of the orphan", || sleepers.pids().is_empty().then_some(()));
    assert!(is_alive(&stranger));
    assert!(Command::new("kill").arg(&stranger).status().unwrap().success());
    wait_for("the reaping of the stranger", || children_of(client.pid()).is_empty().then_some(()));
}

#[test]
fn a_payload_that_removes_its_own_directory_ends_all_the_same() {
    let client = Client::with(&uncontained(&[("MAX_JOBS", "1")]));
    let id = client.run("#!/bin/sh\nrm -rf \"$PWD\"\n");
    let answer = client.retrieve_when(&id, |answer| answer.status != 202);
    assert_eq!((answer.status, answer.json("error").as_deref()), (404, Some("directory_gone")));
    client.wait_for_log("no archive");
    assert!(!client.log().contains(" ERROR "), "{}", client.log());
    client.result(&client.run("exit 0")).file(".orchestrator.exit");
}

#[test]
fn what_lies_in_the_way_of_the_exit_code_is_replaced_and_never_followed() {
    let client = Client::with(&uncontained(&[]));
    let link =
        client.result(&client.run("#!/bin/sh\necho kept > ../victim\nln -s ../victim .orchestrator.exit\n"));
    assert_eq!(link.file(".orchestrator.exit").trim(), "0");
    assert_eq!(fs::read_to_string(client.data.join("victim")).unwrap(), "kept\n");
    let directory = client.run("#!/bin/sh\nmkdir -p .orchestrator.exit/full\nexit 3\n");
    assert_eq!(client.ended(&directory).json("exit_code").as_deref(), Some("3"));
}

#[test]
fn hundreds_of_payloads_leave_no_zombie_and_no_process() {
    let client = Client::with(&[("MAX_JOBS", "8"), ("LINGER", "0"), ("LOG", "warn")]);
    let ids: Vec<String> =
        (0..200).map(|_| client.run("#!/bin/sh\n(setsid sleep 0.01 &)\nsleep 600 &\nexit 1\n")).collect();
    for id in &ids {
        assert_eq!(client.ended(id).json("exit_code").as_deref(), Some("1"));
    }
    wait_for("the end of all children", || children_of(client.pid()).is_empty().then_some(()));
    assert_eq!((client.health("running"), client.health("waiting")), (0, 0));
}

#[test]
fn a_client_that_is_pid_1_reaps_orphans() {
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let is_permitted = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    if !is_permitted.as_ref().is_ok_and(|output| output.status.success()) {
        return println!("skipped: no PID namespace can be made here: {is_permitted:?}");
    }
    let mut client = Client::through(&wrapper);
    let (pid, _) = children_of(client.pid()).pop().unwrap();
    let pid = pid.parse().unwrap();
    let script = "#!/bin/sh\n\
                  (setsid sh -c 'exit 9' &)\n\
                  (setsid sh -c 'echo > started; exec sleep 600' &)\n\
                  while ! [ -e started ]; do sleep 0.02; done\n\
                  echo $PPID\nexit 7\n";
    for _ in 0..5 {
        let id = client.run(script);
        assert_eq!(client.ended(&id).json("exit_code").as_deref(), Some("7"));
        let files = client.get(&format!("/retrieve_partial/{id}"));
        // None in its own PID namespace, where it has one.
        assert!(["0\n", "1\n"].contains(&&*files.file(".orchestrator.out")));
    }
    wait_for("the end of all children", || children_of(pid).is_empty().then_some(()));
    // And it stops when told to, though the kernel keeps default signals from PID 1.
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    assert!(client.wait().success());
}

#[test]
fn a_script_with_the_line_ends_of_windows_is_not_run_and_its_error_says_so() {
    let client = Client::start();
    for script in ["#!/bin/sh\r\necho\r\n", "#!/usr/bin/env bash\r\necho\r\n", "echo\r\nexit 0\r\n"] {
        let row = client.ended(&client.run(script));
        assert_eq!(row.json("status").as_deref(), Some("Failed"), "{script:?}: {}", row.text());
        assert!(row.json("error").is_some_and(|error| error.contains("CRLF")), "{script:?}: {}", row.text());
    }
}
