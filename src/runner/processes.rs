//! Which processes belong to a payload, and signals to them: its session, the descendants of `run.sh`, and the orphans
//! whose environment, working directory or output says where they come from, so that a child that called `setsid` is
//! found as well.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    group: u32,
    session: u32,
    is_zombie: bool,
}

/// What is known of a payload's tree: its id, and the pid of its `run.sh`, which is the number of its session and group.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) id: PayloadId,
    pub(super) directory: Arc<Path>,
    pub(super) root: u32,
    /// From then on the root's number may be a stranger's; what is left of the tree are our adopted children, and theirs.
    pub(super) root_is_reaped: bool,
}

/// Sends `signal` to all processes of a payload. Its group is signalled by one call, which the kernel makes atomic
/// against forks. The others are looked for before it, while they still descend from `run.sh`, and after it, since one may
/// have left the group in between.
pub(super) fn signal_tree(tree: &Tree, signal: Signal) {
    let mut members = members(tree);
    if !tree.root_is_reaped || members.iter().any(|entry| entry.group == tree.root) {
        signal_group(tree.root, signal);
    }
    members.retain(|entry| entry.group != tree.root);
    for entry in self::members(tree) {
        if entry.group != tree.root && members.iter().all(|known| known.pid != entry.pid) {
            members.push(entry);
        }
    }
    for entry in members.iter().filter(|entry| !entry.is_zombie) {
        signal_one(entry.pid, signal);
    }
}

/// Whether any process of a payload lives, zombies not counted.
pub(super) fn any_left(tree: &Tree) -> bool {
    members(tree).iter().any(|entry| !entry.is_zombie)
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

fn members(tree: &Tree) -> Vec<Entry> {
    let own_pid = std::process::id();
    let all: Vec<Entry> = match all_processes() {
        Ok(processes) => processes.flatten().filter_map(|process| entry(&process)).collect(),
        Err(error) => {
            event!(Error, "cannot read /proc", payload = tree.id, error = error.to_string());
            return Vec::new();
        }
    };
    let is_of_root = |entry: &Entry| entry.pid == tree.root || entry.session == tree.root;
    let is_seed = |entry: &&Entry| {
        let is_child = entry.parent == own_pid;
        let is_root = entry.pid == tree.root;
        (!tree.root_is_reaped && is_of_root(entry))
            || (is_child && !is_root && entry.session == tree.root)
            || (is_child && !is_root && Origin::of(entry.pid).is(tree.id, &tree.directory))
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
        group: u32::try_from(stat.pgrp).ok()?,
        session: u32::try_from(stat.session).ok()?,
        is_zombie: stat.state == 'Z',
    })
}

/// What a process itself shows of where it comes from.
#[derive(Debug, PartialEq)]
pub(super) enum Origin {
    /// Its environment names the payload.
    Payload(PayloadId),
    /// It cleared its environment; these are its working directory and where its output goes.
    Places(Vec<PathBuf>),
}

impl Origin {
    pub(super) fn of(pid: u32) -> Self {
        payload_of(pid).map_or_else(|| Self::Places(places_of(pid)), Self::Payload)
    }

    /// Whether that is the payload with this id and directory.
    pub(super) fn is(&self, id: PayloadId, directory: &Path) -> bool {
        match self {
            Self::Payload(named) => *named == id,
            Self::Places(_) => self.is_within(directory),
        }
    }

    /// Whether it lives in this directory.
    pub(super) fn is_within(&self, directory: &Path) -> bool {
        matches!(self, Self::Places(places) if places.iter().any(|place| place.starts_with(directory)))
    }
}

/// The payload that a process was started for, by the environment that it was started with.
fn payload_of(pid: u32) -> Option<PayloadId> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value =
        variables.find_map(|variable| variable.strip_prefix(PAYLOAD_ID.as_bytes())?.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn places_of(pid: u32) -> Vec<PathBuf> {
    let links = ["cwd", "fd/1", "fd/2"].into_iter();
    let targets = links.filter_map(|link| fs::read_link(format!("/proc/{pid}/{link}")).ok());
    // The kernel marks what has been removed since (proc_pid_cwd(5)).
    targets
        .map(|target| match target.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
            Some(original) => PathBuf::from(original),
            None => target,
        })
        .collect()
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
