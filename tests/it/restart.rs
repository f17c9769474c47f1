//! The next life of the client: what it takes up from the directories of the one before, however that ended.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::client::{Client, is_alive, pid_in, place, processes_of, uncontained, wait_for};
use crate::records::{record_of, record_path};
use crate::sleepers::Sleepers;
use crate::wire;

const FOR_EVER: &str = "#!/bin/sh\necho $$ > pid\nwhile :; do sleep 0.1; done\n";

fn status(client: &Client, id: &str) -> String {
    client.get(&format!("/retrieve/{id}")).json("status").unwrap_or_else(|| "a ZIP or nothing".to_owned())
}

#[test]
fn what_had_ended_answers_as_before() {
    let (_home, data) = place();
    let first = Client::at(&data, &[("KILL_GRACE", "0"), ("MAX_JOBS", "1")]);
    let completed = first.run("#!/bin/sh\necho out\necho result > made\n");
    let failed = first.run("#!/bin/sh\necho > made\nexit 3\n");
    let invalid = first.submit(&[("other", b"x")]);
    let signalled = first.run("#!/bin/sh\nkill -9 $$\n");
    let killed = first.run(FOR_EVER);
    first.wait_for_file(&killed, "pid");
    let killed_waiting = first.run("#!/bin/sh\necho > made\n");
    for id in [&killed_waiting, &killed] {
        assert_eq!(first.post(&format!("/kill/{id}")).status, 200);
    }
    let told =
        [&failed, &invalid, &signalled, &killed, &killed_waiting].map(|id| (id, first.ended(id).text()));
    let files = first.result(&completed).files();
    let partial = first.get(&format!("/retrieve_partial/{failed}")).files();
    first.kill();
    for _ in 0..2 {
        let next = Client::at(&data, &[]);
        for (id, text) in &told {
            assert_eq!(&next.get(&format!("/retrieve/{id}")).text(), text);
        }
        assert_eq!(next.get(&format!("/retrieve/{completed}")).files(), files);
        assert_eq!(next.get(&format!("/retrieve_partial/{failed}")).files(), partial);
        assert_eq!((next.health("waiting"), next.health("running")), (0, 0));
        next.kill();
    }
}

#[test]
fn what_waited_is_run_in_its_order_and_what_ran_is_cut_off_and_not_run_again() {
    let (_home, data) = place();
    let journal = data.with_file_name("journal");
    let settings = uncontained(&[("MAX_JOBS", "1")]);
    let first = Client::at(&data, &settings);
    let begin = |name: &str| format!("#!/bin/sh\necho {name} >> {}\n", journal.display());
    let running = first.run(&(begin("running") + "echo $$ > pid\nwhile :; do sleep 0.1; done\n"));
    let pid = pid_in(&first.wait_for_file(&running, "pid"));
    let waiting: Vec<String> = (0..5).map(|n| first.run(&begin(&n.to_string()))).collect();
    first.kill();
    let next = Client::at(&data, &settings);
    assert!(!is_alive(&pid));
    let cut_off = next.get(&format!("/retrieve/{running}"));
    assert_eq!(cut_off.json("status").as_deref(), Some("Failed"), "{}", cut_off.text());
    assert!(cut_off.json("error").unwrap().contains("client was restarted"), "{}", cut_off.text());
    assert_ne!(cut_off.json("started_at").as_deref(), Some("null"));
    assert_ne!(cut_off.json("finished_at").as_deref(), Some("null"));
    next.get(&format!("/retrieve_partial/{running}")).file("pid");
    for id in &waiting {
        next.result(id).file("run.sh");
    }
    assert_eq!(fs::read_to_string(&journal).unwrap(), "running\n0\n1\n2\n3\n4\n");
    // Nor does the life after that.
    next.kill();
    let last = Client::at(&data, &[]);
    assert_eq!(last.get(&format!("/retrieve/{running}")).text(), cut_off.text());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 6);
}

