//! The process: command line, settings, the start line, the log, the choice of the working directory, the health command.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use miniserde::json::{Object, Value};

use crate::client::{Client, binary, copy_program, wait_for};
use crate::wire;

const SETTINGS: &[&str] = &[
    "PORT",
    "HOST",
    "UNIX_MODE",
    "TOKEN",
    "TOKEN_FILE",
    "ALLOW_FROM",
    "DATA_PATH",
    "MAX_AGE",
    "MAX_JOBS",
    "TIME_LIMIT",
    "CPU_LIMIT",
    "MEMORY_LIMIT",
    "PIDS_LIMIT",
    "FILE_LIMIT",
    "JOB_CPUS",
    "KILL_GRACE",
    "LINGER",
    "RUN_AS",
    "GRACE",
    "MAX_UPLOAD",
    "MAX_QUEUE",
    "MIN_FREE",
    "MIN_FREE_INODES",
    "MAX_DISK",
    "MAX_LOAD",
    "MIN_MEMORY",
    "MAX_TEMPERATURE",
    "MAX_PRESSURE",
    "MAX_LOG",
    "SANDBOX",
    "ALLOW_READ",
    "ALLOW_WRITE",
    "NETWORK",
    "ZIP_THREADS",
    "RECOVER",
    "DURABLE",
    "MAX_CONNECTIONS",
    "HEAD_TIMEOUT",
    "IDLE_TIMEOUT",
    "STALL_TIMEOUT",
    "DISK_TIMEOUT",
    "LOG",
    "LOG_FORMAT",
    "DB_PATH",
];

/// What a run that ends by itself leaves.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// The one line that a mistake is told by.
    #[track_caller]
    fn complaint(&self, code: i32) -> &str {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        let line = self.err.strip_prefix("job-orchestrator: ").unwrap_or_else(|| panic!("{self:?}"));
        let line = line.strip_suffix('\n').unwrap_or_else(|| panic!("{self:?}"));
        assert!(!line.contains('\n'), "{self:?}");
        line
    }
}

