//! Disks that are full, read-only, gone, broken, slow or without power, at each step of a payload, and small ones to try it on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE, binary, is_alive, pid_in, place, uncontained, wait_for};
use crate::fault::Fault;
use crate::records::{record_of, record_path};
pub use crate::small_disk::SmallDisk;
use crate::small_disk::run;
use crate::wire::{self, Answer, call, form, submit_form};

/// Makes a directory read-only for all that open files by its path from now on. Writable again when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(path: &Path) -> Option<Self> {
        let text = path.to_str().unwrap();
        if !run("mount", &["--bind", text, text]) {
            return None;
        }
        let this = Self(path.to_owned());
        run("mount", &["-o", "remount,bind,ro", text]).then_some(this)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A client with nothing kept free, one slot, and quick kills.
fn client_at(data: &Path, more: &[(&str, &str)]) -> Client {
    let settings = [("MIN_FREE", "0"), ("MIN_FREE_INODES", "0"), ("MAX_JOBS", "1"), ("KILL_GRACE", "1")];
    Client::at(data, &uncontained(&[&settings[..], more].concat()))
}

/// Runs until the file `go` is beside it.
fn until_go(then: &str) -> String {
    format!("#!/bin/sh\necho $$ > pid\nwhile ! [ -e go ]; do sleep 0.02; done\n{then}\n")
}

fn status_of(answer: &Answer) -> String {
    if answer.header("content-type").as_deref() == Some("application/zip") {
        return "Completed".to_owned();
    }
    answer.json("status").unwrap_or_else(|| answer.text())
}

fn get(client: &Client, id: &str) -> Answer {
    client.get(&format!("/retrieve/{id}"))
}

/// Waits until `/health` and `/ready` have these statuses.
fn wait_for_state(client: &Client, health: u16, ready: u16) {
    let mut last = String::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let answers = [client.get("/health"), client.get("/ready")];
        if answers.each_ref().map(|answer| answer.status) == [health, ready] {
            return;
        }
        last = format!("{} {}", answers[0].text(), answers[1].text());
        thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain for /health {health} and /ready {ready}: {last}");
}

// --- full

#[test]
fn a_payload_that_fills_the_disk_keeps_its_end_over_a_restart_and_the_next_one_runs_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("size=1m") else { return };
    let client = client_at(disk.path(), &[]);
    let id = client.run("#!/bin/sh\ncat /dev/zero > big\nexit 3\n");
    let told = client.ended(&id);
    assert_eq!((told.json("status"), told.json("exit_code")), (Some("Failed".into()), Some("3".into())));
    assert!(told.json("error").unwrap().contains("the disk of DATA_PATH is full"), "{}", told.text());
    wait_for_state(&client, 200, 503);
    assert!(client.get("/ready").text().contains("disk_low"));
    client.kill();
    let next = client_at(disk.path(), &[]);
    assert_eq!(get(&next, &id).text(), told.text());
    wait_for_state(&next, 200, 503);
    fs::remove_file(Path::new(&told.json("loc").unwrap()).join("big")).unwrap();
    wait_for_state(&next, 200, 200);
    next.result(&next.run("true")).file(".orchestrator.exit");
}

#[test]
fn a_result_that_fills_the_disk_comes_with_its_exit_code() {
    let Some(disk) = SmallDisk::mount("size=1m") else { return };
    let client = client_at(disk.path(), &[]);
    let id = client.run("#!/bin/sh\nsleep 1\ncat /dev/zero > big 2>/dev/null\nexit 0\n");
    let directory = client.loc(&id);
    assert_eq!(client.result(&id).file(".orchestrator.exit"), "0\n");
    assert!(!directory.join(".orchestrator.exit").exists(), "there was room: this test tests nothing");
}

#[test]
fn a_payload_without_an_inode_for_its_logs_waits_until_there_is_one_also_over_a_restart() {
    let Some(disk) = SmallDisk::mount("size=4m,nr_inodes=64") else { return };
    let client = client_at(disk.path(), &uncontained(&[]));
    let script = "#!/bin/sh\nwhile ! [ -e full ]; do sleep 0.02; done\nn=0\nwhile : > f$n; do n=$((n+1)); done 2>/dev/null\n";
    let filler = client.run(script);
    let directory = client.loc(&filler);
    let journal = tempfile::NamedTempFile::new().unwrap();
    let waiting = client.run(&format!("echo ran >> {}", journal.path().display()));
    fs::write(directory.join("full"), "").unwrap();
    let first = client.ended(&filler);
    assert_eq!(status_of(&first), "Failed", "{}", first.text());
    assert!(first.json("error").unwrap().contains(" 0 inodes are free"), "{}", first.text());
    wait_for("the reason why nothing is started", || {
        let ready = client.get("/ready").text();
        (ready.contains("cannot_start") && ready.contains("cannot create .orchestrator.out")).then_some(())
    });
    assert_eq!(client.get("/health").status, 200);
    client.kill();
    let next = client_at(disk.path(), &uncontained(&[]));
    wait_for("an attempt of the next life", || {
        next.log().contains("payloads cannot be started now, and wait").then_some(())
    });
    assert_eq!(status_of(&get(&next, &waiting)), "Prepared");
    for entry in fs::read_dir(&directory).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with('f') {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    wait_for_state(&next, 200, 200);
    next.result(&waiting).file(".orchestrator.exit");
    assert_eq!(fs::read_to_string(journal.path()).unwrap(), "ran\n");
}

/// Its list of entries outgrows the memory that it may have, and goes to the disk.
#[test]
fn a_zip_that_needs_a_full_disk_is_visibly_cut_and_whole_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("size=32m") else { return };
    let client = client_at(disk.path(), &[]);
    let id =
        client.run("#!/bin/sh\nmkdir d\ni=0\nwhile [ $i -lt 8000 ]; do : > d/file$i; i=$((i+1)); done\n");
    let whole = client.result(&id).files().len();
    assert!(whole > 8000);
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 64 << 20]).unwrap_err();
    let mut stream = wire::connect(client.address);
    let request = format!("GET /retrieve/{id} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    match wire::try_read_answer(&mut stream, false) {
        Ok(answer) => assert_eq!(answer.error(500), "answer_failed"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
    }
    wait_for("the cause in the log", || client.log().contains("cannot spool").then_some(()));
    fs::remove_file(ballast).unwrap();
    assert_eq!(client.result(&id).files().len(), whole);
    assert_eq!(client.directories().len(), 1);
}

// --- read-only and gone

