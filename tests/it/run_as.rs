//! Payloads of a client that is root, as users of their own: who they are, what they reach of each other and of the client, whose
//! their files are, and what is left of them. What needs root is passed over elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, binary, is_alive, is_root, line_of, wait_for};

/// A place that all users may enter: what tests usually take is closed to them.
struct Open {
    home: tempfile::TempDir,
}

impl Open {
    /// `None` for who is not root.
    fn new() -> Option<Self> {
        if !is_root() {
            println!("not root: payloads have no users of their own");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        set_mode(home.path(), 0o755);
        Some(Self { home })
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn client(&self, settings: &[(&str, &str)]) -> Client {
        Client::at(&self.data(), &[&[("SANDBOX", "best")], settings].concat())
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn owner_and_mode(path: &Path) -> (u32, u32) {
    let status = fs::symlink_metadata(path).unwrap();
    (status.uid(), status.mode() & 0o7777)
}

const WHO: &str = "#!/bin/sh
{ id -u; id -g; id -G; } | tr '\\n' ' ' >who
grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb))' /proc/self/status | cut -f 2 | sort -u | tr '\\n' ' ' >capabilities
mkdir made && echo made >made/file && chmod 700 made && echo more >>given/file
echo out; echo err >&2; echo by name >>/dev/stderr
";

#[test]
fn a_payload_runs_as_the_user_of_its_slot_and_its_files_come_back() {
    let Some(open) = Open::new() else { return };
    for (log, expected) in [("0", "61210 61210 61210 "), ("64K", "61210 61210 61210 ")] {
        let client = open.client(&[("RUN_AS", "61210-61213"), ("MAX_JOBS", "2"), ("MAX_LOG", log)]);
        let id = client.submit(&[("run.sh", WHO.as_bytes()), ("given/file", b"given\n")]);
        let answer = client.ended(&id);
        assert_eq!(answer.file("who"), expected, "MAX_LOG={log}");
        assert_eq!(answer.file("capabilities"), "0000000000000000 ");
        assert_eq!(answer.file("given/file"), "given\nmore\n");
        assert_eq!(answer.file("made/file"), "made\n");
        assert_eq!(answer.file(".orchestrator.err"), "err\nby name\n");
        for directory in client.directories() {
            assert_eq!(owner_and_mode(&directory), (0, 0o700));
            for file in ["run.sh", "given", "given/file", "made", "made/file", ".orchestrator.out", "who"] {
                assert_eq!(owner_and_mode(&directory.join(file)).0, 0, "{file}");
            }
        }
    }
    // The control.
    let client = open.client(&[("RUN_AS", "root"), ("RECOVER", "off")]);
    assert!(client.log().contains("payloads run as root"), "{}", client.log());
    let id = client.submit(&[("run.sh", WHO.as_bytes()), ("given/file", b"given\n")]);
    assert!(client.ended(&id).file("who").starts_with("0 0 "));
}

#[test]
fn root_takes_a_range_of_its_own_and_each_client_another_one() {
    let Some(first) = Open::new() else { return };
    let Some(second) = Open::new() else { return };
    let (one, other) = (first.client(&[("MAX_JOBS", "2")]), second.client(&[("MAX_JOBS", "2")]));
    let script = "#!/bin/sh\nid -u\nsleep 1\n";
    let ids = [one.run(script), one.run(script), other.run(script), other.run(script)];
    let user = |client: &Client, id: &String| client.ended(id).file(".orchestrator.out");
    let mut users =
        vec![user(&one, &ids[0]), user(&one, &ids[1]), user(&other, &ids[2]), user(&other, &ids[3])];
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    for user in &users {
        let user = user.trim();
        assert!(user.parse::<u32>().unwrap() >= 60_700, "{user}");
        assert!(!passwd.contains(&format!(":{user}:")), "{user} has an account");
    }
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 4, "{users:?}");
}

/// What one payload can do to the directory and the process of another one, a word for each that works.
fn intruder(directory: &Path, pid: &str) -> String {
    let directory = directory.display();
    format!(
        "#!/bin/sh
cat {directory}/secret >/dev/null 2>&1 && echo read
ls {directory} >/dev/null 2>&1 && echo list
echo x 2>/dev/null >{directory}/new && echo write
[ -z '{pid}' ] || {{ kill -0 {pid}; }} 2>/dev/null && [ -n '{pid}' ] && echo signal
[ -n '{pid}' ] && tr '\\0' '\\n' 2>/dev/null </proc/{pid}/environ | grep -q PAYLOAD_ID && echo environment
exit 0
"
    )
}

const SECRET: &[(&str, &[u8])] =
    &[("run.sh", b"#!/bin/sh\necho $$ >pid\nexec sleep 600\n"), ("secret", b"secret")];

#[test]
fn payloads_reach_nothing_of_each_other_whether_they_wait_run_or_have_ended() {
    let Some(open) = Open::new() else { return };
    let client = open.client(&[("RUN_AS", "61220-61221"), ("MAX_JOBS", "2")]);
    let victim = client.submit(SECRET);
    let pid = line_of(&client.wait_for_file(&victim, "pid"));
    let directory = client.loc(&victim);
    assert_eq!(owner_and_mode(&directory), (61_220, 0o700));
    let answer = client.ended(&client.run(&intruder(&directory, &pid)));
    assert_eq!(answer.file(".orchestrator.out"), "", "of one that runs");
    // Its slot is taken, and so is the other one: it waits.
    let holder = client.run("#!/bin/sh\necho >started\nuntil [ -e go ]; do sleep 0.01; done\n");
    client.wait_for_file(&holder, "started");
    let waiting = client.submit(SECRET);
    let waits_in = client.loc(&waiting);
    assert_eq!(owner_and_mode(&waits_in), (0, 0o700));
    assert_eq!(client.post(&format!("/kill/{victim}")).status, 200);
    client.ended(&victim);
    assert_eq!(owner_and_mode(&directory), (0, 0o700));
    fs::write(client.loc(&holder).join("go"), "").unwrap();
    client.ended(&holder);
    // Whichever slot is free: as its own user, and as that which the victim had.
    client.wait_for_file(&waiting, "pid");
    let answer = client.ended(&client.run(&intruder(&directory, "")));
    assert_eq!(answer.file(".orchestrator.out"), "", "of one that has ended");
    drop(client);

    // The control: as one user, all of it works.
    let client =
        open.client(&[("RUN_AS", "root"), ("MAX_JOBS", "2"), ("RECOVER", "off"), ("SANDBOX", "off")]);
    let victim = client.submit(SECRET);
    let pid = line_of(&client.wait_for_file(&victim, "pid"));
    let answer = client.ended(&client.run(&intruder(&client.loc(&victim), &pid)));
    assert_eq!(answer.file(".orchestrator.out"), "read\nlist\nwrite\nsignal\nenvironment\n");
}

#[test]
fn the_next_payload_of_a_user_reaches_nothing_of_the_one_before() {
    let Some(open) = Open::new() else { return };
    let client = open.client(&[("RUN_AS", "61230"), ("MAX_JOBS", "1")]);
    let first = client.submit(&[("run.sh", b"#!/bin/sh\nchmod 777 . secret\n"), ("secret", b"secret")]);
    client.ended(&first);
    let directory = client.directories().remove(0);
    let answer = client.ended(&client.run(&intruder(&directory, "")));
    assert_eq!(answer.file(".orchestrator.out"), "");
    assert_eq!(client.get(&format!("/retrieve/{first}")).file("secret"), "secret");
}

#[test]
fn what_a_payload_leaves_in_shared_places_goes_with_it() {
    let Some(open) = Open::new() else { return };
    let client = open.client(&[("RUN_AS", "61240"), ("MAX_JOBS", "1")]);
    let name = format!("left-by-a-payload-{}", std::process::id());
    let id = client.run(&format!(
        "#!/bin/sh\nfor place in /tmp /var/tmp /dev/shm; do mkdir $place/{name} && echo x >$place/{name}/file; done\n"
    ));
    client.ended(&id);
    for place in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!Path::new(place).join(&name).exists(), "{place}");
    }
}

