//! What payloads may use: the client's settings, the `#JOB` lines of scripts, form fields. Each limit ends what goes beyond it and says
//! so; without it the same payload comes to its end.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cgroup::has_cgroups;
use crate::client::{Client, PATIENCE, line_of, place, processes_of, wait_for};
use crate::wire::{self, Answer};

/// The number of CPUs that this test may use, as `nproc` has it.
fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Asserts that a payload was ended by this limit, and all of it.
#[track_caller]
pub fn is_ended_by(client: &Client, id: &str, limit: &str) {
    let answer = client.ended(id);
    assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
    assert_eq!(answer.json("killed").as_deref(), Some("true"), "{}", answer.text());
    let error = answer.json("error").unwrap();
    assert!(error.contains(limit), "{limit}: {error}");
    assert_eq!(processes_of(id), Vec::<String>::new(), "{limit}");
}

/// Asserts that the script is ended by this limit with these settings, and comes to its end without.
#[track_caller]
fn is_ended_but_without(settings: &[(&str, &str)], limit: &str, script: &str) {
    let client = Client::with(settings);
    let id = client.run(script);
    is_ended_by(&client, &id, limit);
    client.must_be_well_and_empty(limit);
    let free = Client::start();
    let answer = free.result(&free.run(script));
    assert_eq!(answer.file(".orchestrator.exit").trim(), "0", "the control");
}

/// A form of fields and files, the files with their names.
fn form(fields: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        wire::part(&mut body, &format!("form-data; name=\"{name}\""), value.as_bytes());
    }
    for (name, content) in files {
        let disposition = format!("form-data; name=\"file\"; filename=\"{name}\"");
        wire::part(&mut body, &disposition, content.as_bytes());
    }
    wire::end_form(&mut body);
    body
}

fn submit_with(client: &Client, fields: &[(&str, &str)], script: &str) -> Answer {
    wire::submit_form(client.address, &form(fields, &[("run.sh", script)]))
}

// --- each limit, and without it

#[test]
fn memory_of_the_whole_tree_is_limited() {
    // Neither of the two is over it alone.
    let hold = "python3 -c 'import time; text = bytearray(48 << 20)\nfor at in range(0, len(text), 4096): text[at] = 1\n\
                time.sleep(4)'";
    let script = format!("#!/bin/sh\n{hold} &\n{hold}\nwait\n");
    is_ended_but_without(&[("MEMORY_LIMIT", "80M")], "MEMORY_LIMIT, 80M", &script);
    let client = Client::with(&[("MEMORY_LIMIT", "80M")]);
    client.result(&client.run(&format!("#!/bin/sh\n{hold}\n"))).file(".orchestrator.exit");
}

#[test]
fn what_processes_share_counts_once() {
    // Each of six has 48 MiB, all of it of their parent's.
    let client = Client::with(&[("MEMORY_LIMIT", "120M")]);
    let script = "#!/bin/sh\nexec python3 -c '\nimport os, time\ntext = bytearray(48 << 20)\n\
                  for at in range(0, len(text), 4096): text[at] = 1\n\
                  any(os.fork() == 0 for _ in range(5))\ntime.sleep(3)'\n";
    assert_eq!(client.result(&client.run(script)).file(".orchestrator.exit").trim(), "0");
}

#[test]
fn a_fork_bomb_is_ended_by_the_limit_of_processes() {
    let client = Client::with(&[("PIDS_LIMIT", "50")]);
    let bomb = client.run("#!/bin/sh\nbomb() { sleep 100 & sleep 100 & bomb; }\nbomb\n");
    is_ended_by(&client, &bomb, "PIDS_LIMIT, 50");
    // In a session of its own, its parent gone.
    let hidden = client.run(
        "#!/bin/sh\nsetsid sh -c 'for i in $(seq 100); do sleep 100 & done; echo > many; sleep 100' &\n\
         while ! [ -e many ]; do sleep 0.05; done\nsleep 100\n",
    );
    is_ended_by(&client, &hidden, "PIDS_LIMIT, 50");
    client.must_be_well_and_empty("fork bombs");
}