#[test]
fn a_disk_that_is_read_only_for_a_while_loses_and_runs_nothing_twice() {
    let (_home, data) = place();
    let client = client_at(&data, &uncontained(&[]));
    let journal = data.with_file_name("journal");
    let running = client.run(&until_go("echo result > made"));
    let directory = client.wait_for_file(&running, "pid").parent().unwrap().to_owned();
    let writes = |name: &str| format!("#!/bin/sh\necho {name} >> {}\n", journal.display());
    let [killed, first, second] = ["killed", "first", "second"].map(|name| client.run(&writes(name)));
    let Some(read_only) = ReadOnly::mount(&data) else { return };
    wait_for_state(&client, 503, 503);
    assert!(client.get("/health").json("data_path").unwrap().contains("(os error 30)"));
    let refused = submit_form(client.address, &form(&[("run.sh", b"true")]));
    assert_eq!(refused.error(503), "disk_failed");
    // The records are open from the start on, and where they are the disk can be written.
    assert_eq!(client.post(&format!("/kill/{killed}")).status, 200);
    assert_eq!(status_of(&get(&client, &killed)), "Killed");
    // Where the payload is, the disk can be written; a file made by its path cannot be.
    let go = Command::new("sh").args(["-c", ": > go"]).current_dir(&directory).status();
    let own = format!("/proc/{}/cwd/go", pid_in(&directory.join("pid")));
    assert!(go.is_ok_and(|status| !status.success()));
    fs::write(own, "").unwrap();
    client.wait_for_log("an end cannot be noted yet");
    wait_for("an attempt", || {
        client.log().contains("payloads cannot be started now, and wait").then_some(())
    });
    assert_eq!(status_of(&get(&client, &first)), "Prepared");
    assert_ne!(get(&client, &running).status, 200, "its exit file is not there");
    drop(read_only);
    wait_for_state(&client, 200, 200);
    assert_eq!(client.result(&running).file(".orchestrator.exit"), "0\n");
    client.result(&client.run("true"));
    for waited in [&first, &second] {
        client.result(waited).file(".orchestrator.exit");
    }
    // What could not be noted is noted now.
    wait_for("all records", || {
        let mut records = client.directories().into_iter().map(|path| record_of(&path));
        records.all(|text| !text.contains("Prepared") && !text.contains("Running")).then_some(())
    });
    client.kill();
    let next = client_at(&data, &uncontained(&[]));
    assert_eq!(get(&next, &running).file("made"), "result\n");
    assert_eq!(status_of(&get(&next, &killed)), "Killed");
    next.result(&next.run("true"));
    assert_eq!(fs::read_to_string(journal).unwrap(), "first\nsecond\n");
}

#[test]
fn a_data_path_that_comes_back_has_all_its_payloads_and_nothing_goes_to_another_in_its_place() {
    let (home, data) = place();
    let client = client_at(&data, &[]);
    let ended = client.run("echo result > made");
    let files = client.result(&ended).files();
    let running = client.run(&until_go("echo on"));
    client.wait_for_file(&running, "pid");
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&data, &elsewhere).unwrap();
    // Before anybody has looked.
    fs::create_dir(&data).unwrap();
    let refused = submit_form(client.address, &form(&[("run.sh", b"true")]));
    assert!(refused.status >= 500, "{}", refused.text());
    wait_for_state(&client, 503, 503);
    assert!(client.get("/ready").text().contains("not mounted"), "{}", client.get("/ready").text());
    assert_eq!(get(&client, &ended).error(503), "disk_failed");
    assert_eq!(submit_form(client.address, &form(&[("run.sh", b"true")])).error(503), "disk_failed");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "what the disk hid is written to");
    // The first one again.
    fs::remove_dir(&data).unwrap();
    fs::rename(&elsewhere, &data).unwrap();
    wait_for_state(&client, 200, 200);
    assert_eq!(get(&client, &ended).files(), files);
    fs::write(client.loc(&running).join("go"), "").unwrap();
    assert_eq!(client.result(&running).file(".orchestrator.out"), "on\n");
    let again: u32 = client.run("true").parse().unwrap();
    client.kill();
    let next = client_at(&data, &[]);
    assert_eq!(get(&next, &ended).files(), files);
    let last: u32 = next.run("true").parse().unwrap();
    assert!(last > again, "{last} {again}");
}

// --- broken

#[test]
fn an_upload_that_the_disk_fails_is_refused_at_each_step_leaves_nothing_and_the_next_one_is_taken() {
    let (_home, data) = place();
    // The age, since so often it is tried again to remove what could not be.
    let client = client_at(&data, &[("MAX_AGE", "8")]);
    let body = form(&[("run.sh", b"#!/bin/sh\ntrue"), ("tool", b"#!/bin/sh\n"), ("a/b/c", b"x")]);
    let shelf = data.join(".orchestrator/records").canonicalize().unwrap();
    for (step, calls, effect) in [
        ("the directory", "?mkdir,?mkdirat", "error=EIO"),
        ("the second file or directory", "?open,openat", "error=EIO:when=2+"),
        ("a directory in it", "?mkdir,?mkdirat", "error=EIO:when=2+"),
        ("a mode", "fchmod", "error=EIO"),
        ("the record", "?open,openat", "error=EIO"),
        ("the record on a full disk", "?open,openat", "error=ENOSPC"),
        ("a file on a full disk", "?open,openat", "error=ENOSPC:when=2+"),
        ("a quota", "?mkdir,?mkdirat", "error=EDQUOT"),
    ] {
        // In there only, where it is the record.
        let all: &[&Path] = if step.starts_with("the record") { &[&shelf] } else { &[] };
        let Some(mut fault) = Fault::inject(&client, calls, effect, all) else { return };
        let mut answer = submit_form(client.address, &body);
        if answer.status == 503 {
            // The look of each second has met the fault before, or what was left of the last one.
            drop(fault);
            wait_for_state(&client, 200, 200);
            let Some(again) = Fault::inject(&client, calls, effect, all) else { return };
            fault = again;
            answer = submit_form(client.address, &body);
        }
        let (status, codes) = if effect.contains("EIO") {
            (500, ["disk_error", "disk_failed"])
        } else {
            (507, ["no_space", "no_space"])
        };
        let code = answer.error(status);
        assert!(codes.contains(&code.as_str()), "{step}: {}", answer.text());
        assert!(answer.text().contains("again") || answer.text().contains("free space"), "{}", answer.text());
        drop(fault);
        // At once, but where it was the removal that the disk failed as well.
        wait_for(&format!("the removal, {step}"), || client.directories().is_empty().then_some(()));
        wait_for_state(&client, 200, 200);
        let id = client.submit(&[("run.sh", b"#!/bin/sh\necho on"), ("a/b/c", b"x")]);
        assert_eq!(client.result(&id).file(".orchestrator.out"), "on\n");
        for directory in client.directories() {
            fs::remove_dir_all(directory).unwrap();
        }
    }
}

