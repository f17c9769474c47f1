//! Starts `./run.sh` in a payload's directory, and says in one sentence why it could not.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::environment::Environment;
use super::output::{Output, Outputs, Pipe};
use super::room::Room;
use super::script::{self, SCRIPT, ScriptError};
use crate::data::{STDERR_FILE, STDOUT_FILE, temporary};
use crate::event;
use crate::limits::{Grant, RequestError};
use crate::payload::{Outcome, PayloadId, Status};
use crate::sandbox::always::{self, OomScore};
use crate::sandbox::{Plan, Sandbox};
use crate::sys::{self, Call, Command, SpawnError};

/// The usual shells, which an image FROM scratch has not.
const SHELLS: [&str; 5] = ["/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash", "/bin/ash"];

/// What runs a script without a `#!` line where there is no bash.
const SHELL: &str = "/bin/sh";

/// How often and how long a start waits for a `run.sh` that is "busy". A child that is being started holds a copy of every
/// descriptor for a moment, one through which the next payload's `run.sh` is just being written included: vfork(2) lets
/// the parent go on before exec has closed them (Linux, begin_new_exec), and until then execve(2) says ETXTBSY.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_micros(500);

/// Why a payload was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("there is no run.sh among the files; add one")]
    NoScript,
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error("the limits that it asks for by #JOB lines or form fields are not granted: {0}")]
    Limits(#[from] RequestError),
    #[error("its directory cannot be entered: {0}")]
    Directory(io::Error),
    #[error("its files cannot be given to the user that it runs as: {0}")]
    Owner(io::Error),
    #[error("its record cannot be written in DATA_PATH: {0}")]
    Record(io::Error),
    #[error("its directory for temporary files cannot be made: {0}")]
    Temporary(io::Error),
    #[error("what it may open cannot be settled: {0}")]
    Plan(io::Error),
    #[error("cannot create {file}: {source}")]
    Log { file: &'static str, source: io::Error },
    #[error(
        "run.sh asks for the interpreter {0}, which does not exist here; install it or change the #! line"
    )]
    NoInterpreter(String),
    #[error(
        "run.sh asks for the interpreter {0}, which payloads may not execute here; name its place in ALLOW_READ"
    )]
    ClosedInterpreter(String),
    #[error(
        "run.sh asks for the shell {0}, and this system has none; use an image that has one (FROM scratch has not), or make run.sh a static ELF file"
    )]
    NoSuchShell(String),
    #[error(
        "run.sh has no #! line, and this system has neither bash nor /bin/sh to run it by; use an image that has one, or make run.sh a static ELF file"
    )]
    NoShell,
    #[error(
        "run.sh is a program whose dynamic loader does not exist here; link it statically or use an image that has it"
    )]
    NoLoader,
    #[error("run.sh is a directory; it has to be a file")]
    IsDirectory,
    #[error(
        "run.sh may not be executed: DATA_PATH is mounted noexec, or its interpreter is not executable ({0})"
    )]
    NotPermitted(io::Error),
    #[error("run.sh is a program for another kind of processor or damaged ({0})")]
    WrongFormat(io::Error),
    #[error("the system gives no room for a payload: {0}")]
    Room(io::Error),
    #[error("what holds for every payload cannot be set for this one: {call}: {source}")]
    Call { call: String, source: io::Error },
    #[error("the system gives no new process; its limit of processes or memory is reached ({0})")]
    NoProcess(io::Error),
    #[error("run.sh cannot be started: {0}")]
    Spawn(io::Error),
}

impl StartError {
    /// What becomes of the payload, where it can never be started.
    pub(super) fn outcome(&self) -> Outcome {
        let status = match self {
            Self::NoScript => Status::Invalid,
            _ => Status::Failed,
        };
        Outcome::not_started(status, self.to_string())
    }

    /// What the system said, where the payload itself may be without fault.
    pub(super) fn of_system(&self) -> Option<&io::Error> {
        match self {
            Self::Directory(error)
            | Self::Owner(error)
            | Self::Record(error)
            | Self::Temporary(error)
            | Self::Plan(error)
            | Self::Call { source: error, .. }
            | Self::Log { source: error, .. }
            | Self::NoProcess(error)
            | Self::Room(error)
            | Self::Spawn(error) => Some(error),
            _ => None,
        }
    }
}

/// What all starts have in common.
pub(super) struct Launcher {
    environment: Environment,
    stdin: File,
    outputs: Option<Outputs>,
    /// What every payload does before its program.
    always: Vec<Call>,
    oom_score: Option<OomScore>,
    sandbox: Sandbox,
    /// What runs scripts without a `#!` line.
    shell: Option<PathBuf>,
}

/// Where a payload writes to.
pub(super) struct Streams {
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// What comes out of it, where MAX_LOG bounds that.
    pub(super) outputs: Vec<Arc<Output>>,
}

