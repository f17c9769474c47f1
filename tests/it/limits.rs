//! What payloads may use: the client's settings, the `#JOB` lines of scripts, form fields. Each limit ends what goes beyond it and says
//! so; without it the same payload comes to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::client::{
    Client, PATIENCE, binary, copy_program, is_alive, line_of, place, processes_of, wait_for,
};
use crate::wire::{self, Answer};

/// The number of CPUs that this test may use, as `nproc` has it.
fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Asserts that a payload was ended by this limit, and all of it.
#[track_caller]
fn is_ended_by(client: &Client, id: &str, limit: &str) {
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
    // Seconds together, a part of one each, and each is gone when the next one begins.
    let script = "#!/bin/sh\nfor i in $(seq 15); do\n\
                  sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'\ndone\nexit 0\n";
    is_ended_but_without(&[("CPU_LIMIT", "1"), ("KILL_GRACE", "1")], "CPU_LIMIT, 1s", script);
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

// --- cgroup v2, where there is one for the client

/// Whether the kernel keeps limits of trees here by this controller of cgroup v2.
fn has_cgroups(client: &Client, controller: &str) -> bool {
    let log = client.log();
    let line = log.lines().find(|line| line.contains("the kernel keeps limits of payloads by cgroup"));
    let has = line.is_some_and(|line| line.contains(controller));
    if !has {
        println!("not tried: no {controller} of cgroup v2 here");
    }
    has
}

/// A group that is handed down to a client, as systemd does it (Delegate=yes): to this user, or to root, marked as such. Removed at its
/// end with all that is below it.
struct Delegated(PathBuf);

impl Delegated {
    /// `None` where cgroup v2 has no such controller, or is not this test's.
    fn new(name: &str, controller: &str, user: u32) -> Option<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let path = top.join(format!("{name}-{}", std::process::id()));
        let has = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default().contains(controller);
        if !has || fs::create_dir(&path).is_err() {
            println!("not tried: no {controller} of cgroup v2 here");
            return None;
        }
        for controller in ["+memory", "+pids"] {
            let _ = fs::write(top.join("cgroup.subtree_control"), controller);
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(path.join(file), Some(user), Some(user)).unwrap();
        }
        let mark = format!("import os; os.setxattr('{}', 'trusted.delegate', b'1')", path.display());
        assert!(Command::new("python3").args(["-c", &mark]).status().unwrap().success());
        Some(Self(path))
    }

    /// Runs a client in it, by way of `wrapper`.
    fn client(&self, wrapper: &[&str], program: &Path, data: &Path, settings: &[(&str, &str)]) -> Client {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0\"/cgroup.procs && exec \"$@\"").arg(&self.0).args(wrapper);
        command.arg(program).args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(data);
        command.envs(settings.iter().copied()).current_dir("/");
        Client::spawn(command, data)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = Command::new("find").arg(&self.0).args(["-depth", "-type", "d", "-delete"]).status();
    }
}

/// The client's own part of the tree of groups.
fn home_of(client: &Client) -> PathBuf {
    let own = fs::read_to_string(format!("/proc/{}/cgroup", client.pid())).unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path).parent().unwrap().to_owned()
}

#[test]
fn the_kernel_ends_what_takes_more_memory_before_anybody_looks() {
    let client = Client::with(&[("MEMORY_LIMIT", "60M")]);
    if !has_cgroups(&client, "memory") {
        return;
    }
    let id = client.run("#!/bin/sh\npython3 -c 'text = bytearray(b\"x\" * (200 << 20))'\necho > survived\n");
    is_ended_by(&client, &id, "MEMORY_LIMIT, 60M");
    assert!(!client.loc(&id).join("survived").exists(), "all of it is ended, and not one process");
    // The group is used again, and what it has counted is not the next one's.
    client.result(&client.run("#!/bin/sh\n:\n"));
    let groups = fs::read_dir(home_of(&client)).unwrap().flatten();
    assert_eq!(groups.filter(|entry| entry.file_name().to_string_lossy().starts_with("slot-")).count(), 1);
    client.must_be_well_and_empty("a payload without memory");
}