#[test]
fn what_was_being_killed_is_killed() {
    let (_home, data) = place();
    let first = Client::at(&data, &[("KILL_GRACE", "600")]);
    let id = first.run("#!/bin/sh\ntrap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n");
    let pid = pid_in(&first.wait_for_file(&id, "pid"));
    assert_eq!(first.post(&format!("/kill/{id}")).status, 200);
    wait_for("the note of the kill", || record_of(&first.directories()[0]).contains("Killed").then_some(()));
    first.kill();
    let next = Client::at(&data, &[]);
    let answer = next.get(&format!("/retrieve/{id}"));
    assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
    assert!(answer.json("error").unwrap().contains("killed by request"), "{}", answer.text());
    assert!(!is_alive(&pid));
}

#[test]
fn a_stop_keeps_what_waits_for_the_next_life() {
    let (_home, data) = place();
    let mut first = Client::at(&data, &[("MAX_JOBS", "1"), ("GRACE", "0"), ("KILL_GRACE", "0")]);
    let running = first.run(FOR_EVER);
    first.wait_for_file(&running, "pid");
    let waiting = first.run("echo on");
    first.signal("TERM");
    assert_eq!(first.wait().code(), Some(0));
    drop(first);
    let next = Client::at(&data, &[]);
    assert_eq!(status(&next, &running), "Killed");
    assert_eq!(next.result(&waiting).file(".orchestrator.out"), "on\n");
}

#[test]
fn what_was_told_that_it_will_not_be_started_is_not_started_by_a_later_life() {
    let (_home, data) = place();
    let mut first = Client::at(&data, &[("RECOVER", "off"), ("MAX_JOBS", "1"), ("KILL_GRACE", "5")]);
    let running = first.run("#!/bin/sh\necho > pid\ntrap '' TERM\nwhile ! [ -e go ]; do sleep 0.02; done\n");
    first.wait_for_file(&running, "pid");
    let go = first.loc(&running).join("go");
    let waiting: Vec<String> = (0..3).map(|_| first.run("#!/bin/sh\necho > made\n")).collect();
    first.signal("TERM");
    // The others are not asked about: that somebody has fetched an end is written as well.
    let told = first.ended(&waiting[0]);
    assert_eq!(told.json("status").as_deref(), Some("Killed"), "{}", told.text());
    assert!(told.json("error").unwrap().contains("client was stopped"), "{}", told.text());
    fs::write(go, "").unwrap();
    assert_eq!(first.wait().code(), Some(0));
    drop(first);
    let next = Client::at(&data, &[]);
    for id in &waiting {
        assert_eq!(status(&next, id), "Killed");
        assert!(!next.loc(id).join("made").exists());
    }
}

#[test]
fn a_half_received_upload_leaves_nothing() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    let body = wire::form(&[("run.sh", b"exit 0"), ("data", &vec![b'x'; 1_000_000])]);
    let mut stream = wire::connect(first.address);
    stream.write_all(wire::submit_head(body.len()).as_bytes()).unwrap();
    stream.write_all(&body[..body.len() - 1]).unwrap();
    wait_for("a directory", || (first.directories().len() == 1).then_some(()));
    first.kill();
    let next = Client::at(&data, &[]);
    assert_eq!(next.directories(), Vec::<PathBuf>::new());
    next.must_be_well_and_empty("a half-received upload");
}

#[test]
fn no_id_is_given_again() {
    let (_home, data) = place();
    let mut given = BTreeSet::new();
    for settings in [&[][..], &[("RECOVER", "off")], &[("MAX_AGE", "1")], &[]] {
        let client = Client::at(&data, settings);
        for _ in 0..3 {
            let id: u32 = client.run("true").parse().unwrap();
            assert!(given.last().is_none_or(|last| *last < id), "{id} after {given:?}");
            given.insert(id);
        }
        client.kill();
    }
}

#[test]
fn a_start_that_takes_nothing_up_is_empty_and_ends_what_still_runs() {
    let (_home, data) = place();
    let first = Client::at(&data, &[("MAX_JOBS", "1")]);
    let running = first.run(FOR_EVER);
    let pid = pid_in(&first.wait_for_file(&running, "pid"));
    let waiting = first.run("true");
    first.kill();
    let next = Client::at(&data, &[("RECOVER", "off")]);
    next.must_be_well_and_empty("an empty start");
    for id in [&running, &waiting] {
        assert_eq!(next.get(&format!("/retrieve/{id}")).error(404), "unknown_id");
    }
    assert!(!is_alive(&pid));
    assert_eq!(next.directories().len(), 2);
}

