//! MAX_AGE: what is cleaned up and when, what is never touched, and what becomes of the directories of an earlier life.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::client::{Client, wait_for};
use crate::records::record_of;
use crate::wire::{call, connect, read_answer};

const UNTIL_GO: &str = "#!/bin/sh\nwhile ! [ -e go ]; do sleep 0.02; done\n";

/// Makes a payload live its life to the end: ended, `Cleaned`, forgotten. So the cleaner has been at work several times
/// and two times MAX_AGE has passed.
fn wait_for_a_whole_life(client: &Client) {
    let id = client.run("exit 0");
    client.post(&format!("/kill/{id}"));
    client.retrieve_when(&id, |answer| answer.status == 404);
}

#[test]
fn an_ended_payload_is_cleaned_and_then_forgotten() {
    let client = Client::with(&[("MAX_AGE", "1")]);
    let ids =
        [client.run("exit 0"), client.run("exit 3"), client.submit(&[("no-script", b"x"), ("a/b/c", b"x")])];
    let is_cleaned = |answer: &crate::wire::Answer| answer.json("status").as_deref() == Some("Cleaned");
    for id in &ids {
        let answer = client.retrieve_when(id, is_cleaned);
        assert_eq!(
            (answer.status, answer.header("content-type").as_deref()),
            (200, Some("application/json"))
        );
        let partial = client.get(&format!("/retrieve_partial/{id}"));
        assert_eq!(partial.status, 404, "{}", partial.text());
        // One that is gone cannot be killed, and its row stays as it is.
        assert_eq!(client.post(&format!("/kill/{id}")).status, 200);
        assert!(is_cleaned(&client.get(&format!("/retrieve/{id}"))));
    }
    wait_for("the removal of the directories", || client.directories().is_empty().then_some(()));
    for id in &ids {
        let answer = client.retrieve_when(id, |answer| answer.status == 404);
        assert_eq!(answer.json("error").as_deref(), Some("unknown_id"));
        assert_eq!(client.post(&format!("/kill/{id}")).status, 404);
    }
}

#[test]
fn a_payload_is_kept_while_it_is_young() {
    let client = Client::with(&[("MAX_AGE", "1000")]);
    let id = client.run("exit 0");
    client.result(&id).file(".orchestrator.exit");
    assert_eq!(client.directories().len(), 1);
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).status, 200);
}

#[test]
fn payloads_that_run_or_wait_are_never_too_old() {
    let client = Client::with(&[("MAX_AGE", "1"), ("MAX_JOBS", "1")]);
    let running = client.run(UNTIL_GO);
    let waiting = client.run("echo on");
    let directory = client.loc(&running);
    wait_for_a_whole_life(&client);
    for (id, status) in [(&running, "Running"), (&waiting, "Prepared")] {
        let answer = client.get(&format!("/retrieve/{id}"));
        assert_eq!(answer.json("status").as_deref(), Some(status));
    }
    assert!(client.loc(&waiting).join("run.sh").exists());
    client.get(&format!("/retrieve_partial/{running}")).file("run.sh");
    fs::write(directory.join("go"), "").unwrap();
    client.result(&running).file(".orchestrator.exit");
    assert_eq!(client.result(&waiting).file(".orchestrator.out"), "on\n");
}

#[test]
fn what_was_never_a_payload_of_an_earlier_life_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let old = SystemTime::now() - Duration::from_secs(100_000);
    let young = SystemTime::now() + Duration::from_secs(100_000);
    let directory = |name: &str, modified| {
        let path = data.join(name);
        fs::create_dir_all(path.join("sub")).unwrap();
        fs::write(path.join("sub/file"), "x").unwrap();
        File::open(&path).unwrap().set_modified(modified).unwrap();
        path
    };
    let gone = [
        directory("0b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f50", old),
        directory("7f8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f51", old),
        // By a clock that was wrong: it goes by its age from now on.
        directory("1b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f52", young),
    ];
    let kept = [
        directory("precious", old),
        directory("0b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f5", old), // a digit short
        directory("2b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f53.saved", old),
    ];
    let file = data.join("3b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f54");
    fs::write(&file, "x").unwrap();
    File::open(&file).unwrap().set_modified(old).unwrap();
    let link = data.join("4b8e9a4c-5a0f-4d27-9f0e-0d1c2b3a4f55");
    symlink(data.join("precious"), &link).unwrap();

    let client = Client::at(&data, &[("MAX_AGE", "1"), ("RECOVER", "off")]);
    for path in &gone {
        wait_for("the removal of an old directory", || (!path.exists()).then_some(()));
    }
    wait_for_a_whole_life(&client);
    for path in &kept {
        assert!(path.join("sub/file").exists(), "{} was removed", path.display());
    }
    assert!(file.is_file() && link.is_symlink());
}

