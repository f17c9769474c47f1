//! What holds for every payload on every host: no rights from what it executes, no core files, no look into the client, ended
//! before the client where memory runs out, and a directory of its own for temporary files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, binary, copy_program, is_alive, place, wait_for};
use crate::wire::Answer;

/// A user without rights, also where the tests run as root.
const NOBODY: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

fn out(answer: &Answer) -> String {
    answer.file(".orchestrator.out")
}

/// The directory for temporary files of the payload in `directory`, as the client has it.
fn temporary(directory: &Path) -> PathBuf {
    directory.parent().unwrap().join(".orchestrator/tmp").join(directory.file_name().unwrap())
}

/// A client of a user without rights, with its home.
fn client_of_nobody() -> (tempfile::TempDir, Client) {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("job-orchestrator");
    copy_program(&binary(), &program);
    let open = |path: &Path| Command::new("chmod").arg("777").arg(path).status().unwrap();
    assert!(open(home.path()).success());
    let data = home.path().join("data");
    let is_root = is_root();
    let mut command = Command::new(if is_root { NOBODY[0] } else { "env" });
    if is_root {
        command.args(&NOBODY[1..]);
    }
    command.arg(&program).args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
    command.env("DB_PASSWORD", "of the client");
    let client = Client::spawn(command, &data);
    (home, client)
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"))
}

#[test]
fn no_program_gives_a_payload_rights_that_it_has_not() {
    let of = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(
        of(&fs::read_to_string("/proc/self/status").unwrap()),
        "0",
        "the tests themselves cannot gain any"
    );
    let client = Client::start();
    let answer = client.result(&client.run("#!/bin/sh\ncat /proc/self/status\n"));
    assert_eq!(of(&out(&answer)), "1");
}

#[test]
fn a_payload_leaves_no_core_file_unless_it_asks_for_one() {
    let client = Client::through(&["bash", "-c", "ulimit -Sc unlimited 2>/dev/null; exec \"$@\"", "bash"]);
    let hard = Command::new("bash").args(["-c", "ulimit -Hc"]).output().unwrap().stdout;
    let answer = client.result(&client.run("#!/bin/bash\nulimit -Sc\nulimit -Hc\n"));
    assert_eq!(out(&answer), format!("0\n{}", String::from_utf8(hard).unwrap()));
}