/// What is started while the new client takes its port has a copy of the socket for a moment.
#[test]
fn a_client_that_starts_payloads_at_its_start_gets_its_port() {
    let (_home, data) = place();
    let port =
        std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let client = |jobs: &str| {
        let mut command = std::process::Command::new(crate::client::binary());
        command.args(["client", "--host", "127.0.0.1", "--port", &port, "--max-jobs", jobs]);
        command.arg("--data-path").arg(&data);
        Client::spawn(command, &data)
    };
    for _ in 0..10 {
        let first = client("1");
        let ids: Vec<String> = (0..30).map(|_| first.run("sleep 0.1")).collect();
        first.kill();
        let next = client("30");
        for id in &ids {
            next.result(id);
        }
        next.kill();
    }
}

/// Children in sessions of their own, orphans, and those that hide where they come from but for their output.
#[test]
fn payloads_are_ended_with_a_client_that_is_killed_though_no_other_is_started() {
    for max_log in ["0", "100000"] {
        let (_home, data) = place();
        let client = Client::at(&data, &[("MAX_LOG", max_log)]);
        let sleepers = Sleepers::new();
        let time = &sleepers.time;
        let script = format!(
            "#!/bin/sh\nsetsid sleep {time} &\nsleep {time} &\n(setsid sh -c 'sleep {time} & sleep {time}' &)\n\
             env -i setsid /bin/sleep {time} &\n(env -i /bin/sleep {time} &)\n(env -i setsid /bin/sleep {time} &)\n\
             trap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n"
        );
        let id = client.run(&script);
        let pid = pid_in(&client.wait_for_file(&id, "pid"));
        wait_for("all of them", || (sleepers.pids().len() >= 7).then_some(()));
        client.kill();
        wait_for("the end of all", || {
            (!is_alive(&pid) && processes_of(&id).is_empty() && sleepers.pids().is_empty()).then_some(())
        });
    }
}

#[test]
fn a_guard_that_is_killed_is_started_anew() {
    let client = Client::start();
    client.result(&client.run("true"));
    let first = wait_for("a guard", || client.guard());
    signal("KILL", &first);
    wait_for("another guard", || client.guard().filter(|pid| *pid != first));
    client.result(&client.run("true"));
}

/// It looks for payloads by DATA_PATH, so it must be through before the next life has any.
#[test]
fn a_guard_that_is_late_ends_nothing_of_the_next_life() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    first.result(&first.run("true"));
    let guard = wait_for("a guard", || first.guard());
    signal("STOP", &guard);
    first.kill();
    let next = Client::at(&data, &[]);
    let id = next.run("sleep 0.5; echo done");
    thread::sleep(Duration::from_millis(200));
    signal("CONT", &guard);
    let answer = next.ended(&id);
    assert_eq!(answer.header("content-type").as_deref(), Some("application/zip"), "{}", answer.text());
    wait_for("the end of the guard", || (!is_alive(&guard)).then_some(()));
}

fn signal(name: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap().success());
}

#[test]
fn a_record_that_is_damaged_or_copied_is_told_and_left_alone() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    let ids: Vec<String> = (0..2).map(|_| first.run("true")).collect();
    for id in &ids {
        first.result(id);
    }
    let [damaged, copied] = first.directories().try_into().unwrap();
    first.kill();
    fs::write(record_path(&damaged), "{\"version\":1").unwrap();
    let copy = data.join("1b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f52");
    assert!(std::process::Command::new("cp").arg("-r").args([&copied, &copy]).status().unwrap().success());
    fs::copy(record_path(&copied), record_path(&copy)).unwrap();
    let next = Client::at(&data, &[]);
    let known = ids.iter().filter(|id| next.get(&format!("/retrieve/{id}")).status == 200).count();
    assert_eq!(known, 1);
    for directory in [&damaged, &copied, &copy] {
        assert!(directory.join("run.sh").exists(), "{}", directory.display());
    }
    assert_eq!(next.log().matches("payload cannot be taken up").count(), 2, "{}", next.log());
    assert!(next.log().contains(&damaged.display().to_string()), "{}", next.log());
    // It may have been given: nobody can know.
    let lost = ids.iter().map(|id| next.get(&format!("/retrieve/{id}"))).find(|answer| answer.status == 404);
    assert!(lost.unwrap().text().contains("or its record was lost or damaged"));
}

