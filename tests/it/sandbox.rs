//! Containment: what a payload may not, what it may, and what it is told of that. Each attempt has its control, which shows that
//! it works with SANDBOX=off.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::client::{Client, binary, is_root, place, uncontained};
use crate::wire::json_field;

/// What the payload `script` says on its standard output.
fn said(client: &Client, script: &str) -> String {
    let id = client.run(&format!("#!/bin/sh\n{script}\nexit 0\n"));
    let answer = client.result(&id);
    assert_eq!(answer.header("content-type").as_deref(), Some("application/zip"), "{}", answer.text());
    answer.file(".orchestrator.out")
}

/// What was enforced for a payload and what not, as the JSON of its row says.
fn isolation(client: &Client) -> String {
    let id = client.run("#!/bin/sh\nexit 3\n");
    let answer = client.result(&id).text();
    answer.split_once("\"isolation\":").unwrap_or_else(|| panic!("{answer}")).1.to_owned()
}

/// Whether payloads of a client with its usual settings get this.
fn is_enforced(what: &str) -> bool {
    let isolation = isolation(&Client::with(&[("SANDBOX", "best")]));
    let enforced = isolation.split("\"missing\"").next().unwrap();
    let is_enforced = enforced.contains(what);
    if !is_enforced {
        println!("skipped: not enforced here: {what}: {isolation}");
    }
    is_enforced
}

fn are_files_contained() -> bool {
    is_enforced("landlock:") || is_enforced("mount_namespace")
}

/// An attempt, which says `done` where it succeeds: so it does without containment, and not with it.
#[track_caller]
fn is_denied_unless_off(settings: &[(&str, &str)], attempt: &str) {
    let script = format!("({attempt}) >/dev/null 2>&1 && echo done || echo denied");
    assert_eq!(said(&Client::with(&uncontained(settings)), &script), "done\n", "the control: {attempt}");
    let contained = [&[("SANDBOX", "best")], settings].concat();
    assert_eq!(said(&Client::with(&contained), &script), "denied\n", "{attempt}");
}

