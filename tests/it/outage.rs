//! What the host lacks for a while fails no payload: those that wait go on waiting, `/ready` and the log say why, and they are
//! started when it is over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::client::{Client, binary, copy_program, is_alive, pid_in, place, uncontained, wait_for};
use crate::sleepers::Sleepers;
use crate::wire::{call, form, submit_form};

const UNTIL_GO: &str = "#!/bin/sh\necho > there\nwhile ! [ -e go ]; do sleep 0.02; done\n";
const BEGUN: &str = "payloads cannot be started now, and wait";
const OVER: &str = "payloads are started again";

const ANOTHER: [&str; 5] = ["--reuid", "10002", "--regid", "10002", "--clear-groups"];

/// A client of another user, whom modes and limits of processes bind. `None` where there is no other
/// user, which the output tells.
fn as_another(home: &Path, settings: &[(&str, &str)]) -> Option<Client> {
    let probe = Command::new("setpriv").args(ANOTHER).arg("true").output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no other user can be had here: {probe:?}");
        return None;
    }
    fs::set_permissions(home, fs::Permissions::from_mode(0o777)).unwrap();
    let (program, data) = (home.join("program"), home.join("data"));
    copy_program(&binary(), &program);
    let mut command = Command::new("setpriv");
    command.args(ANOTHER).arg(program);
    command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
    command.envs(settings.iter().copied()).current_dir(home);
    Some(Client::spawn(command, &data))
}

/// Bounds the processes of such a client. `None` where that cannot be done, which the output tells.
fn may_have(client: &Client, processes: u32) -> Option<()> {
    // As its own user: another one needs a privilege, root included.
    let mut command = Command::new("setpriv");
    command.args(ANOTHER).args(["prlimit", "--pid"]);
    command.arg(client.pid().to_string()).arg(format!("--nproc={processes}:"));
    let output = command.output();
    let is_done = output.as_ref().is_ok_and(|output| output.status.success());
    if !is_done {
        println!("skipped: no prlimit(1) here: {output:?}");
    }
    is_done.then_some(())
}

/// The one reason is told, once, and all payloads are as they were.
fn must_wait(client: &Client, ids: &[String], reason: &str) {
    client.wait_for_log(BEGUN);
    let ready = wait_for("the reason", || {
        let ready = client.get("/ready");
        ready.text().contains(reason).then_some(ready)
    });
    assert!(ready.text().contains("cannot_start"), "{}", ready.text());
    assert_eq!(ready.status, 503);
    assert_eq!(client.log().matches(BEGUN).count(), 1, "{}", client.log());
    for id in ids {
        wait_for("its place in the queue", || {
            (client.get(&format!("/retrieve/{id}")).json("status").as_deref() == Some("Prepared"))
                .then_some(())
        });
    }
}

fn must_go_on(client: &Client, ids: &[String]) {
    for id in ids {
        assert_eq!(client.result(id).file(".orchestrator.exit").trim(), "0");
    }
    client.wait_for_log(OVER);
    wait_for("a host that is well", || (client.get("/ready").status == 200).then_some(()));
    // Once an outage, not once a payload.
    assert!(client.log().matches(BEGUN).count() <= 2, "{}", client.log());
}

#[test]
fn payloads_wait_while_the_data_path_is_away() {
    let (home, data) = place();
    let client = Client::at(&data, &[("MAX_JOBS", "2")]);
    let running: Vec<String> = (0..2).map(|_| client.run(UNTIL_GO)).collect();
    for id in &running {
        client.wait_for_file(id, "there");
    }
    let waiting: Vec<String> = (0..10).map(|_| client.run("exit 0")).collect();
    let away = home.path().join("away");
    fs::rename(&data, &away).unwrap();
    for entry in fs::read_dir(&away).unwrap().flatten() {
        if entry.path().join("there").exists() {
            fs::write(entry.path().join("go"), "").unwrap();
        }
    }
    must_wait(&client, &waiting, "(os error 2)");
    fs::rename(&away, &data).unwrap();
    must_go_on(&client, &waiting);
    for id in &running {
        client.result(id).file("there");
    }
}

#[test]
fn payloads_wait_while_the_data_path_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_another(home.path(), &[("MAX_JOBS", "1")]) else { return };
    let running = client.run(UNTIL_GO);
    let directory = client.wait_for_file(&running, "there").parent().unwrap().to_owned();
    let waiting: Vec<String> = (0..10).map(|_| client.run("exit 0")).collect();
    fs::set_permissions(&client.data, fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(directory.join("go"), "").unwrap();
    must_wait(&client, &waiting, "(os error 13)");
    fs::set_permissions(&client.data, fs::Permissions::from_mode(0o755)).unwrap();
    must_go_on(&client, &waiting);
}