/// Runs the program in an environment of these variables only. One that starts to serve is ended by `timeout`.
fn run<S: AsRef<OsStr>>(arguments: &[S], environment: &[(&str, &OsStr)]) -> Ended {
    let mut command = Command::new("timeout");
    command.args(["20"]).arg(binary()).args(arguments);
    command.env_clear().envs(environment.iter().copied()).current_dir("/");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn flag(name: &str) -> String {
    format!("--{}", name.to_lowercase().replace('_', "-"))
}

fn client_command(data: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(data);
    command
}

// --- command line

#[test]
fn help_and_version_go_to_standard_output_and_name_every_setting() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["client", "--help"],
        &["health", "--port", "1", "-h"],
        &["help"],
        &["help", "client"],
    ] {
        let ended = run(arguments, &[("PORT", OsStr::new("bad"))]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        for setting in SETTINGS {
            let line = ended.out.lines().find(|line| line.trim_start().starts_with(&format!("{setting} ")));
            let named = if *setting == "TOKEN" { setting.to_string() } else { flag(setting) };
            assert!(line.is_some_and(|line| line.contains(&format!("{named} "))), "{setting}: {}", ended.out);
        }
        let settings = ended.out.lines().filter_map(help_line).count();
        assert_eq!(settings, SETTINGS.len(), "{}", ended.out);
        assert!(ended.out.contains("Usage: job-orchestrator client"), "{}", ended.out);
    }
    for arguments in [&["--version"][..], &["-V"], &["client", "-V"]] {
        let ended = run(arguments, &[]);
        let expected = format!("job-orchestrator {} (client)\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((ended.code, ended.out, ended.err), (Some(0), expected, String::new()));
    }
}

#[test]
fn a_mistake_on_the_command_line_ends_with_2_and_one_line_that_names_it() {
    for (arguments, named) in [
        (&["client", "--prot", "1"][..], "--prot is not known: the flags are --port, --host, "),
        (&["client", "--prot=1"], "--prot is not known"),
        (&["client", "--Port", "1"], "--Port is not known: --port is"),
        (&["client", "--max_age", "1"], "--max_age is not known: --max-age is"),
        (&["client", "--max-job=3"], "--max-job is not known: --max-jobs is"),
        (&["client", "-p", "1"], "-p is not known"),
        (&["client", "--port"], "--port"),
        (&["health", "--prot", "1"], "--prot is not known"),
        (&["server"], "server is not a command: it is one of client, health, help"),
        (&["client", "9000"], "9000 is one word too many: settings are given as flags (client --port 9000)"),
        (&["client", "health"], "health is one word too many"),
        (&[], "a command is missing: it is one of client, health"),
    ] {
        let ended = run(arguments, &[]);
        assert!(ended.complaint(2).contains(named), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn a_mistake_stays_on_its_line_whatever_is_in_it() {
    for arguments in [
        &[&b"client"[..], b"--no\nline", b"1"][..],
        &[b"cli\nent"],
        &[b"client", b"now\x1b[31m"],
        &[b"\xff\n"],
        &[b"client", b"--\xff\n=1"],
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(|bytes| OsStr::from_bytes(bytes)).collect();
        let ended = run(&arguments, &[]);
        assert!(!ended.complaint(2).contains(char::is_control), "{ended:?}");
    }
}

#[test]
fn a_bad_value_ends_with_2_and_one_line_that_names_setting_and_value_and_rule() {
    for (name, values, rule) in [
        ("PORT", &["abc", "65536", "-1", "80 ", "0x50", "9000/tcp"][..], "a port number, 0 to 65535"),
        (
            "HOST",
            &["localhost", "1.2.3", "127.0.0.1:80", "[::1]"],
            "an IP address without brackets, such as 127.0.0.1",
        ),
        ("MAX_AGE", &["0", "-1", "1.5", "1w", "4294967296"], "a time from 1ms, such as 90 or 90s"),
        ("MAX_JOBS", &["0", "-1", "65536", "two"], "a whole number, 1 to 65535"),
        ("TIME_LIMIT", &["-1", "1H", "x"], "a time, such as 0, 90 or 90s, 500ms, 15m"),
        ("KILL_GRACE", &["-1", "x"], "a time, such as 0, 90"),
        ("GRACE", &["-1", "x"], "a time, such as 0, 90"),
        (
            "MAX_UPLOAD",
            &["-1", "1g", "1e9", "99999999999999999999"],
            "a number of bytes, such as 0, 1048576, 512K",
        ),
        ("MAX_CONNECTIONS", &["0", "16385", "many"], "a whole number, 1 to 16384"),
        ("HEAD_TIMEOUT", &["0", "x"], "a time from 1ms, such as 90"),
        ("IDLE_TIMEOUT", &["0", "x"], "a time from 1ms, such as 90"),
        ("STALL_TIMEOUT", &["0", "x"], "a time from 1ms, such as 90"),
        ("LOG", &["verbose", "INFO", "3"], "one of error, warn, info, debug"),
        ("LOG_FORMAT", &["xml", "JSON"], "one of text, json"),
    ] {
        for value in values {
            let ended = run(&["client"], &[(name, OsStr::new(value))]);
            let expected = format!("{name}={value} is not accepted: it takes {rule}");
            assert!(ended.complaint(2).starts_with(&expected), "{ended:?}");
            let flag = flag(name);
            // The flag is the one that is named, since it is the one that counts.
            let ended = run(&["client".to_owned(), format!("{flag}={value}")], &[(name, OsStr::new("1"))]);
            let expected = format!("{flag}={value} is not accepted: it takes {rule}");
            assert!(ended.complaint(2).starts_with(&expected), "{ended:?}");
        }
    }
    // The health command reads the same settings.
    assert!(run(&["health", "--port", "x"], &[]).complaint(2).starts_with("--port=x is not accepted"));
}

#[test]
fn a_bad_value_stays_on_its_line_whatever_is_in_it() {
    for value in [&b"1\n2"[..], b"\x1b[31m1", b"1\r", b"\xff\xfe", b"1\nPORT=2 is not accepted: it takes it"]
    {
        for name in ["PORT", "LOG", "MAX_UPLOAD", "DATA_PATH"] {
            // A path may be anything: this one cannot be made.
            let path = [b"/proc/", value].concat();
            let value = if name == "DATA_PATH" { &path } else { value };
            // The address is taken before a path is looked at.
            let address = [("PORT", OsStr::new("0")), ("HOST", OsStr::new("127.0.0.1"))];
            let ended = run(&["client"], &[&address[..], &[(name, OsStr::from_bytes(value))]].concat());
            let line = ended.complaint(2);
            assert!(line.starts_with(&format!("{name}=")), "{ended:?}");
            assert!(!line.contains(char::is_control), "{ended:?}");
        }
    }
}

#[test]
fn a_flag_wins_and_an_empty_value_is_none() {
    let home = tempfile::tempdir().unwrap();
    let mut command = client_command(&home.path().join("flag"));
    command.env("PORT", "bad").env("DATA_PATH", "/proc/no").args(["--max-jobs", "7", "--max-jobs=3"]);
    command.env("MAX_AGE", "").env("LOG", "").env("SOME_OTHER_SETTING", "x").env("MAX_JOBS", "5");
    let client = Client::spawn(command, &home.path().join("flag"));
    assert!(client.log().contains(" slots=3 "), "{}", client.log());
    assert!(client.log().contains("/flag "), "{}", client.log());
    assert_eq!(client.get("/").status, 200);
}

/// The words of a line of the help: name, flag and default.
fn help_line(line: &str) -> Option<(&str, &str)> {
    let name = line.strip_prefix("  ")?.split(' ').next()?;
    let (_, default) = line.strip_suffix(']')?.rsplit_once(" [")?;
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_').then_some((name, default))
}

#[test]
fn the_table_of_the_documents_has_the_settings_and_defaults_of_the_help() {
    let help = run(&["help"], &[]).out;
    let of_help: Vec<_> = help.lines().filter_map(help_line).collect();
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `")).map(|row| row.replace('`', ""));
    let rows: Vec<_> = rows.collect();
    let of_document = rows.iter().map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        (cells.next().unwrap(), cells.next().unwrap())
    });
    assert_eq!(of_document.collect::<Vec<_>>(), of_help);
    assert_eq!(of_help.iter().map(|line| line.0).collect::<Vec<_>>(), SETTINGS);
}

/// The bounds of a line of the help, or its words: what stands in the last parentheses.
fn bounds_of(line: &str) -> Option<Vec<String>> {
    let (bounds, _) = line.strip_suffix(']')?.rsplit_once(") [")?;
    let (_, bounds) = bounds.rsplit_once(" (")?;
    let is_number = bounds.starts_with(|first: char| first.is_ascii_digit()) || bounds.starts_with("from ");
    let words = || bounds.replace(" or ", ", ").split(", ").map(|word| format!("`{word}`")).collect();
    Some(if is_number { vec![bounds.to_owned()] } else { words() })
}

#[test]
fn the_help_tells_bounds_and_words_and_the_table_of_the_documents_tells_the_same() {
    let help = run(&["help"], &[]).out;
    let bounds: Vec<_> = help
        .lines()
        .filter_map(|line| Some((line.strip_prefix("  ")?.split(' ').next()?, bounds_of(line)?)))
        .collect();
    for (setting, told) in [
        ("LOG", &["`error`", "`warn`", "`info`", "`debug`"][..]),
        ("LOG_FORMAT", &["`text`", "`json`"]),
        ("RECOVER", &["`on`", "`off`"]),
        ("DURABLE", &["`on`", "`soon`", "`off`"]),
        ("MAX_LOG", &["from 1024"]),
        ("MAX_CONNECTIONS", &["1 to 16384"]),
    ] {
        let found = bounds.iter().find(|(name, _)| *name == setting);
        assert!(found.is_some_and(|(_, bounds)| bounds[..] == *told), "{setting}: {found:?}");
    }
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    for (setting, told) in bounds {
        let row = document.lines().find(|line| line.starts_with(&format!("| `{setting}` |"))).unwrap();
        for bound in told {
            assert!(row.contains(&bound), "{setting} has {bound}: {row}");
        }
    }
}

#[test]
fn a_misspelt_setting_is_told_at_the_start_and_what_is_none_is_not() {
    let client = Client::with(&[("MAX_JOB", "3"), ("MAX_JOBS", "2"), ("LANG", "C"), ("HOME", "/root")]);
    let log = client.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("its name is nearly one")).collect();
    assert!(matches!(told[..], [line] if line.ends_with(" name=MAX_JOB meant=MAX_JOBS")), "{log}");
    assert!(log.contains(" slots=2 "), "{log}");
}

#[test]
fn errors_of_the_start_obey_the_log_format() {
    let json = [("LOG_FORMAT", OsStr::new("json"))];
    for (arguments, named) in [
        (&["client", "--port=x"][..], "--port=x is not accepted"),
        (&["client", "9000"], "9000 is one word too many"),
        (&["client", "--data-path=/dev/null/x", "--port=0"], "DATA_PATH=/dev/null/x"),
        (&["health", "--port=1", "--host=127.0.0.1"], "no client answers"),
    ] {
        let ended = run(arguments, &json);
        let line: Object =
            miniserde::json::from_str(ended.err.trim_end()).unwrap_or_else(|_| panic!("{ended:?}"));
        let Some(Value::String(error)) = line.get("error") else { panic!("{ended:?}") };
        assert!(error.starts_with(named) && ended.code != Some(0), "{ended:?}");
    }
    // A flag counts as well as the variable does.
    let ended = run(&["client", "--log-format=json", "--port=x"], &[]);
    assert!(ended.err.starts_with('{'), "{ended:?}");
}

#[test]
fn an_address_that_cannot_be_had_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (host, port, named) in [
        ("127.0.0.1", &*port, "another program listens there: end it, or choose another PORT"),
        ("192.0.2.1", "0", "this machine has no such address: choose another HOST"),
    ] {
        let path = format!("--data-path={}", data.display());
        let ended = run(&["client", "--host", host, "--port", port, &path], &[]);
        assert!(ended.code == Some(1) && ended.err.contains(named), "{ended:?}");
    }
}