#[test]
fn the_record_of_a_payload_is_no_part_of_its_directory_nor_of_its_result() {
    let client = Client::start();
    let names = |answer: &wire::Answer| -> Vec<String> {
        answer.files().into_iter().map(|file| file.0).filter(|name| name.contains("orchestrator")).collect()
    };
    let expected = [".orchestrator.err", ".orchestrator.exit", ".orchestrator.out"];
    let mut found = names(&client.result(&client.run("true")));
    found.sort();
    assert_eq!(found, expected);
    // What a payload writes there itself is its own.
    let answer = client.result(&client.run("echo x > .orchestrator.payload"));
    assert_eq!(answer.file(".orchestrator.payload"), "x\n");
    let record = record_path(&client.directories()[0]);
    assert_eq!(fs::metadata(record.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(record).unwrap().permissions().mode() & 0o777, 0o600);
}

/// As version 0.1.0 left it: records in the directories of payloads, the mark of the ids a line.
#[test]
fn what_version_0_1_0_left_is_taken_up_once() {
    let (_home, data) = place();
    let first = Client::at(&data, &[("MAX_JOBS", "1")]);
    let ended = first.run("echo on > made");
    first.result(&ended);
    let running = first.run(FOR_EVER);
    first.wait_for_file(&running, "pid");
    let waiting = first.run("echo ran");
    first.kill();
    let directories: Vec<PathBuf> = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("run.sh").exists())
        .collect();
    assert_eq!(directories.len(), 3);
    for directory in &directories {
        fs::write(directory.join(".orchestrator.payload"), record_of(directory) + "   \n").unwrap();
    }
    fs::remove_dir_all(data.join(".orchestrator")).unwrap();
    fs::write(data.join(".orchestrator.lock"), "0000123456\n").unwrap();
    let next = Client::at(&data, &[]);
    assert_eq!(next.result(&waiting).file(".orchestrator.out"), "ran\n");
    drop(next);
    for _ in 0..2 {
        let next = Client::at(&data, &[("LOG", "error")]);
        assert_eq!(next.get(&format!("/retrieve/{ended}")).file("made"), "on\n");
        assert_eq!(status(&next, &running), "Failed");
        assert!(directories.iter().all(|directory| !directory.join(".orchestrator.payload").exists()));
        assert!(next.run("true").parse::<u32>().unwrap() >= 123_456);
        next.kill();
    }
}

/// What a payload writes where version 0.1.0 had its records is nothing to the next life.
#[test]
fn a_payload_forges_no_record() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    let script = r#"for at in . ../1b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f52; do
        mkdir -p $at
        printf '{"version":1,"directory":"%s","id":777,"status":"Completed","killed":false,"pid":1,"exit_code":0,"signal":null,"error":null,"created_at":1,"started_at":1,"finished_at":1,"usage":{"wall_s":0.0,"user_s":0.0,"system_s":0.0,"max_rss_bytes":0}}' \
            "$(basename "$(cd $at && pwd)")" > $at/.orchestrator.payload
        done; exit 3"#;
    let id = first.run(script);
    assert_eq!(first.ended(&id).json("status").as_deref(), Some("Failed"));
    first.kill();
    let next = Client::at(&data, &[]);
    assert_eq!(next.get("/retrieve/777").error(404), "unknown_id");
    assert_eq!(next.get(&format!("/retrieve/{id}")).json("exit_code").as_deref(), Some("3"));
}

const NEW_PLACE: &str = "the client's own place in the data path was removed, moved or replaced";

fn payload_directories(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("run.sh").exists()).collect()
}

