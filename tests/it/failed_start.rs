//! Starts that fail, each in its way: what an earlier life has left is as it was then, byte for byte, and the next start that
//! works runs it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::client::{Client, binary, copy_program, place};

/// A user who has nothing else here, so that a limit of processes counts the client alone.
const USER: &str = "10001";

/// A queue: one that had ended, one that ran, three that wait.
struct Queue {
    waiting: Vec<String>,
    ran: String,
    data: PathBuf,
    home: tempfile::TempDir,
}

impl Queue {
    fn leave() -> Self {
        let (home, data) = place();
        let client = Client::at(&data, &[("MAX_JOBS", "1")]);
        client.result(&client.run("true"));
        let ran = client.run("#!/bin/sh\necho > on\nwhile :; do sleep 0.1; done\n");
        client.wait_for_file(&ran, "on");
        let waiting = (0..3).map(|_| client.run("echo on")).collect();
        client.kill();
        Self { waiting, ran, data, home }
    }

    /// All that lies in DATA_PATH: contents, modes and times of change. Times of the directory itself are not told: a lock may be
    /// taken by a file of its own.
    fn state(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.data.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let status = fs::symlink_metadata(&path).unwrap();
                let content = if status.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                if status.is_dir() {
                    directories.push(path.clone());
                }
                found.insert(path, (content, status.mode(), status.mtime(), status.mtime_nsec()));
            }
        }
        found
    }

    /// A start like this one fails, with these words, and changes nothing.
    #[track_caller]
    fn must_survive(&self, command: &mut Command, code: i32, words: &str) {
        let before = self.state();
        for _ in 0..2 {
            let output = command.stdin(Stdio::null()).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{told}");
            assert!(told.contains(words), "{told}");
            assert!(before == self.state(), "something has changed: {told}");
        }
    }

    #[track_caller]
    fn must_run(&self, client: &Client) {
        for id in &self.waiting {
            assert_eq!(client.result(id).file(".orchestrator.out"), "on\n");
        }
        assert_eq!(client.result(&self.ran).json("status").as_deref(), Some("Failed"));
    }

    fn command(&self, port: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg("60").arg(binary()).args(["client", "--host", "127.0.0.1", "--port", port]);
        command.arg("--data-path").arg(&self.data);
        command
    }
}

#[test]
fn a_port_in_use_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    queue.must_survive(&mut queue.command(&port), 1, "cannot listen on 127.0.0.1:");
    queue.must_run(&Client::at(&queue.data, &[]));
}

#[test]
fn an_address_that_is_not_of_this_machine_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    let mut command = queue.command("0");
    command.args(["--host", "192.0.2.1"]);
    queue.must_survive(&mut command, 1, "cannot listen on 192.0.2.1:0");
    queue.must_run(&Client::at(&queue.data, &[]));
}

#[test]
fn a_data_path_that_another_client_has_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    let lock = fs::File::open(queue.data.join(".orchestrator.lock")).unwrap();
    lock.try_lock().unwrap();
    queue.must_survive(&mut queue.command("0"), 2, "another client uses it");
    drop(lock);
    queue.must_run(&Client::at(&queue.data, &[]));
}

#[test]
fn a_bad_setting_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    queue.must_survive(queue.command("0").args(["--max-jobs", "none"]), 2, "--max-jobs=none is not accepted");
    queue.must_run(&Client::at(&queue.data, &[]));
}

#[test]
fn a_data_path_that_cannot_be_read_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    let data = queue.data.clone();
    for (calls, path) in [("getdents64", data.clone()), ("?read,pread64", data.join(".orchestrator.lock"))] {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error=EIO"), "-P"]).arg(path).arg(binary());
        command.args(["client", "--host", "127.0.0.1", "--port", "0", "--data-path"]).arg(&data);
        if !Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|end| end.success()) {
            return println!("skipped: strace may not trace");
        }
        queue.must_survive(&mut command, 1, "(os error 5)"); // its words are the C library's
    }
    queue.must_run(&Client::at(&queue.data, &[]));
}

/// Each thread of a start may be the one that the system does not give.
#[test]
fn a_start_without_threads_leaves_the_queue_as_it_was() {
    let queue = Queue::leave();
    let program = queue.home.path().join("program");
    copy_program(&binary(), &program);
    // Where another user can get at it.
    for path in [queue.home.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let user = format!("{USER}:{USER}");
    let owner = Command::new("chown").args(["-R", &user]).arg(&queue.data).status();
    if !owner.is_ok_and(|end| end.success()) {
        return println!("skipped: no other user can be had");
    }
    let before = queue.state();
    for threads in 1..100 {
        // Stopped at its start line, before anything of the queue could have ended.
        let script = format!(
            "ulimit -u {threads}; exec timeout 60 \"$0\" client --host 127.0.0.1 --port 0 --max-jobs 1 --data-path \"$1\""
        );
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "bash", "-c", &script]);
        command.arg(&program).arg(&queue.data).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let told = first_lines(child);
        if told.contains("client listening") {
            assert!(threads > 5, "{threads} are enough?");
            return;
        }
        assert!(before == queue.state(), "something has changed with {threads}: {told}");
        for words in ["panicked", "please report", "failed to spawn"] {
            assert!(!told.contains(words), "{threads}: {told}");
        }
    }
    panic!("it never started");
}

/// What a client tells up to its start line, or up to its end. It is killed then, and its payloads by its guard.
fn first_lines(mut child: std::process::Child) -> String {
    use std::io::{BufRead as _, BufReader};
    let mut told = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        told += &line;
        told.push('\n');
        if line.contains("client listening") {
            break;
        }
    }
    let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
    child.wait().unwrap();
    told
}

#[test]
fn a_start_that_takes_nothing_up_removes_nothing_where_it_fails() {
    let queue = Queue::leave();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let half = queue.data.join("1b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f52");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("run.sh"), "half of an upload").unwrap();
    let settings = [&["--recover", "off", "--max-age", "1"][..], &[]];
    for more in settings {
        queue.must_survive(queue.command(&port).args(more), 1, "cannot listen on");
    }
    let next = Client::at(&queue.data, &[]);
    assert!(!Path::new(&half).exists());
    queue.must_run(&next);
}

#[test]
fn an_address_space_too_small_for_the_threads_is_named() {
    for kib in (18_000..60_000).step_by(4_000) {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("bash");
        let script =
            format!("ulimit -v {kib}; exec \"$0\" client --host 127.0.0.1 --port 0 --data-path \"$1\"");
        command.args(["-c", &script]).arg(binary()).arg(home.path().join("data"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let told = first_lines(command.spawn().unwrap());
        if told.contains("Resource temporarily unavailable") {
            assert!(told.contains("(ulimit -v)"), "{kib}: {told}");
            return;
        }
    }
    panic!("every size was enough, or too small for the program itself");
}
