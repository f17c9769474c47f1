//! Payloads that do their worst: to the machine, to the signals that should end them, to their own directory and to what the
//! client puts there. Each ends or can be ended, leaves no process, gives a sound ZIP or a clear error, and is cleaned up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{
    Client, binary, children_of, copy_program, line_of, processes_of, uncontained, wait_for,
};
use crate::wire::Answer;

/// Neither a process of the payload nor an ended child of the client is left, and the client is well.
#[track_caller]
fn nothing_is_left(client: &Client, ids: &[String], after: &str) {
    for id in ids {
        wait_for(&format!("the end of all processes of {after}"), || {
            processes_of(id).is_empty().then_some(())
        });
    }
    wait_for("the reaping of all", || {
        children_of(client.pid()).iter().all(|(_, state)| *state != 'Z').then_some(())
    });
    client.must_be_well_and_empty(after);
}

/// Waits until MAX_AGE has passed and all directories are gone.
#[track_caller]
fn is_cleaned(client: &Client) {
    wait_for("the removal of the directories", || client.directories().is_empty().then_some(()));
    assert!(!client.log().contains("cannot remove"), "{}", client.log());
}

/// As `Client::ended`, for a payload whose ZIP cannot be made.
fn ended_or_error(client: &Client, id: &str) -> Answer {
    client.retrieve_when(id, |answer| {
        answer.status != 202 && answer.json("finished_at").as_deref() != Some("null")
    })
}

fn status(answer: &Answer) -> String {
    answer.json("status").unwrap_or_else(|| answer.text())
}

/// Of every entry of a ZIP the raw name; that its data is sound is found out by reading it.
fn raw_names(zip: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let count = archive.len();
    let name = |index| {
        let mut file = archive.by_index(index).unwrap();
        file.read_to_end(&mut Vec::new()).unwrap();
        file.name_raw().to_vec()
    };
    let names: BTreeSet<_> = (0..count).map(name).collect();
    assert_eq!(names.len(), count, "a name is there twice");
    names
}

/// A directory that a payload may try to lure the client into.
fn precious() -> tempfile::TempDir {
    let precious = tempfile::tempdir().unwrap();
    fs::create_dir(precious.path().join("sub")).unwrap();
    fs::write(precious.path().join("secret"), "secret").unwrap();
    precious
}

fn is_whole(precious: &Path) -> bool {
    precious.join("sub").is_dir() && fs::read(precious.join("secret")).is_ok_and(|text| text == b"secret")
}

fn listing(directory: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

// --- processes

/// Lines of processes of which each forks its successor and is gone: in the group, in a session of its own, in a new session
/// each time, as a daemon whose parent is gone. Their number is fixed and their time bounded, so that the machine survives.
fn bomb(pause_s: f64, then: &str) -> String {
    format!(
        "#!/usr/bin/env python3\n\
         import os, time\n\
         end = time.monotonic() + 40\n\
         def session():\n\
         \x20   try: os.setsid()\n\
         \x20   except OSError: pass\n\
         def line(kind):\n\
         \x20   if kind > 0: session()\n\
         \x20   if kind > 2 and os.fork(): os._exit(0)\n\
         \x20   while time.monotonic() < end:\n\
         \x20       if kind == 2: session()\n\
         \x20       if os.fork(): os._exit(0)\n\
         \x20       time.sleep({pause_s})\n\
         \x20   os._exit(0)\n\
         for number in range(12):\n\
         \x20   if os.fork() == 0: line(number % 4)\n\
         time.sleep(0.3)\n\
         open('lit', 'w').write('x')\n\
         {then}\n"
    )
}

/// Well before the bomb would have burnt out by itself.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_fork_bomb_is_ended_by_kill() {
    let client = Client::with(&[("KILL_GRACE", "1")]);
    let id = client.run(&bomb(0.01, "time.sleep(60)"));
    client.wait_for_file(&id, "lit");
    let asked = Instant::now();
    assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
    assert_eq!(status(&client.ended(&id)), "Killed");
    wait_for("the end of the bomb", || processes_of(&id).is_empty().then_some(()));
    assert!(asked.elapsed() < SOON, "it burnt out by itself");
    nothing_is_left(&client, &[id], "a fork bomb that was killed");
}