/// A payload can take away the place where the next start looks for the records.
#[test]
fn a_place_that_is_moved_away_is_made_anew_with_all_records() {
    for taken_away in [
        "mv ../.orchestrator ../gone; mkdir -p ../.orchestrator/records",
        "mv ../.orchestrator/records ../gone",
        "rm -r ../.orchestrator",
    ] {
        let (_home, data) = place();
        let first = Client::at(&data, &uncontained(&[("MAX_JOBS", "1")]));
        let ended = first.run("echo on > made");
        first.result(&ended);
        let mover = first.run(taken_away);
        first.result(&mover);
        // At once, and after a look.
        let at_once = first.run("echo on > made");
        first.wait_for_log(NEW_PLACE);
        let running = first.run(FOR_EVER);
        first.wait_for_file(&running, "pid");
        let waiting = first.run("echo on > made");
        wait_for("all records", || {
            payload_directories(&data).iter().all(|one| !record_of(one).is_empty()).then_some(())
        });
        assert_eq!(first.get("/ready").status, 200);
        assert_eq!(first.log().matches(NEW_PLACE).count(), 1, "{}", first.log());
        first.kill();
        let next = Client::at(&data, &[("SANDBOX", "off")]);
        for id in [&ended, &at_once, &waiting] {
            assert_eq!(next.result(id).file("made"), "on\n", "{taken_away}");
        }
        assert_eq!(next.get(&format!("/retrieve/{mover}")).status, 200);
        assert_eq!(next.ended(&running).json("status").as_deref(), Some("Failed"));
    }
}

/// Nothing is answered 200 that the next start would not find.
#[test]
fn a_place_that_cannot_be_made_anew_is_told_and_nothing_is_taken() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    let ended = first.run("echo on > made");
    first.result(&ended);
    let [directory] = payload_directories(&data).try_into().unwrap();
    let own = data.join(".orchestrator");
    fs::rename(&own, data.join("gone")).unwrap();
    fs::write(&own, "in its place").unwrap();
    let refused = wire::submit_form(first.address, &wire::form(&[("run.sh", b"true")]));
    assert_eq!(refused.error(503), "disk_failed");
    wait_for("the reason", || {
        let ready = first.get("/ready");
        (ready.status == 503 && ready.text().contains(".orchestrator is no directory")).then_some(())
    });
    assert!(first.log().contains("remove what is there"), "{}", first.log());
    assert_eq!(fs::read_to_string(&own).unwrap(), "in its place");
    fs::remove_file(&own).unwrap();
    wait_for("a place that is made anew", || (first.get("/ready").status == 200).then_some(()));
    wait_for("its record", || (!record_of(&directory).is_empty()).then_some(()));
    first.kill();
    assert_eq!(Client::at(&data, &[]).result(&ended).file("made"), "on\n");
}

/// What was started is no half of an upload, whatever became of its record.
#[test]
fn results_without_a_record_are_kept_until_max_age_and_told() {
    let (_home, data) = place();
    let first = Client::at(&data, &[]);
    for _ in 0..2 {
        first.result(&first.run("echo result > made"));
    }
    first.kill();
    fs::remove_dir_all(data.join(".orchestrator")).unwrap();
    let half = data.join("1b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f52");
    fs::create_dir(&half).unwrap();
    for _ in 0..2 {
        let next = Client::at(&data, &[]);
        next.wait_for_log("have no record");
        assert!(next.log().contains("directories=2"), "{}", next.log());
        assert!(next.log().contains("kept until MAX_AGE"), "{}", next.log());
        wait_for("the removal of what is half", || (!half.exists()).then_some(()));
        assert_eq!(payload_directories(&data).len(), 2);
        next.kill();
    }
    let _last = Client::at(&data, &[("MAX_AGE", "1")]);
    wait_for("their removal by age", || payload_directories(&data).is_empty().then_some(()));
}

/// Who goes back to version 0.1.0 and comes again finds what it left taken up, and what no version vouches for kept.
#[test]
fn what_version_0_1_0_left_after_a_rollback_is_taken_up() {
    for was_there in [true, false] {
        let (_home, data) = place();
        let first = Client::at(&data, &[]);
        let kept = first.run("echo on > made");
        first.result(&kept);
        let known = payload_directories(&data);
        let id = first.run("echo on > made");
        first.result(&id);
        first.kill();
        let directory = payload_directories(&data).into_iter().find(|one| !known.contains(one)).unwrap();
        fs::write(directory.join(".orchestrator.payload"), record_of(&directory) + "   \n").unwrap();
        fs::remove_file(record_path(&directory)).unwrap();
        let lock = fs::File::options().write(true).open(data.join(".orchestrator.lock")).unwrap();
        let mark = id.parse::<u32>().unwrap() + 5000;
        if was_there {
            (&lock).write_all(format!("{mark:010}\n").as_bytes()).unwrap();
        }
        for _ in 0..2 {
            let next = Client::at(&data, &[]);
            assert_eq!(next.result(&kept).file("made"), "on\n");
            assert!(directory.join("made").exists());
            if was_there {
                assert_eq!(next.result(&id).file("made"), "on\n");
                assert!(!directory.join(".orchestrator.payload").exists());
                assert!(next.run("true").parse::<u32>().unwrap() >= mark);
            } else {
                assert_eq!(next.get(&format!("/retrieve/{id}")).error(404), "unknown_id");
            }
            next.kill();
        }
    }
}