#[test]
fn payloads_wait_while_no_process_can_be_had() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_another(home.path(), &[("MAX_JOBS", "1")]) else { return };
    let running = client.run(UNTIL_GO);
    let there = client.wait_for_file(&running, "there");
    let waiting: Vec<String> = (0..50).map(|_| client.run("exit 0")).collect();
    let Some(()) = may_have(&client, 1) else { return };
    fs::write(there.with_file_name("go"), "").unwrap();
    must_wait(&client, &waiting, "gives no new process");
    may_have(&client, 5000).unwrap();
    must_go_on(&client, &waiting);
}

#[test]
fn what_waits_for_its_host_is_run_by_the_next_life_if_this_one_ends() {
    let (home, data) = place();
    let settings = uncontained(&[("MAX_JOBS", "1")]);
    let client = Client::at(&data, &settings);
    let running = client.run(UNTIL_GO);
    let directory = client.wait_for_file(&running, "there").parent().unwrap().to_owned();
    let journal = home.path().join("journal");
    let ids: Vec<String> =
        (0..3).map(|n| client.run(&format!("echo {n} >> {}", journal.display()))).collect();
    let away = home.path().join("away");
    fs::rename(&data, &away).unwrap();
    fs::write(away.join(directory.file_name().unwrap()).join("go"), "").unwrap();
    must_wait(&client, &ids, "(os error 2)");
    client.kill();
    fs::rename(&away, &data).unwrap();
    let next = Client::at(&data, &settings);
    for id in &ids {
        next.result(id).file(".orchestrator.exit");
    }
    assert_eq!(fs::read_to_string(journal).unwrap(), "0\n1\n2\n");
}

/// A payload is of the same user as the client: it can close what is the client's own, and the client opens it.
#[test]
fn what_a_payload_closes_of_the_clients_own_is_opened() {
    let home = tempfile::tempdir().unwrap();
    let closings = ["chmod 0 ../.orchestrator/records ../.orchestrator", "chmod -R a-w ../.orchestrator*"];
    let mut ids: Vec<String> = Vec::new();
    for closing in closings {
        let Some(client) = as_another(home.path(), &[("SANDBOX", "off")]) else { return };
        for id in &ids {
            client.result(id).file(".orchestrator.out");
        }
        ids.push(client.run("echo on"));
        client.result(ids.last().unwrap());
        ids.push(client.run(closing));
        client.result(ids.last().unwrap());
        // The record of one that is submitted now can be written and is found.
        assert_eq!(client.get("/ready").status, 200);
        ids.push(client.run("echo on"));
        client.result(ids.last().unwrap());
        drop(client);
        // The life that just ended may have opened them again.
        let own = home.path().join("data/.orchestrator");
        fs::set_permissions(own.join("records"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(home.path().join("data/.orchestrator.lock"), fs::Permissions::from_mode(0o444))
            .unwrap();
    }
    let client = as_another(home.path(), &[("SANDBOX", "off")]).unwrap();
    for id in &ids {
        client.result(id).file(".orchestrator.out");
    }
}

#[test]
fn no_result_is_told_to_be_gone_while_the_data_path_is_closed_or_away() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_another(home.path(), &[]) else { return };
    let id = client.run("exit 0");
    client.result(&id);
    let must_be_503 = |what: &str| {
        for path in [format!("/retrieve/{id}"), format!("/retrieve_partial/{id}")] {
            assert_eq!(client.get(&path).error(503), "disk_failed", "{what}");
        }
    };
    for _ in 0..3 {
        fs::set_permissions(&client.data, fs::Permissions::from_mode(0o000)).unwrap();
        must_be_503("closed");
        fs::set_permissions(&client.data, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(client.result(&id).file(".orchestrator.exit").trim(), "0");
        let away = home.path().join("away");
        fs::rename(&client.data, &away).unwrap();
        must_be_503("away");
        fs::rename(&away, &client.data).unwrap();
        assert_eq!(client.result(&id).file(".orchestrator.exit").trim(), "0");
    }
    // The outage is told, and not once more by each that asks.
    client.wait_for_log("data path is not usable");
    let log = client.log();
    assert!(!log.lines().any(|line| line.contains(" ERROR ") && line.contains("no archive")), "{log}");
}

/// As root, who may raise it again; the kernel ends a process with SIGXFSZ for a write beyond the limit.
#[test]
fn an_upload_beyond_the_limit_of_file_sizes_is_refused_and_ends_nothing() {
    let client = Client::through(&["bash", "-c", "ulimit -f 1000; exec \"$@\"", "bash"]);
    let running = client.run(UNTIL_GO);
    let there = client.wait_for_file(&running, "there");
    for _ in 0..3 {
        let large = form(&[("run.sh", b"exit 0"), ("large", &vec![b'x'; 3_000_000])]);
        let refused = submit_form(client.address, &large);
        assert_eq!(
            (refused.status, refused.error(refused.status).as_str()),
            (413, "file_too_large"),
            "{}",
            refused.text()
        );
        assert!(refused.text().contains("ulimit -f"), "{}", refused.text());
    }
    fs::write(there.with_file_name("go"), "").unwrap();
    client.result(&running).file("there");
    // A payload has the signal as it was.
    let ended = client.ended(&client.run("#!/bin/sh\nexec head -c 3000000 /dev/zero > large\n"));
    assert_eq!(ended.json("signal").as_deref(), Some("25"), "{}", ended.text());
    client.must_be_well_and_empty("uploads beyond the limit");
}

#[test]
fn downloads_asked_for_while_no_thread_can_be_had_are_answered_when_one_can_be() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_another(home.path(), &[]) else { return };
    let id = client.run("echo result > made");
    client.result(&id);
    // Until the threads of the download before have ended.
    thread::sleep(Duration::from_secs(6));
    let Some(()) = may_have(&client, 1) else { return };
    let address = client.address;
    let path = format!("/retrieve/{id}");
    let downloads: Vec<_> = (0..3)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || call(address, "GET", &path))
        })
        .collect();
    client.wait_for_log("cannot start a disk thread");
    may_have(&client, 5000).unwrap();
    for download in downloads {
        assert_eq!(download.join().unwrap().file("made"), "result\n");
    }
}