// --- start

#[test]
fn the_start_line_tells_version_address_directory_and_slots() {
    let client = Client::with(&[("MAX_JOBS", "3"), ("LOG", "error")]);
    // At any level it is there, and at this one it is all.
    let log = client.log();
    let path = fs::canonicalize(&client.data).unwrap();
    let (address, version) = (client.address, env!("CARGO_PKG_VERSION"));
    let expected = format!(
        " INFO client listening version={version} address={address} data_path={} slots=3 enforced=",
        path.display()
    );
    assert!(log.contains(&expected) && log.lines().count() == 1, "{log}");
    assert_ne!(address.port(), 0);
    client.result(&client.run("true"));
    assert_eq!(client.get("/nothing").status, 404);
    assert_eq!(client.log(), log);
}

#[test]
fn it_listens_on_the_address_that_it_is_given() {
    let home = tempfile::tempdir().unwrap();
    for (host, told, asked) in [
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
        ("::1", "[::1]", "::1"),
        ("::", "[::]", "::1"),
        ("::", "[::]", "127.0.0.1"),
        // The default.
        ("", "[::]", "127.0.0.1"),
    ] {
        if TcpListener::bind((asked, 0)).is_err() || TcpListener::bind("[::]:0").is_err() {
            println!("skipped: {asked} is no address here");
            continue;
        }
        let data = home.path().join(format!("{host}{asked}"));
        let mut command = Command::new(binary());
        command.args(["client", "--port=0", "--host", host, "--data-path"]).arg(&data);
        let client = Client::spawn(command, &data);
        assert!(client.log().contains(&format!("address={told}:")), "{}", client.log());
        let address = SocketAddr::new(asked.parse::<IpAddr>().unwrap(), client.address.port());
        assert_eq!(wire::call(address, "GET", "/").status, 200);
        let port = client.address.port().to_string();
        assert_eq!(run(&["health", "--host", host, "--port", &port], &[]).out, "ok\n");
        if host == "127.0.0.2" {
            std::net::TcpStream::connect(("127.0.0.1", client.address.port())).unwrap_err();
        }
    }
}