#[test]
fn files_of_a_payload_are_made_with_the_usual_modes_whatever_the_umask_of_the_client_is() {
    for umask in ["077", "000"] {
        let client = Client::through(&["sh", "-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        assert_eq!(out(&client.result(&client.run("#!/bin/sh\numask\n"))), "0022\n");
    }
}

#[test]
fn the_kernel_ends_a_payload_before_the_client_when_memory_runs_out() {
    let client = Client::start();
    let of_client = || fs::read_to_string(format!("/proc/{}/oom_score_adj", client.pid())).unwrap();
    let before: i32 = of_client().trim().parse().unwrap();
    let answer = client.result(&client.run("#!/bin/sh\ncat /proc/self/oom_score_adj\n"));
    let of_payload: i32 = out(&answer).trim().parse().unwrap();
    assert!(of_payload > before || before == 1000, "{of_payload}, and the client's {before}");
    assert_eq!(of_client().trim(), before.to_string(), "the client's own is as before");
    let guard = client.guard().unwrap();
    assert_eq!(
        fs::read_to_string(format!("/proc/{guard}/oom_score_adj")).unwrap().trim(),
        before.to_string()
    );
}

#[test]
fn a_payload_cannot_look_into_the_client_and_its_guard() {
    let (_home, client) = client_of_nobody();
    wait_for("the guard", || client.guard());
    let guard = client.guard().unwrap();
    let script = format!(
        "#!/bin/sh\nfor pid in $$ {} {guard}; do\n\
         for file in environ maps; do if cat /proc/$pid/$file >read 2>/dev/null && [ -s read ]; then echo $file; else echo no; fi; done\n\
         if ls /proc/$pid/fd/ >read 2>/dev/null && [ -s read ]; then echo fd; else echo no; fi\n\
         done\n",
        client.pid()
    );
    let answer = client.ended(&client.run(&script));
    // Its own is the control.
    assert_eq!(out(&answer), "environ\nmaps\nfd\nno\nno\nno\nno\nno\nno\n");
}

#[test]
fn a_payload_has_a_directory_for_temporary_files_that_goes_with_it() {
    let client = Client::start();
    let script = "#!/bin/sh\nset -e\nfile=$(mktemp)\necho kept >\"$file\"\ncp \"$file\" copy\ncase \"$file\" in \"$TMPDIR\"/*) echo inside;; esac\n\
                  ls \"$TMPDIR\" | wc -l\nstat -c %a \"$TMPDIR\"\nmkdir -p \"$TMPDIR/a/b\"; chmod 0 \"$TMPDIR/a\"\n";
    for _ in 0..2 {
        let id = client.run(script);
        let directory = client.loc(&id);
        let answer = client.ended(&id);
        assert_eq!(out(&answer), "inside\n1\n700\n");
        let names: Vec<String> = answer.files().into_iter().map(|(name, _)| name).collect();
        assert!(names.iter().all(|name| !name.contains("tmp")), "{names:?}");
        wait_for("its end", || (!temporary(&directory).exists()).then_some(()));
    }
}

#[test]
fn temporary_files_go_with_a_kill_and_with_the_end_of_the_client() {
    let (_home, data) = place();
    let script = "#!/bin/sh\necho x >\"$TMPDIR/file\"\necho $$ >pid\nsleep 60\n";
    let client = Client::at(&data, &[]);
    let killed = client.run(script);
    let file = client.wait_for_file(&killed, "pid");
    let directory = file.parent().unwrap();
    assert!(temporary(directory).join("file").exists());
    client.post(&format!("/kill/{killed}"));
    wait_for("its end", || (!temporary(directory).exists()).then_some(()));
    let cut = client.run(script);
    let file = client.wait_for_file(&cut, "pid");
    let directory = file.parent().unwrap();
    let pid = client.get(&format!("/retrieve/{cut}")).json("pid").unwrap();
    client.kill();
    wait_for("the guard's work", || (!is_alive(&pid)).then_some(()));
    assert!(temporary(directory).join("file").exists());
    let client = Client::at(&data, &[]);
    assert!(!temporary(directory).exists());
    assert_eq!(client.result(&cut).json("status").as_deref(), Some("Failed"));
    // And what comes next has one again.
    assert_eq!(client.ended(&client.run("#!/bin/sh\necho x >\"$TMPDIR/file\"\n")).status, 200);
}

#[test]
fn temporary_files_count_for_max_disk() {
    let client = Client::with(&[("MAX_DISK", "8M")]);
    let script =
        |place| format!("#!/bin/sh\nhead -c 16000000 /dev/zero >\"{place}/file\"\necho >wrote\nsleep 60\n");
    for place in ["$TMPDIR", "."] {
        let answer = client.ended(&client.run(&script(place)));
        assert_eq!(answer.json("status").as_deref(), Some("Killed"), "{}", answer.text());
        assert!(answer.json("error").unwrap().contains("MAX_DISK"), "{}", answer.text());
    }
}

#[test]
fn a_place_for_temporary_files_that_was_removed_is_made_anew() {
    let client = Client::start();
    client.ended(&client.run("#!/bin/sh\ntrue\n"));
    fs::remove_dir_all(client.data.join(".orchestrator/tmp")).unwrap();
    fs::write(client.data.join(".orchestrator/tmp"), "a file").unwrap();
    let id = client.run("#!/bin/sh\necho made >\"$TMPDIR/file\"; cat \"$TMPDIR/file\"\n");
    wait_for("the reason", || client.get("/ready").text().contains("temporary files").then_some(()));
    fs::remove_file(client.data.join(".orchestrator/tmp")).unwrap();
    assert_eq!(out(&client.ended(&id)), "made\n");
}
