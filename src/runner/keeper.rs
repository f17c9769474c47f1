//! The keeper of a room: a second, tiny process of this program, the first one in a PID namespace. The payloads of a slot run in that
//! namespace, one after the other. It reaps what they leave behind, and tells when nothing is left. When it ends, the kernel ends all
//! that lives there (pid_namespaces(7)): nothing escapes it, and nothing outlives the client, at whose end it ends.
//!
//! It talks with the client through the socket that is its standard input, and rings the runner's bell, its standard output.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{DumpableBehavior, Signal, getegid, geteuid, set_dumpable_behavior};

use crate::sys::{self, Call};

/// What it is told by the client, two bytes each.
pub(super) mod order {
    /// Its namespaces are known: nobody else may look into it from here on.
    pub(in super::super) const CLOSE: u8 = b'c';
    /// End all by SIGTERM, those that are stopped included.
    pub(in super::super) const TERMINATE: u8 = b't';
    /// Tell when none is left; the number of the turn follows, one byte.
    pub(in super::super) const WATCH: u8 = b'w';
}

/// What it tells.
pub(super) mod answer {
    /// Made; its pid follows, 4 bytes, and whether it has a user namespace of its own, one more.
    pub(in super::super) const MADE: u8 = b'm';
    /// It cannot be made; the reason follows.
    pub(in super::super) const FAILED: u8 = b'f';
    /// None is left; the number of the turn follows.
    pub(in super::super) const EMPTY: u8 = b'e';
}

/// The whole life of the process that makes it, and of the keeper itself.
pub fn run() -> io::Result<()> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    // SIGCHLD is taken by a descriptor.
    sys::StopSignals::block()?;
    let made = enter_namespaces().and_then(|has_user| Ok((sys::copy_beside()?, has_user)));
    match made {
        Ok((None, _)) => keep(socket)?,
        Ok((Some(pid), has_user)) => {
            let [a, b, c, d] = pid.to_ne_bytes();
            tell(socket, &[answer::MADE, a, b, c, d, u8::from(has_user)])?;
        }
        Err(error) => {
            let mut text = vec![answer::FAILED];
            text.extend(error.to_string().into_bytes());
            tell(socket, &text)?;
        }
    }
    Ok(())
}

/// Gives whether a user namespace is part of it: it takes one to have the right to another one, where this user has not.
fn enter_namespaces() -> io::Result<bool> {
    // Children are in it; this process itself stays where it is.
    let processes = Call::Unshare(libc::CLONE_NEWPID);
    match processes.make_here() {
        // Root would have all rights in a user namespace of its own, to unmount what hides something for one.
        Err(error) if geteuid().is_root() => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(false),
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let write = |path, text: String| Call::Write {
        path: std::borrow::Cow::Borrowed(path),
        bytes: text.into_bytes().into(),
    };
    let calls = [
        Call::Unshare(libc::CLONE_NEWUSER),
        write(c"/proc/self/setgroups", "deny".to_owned()),
        // Files are shown as those of the same user.
        write(c"/proc/self/uid_map", format!("{user} {user} 1")),
        write(c"/proc/self/gid_map", format!("{group} {group} 1")),
        processes,
    ];
    for call in calls {
        call.make_here().map_err(|error| io::Error::new(error.kind(), format!("{call}: {error}")))?;
    }
    Ok(true)
}

/// Ends when the client is gone.
fn keep(socket: BorrowedFd<'_>) -> io::Result<()> {
    let _ = rustix::thread::set_name(c"job-orch-room");
    let (children, stdout) = (sys::child_ends()?, io::stdout());
    let mut watched = None;
    loop {
        let mut bells = [socket, children.as_fd()].map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN));
        match poll(&mut bells, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What it says of the first of them is not needed: all are looked for.
        let _ = rustix::io::read(&children, &mut [0; sys::CHILD_END_BYTES]);
        while let Some(pid) = sys::ended_child() {
            sys::reap(pid);
        }
        match next_order(socket)? {
            Some([order::CLOSE, _]) => set_dumpable_behavior(DumpableBehavior::NotDumpable)?,
            Some([order::TERMINATE, _]) => {
                sys::signal_all(Signal::TERM);
                // A stopped process cannot act on it.
                sys::signal_all(Signal::CONT);
            }
            Some([order::WATCH, turn]) => watched = Some(turn),
            Some(_) => return Ok(()),
            None => {}
        }
        if let Some(turn) = watched.filter(|_| !sys::has_children()) {
            watched = None;
            tell(socket, &[answer::EMPTY, turn])?;
            rustix::io::write(&stdout, &1_u64.to_ne_bytes())?;
        }
    }
}

/// Zeros once the client is gone.
fn next_order(socket: BorrowedFd<'_>) -> io::Result<Option<[u8; 2]>> {
    let mut order = [0; 2];
    match recv(socket, &mut order, RecvFlags::DONTWAIT) {
        Ok(_) => Ok(Some(order)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn tell(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    send(socket, bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}