#[test]
fn without_ipv6_the_default_is_all_of_ipv4_and_the_start_line_says_so() {
    let (_home, data) = crate::client::place();
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "-e", "trace=socket", "-e", "inject=socket:error=EAFNOSUPPORT:when=1"]);
    if !command.arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: strace may not trace");
        return;
    }
    let mut command = Command::new("strace");
    // Its child is the tracer, so that it is the client that is ended.
    command.args(["-D", "-o", "/dev/null", "-e", "trace=socket"]);
    command.args(["-e", "inject=socket:error=EAFNOSUPPORT:when=1"]);
    command.arg(binary()).args(["client", "--port=0", "--data-path"]).arg(&data);
    let client = Client::spawn(command, &data);
    assert!(client.log().contains("address=0.0.0.0:"), "{}", client.log());
    let address = SocketAddr::from(([127, 0, 0, 1], client.address.port()));
    assert_eq!(wire::call(address, "GET", "/").status, 200);
}

#[test]
fn a_port_that_is_in_use_ends_with_1_and_one_line() {
    let home = tempfile::tempdir().unwrap();
    let client = Client::start();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    for (number, port) in [client.address.port(), other.local_addr().unwrap().port()].into_iter().enumerate()
    {
        for host in ["127.0.0.1", "0.0.0.0"] {
            let data = home.path().join(format!("{number}{host}"));
            let port = port.to_string();
            let arguments =
                ["client", "--host", host, "--port", &port, "--data-path", data.to_str().unwrap()];
            let ended = run(&arguments, &[]);
            let line = ended.complaint(1);
            assert!(line.starts_with(&format!("cannot listen on {host}:{port}: ")), "{ended:?}");
        }
    }
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn db_path_is_accepted_and_ignored_with_one_line() {
    let home = tempfile::tempdir().unwrap();
    let database = home.path().join("no/database.sqlite");
    let client = Client::with(&[("DB_PATH", database.to_str().unwrap())]);
    assert_eq!(client.log().matches("DB_PATH").count(), 1, "{}", client.log());
    client.result(&client.run("true"));
    assert!(!home.path().join("no").exists());
    assert_eq!(Client::start().log().matches("DB_PATH").count(), 0);
}

// --- the working directory

#[test]
fn the_data_path_is_made_with_its_parents_and_told_as_an_absolute_path() {
    let home = tempfile::tempdir().unwrap();
    let home = fs::canonicalize(home.path()).unwrap();
    for (given, made) in [
        ("a/b/c", "a/b/c"),
        ("./rel", "rel"),
        ("with space \u{e9}", "with space \u{e9}"),
        ("a/../a/b", "a/b"),
    ] {
        let mut command = client_command(Path::new(given));
        command.current_dir(&home);
        let data = home.join(made);
        let client = Client::spawn(command, &data);
        let shown = format!("data_path={}", data.display());
        assert!(client.log().replace('"', "").contains(&shown), "{}", client.log());
        let answer = client.get(&format!("/retrieve/{}", client.run("exit 1")));
        assert!(answer.json("loc").unwrap().starts_with(data.to_str().unwrap()), "{}", answer.text());
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o755, "{given}");
    }
}