impl Streams {
    /// Lets this user open them by their names in /dev and /proc. With MAX_LOG they are pipes, which lie in no directory.
    pub(super) fn give(&self, user: Option<u32>) -> io::Result<()> {
        let Some(user) = user.map(Uid::from_raw) else { return Ok(()) };
        for stream in [&self.stdout, &self.stderr] {
            rustix::fs::fchown(stream, Some(user), None)?;
        }
        Ok(())
    }
}

impl Launcher {
    /// Fails where there is no /dev/null to read from. `max_log`: bytes of each output that are kept.
    /// `limits`: those that payloads do not inherit.
    pub(super) fn new(
        max_log: Option<u64>,
        limits: Vec<(Resource, Rlimit)>,
        sandbox: Sandbox,
    ) -> io::Result<Self> {
        let stdin = File::open("/dev/null")
            .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/null: {error}")))?;
        let outputs = max_log.map(Outputs::start).transpose()?;
        let mut environment = Environment::new();
        environment.leave_out_of_path(|directory| sandbox.is_closed(directory));
        let shell = find_shell(environment.path());
        let (always, oom_score) = (always::calls(limits), OomScore::open());
        Ok(Self { environment, stdin, outputs, always, oom_score, sandbox, shell })
    }

    /// Creates the logs of the payload in `directory`.
    pub(super) fn open_streams(&self, id: PayloadId, directory: &Path) -> Result<Streams, StartError> {
        let mut outputs = Vec::new();
        let stdout = self.output(id, directory, STDOUT_FILE, &mut outputs)?;
        let stderr = self.output(id, directory, STDERR_FILE, &mut outputs)?;
        Ok(Streams { stdout, stderr, outputs })
    }

    /// What the payload in `directory` is started with. May wait for the disk.
    pub(super) fn plan(&self, directory: &Path, slot: usize, grant: &Grant) -> io::Result<Plan> {
        self.sandbox.plan(directory, &temporary::path_of(directory), slot, grant.has_network())
    }

    /// Whether the logs of the payload in `directory` could be created now. Leaves them, empty.
    pub(super) fn try_streams(directory: &Path) -> Result<(), StartError> {
        [STDOUT_FILE, STDERR_FILE].into_iter().try_for_each(|file| create_log(directory, file).map(drop))
    }

    /// Completes the logs of a payload of which no process is left.
    pub(super) fn end_outputs(&self, outputs: &[Arc<Output>]) {
        for output in outputs {
            self.outputs.iter().for_each(|all| all.end(output));
        }
    }

    /// The outputs of payloads, where MAX_LOG bounds them.
    pub(super) fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// What the payload writes to: the file itself, or a pipe that ends up in it.
    fn output(
        &self,
        id: PayloadId,
        directory: &Path,
        file: &'static str,
        begun: &mut Vec<Arc<Output>>,
    ) -> Result<OwnedFd, StartError> {
        let Some(outputs) = &self.outputs else { return Ok(create_log(directory, file)?.into()) };
        let pipe = Pipe::named(&directory.join(file));
        let pipe = pipe.map_err(|source| StartError::Log { file, source })?;
        let (output, pipe) = outputs.begin(id, create_log(directory, file)?, pipe);
        begun.push(output);
        Ok(pipe.into())
    }

    /// Starts the payload in `directory`, its child making `limits` first. Gives its process, whose number is that of its session and
    /// process group too.
    pub(super) fn start(
        &self,
        id: PayloadId,
        directory: &Path,
        streams: &Streams,
        limits: &[Call],
        plan: &Plan,
        room: Option<&Room>,
    ) -> Result<u32, StartError> {
        // The plan comes last: what it ends with may deny what the others need.
        let calls: Vec<Call> = limits.iter().chain(&self.always).chain(&plan.calls).cloned().collect();
        let namespaces = room.map(Room::namespaces).unwrap_or_default();
        let own = Environment::own(id, directory, &plan.temporary);
        let environment: Vec<&CStr> =
            own.iter().chain(self.environment.shared()).map(CString::as_c_str).collect();
        let path = CString::new(directory.as_os_str().as_bytes()).map_err(|e| StartError::Spawn(e.into()))?;
        let command = |program, arguments| {
            self.spawn(&Command {
                program,
                arguments,
                environment: &environment,
                directory: &path,
                stdio: [self.stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()],
                namespaces: &namespaces,
                calls: &calls,
            })
        };
        match command(c"./run.sh", &[c"./run.sh"]) {
            // Not a format that the kernel knows: a shell would take it for a script (POSIX, Shell & Utilities 2.9.1.4).
            Err(SpawnError::Program(error)) if Errno::from_io_error(&error) == Some(Errno::NOEXEC) => {
                if script::is_elf(directory) {
                    return Err(StartError::WrongFormat(error));
                }
                let shell = self.shell.as_ref().ok_or(StartError::NoShell)?;
                let name = shell.file_name().unwrap_or_default();
                let c_string =
                    |text: &OsStr| CString::new(text.as_bytes()).map_err(|e| StartError::Spawn(e.into()));
                let (program, name) = (c_string(shell.as_os_str())?, c_string(name)?);
                let pid =
                    command(&program, &[&name, c"./run.sh"]).map_err(|error| self.why(error, directory))?;
                event!(Info, "run.sh has no #! line; a shell runs it", payload = id, shell = shell.display());
                Ok(pid)
            }
            Err(error) => Err(self.why(error, directory)),
            Ok(pid) => Ok(pid),
        }
    }