#[test]
fn the_mark_of_the_ids_that_cannot_be_written_is_told_and_written_when_it_can_be() {
    if !run("strace", &["-f", "-o", "/dev/null", "true"]) {
        return;
    }
    for (error, status, code) in [("EIO", 500, "disk_failed"), ("ENOSPC", 507, "no_space")] {
        let (_home, data) = place();
        fs::create_dir(&data).unwrap();
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-P"]);
        command.arg(data.canonicalize().unwrap().join(".orchestrator.lock"));
        // The first is the one that is made ahead.
        command.args(["-e", &format!("inject=pwrite64:error={error}:when=1..4")]).arg(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
        let client = Client::spawn(command, &data);
        let mut refused = 0;
        loop {
            let answer = submit_form(client.address, &form(&[("run.sh", b"true")]));
            if answer.status == 200 {
                client.result(&answer.json("id").unwrap());
                break;
            }
            // The look of each second has met it, or the write itself.
            assert!(["disk_failed", "disk_low", code].contains(&answer.error(answer.status).as_str()));
            refused += usize::from(answer.status == status);
            wait_for("the removal", || client.directories().is_empty().then_some(()));
            wait_for_state(&client, 200, 200);
        }
        assert!(refused > 0, "nothing failed");
    }
}

#[test]
fn a_disk_that_fails_all_writes_is_told_until_it_works_again() {
    let client = Client::start();
    let Some(fault) = Fault::inject(&client, "?mkdir,?mkdirat", "error=EIO", &[]) else { return };
    assert_eq!(submit_form(client.address, &form(&[("run.sh", b"true")])).error(500), "disk_error");
    wait_for_state(&client, 503, 503);
    thread::sleep(Duration::from_millis(1500));
    assert!(client.get("/health").json("data_path").unwrap().contains("os error 5"));
    assert_eq!(submit_form(client.address, &form(&[("run.sh", b"true")])).error(503), "disk_failed");
    drop(fault);
    wait_for_state(&client, 200, 200);
    let Some(fault) = Fault::inject(&client, "?mkdir,?mkdirat", "error=EDQUOT", &[]) else { return };
    assert_eq!(submit_form(client.address, &form(&[("run.sh", b"true")])).error(507), "no_space");
    // No reason for a restart.
    wait_for_state(&client, 200, 503);
    assert!(client.get("/ready").text().contains("disk_low"));
    drop(fault);
    wait_for_state(&client, 200, 200);
    client.result(&client.run("true"));
    assert_eq!(client.directories().len(), 1);
}

#[test]
fn a_payload_that_cannot_be_noted_or_logged_at_its_start_fails_for_good() {
    for (file, word) in [
        ("its record", "record cannot be written"),
        (".orchestrator.out", "cannot create .orchestrator.out"),
        (".orchestrator.err", "cannot create .orchestrator.err"),
    ] {
        let (_home, data) = place();
        let journal = data.with_file_name("journal");
        let client = client_at(&data, &uncontained(&[]));
        let first = client.run(&until_go(""));
        let first_directory = client.wait_for_file(&first, "pid").parent().unwrap().to_owned();
        let id = client.run(&format!("echo ran >> {}", journal.display()));
        let path = client.loc(&id).join(file);
        // Records are opened by their names alone.
        let name = Path::new(path.parent().unwrap().file_name().unwrap());
        let fails = if file == "its record" { name } else { &path };
        let Some(fault) = Fault::inject(&client, "?open,openat", "error=EIO", &[fails]) else { return };
        fs::write(first_directory.join("go"), "").unwrap();
        let mut fault = Some(fault);
        if file == "its record" {
            // Told by a record, too.
            client.wait_for_log("an end cannot be noted yet");
            must_be_unnoted(&client, &id);
            fault = None;
        }
        let told = client.ended(&id);
        assert_eq!(status_of(&told), "Failed", "{file}");
        let error = told.json("error").unwrap();
        assert!(error.contains(word) && error.contains("os error 5"), "{error}");
        drop(fault);
        wait_for("the record", || record_of(path.parent().unwrap()).contains("Failed").then_some(()));
        client.result(&client.run("true"));
        client.kill();
        let next = client_at(&data, &uncontained(&[]));
        assert_eq!(get(&next, &id).text(), told.text());
        next.result(&next.run("true"));
        assert!(!journal.exists(), "{file}: it was run");
    }
}

#[test]
fn a_kill_that_cannot_be_noted_is_told_to_nobody_before_it_is() {
    let (_home, data) = place();
    let journal = data.with_file_name("journal");
    let client = client_at(&data, &uncontained(&[]));
    let running = client.run(&until_go(""));
    client.wait_for_file(&running, "pid");
    let waiting = client.run(&format!("echo ran >> {}", journal.display()));
    let places = [&running, &waiting].map(|id| client.loc(id));
    let names = places.each_ref().map(|place| Path::new(place.file_name().unwrap()));
    let Some(fault) = Fault::inject(&client, "?open,openat", "error=EIO", &names) else { return };
    // However often somebody asks.
    for _ in 0..2 {
        for (id, status) in [(&waiting, "Prepared"), (&running, "Running")] {
            let refused = client.post(&format!("/kill/{id}"));
            assert_eq!(refused.error(503), "not_noted");
            assert!(refused.header("retry-after").is_some());
            let told = get(&client, id);
            // Its processes go meanwhile; its end cannot be noted either.
            if told.status == 503 && *id == running {
                assert_eq!(told.error(503), "not_noted");
                continue;
            }
            assert_eq!((told.status, status_of(&told)), (202, status.to_owned()));
            assert_eq!(told.json("killed").as_deref(), Some("false"));
            assert_eq!(told.json("error").as_deref(), Some("null"));
        }
    }
    drop(fault);
    for id in [&waiting, &running] {
        assert_eq!(status_of(&client.ended(id)), "Killed");
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    }
    client.kill();
    let next = client_at(&data, &uncontained(&[]));
    for id in [&waiting, &running] {
        assert_eq!(status_of(&get(&next, id)), "Killed");
    }
    next.result(&next.run("true"));
    assert!(!journal.exists());
}

/// A waiting payload is not failed, cleaned, forgotten, and run by the next life.
#[test]
fn a_data_path_that_is_away_for_longer_than_max_age_brings_nothing_back() {
    let (home, data) = place();
    let journal = data.with_file_name("journal");
    let client = client_at(&data, &uncontained(&[("MAX_AGE", "1")]));
    let running = client.run(&until_go(""));
    client.wait_for_file(&running, "pid");
    let waiting = client.run(&format!("echo ran >> {}", journal.display()));
    let ended = client.loc(&running);
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&data, &elsewhere).unwrap();
    wait_for_state(&client, 503, 503);
    assert_eq!(client.post(&format!("/kill/{waiting}")).status, 200);
    fs::write(elsewhere.join(ended.file_name().unwrap()).join("go"), "").unwrap();
    // Several times its age.
    thread::sleep(Duration::from_secs(4));
    for id in [&waiting, &running] {
        assert_ne!(get(&client, id).status, 404, "{}", client.log());
        assert_ne!(status_of(&get(&client, id)), "Cleaned");
    }
    fs::rename(&elsewhere, &data).unwrap();
    wait_for_state(&client, 200, 200);
    wait_for("the removal of both", || client.directories().is_empty().then_some(()));
    drop(client);
    let next = client_at(&data, &uncontained(&[]));
    next.result(&next.run("true"));
    assert_eq!(get(&next, &waiting).error(404), "unknown_id");
    assert!(!journal.exists());
}