#[test]
fn payloads_lie_in_directories_named_by_a_uuid_of_version_4() {
    let client = Client::start();
    let answer = wire::submit_form(client.address, &wire::form(&[("run.sh", b"true")]));
    let loc = answer.json("loc").unwrap();
    let (parent, name) = loc.rsplit_once('/').unwrap();
    assert_eq!(Path::new(parent), fs::canonicalize(&client.data).unwrap());
    let uuid = uuid::Uuid::try_parse(name).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.to_string().as_str()), (4, name));
    assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
}

#[test]
fn a_data_path_that_cannot_be_used_ends_with_2_and_one_line_and_no_other_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "precious").unwrap();
    let used = Client::start();
    for path in [&file, &file.join("sub"), Path::new("/proc/data"), Path::new("/dev/null"), &used.data] {
        let arguments = ["client", "--port", "0", "--host", "127.0.0.1"];
        let ended = run(&arguments, &[("DATA_PATH", path.as_os_str())]);
        let line = ended.complaint(2);
        // Only what is said helps: another client's directory can be made and written.
        let why = if *path == used.data {
            "cannot be used: another client uses it; give each its own"
        } else {
            "is not accepted: it takes a directory that can be made and written ("
        };
        let expected = format!("DATA_PATH={} {why}", path.display());
        assert!(line.starts_with(&expected), "{ended:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    used.must_be_well_and_empty("another client tried its directory");
}

#[test]
fn descriptors_that_are_used_up_are_no_fault_of_the_data_path() {
    let home = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for descriptors in 6..16 {
        let script = format!(r#"ulimit -n {descriptors}; exec timeout 2 "$@""#);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(binary());
        command.args(["client", "--host", "127.0.0.1", "--port", "0", "--data-path"]).arg(home.path());
        let output = command.output().unwrap();
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!line.contains("it takes a directory"), "{line}");
        if line.contains("cannot open DATA_PATH=") {
            assert!(line.contains("ulimit -n"), "{line}");
            told.push(output.status.code());
        }
    }
    assert!(!told.is_empty() && told.iter().all(|code| *code == Some(1)), "{told:?}");
}

/// Starts a client without DATA_PATH in `directory`, with an empty `/opt` of its own that `prepare` has seen. `None` where
/// that is not permitted, which the output tells.
fn with_own_opt(directory: &Path, prepare: &str, as_user: &str) -> Option<Client> {
    let probe = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/opt"]).output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Err(error) => {
            println!("skipped: unshare: {error}");
            return None;
        }
    }
    // The binary may lie where another user cannot reach it.
    let program = directory.join("program");
    copy_program(&binary(), &program);
    let script = format!(
        "mount -t tmpfs -o mode=755 tmpfs /opt && {prepare} && exec {as_user} \"$@\" client --port 0 --host 127.0.0.1"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(program)
        .current_dir(directory)
        .env_remove("DATA_PATH");
    Some(Client::spawn(command, &directory.join("data")))
}

const NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

#[test]
fn a_client_that_was_stopped_is_well_when_it_goes_on() {
    let client = Client::start();
    client.result(&client.run("true"));
    // Open already, so that the first thing that is done after the stop is to answer.
    let mut streams: Vec<_> = (0..64).map(|_| wire::connect(client.address)).collect();
    client.get("/health");
    client.signal("STOP");
    for stream in &mut streams {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    }
    // Longer than anything may take before it counts as stuck.
    thread::sleep(Duration::from_secs(13));
    client.signal("CONT");
    for stream in &mut streams {
        let answer = wire::read_answer(stream, false);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    client.result(&client.run("true"));
}

#[test]
fn without_a_data_path_it_is_opt_data_where_that_can_be_had_else_data() {
    for (prepare, as_user, chosen) in [
        ("true", "", "/opt/data"),
        ("mkdir /opt/data", "", "/opt/data"),
        // In the way, and of no use.
        ("touch /opt/data", "", "./data"),
        ("true", NOBODY, "./data"),
        ("mkdir /opt/data", NOBODY, "./data"),
        ("mkdir -m 777 /opt/data", NOBODY, "/opt/data"),
    ] {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let Some(client) = with_own_opt(home.path(), prepare, as_user) else { return };
        let fallback = fs::canonicalize(home.path()).unwrap().join("data");
        let expected = if chosen == "./data" { fallback.to_str().unwrap() } else { chosen };
        assert!(client.log().contains(&format!(" data_path={expected} ")), "{prepare}: {}", client.log());
        assert_eq!(fallback.exists(), chosen == "./data", "{prepare}");
        let answer = client.result(&client.run("pwd"));
        assert!(answer.file(".orchestrator.out").starts_with(&format!("{expected}/")), "{prepare}");
    }
}

#[test]
fn a_default_data_path_that_another_client_has_is_not_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let prepare = "mkdir /opt/data && exec 9>/opt/data/.orchestrator.lock && flock -n 9 && \
                   if \"$1\" client --port 0 --host 127.0.0.1; then exit 3; else code=$?; ls -d data; exit $code; fi";
    let script = format!("mount -t tmpfs -o mode=755 tmpfs /opt && {prepare}");
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "-m", "sh", "-c", &script, "sh"]).arg(binary());
    let output = command.current_dir(home.path()).env_remove("DATA_PATH").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if told.contains("unshare:") || told.contains("mount:") {
        return println!("skipped: {told}");
    }
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("DATA_PATH=/opt/data cannot be used") && told.contains("another client uses it"),
        "{told}"
    );
    assert!(!home.path().join("data").exists());
}

