//! One real server and one client, wired to each other, in a temporary directory of their own.
//! Dropping a `Rig` kills and reaps both and removes the directory, which also ends the jobs that wait on its hold.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ample for anything but a large transfer: the server asks its clients twice a second.
pub const SOON: Duration = Duration::from_mins(1);

/// How the two are told to work together.
pub struct Wiring {
    /// Jobs the server hands to the client at once; the rest stay queued at the server.
    pub max_runs: u16,
    /// Jobs the client runs at once; the rest wait at the client. Its own default is one per CPU.
    pub max_jobs: Option<u16>,
    /// `user:password@` or nothing, in front of the client's address.
    pub credentials: &'static str,
    /// What the client wants callers to know.
    pub token: Option<&'static str>,
    /// Where jobs find programs before they look elsewhere.
    pub programs: Option<PathBuf>,
    /// The data of a second client, for a service `second`.
    pub second: Option<PathBuf>,
}

impl Default for Wiring {
    fn default() -> Self {
        Self { max_runs: 50, max_jobs: None, credentials: "", token: None, programs: None, second: None }
    }
}

/// A running pair. The order of the fields is the order of their end.
pub struct Rig {
    server: Daemon,
    client: Mutex<Daemon>,
    second: Option<Daemon>,
    wiring: Wiring,
    dir: TempDir,
}

impl Rig {
    pub fn start() -> Self {
        Self::wired(Wiring::default())
    }

    pub fn wired(wiring: Wiring) -> Self {
        let dir = tempfile::Builder::new().prefix("client-under-server.").tempdir().unwrap();
        let client = start_client(dir.path(), free_port(), &wiring);
        let second = wiring.second.as_ref().map(|data| start_second(dir.path(), free_port(), data));
        let ports = [Some(client.port), second.as_ref().map(|daemon| daemon.port)];
        let server = start_server(dir.path(), free_port(), &wiring, ports);
        Self { server, client: Mutex::new(client), second, wiring, dir }
    }

    /// Ends the client as a power cut would, and starts it again at the same address.
    pub fn restart_client(&self) {
        let mut client = self.client.lock().unwrap();
        client.end();
        *client = start_client(self.dir.path(), client.port, &self.wiring);
    }

    /// Where the client keeps its payloads.
    pub fn client_data(&self) -> PathBuf {
        self.dir.path().join("client")
    }

    /// What the client has logged so far.
    pub fn client_log(&self) -> String {
        fs::read_to_string(&self.client.lock().unwrap().log).unwrap()
    }

    pub fn second_port(&self) -> u16 {
        self.second.as_ref().expect("it was asked for").port
    }

    pub fn server_port(&self) -> u16 {
        self.server.port
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A line of shell that waits until `release`, or until this rig is gone.
    pub fn hold(&self) -> String {
        let hold = self.hold_path();
        File::create(&hold).unwrap();
        format!("while [ -e '{}' ]; do sleep 0.1; done", hold.display())
    }

    pub fn release(&self) {
        fs::remove_file(self.hold_path()).unwrap();
    }

    fn hold_path(&self) -> PathBuf {
        self.dir.path().join("hold")
    }
}

fn start_client(dir: &Path, port: u16, wiring: &Wiring) -> Daemon {
    let binary =
        binary_named_by("CLIENT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_job-orchestrator").into());
    let mut command = Command::new(binary);
    command.arg("client").env_clear().env("HOST", "127.0.0.1").env("DATA_PATH", made(dir.join("client")));
    if let Some(max_jobs) = wiring.max_jobs {
        command.env("MAX_JOBS", max_jobs.to_string());
    }
    if let Some(token) = wiring.token {
        command.env("TOKEN", token);
    }
    if let Some(programs) = &wiring.programs {
        let mut path = programs.clone().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
    }
    Daemon::start("client", dir, command, port)
}

fn start_second(dir: &Path, port: u16, data: &Path) -> Daemon {
    let binary =
        binary_named_by("CLIENT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_job-orchestrator").into());
    let mut command = Command::new(binary);
    command.arg("client").env_clear().env("HOST", "127.0.0.1").env("DATA_PATH", data);
    command.env("MIN_FREE", "0").env("DISK_TIMEOUT", "3s");
    Daemon::start("second", dir, command, port)
}

fn start_server(dir: &Path, port: u16, wiring: &Wiring, ports: [Option<u16>; 2]) -> Daemon {
    let binary = binary_named_by("JOB_ORCHESTRATOR_SERVER").expect(
        "JOB_ORCHESTRATOR_SERVER has to name the real server's binary: `.ci/peer-server` builds it and prints its path",
    );
    let max_runs = wiring.max_runs.to_string();
    let mut command = Command::new(binary);
    command
        .arg("server")
        .env_clear() // no proxy, and no service but the one below
        .env("DATA_PATH", made(dir.join("server")))
        .env("DB_PATH", dir.join("server.sqlite"));
    for (name, port) in ["EXAMPLE", "SECOND"].into_iter().zip(ports) {
        let Some(port) = port else { continue };
        let client = format!("http://{}127.0.0.1:{port}", wiring.credentials);
        command
            .env(format!("SERVICE_{name}_UPLOAD_URL"), format!("{client}/submit"))
            .env(format!("SERVICE_{name}_DOWNLOAD_URL"), format!("{client}/retrieve"))
            .env(format!("SERVICE_{name}_TERMINATE_URL"), format!("{client}/kill"))
            .env(format!("SERVICE_{name}_RUNS_PER_USER"), &max_runs)
            .env(format!("SERVICE_{name}_MAX_RUNS"), &max_runs);
    }
    Daemon::start("server", dir, command, port)
}

/// Absolute, since the daemons run in a directory of their own.
fn binary_named_by(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(variable)?);
    Some(path.canonicalize().unwrap_or_else(|e| panic!("{variable} names '{}': {e}", path.display())))
}

fn made(dir: PathBuf) -> PathBuf {
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A child that listens on `port`; what it logs is shown where a test fails.
struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    fn start(name: &str, dir: &Path, mut command: Command, port: u16) -> Self {
        let program = command.get_program().display().to_string();
        if !command.get_envs().any(|variable| variable.0 == "PATH") {
            command.env("PATH", env::var_os("PATH").unwrap_or_default());
        }
        let log = dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .env("PORT", port.to_string())
            .env("NO_COLOR", "1")
            .current_dir(dir) // the server's own client keeps its database in the working directory
            .stdin(process::Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|e| panic!("the {name} {program} does not start: {e}"));
        let mut daemon = Self { child, port, log };
        poll(&format!("the {name} listens"), SOON, || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the {name} {program} ended before it listened: {status}");
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        daemon
    }

    fn end(&mut self) {
        // Both fail only where the child has ended and was reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log
                .lines()
                .filter(|line| !line.contains(" processing request ")) // the server's, two for each
                .collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("--- the end of {} ---\n{tail}", self.log.display());
        }
    }
}

/// A port that nothing listens on. The server cannot be asked for the port that it took, so port 0 is of no use here.
/// Each number is given once in this process, and lies below those the kernel takes for outgoing connections.
fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(process::id() % 100).unwrap() * 200;
    loop {
        let port = start + GIVEN.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// Asks until there is an answer; fails once `limit` is over.
pub fn poll<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
