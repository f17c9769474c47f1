//! How `run.sh` is started: its directory, arguments, descriptors, environment and signals, and what is told about one
//! that cannot be started.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::client::{Client, line_of, wait_for};
use crate::wire::Answer;

/// Copies how `run.sh` stands with the kernel to a file. By the shell alone: while it starts another program, a shell may
/// have a signal mask of its own.
const STATUS: &str = "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done </proc/$$/status >status\n";

/// A field of `/proc/PID/status` that the payload has copied to the file `status`.
fn status_field(answer: &Answer, field: &str) -> String {
    field_of(&answer.file("status"), field)
}

fn field_of(status: &str, field: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

/// Submits these files, which cannot be started, and gives the answer.
fn failed(client: &Client, files: &[(&str, &[u8])]) -> Answer {
    let answer = client.result(&client.submit(files));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json("status").as_deref(), Some("Failed"), "{}", answer.text());
    for field in ["exit_code", "signal"] {
        assert_eq!(answer.json(field).as_deref(), Some("null"), "{}", answer.text());
    }
    assert_eq!(answer.json("pid").as_deref(), Some("0"), "{}", answer.text());
    assert_ne!(answer.json("finished_at").as_deref(), Some("null"));
    answer
}

/// Submits a `run.sh` that cannot be started, and gives the reason.
fn failure(client: &Client, script: &[u8]) -> String {
    failed(client, &[("run.sh", script)]).json("error").unwrap()
}

#[test]
fn run_sh_runs_in_its_directory_under_its_own_name() {
    let client = Client::start();
    let script = "#!/bin/sh\npwd -P; echo \"$0 $#\"; cat input/data\n";
    let id = client.submit(&[("run.sh", script.as_bytes()), ("input/data", b"content\n")]);
    let output = client.result(&id).file(".orchestrator.out");
    let (directory, rest) = output.split_once('\n').unwrap();
    assert_eq!(rest, "./run.sh 0\ncontent\n");
    assert_eq!(Path::new(directory).parent(), Some(&*client.data.canonicalize().unwrap()));
}

#[test]
fn stdin_is_empty_and_the_streams_and_the_exit_code_go_to_files() {
    let client = Client::start();
    let script = "#!/bin/sh\nreadlink /proc/self/fd/0\ncat | wc -c\necho told >&2\nprintf 'no line end'\n";
    let answer = client.result(&client.run(script));
    assert_eq!(answer.file(".orchestrator.out"), "/dev/null\n0\nno line end");
    assert_eq!(answer.file(".orchestrator.err"), "told\n");
    assert_eq!(answer.file(".orchestrator.exit").trim(), "0");
}

#[test]
fn a_script_may_write_the_exit_code_by_a_trap_of_its_own() {
    let client = Client::start();
    for code in [0, 3] {
        let script =
            format!("#!/bin/bash\nset -e\ntrap 'echo $? > .orchestrator.exit' EXIT\necho on\nexit {code}\n");
        let id = client.run(&script);
        let answer = client.ended(&id);
        let status = if code == 0 { None } else { Some("Failed") };
        assert_eq!(answer.json("status").as_deref(), status);
        let files = client.get(&format!("/retrieve_partial/{id}"));
        assert_eq!(files.file(".orchestrator.exit").trim(), code.to_string());
        assert_eq!(files.file(".orchestrator.out"), "on\n");
    }
}

#[test]
fn a_script_without_an_interpreter_line_is_run_by_bash_or_where_there_is_none_by_sh() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = nowhere.path().to_str().unwrap();
    let bash = wait_for("bash", || {
        let directories = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<_>>();
        directories.into_iter().map(|directory| directory.join("bash")).find(|bash| bash.exists())
    });
    for (client, shell, script) in [
        (Client::start(), bash.as_path(), "a=(1 2); [[ x == x ]] && echo \"$0 $# ${#a[@]}\"\n"),
        (Client::with(&[("PATH", path)]), Path::new("/bin/sh"), "echo \"$0 $# 2\"\n"),
    ] {
        let id = client.run(&format!("{script}/bin/readlink /proc/$$/exe\n"));
        let resolved = fs::canonicalize(shell).unwrap();
        let answer = client.result(&id);
        assert_eq!(answer.file(".orchestrator.out"), format!("./run.sh 0 2\n{}\n", resolved.display()));
        client.wait_for_log(&format!("a shell runs it payload={id} shell={}", shell.display()));
    }
}

