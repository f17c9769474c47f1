//! Which processes belong to a payload, and signals to them: its session, the descendants of `run.sh`, and the orphans
//! whose environment, working directory or output says where they come from, so that a child that called `setsid` is
//! found as well.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use procfs::FromRead as _;
use procfs::process::Stat;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::environment::{PAYLOAD_DIR, PAYLOAD_ID};
use super::starter::is_shortage;
use crate::data::{STDERR_FILE, STDOUT_FILE};
use crate::event;
use crate::payload::PayloadId;
use crate::sys;

/// How long the processes of a client that is gone are ended; one may hang in the kernel.
pub(super) const STRAYS_WAIT: Duration = Duration::from_secs(10);
const STRAYS_PAUSE: Duration = Duration::from_millis(5);

/// None is left when none was seen for so long: one that is in the middle of a fork or an exec shows nothing of itself for a moment.
const STRAYS_QUIET: Duration = Duration::from_millis(50);

/// How often in a row the orphans are looked at for those that fork their successor and end.
const LINE_LOOKS: u32 = 50;
const LINE_PAUSE: Duration = Duration::from_millis(1);

/// One process: where it belongs, and what it uses.
#[cfg_attr(test, derive(Default))]
pub(super) struct Entry {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    pub(super) is_zombie: bool,
    /// When it was started, in ticks since the boot: with the pid the one name that no other process has.
    pub(super) started: u64,
    /// Its CPU time, and that of the children that it has waited for.
    pub(super) cpu_ms: u64,
    /// Its memory, what it shares with others included.
    pub(super) resident_bytes: u64,
    pub(super) threads: u64,
}

/// What is known of a payload's tree: its id, and the pid of its `run.sh`, which is the number of its session and group.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) id: PayloadId,
    /// As which all its processes run, and no others; `None` where that is the client's user.
    pub(super) user: Option<u32>,
    pub(super) directory: Arc<Path>,
    pub(super) root: u32,
    /// From then on the root's number may be a stranger's; what is left of the tree are our adopted children, and theirs.
    pub(super) root_is_reaped: bool,
}

/// Sends `signal` to all processes of a payload. Its group is signalled by one call, which the kernel makes atomic
/// against forks. The others are looked for before it, while they still descend from `run.sh`, and after it, since one may
/// have left the group in between. `known` are our children that are no orphans.
pub(super) fn signal_tree(tree: &Tree, known: &[u32], signal: Signal) {
    // Where that is not known now, its group is all that is reached; SIGKILL is sent again.
    let members_now = || members(tree, known).unwrap_or_default();
    let mut members = members_now();
    if !tree.root_is_reaped || members.iter().any(|entry| entry.group == tree.root) {
        signal_group(tree.root, signal);
    }
    members.retain(|entry| entry.group != tree.root);
    for entry in members_now() {
        if entry.group != tree.root && members.iter().all(|known| known.pid != entry.pid) {
            members.push(entry);
        }
    }
    for entry in members.iter().filter(|entry| !entry.is_zombie) {
        signal_one(entry.pid, signal);
    }
    if signal == Signal::KILL {
        // Its caller looks again.
        let _ = is_without_orphans(tree, known, Some(signal));
    }
}

/// Whether any process of a payload lives whose `run.sh` is reaped, zombies not counted. Each is an orphan then, and so our
/// child, or descends from one. `known` are our children that are no orphans.
pub(super) fn any_left(tree: &Tree, known: &[u32]) -> Result<bool, Unknown> {
    Ok(!is_without_orphans(tree, known, None)?)
}

/// Whether no orphan is left of a payload, be it one that forks its successor and is gone faster than /proc can be walked. Of
/// such a line one process is our child at each moment, since its parent is gone, and the list of our children is one quick look.
/// With `signal`, what is met is sent it, again and again, until nothing comes after it.
fn is_without_orphans(tree: &Tree, known: &[u32], signal: Option<Signal>) -> Result<bool, Unknown> {
    for _ in 0..LINE_LOOKS {
        let mut is_line_seen = false;
        for pid in adopted(known)? {
            // At once: a line leaves thousands of zombies a second, and all that are there slow down each look at /proc.
            if sys::reap(pid).is_some() {
                // It may have lived when the list was read, and its successor have come to us since.
                is_line_seen = true;
            } else if is_of(pid, tree)? {
                let Some(signal) = signal else { return Ok(false) };
                signal_one(pid, signal);
                is_line_seen = true;
            }
        }
        if !is_line_seen {
            return Ok(true);
        }
        if signal.is_some() {
            // On a busy host what is killed needs the processor to die, and only then hands over what it has forked.
            thread::sleep(LINE_PAUSE);
        }
    }
    Ok(false)
}