#[test]
fn a_fork_bomb_that_is_killed_has_not_ended_before_its_last_process() {
    let client = Client::with(&[("KILL_GRACE", "0")]);
    for _ in 0..15 {
        let id = client.run(&bomb(0.003, "time.sleep(60)"));
        client.wait_for_file(&id, "lit");
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
        client.ended(&id);
        assert_eq!(processes_of(&id), Vec::<String>::new());
    }
}

#[test]
fn a_fork_bomb_that_is_left_behind_is_ended_while_others_run() {
    let client = Client::with(&[("MAX_JOBS", "2")]);
    let other = client.run("#!/bin/sh\necho x > begun\nwhile ! [ -e go ]; do sleep 0.02; done\n");
    let directory = client.wait_for_file(&other, "begun").with_file_name("go");
    let id = client.run(&bomb(0.01, ""));
    client.ended(&id);
    let ended = Instant::now();
    wait_for("the end of the bomb", || processes_of(&id).is_empty().then_some(()));
    assert!(ended.elapsed() < SOON, "it burnt out by itself");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(processes_of(&id), Vec::<String>::new());
    fs::write(directory, "").unwrap();
    client.result(&other).file("begun");
    nothing_is_left(&client, &[id, other], "a fork bomb that was left behind");
}

const STOPS_ITSELF: &[(&str, &str)] = &[
    ("itself", "echo x > begun; kill -STOP $$; sleep 600"),
    ("its group", "(sleep 0.1; echo x > begun; kill -STOP 0) & wait; sleep 600"),
    (
        "itself again and again",
        "trap '' TERM; trap 'kill -STOP $$' CONT; echo x > begun; kill -STOP $$; while :; do :; done",
    ),
    (
        "a child in another session, which ignores SIGTERM",
        "setsid sh -c 'trap \"\" TERM; echo x > begun; kill -STOP $$; sleep 600' & kill -STOP $$; wait",
    ),
];