/// A directory that is closed to payloads by the table, and open to all users. /tmp is open where payloads have users of their own.
fn closed_place() -> tempfile::TempDir {
    let place = if is_root() { tempfile::tempdir_in("/run") } else { tempfile::tempdir() }.unwrap();
    open_to_all(place.path());
    place
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Something that programs do every day, and that goes on working.
#[track_caller]
fn works(client: &Client, what: &str) {
    // What is installed in the home of whoever tests is closed.
    let path = "PATH=/usr/local/bin:/usr/bin:/bin";
    let id = client.run(&format!("#!/bin/bash\n{path}\n({what}) || echo \"failed: $?\"\n"));
    let answer = client.result(&id);
    let out = answer.file(".orchestrator.out");
    assert!(!out.contains("failed"), "{what}: {out}{}", answer.file(".orchestrator.err"));
}

fn is_there(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

#[test]
fn a_payload_reads_no_keys_and_no_homes() {
    if !are_files_contained() {
        return;
    }
    // Who is not root is kept from these by their modes, with or without.
    if is_root() {
        is_denied_unless_off(&[], "cat /etc/shadow");
        is_denied_unless_off(&[], "ls /root");
    }
    let client = Client::with(&[("SANDBOX", "best")]);
    assert_eq!(said(&client, "wc -c </etc/passwd | grep -c [1-9]; ls /usr/bin | grep -cx env"), "1\n1\n");
}

#[test]
fn a_payload_reads_no_other_payload() {
    if !are_files_contained() {
        return;
    }
    for (settings, expected) in [(uncontained(&[]), "done\n"), (vec![("SANDBOX", "best")], "denied\n")] {
        let client = Client::with(&settings);
        let id = client.run("#!/bin/sh\n# a word that only this one has: marzipan\nexit 3\n");
        client.result(&id);
        let script = "cat \"$PAYLOAD_DIR\"/../*/run.sh | grep -q marzip[a]n && echo done || echo denied";
        assert_eq!(said(&client, script), expected, "{settings:?}");
    }
}

#[test]
fn a_payload_writes_nowhere_but_in_its_own_directories() {
    if !are_files_contained() {
        return;
    }
    let home = closed_place();
    let outside = home.path().join("outside");
    is_denied_unless_off(&[], &format!("echo x >{}", outside.display()));
    assert!(outside.exists(), "the control has made it");
    let client = Client::with(&[("SANDBOX", "best")]);
    works(
        &client,
        "echo x >file; mkdir a b; echo y >a/file; mv a/file b/file; rm b/file; ln -s file link; cat link",
    );
    works(&client, "mkfifo pipe; (echo z >pipe &); cat pipe; chmod 600 file; touch -d yesterday file");
    works(&client, "t=$(mktemp); echo x >\"$t\"; cat \"$t\"; rm \"$t\"");
}

#[test]
fn more_places_are_given_by_settings() {
    if !are_files_contained() {
        return;
    }
    let home = closed_place();
    let (set, out) = (home.path().join("set"), home.path().join("out"));
    fs::create_dir_all(set.join("deep")).unwrap();
    fs::create_dir_all(&out).unwrap();
    open_to_all(&out);
    fs::write(set.join("deep/data"), "of the set\n").unwrap();
    let read = format!("cat {}", set.join("deep/data").display());
    let write = |place: &Path| format!("echo x >{}", place.join("new").display());
    is_denied_unless_off(&[], &read);
    let (set_text, out_text) = (set.to_str().unwrap(), out.to_str().unwrap());
    let client = Client::with(&[("SANDBOX", "best"), ("ALLOW_READ", set_text), ("ALLOW_WRITE", out_text)]);
    assert_eq!(said(&client, &read), "of the set\n");
    assert_eq!(said(&client, &format!("({}) 2>/dev/null || echo denied", write(&set))), "denied\n");
    works(&client, &write(&out));
    assert_eq!(fs::read_to_string(out.join("new")).unwrap(), "x\n");
}

/// As every change of /etc/passwd does: a rule is about a file, not about its name.
#[test]
fn what_is_put_anew_under_a_name_can_be_read() {
    if !are_files_contained() {
        return;
    }
    let (home, _) = place();
    let set = home.path().join("set");
    fs::create_dir_all(&set).unwrap();
    fs::write(set.join("names"), "before\n").unwrap();
    // With the data in it, the directory is opened entry by entry.
    let client = Client::at(&set.join("data"), &[("ALLOW_READ", set.to_str().unwrap())]);
    let script = format!("cat {}", set.join("names").display());
    assert_eq!(said(&client, &script), "before\n");
    fs::write(set.join("names.new"), "after\n").unwrap();
    fs::rename(set.join("names.new"), set.join("names")).unwrap();
    assert_eq!(said(&client, &script), "after\n");
}

#[test]
fn calls_for_administrators_are_denied() {
    if !is_enforced("seccomp") {
        return;
    }
    if Command::new("unshare").args(["-U", "true"]).status().is_ok_and(|end| end.success()) {
        is_denied_unless_off(&[], "unshare -U true");
    }
    if is_root() {
        is_denied_unless_off(&[], "unshare -m true");
        is_denied_unless_off(&[], "chroot / true");
    }
    if is_there("python3") {
        // Keys: KEYCTL_GET_KEYRING_ID of the session.
        let number = if cfg!(target_arch = "x86_64") { 250 } else { 219 };
        let keyctl = format!(
            "/usr/bin/python3 -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).syscall({number}, 0, -3, 0, 0, 0) == -1)'"
        );
        if cfg!(target_pointer_width = "64") {
            is_denied_unless_off(&[], &keyctl);
        }
    }
}

#[test]
fn a_payload_signals_neither_the_client_nor_its_guard() {
    if !is_enforced("pid_namespace") && !is_enforced("landlock:6") && !is_enforced("landlock:7") {
        return;
    }
    is_denied_unless_off(&[], "kill -0 $PPID && [ $PPID -gt 1 ]");
    let client = Client::with(&[("SANDBOX", "best")]);
    assert_eq!(said(&client, "kill -0 $$ && sleep 9 & kill $! && wait $! || echo $?"), "143\n");
}

#[test]
fn without_a_network_neither_the_internet_nor_this_machine_is_there() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let connect = format!("bash -c 'exec 3<>/dev/tcp/{}/{}'", address.ip(), address.port());
    let script = format!("({connect}) >/dev/null 2>&1 && echo done || echo denied");
    for (settings, expected) in [
        (&[("NETWORK", "on")][..], "done\n"),
        (&[("NETWORK", "off"), ("SANDBOX", "off")], "done\n"),
        (&[("NETWORK", "off"), ("SANDBOX", "best")], "denied\n"),
    ] {
        let client = Client::with(settings);
        assert_eq!(said(&client, &script), expected, "{settings:?}: {}", isolation(&client));
    }
    let isolation = isolation(&Client::with(&[("SANDBOX", "best"), ("NETWORK", "off")]));
    assert!(isolation.contains("netns") || isolation.contains("no_network"), "{isolation}");
}

#[test]
fn ordinary_work_goes_on() {
    let client = Client::with(&[("SANDBOX", "best")]);
    works(
        &client,
        "printf '3\\n1\\n2\\n' | sort -n | awk '{ s += $1 } END { print s }' | tee sum; cat <(cat sum)",
    );
    works(
        &client,
        "ps >/dev/null; nproc; id; uname -a; getent passwd root; date; df . ; free 2>/dev/null || true",
    );
    if !is_root() {
        works(&client, "printf worker >/proc/self/comm");
    }
    works(&client, "head -c 9 /dev/urandom | wc -c; : >/dev/full && false || true");
    works(&client, "tar cf a.tar run.sh; tar tf a.tar; nice -n 5 true; ulimit -S -n 64; sleep 0.01 & wait");
    if is_there("python3") {
        works(
            &client,
            "python3 -c 'import tempfile, subprocess, threading, ssl; f = tempfile.TemporaryFile(); f.write(b\"x\"); \
             subprocess.check_call([\"true\"]); t = threading.Thread(target=print); t.start(); t.join()'",
        );
    }
    if is_there("gcc") {
        works(&client, "echo 'int main(void) { return 0; }' >a.c; gcc -o a a.c; ./a");
    }
    if is_there("strace") && is_enforced("landlock:") {
        works(&client, "strace -f -o trace true; grep -q execve trace");
    }
}

#[test]
fn every_payload_says_what_was_enforced_for_it_also_after_a_restart() {
    let (_home, data) = place();
    let client = Client::at(&data, &[("MAX_JOBS", "1")]);
    let holds = client.run("#!/bin/sh\nwhile [ ! -e end ]; do sleep 0.01; done\nexit 3\n");
    client.wait_for_file(&holds, "run.sh");
    let waits = client.run("#!/bin/sh\nexit 3\n");
    let waiting = client.get(&format!("/retrieve/{waits}")).text();
    assert!(!waiting.contains("isolation"), "it has not been started: {waiting}");
    fs::write(client.loc(&holds).join("end"), "").unwrap();
    let told = client.result(&waits).text();
    let isolation = told.split_once("\"isolation\":").unwrap_or_else(|| panic!("{told}")).1;
    assert!(isolation.starts_with("{\"enforced\":[\"no_new_privs\""), "{told}");
    drop(client);
    let client = Client::at(&data, &[]);
    let again = client.result(&waits).text();
    assert!(again.ends_with(isolation), "{again}");
}

#[test]
fn off_enforces_little_and_says_so() {
    let client = Client::with(&[("SANDBOX", "off")]);
    let isolation = isolation(&client);
    assert!(isolation.contains("\"all else: SANDBOX=off\"]"), "{isolation}");
    assert!(client.log().contains("all else: SANDBOX=off"), "{}", client.log());
    assert!(!Client::with(&[("SANDBOX", "best")]).log().contains("SANDBOX=off"));
}

#[test]
fn the_start_line_says_what_the_host_gives() {
    let client = Client::with(&[("SANDBOX", "best")]);
    let log = client.log();
    let line = log.lines().find(|line| line.contains("client listening")).unwrap();
    assert!(line.contains("enforced=") && line.contains("no_new_privs"), "{line}");
    let isolation = isolation(&client);
    let is_all = isolation.contains("\"missing\":[]");
    assert_eq!(is_all, !line.contains("missing="), "{line} {isolation}");
}

#[test]
fn strict_starts_with_all_of_it_or_not_at_all() {
    let isolation = isolation(&Client::with(&[("SANDBOX", "best")]));
    if isolation.contains("\"missing\":[]") {
        let strict = Client::with(&[("SANDBOX", "strict")]);
        assert!(self::isolation(&strict).contains("\"missing\":[]"));
        return;
    }
    let (_home, data) = place();
    let arguments =
        ["10", binary().to_str().unwrap(), "client", "--port", "0", "--sandbox", "strict", "--data-path"]
            .map(str::to_owned);
    let ended = Command::new("timeout").args(arguments).arg(&data).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    let first = json_field(&isolation, "missing").unwrap_or_default();
    let first = first.trim_start_matches('[').trim_matches('"').split(':').next().unwrap().to_owned();
    assert!(told.contains("SANDBOX=strict") && told.contains(&first), "{told} {first}");
}

/// A shell takes the first program of PATH, and fails if it may not be executed.
#[test]
fn path_leads_to_nothing_that_is_closed() {
    if !are_files_contained() {
        return;
    }
    let home = closed_place();
    let closed = home.path().join("bin");
    fs::create_dir(&closed).unwrap();
    fs::copy("/bin/false", closed.join("true")).unwrap();
    let path = format!("{}:/usr/bin:/bin", closed.display());
    let off = Client::with(&[("SANDBOX", "off"), ("PATH", &path)]);
    assert_eq!(said(&off, "env true && echo found || echo failed"), "failed\n", "the control");
    let client = Client::with(&[("SANDBOX", "best"), ("PATH", &path)]);
    assert_eq!(said(&client, "env true && echo found"), "found\n");
}

#[test]
fn an_interpreter_that_is_closed_is_named() {
    if !are_files_contained() {
        return;
    }
    let home = closed_place();
    let interpreter = home.path().join("sh");
    fs::copy(Path::new("/bin/sh").canonicalize().unwrap(), &interpreter).unwrap();
    let script = format!("#!{}\nexit 0\n", interpreter.display());
    let client = Client::with(&[("SANDBOX", "best")]);
    let answer = client.result(&client.run(&script));
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    assert!(answer.text().contains("name its place in ALLOW_READ"), "{}", answer.text());
    let allowed = Client::with(&[("SANDBOX", "best"), ("ALLOW_READ", home.path().to_str().unwrap())]);
    let id = allowed.run(&script);
    assert!(allowed.result(&id).header("content-type").as_deref() == Some("application/zip"));
}