/// No answer tells what a crash could undo.
#[test]
fn an_end_that_cannot_be_noted_is_told_to_nobody_before_it_is() {
    for is_healed in [true, false] {
        let (_home, data) = place();
        let client = client_at(&data, &[]);
        let id = client.run(&until_go("echo result > made"));
        let directory = client.wait_for_file(&id, "pid").parent().unwrap().to_owned();
        let name = Path::new(directory.file_name().unwrap());
        let Some(fault) = Fault::inject(&client, "?open,openat", "error=EIO", &[name]) else { return };
        fs::write(directory.join("go"), "").unwrap();
        client.wait_for_log("an end cannot be noted yet");
        must_be_unnoted(&client, &id);
        assert_eq!(client.post(&format!("/kill/{id}")).error(503), "not_noted");
        assert_eq!(client.get(&format!("/retrieve_partial/{id}")).file("made"), "result\n");
        // Its slot is free.
        let next = client.run("echo next > made");
        assert_eq!(client.result(&next).file("made"), "next\n");
        if is_healed {
            let address = client.address;
            let path = format!("/retrieve/{id}?wait=60");
            let waits = thread::spawn(move || call(address, "GET", &path));
            drop(fault);
            assert_eq!(waits.join().unwrap().file("made"), "result\n");
            assert!(record_of(&directory).contains("Completed"));
            assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
            client.kill();
        } else {
            client.signal("KILL");
            drop(fault);
            kill_again(client);
        }
        let next = client_at(&data, &[]);
        let answer = get(&next, &id);
        if is_healed {
            assert_eq!(answer.file("made"), "result\n");
        } else {
            assert_eq!(status_of(&answer), "Failed", "not lost without a word, and not run again");
            assert!(answer.json("error").unwrap().contains("client was restarted"), "{}", answer.text());
            let partial = next.get(&format!("/retrieve_partial/{id}"));
            assert_eq!(partial.file("made"), "result\n");
        }
    }
}

/// All that asks for the end of this payload is told that it is not noted, and nothing of it.
fn must_be_unnoted(client: &Client, id: &str) {
    let refused = wait_for("the refusal", || {
        let told = get(client, id);
        if told.status == 202 {
            assert_eq!(status_of(&told), "Running", "{}", told.text());
            for field in ["exit_code", "signal", "error", "finished_at"] {
                assert_eq!(told.json(field).as_deref(), Some("null"), "{}", told.text());
            }
        }
        (told.status != 202).then_some(told)
    });
    assert_eq!(refused.error(503), "not_noted");
    assert!(refused.header("retry-after").is_some());
    let begun = Instant::now();
    assert_eq!(client.get(&format!("/retrieve/{id}?wait=1")).error(503), "not_noted");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was not waited for");
}

/// What the host lacks is not the payload's doing.
#[test]
fn an_exit_file_that_the_host_does_not_take_is_owed_and_there_before_the_end_is_told() {
    let (_home, data) = place();
    let client = client_at(&data, &[]);
    for error in ["EMFILE", "ENFILE", "ENOMEM", "EIO", "EROFS"] {
        let id = client.run(&until_go(""));
        let directory = client.wait_for_file(&id, "pid").parent().unwrap().to_owned();
        let exit = Path::new(".orchestrator.exit");
        let effect = format!("error={error}");
        let Some(fault) = Fault::inject(&client, "?open,openat", &effect, &[exit]) else { return };
        fs::write(directory.join("go"), "").unwrap();
        must_be_unnoted(&client, &id);
        drop(fault);
        assert_eq!(client.result(&id).file(".orchestrator.exit"), "0\n", "{error}");
    }
}

#[test]
fn what_is_owed_is_tried_once_more_at_a_stop_and_told_where_that_fails() {
    for is_healed in [true, false] {
        let (_home, data) = place();
        let mut client = client_at(&data, &[]);
        let id = client.run(&until_go(""));
        let directory = client.wait_for_file(&id, "pid").parent().unwrap().to_owned();
        let name = Path::new(directory.file_name().unwrap());
        let Some(fault) = Fault::inject(&client, "?open,openat", "error=EIO", &[name]) else { return };
        fs::write(directory.join("go"), "").unwrap();
        client.wait_for_log("an end cannot be noted yet");
        let mut fault = Some(fault);
        if is_healed {
            fault = None;
        }
        client.signal("TERM");
        assert!(client.wait().success());
        drop(fault);
        let left = "the client ends before the disk has taken";
        if !is_healed {
            client.wait_for_log(left);
        }
        let log = client.log();
        let line = log.lines().find(|line| line.contains(left));
        assert_eq!(line.is_some_and(|line| line.contains(&format!("payloads={id} "))), !is_healed, "{log}");
        drop(client);
        let word = if is_healed { "Completed" } else { "Failed" };
        assert_eq!(status_of(&get(&client_at(&data, &[]), &id)), word);
    }
}

#[test]
fn an_end_on_a_disk_that_hangs_is_told_when_the_disk_is_back() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let client = client_at(&disk.path().join("data"), &[]);
    let id = client.run("#!/bin/sh\necho $$ > pid\nexec sleep 1000\n");
    let pid = pid_in(&client.wait_for_file(&id, "pid"));
    let Some(frozen) = disk.freeze() else { return };
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    must_be_unnoted(&client, &id);
    drop(frozen);
    let told = client.ended(&id);
    assert_eq!((status_of(&told), told.json("signal")), ("Failed".into(), Some("9".into())));
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).file(".orchestrator.exit"), "137\n");
}

/// One that has been killed already.
fn kill_again(mut client: Client) {
    client.wait();
}

#[test]
fn what_cannot_be_read_of_an_ended_payload_is_no_zip_without_it() {
    let client = Client::start();
    let id = client.run("echo result > made; echo broken > broken");
    client.result(&id);
    let directory = client.directories().remove(0);
    let broken = directory.join("broken");
    let Some(fault) = Fault::inject(&client, "?read,?pread64", "error=EIO", &[&broken]) else { return };
    assert_eq!(get(&client, &id).error(500), "disk_failed");
    assert!(
        client.log().contains("cannot read broken: ") && client.log().contains("(os error 5)"),
        "{}",
        client.log()
    );
    drop(fault);
    let Some(fault) = Fault::inject(&client, "?open,openat", "error=EIO", &[&directory]) else { return };
    assert_eq!(get(&client, &id).error(500), "disk_failed");
    drop(fault);
    for (errno, code) in [("EMFILE", "no_descriptors"), ("ENFILE", "no_descriptors"), ("ENOMEM", "no_memory")]
    {
        let effect = format!("error={errno}");
        let Some(fault) = Fault::inject(&client, "?open,openat", &effect, &[&directory]) else { return };
        let refused = get(&client, &id);
        assert_eq!(refused.error(503), code, "{errno}");
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
        drop(fault);
    }
    assert_eq!(get(&client, &id).file("broken"), "broken\n");
}

