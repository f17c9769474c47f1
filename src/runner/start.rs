//! Starts `./run.sh` in a payload's directory, and says in one sentence why it could not.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::environment::Environment;
use super::output::{Output, Outputs};
use crate::payload::{Outcome, PayloadId, Status};
use crate::sys::{self, Command};

const SCRIPT: &str = "run.sh";
pub(super) const STDOUT_FILE: &str = ".orchestrator.out";
pub(super) const STDERR_FILE: &str = ".orchestrator.err";
const SHELL: &CStr = c"/bin/sh";

/// The longest `#!` line that Linux reads (BINPRM_BUF_SIZE, Linux 5.1).
const SHEBANG_BYTES: u64 = 256;

/// How often and how long a start waits for a `run.sh` that is "busy". A child that is being started holds a copy of every
/// descriptor for a moment, one through which the next payload's `run.sh` is just being written included: vfork(2) lets
/// the parent go on before exec has closed them (Linux, begin_new_exec), and until then execve(2) says ETXTBSY.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_micros(500);

/// Why a payload was not started. Each is the payload's result, never an error of the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("there is no run.sh among the files; add one")]
    NoScript,
    #[error("its record cannot be written in DATA_PATH: {0}")]
    Record(io::Error),
    #[error("cannot create {file}: {source}")]
    Log { file: &'static str, source: io::Error },
    #[error(
        "run.sh asks for the interpreter {0}, which does not exist here; install it or change the #! line"
    )]
    NoInterpreter(String),
    #[error(
        "run.sh has no #! line, and this system has no /bin/sh to run it by; use an image that has one, or make run.sh a static ELF file"
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
    #[error("the system refuses a new process; its limit of processes or memory is reached ({0})")]
    NoProcess(io::Error),
    #[error("run.sh cannot be started: {0}")]
    Spawn(io::Error),
}

impl StartError {
    /// What becomes of the payload then.
    pub(super) fn outcome(&self) -> Outcome {
        let status = match self {
            Self::NoScript => Status::Invalid,
            _ => Status::Failed,
        };
        Outcome::not_started(status, self.to_string())
    }
}

/// What all starts have in common.
pub(super) struct Launcher {
    environment: Environment,
    stdin: File,
    outputs: Option<Outputs>,
}

/// Where a payload writes to.
pub(super) struct Streams {
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// What comes out of it, where MAX_LOG bounds that.
    pub(super) outputs: Vec<Arc<Output>>,
}

impl Launcher {
    /// Fails where there is no /dev/null to read from. `max_log`: bytes of each output that are kept.
    pub(super) fn new(max_log: Option<u64>) -> io::Result<Self> {
        let stdin = File::open("/dev/null")
            .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/null: {error}")))?;
        let outputs = max_log.map(Outputs::start).transpose()?;
        Ok(Self { environment: Environment::new(), stdin, outputs })
    }

    /// Creates the logs of the payload in `directory`.
    pub(super) fn open_streams(&self, id: PayloadId, directory: &Path) -> Result<Streams, StartError> {
        let mut outputs = Vec::new();
        let stdout = self.output(id, directory, STDOUT_FILE, &mut outputs)?;
        let stderr = self.output(id, directory, STDERR_FILE, &mut outputs)?;
        Ok(Streams { stdout, stderr, outputs })
    }

    /// Completes the logs of a payload of which no process is left.
    pub(super) fn end_outputs(&self, outputs: &[Arc<Output>]) {
        for output in outputs {
            self.outputs.iter().for_each(|all| all.end(output));
        }
    }

    /// What the payload writes to: the file itself, or a pipe that ends up in it.
    fn output(
        &self,
        id: PayloadId,
        directory: &Path,
        file: &'static str,
        begun: &mut Vec<Arc<Output>>,
    ) -> Result<OwnedFd, StartError> {
        let log = create_log(directory, file)?;
        let Some(outputs) = &self.outputs else { return Ok(log.into()) };
        let (output, pipe) = outputs.begin(id, log).map_err(|source| StartError::Log { file, source })?;
        begun.push(output);
        Ok(pipe.into())
    }