#[test]
fn what_hides_from_everybody_else_is_ended_with_its_group() {
    let client = Client::with(&[("LINGER", "0")]);
    if !has_cgroups(&client, "pids") {
        return;
    }
    let running = client.run("#!/bin/sh\nsleep 100\n");
    client.wait_for_file(&running, ".orchestrator.out");
    let id = client.run(
        "#!/bin/sh\n(cd / && exec setsid env -i sleep 101 </dev/null >/dev/null 2>&1) &\necho $! > pid\n\
         while ! grep -q sleep /proc/$!/comm; do :; done\n",
    );
    let hidden = line_of(&client.wait_for_file(&id, "pid"));
    client.result(&id);
    wait_for("its end", || (!is_alive(&hidden)).then_some(()));
    client.post(&format!("/kill/{running}"));
    client.ended(&running);
}

#[test]
fn groups_of_a_life_that_was_cut_are_removed_by_the_next() {
    let (_home, data) = place();
    let client = Client::at(&data, &[]);
    if !has_cgroups(&client, "pids") {
        return;
    }
    let id = client.run("#!/bin/sh\necho > there\nsleep 100\n");
    client.wait_for_file(&id, "there");
    let home = home_of(&client);
    assert!(home.join("slot-0").is_dir());
    client.kill();
    let next = Client::at(&data, &[]);
    wait_for("the removal", || (!home.exists()).then_some(()));
    next.result(&next.run("#!/bin/sh\n:\n"));
}

#[test]
fn want_of_memory_that_is_not_the_payloads_own_limit_is_told_as_a_fact() {
    let Some(around) = Delegated::new("around", "memory", 0) else { return };
    fs::write(around.0.join("memory.max"), "150M").unwrap();
    let _ = fs::write(around.0.join("memory.swap.max"), "0");
    let (_home, data) = place();
    let client = around.client(&[], &binary(), &data, &[]);
    assert!(has_cgroups(&client, "memory") && home_of(&client).starts_with(&around.0));
    let id = client.run("#!/bin/sh\npython3 -c 'text = bytearray(b\"x\" * (400 << 20))'\n");
    let answer = client.ended(&id);
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    assert!(answer.json("error").unwrap().contains("there was no memory left"), "{}", answer.text());
    client.must_be_well_and_empty("a payload without memory");
}

#[test]
fn an_ordinary_user_has_what_is_handed_down_to_him() {
    const USER: u32 = 65_534;
    let Some(delegated) = Delegated::new("handed-down", "pids", USER) else { return };
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.path().join("program");
    copy_program(&binary(), &program);
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let client = delegated.client(&user, &program, &home.path().join("data"), &[("PIDS_LIMIT", "50")]);
    assert!(has_cgroups(&client, "pids") && home_of(&client).starts_with(&delegated.0), "{}", client.log());
    let bomb = client.run("#!/bin/sh\nbomb() { sleep 100 & sleep 100 & bomb; }\nbomb\n");
    is_ended_by(&client, &bomb, "PIDS_LIMIT, 50");
    let id = client.run("#!/bin/sh\ncat /proc/self/cgroup > group\n");
    assert!(client.result(&id).file("group").contains("/slot-0\n"));
}

#[test]
fn a_group_that_is_somebody_elses_is_left_alone() {
    let Some(alien) = Delegated::new("alien", "pids", 0) else { return };
    let unmark = format!("import os; os.removexattr('{}', 'trusted.delegate')", alien.0.display());
    assert!(Command::new("python3").args(["-c", &unmark]).status().unwrap().success());
    let (_home, data) = place();
    let client = alien.client(&[], &binary(), &data, &[("PIDS_LIMIT", "50")]);
    client.wait_for_log("this client's cgroup is not delegated to it");
    assert_eq!(fs::read_dir(&alien.0).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 0);
    let bomb = client.run("#!/bin/sh\nbomb() { sleep 100 & sleep 100 & bomb; }\nbomb\n");
    is_ended_by(&client, &bomb, "PIDS_LIMIT, 50");
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
    let before = wait_for("both threads", || Some(switches()).filter(|found| found.len() == 2));
    std::thread::sleep(Duration::from_millis(3500));
    // Each start wakes them once, and none comes.
    assert_eq!(switches(), before);
    fs::write(there.with_file_name("go"), "").unwrap();
    client.result(&id);
}