/// Under load, in every state, again and again: each payload has one outcome, and it is the right one.
#[test]
fn a_client_that_is_killed_again_and_again_loses_and_mixes_up_nothing() {
    let (_home, data) = place();
    let mut expected: Vec<(String, u32)> = Vec::new();
    for life in 0..12_u32 {
        let client = Client::at(&data, &[("MAX_JOBS", "4"), ("LOG", "warn")]);
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let address = client.address;
                thread::spawn(move || {
                    let mut accepted = Vec::new();
                    for number in 0.. {
                        let mark = life * 100_000 + sender * 10_000 + number;
                        let script = format!("#!/bin/sh\necho {mark} > mark\nsleep 0.0{}\n", number % 4);
                        let form = wire::form(&[("run.sh", script.as_bytes())]);
                        match wire::try_submit_form(address, &form) {
                            Ok(answer) => accepted.push((answer.json("id").unwrap(), mark)),
                            Err(_) => break,
                        }
                    }
                    accepted
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(u64::from(50 + 37 * life)));
        client.kill();
        for sender in senders {
            expected.extend(sender.join().unwrap());
        }
    }
    let last = Client::at(&data, &[("MAX_JOBS", "4"), ("LOG", "warn")]);
    assert!(expected.len() > 50, "{}", expected.len());
    let ids: BTreeSet<&String> = expected.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), expected.len(), "an id was given twice");
    for (id, mark) in &expected {
        let answer = last.ended(id);
        if answer.header("content-type").as_deref() == Some("application/zip") {
            assert_eq!(answer.file("mark").trim(), mark.to_string(), "{id}");
        } else {
            assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
            assert!(answer.json("error").unwrap().contains("client was restarted"), "{}", answer.text());
        }
    }
    // One that was taken, but not yet answered, when the client was killed is a payload all the same.
    wait_for("the end of all", || (last.health("waiting") + last.health("running") == 0).then_some(()));
    let records = last.directories().iter().filter(|path| record_path(path).exists()).count();
    assert_eq!(records, last.directories().len(), "a stray directory");
    assert!(records >= expected.len() && records <= expected.len() + 4 * 12);
    assert_eq!(no_strays(&data), Vec::<String>::new());
}

fn no_strays(data: &Path) -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().flatten();
    let pids = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mark = format!("PAYLOAD_DIR={}/", data.canonicalize().unwrap().display());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            is_alive(pid)
                && environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        })
        .collect()
}

/// What the client goes by is the path itself; JSON shows what of it can be shown.
#[test]
fn a_data_path_that_is_not_utf_8_works_over_a_restart_too() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join(std::ffi::OsStr::from_bytes(b"d\xff\xfe ta"));
    let client = Client::at(&data, &[("MAX_JOBS", "1"), ("MAX_DISK", "100M")]);
    let done = client.run("#!/bin/sh\necho result > made\n");
    let files = client.result(&done).files();
    let failed = client.run("#!/bin/sh\nexit 3\n");
    let told = client.ended(&failed);
    assert!(told.json("loc").unwrap().contains('\u{fffd}'), "{}", told.text());
    let running = client.run("#!/bin/sh\nexec sleep 1000\n");
    let waiting = client.run("#!/bin/sh\necho waited > made\n");
    client.retrieve_when(&running, |answer| answer.json("status").as_deref() == Some("Running"));
    client.kill();
    let next = Client::at(&data, &[("MAX_JOBS", "1"), ("MAX_AGE", "12")]);
    assert_eq!(next.result(&done).files(), files);
    assert_eq!(next.result(&failed).text(), told.text());
    assert_eq!(next.ended(&running).json("status").as_deref(), Some("Failed"));
    assert_eq!(next.result(&waiting).file("made"), "waited\n");
    wait_for("the removal of all", || next.directories().is_empty().then_some(()));
}
