//! A running client: the real binary, killed and reaped when the test ends, with its data in a temporary directory.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::{self, Answer};

/// How long anything may take that a test waits for; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the command line of a guard begins.
const GUARD: &[u8] = b"job-orchestrator\0guard\0";

/// How that of the keeper of a room begins.
const KEEPER: &[u8] = b"job-orchestrator\0keeper\0";

pub struct Client {
    child: Child,
    pub address: SocketAddr,
    pub data: PathBuf,
    log: Arc<Mutex<String>>,
    #[allow(dead_code)] // kept until the client is gone, for its Drop
    home: Option<tempfile::TempDir>,
}

/// The binary under test. `CLIENT_BINARY` names another build of it, such as a static one.
pub fn binary() -> PathBuf {
    std::env::var_os("CLIENT_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_job-orchestrator").into(), PathBuf::from)
}

/// A place for the data of several lives.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    (home, data)
}

/// Whether this is root, whose payloads have users of their own.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// These settings, and those by which a payload can do all that the client can.
pub fn uncontained<'s>(settings: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let as_client = [("SANDBOX", "off"), ("RUN_AS", if is_root() { "root" } else { "" })];
    settings.iter().copied().chain(as_client).collect()
}

/// Copies a program by another process: a child that one of the other tests starts at this moment would hold the copy open for
/// writing, and nobody could execute it.
pub fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-f").args([from, to]).status().unwrap().success());
}

impl Client {
    /// With defaults, on port 0 of the loopback address.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With these settings in the environment.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let mut client = Self::at(&data, settings);
        client.home = Some(home);
        client
    }

    /// With its data in this directory, which outlives it.
    pub fn at(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(data);
        command.envs(settings.iter().copied());
        Self::spawn(command, data)
    }

    /// By way of a program that runs another, such as `taskset -c 0` or `env -i`.
    pub fn through(wrapper: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(binary());
        command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
        let mut client = Self::spawn(command, &data);
        client.home = Some(home);
        client
    }

    /// By a command of the test's own, which must log its start line to standard error.
    pub fn spawn(mut command: Command, data: &Path) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("the client ended at its start: {:?}, {}", child.wait(), log.lock().unwrap());
            };
            keep(&log, &line);
            if line.contains("client listening") {
                let found = line.split(['=', ' ', '"', ',']).find_map(|word| word.parse().ok());
                // A Unix socket has none.
                let none = line.contains("unix:").then(|| SocketAddr::from(([0, 0, 0, 0], 0)));
                break found.or(none).unwrap_or_else(|| panic!("no address in {line}"));
            }
        };
        let collected = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                keep(&collected, &line);
            }
        });
        Self { child, address, data: data.to_owned(), log, home: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged this.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_for(text, || self.log().contains(text).then_some(()));
    }

    pub fn get(&self, path: &str) -> Answer {
        wire::call(self.address, "GET", path)
    }

    pub fn post(&self, path: &str) -> Answer {
        wire::call(self.address, "POST", path)
    }

    /// Submits files and gives the id.
    pub fn submit(&self, files: &[(&str, &[u8])]) -> String {
        let answer = wire::submit_form(self.address, &wire::form(files));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json("status").as_deref(), Some("Prepared"));
        answer.json("id").unwrap()
    }

    /// Submits one `run.sh` and gives the id.
    pub fn run(&self, script: &str) -> String {
        self.submit(&[("run.sh", script.as_bytes())])
    }

    /// Polls until the payload has ended and its end is noted, and gives that answer.
    pub fn result(&self, id: &str) -> Answer {
        let is_unnoted = |answer: &Answer| answer.status == 503 && answer.text().contains("\"not_noted\"");
        self.retrieve_when(id, |answer| answer.status != 202 && !is_unnoted(answer))
    }

    /// Polls until `condition` holds for the answer to `/retrieve`.
    pub fn retrieve_when(&self, id: &str, condition: impl Fn(&Answer) -> bool) -> Answer {
        let path = format!("/retrieve/{id}");
        wait_for(&path, || Some(self.get(&path)).filter(&condition))
    }

    /// Polls until no process of the payload is left and its end is noted, and gives that answer.
    pub fn ended(&self, id: &str) -> Answer {
        self.retrieve_when(id, |answer| {
            let is_zip = answer.header("content-type").as_deref() == Some("application/zip");
            answer.status == 200 && (is_zip || answer.json("finished_at").as_deref() != Some("null"))
        })
    }

    /// The directory of a payload that waits or runs.
    pub fn loc(&self, id: &str) -> PathBuf {
        self.get(&format!("/retrieve/{id}")).json("loc").unwrap().into()
    }

    /// A number out of `/health`.
    pub fn health(&self, field: &str) -> usize {
        self.get("/health").json(field).unwrap().parse().unwrap()
    }

    /// Waits until the payload runs, and its script has made the file `name`.
    pub fn wait_for_file(&self, id: &str, name: &str) -> PathBuf {
        let answer = self.retrieve_when(id, |answer| answer.json("status").as_deref() != Some("Prepared"));
        let path = Path::new(&answer.json("loc").unwrap()).join(name);
        wait_for(name, || path.exists().then(|| path.clone()))
    }

    /// The payload directories on disk.
    pub fn directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.data).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir() && path.file_name().unwrap() != ".orchestrator").collect()
    }

    /// Asserts that this same process still answers, and has no payload waiting or running.
    #[track_caller]
    pub fn must_be_well_and_empty(&self, after: &str) {
        let answer = self.get("/health");
        assert_eq!(answer.status, 200, "after {after}: {}", answer.text());
        for (field, value) in [("status", "ok"), ("waiting", "0"), ("running", "0")] {
            assert_eq!(answer.json(field).as_deref(), Some(value), "after {after}: {}", answer.text());
        }
    }

    pub fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// The process that ends its payloads if it is killed, once that has been started.
    pub fn guard(&self) -> Option<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<String> =
            lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        pids.into_iter().find(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(GUARD)
        })
    }

    /// Ends it without a word.
    pub fn kill(mut self) {
        self.signal("KILL");
        self.wait();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of the client", || child.try_wait().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Payloads are ended first, so that no test leaves a process behind: the first signal stops the client, the next one
        // ends everything at once. More than two, since two that arrive together count as one.
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- log of the client\n{}", self.log());
        }
    }
}

