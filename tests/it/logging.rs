//! The log, and who reads it: nobody waits for standard error, whatever it is connected to.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use miniserde::json::{Object, Value};

use crate::client::{Client, binary, place, wait_for};
use crate::wire;

/// A client whose log is read up to the start line, and no further.
struct Unread {
    child: Child,
    address: SocketAddr,
    log: BufReader<ChildStderr>,
}

impl Unread {
    fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--log", "debug", "--data-path"]);
        command.arg(data).envs(settings.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            if line.contains("client listening") {
                break line.split(['=', ' ']).find_map(|word| word.parse().ok()).unwrap();
            }
        };
        Self { child, address, log }
    }

    /// Has more logged than the pipe and the client's own memory for it can hold.
    fn fill(&self) {
        let path = format!("/{}", "x".repeat(4000));
        for _ in 0..150 {
            assert_eq!(wire::call(self.address, "GET", &path).status, 404);
        }
    }

    fn submit(&self, script: &str) -> String {
        let form = wire::form(&[("run.sh", script.as_bytes())]);
        wire::submit_form(self.address, &form).json("id").unwrap()
    }

    fn wait_for_status(&self, id: &str, status: &str) {
        wait_for(status, || {
            let answer = wire::call(self.address, "GET", &format!("/retrieve/{id}"));
            (answer.json("status").as_deref() == Some(status)).then_some(())
        });
    }

    fn stop(&mut self) -> ExitStatus {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let child = &mut self.child;
        wait_for("its end", || child.try_wait().unwrap())
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_what_is_missing_is_told() {
    let (_home, data) = place();
    let mut client = Unread::start(&data, &[("TIME_LIMIT", "1"), ("KILL_GRACE", "0"), ("MAX_JOBS", "1")]);
    client.fill();
    let failed = client.submit("exit 3");
    client.wait_for_status(&failed, "Failed");
    let limited = client.submit("sleep 600");
    client.wait_for_status(&limited, "Killed");
    let (running, waiting) = (client.submit("sleep 600"), client.submit("sleep 600"));
    for id in [&waiting, &running] {
        assert_eq!(wire::call(client.address, "POST", &format!("/kill/{id}")).status, 200);
        client.wait_for_status(id, "Killed");
    }
    assert_eq!(wire::call(client.address, "GET", "/health").status, 200);
    assert!(client.stop().success());
    let mut told = String::new();
    client.log.read_to_string(&mut told).unwrap();
    assert!(!told.contains("client stopped"), "there was room for all: {} bytes", told.len());
}

#[test]
fn how_many_lines_were_dropped_is_told_once_the_log_goes_on() {
    let (_home, data) = place();
    let mut client = Unread::start(&data, &[]);
    client.fill();
    let told = loop {
        let mut line = String::new();
        assert!(client.log.read_line(&mut line).unwrap() > 0, "it ended");
        assert!(line.ends_with('\n') && line.starts_with("20"), "{line}");
        if line.contains("lines are missing here") {
            break line;
        }
    };
    let number: usize = told.trim_end().rsplit_once("number=").unwrap().1.parse().unwrap();
    assert!((1..=150).contains(&number), "{told}");
    // From here on all is told again.
    wire::call(client.address, "GET", "/the-last");
    let mut line = String::new();
    while !line.contains("/the-last") {
        line.clear();
        assert!(client.log.read_line(&mut line).unwrap() > 0, "it ended");
        assert!(!line.contains("missing"), "{line}");
    }
}

#[test]
fn a_guard_whose_log_nobody_reads_ends_what_runs_all_the_same() {
    let (_home, data) = place();
    let mut client = Unread::start(&data, &[("MAX_JOBS", "1")]);
    let id = client.submit("#!/bin/sh\nwhile :; do sleep 0.1; done\n");
    client.wait_for_status(&id, "Running");
    client.fill();
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let next = Client::at(&data, &[]);
    next.result(&next.run("true"));
    assert_eq!(next.get(&format!("/retrieve/{id}")).json("status").as_deref(), Some("Failed"));
    // It had not to be waited for longer than a guard may take.
    assert!(!next.log().contains("cannot be waited for"), "{}", next.log());
}

#[test]
fn a_start_that_fails_does_not_wait_for_a_log_that_nobody_reads() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Full to the last byte.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut command = Command::new("timeout");
    command.arg("30").arg(binary()).args(["client", "--port", "none"]).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(2));
    drop(reader);
}

#[test]
fn in_json_numbers_are_numbers_and_what_is_not_there_is_null() {
    let client = Client::with(&[("LOG_FORMAT", "json")]);
    client.result(&client.run("exit 3"));
    client.result(&client.run("kill -9 $$"));
    let ended = |number: usize| -> Object {
        let line = wait_for("the ends", || {
            let log = client.log();
            log.lines().filter(|line| line.contains("\"payload ended\"")).nth(number).map(str::to_owned)
        });
        miniserde::json::from_str(&line).unwrap()
    };
    let is = |object: &Object, name: &str, text: &str| {
        assert_eq!(miniserde::json::to_string(&object[name]), text, "{name}");
    };
    let (failed, killed) = (ended(0), ended(1));
    is(&failed, "exit_code", "3");
    is(&failed, "signal", "null");
    is(&failed, "error", "null");
    is(&killed, "exit_code", "null");
    assert!(matches!(failed["wall_s"], Value::Number(_)));
    assert!(matches!(failed["payload"], Value::Number(_)));
}

#[test]
fn lines_have_their_priority_where_the_journal_reads_them() {
    let (home, data) = place();
    let log = home.path().join("log");
    for (is_journal, first) in [(true, "<6>20"), (false, "20")] {
        let file = File::create(&log).unwrap();
        let status = file.metadata().unwrap();
        let inode = if is_journal { status.ino() } else { status.ino() + 1 };
        let mut command = Command::new(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", status.dev())).stderr(file);
        let mut child = command.spawn().unwrap();
        let told = wait_for("its start", || {
            let told = std::fs::read_to_string(&log).unwrap();
            told.contains("client listening").then_some(told)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told.lines().all(|line| line.starts_with(first)), "{told}");
    }
}

#[test]
fn what_turns_the_direction_of_a_line_is_written_out() {
    let (home, _) = place();
    let client = Client::at(&home.path().join("data\u{202e}atad"), &[]);
    assert!(client.log().contains("/data\\u202eatad\" slots="), "{}", client.log());
}
