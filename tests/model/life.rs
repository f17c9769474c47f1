//! The client under test, life after life, and where it lives.

use std::fs::{self, File};
use std::io::{PipeReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{binary, copy_program};
use crate::program::{free_port, wait_until};
use crate::wire;

/// How long a start or an end may take on a busy machine. A stop has GRACE, KILL_GRACE, and two seconds for results.
pub const LIFE_WAIT: Duration = Duration::from_secs(60);

/// What outlives a life: its data, its port, and what payloads tell.
pub struct Place {
    pub data: PathBuf,
    pub witness: PathBuf,
    pub address: SocketAddr,
    /// Whom the client runs as, where not as this program's user.
    pub user: Option<u32>,
    program: PathBuf,
    home: tempfile::TempDir,
}

/// How a life is begun.
#[derive(Clone, Default)]
pub struct Start {
    pub settings: Vec<(&'static str, String)>,
    /// Standard error is a pipe that is full, and that nobody reads.
    pub is_log_unread: bool,
    /// The limit of open files.
    pub descriptors: Option<u64>,
}

pub struct Life {
    child: Child,
    /// Kept open, unread.
    _log: Option<PipeReader>,
}

impl Place {
    /// With the data below `disk`, or else in a temporary directory.
    pub fn new(disk: Option<&Path>, user: Option<u32>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap();
        let open_to =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open_to(&path, 0o755);
        let program = path.join("job-orchestrator");
        copy_program(&binary(), &program);
        let witness = path.join("witness");
        fs::create_dir(&witness).unwrap();
        open_to(&witness, 0o777);
        let root = disk.map_or_else(|| path.join("disk"), |disk| disk.canonicalize().unwrap());
        fs::create_dir_all(&root).unwrap();
        open_to(&root, 0o755);
        std::os::unix::fs::chown(&root, user, user).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Self { data: root.join("data"), witness, address, user, program, home }
    }

    pub fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Starts the client, and does not wait for it.
    pub fn spawn(&self, number: u32, start: &Start) -> Life {
        let limit = start.descriptors.map_or(String::new(), |number| format!("ulimit -n {number} && "));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{limit}exec \"$@\""), "sh"]).arg(&self.program);
        command.args(["client", "--host", "127.0.0.1", "--port", &self.address.port().to_string()]);
        command.arg("--data-path").arg(&self.data);
        command.env("MODEL_LIFE", number.to_string());
        command.envs(start.settings.iter().map(|(name, value)| (name, value.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let log = if start.is_log_unread {
            let (reader, mut writer) = std::io::pipe().unwrap();
            // A pipe takes 64 KiB.
            writer.write_all(&vec![b'\n'; 65_000]).unwrap();
            command.stderr(writer);
            Some(reader)
        } else {
            command.stderr(File::options().append(true).create(true).open(self.log()).unwrap());
            None
        };
        Life { child: command.spawn().unwrap(), _log: log }
    }

    /// Starts the client, and waits until it answers.
    pub fn start(&self, number: u32, start: &Start) -> Result<Life, String> {
        let mut life = self.spawn(number, start);
        let mut end = None;
        let answers = |end: &mut Option<ExitStatus>, life: &mut Life| {
            *end = life.ended();
            end.is_some() || wire::try_send(self.address, "GET / HTTP/1.0\r\n\r\n").is_ok()
        };
        let is_there = wait_until(LIFE_WAIT, || answers(&mut end, &mut life));
        match end {
            Some(status) => Err(format!("the client ended at its start: {status}")),
            None if is_there => Ok(life),
            None => Err("the client does not answer after its start".to_owned()),
        }
    }

    /// The last lines of the log.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Leaves the log and the words of the payloads where they are. Gives the place.
    pub fn keep(self) -> PathBuf {
        self.home.keep()
    }
}

impl Life {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        let mut end = None;
        wait_until(LIFE_WAIT, || {
            end = self.ended();
            end.is_some()
        });
        end
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