/// Gives the limit before.
fn limit_descriptors(client: &Client, limit: Rlimit) -> Rlimit {
    let pid = Pid::from_raw(client.pid().try_into().unwrap()).unwrap();
    prlimit(Some(pid), Resource::Nofile, limit).unwrap()
}

#[test]
fn without_descriptors_no_payload_is_told_as_ended_that_has_processes_left() {
    let client = Client::with(&[("LINGER", "600")]);
    let sleepers = Sleepers::new();
    let time = &sleepers.time;
    let id = client.run(&format!(
        "#!/bin/sh\nsetsid sleep {time} &\necho $$ > there\nwhile [ ! -e go ]; do sleep 0.01; done\nexit 3\n"
    ));
    let there = client.wait_for_file(&id, "there");
    let script = pid_in(&there);
    wait_for("the sleeper", || (sleepers.pids().len() == 1).then_some(()));
    let limit =
        limit_descriptors(&client, Rlimit { current: Some(1), maximum: getrlimit(Resource::Nofile).maximum });
    fs::write(there.with_file_name("go"), "").unwrap();
    wait_for("the end of run.sh", || (!is_alive(&script)).then_some(()));
    wait_for("a look at the load", || client.log().contains("/load is stale").then_some(()));
    // Time for three more of them, and for many looks at what is left.
    thread::sleep(Duration::from_secs(3));
    limit_descriptors(&client, limit);
    wait_for("another look at the load", || client.log().contains("/load is right again").then_some(()));
    assert_eq!(client.log().matches("/load is stale").count(), 1, "{}", client.log());
    assert!(!client.log().contains("payload ended"), "{}", client.log());
    drop(sleepers);
    let answer = client.ended(&id);
    assert_eq!(answer.json("exit_code").as_deref(), Some("3"), "{}", answer.text());
}

/// What ends while nobody can look at it is not waited for until something else ends.
#[test]
fn what_ended_without_descriptors_is_told_once_there_are_some() {
    let client = Client::start();
    let id = client.run(UNTIL_GO);
    let there = client.wait_for_file(&id, "there");
    let limit =
        limit_descriptors(&client, Rlimit { current: Some(1), maximum: getrlimit(Resource::Nofile).maximum });
    fs::write(there.with_file_name("go"), "").unwrap();
    wait_for("a look at the load", || client.log().contains("/load is stale").then_some(()));
    thread::sleep(Duration::from_millis(500));
    limit_descriptors(&client, limit);
    client.result(&id).file("there");
}
