//! Where attempts are made: a client of a user, payloads, files and services that others must not get at, and a process that
//! stands for the client outside of any. It runs scripts in there, and looks for the harm that they did.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::client::{Client, binary, copy_program, wait_for};
use crate::wire::{self, Answer};

/// Whose client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The one that runs the tests.
    Tester,
    /// One without an entry in passwd, which only root can become.
    Other(u32),
}

/// Root can be any user.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl User {
    pub fn is_root(self) -> bool {
        self == Self::Tester && is_root()
    }

    /// A program as this user: with all core dumps, files for others to write, and a descriptor too many, none of which a payload may get.
    pub fn command(self, program: &Path) -> Command {
        const OPEN_HANDED: &str = "umask 0; ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\" 9</dev/null";
        let mut command = if let Self::Other(id) = self {
            let id = id.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command.args(["-c", OPEN_HANDED, "sh"]).arg(program);
        command
    }

    fn give(self, path: &Path) {
        if let Self::Other(id) = self {
            chown(path, Some(id), Some(id)).unwrap();
        }
    }
}

/// `attempt.c`, compiled. `ATTEMPT` names the program where no compiler is.
pub fn attempt() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("ATTEMPT") {
            return program.into();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/escapes/attempt.c");
        // Other users have to reach it: the target directory may be in a home.
        let program = std::env::temp_dir().join(format!("job-orchestrator-attempt-{}", std::process::id()));
        let compiler = Command::new("cc").args(["-static", "-O1", "-o"]).args([&program, &source]).status();
        assert!(compiler.is_ok_and(|status| status.success()), "these tests need cc with a static libc");
        let kept = program.with_file_name("job-orchestrator-attempt");
        fs::rename(&program, &kept).unwrap();
        kept
    })
}

/// What a payload or a script beside left: its output, and all files.
pub struct Traces {
    pub output: String,
    pub files: Vec<(String, Vec<u8>)>,
    /// The payload as JSON, empty where a ZIP was the answer.
    pub json: String,
}

impl Traces {
    /// Whether it said so, or has what it must not know.
    pub fn show_escape(&self, secret: &str) -> bool {
        let has = |content: &[u8]| content.windows(secret.len()).any(|window| window == secret.as_bytes());
        let is_own = |name: &str| ["run.sh", "attempt"].contains(&name);
        self.output.lines().any(|line| line == "escaped")
            || has(self.output.as_bytes())
            || self.files.iter().any(|(name, content)| !is_own(name) && has(content))
    }
}

pub struct World {
    pub user: User,
    pub client: Client,
    /// With NETWORK=off.
    cut_off: Client,
    victim: RefCell<Victim>,
    done: Victim,
    stand_in: Child,
    /// All that can be read here and must not be.
    pub secret: String,
    token: String,
    services: Services,
    place: TempDir,
    home: Option<TempDir>,
    run: Option<TempDir>,
}

/// A payload that others try to get at.
#[derive(Clone)]
struct Victim {
    id: String,
    pid: String,
    directory: String,
}