#[test]
fn a_data_path_without_permission_is_not_accepted() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path().join("there")).unwrap();
    let program = home.path().join("program");
    copy_program(&binary(), &program);
    for path in ["made", "there"] {
        let data = home.path().join(path);
        let mut command = Command::new("setpriv");
        command.args(NOBODY.split(' ').skip(1)).args(["timeout", "20"]).arg(&program);
        let output = command.args(["client", "--port", "0", "--data-path"]).arg(&data).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.starts_with("setpriv:") {
            println!("skipped: {text}");
            return;
        }
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("(os error 13)") && text.contains(data.to_str().unwrap()), "{text}");
        let remedy = if path == "there" { "; chown 65534 " } else { "; mkdir -p " };
        assert!(text.contains("belongs to user 0, and the client runs as user 65534"), "{text}");
        assert!(text.contains(remedy), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_umask_that_closes_the_data_path_is_named() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.path().join("program");
    copy_program(&binary(), &program);
    let mut command = Command::new("setpriv");
    command.args(NOBODY.split(' ').skip(1)).args(["sh", "-c", "umask 0777; exec timeout 20 \"$@\"", "sh"]);
    command.arg(&program).args(["client", "--port", "0", "--data-path"]).arg(home.path().join("a/b"));
    let text = String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned();
    if text.starts_with("setpriv:") {
        return println!("skipped: {text}");
    }
    assert!(
        text.contains("/a has mode 000, as the umask of the client, 777, makes it; chmod u+rwx"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_data_path_that_is_no_directory_says_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let link = home.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (path, named) in [
        (Path::new("/dev/null"), "/dev/null is a device, not a directory"),
        (&link, "it is a link to nowhere, which is not there"),
    ] {
        let ended = run(&["client", "--port=0", "--host=127.0.0.1"], &[("DATA_PATH", path.as_os_str())]);
        assert!(ended.complaint(2).contains(named), "{ended:?}");
    }
}

#[test]
fn what_else_lies_in_the_data_path_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("precious");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    let old = home.path().join("2b1f6f0e-9a6c-4c1b-8d0e-0123456789ab");
    fs::create_dir(&old).unwrap();
    assert!(Command::new("touch").args(["-d", "2001-01-01"]).args([&kept, &old]).status().unwrap().success());
    let client = Client::at(home.path(), &[]);
    // One of an earlier life, and too old.
    wait_for("the removal of an old payload", || (!old.exists()).then_some(()));
    assert_eq!(fs::read(kept.join("file")).unwrap(), b"x");
    client.must_be_well_and_empty("a start in a used directory");
}

// --- log

#[test]
fn json_logs_are_one_object_a_line_whatever_a_sender_writes() {
    let client = Client::with(&[("LOG_FORMAT", "json"), ("LOG", "debug")]);
    client.result(&client.run("exit 1"));
    let mut body = Vec::new();
    wire::part(&mut body, "form-data; filename=\"/%0Aa%22b\\c\u{e9}\u{2028}\"", b"");
    wire::end_form(&mut body);
    assert_eq!(wire::submit_form(client.address, &body).status, 400);
    assert_eq!(client.get("/nothing\"\\{}").status, 404);
    wait_for("the lines", || {
        let log = client.log();
        ["payload ended", "upload refused", "/nothing"].iter().all(|line| log.contains(line)).then_some(())
    });
    let log = client.log();
    for line in log.lines() {
        let object: Object = miniserde::json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(
            matches!(&object["time"], Value::String(time) if time.ends_with('Z') && time.len() == 24),
            "{line}"
        );
        assert!(
            matches!(&object["level"], Value::String(level) if ["error", "warn", "info", "debug"].contains(&level.as_str())),
            "{line}"
        );
        assert!(matches!(&object["event"], Value::String(event) if !event.is_empty()), "{line}");
    }
    let start: Object = miniserde::json::from_str(log.lines().next().unwrap()).unwrap();
    assert!(matches!(&start["event"], Value::String(event) if event == "client listening"));
    let address = client.address.to_string();
    assert!(matches!(&start["address"], Value::String(told) if *told == address));
    assert!(matches!(&start["slots"], Value::Number(_)));
}

#[test]
fn text_logs_are_one_event_a_line_whatever_a_sender_writes() {
    let client = Client::with(&[("LOG", "debug")]);
    let mut body = Vec::new();
    wire::part(&mut body, "form-data; filename=\"/%0A2026-11-24T00:00:00.000Z ERROR forged\"", b"");
    wire::end_form(&mut body);
    assert_eq!(wire::submit_form(client.address, &body).status, 400);
    wait_for("the line", || client.log().contains("request answered").then_some(()));
    for line in client.log().lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        assert!(["INFO ", "WARN ", "DEBUG "].iter().any(|level| rest.starts_with(level)), "{line}");
    }
}