/// Whether an orphan is of this payload, by what it shows or by its session.
fn is_of(pid: u32, tree: &Tree) -> Result<bool, Unknown> {
    if is_of_user(pid, tree)? || Origin::of(pid)?.is(tree.id, &tree.directory) {
        return Ok(true);
    }
    let entry = entry(pid)?;
    Ok(entry.is_some_and(|entry| !entry.is_zombie && entry.pid != tree.root && entry.session == tree.root))
}

/// Whether a process runs as the user that a payload has for itself. It cannot become another one.
fn is_of_user(pid: u32, tree: &Tree) -> Result<bool, Unknown> {
    Ok(tree.user.is_some() && user_of(pid)? == tree.user)
}

/// As which user a process runs (proc_pid_status(5)). Not by the owner of its directory in /proc, which a process can make root.
pub(super) fn user_of(pid: u32) -> Result<Option<u32>, Unknown> {
    let status = seen(fs::read_to_string(format!("/proc/{pid}/status")))?.unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(user.and_then(|user| user.split_whitespace().next()?.parse().ok()))
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

/// The processes of a payload. Orphans that have ended are reaped as they are met: who forks faster than this goes through
/// /proc would otherwise fill the table of processes.
fn members(tree: &Tree, known: &[u32]) -> Result<Vec<Entry>, Unknown> {
    let own_pid = std::process::id();
    let is_ended_orphan =
        |entry: &Entry| entry.is_zombie && entry.parent == own_pid && !known.contains(&entry.pid);
    let mut all = entries()?;
    all.retain(|entry| !is_ended_orphan(entry) || sys::reap(entry.pid).is_none());
    let is_of_root = |entry: &Entry| entry.pid == tree.root || entry.session == tree.root;
    let is_seed = |entry: &Entry| {
        if !tree.root_is_reaped && is_of_root(entry) {
            return Ok(true);
        }
        if entry.parent != own_pid || entry.pid == tree.root {
            return Ok(false);
        }
        // Of orphans alone: a container on this machine may have the same ids.
        if is_of_user(entry.pid, tree)? {
            return Ok(true);
        }
        Ok(entry.session == tree.root || Origin::of(entry.pid)?.is(tree.id, &tree.directory))
    };
    let mut seeds = HashSet::new();
    for entry in &all {
        if is_seed(entry)? {
            seeds.insert(entry.pid);
        }
    }
    let found = with_descendants(&all, seeds);
    all.retain(|entry| found.contains(&entry.pid));
    Ok(all)
}

/// The processes of each of these payloads, by one look at /proc, for whom it is enough to look: nothing is reaped. What is left of a
/// payload by `run.sh` descends from us, or from an init of ours, and shows where it comes from.
pub(super) fn members_seen(trees: &[Tree]) -> Result<Vec<Vec<Entry>>, Unknown> {
    let own_pid = std::process::id();
    let all = entries()?;
    let ours = with_descendants(&all, HashSet::from([own_pid]));
    let of_root = |tree: &Tree| {
        let is_seed =
            |entry: &&Entry| !tree.root_is_reaped && (entry.pid == tree.root || entry.session == tree.root);
        with_descendants(&all, all.iter().filter(is_seed).map(|entry| entry.pid).collect())
    };
    let mut found: Vec<HashSet<u32>> = trees.iter().map(of_root).collect();
    for entry in all.iter().filter(|entry| entry.pid != own_pid && ours.contains(&entry.pid)) {
        if found.iter().any(|members| members.contains(&entry.pid)) {
            continue;
        }
        let origin = Origin::of(entry.pid)?;
        let is_of = |tree: &Tree| entry.session == tree.root || origin.is(tree.id, &tree.directory);
        if let Some(index) = trees.iter().position(is_of) {
            found[index].insert(entry.pid);
        }
    }
    let mut members: Vec<Vec<Entry>> = trees.iter().map(|_| Vec::new()).collect();
    for entry in all {
        if let Some(index) = found.iter().position(|members| members.contains(&entry.pid)) {
            members[index].push(entry);
        }
    }
    Ok(members)
}

/// The memory of a process, with its part of what it shares (`smaps_rollup`, Linux 4.14).
pub(super) fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Children of members are members; repeats until none is new. Trees are shallow, so this takes few rounds.
fn with_descendants(all: &[Entry], mut members: HashSet<u32>) -> HashSet<u32> {
    loop {
        let before = members.len();
        let children = all.iter().filter(|entry| members.contains(&entry.parent));
        let children: Vec<u32> = children.map(|entry| entry.pid).collect();
        members.extend(children);
        if members.len() == before {
            return members;
        }
    }
}

/// Ends all processes of all payloads below `data_path` by SIGKILL, for a client that is gone: they are nobody's children
/// now, so the environment and the output that they were started with, sessions and descent have to tell them.
/// `ids`: the users that only they run as.
pub fn end_strays(data_path: &Path, ids: Option<&RangeInclusive<u32>>) {
    let deadline = Instant::now() + STRAYS_WAIT;
    let mut quiet_at = Instant::now() + STRAYS_QUIET;
    let mut sessions = HashSet::new();
    loop {
        let strays = strays(data_path, ids, &mut sessions);
        let now = Instant::now();
        if now >= deadline {
            match strays {
                Ok(strays) => {
                    event!(Error, "processes of earlier payloads cannot be ended", number = strays.len());
                }
                Err(Unknown(error)) => {
                    event!(Error, "processes of earlier payloads cannot be looked for", error = error);
                }
            }
            return;
        }
        let strays = match strays {
            Ok(strays) if strays.is_empty() && now >= quiet_at => return,
            Ok(strays) => strays,
            Err(Unknown(_)) => {
                quiet_at = now + STRAYS_QUIET;
                Vec::new()
            }
        };
        if strays.is_empty() {
            thread::sleep(STRAYS_PAUSE);
            continue;
        }
        quiet_at = now + STRAYS_QUIET;
        for stray in &strays {
            // By groups first: one call reaches all that a fork bomb has in one, and none can be forked meanwhile.
            if stray.group == stray.pid {
                signal_group(stray.group, Signal::KILL);
            }
        }
        for stray in &strays {
            signal_one(stray.pid, Signal::KILL);
        }
        event!(Info, "processes of earlier payloads are ended", number = strays.len());
        thread::sleep(STRAYS_PAUSE);
    }
}

/// `known`: the sessions of those that were seen before, who may be gone by now; more are added.
fn strays(
    data_path: &Path,
    ids: Option<&RangeInclusive<u32>>,
    known: &mut HashSet<u32>,
) -> Result<Vec<Entry>, Unknown> {
    let own_pid = std::process::id();
    let all = entries()?;
    let mut seeds = HashSet::new();
    for entry in &all {
        if is_of_a_payload(entry.pid, data_path, ids)? {
            seeds.insert(entry.pid);
        }
    }
    // A payload leads a session of its own: whoever is in one with it is of it, whatever else he hides. Not so where the
    // leader is known and none of a payload's: somebody's shell, in which he runs a payload's script by hand.
    let is_leader_foreign =
        |session| !seeds.contains(&session) && all.iter().any(|entry| entry.pid == session);
    let of_seeds = all.iter().filter(|entry| seeds.contains(&entry.pid) && !is_leader_foreign(entry.session));
    known.extend(of_seeds.map(|entry| entry.session));
    let in_sessions = all.iter().filter(|entry| known.contains(&entry.session)).map(|entry| entry.pid);
    let members = with_descendants(&all, seeds.iter().copied().chain(in_sessions).collect());
    let is_stray = |entry: &Entry| members.contains(&entry.pid) && !entry.is_zombie && entry.pid != own_pid;
    Ok(all.into_iter().filter(is_stray).collect())
}

/// By what only a payload's processes have: the variable, or the logs as output. Not by the working directory, which may be
/// that of a person who looks at the files. And by its user, unless it says that it is of another client's, or is in a container,
/// which may have the same ids.
fn is_of_a_payload(pid: u32, data_path: &Path, ids: Option<&RangeInclusive<u32>>) -> Result<bool, Unknown> {
    let named = variable_of(pid, PAYLOAD_DIR)?.map(PathBuf::from);
    let is_of_user = |ids: &RangeInclusive<u32>| {
        let is_one = user_of(pid)?.is_some_and(|user| ids.contains(&user));
        Ok(is_one && targets_of(pid, &["ns/pid"])? == targets_of(std::process::id(), &["ns/pid"])?)
    };
    match named {
        Some(directory) if directory.parent() == Some(data_path) => return Ok(true),
        None if ids.map_or(Ok(false), is_of_user)? => return Ok(true),
        _ => {}
    }
    Ok(targets_of(pid, &["fd/1", "fd/2"])?.iter().any(|file| {
        let is_log = file.file_name().is_some_and(|name| name == STDOUT_FILE || name == STDERR_FILE);
        is_log && file.parent().and_then(Path::parent) == Some(data_path)
    }))
}

/// The system lacks what it takes to look at processes, descriptors for instance.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Unknown(pub(super) io::Error);

/// What was read in /proc. `None` of what is gone, or another user's, or not there in this kernel.
fn seen<T>(read: io::Result<T>) -> Result<Option<T>, Unknown> {
    match read {
        Ok(seen) => Ok(Some(seen)),
        Err(error) if is_shortage(&error) => Err(Unknown(error)),
        Err(_) => Ok(None),
    }
}

/// The processes of this system; none, which the log tells, without /proc.
fn entries() -> Result<Vec<Entry>, Unknown> {
    let listing = match fs::read_dir("/proc") {
        Ok(listing) => listing,
        Err(error) if is_shortage(&error) => return Err(Unknown(error)),
        Err(error) => {
            event!(Error, "cannot read /proc", error = error);
            return Ok(Vec::new());
        }
    };
    let mut entries = Vec::new();
    for found in listing {
        let Some(found) = seen(found)? else { break };
        let Some(pid) = found.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        entries.extend(entry(pid)?);
    }
    Ok(entries)
}

fn entry(pid: u32) -> Result<Option<Entry>, Unknown> {
    let stat = seen(fs::read(format!("/proc/{pid}/stat")))?;
    Ok(stat.and_then(|stat| entry_of(&stat)))
}

fn entry_of(stat: &[u8]) -> Option<Entry> {
    let stat = Stat::from_read(stat).ok()?;
    let waited_for = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
    let ticks = stat.utime + stat.stime + waited_for;
    Some(Entry {
        pid: u32::try_from(stat.pid).ok()?,
        parent: u32::try_from(stat.ppid).ok()?,
        group: u32::try_from(stat.pgrp).ok()?,
        session: u32::try_from(stat.session).ok()?,
        is_zombie: stat.state == 'Z',
        started: stat.starttime,
        cpu_ms: ticks * 1000 / rustix::param::clock_ticks_per_second(),
        resident_bytes: stat.rss * rustix::param::page_size() as u64,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
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
    pub(super) fn of(pid: u32) -> Result<Self, Unknown> {
        if let Some(id) = payload_of(pid)? {
            return Ok(Self::Payload(id));
        }
        Ok(Self::Places(targets_of(pid, &["cwd", "fd/1", "fd/2"])?))
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
fn payload_of(pid: u32) -> Result<Option<PayloadId>, Unknown> {
    Ok(variable_of(pid, PAYLOAD_ID)?.and_then(|id| id.to_str()?.parse().ok()))
}

/// A variable of the environment that a process was started with (proc_pid_environ(5)).
fn variable_of(pid: u32, name: &str) -> Result<Option<OsString>, Unknown> {
    let environment = seen(fs::read(format!("/proc/{pid}/environ")))?.unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    Ok(value.map(|value| OsStr::from_bytes(value).to_owned()))
}

/// Where links of /proc/PID point, or pointed: the kernel marks what has been removed since (proc_pid_cwd(5)).
fn targets_of(pid: u32, links: &[&str]) -> Result<Vec<PathBuf>, Unknown> {
    let mut targets = Vec::new();
    for link in links {
        let Some(target) = seen(fs::read_link(format!("/proc/{pid}/{link}")))? else { continue };
        let original = target.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
        targets.push(original.unwrap_or(target));
    }
    Ok(targets)
}

/// The live children of this process that it did not start itself: orphans that came to it.
///
/// The kernel hands orphans to the first thread of a subreaper, while payloads are children of the runner's thread, so
/// one small file lists just the orphans (`/proc/PID/task/TID/children`, proc(5), Linux 3.5). Kernels built without it
/// cost a walk through /proc.
pub(super) fn adopted(known: &[u32]) -> Result<Vec<u32>, Unknown> {
    let own_pid = std::process::id();
    let mut children: Vec<u32> =
        match seen(fs::read_to_string(format!("/proc/self/task/{own_pid}/children")))? {
            Some(list) => list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
            None => entries()?
                .iter()
                .filter(|entry| entry.parent == own_pid && !entry.is_zombie)
                .map(|entry| entry.pid)
                .collect(),
        };
    children.retain(|pid| !known.contains(pid));
    Ok(children)
}