struct Services {
    stream: u16,
    stream_6: Option<u16>,
    datagram: u16,
    abstract_name: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number that nobody else has: names files, keys and times.
pub fn tag() -> u32 {
    std::process::id() % 100_000 * 10_000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

impl World {
    /// `settings` are of both clients.
    pub fn new(user: User, settings: &[(&str, &str)]) -> Self {
        let place = if is_root() {
            fs::create_dir_all("/opt").unwrap();
            TempDir::new_in("/opt").unwrap()
        } else {
            TempDir::new().unwrap()
        };
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        user.give(place.path());
        let secret = format!("xyzzy{}{:08x}", tag(), fastrand::u32(..));
        let home =
            owned(user, if is_root() { Some("/home".into()) } else { std::env::var_os("HOME") }, &secret);
        let run = owned(
            user,
            if is_root() { Some("/run".into()) } else { std::env::var_os("XDG_RUNTIME_DIR") },
            &secret,
        );
        write_for(user, &place.path().join("token"), &secret);
        let services = Services::start(run.as_ref());
        let program = place.path().join("program");
        copy_program(&binary(), &program);
        if is_root() {
            let setuid = place.path().join("setuid");
            copy_program(attempt(), &setuid);
            fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
        }
        let start = |name: &str, more: &[(&str, &str)]| {
            let data = place.path().join(name);
            let mut command = user.command(&program);
            command.args(["client", "--port", "0", "--host", "127.0.0.1", "--data-path"]).arg(&data);
            command.env_clear().env("PATH", PATH).env("DB_PASSWORD", &secret).env("MAX_JOBS", "3");
            command.env("KILL_GRACE", "1");
            command
                .env("SANDBOX", "best")
                .envs(settings.iter().copied())
                .envs(more.iter().copied())
                .current_dir(place.path());
            // What its descriptors lead to.
            command.stdout(fs::File::open(place.path().join("token")).unwrap());
            Client::spawn(command, &data)
        };
        let token_file = place.path().join("token");
        let is_guarded = !settings.contains(&("SANDBOX", "off"));
        let tokens = if is_guarded { vec![("TOKEN_FILE", token_file.to_str().unwrap())] } else { vec![] };
        let client = start("data", &tokens);
        let cut_off = start("cut-off", if is_guarded { &[("NETWORK", "off")] } else { &[] });
        let stands = place.path().join("attempt");
        copy_program(attempt(), &stands);
        let stand_in = user
            .command(&stands)
            .arg("stand")
            .env("DB_PASSWORD", &secret)
            .stdin(Stdio::null())
            .stdout(fs::File::open(place.path().join("token")).unwrap())
            .spawn()
            .unwrap();
        let done = Victim { id: String::new(), pid: String::new(), directory: String::new() };
        let mut world = Self {
            user,
            client,
            cut_off,
            victim: RefCell::new(done.clone()),
            done,
            stand_in,
            token: secret.clone(),
            secret,
            services,
            place,
            home,
            run,
        };
        world.done =
            world.start_victim("cat input.txt", |status| status != "Prepared" && status != "Running");
        world.renew_victim();
        world
    }

    fn renew_victim(&self) {
        *self.victim.borrow_mut() =
            self.start_victim("while :; do sleep 60; done", |status| status == "Running");
    }

    fn start_victim(&self, script: &str, is_there: impl Fn(&str) -> bool) -> Victim {
        let script = format!("#!/bin/sh\n{script}\n");
        let secret = self.secret.as_bytes();
        let files: &[(&str, &[u8])] =
            &[("run.sh", script.as_bytes()), ("input.txt", secret), ("spare.txt", b"spare")];
        let told = self.submit(&self.client, files);
        let id = told.json("id").unwrap();
        let directory = told.json("loc").unwrap();
        let told = wait_for("the victim", || {
            let answer = self.get(&self.client, &format!("/retrieve/{id}"));
            let status = answer.json("status").unwrap_or_else(|| "Completed".into());
            // A payload that has just been started has no number yet.
            (is_there(&status) && answer.json("pid").as_deref() != Some("0")).then_some(answer)
        });
        Victim { id, directory, pid: told.json("pid").unwrap_or_default() }
    }

    fn get(&self, client: &Client, path: &str) -> Answer {
        let token = &self.token;
        wire::send(
            client.address,
            format!(
                "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
            ),
        )
    }

    fn submit(&self, client: &Client, files: &[(&str, &[u8])]) -> Answer {
        let body = wire::form(files);
        let head = wire::submit_head(body.len());
        let head = head.replacen("\r\n", &format!("\r\nAuthorization: Bearer {}\r\n", self.token), 1);
        let answer = wire::send(client.address, [head.as_bytes(), &body].concat());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    /// The script with all names filled in. `None` where something that it names is not there for this user.
    pub fn fill(&self, script: &str, tag: u32, is_beside: bool) -> Option<String> {
        let mut filled = script.to_owned();
        for (name, value) in self.names(tag, is_beside) {
            filled = filled.replace(&format!("{{{name}}}"), &value);
        }
        let is_name = |text: &str| {
            let name = text.split('}').next().unwrap_or_default();
            name.len() < text.len()
                && !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        (!filled.split('{').skip(1).any(is_name)).then_some(filled)
    }

    fn names(&self, tag: u32, is_beside: bool) -> Vec<(&'static str, String)> {
        let victim = self.victim.borrow();
        let place = self.place.path().to_str().unwrap();
        let stand_in = self.stand_in.id().to_string();
        let (daemon, guard) = if is_beside {
            (Some(stand_in.clone()), Some(stand_in))
        } else {
            (Some(self.client.pid().to_string()), self.client.guard())
        };
        let path =
            |directory: &Option<TempDir>| Some(directory.as_ref()?.path().to_str().unwrap().to_owned());
        let run = path(&self.run);
        let names = [
            ("tag", Some(tag.to_string())),
            ("daemon", daemon),
            ("guard", guard),
            ("victim", Some(victim.pid.clone())),
            ("victim_id", Some(victim.id.clone())),
            ("victim_directory", Some(victim.directory.clone())),
            ("done", Some(self.done.id.clone())),
            ("done_directory", Some(self.done.directory.clone())),
            ("data", Some(format!("{place}/data"))),
            ("place", Some(place.to_owned())),
            ("token_file", Some(format!("{place}/token"))),
            ("setuid", is_root().then(|| format!("{place}/setuid"))),
            ("home", path(&self.home)),
            ("socket", run.as_ref().map(|run| format!("{run}/socket"))),
            ("run", run),
            ("port", Some(self.client.address.port().to_string())),
            ("stream", Some(self.services.stream.to_string())),
            ("stream_6", self.services.stream_6.map(|port| port.to_string())),
            ("datagram", Some(self.services.datagram.to_string())),
            ("abstract", Some(self.services.abstract_name.clone())),
        ];
        names.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Runs the lines as a payload, to its end.
    pub fn run(&self, script: &str, is_cut_off: bool) -> Traces {
        let client = if is_cut_off { &self.cut_off } else { &self.client };
        let script = format!("#!/bin/sh\n{script}\n");
        let program = fs::read(attempt()).unwrap();
        let told = self.submit(client, &[("run.sh", script.as_bytes()), ("attempt", &program)]);
        let id = told.json("id").unwrap();
        let ended = (0..15).find_map(|_| {
            let answer = self.get(client, &format!("/retrieve/{id}?wait=20"));
            let is_zip = answer.header("content-type").as_deref() == Some("application/zip");
            let has_ended = is_zip || answer.json("finished_at").is_some_and(|time| time != "null");
            (answer.status == 200 && has_ended).then_some(answer)
        });
        let ended = ended.unwrap_or_else(|| panic!("in five minutes this does not end: {script}"));
        let json = if ended.body.starts_with(b"{") { ended.text() } else { String::new() };
        let files = self.get(client, &format!("/retrieve_partial/{id}")).files();
        let output = files.iter().find(|(name, _)| name == ".orchestrator.out");
        let output = output.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        Traces { output, files, json }
    }

    /// Starts the lines as a payload, and waits for nothing.
    pub fn start(&self, script: &str) {
        self.submit(&self.client, &[("run.sh", format!("#!/bin/sh\n{script}\n").as_bytes())]);
    }

    pub fn is_client_gone(&self) -> bool {
        state(&self.client.pid().to_string()).is_none_or(|letter| letter == 'Z')
    }

    /// Runs the lines as the same user outside of any client, in a directory of their own.
    pub fn run_beside(&self, script: &str) -> Traces {
        let directory = TempDir::new_in(self.place.path()).unwrap();
        self.user.give(directory.path());
        let path = directory.path().join("run.sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(attempt(), &directory.path().join("attempt"));
        let mut command = self.user.command(Path::new("sh"));
        command.args(["-c", "exec ./run.sh"]).current_dir(directory.path());
        command.env_clear().env("PATH", PATH).stdin(Stdio::null());
        let output = command.output().unwrap();
        let entries = fs::read_dir(directory.path()).unwrap().flatten();
        let files = entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read(entry.path()).ok()?)))
            .collect();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        Traces { output, files, json: String::new() }
    }

    /// What has come to the client or to the victim, which is mended.
    pub fn harm(&self) -> Option<String> {
        let mut harm = None;
        for pid in [Some(self.client.pid().to_string()), self.client.guard()].into_iter().flatten() {
            if state(&pid) == Some('T') {
                let _ = Command::new("kill").args(["-CONT", &pid]).status();
                harm = Some("the client or its guard was stopped".to_owned());
            }
        }
        let victim = self.victim.borrow().clone();
        let answer = self.get(&self.client, &format!("/retrieve/{}", victim.id));
        let input = Path::new(&victim.directory).join("input.txt");
        // Before it has ended, what it leaves has its time (LINGER).
        let is_dead = state(&victim.pid).is_none_or(|letter| letter == 'Z');
        if is_dead || answer.json("status").as_deref() != Some("Running") {
            harm = Some("the other payload was ended".to_owned());
            self.renew_victim();
        } else if fs::read(&input).ok().as_deref() != Some(self.secret.as_bytes()) {
            harm = Some("the input of the other payload was changed".to_owned());
            write_for(self.user, &input, &self.secret);
        }
        harm
    }

    /// What it was given of the host, as the client tells it with each payload.
    pub fn isolation(&self) -> String {
        let told = self.get(&self.client, &format!("/retrieve/{}", self.victim.borrow().id)).text();
        told.split_once("\"isolation\":").map_or_else(String::new, |(_, rest)| rest.to_owned())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.stand_in.kill();
        let _ = self.stand_in.wait();
    }
}

pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory of the user there, with a letter that only the user can read.
fn owned(user: User, above: Option<std::ffi::OsString>, secret: &str) -> Option<TempDir> {
    let directory = tempfile::Builder::new().prefix("escapes-").tempdir_in(above?).ok()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    user.give(directory.path());
    write_for(user, &directory.path().join("letter"), secret);
    Some(directory)
}

fn write_for(user: User, path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    user.give(path);
}

/// The letter of a process's state.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

impl Services {
    /// Each says a word to whoever comes, for as long as the tests run.
    fn start(run: Option<&TempDir>) -> Self {
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream_6 = TcpListener::bind("[::1]:0").ok();
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        let abstract_name = format!("escapes-{}", tag());
        let address = UnixAddress::from_abstract_name(&abstract_name).unwrap();
        let in_no_directory = UnixListener::bind_addr(&address).unwrap();
        let ports = (
            stream.local_addr().unwrap().port(),
            stream_6.as_ref().map(|listener| listener.local_addr().unwrap().port()),
            datagram.local_addr().unwrap().port(),
        );
        if let Some(run) = run {
            let path = run.path().join("socket");
            let in_run = UnixListener::bind(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
            thread::spawn(move || in_run.incoming().flatten().for_each(greet));
        }
        thread::spawn(move || stream.incoming().flatten().for_each(greet));
        if let Some(stream_6) = stream_6 {
            thread::spawn(move || stream_6.incoming().flatten().for_each(greet));
        }
        thread::spawn(move || in_no_directory.incoming().flatten().for_each(greet));
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((_, from)) = datagram.recv_from(&mut byte) {
                let _ = datagram.send_to(b"hello", from);
            }
        });
        Self { stream: ports.0, stream_6: ports.1, datagram: ports.2, abstract_name }
    }
}

fn greet(mut caller: impl Write) {
    let _ = caller.write_all(b"hello");
}