/// `EXT4_IOC_SHUTDOWN` of an ext4 that is mounted there: every read and write of it fails from now on, as of a disk that is pulled.
fn shut_down(mounted: &Path) -> bool {
    let script = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
    run("python3", &["-c", script, mounted.to_str().unwrap()])
}

#[test]
fn a_disk_that_fails_all_reads_gives_no_zip_that_looks_whole() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let client = client_at(&disk.path().join("data"), &[]);
    let id = client.run("mkdir sub; head -c 2000000 /dev/urandom > sub/noise; seq 1000 > other");
    client.result(&id);
    if !shut_down(disk.path()) {
        return;
    }
    for path in [format!("/retrieve/{id}"), format!("/retrieve_partial/{id}")] {
        let answer = wire::try_send(client.address, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        // Cut, or refused.
        if let Ok(answer) = answer {
            assert!(answer.status >= 500, "{}", answer.head);
        }
    }
    // The client is up; it can take nothing.
    wait_for("/ready", || (client.get("/ready").status == 503).then_some(()));
}

#[test]
fn a_directory_that_the_disk_does_not_let_go_is_removed_when_it_does() {
    let (_home, data) = place();
    let client = client_at(&data, &[("MAX_AGE", "2")]);
    let id = client.run("mkdir sub; : > sub/file; : > other");
    client.result(&id);
    let Some(fault) = Fault::inject(&client, "?unlink,?unlinkat,?rmdir", "error=EIO", &[]) else { return };
    client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Cleaned"));
    wait_for("the failure", || client.log().contains("cannot remove a directory").then_some(()));
    // It is told once.
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(client.log().matches("cannot remove a directory").count(), 1, "{}", client.log());
    assert_eq!(client.directories().len(), 1);
    drop(fault);
    wait_for("its removal", || client.directories().is_empty().then_some(()));
}

#[test]
fn a_refused_upload_that_the_disk_does_not_let_go_is_removed_when_it_does() {
    let (_home, data) = place();
    let client = client_at(&data, &[("MAX_AGE", "2")]);
    // The mode of a script, and then the removal.
    let calls = "fchmod,?unlink,?unlinkat,?rmdir";
    let Some(fault) = Fault::inject(&client, calls, "error=EIO", &[]) else { return };
    assert_eq!(
        submit_form(client.address, &form(&[("run.sh", b"true"), ("tool", b"#!/bin/sh\n")])).error(500),
        "disk_error"
    );
    assert_eq!(client.directories().len(), 1);
    drop(fault);
    wait_for("its removal", || client.directories().is_empty().then_some(()));
}

#[test]
fn a_removal_that_is_cut_off_leaves_no_half_of_a_result() {
    let (_home, data) = place();
    let client = client_at(&data, &[("MAX_AGE", "2")]);
    let id = client.run("for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do : > file$n; done");
    client.result(&id);
    let Some(fault) = Fault::inject(&client, "?unlink,unlinkat", "error=EIO:when=2+", &[]) else { return };
    client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Cleaned"));
    wait_for("the failure", || client.log().contains("cannot remove a directory").then_some(()));
    client.signal("KILL");
    drop(fault);
    kill_again(client);
    let next = client_at(&data, &[]);
    let answer = get(&next, &id);
    assert_eq!(answer.status, 404, "{}", answer.head);
    assert_eq!(next.directories(), Vec::<PathBuf>::new());
}

#[test]
fn a_start_tells_what_it_cannot_read_and_removes_nothing_of_it() {
    let (_home, data) = place();
    let client = client_at(&data, &[]);
    let id = client.run("echo result > made");
    client.result(&id);
    let record = record_path(&client.directories()[0]);
    client.kill();
    let traced = |calls: &str, path: &Path| {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-P"]).arg(path);
        command.args(["-e", &format!("inject={calls}:error=EIO")]).arg(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
        command
    };
    if !run("strace", &["-f", "-o", "/dev/null", "true"]) {
        return;
    }
    let output = traced("getdents64", &data).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("cannot take up the payloads of DATA_PATH") && text.contains("os error 5"),
        "{text}"
    );
    // It is opened by its name alone.
    for (calls, path) in [("read", &*record), ("?open,openat", Path::new(record.file_name().unwrap()))] {
        let client = Client::spawn(traced(calls, path), &data);
        assert_eq!(get(&client, &id).error(404), "unknown_id");
        assert!(client.log().contains("payload cannot be taken up"), "{}", client.log());
        let other: u32 = client.run("true").parse().unwrap();
        assert!(other > id.parse().unwrap());
        client.result(&other.to_string());
        client.kill();
    }
    let next = client_at(&data, &[]);
    assert_eq!(get(&next, &id).file("made"), "result\n");
}

// --- slow

#[test]
fn a_payload_whose_start_waits_for_a_disk_that_hangs_holds_up_no_kill() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let client = client_at(&disk.path().join("data"), &[("MAX_JOBS", "2")]);
    let running: Vec<String> = (0..2).map(|_| client.run(&until_go(""))).collect();
    let pids: Vec<String> = running.iter().map(|id| pid_in(&client.wait_for_file(id, "pid"))).collect();
    let waiting = client.run("true");
    let Some(frozen) = disk.freeze() else { return };
    for (id, pid) in running.iter().zip(&pids) {
        assert_eq!(client.post(&format!("/kill/{id}")).error(503), "not_noted");
        wait_for("the end of its processes", || (!is_alive(pid)).then_some(()));
    }
    drop(frozen);
    client.result(&waiting);
}

#[test]
fn a_disk_that_hangs_holds_up_neither_kills_nor_polls_and_is_told() {
    let Some(disk) = SmallDisk::ext4() else { return };
    // The upload waits for as long as this takes.
    let client = client_at(&disk.path().join("data"), &[("MAX_JOBS", "4"), ("DISK_TIMEOUT", "10m")]);
    let stubborn = "#!/bin/sh\ntrap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n";
    let running: Vec<String> = (0..3).map(|_| client.run(stubborn)).collect();
    let pids: Vec<String> = running.iter().map(|id| pid_in(&client.wait_for_file(id, "pid"))).collect();
    let Some(frozen) = disk.freeze() else { return };
    let address = client.address;
    let upload = thread::spawn(move || submit_form(address, &form(&[("run.sh", b"echo on")])));
    let promptly = |path: &str| {
        let start = Instant::now();
        let answer = client.get(path);
        assert!(start.elapsed() < Duration::from_secs(2), "{path} took {:?}", start.elapsed());
        answer
    };
    for (id, pid) in running.iter().zip(&pids) {
        // Its processes are ended; that it was killed is told when the disk knows.
        assert_eq!(client.post(&format!("/kill/{id}")).error(503), "not_noted");
        wait_for("the end of its processes", || {
            let told = promptly(&format!("/retrieve/{id}"));
            assert!(told.status == 503 || status_of(&told) == "Running", "{}", told.text());
            (!is_alive(pid)).then_some(())
        });
    }
    let health = wait_for("the trouble", || Some(promptly("/health")).filter(|answer| answer.status == 503));
    assert!(health.json("data_path").unwrap().contains("has not answered for"), "{}", health.text());
    assert_eq!(promptly("/ready").status, 503);
    assert_eq!(submit_form(address, &form(&[("run.sh", b"true")])).error(503), "disk_failed");
    assert!(!upload.is_finished());
    drop(frozen);
    wait_for_state(&client, 200, 200);
    let taken = upload.join().unwrap();
    assert_eq!(taken.status, 200, "{}", taken.text());
    assert_eq!(client.result(&taken.json("id").unwrap()).file(".orchestrator.out"), "on\n");
    for id in &running {
        assert_eq!(status_of(&client.ended(id)), "Killed");
    }
    client.must_be_well_and_empty("a disk that hung");
}