#[test]
fn a_script_that_would_be_run_wrongly_is_not_run_and_the_reason_is_named() {
    let client = Client::start();
    let long = |length: usize| format!("#!/bin/sh -{}", "e".repeat(length - 11)).into_bytes();
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (script, reason) in [
        (Vec::new(), "run.sh is empty"),
        (b"\xEF\xBB\xBF#!/bin/sh\necho on\n".to_vec(), "byte order mark (UTF-8)"),
        (utf_16("\u{feff}#!/bin/sh\necho on\n"), "byte order mark (UTF-16)"),
        (utf_16("#!/bin/sh\necho on\n"), "UTF-16"),
        (
            "\u{feff}#!/bin/sh\n".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
            "byte order mark (UTF-32)",
        ),
        // The kernel would run this one, with half of its argument.
        ([&long(400)[..], b"\necho on\n"].concat(), "longer than the kernel reads, 255 bytes"),
        ([&long(256)[..], b"\necho on\n"].concat(), "longer than the kernel reads, 255 bytes"),
        ([b"#!/", &[b'x'; 300][..], b"\necho on\n"].concat(), "longer than the kernel reads, 255 bytes"),
    ] {
        let error = failure(&client, &script);
        assert!(error.contains(reason), "{reason}: {error}");
    }
    // One that just fits.
    let answer = client.result(&client.submit(&[("run.sh", &[&long(255)[..], b"\necho on\n"].concat())]));
    assert_eq!(answer.file(".orchestrator.out"), "on\n");
}

#[test]
fn a_shell_that_this_system_has_not_is_told_with_what_to_do() {
    let client = Client::start();
    // As /bin/sh is missing in an image FROM scratch.
    if Path::new("/bin/ash").exists() {
        return println!("skipped: there is a /bin/ash here");
    }
    let error = failure(&client, b"#!/bin/ash\necho on\n");
    assert!(error.contains("/bin/ash, and this system has none; use an image that has one"), "{error}");
}

#[test]
fn payloads_have_the_limits_that_the_client_was_started_with() {
    // Soft and hard ones, as bash tells them, and what the kernel ignores for them.
    let look = "ulimit -Sa; ulimit -Ha; grep SigIgn /proc/self/status";
    let set = "ulimit -Sn 300; ulimit -Sc 0; ulimit -Sf 5000; ulimit -Su 5000";
    for ignored in ["", "trap '' XFSZ; "] {
        let prepared = format!("{set}; {ignored}exec \"$@\"");
        let own = Command::new("bash").args(["-c", &prepared, "bash", "bash", "-c", look]).output().unwrap();
        let own = String::from_utf8(own.stdout).unwrap();
        let client = Client::through(&["bash", "-c", &prepared, "bash"]);
        let limits = fs::read_to_string(format!("/proc/{}/limits", client.pid())).unwrap();
        let raised = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert!(!raised.contains(" 300 "), "the client's own limit is raised: {raised}");
        let seen = client.result(&client.run(&format!("#!/bin/bash\n{look}\n"))).file(".orchestrator.out");
        // SIGPIPE and others may be ignored here; a payload has them at their default.
        let without_signals = |text: &str| {
            text.lines().filter(|line| !line.starts_with("SigIgn")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without_signals(&seen), without_signals(&own));
        let mask = seen.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        let of_file_size = if ignored.is_empty() { 0 } else { 1 << (25 - 1) };
        // The C library keeps the first real-time signals to itself, also from the client.
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff, of_file_size);
    }
}