#[test]
fn a_directory_of_an_earlier_life_that_is_not_taken_up_is_kept_until_it_is_old() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let id = {
        let first = Client::at(&data, &[]);
        let id = first.run("exit 0");
        first.result(&id);
        id
    };
    let directory = only_directory(&data);
    let second = Client::at(&data, &[("MAX_AGE", "1000"), ("RECOVER", "off")]);
    assert_eq!(second.get(&format!("/retrieve/{id}")).status, 404);
    assert!(directory.join("run.sh").exists());
    drop(second);
    let third = Client::at(&data, &[("MAX_AGE", "2"), ("RECOVER", "off")]);
    wait_for("the removal of the directory", || (!directory.exists()).then_some(()));
    let _ = fs::read_dir(&third.data).unwrap();
}

fn only_directory(data: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let is_payload =
        |path: &std::path::PathBuf| path.is_dir() && path.file_name().unwrap() != ".orchestrator";
    let found: Vec<_> = entries.filter(is_payload).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

// --- directories that are being sent

/// A payload of 24 files of a megabyte that does not compress, which has ended. Gives the id.
fn large_result(client: &Client) -> String {
    let id =
        client.run("i=0; while [ $i -lt 24 ]; do head -c 1000000 /dev/urandom > file$i; i=$((i+1)); done");
    // By HEAD: to read all of it takes a busy machine longer than the payload is kept.
    let path = format!("/retrieve/{id}");
    wait_for("its end", || (call(client.address, "HEAD", &path).status == 200).then_some(()));
    id
}

/// Asks for a result and reads the beginning of it.
fn begin_to_read(client: &Client, id: &str) -> TcpStream {
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    stream
}

#[test]
fn a_result_that_is_being_sent_is_removed_only_afterwards() {
    let client = Client::with(&[("MAX_AGE", "6s"), ("STALL_TIMEOUT", "60s")]);
    let id = large_result(&client);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1_000_000];
    stream.read_exact(&mut bytes).unwrap();
    client.retrieve_when(&id, |answer| answer.json("status").as_deref() == Some("Cleaned"));
    wait_for("the postponement", || client.log().contains("it is removed afterwards").then_some(()));
    assert_eq!(client.directories().len(), 1);
    stream.read_to_end(&mut bytes).unwrap();
    let answer = read_answer(&mut bytes.as_slice(), false);
    assert_eq!(answer.files().iter().filter(|(name, _)| name.starts_with("file")).count(), 24);
    wait_for("the removal", || client.directories().is_empty().then_some(()));
    wait_for("its line", || client.log().contains("directory removed at last").then_some(()));
    assert!(!client.log().contains("cannot remove"), "{}", client.log());
}

#[test]
fn a_reader_that_stands_still_holds_a_directory_no_longer_than_stall_timeout() {
    let client = Client::with(&[("MAX_AGE", "6s"), ("STALL_TIMEOUT", "2s")]);
    let id = large_result(&client);
    let mut stream = begin_to_read(&client, &id);
    wait_for("the removal", || client.directories().is_empty().then_some(()));
    wait_for("its line", || client.log().contains("archive not sent to its end").then_some(()));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn a_result_whose_data_path_is_moved_while_it_is_sent_is_whole_or_visibly_cut() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let client = Client::at(&data, &[]);
    let id = large_result(&client);
    let mut stream = connect(client.address);
    write!(stream, "GET /retrieve/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 100_000];
    stream.read_exact(&mut bytes).unwrap();
    fs::rename(&data, home.path().join("elsewhere")).unwrap();
    if stream.read_to_end(&mut bytes).is_ok() && bytes.ends_with(b"0\r\n\r\n") {
        let files = read_answer(&mut bytes.as_slice(), false).files();
        assert_eq!(files.iter().filter(|(name, _)| name.starts_with("file")).count(), 24);
    }
    fs::rename(home.path().join("elsewhere"), &data).unwrap();
}

#[test]
fn a_result_that_somebody_removes_while_it_is_sent_is_visibly_cut() {
    let client = Client::start();
    let id = large_result(&client);
    let mut stream = begin_to_read(&client, &id);
    fs::remove_dir_all(client.directories().remove(0)).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
    wait_for("the log", || client.log().contains("was changed or removed while it was sent").then_some(()));
}

/// What nobody has fetched is spared by a next life whose clock says that it is old; a HEAD fetches nothing.
#[test]
fn a_head_of_a_result_does_not_count_as_having_fetched_it() {
    let client = Client::start();
    let ids = [client.run("true"), client.run("exit 3")];
    for id in &ids {
        let path = format!("/retrieve/{id}");
        wait_for("its end", || (call(client.address, "HEAD", &path).status == 200).then_some(()));
        wait_for("its end", || client.health("running").eq(&0).then_some(()));
    }
    let records = || client.directories().iter().map(|path| record_of(path)).collect::<Vec<_>>();
    std::thread::sleep(Duration::from_millis(500));
    assert!(records().iter().all(|record| !record.contains("\"told\":true")), "{:?}", records());
    for id in &ids {
        client.result(id);
    }
    wait_for("the note", || records().iter().all(|record| record.contains("\"told\":true")).then_some(()));
}
