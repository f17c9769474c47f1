//! What the host lacks for a while fails no payload: those that wait go on waiting, `/ready` and the log say why, and they are
//! started when it is over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::client::{Client, binary, copy_program, place, wait_for};
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
    must_wait(&client, &waiting, "No such file or directory");
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
    must_wait(&client, &waiting, "Permission denied");
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
    let client = Client::at(&data, &[("MAX_JOBS", "1")]);
    let running = client.run(UNTIL_GO);
    let directory = client.wait_for_file(&running, "there").parent().unwrap().to_owned();
    let journal = home.path().join("journal");
    let ids: Vec<String> =
        (0..3).map(|n| client.run(&format!("echo {n} >> {}", journal.display()))).collect();
    let away = home.path().join("away");
    fs::rename(&data, &away).unwrap();
    fs::write(away.join(directory.file_name().unwrap()).join("go"), "").unwrap();
    must_wait(&client, &ids, "No such file or directory");
    client.kill();
    fs::rename(&away, &data).unwrap();
    let next = Client::at(&data, &[("MAX_JOBS", "1")]);
    for id in &ids {
        next.result(id).file(".orchestrator.exit");
    }
    assert_eq!(fs::read_to_string(journal).unwrap(), "0\n1\n2\n");
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
    std::thread::sleep(std::time::Duration::from_secs(6));
    let Some(()) = may_have(&client, 1) else { return };
    let address = client.address;
    let path = format!("/retrieve/{id}");
    let downloads: Vec<_> = (0..3)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || call(address, "GET", &path))
        })
        .collect();
    client.wait_for_log("cannot start a disk thread");
    may_have(&client, 5000).unwrap();
    for download in downloads {
        assert_eq!(download.join().unwrap().file("made"), "result\n");
    }
}