#[test]
fn as_many_processes_as_are_allowed_may_be_there() {
    is_ended_but_without(
        &[("PIDS_LIMIT", "20")],
        "PIDS_LIMIT, 20",
        "#!/bin/sh\nfor i in $(seq 40); do sleep 3 & done\nwait\n",
    );
    let client = Client::with(&[("PIDS_LIMIT", "20")]);
    let few = client.run("#!/bin/sh\nfor i in $(seq 10); do sleep 2 & done\nwait\n");
    client.result(&few).file(".orchestrator.exit");
}

#[test]
fn cpu_time_of_the_whole_tree_is_limited() {
    // A part of a second each, one after the other, and all are gone when it is looked at. Little, for a machine that is busy.
    let script = "#!/bin/sh\nfor i in $(seq 6); do\n\
                  sh -c 'i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done'\ndone\nsleep 3\nexit 0\n";
    is_ended_but_without(&[("CPU_LIMIT", "200ms"), ("KILL_GRACE", "1")], "CPU_LIMIT, 200ms", script);
    // Who sleeps uses none.
    let client = Client::with(&[("CPU_LIMIT", "1")]);
    client.result(&client.run("#!/bin/sh\nsleep 3\n")).file(".orchestrator.exit");
}

#[test]
fn one_process_that_ignores_all_signals_is_ended_by_its_cpu_time() {
    let client = Client::with(&[("CPU_LIMIT", "1500ms"), ("KILL_GRACE", "1")]);
    let id = client.run("#!/bin/sh\ntrap '' XCPU TERM INT HUP\nwhile :; do :; done\n");
    is_ended_by(&client, &id, "CPU_LIMIT, 1500ms");
}

#[test]
fn the_size_of_a_file_is_limited() {
    is_ended_but_without(
        &[("FILE_LIMIT", "1M")],
        "FILE_LIMIT, 1M",
        "#!/bin/sh\nexec head -c 2000000 /dev/zero > data\n",
    );
    let client = Client::with(&[("FILE_LIMIT", "1M")]);
    // The shell takes over the exit code of what was ended.
    let id = client.run("#!/bin/sh\nhead -c 2000000 /dev/zero > data\n");
    is_ended_by(&client, &id, "FILE_LIMIT, 1M");
    assert_eq!(fs::metadata(client.loc(&id).join("data")).unwrap().len(), 1 << 20);
    // Files together may be larger.
    let id = client.run("#!/bin/sh\nfor i in 1 2 3; do head -c 900000 /dev/zero > $i; done\n");
    client.result(&id).file(".orchestrator.exit");
    assert!(!client.log().contains("cannot"), "{}", client.log());
}

#[test]
fn the_directory_is_limited_for_one_payload_alone() {
    let client = Client::with(&[("KILL_GRACE", "1")]);
    let script = "head -c 5000000 /dev/zero > data\nsleep 3\n";
    let limited = client.run(&format!("#!/bin/sh\n#JOB max_disk=3000000\n{script}"));
    let free = client.run(&format!("#!/bin/sh\n{script}"));
    is_ended_by(&client, &limited, "MAX_DISK, 3000000 bytes");
    client.result(&free).file("data");
}

#[test]
fn time_is_limited_for_one_payload_alone() {
    let client = Client::with(&[("TIME_LIMIT", "600"), ("KILL_GRACE", "1")]);
    let limited = client.run("#!/bin/sh\n#JOB time_limit=500ms\nsleep 100\n");
    let free = client.run("#!/bin/sh\nsleep 2\n");
    let begun = Instant::now();
    is_ended_by(&client, &limited, "TIME_LIMIT, 500ms");
    assert!(begun.elapsed() < PATIENCE / 2);
    client.result(&free).file(".orchestrator.exit");
}

// --- processors

#[test]
fn a_payload_sees_as_many_cpus_as_it_may_use() {
    let client = Client::with(&[("JOB_CPUS", "1")]);
    let seen = client.result(&client.run("#!/bin/sh\nnproc\n"));
    assert_eq!(seen.file(".orchestrator.out"), "1\n");
    // So many at once as have their own.
    assert!(client.log().contains(&format!(" slots={} ", cpus())), "{}", client.log());
    let free = Client::start();
    let seen = free.result(&free.run("#!/bin/sh\nnproc\n"));
    assert_eq!(seen.file(".orchestrator.out"), format!("{}\n", cpus()));
    let asked = free.result(&free.run("#!/bin/sh\n#JOB job_cpus=1\nnproc\n"));
    assert_eq!(asked.file(".orchestrator.out"), "1\n");
}

