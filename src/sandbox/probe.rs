//! What this host gives: each layer is tried at the start, in a child, by doing it. The reasons say what would help.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::io::Errno;

use super::rules::handled;
use crate::sys::{self, Call, Command, SpawnError, landlock};

/// Tries Landlock. Gives its version.
pub(super) fn rules() -> Result<u32, String> {
    let version = landlock::version().map_err(|error| why_no_landlock(&error))?;
    let ruleset = landlock::create(&handled(version, false)).map_err(|error| why_no_landlock(&error))?;
    try_in_child(&[Call::NoNewPrivileges, Call::Landlock(Arc::new(ruleset))]).map_err(
        |error| match error {
            SpawnError::Call { error, .. } => why_no_landlock(&error),
            error => format!("Landlock cannot be tried: {error}"),
        },
    )?;
    Ok(version)
}

/// Tries a filter.
pub(super) fn filter(program: Arc<[libc::sock_filter]>) -> Result<(), String> {
    try_in_child(&[Call::NoNewPrivileges, Call::Filter(program)]).map_err(|error| {
        format!("no seccomp ({error}): use a kernel with CONFIG_SECCOMP_FILTER, which all of Debian and Raspberry Pi OS have")
    })
}

/// Tries a network namespace, in which loopback is up. As root without a user namespace: such a client makes its rooms so.
pub(super) fn no_network() -> Result<(), String> {
    let is_root = rustix::process::geteuid().is_root();
    let user = if is_root { 0 } else { libc::CLONE_NEWUSER };
    try_in_child(&[Call::Unshare(user | libc::CLONE_NEWNET), Call::Loopback])
        .map_err(|error| format!("no network namespace can be made here: {error}"))
}

/// Makes calls in a child, whose program is none: to come so far is what is tried.
fn try_in_child(calls: &[Call]) -> Result<(), SpawnError> {
    let stderr = io::stderr();
    let tried = sys::spawn(&Command {
        program: c"",
        arguments: &[],
        environment: &[],
        directory: c"/",
        stdio: [stderr.as_fd(); 3],
        namespaces: &[],
        calls,
    });
    match tried {
        Err(SpawnError::Program(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn why_no_landlock(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::OPNOTSUPP) => {
            "Landlock is off: start the kernel with landlock among the words of lsm=".to_owned()
        }
        Some(Errno::NOSYS) => {
            "this kernel has no Landlock: Linux 5.13 has it, where it is built in".to_owned()
        }
        Some(Errno::PERM) => {
            "Landlock is refused here: update the container runtime, or its seccomp profile".to_owned()
        }
        _ => format!("Landlock does not work here: {error}"),
    }
}