fn keep(log: &Mutex<String>, line: &str) {
    let mut log = log.lock().unwrap();
    log.push_str(line);
    log.push('\n');
}

/// Polls for something until it is there.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until the file `path` holds a whole line, and gives it.
pub fn line_of(path: &Path) -> String {
    wait_for(&path.display().to_string(), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_once('\n').map(|(line, _)| line.to_owned())
    })
}

/// Waits until the file `path` of a payload holds the pid that a process of it has for itself, and gives the one that it has here:
/// payloads may live in a PID namespace of their own.
pub fn pid_in(path: &Path) -> String {
    let inside = line_of(path);
    let directory = path.parent().unwrap().canonicalize().unwrap();
    let is_meant = |pid: &String| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let is_named = numbers.split_whitespace().last() == Some(&*inside);
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        is_named && cwd.is_ok_and(|cwd| cwd.starts_with(&directory))
    };
    // One that has ended meanwhile has none.
    all_pids().into_iter().find(is_meant).unwrap_or_else(|| format!("{inside} of {}", directory.display()))
}

/// The live processes that were started with the number of this payload in their environment.
pub fn processes_of(id: &str) -> Vec<String> {
    let marks = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == format!("PAYLOAD_ID={id}").as_bytes())
    };
    all_pids().into_iter().filter(|pid| is_alive(pid) && marks(pid)).collect()
}

/// The children of a process, its guard aside, each with the letter of its state, such as `Z`. One that is just being
/// started, and still looks like its parent, may become the guard and is left out too.
pub fn children_of(pid: u32) -> Vec<(String, char)> {
    let command_of = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = command_of(&pid.to_string());
    let child = |child: String| {
        let command = command_of(&child);
        // Of a zombie nothing can be read.
        let is_own = !command.is_empty() && command == own;
        // The client's guard and the keepers of its rooms are no payload's.
        if is_own || command.starts_with(GUARD) || command.starts_with(KEEPER) {
            return None;
        }
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == pid.to_string()).then_some((child, state))
    };
    all_pids().into_iter().filter_map(child).collect()
}

fn all_pids() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}