/// One that shows nothing of where it comes from.
const HIDDEN: &str = "#!/bin/sh
pid_file=$PWD/pid
export pid_file
setsid env -i pid_file=$PWD/pid sh -c 'cd / && echo $$ >$pid_file && exec env -i sleep 600 >/dev/null 2>&1 </dev/null' &
until [ -s pid ]; do sleep 0.01; done
";

#[test]
fn a_process_that_hides_is_known_by_its_user() {
    let Some(open) = Open::new() else { return };
    // In a room nothing can hide.
    let settings = [
        ("SANDBOX", "off"),
        ("RUN_AS", "61250-61251"),
        ("MAX_JOBS", "2"),
        ("LINGER", "0"),
        ("KILL_GRACE", "0"),
    ];
    let client = open.client(&settings);
    // While another one runs: what is nobody's is left alone then.
    let other = client.run("#!/bin/sh\necho $$ >pid\nexec sleep 600\n");
    let other_pid = line_of(&client.wait_for_file(&other, "pid"));
    let id = client.run(HIDDEN);
    let answer = client.ended(&id);
    let hidden = answer.file("pid").trim().to_owned();
    wait_for("its end", || (!is_alive(&hidden)).then_some(()));
    assert!(is_alive(&other_pid));

    // And when the client is killed.
    let id = client.run(&format!("{HIDDEN}sleep 600\n"));
    let hidden = line_of(&client.wait_for_file(&id, "pid"));
    let directory = client.loc(&id);
    assert_eq!(owner_and_mode(&directory).0, 61_251);
    client.kill();
    wait_for("its end", || (!is_alive(&hidden)).then_some(()));
    wait_for("the end of the other", || (!is_alive(&other_pid)).then_some(()));

    let client = open.client(&settings);
    let answer = client.get(&format!("/retrieve/{id}"));
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    assert_eq!(owner_and_mode(&directory), (0, 0o700));
    assert_eq!(owner_and_mode(&directory.join("run.sh")).0, 0);
    assert_eq!(client.get(&format!("/retrieve_partial/{id}")).status, 200);
}