    /// Starts the payload in `directory`. Gives its process, whose number is that of its session and process group too.
    pub(super) fn start(
        &self,
        id: PayloadId,
        directory: &Path,
        streams: &Streams,
    ) -> Result<u32, StartError> {
        let own = Environment::own(id, directory);
        let environment: Vec<&CStr> =
            own.iter().chain(self.environment.shared()).map(CString::as_c_str).collect();
        let path = CString::new(directory.as_os_str().as_bytes()).map_err(|e| StartError::Spawn(e.into()))?;
        let command = |program, arguments| {
            spawn_when_free(&Command {
                program,
                arguments,
                environment: &environment,
                directory: &path,
                stdio: [self.stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()],
            })
        };
        let result = command(c"./run.sh", &[c"./run.sh"]);
        match result {
            // Not a format that the kernel knows: a shell would take it for a script (POSIX, Shell & Utilities 2.9.1.4).
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOEXEC) => {
                if is_elf(&directory.join(SCRIPT)) {
                    return Err(StartError::WrongFormat(error));
                }
                command(SHELL, &[c"sh", c"./run.sh"]).map_err(|error| match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => StartError::NoShell,
                    _ => why(error, directory),
                })
            }
            Err(error) => Err(why(error, directory)),
            Ok(pid) => Ok(pid),
        }
    }
}

fn spawn_when_free(command: &Command<'_>) -> io::Result<u32> {
    for _ in 0..BUSY_TRIES {
        match sys::spawn(command) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    sys::spawn(command)
}

fn create_log(directory: &Path, file: &'static str) -> Result<File, StartError> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true).mode(0o644);
    options.open(directory.join(file)).map_err(|source| StartError::Log { file, source })
}

/// Looks at the files to say what the error number alone does not.
fn why(error: io::Error, directory: &Path) -> StartError {
    let script = directory.join(SCRIPT);
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) if !script.exists() => StartError::NoScript,
        Some(Errno::NOENT) => match interpreter(&script) {
            Some(interpreter) => StartError::NoInterpreter(interpreter),
            None if is_elf(&script) => StartError::NoLoader,
            None => StartError::Spawn(error),
        },
        Some(Errno::ACCESS | Errno::PERM) if script.is_dir() => StartError::IsDirectory,
        Some(Errno::ACCESS | Errno::PERM) => StartError::NotPermitted(error),
        Some(Errno::AGAIN | Errno::NOMEM) => StartError::NoProcess(error),
        _ => StartError::Spawn(error),
    }
}

fn first_bytes(script: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(script) {
        // What cannot be read tells nothing; the caller then names the error number.
        let _ = file.take(SHEBANG_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

fn is_elf(script: &Path) -> bool {
    first_bytes(script).starts_with(b"\x7fELF")
}

/// The interpreter of the `#!` line, without its argument.
fn interpreter(script: &Path) -> Option<String> {
    let bytes = first_bytes(script);
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let name = line.split([' ', '\t']).find(|word| !word.is_empty())?;
    // The usual trap with files from Windows: the carriage return is part of the name.
    Some(name.replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_script_that_somebody_still_holds_open_for_writing_is_started_when_he_lets_go() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(SCRIPT);
        let mut script = File::create(&path).expect("created");
        script.write_all(b"#!/bin/sh\nexit 0\n").expect("written");
        script.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("made executable");
        let holder = thread::spawn(move || {
            thread::sleep(BUSY_PAUSE * 20);
            drop(script);
        });
        let launcher = Launcher::new(None).expect("/dev/null");
        let streams = launcher.open_streams(1, directory.path()).expect("created");
        let pid = launcher.start(1, directory.path(), &streams).expect("started");
        holder.join().expect("no panic");
        while sys::reap(pid).is_none() {
            thread::yield_now();
        }
    }

    #[test]
    fn the_interpreter_is_named_as_the_kernel_would_read_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(SCRIPT);
        for (text, named) in [
            ("#!/bin/x\n", Some("/bin/x")),
            ("#! \t/usr/bin/env python3 -u\n", Some("/usr/bin/env")),
            ("#!/bin/sh\r\n", Some("/bin/sh\\r")),
            ("echo\n", None),
            ("#!\n", None),
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(interpreter(&path).as_deref(), named, "{text:?}");
        }
    }
}