#[test]
fn a_disk_that_is_slow_to_look_at_holds_up_no_other_connection() {
    let client = Client::with(&[("DISK_TIMEOUT", "10m")]);
    let id = client.run("true");
    client.result(&id);
    let directory = client.directories().remove(0);
    let calls = "?stat,?statx,?newfstatat,?open,openat";
    let Some(fault) = Fault::inject(&client, calls, "delay_enter=2000000", &[&directory]) else { return };
    let address = client.address;
    // More than there are workers. The tracer has to get round to each of them before it gives up waiting.
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let path = format!("/retrieve/{id}");
            thread::spawn(move || call(address, "GET", &path).status)
        })
        .collect();
    for _ in 0..40 {
        let start = Instant::now();
        assert_eq!(client.get("/health").status, 200);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!readers.iter().all(thread::JoinHandle::is_finished), "nothing was slow");
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 200);
    }
    drop(fault);
}

/// More at once than there are threads for them, at each step of an upload: before its first byte is on the disk, and in the middle.
#[test]
fn uploads_to_a_disk_that_hangs_are_told_so_in_time_and_none_becomes_a_payload_when_it_is_back() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let data = disk.path().join("data");
    let client = client_at(&data, &uncontained(&[("DISK_TIMEOUT", "2s")]));
    let journal = tempfile::NamedTempFile::new().unwrap();
    let script = format!("#!/bin/sh\necho ran >> {}\n", journal.path().display());
    let address = client.address;
    let must_be_told = |answer: &Answer| {
        assert!(["disk_failed", "no_thread"].contains(&answer.error(503).as_str()), "{}", answer.text());
        assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    };
    // Half of a large one is on the disk by then.
    let large = form(&[("run.sh", script.as_bytes()), ("large", &vec![b'x'; 1 << 20])]);
    let (first, second) = large.split_at(large.len() / 2);
    let mut half = wire::connect(address);
    half.write_all(wire::submit_head(large.len()).as_bytes()).unwrap();
    half.write_all(first).unwrap();
    wait_for("its file", || {
        let found = client.directories().into_iter().map(|path| path.join("large"));
        found.filter_map(|path| fs::metadata(path).ok()).find(|file| file.len() > 0)
    });
    let Some(frozen) = disk.freeze() else { return };
    half.write_all(second).unwrap();
    let small = form(&[("run.sh", script.as_bytes())]);
    let uploads: Vec<_> = (0..70)
        .map(|_| {
            let small = small.clone();
            thread::spawn(move || submit_form(address, &small))
        })
        .collect();
    // Each is answered while the disk hangs.
    must_be_told(&wire::read_answer(&mut half, false));
    for upload in uploads {
        must_be_told(&upload.join().unwrap());
    }
    let known = wait_for("the trouble", || Some(client.get("/health")).filter(|answer| answer.status == 503));
    assert!(known.header("retry-after").is_some(), "{}", known.head);
    must_be_told(&submit_form(address, &small));
    drop(frozen);
    wait_for_state(&client, 200, 200);
    // What comes after them has a thread only when they are done.
    let last = client.run("true");
    client.result(&last).file(".orchestrator.exit");
    wait_for("the end of their directories", || (client.directories().len() == 1).then_some(()));
    client.must_be_well_and_empty("a disk that hung");
    client.kill();
    let next = client_at(&data, &uncontained(&[]));
    next.result(&next.run("true"));
    assert_eq!(next.directories().len(), 2);
    assert_eq!(fs::read_to_string(journal.path()).unwrap(), "");
}