fn is_stopped(id: &str) -> bool {
    processes_of(id).iter().any(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

fn start_stopping(client: &Client, script: &str) -> String {
    let id = client.run(&format!("#!/bin/sh\n{script}\n"));
    client.wait_for_file(&id, "begun");
    wait_for("its stop", || is_stopped(&id).then_some(()));
    id
}

#[test]
fn a_payload_that_stops_is_ended_by_kill() {
    let client = Client::with(&[("KILL_GRACE", "1"), ("MAX_JOBS", "4")]);
    for (what, script) in STOPS_ITSELF {
        let id = start_stopping(&client, script);
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
        assert_eq!(status(&client.ended(&id)), "Killed", "{what}");
        assert_eq!(processes_of(&id), Vec::<String>::new(), "{what}");
    }
    nothing_is_left(&client, &[], "payloads that stopped");
}

#[test]
fn a_payload_that_stops_is_ended_by_its_time_limit() {
    let client = Client::with(&[("KILL_GRACE", "1"), ("TIME_LIMIT", "2"), ("MAX_JOBS", "4")]);
    let ids: Vec<_> =
        STOPS_ITSELF.iter().map(|(_, script)| client.run(&format!("#!/bin/sh\n{script}\n"))).collect();
    for id in &ids {
        let answer = client.ended(id);
        assert_eq!(status(&answer), "Killed");
        assert!(answer.json("error").unwrap().contains("TIME_LIMIT"), "{}", answer.text());
    }
    nothing_is_left(&client, &ids, "payloads that stopped");
}

#[test]
fn payloads_that_stop_do_not_hold_a_client_that_is_stopped() {
    let mut client = Client::with(&[("KILL_GRACE", "1"), ("GRACE", "1"), ("MAX_JOBS", "4")]);
    let ids: Vec<_> = STOPS_ITSELF.iter().map(|(_, script)| start_stopping(&client, script)).collect();
    let asked = Instant::now();
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
    assert!(asked.elapsed() < SOON);
    for id in ids {
        assert_eq!(processes_of(&id), Vec::<String>::new());
    }
}

#[test]
fn output_that_is_closed_or_held_open_does_not_hold_the_end() {
    let client = Client::with(&[("MAX_JOBS", "4")]);
    let closed = client.run("#!/bin/sh\necho first\nexec >&- 2>&- <&-\necho x > made\nexit 0\n");
    // What is left in the background writes on, and ignores all that it may.
    let held = client.run(
        "#!/bin/sh\n\
         (trap '' TERM HUP PIPE INT; setsid sh -c 'trap \"\" TERM HUP; while :; do echo y; done' &)\n\
         while ! [ -s .orchestrator.out ]; do sleep 0.02; done\n",
    );
    let answer = client.result(&closed);
    assert_eq!((answer.file(".orchestrator.out").as_str(), answer.file("made").as_str()), ("first\n", "x\n"));
    assert!(client.result(&held).file(".orchestrator.out").starts_with("y\n"));
    nothing_is_left(&client, &[closed, held], "odd uses of standard output");
}

#[test]
fn hundreds_of_payloads_that_end_at_once_are_all_noted() {
    let client = Client::with(&[("MAX_JOBS", "16"), ("LOG", "warn")]);
    let program = ["/bin/true", "/usr/bin/true"].iter().find_map(|path| fs::read(path).ok()).unwrap();
    let ids: Vec<String> = thread::scope(|scope| {
        let submit = |number: usize| {
            let (client, program) = (&client, &program);
            move || -> Vec<String> {
                // A program ends sooner than any script.
                let one = |n: usize| {
                    if (number + n).is_multiple_of(2) {
                        client.submit(&[("run.sh", program)])
                    } else {
                        client.run("exit 0")
                    }
                };
                (0..60).map(one).collect()
            }
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(submit(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 480);
    for id in &ids {
        assert_eq!(client.result(id).file(".orchestrator.exit"), "0\n");
    }
    nothing_is_left(&client, &[], "payloads that ended at once");
}

// --- the client's own files

#[test]
fn the_files_of_the_client_may_be_replaced_by_anything() {
    let outside = precious();
    let secret = outside.path().join("secret");
    let home = tempfile::tempdir().unwrap();
    let client = Client::at(home.path(), &uncontained(&[]));
    let makers = [
        ("directory", "mkdir -p \"$f/sub\"; echo x > \"$f/sub/file\"".to_owned()),
        ("link", format!("ln -s {} \"$f\"", secret.display())),
        ("link to a directory", format!("ln -s {} \"$f\"", outside.path().display())),
        ("link to itself", "ln -s \"$f\" \"$f\"".to_owned()),
        ("pipe", "mkfifo \"$f\"".to_owned()),
        ("device", "mknod \"$f\" c 1 5 || mkfifo \"$f\"".to_owned()), // /dev/zero, where that is permitted
        ("second name", format!("ln {} \"$f\" 2>/dev/null || ln run.sh \"$f\"", secret.display())),
    ];
    for code in [0, 3] {
        for (what, maker) in &makers {
            let script = format!(
                "#!/bin/sh\nfor f in .orchestrator.out .orchestrator.err .orchestrator.exit .orchestrator.skipped\n\
                 do rm -f \"$f\"; {maker}; done\nexit {code}\n"
            );
            let id = client.run(&script);
            let answer = client.ended(&id);
            assert_eq!(answer.status, 200, "{what}");
            let zip = if code == 0 { answer } else { client.get(&format!("/retrieve_partial/{id}")) };
            let names = raw_names(&zip.body);
            assert!(names.contains(b"run.sh".as_slice()), "{what}: {}", zip.text());
            let exit = zip.files().into_iter().find(|(name, _)| name == ".orchestrator.exit");
            if *what != "directory" {
                assert_eq!(exit.unwrap().1, format!("{code}\n").as_bytes(), "{what}");
            }
            let leaked = zip.files().iter().any(|(_, content)| *content == b"secret");
            assert!(
                *what == "second name" || !leaked,
                "{what}: the content of a link's target was handed out"
            );
            let has_list = names.contains(b".orchestrator.skipped".as_slice());
            assert!(has_list && zip.text().contains("reserved for this list"), "{what}");
        }
    }
    nothing_is_left(&client, &[], "files replaced");
    is_cleaned_by_the_next(client, home.path());
    assert!(is_whole(outside.path()));
    assert_eq!(listing(outside.path()).len(), 2);
}

// --- the directory itself

/// Puts a link to a place outside where the payload's directory was, and gives the client, the id and that place.
fn with_link_for_a_directory(client: &Client, outside: &Path, then: &str) -> String {
    let script = format!(
        "#!/bin/sh\nd=\"$PWD\"; cd ..; mv \"$d\" \"$d.moved\" && ln -s {} \"$d\" && echo x > {}.done\n{then}\n",
        outside.display(),
        outside.display()
    );
    let id = client.run(&script);
    line_of(&PathBuf::from(format!("{}.done", outside.display())));
    id
}

#[test]
fn a_link_for_the_directory_leads_neither_the_reader_nor_the_cleaner_away() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::with(&uncontained(&[("MAX_AGE", "2")]));
    for (number, code) in [0, 3].into_iter().enumerate() {
        let outside = home.path().join(number.to_string());
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let id = with_link_for_a_directory(&client, &outside, &format!("exit {code}"));
        let answer = ended_or_error(&client, &id);
        let told = if code == 0 { answer } else { client.get(&format!("/retrieve_partial/{id}")) };
        assert_eq!(told.error(404), "directory_gone");
        nothing_is_left(&client, std::slice::from_ref(&id), "a link for a directory");
        client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Cleaned"));
        let is_link = |path: &PathBuf| path.is_symlink();
        wait_for("the removal of the link", || (!listing(&client.data).iter().any(is_link)).then_some(()));
        assert!(is_whole(&outside));
    }
    assert!(!client.log().contains("cannot remove"), "{}", client.log());
}

#[test]
fn a_link_for_the_directory_does_not_lead_the_exit_code_away() {
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join(".orchestrator.exit"), "precious").unwrap();
    let client = Client::with(&uncontained(&[]));
    let id = with_link_for_a_directory(&client, &outside, "exit 3");
    client.ended(&id);
    assert_eq!(fs::read_to_string(outside.join(".orchestrator.exit")).unwrap(), "precious");
}

#[test]
fn a_directory_that_is_moved_away_or_replaced_is_a_clear_error() {
    let client = Client::with(&uncontained(&[("MAX_AGE", "2"), ("MAX_JOBS", "4")]));
    for (what, deed) in [
        ("removed", "rm -rf \"$d\""),
        ("moved", "mv \"$d\" \"$d.moved\""),
        ("a file", "mv \"$d\" \"$d.moved\"; echo precious > \"$d\""),
        ("a pipe", "mv \"$d\" \"$d.moved\"; mkfifo \"$d\""),
        ("a broken link", "mv \"$d\" \"$d.moved\"; ln -s gone \"$d\""),
        ("a link to itself", "mv \"$d\" \"$d.moved\"; ln -s \"$d\" \"$d\""),
    ] {
        let id = client.run(&format!("#!/bin/sh\nd=\"$PWD\"; cd ..; {deed}\n"));
        let answer = ended_or_error(&client, &id);
        assert_eq!(answer.error(404), "directory_gone", "{what}");
        assert_eq!(client.get(&format!("/retrieve_partial/{id}")).error(404), "directory_gone", "{what}");
    }
    // Another directory in its place is as good as the first.
    let id = client
        .run("#!/bin/sh\nd=\"$PWD\"; cd ..; mv \"$d\" \"$d.moved\"; mkdir \"$d\"; echo x > \"$d/new\"\n");
    assert_eq!(client.result(&id).file("new"), "x\n");
    nothing_is_left(&client, &[], "directories that were moved away");
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        !name.ends_with(".moved") && !name.starts_with(".orchestrator")
    };
    wait_for("the removal of what stands for the directories", || {
        (!listing(&client.data).iter().any(is_ours)).then_some(())
    });
    assert!(!client.log().contains("cannot remove"), "{}", client.log());
}

/// A client that runs as nobody; `None` where that is not permitted, which the output tells.
fn as_nobody(home: &Path, settings: &[(&str, &str)]) -> Option<Client> {
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let probe = Command::new("setpriv").args(user).arg("true").output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: no other user can be had here: {probe:?}");
        return None;
    }
    fs::set_permissions(home, fs::Permissions::from_mode(0o777)).unwrap();
    // The binary may lie where another user cannot reach it.
    let program = home.join("program");
    copy_program(&binary(), &program);
    let data = home.join("data");
    let mut command = Command::new("setpriv");
    command
        .args(user)
        .arg(program)
        .args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"])
        .arg(&data);
    command.envs(settings.iter().copied()).current_dir(home);
    Some(Client::spawn(command, &data))
}

/// What the client knows of a payload is where the payload closes nothing.
#[test]
fn what_a_payload_closes_is_its_result_in_the_next_life_too() {
    let home = tempfile::tempdir().unwrap();
    let Some(first) = as_nobody(home.path(), &[]) else { return };
    let scripts =
        ["chmod -R a-w .", "chmod 0 .", "chmod 0 .; exit 3", "mkdir a; echo x > a/b; chmod 0 a/b a ."];
    let ids = scripts.map(|script| first.run(&format!("echo result > r.txt; {script}\n")));
    let is_ended = |answer: &Answer| answer.status == 200;
    for (id, script) in ids.iter().zip(scripts) {
        first.retrieve_when(id, is_ended);
        let exit = first.get(&format!("/retrieve_partial/{id}")).file(".orchestrator.exit");
        assert_eq!(exit.trim(), if script.ends_with('3') { "3" } else { "0" }, "{script}");
    }
    first.kill();
    let Some(next) = as_nobody(home.path(), &[]) else { return };
    for (id, script) in ids.iter().zip(scripts) {
        let answer = next.get(&format!("/retrieve/{id}"));
        if script.ends_with('3') {
            assert_eq!(answer.json("exit_code").as_deref(), Some("3"), "{script}: {}", answer.text());
            assert_eq!(next.get(&format!("/retrieve_partial/{id}")).file("r.txt"), "result\n", "{script}");
        } else {
            assert_eq!(answer.file("r.txt"), "result\n", "{script}");
        }
    }
}

#[test]
fn what_a_payload_closes_to_its_own_user_is_opened_sent_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_nobody(home.path(), &[]) else { return };
    let inside = client.run(
        "#!/bin/sh\nmkdir -p a/b/c d/e && echo x > a/b/file && echo x > shut && echo x > open\n\
         chmod 0 a/b/c a/b a shut; chmod 0400 d; echo $?\n",
    );
    let zip = client.result(&inside);
    let names = raw_names(&zip.body);
    assert!(!names.contains(b".orchestrator.skipped".as_slice()), "{}", zip.file(".orchestrator.skipped"));
    for name in ["open", "shut", "run.sh", "a/b/c/", "a/b/file", "d/e/", ".orchestrator.exit"] {
        assert!(names.contains(name.as_bytes()), "{name}");
    }
    assert_eq!(zip.file("shut"), "x\n");
    for mode in ["000", "100", "200", "300", "400", "600"] {
        let id = client
            .run(&format!("#!/bin/sh\nmkdir -p a/b; echo x > a/b/file; chmod 0 a/b a; chmod {mode} .\n"));
        let answer = ended_or_error(&client, &id);
        let partial = client.get(&format!("/retrieve_partial/{id}"));
        for answer in [answer, partial] {
            assert_eq!(answer.file("a/b/file"), "x\n", "{mode}");
        }
        nothing_is_left(&client, &[id], "a closed directory");
    }
    drop(client);
    is_cleaned(&as_nobody(home.path(), &[("MAX_AGE", "1")]).unwrap());
}

#[test]
fn what_a_payload_hides_from_max_disk_is_told() {
    let home = tempfile::tempdir().unwrap();
    let Some(client) = as_nobody(home.path(), &[("MAX_DISK", "2M")]) else { return };
    let id = client.run("#!/bin/sh\nmkdir h\nchmod 0 h\nwhile ! [ -e go ]; do sleep 0.05; done\n");
    wait_for("the log", || client.log().contains("MAX_DISK does not count").then_some(()));
    fs::write(client.loc(&id).join("go"), "").unwrap();
    client.result(&id);
    let told = client.log().matches("MAX_DISK does not count").count();
    assert_eq!(told, 1, "{}", client.log());
}

// --- what is in it

/// The next client in this directory finds the leavings of this one too old.
#[track_caller]
fn is_cleaned_by_the_next(client: Client, data: &Path) {
    drop(client);
    let next = Client::at(data, &[("MAX_AGE", "1")]);
    is_cleaned(&next);
    next.must_be_well_and_empty("a large directory");
}

#[test]
fn a_hundred_thousand_files_are_sent_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::at(home.path(), &[]);
    let id = client.run("#!/bin/sh\nmkdir many && cd many && seq 100000 | xargs touch\n");
    let answer = wait_for_long(&client, &id);
    assert_eq!(raw_names(&answer.body).len(), 100_000 + 5);
    nothing_is_left(&client, &[id], "a hundred thousand files");
    is_cleaned_by_the_next(client, home.path());
}

