//! Which processes belong to a payload, and signals to them: its session, the descendants of `run.sh`, and the orphans
//! that carry its `PAYLOAD_ID` in their environment, so that a child that called `setsid` is found as well.

use std::collections::HashSet;
use std::fs;

use procfs::process::{Process, all_processes};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::environment::PAYLOAD_ID;
use crate::event;
use crate::payload::PayloadId;

/// One process, as far as belonging goes.
struct Entry {
    pid: u32,
    parent: u32,
    session: u32,
    is_zombie: bool,
}

/// Sends `signal` to all processes of a payload. The group is signalled by one call, which the kernel makes atomic
/// against forks; the others one by one.
pub(super) fn signal_tree(id: PayloadId, root: u32, signal: Signal) {
    let members = members(id, root);
    if members.iter().any(|entry| entry.session == root) {
        signal_group(root, signal);
    }
    for entry in members.iter().filter(|entry| entry.session != root && !entry.is_zombie) {
        signal_one(entry.pid, signal);
    }
}

/// Whether any process of a payload lives, zombies not counted.
pub(super) fn any_left(id: PayloadId, root: u32) -> bool {
    members(id, root).iter().any(|entry| !entry.is_zombie)
}

/// Signals one process group.
pub(super) fn signal_group(group: u32, signal: Signal) {
    report("process group", group, pid_of(group).map(|pid| kill_process_group(pid, signal)));
}

/// Signals one process.
pub(super) fn signal_one(pid: u32, signal: Signal) {
    report("process", pid, pid_of(pid).map(|pid| kill_process(pid, signal)));
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

fn report(what: &str, number: u32, result: Option<rustix::io::Result<()>>) {
    match result {
        // Gone by itself is as good as signalled.
        Some(Ok(()) | Err(Errno::SRCH)) | None => {}
        Some(Err(errno)) => {
            event!(Warn, "cannot signal", what = what, pid = number, error = errno.to_string());
        }
    }
}

fn members(id: PayloadId, root: u32) -> Vec<Entry> {
    let own_pid = std::process::id();
    let all: Vec<Entry> = match all_processes() {
        Ok(processes) => processes.flatten().filter_map(|process| entry(&process)).collect(),
        Err(error) => {
            event!(Error, "cannot read /proc", payload = id, error = error.to_string());
            return Vec::new();
        }
    };
    let is_seed = |entry: &&Entry| {
        entry.pid == root
            || entry.session == root
            || (entry.parent == own_pid && payload_of(entry.pid) == Some(id))
    };
    let mut found: HashSet<u32> = all.iter().filter(is_seed).map(|entry| entry.pid).collect();
    // Children of members are members; repeat until none is new. Trees are shallow, so this takes few rounds.
    loop {
        let before = found.len();
        let children = all.iter().filter(|entry| found.contains(&entry.parent));
        let children: Vec<u32> = children.map(|entry| entry.pid).collect();
        found.extend(children);
        if found.len() == before {
            break;
        }
    }
    all.into_iter().filter(|entry| found.contains(&entry.pid)).collect()
}

fn entry(process: &Process) -> Option<Entry> {
    let stat = process.stat().ok()?;
    Some(Entry {
        pid: u32::try_from(stat.pid).ok()?,
        parent: u32::try_from(stat.ppid).ok()?,
        session: u32::try_from(stat.session).ok()?,
        is_zombie: stat.state == 'Z',
    })
}

/// The payload that a process says it belongs to, by the environment that it was started with.
pub(super) fn payload_of(pid: u32) -> Option<PayloadId> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|variable| variable.strip_prefix(PAYLOAD_ID.as_bytes())?.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The live children of this process that it did not start itself: orphans that came to it.
///
/// The kernel hands orphans to the first thread of a subreaper, while payloads are children of the runner's thread, so
/// one small file lists just the orphans (`/proc/PID/task/TID/children`, proc(5), Linux 3.5). Kernels built without it
/// cost a walk through /proc.
pub(super) fn adopted(known: &[u32]) -> Vec<u32> {
    let own_pid = std::process::id();
    let children: Vec<u32> = match fs::read_to_string(format!("/proc/self/task/{own_pid}/children")) {
        Ok(list) => list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => all_processes()
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|process| entry(&process))
            .filter(|entry| entry.parent == own_pid && !entry.is_zombie)
            .map(|entry| entry.pid)
            .collect(),
    };
    children.into_iter().filter(|pid| !known.contains(pid)).collect()
}