    /// Where the interpreter is there, and payloads may not execute it, the table is to blame.
    fn why(&self, error: SpawnError, directory: &Path) -> StartError {
        match (&error, script::interpreter(directory)) {
            (SpawnError::Program(_), Some(path)) if self.sandbox.is_closed(Path::new(&path)) => {
                StartError::ClosedInterpreter(path)
            }
            _ => why(error, directory),
        }
    }

    fn spawn(&self, command: &Command<'_>) -> Result<u32, SpawnError> {
        match &self.oom_score {
            Some(score) => score.raised(|| spawn_when_free(command)),
            None => spawn_when_free(command),
        }
    }
}

/// bash where there is one: scripts without a `#!` line were mostly written for it. Else sh.
fn find_shell(path: &OsStr) -> Option<PathBuf> {
    let candidates = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    let mut candidates = candidates.map(|directory| directory.join("bash")).chain([PathBuf::from(SHELL)]);
    candidates.find(|shell| shell.is_file() && rustix::fs::access(shell, Access::EXEC_OK).is_ok())
}

fn spawn_when_free(command: &Command<'_>) -> Result<u32, SpawnError> {
    for _ in 0..BUSY_TRIES {
        match sys::spawn(command) {
            Err(SpawnError::Program(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
    sys::spawn(command)
}

/// In the place of one that an earlier attempt has left. Never by way of a link.
fn create_log(directory: &Path, file: &'static str) -> Result<File, StartError> {
    let path = directory.join(file);
    let mut options = OpenOptions::new();
    options.append(true).create_new(true).mode(0o644);
    let created = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&path).and_then(|()| options.open(&path))
        }
        other => other,
    };
    created.map_err(|source| StartError::Log { file, source })
}

/// Looks at the files to say what the error number alone does not.
fn why(error: SpawnError, directory: &Path) -> StartError {
    let error = match error {
        SpawnError::Process(error) => return StartError::NoProcess(error),
        SpawnError::Namespace(error) => return StartError::Room(error),
        SpawnError::Call { call, error: source } => return StartError::Call { call, source },
        SpawnError::Directory(error) => return StartError::Directory(error),
        SpawnError::Program(error) => error,
    };
    let script = directory.join(SCRIPT);
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) if !directory.is_dir() => StartError::Directory(error),
        Some(Errno::NOENT) if !script.exists() => StartError::NoScript,
        Some(Errno::NOENT) => match script::interpreter(directory) {
            Some(shell) if SHELLS.contains(&&*shell) => StartError::NoSuchShell(shell),
            Some(interpreter) => StartError::NoInterpreter(interpreter),
            None if script::is_elf(directory) => StartError::NoLoader,
            None => StartError::Spawn(error),
        },
        Some(Errno::ACCESS | Errno::PERM) if script.is_dir() => StartError::IsDirectory,
        Some(Errno::ACCESS | Errno::PERM) => StartError::NotPermitted(error),
        Some(Errno::AGAIN | Errno::NOMEM) => StartError::NoProcess(error),
        _ => StartError::Spawn(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_script_that_somebody_still_holds_open_for_writing_is_started_when_he_lets_go() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let directory = home.path().join("payload");
        std::fs::create_dir(&directory).expect("made");
        let path = directory.join(SCRIPT);
        let mut script = File::create(&path).expect("created");
        script.write_all(b"#!/bin/sh\nexit 0\n").expect("written");
        script.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("made executable");
        let holder = thread::spawn(move || {
            thread::sleep(BUSY_PAUSE * 20);
            drop(script);
        });
        let launcher = Launcher::new(None, Vec::new(), Sandbox::off(None)).expect("/dev/null");
        let streams = launcher.open_streams(1, &directory).expect("created");
        let plan = launcher.plan(&directory, 0, &Grant::default()).expect("made");
        let pid = launcher.start(1, &directory, &streams, &[], &plan, None).expect("started");
        holder.join().expect("no panic");
        while sys::reap(pid).is_none() {
            thread::yield_now();
        }
    }
}