#[test]
fn a_link_to_a_file_of_root_does_not_come_back_with_the_results() {
    let Some(open) = Open::new() else { return };
    let secret = open.home.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    set_mode(&secret, 0o600);
    let client = open.client(&[("RUN_AS", "61260"), ("MAX_JOBS", "1")]);
    let script = format!("#!/bin/sh\nln {0} stolen; ln -s {0} named; exit 0\n", secret.display());
    let answer = client.ended(&client.run(&script));
    for (name, content) in answer.files() {
        assert!(name != "stolen" && content != b"secret", "{name}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(owner_and_mode(&secret), (0, 0o600));
}

/// The line by which a client that does not start says why, and its exit code.
fn refusal(data: &Path, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.arg("20").arg(binary()).args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]);
    let output = command.arg(data).envs(settings.iter().copied()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn ids_that_cannot_be_used_end_the_start_and_say_why() {
    let Some(open) = Open::new() else { return };
    let _client = open.client(&[("RUN_AS", "61270-61271"), ("MAX_JOBS", "2")]);
    let data = open.home.path().join("other");
    for (ids, slots, why) in [
        ("61272-61273", "3", "there are 2 user ids and MAX_JOBS is 3"),
        ("61271-61275", "1", "user id 61271 is used by another client"),
    ] {
        let (code, error) = refusal(&data, &[("RUN_AS", ids), ("MAX_JOBS", slots)]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(&format!("RUN_AS={ids} cannot be used")) && error.contains(why), "{error}");
    }
}

#[test]
fn who_is_not_root_cannot_be_asked_for_users() {
    if !is_root() {
        let home = tempfile::tempdir().unwrap();
        for given in ["root", "61280"] {
            let (code, error) = refusal(&home.path().join("data"), &[("RUN_AS", given), ("MAX_JOBS", "1")]);
            assert_eq!(code, Some(2), "{error}");
            assert!(error.contains("the client is not root"), "{error}");
        }
    }
}