#[test]
fn run_sh_may_be_a_program() {
    let client = Client::start();
    let answer = client.result(&client.submit(&[("run.sh", &fs::read("/bin/pwd").unwrap())]));
    assert!(answer.file(".orchestrator.out").starts_with('/'));
    let failing = client.result(&client.submit(&[("run.sh", &fs::read("/bin/false").unwrap())]));
    assert_eq!(failing.json("exit_code").as_deref(), Some("1"));
}

#[test]
fn helpers_beside_run_sh_are_executable_and_data_is_not() {
    let client = Client::start();
    let id = client.submit(&[
        ("run.sh", b"#!/bin/sh\n./tool && ./program && ! [ -x data ]\n"),
        ("tool", b"#!/bin/sh\nexit 0\n"),
        ("program", &fs::read("/bin/true").unwrap()),
        ("data", b"x"),
    ]);
    let loc = client.loc(&id);
    assert_eq!(client.result(&id).file(".orchestrator.exit").trim(), "0");
    for (file, mode) in [("run.sh", 0o755), ("tool", 0o755), ("program", 0o755), ("data", 0o644)] {
        assert_eq!(fs::metadata(loc.join(file)).unwrap().permissions().mode() & 0o7777, mode, "{file}");
    }
}

#[test]
fn the_environment_has_what_a_script_needs_and_no_secret() {
    let client = Client::through(&[
        "env",
        "-i",
        "LANG=C.UTF-8",
        "OMP_NUM_THREADS=2",
        "PATH=/usr/bin:/bin:/opt/tools",
        "EMPTY=",
        "HOME=/root",
        "PWD=/somewhere",
        "OLDPWD=/somewhere",
        "PAYLOAD_ID=9",
        "PAYLOAD_DIR=/somewhere",
        "GITHUB_TOKEN=x",
        "DB_PASSWORD=x",
        "AWS_SECRET_ACCESS_KEY=x",
        "api_key=x",
        "NOTIFY_SOCKET=/run/x",
        "LISTEN_FDS=1",
        "LISTEN_PID=1",
        "INVOCATION_ID=x",
        "CREDENTIALS_DIRECTORY=/x",
        "PORT=1",
        "HOST=::1",
        "DATA_PATH=/nowhere",
        "MAX_JOBS=2",
        "KILL_GRACE=1",
        "LOG=debug",
        "DB_PATH=/x",
    ]);
    let id = client.run("#!/bin/sh\ncat /proc/$$/environ > environment\n");
    let environment = client.result(&id).file("environment");
    let loc = client.directories()[0].canonicalize().unwrap().display().to_string();
    let mut variables: Vec<&str> = environment.split_terminator('\0').collect();
    variables.sort_unstable();
    let of_temporary = variables.iter().position(|variable| variable.starts_with("TMPDIR=/"));
    variables.remove(of_temporary.unwrap());
    assert_eq!(
        variables,
        [
            "EMPTY=",
            &format!("HOME={loc}"),
            "LANG=C.UTF-8",
            "OMP_NUM_THREADS=2",
            "PATH=/usr/bin:/bin:/opt/tools",
            &format!("PAYLOAD_DIR={loc}"),
            &format!("PAYLOAD_ID={id}"),
            &format!("PWD={loc}"),
        ]
    );
}

#[test]
fn a_client_without_a_path_gives_its_payloads_one() {
    let client = Client::through(&["env", "-i"]);
    let answer = client.result(&client.run("#!/bin/sh\ncat /proc/$$/environ > environment\nls /usr\n"));
    let environment = answer.file("environment");
    let path = environment.split('\0').find_map(|variable| variable.strip_prefix("PATH=")).unwrap();
    for directory in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"] {
        assert!(path.split(':').any(|part| part == directory), "{path}");
    }
}