#[test]
fn a_result_on_a_disk_that_hangs_is_refused_before_its_first_byte_and_visibly_cut_later() {
    let client = Client::with(&[("DISK_TIMEOUT", "1s")]);
    let id = client.run("head -c 40000000 /dev/urandom > large");
    // Nobody has fetched it, so its length is not known.
    let is_over = || client.get(&format!("/payloads/{id}")).json("finished_at").as_deref() != Some("null");
    wait_for("the end", || is_over().then_some(()));
    let directory = client.directories().remove(0);
    let mut reader = wire::connect(client.address);
    let request = format!("GET /retrieve/{id} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    reader.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 4096];
    reader.read_exact(&mut first).unwrap();
    // Without chunks, nothing but the way that the connection ends tells a cut from an end.
    let mut old = wire::connect(client.address);
    old.write_all(format!("GET /retrieve/{id} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    old.read_exact(&mut [0; 4096]).unwrap();
    let large = directory.join("large");
    let calls = "read,pread64,readv,preadv";
    let Some(fault) = Fault::inject(&client, calls, "delay_enter=20000000", &[&large]) else { return };
    let answer = wire::try_read_answer(&mut (&first[..]).chain(&reader), false);
    assert!(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    let ended = old.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
    wait_for("the reason", || client.log().contains("answer cut").then_some(()));
    drop(fault);
    let calls = "?stat,?statx,?newfstatat,?open,openat";
    let Some(fault) = Fault::inject(&client, calls, "delay_enter=20000000", &[&directory]) else { return };
    let answer = client.get(&format!("/retrieve/{id}"));
    assert_eq!(answer.error(503), "disk_failed");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    assert_eq!(client.get("/health").status, 200);
    drop(fault);
    assert!(client.result(&id).body.len() > 40_000_000);
}

// --- without power

/// The calls of a client that have to do with the disk's memory, each with the thread that made it.
struct Trace(tempfile::NamedTempFile);

impl Trace {
    fn client(data: &Path, settings: &[(&str, &str)]) -> Option<(Client, Self)> {
        if !run("strace", &["-f", "-o", "/dev/null", "true"]) {
            return None;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-y", "-s", "16", "-o"]).arg(file.path()).args([
            "-e",
            "trace=?sync,syncfs,fsync,fdatasync,?sync_file_range,msync,?rename,?renameat,?renameat2,?open,openat,execve,sendto,write",
        ]);
        command.arg(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(data);
        command.envs(settings.iter().copied());
        Some((Client::spawn(command, data), Self(file)))
    }

    /// Thread and text of each call, in the order in which they began.
    fn calls(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.0.path()).unwrap();
        let split = |line: &str| {
            line.split_once(' ').map(|(thread, call)| (thread.to_owned(), call.trim().to_owned()))
        };
        text.lines().filter_map(split).filter(|(_, call)| !call.starts_with("<...")).collect()
    }
}

/// Where each of the patterns is first found after the one before, in calls of one thread. A pattern is the beginning of a call
/// and, after a blank, something that is in it.
#[track_caller]
fn in_order(calls: &[(String, String)], patterns: &[&str]) -> usize {
    let is = |call: &str, pattern: &str| {
        let (start, rest) = pattern.split_once(' ').unwrap_or((pattern, ""));
        call.starts_with(start) && call.contains(rest)
    };
    let starts = calls.iter().enumerate().filter(|(_, (_, call))| is(call, patterns[0]));
    for (start, (thread, _)) in starts {
        let mut at = start;
        let mut found = 1;
        for (index, (other, call)) in calls.iter().enumerate().skip(start + 1) {
            if other == thread && found < patterns.len() && is(call, patterns[found]) {
                (at, found) = (index, found + 1);
            }
        }
        if found == patterns.len() {
            return at;
        }
    }
    let text: Vec<String> = calls.iter().map(|(thread, call)| format!("{thread} {call}")).collect();
    panic!("{patterns:?} not in\n{}", text.join("\n"));
}

#[test]
fn what_is_to_withstand_a_power_cut_is_synced_in_the_right_order() {
    let (_home, data) = place();
    let Some((client, trace)) = Trace::client(&data, &[("DURABLE", "on")]) else { return };
    let id = client.run("#!/bin/sh\nexit 0\n");
    client.result(&id);
    let directory = client.directories().remove(0);
    drop(client);
    let calls = trace.calls();
    let (data, directory) = (data.canonicalize().unwrap(), directory.canonicalize().unwrap());
    let within = |call: &str, path: &Path| format!("{call} <{}>", path.display());
    let record = within("fdatasync(", &record_path(&directory));
    let shelf = within("fsync(", &data.join(".orchestrator/records"));
    let files = within("syncfs(", &data);
    let fsync_data = within("fsync(", &data);
    let taken = in_order(&calls, &[&files, &record, &shelf, &fsync_data]);
    let answers = |from: usize| calls[from..].iter().position(|(_, call)| call.contains("HTTP/1.1 200"));
    assert!(answers(taken).is_some());
    assert_eq!(calls[..taken].iter().filter(|(_, call)| call.contains("HTTP/1.1 200")).count(), 0);
    let started = in_order(&calls[taken..], &[&record]) + taken;
    let run = calls.iter().position(|(_, call)| call.starts_with("execve(\"./run.sh\"")).unwrap();
    assert!(started < run, "{started} {run}");
    let results = within("syncfs(", &directory);
    let exit = "openat( .orchestrator.exit";
    in_order(&calls[run..], &[exit, &results, &record]);
}

/// Calls that have to do with the disk's memory, but for what keeps ids from coming twice and tells starts of the machine apart.
fn syncs(calls: &[(String, String)]) -> Vec<&String> {
    let is_sync = |call: &&String| call.contains("sync") && !call.contains(".orchestrator.lock>");
    calls.iter().map(|(_, call)| call).filter(is_sync).filter(|call| !call.contains("openat")).collect()
}

#[test]
fn what_need_not_withstand_a_power_cut_is_not_synced_at_all() {
    let (_home, data) = place();
    let settings = [("MAX_AGE", "1"), ("DURABLE", "off")];
    let Some((client, trace)) = Trace::client(&data, &settings) else { return };
    let id = client.run("#!/bin/sh\nexit 0\n");
    client.result(&id);
    let waiting = client.run("exec sleep 1000");
    client.post(&format!("/kill/{waiting}"));
    client.ended(&waiting);
    wait_for("the removal", || client.directories().is_empty().then_some(()));
    client.kill();
    let calls = trace.calls();
    assert!(calls.iter().any(|(_, call)| call.starts_with("openat")), "nothing was traced");
    let found: Vec<_> = syncs(&calls).into_iter().filter(|call| !call.contains("/synced>")).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_is_to_withstand_a_power_cut_soon_is_synced_together_and_nothing_where_nothing_is_new() {
    let (_home, data) = place();
    let Some((client, trace)) = Trace::client(&data, &[]) else { return };
    let all_synced = || {
        let calls = trace.calls();
        syncs(&calls).iter().filter(|call| call.starts_with("syncfs")).count()
    };
    let ids: Vec<String> = (0..20).map(|_| client.run("true")).collect();
    for id in &ids {
        client.result(id);
    }
    let last = Instant::now();
    wait_for("a sync", || (all_synced() > 0).then_some(()));
    assert!(last.elapsed() < Duration::from_secs(20), "{:?}", last.elapsed());
    // Until all is still.
    thread::sleep(Duration::from_secs(6));
    let before = all_synced();
    assert!(before < 10, "{before} syncs");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(all_synced(), before);
    let calls = trace.calls();
    let written =
        syncs(&calls).into_iter().filter(|call| !call.starts_with("syncfs") && !call.contains("/synced>"));
    assert_eq!(written.collect::<Vec<_>>(), Vec::<&String>::new(), "somebody waits for the disk");
}

/// A client to which the machine has been started another time. `None` where that is not permitted, which the output tells.
fn after_another_start(data: &Path, boot: &str, more: &[(&str, &str)]) -> Option<Client> {
    let file = data.with_file_name(format!("boot-{boot}"));
    fs::write(&file, format!("{boot}\n")).unwrap();
    let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    if !run("unshare", &["-m", "sh", "-c", script, file.to_str().unwrap(), "true"]) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(&file).arg(binary());
    command
        .args(["client", "--port", "0", "--host", "127.0.0.1", "--max-jobs", "1", "--data-path"])
        .arg(data);
    command.envs(more.iter().copied());
    Some(Client::spawn(command, data))
}

/// What the life has noted as being on the disk.
fn wait_for_a_sync(data: &Path) {
    let noted = || fs::read(data.join(".orchestrator/synced")).unwrap_or_default();
    // One may be under way that does not have all.
    for _ in 0..2 {
        let before = noted();
        let probe = data.join(".orchestrator");
        assert!(probe.is_dir());
        wait_for("a sync", || (noted() != before).then_some(()));
    }
}

/// The same disk, so that nothing is lost but what the client must take for lost.
#[test]
fn what_was_not_on_the_disk_for_sure_is_neither_run_nor_given_after_a_start_of_the_machine() {
    for durable in ["on", "soon", "off"] {
        let (_home, data) = place();
        let settings = uncontained(&[("MAX_JOBS", "1"), ("DURABLE", durable), ("KILL_GRACE", "0")]);
        let journal = data.with_file_name("journal");
        let first = Client::at(&data, &settings);
        let ended = first.run("echo result > made");
        first.result(&ended);
        let running = first.run("#!/bin/sh\necho > on\nwhile :; do sleep 0.1; done\n");
        first.wait_for_file(&running, "on");
        let waiting = first.run(&format!("echo ran >> {}", journal.display()));
        let killed = first.run("true");
        assert_eq!(first.post(&format!("/kill/{killed}")).status, 200);
        if durable == "soon"
            && !fs::read_to_string(data.join(".orchestrator/synced")).unwrap().contains(" 0  ")
        {
            println!("skipped: it was synced before");
            continue;
        }
        first.kill();
        // A life that ends at once in between changes nothing.
        for boot in ["b", "c"] {
            let Some(next) = after_another_start(&data, boot, &settings) else { return };
            let about = format!("DURABLE={durable}, {boot}: {}", next.log());
            assert_eq!(status_of(&get(&next, &killed)), "Killed", "{about}");
            assert_eq!(status_of(&get(&next, &running)), "Failed", "{about}");
            if durable == "on" {
                assert_eq!(get(&next, &ended).file("made"), "result\n", "{about}");
                next.result(&waiting).file(".orchestrator.exit");
            } else {
                for id in [&ended, &waiting] {
                    let told = get(&next, id);
                    assert_eq!(status_of(&told), "Failed", "{about}");
                    assert!(told.json("error").unwrap().starts_with("the power was cut before"), "{about}");
                    assert_eq!(next.get(&format!("/retrieve_partial/{id}")).status, 404, "{about}");
                }
                assert!(!journal.exists(), "{about}");
            }
            next.kill();
        }
    }
}

#[test]
fn what_was_synced_in_the_background_is_there_and_whole_after_a_power_cut() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let data = disk.path().join("data");
    let client = client_at(&data, &[]);
    let ended = submit_files(&client, 0);
    assert_whole(&client.result(&ended), 0);
    let running = client.run(&until_go(""));
    client.wait_for_file(&running, "pid");
    let waiting = submit_files(&client, 1);
    let others: Vec<String> = (0..2).map(|_| client.run("true")).collect();
    for id in &others {
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    }
    thread::spawn({
        let address = client.address;
        // So that there is something new for a second sync.
        move || {
            for _ in 0..60 {
                submit_form(address, &form(&[("run.sh", b"true")]));
                thread::sleep(Duration::from_millis(250));
            }
        }
    });
    wait_for_a_sync(&data);
    let image = disk.without_power();
    let late = client.run("true");
    let highest: u32 = late.parse().unwrap();
    let disk = SmallDisk::ext4_in(image).unwrap();
    let Some(next) = after_another_start(&disk.path().join("data"), "b", &[]) else { return };
    assert_whole(&get(&next, &ended), 0);
    assert_eq!(status_of(&get(&next, &running)), "Failed");
    assert_whole(&next.result(&waiting), 1);
    for id in &others {
        assert_eq!(status_of(&get(&next, id)), "Killed");
    }
    let id: u32 = next.run("true").parse().unwrap();
    assert!(id > highest, "{id} was given before: {highest}");
}

/// Files whose blocks are worth losing.
fn files_of(number: u8) -> Vec<(String, Vec<u8>)> {
    let content = |bytes: usize| {
        let mut state = u32::from(number) + 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..bytes).map(next).collect::<Vec<u8>>()
    };
    let script = "#!/bin/sh\ncat large sub/dir/small > copy\n".to_owned().into_bytes();
    vec![
        ("run.sh".into(), script),
        ("large".into(), content(300_000)),
        ("sub/dir/small".into(), content(100)),
    ]
}

fn submit_files(client: &Client, number: u8) -> String {
    let files = files_of(number);
    client
        .submit(&files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect::<Vec<_>>())
}

#[track_caller]
fn assert_whole(answer: &Answer, number: u8) {
    let (sent, got) = (files_of(number), answer.files());
    let of = |name: &str| got.iter().find(|file| file.0 == name).map(|file| file.1.clone());
    for (name, content) in &sent {
        assert!(of(name).as_ref() == Some(content), "{name} of {number}");
    }
    assert!(of("copy") == Some([sent[1].1.as_slice(), &sent[2].1].concat()), "the result of {number}");
}

/// The power goes at the moment of an answer: what the disk has then is all that the next life gets.
#[test]
fn what_was_answered_is_there_and_whole_after_a_power_cut() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let client = client_at(&disk.path().join("data"), &[("DURABLE", "on")]);
    let ended = submit_files(&client, 0);
    assert_whole(&client.result(&ended), 0);
    let failed = client.run("#!/bin/sh\nexit 3\n");
    let failed_told = client.ended(&failed).text();
    let running = client.run(&until_go(""));
    client.wait_for_file(&running, "pid");
    let mut waiting = Vec::new();
    let mut cuts = Vec::new();
    for number in 1..=4 {
        waiting.push(submit_files(&client, number));
        cuts.push((disk.without_power(), waiting.clone(), None));
    }
    let killed = waiting[1].clone();
    assert_eq!(client.post(&format!("/kill/{killed}")).status, 200);
    cuts.push((disk.without_power(), waiting.clone(), Some(killed)));
    for (image, taken, killed) in cuts {
        let disk = SmallDisk::ext4_in(image).unwrap();
        let next = client_at(&disk.path().join("data"), &[]);
        assert_whole(&get(&next, &ended), 0);
        assert_eq!(get(&next, &failed).json("exit_code"), wire::json_field(&failed_told, "exit_code"),);
        let cut_off = get(&next, &running);
        assert!(cut_off.json("error").unwrap().contains("client was restarted"), "{}", cut_off.text());
        for (number, id) in (1..).zip(&taken) {
            if Some(id) == killed.as_ref() {
                assert_eq!(status_of(&get(&next, id)), "Killed");
            } else {
                assert_whole(&next.result(id), number);
            }
        }
        assert_eq!(next.directories().len(), 3 + taken.len(), "{}", next.log());
        let given: Vec<u32> = waiting.iter().map(|id| id.parse().unwrap()).collect();
        let id: u32 = next.run("true").parse().unwrap();
        assert!(id > given[taken.len() - 1], "{id} of {given:?}");
        next.result(&id.to_string());
    }
}

/// That the test above could fail: without the syncs the disk has nothing yet.
#[test]
fn what_is_not_synced_is_gone_after_a_power_cut_and_the_next_life_starts_all_the_same() {
    let Some(disk) = SmallDisk::ext4() else { return };
    let client = client_at(&disk.path().join("data"), &[("DURABLE", "off")]);
    let id = submit_files(&client, 0);
    let image = disk.without_power();
    assert_whole(&client.result(&id), 0);
    let disk = SmallDisk::ext4_in(image).unwrap();
    let next = client_at(&disk.path().join("data"), &[]);
    assert_eq!(get(&next, &id).status, 404);
    next.result(&next.run("true"));
}