#[test]
fn payloads_at_once_have_cpus_of_their_own() {
    if cpus() < 2 {
        println!("not tried: one CPU only");
        return;
    }
    let client = Client::with(&[("JOB_CPUS", "1"), ("MAX_JOBS", "2")]);
    let script = "#!/bin/sh\ngrep Cpus_allowed_list /proc/self/status > cpus\n\
                  while ! [ -e go ]; do sleep 0.02; done\n";
    for _ in 0..2 {
        let ids = [client.run(script), client.run(script)];
        let files = ids.clone().map(|id| client.wait_for_file(&id, "cpus"));
        let [one, other] = files.clone().map(|file| line_of(&file));
        assert_ne!(one, other);
        for (file, id) in files.iter().zip(&ids) {
            fs::write(file.with_file_name("go"), "").unwrap();
            client.result(id);
        }
    }
}

// --- what a payload asks for

#[test]
fn what_is_not_granted_fails_before_the_start_and_says_why() {
    let client = Client::with(&[("MEMORY_LIMIT", "1G"), ("TIME_LIMIT", "1h")]);
    let many = format!("job_cpus={}", cpus() + 1);
    for (line, told) in [
        ("memory_limit=2G", "memory_limit=2G is above what this client allows, 1G"),
        ("memory_limit=0", "memory_limit=0 is above"),
        ("time_limit=61m", "time_limit=61m is above what this client allows, 1h"),
        (many.as_str(), "is above what this client allows"),
        ("memory=1G", "is no limit; there are time_limit, "),
        ("time_limit=fast", "is not accepted: it takes a time"),
        ("time_limit", "has no value"),
        ("pids_limit=1 pids_limit=2", "pids_limit is given twice"),
    ] {
        let id = client.run(&format!("#!/bin/sh\n# A comment.\n#JOB {line}\necho > started\n"));
        let answer = client.ended(&id);
        assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
        assert!(answer.text().contains(told), "{line}: {}", answer.text());
        assert_eq!(answer.json("pid").as_deref(), Some("0"), "{}", answer.text());
        assert!(!client.loc(&id).join("started").exists(), "{line}");
    }
    // What is granted, and what is no such line.
    for script in [
        "#!/bin/sh\n#JOB memory_limit=1G time_limit=1h\n#JOB pids_limit=100\necho > started\n",
        "#!/bin/sh\n#JOBS none\n# JOB none\necho > started\n#JOB none\n",
    ] {
        client.result(&client.run(script)).file("started");
    }
}

#[test]
fn a_form_asks_for_limits_and_a_bad_one_is_refused() {
    let client = Client::with(&[("TIME_LIMIT", "1h"), ("KILL_GRACE", "1")]);
    for fields in [
        &[("time_limit", "2h")][..],
        &[("time_limit", "fast")],
        &[("time_limit", "")],
        &[("pids_limit", "1"), ("pids_limit", "1")],
        &[("file_limit", &"1".repeat(1000))],
    ] {
        let answer = submit_with(&client, fields, "#!/bin/sh\n");
        assert_eq!(answer.error(400), "bad_limit", "{fields:?}");
        assert!(answer.text().contains(fields[0].0), "{}", answer.text());
    }
    assert_eq!(client.directories(), Vec::<PathBuf>::new(), "nothing is left of them");
    client.must_be_well_and_empty("refused forms");
    // Other fields mean nothing.
    let free = submit_with(&client, &[("user_id", "1"), ("limit", "x")], "#!/bin/sh\nsleep 1\n");
    client.result(&free.json("id").unwrap()).file(".orchestrator.exit");
    // A form goes before a line.
    let script = "#!/bin/sh\n#JOB time_limit=30m pids_limit=50\nsleep 100\n";
    let answer = submit_with(&client, &[("time_limit", "500ms")], script);
    assert_eq!(answer.status, 200, "{}", answer.text());
    is_ended_by(&client, &answer.json("id").unwrap(), "TIME_LIMIT, 500ms");
}