/// As `Client::result`, for what takes longer than the usual patience on a slow disk.
fn wait_for_long(client: &Client, id: &str) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = client.get(&format!("/retrieve/{id}"));
        if answer.status != 202 {
            return answer;
        }
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(50));
    }
}

fn ladder(name: &str, depth: usize) -> String {
    format!(
        "#!/usr/bin/env python3\n\
         import os\n\
         for _ in range({depth}):\n\
         \x20   os.mkdir({name})\n\
         \x20   os.chdir({name})\n\
         open('bottom', 'w').write('bottom')\n"
    )
}

#[test]
fn a_tree_of_4000_levels_is_sent_whole_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::at(home.path(), &[]);
    let id = client.run(&ladder("'d'", 4000));
    let answer = wait_for_long(&client, &id);
    let names = raw_names(&answer.body);
    assert_eq!(names.len(), 4000 + 1 + 4);
    let bottom = format!("{}bottom", "d/".repeat(4000));
    assert!(names.contains(bottom.as_bytes()));
    assert_eq!(answer.file(&bottom), "bottom");
    nothing_is_left(&client, &[id], "a deep tree");
    is_cleaned_by_the_next(client, home.path());
}

#[test]
fn a_path_that_no_zip_can_name_is_told_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::at(home.path(), &[]);
    let id = client.run(&ladder("'x' * 255", 400));
    let answer = wait_for_long(&client, &id);
    let names = raw_names(&answer.body);
    // 256 bytes a level, 65,535 at the most.
    assert_eq!(names.len(), 255 + 4 + 1);
    let list = answer.file(".orchestrator.skipped");
    assert!(list.contains("65,535") && list.lines().count() == 1, "{list}");
    nothing_is_left(&client, &[id], "a path that is too long");
    is_cleaned_by_the_next(client, home.path());
}