#[test]
fn each_level_tells_itself_and_the_graver_ones() {
    // Of each level but the gravest, one event that the run below causes.
    let events = [
        ("warn", " WARN upload refused"),
        ("info", " INFO payload ended"),
        ("debug", " DEBUG request answered"),
    ];
    for (position, level) in ["error", "warn", "info", "debug"].into_iter().enumerate() {
        let client = Client::with(&[("LOG", level)]);
        let mut empty = Vec::new();
        wire::end_form(&mut empty);
        assert_eq!(wire::submit_form(client.address, &empty).status, 400);
        client.result(&client.run("true"));
        client.get("/");
        for (number, (event_level, event)) in events.into_iter().enumerate() {
            if number < position {
                wait_for(event, || client.log().contains(event).then_some(()));
            } else {
                assert!(!client.log().contains(event), "{level} tells {event_level}: {}", client.log());
            }
        }
    }
}

#[test]
fn standard_output_stays_empty() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let mut command = client_command(&home.path().join("data"));
    command.stdout(fs::File::create(&out).unwrap());
    let mut client = Client::spawn(command, &home.path().join("data"));
    client.result(&client.run("echo out; echo err >&2"));
    client.signal("TERM");
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(fs::read(out).unwrap(), b"");
}

// --- health command

#[test]
fn the_health_command_says_ok_for_a_client_that_is_well_and_1_else() {
    let client = Client::start();
    let port = client.address.port().to_string();
    for arguments in [&["health", "--port", &port][..], &["health", "--host", "127.0.0.1", "--port", &port]] {
        let ended = run(arguments, &[]);
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), "ok\n", ""));
    }
    assert_eq!(run(&["health"], &[("PORT", OsStr::new(&port))]).code, Some(0));
    fs::remove_dir_all(&client.data).unwrap();
    wait_for("a bad report", || (client.get("/health").status == 503).then_some(()));
    let ended = run(&["health", "--port", &port], &[]);
    let line = ended.complaint(1);
    assert!(line.starts_with(&format!("the client on 127.0.0.1:{port} is not well: {{")), "{line}");
    assert!(line.contains(client.data.to_str().unwrap()), "{line}");
    drop(client);
    let ended = run(&["health", "--port", &port], &[]);
    assert!(ended.complaint(1).starts_with(&format!("no client answers on 127.0.0.1:{port}: ")), "{ended:?}");
}

#[test]
fn the_health_command_is_not_taken_in_by_something_else_on_the_port() {
    for reply in [
        "",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "200 ok\r\n",
        "SSH-2.0-OpenSSH\r\n\n\n",
        "\u{0}\u{1}",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let ended = run(&["health", "--port", &port], &[]);
        ended.complaint(1);
        other.join().unwrap();
    }
}