#[test]
fn a_payload_leads_a_session_and_a_group_of_its_own() {
    let client = Client::with(&[("SANDBOX", "off")]);
    let id =
        client.run("#!/bin/sh\ncat /proc/$$/stat > stat.new\nmv stat.new stat\nwhile :; do sleep 1; done\n");
    let stat = line_of(&client.wait_for_file(&id, "stat"));
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // It may be told a moment after the start.
    let told = client.retrieve_when(&id, |answer| answer.json("pid").as_deref() != Some("0"));
    let pid = told.json("pid").unwrap();
    assert_eq!(stat.split(' ').next(), Some(&*pid));
    assert_eq!(fields[1], client.pid().to_string(), "parent");
    assert_eq!(fields[2], pid, "process group");
    assert_eq!(fields[3], pid, "session");
    assert_eq!(fields[4], "0", "terminal");
}

#[test]
fn a_payload_starts_with_an_empty_mask_and_default_handlers() {
    // What a client may be started with by a careless parent: signals ignored, and one blocked.
    let wrapper = ["env", "--ignore-signal=HUP,PIPE,INT,TERM,USR2", "--block-signal=USR1,HUP"];
    let client = Client::through(&wrapper);
    let answer = client.result(&client.run(STATUS));
    assert_eq!(status_field(&answer, "SigBlk"), "0000000000000000");
    let ignored = u64::from_str_radix(&status_field(&answer, "SigIgn"), 16).unwrap();
    // 32 and 33 are the C library's own: glibc gives them to spawned children as it likes.
    let of_the_library = 0b11 << 31;
    assert_eq!(ignored & !of_the_library, 0, "{ignored:#x}");
}

/// The kernel reaps the children of a process that ignores SIGCHLD, and does not tell it (wait(2)).
#[test]
fn a_client_that_was_started_with_sigchld_ignored_sees_its_payloads_end() {
    let client = Client::through(&["env", "--ignore-signal=CHLD"]);
    let answer = client.result(&client.run(&format!("{STATUS}sleep 0.1\n")));
    assert_eq!(answer.file(".orchestrator.exit").trim(), "0");
    assert_eq!(u64::from_str_radix(&status_field(&answer, "SigIgn"), 16).unwrap() >> 16 & 1, 0);
}

#[test]
fn a_payload_gets_no_descriptor_but_the_first_three() {
    let script = "exec 7</dev/null 9>/dev/null 123</; exec \"$@\"";
    let client = Client::through(&["bash", "-c", script, "bash"]);
    // Only root can look: the client is closed to others of its user.
    if let Ok(own) = fs::read_dir(format!("/proc/{}/fd", client.pid())) {
        let own: Vec<String> =
            own.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        assert!(own.contains(&"123".to_owned()), "the client was not started as it should be: {own:?}");
    }
    // A shell that reads a script has that open too; one with -c has not.
    let answer = client.result(&client.run("#!/bin/sh\nexec sh -c 'ls /proc/$$/fd; true'\n"));
    assert_eq!(answer.file(".orchestrator.out"), "0\n1\n2\n");
}