/// What a name is called in the archive: in UTF-8, since readers in Java take no other.
fn told_as(name: &[u8]) -> Vec<u8> {
    let escaped = name.utf8_chunks().flat_map(|chunk| {
        let invalid = chunk.invalid().iter().flat_map(|byte| format!("%{byte:02X}").into_bytes());
        chunk.valid().bytes().chain(invalid)
    });
    escaped.collect()
}

#[test]
fn names_of_any_bytes_are_sent_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::at(&home.path().join("data"), &[]);
    let script = "#!/usr/bin/env python3\n\
                  import os\n\
                  bytes_of_one = [bytes([b]) for b in range(1, 256) if b not in b'/.']\n\
                  odd = [b'\\xff\\xfe', b'a\\nb', b'-rf', b'C:\\\\x', b'..x', b'x' * 255, b'\\xff' * 255]\n\
                  for name in bytes_of_one + odd:\n\
                  \x20   os.makedirs(b'all/' + name + b'.d/' + name[:200]) if len(name) < 250 else os.mkdir(b'all/d' + name[1:])\n\
                  \x20   open(b'all/' + name, 'wb').write(name)\n";
    let id = client.run(script);
    let answer = client.result(&id);
    let mut archive = zip::ZipArchive::new(Cursor::new(&answer.body)).unwrap();
    let mut whole = 0;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let name = file.name_raw().to_vec();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        if let Some(name) = name.strip_prefix(b"all/")
            && !name.is_empty()
            && !name.ends_with(b"/")
        {
            assert_eq!(told_as(&content), name);
            whole += 1;
        }
    }
    assert_eq!(whole, 253 + 7);
    let zip = home.path().join("check.zip");
    fs::write(&zip, &answer.body).unwrap();
    match Command::new("unzip").arg("-tqq").arg(&zip).output() {
        Err(error) => println!("skipped: unzip: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
    }
    nothing_is_left(&client, &[id], "odd names");
    is_cleaned_by_the_next(client, &home.path().join("data"));
}
