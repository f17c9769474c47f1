//! The guard: a second, tiny process of this program that outlives the client by a moment. It waits in a read of a pipe whose
//! other end the client holds; when the client is gone, however it went, the read ends and the guard ends the payloads.
//! A payload that is just being started holds that end too, until its exec: the guard looks for none that still looks like the client.
//! No signal of the parent's death would do: that reaches `run.sh` alone, not what it has started.
//!
//! It knows payloads by DATA_PATH, so those of the next life look the same to it. Therefore it has a lock as long as it
//! lives, and no client starts a payload before it has got that lock for a guard of its own.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read as _};
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, OFlags};

use super::processes::{STRAYS_WAIT, end_strays};
use crate::data::directory;
use crate::data::path::lock_soon;
use crate::event;
use crate::log;
use crate::sandbox::always;
use crate::sandbox::users::Users;
use crate::sys::{self, Command};

/// This program, also where its file has been replaced or removed since (proc_pid_exe(5)).
pub(super) const OWN_PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

/// Locked by a guard as long as it lives.
const LOCK_FILE: &str = ".orchestrator.guard";

/// The guard of the life before is through sooner, unless it has been stopped.
const LOCK_WAIT: Duration = STRAYS_WAIT.saturating_add(Duration::from_secs(5));

/// A running guard.
pub(super) struct Guard {
    pid: u32,
    /// Closed by the kernel when this process is gone.
    _alive: PipeWriter,
}

impl Guard {
    /// Starts the guard of `data_path`, once that of the life before has ended. `None` where it is not needed, or cannot be
    /// had, which the log tells.
    /// `ids`: the users of payloads, where those have users of their own.
    pub(super) fn start(data_path: &Path, ids: Option<RangeInclusive<u32>>) -> Option<Self> {
        // With PID 1 the kernel ends all that lives in its namespace (pid_namespaces(7)).
        if std::process::id() == 1 {
            return None;
        }
        match spawn(data_path, ids) {
            Ok(guard) => Some(guard),
            Err(error) => {
                event!(Warn, "payloads may outlive this client if it is killed: no guard", error = error);
                None
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }
}

fn spawn(data_path: &Path, ids: Option<RangeInclusive<u32>>) -> io::Result<Guard> {
    let (waits_on, alive) = io::pipe()?;
    // What it inherits as its output is the lock: the copy here is closed at the end of this function.
    let output = match lock(data_path) {
        Ok(lock) => lock,
        Err(error) => {
            event!(Warn, "the guard of the life before, if any, cannot be waited for", error = error);
            OpenOptions::new().write(true).open("/dev/null")?
        }
    };
    let data_path = CString::new(data_path.as_os_str().as_bytes())?;
    let stderr = io::stderr();
    // It tells its lines as this process does.
    let log = log::setup();
    let format = match log.format {
        log::Format::Text => c"--log-format=text",
        log::Format::Json => c"--log-format=json",
    };
    let status = rustix::fs::fstat(&stderr).ok().filter(|_| log.has_priorities);
    let journal = status.map(|status| format!("JOURNAL_STREAM={}:{}", status.st_dev, status.st_ino));
    let journal = journal.map(CString::new).transpose()?;
    let environment: Vec<&std::ffi::CStr> = journal.iter().map(CString::as_c_str).collect();
    let ids = ids.map(|ids| format!("--run-as={}-{}", ids.start(), ids.end()));
    let ids = ids.map(CString::new).transpose()?;
    let mut arguments = vec![c"job-orchestrator", c"guard", format, c"--data-path", &data_path];
    arguments.extend(ids.as_deref());
    let pid = sys::spawn(&Command {
        program: OWN_PROGRAM,
        arguments: &arguments,
        environment: &environment,
        directory: c"/",
        namespaces: &[],
        calls: &[],
        stdio: [waits_on.as_fd(), output.as_fd(), stderr.as_fd()],
    })
    .map_err(io::Error::other)?;
    Ok(Guard { pid, _alive: alive })
}

fn lock(data_path: &Path) -> io::Result<File> {
    let file = directory::open_own_file(CWD, &*data_path.join(LOCK_FILE), OFlags::WRONLY | OFlags::CREATE)?;
    lock_soon(&file, LOCK_WAIT)?;
    Ok(file)
}

/// The guard's whole life: waits for the end of the client, then ends the payloads of `data_path`.
/// `ids` as for [`end_strays`].
pub fn run(data_path: &Path, ids: Option<&RangeInclusive<u32>>) -> io::Result<()> {
    always::close_to_others();
    // It was started by way of /proc/self/exe, and would be listed as `exe`. It guards under any name.
    let _ = rustix::thread::set_name(c"job-orch-guard");
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Nothing is ever written: this returns at the end of the other side.
    stdin.read_to_end(&mut Vec::new())?;
    // Another client may have got them since: what runs as they do is its own then.
    let claimed = ids.map(Users::claim);
    let ids = ids.filter(|_| matches!(claimed, Some(Ok(_))));
    end_strays(data_path, ids);
    Ok(())
}