#[test]
fn a_payload_may_use_all_the_cpus_that_the_client_was_given() {
    let own = field_of(&fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed");
    let client = Client::start();
    // Of several, so that one of them comes from each worker.
    let ids: Vec<String> = (0..8).map(|_| client.run(STATUS)).collect();
    for id in ids {
        assert_eq!(status_field(&client.result(&id), "Cpus_allowed"), own);
    }
}

#[test]
fn a_payload_has_the_priority_that_the_client_was_given() {
    // The threads that take uploads have a lower one.
    let client = Client::through(&["nice", "-n", "3"]);
    let own = rustix::process::getpriority_process(None).unwrap();
    for id in [client.run("nice"), client.run("nice")] {
        assert_eq!(client.result(&id).file(".orchestrator.out"), format!("{}\n", (own + 3).min(19)));
    }
}

#[test]
fn there_are_as_many_slots_as_usable_cpus() {
    let usable = std::thread::available_parallelism().unwrap();
    wait_for("start line", || Client::start().log().contains(&format!("slots={usable}")).then_some(()));
    let one = Client::through(&["taskset", "-c", "0"]);
    assert!(one.log().contains("slots=1 "), "{}", one.log());
    let answer = one.result(&one.run(STATUS));
    assert_eq!(status_field(&answer, "Cpus_allowed_list"), "0");
}

#[test]
fn a_payload_without_run_sh_is_invalid() {
    let client = Client::start();
    let answer =
        client.result(&client.submit(&[("other.sh", b"#!/bin/sh\n"), ("sub/run.sh", b"#!/bin/sh\n")]));
    assert_eq!((answer.status, answer.json("status").as_deref()), (200, Some("Invalid")));
    assert!(answer.json("error").unwrap().contains("run.sh"), "{}", answer.text());
    assert_eq!(answer.json("pid").as_deref(), Some("0"));
}

#[test]
fn a_missing_interpreter_is_named() {
    let client = Client::start();
    for script in ["#!/no/such/interpreter -x\n", "#! /no/such/interpreter\n", "#!/no/such/interpreter"] {
        let error = failure(&client, script.as_bytes());
        assert!(error.contains("/no/such/interpreter,"), "{script:?}: {error}");
    }
    let windows = failure(&client, b"#!/bin/sh\r\necho on\r\n");
    // Once as JSON escapes it.
    assert!(windows.contains("CRLF"), "{windows}");
}

#[test]
fn a_command_that_env_cannot_find_is_a_failure_with_its_exit_code() {
    let client = Client::start();
    let id = client.run("#!/usr/bin/env no-such-interpreter\n");
    let answer = client.result(&id);
    assert_eq!(answer.json("exit_code").as_deref(), Some("127"));
    let told = client.get(&format!("/retrieve_partial/{id}")).file(".orchestrator.err");
    assert!(told.contains("no-such-interpreter"), "{told}");
}

#[test]
fn an_interpreter_that_may_not_run_is_a_failure_that_says_so() {
    let client = Client::start();
    let error = failure(&client, b"#!/etc/passwd\n");
    assert!(error.contains("not executable"), "{error}");
}

#[test]
fn a_directory_in_the_place_of_run_sh_is_a_failure_that_says_so() {
    let client = Client::start();
    let answer = failed(&client, &[("run.sh/inner", b"x")]);
    let error = answer.json("error").unwrap();
    assert!(error.contains("directory"), "{error}");
}

#[test]
fn a_program_for_another_machine_is_a_failure_that_says_so() {
    let client = Client::start();
    let mut program = fs::read("/bin/true").unwrap();
    program[18] ^= 0x55; // e_machine, elf(5)
    let error = failure(&client, &program);
    assert!(error.contains("another kind of processor"), "{error}");
    let damaged = failure(&client, b"\x7fELF");
    assert!(damaged.contains("damaged"), "{damaged}");
}

#[test]
fn a_program_without_its_loader_is_a_failure_that_says_so() {
    let client = Client::start();
    let mut program = fs::read("/bin/true").unwrap();
    let Some(at) = program.windows(7).position(|window| window == b"/ld-lin") else {
        return println!("skipped: /bin/true has no dynamic loader here");
    };
    program[at..at + 7].copy_from_slice(b"/no-lin");
    let error = failure(&client, &program);
    assert!(error.contains("loader"), "{error}");
}

#[test]
fn a_payload_that_cannot_start_gives_its_slot_back() {
    let client = Client::with(&[("MAX_JOBS", "1")]);
    for _ in 0..5 {
        failure(&client, b"#!/no/such/interpreter\n");
    }
    assert_eq!(client.result(&client.run("exit 0")).file(".orchestrator.exit").trim(), "0");
    assert_eq!((client.health("running"), client.health("waiting")), (0, 0));
}