#[test]
fn what_a_form_asked_for_holds_after_a_restart() {
    let (_home, data) = place();
    let client = Client::at(&data, &[("MAX_JOBS", "1")]);
    let first = client.run("#!/bin/sh\nsleep 100\n");
    client.wait_for_file(&first, ".orchestrator.out");
    let script = "#!/bin/sh\nsleep 100\n";
    let submit = |time_limit| {
        let answer = submit_with(&client, &[("time_limit", time_limit)], script);
        answer.json("id").unwrap()
    };
    let (short, long) = (submit("1s"), submit("2h"));
    client.kill();
    let next = Client::at(&data, &[("TIME_LIMIT", "1h"), ("KILL_GRACE", "1")]);
    is_ended_by(&next, &short, "TIME_LIMIT, 1s");
    // This one grants less than the one before.
    let answer = next.ended(&long);
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    assert!(
        answer.text().contains("time_limit=2h is above what this client allows, 1h"),
        "{}",
        answer.text()
    );
}

/// The receipt of a payload, as its JSON has it.
fn isolation(answer: &Answer) -> String {
    let text = answer.text();
    text.split_once("\"isolation\":").unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

#[test]
fn the_receipt_tells_how_each_limit_is_kept() {
    let client = Client::with(&[("MEMORY_LIMIT", "1G"), ("TIME_LIMIT", "1h")]);
    let told = |script: &str| isolation(&client.ended(&client.run(script)));
    let by = if has_cgroups(&client, "memory") { "by cgroup" } else { "by looking once a second" };
    let all = told("#!/bin/sh\n#JOB file_limit=1M\nexit 3\n");
    for line in [&format!("memory:1G {by}"), "time:1h by a clock", "file:1M by rlimit"] {
        assert!(all.contains(&format!("\"{line}\"")), "{line}: {all}");
    }
    assert!(!all.contains("cpus:") && !all.contains("disk:"), "{all}");
}

#[test]
fn one_payload_goes_without_the_network() {
    let client = Client::with(&[("SANDBOX", "best")]);
    let connect = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", PORT))'";
    let connect = connect.replace("PORT", &client.address.port().to_string());
    let said = |line: &str| {
        let id = client.run(&format!("#!/bin/sh\n{line}\n({connect}) 2>&1 && echo done\nexit 0\n"));
        client.result(&id).file(".orchestrator.out")
    };
    assert!(said("#").ends_with("done\n"));
    let receipt = isolation(&client.ended(&client.run("#!/bin/sh\n#JOB network=off\nexit 3\n")));
    if receipt.split("\"missing\"").next().unwrap().contains("net") {
        assert!(!said("#JOB network=off").ends_with("done\n"));
    } else {
        println!("not tried: no network cannot be had here: {receipt}");
    }
    let none = Client::with(&[("SANDBOX", "best"), ("NETWORK", "off")]);
    let answer = none.ended(&none.run("#!/bin/sh\n#JOB network=on\n"));
    assert!(answer.text().contains("network=on is above what this client allows, off"), "{}", answer.text());
}

// --- the client itself

/// Whoever looks sleeps as long as nothing runs that has a limit: by the counter of voluntary switches (proc_pid_status(5)).
#[test]
fn nobody_looks_where_nothing_is_limited() {
    let client = Client::start();
    let id = client.run("#!/bin/sh\necho > there\nwhile ! [ -e go ]; do sleep 0.05; done\n");
    let there = client.wait_for_file(&id, "there");
    let tasks = format!("/proc/{}/task", client.pid());
    let switches = || {
        let mut found = Vec::new();
        for task in fs::read_dir(&tasks).unwrap().flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if ["limits\n", "disk-use\n"].contains(&&*name) {
                let status = fs::read_to_string(task.path().join("status")).unwrap();
                let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
                found.push((name, line.to_owned()));
            }
        }
        found.sort();
        found
    };
    // They go to sleep in their own time.
    std::thread::sleep(Duration::from_millis(1500));
    let before = wait_for("both threads", || Some(switches()).filter(|found| found.len() == 2));
    std::thread::sleep(Duration::from_millis(3500));
    // Each start wakes them once, and none comes.
    assert_eq!(switches(), before);
    fs::write(there.with_file_name("go"), "").unwrap();
    client.result(&id);
}
