//! cgroup v2, where a part of it is this client's own (Delegate=yes of systemd, a container): the kernel keeps the limits of a whole
//! tree there, says when it ended something for want of memory, and ends all that is in a group at once, wherever it hides.
//! Nobody else's groups are touched (cgroups(7); <https://systemd.io/CGROUP_DELEGATION/>).

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Access;

use super::{Grant, Limit};
use crate::event;
use crate::sys::Call;

/// Where it is mounted, alone (not so where v1 has the controllers).
const MOUNT: &str = "/sys/fs/cgroup";

/// `f_type` of it (statfs(2)).
const MAGIC: u64 = 0x6367_7270;

/// What a client makes there for itself and its payloads: with its pid, since several may share what is delegated.
const HOME: &str = "job-orchestrator.";

/// In that, where the client itself is: a group that has others in it has no processes of its own (cgroups(7)).
const DAEMON: &str = "daemon";

/// How a group of payloads begins.
const SLOT: &str = "slot-";

/// How long what was ended by `cgroup.kill` has to be gone.
const END_WAIT: Duration = Duration::from_secs(2);
const END_PAUSE: Duration = Duration::from_millis(2);

/// The period over which the kernel counts CPU time, in microseconds, as it is by default.
const CPU_PERIOD_US: u64 = 100_000;

/// The groups of this client's payloads: one for each that runs, used again by the next, since the kernel keeps what is known of a group
/// as long as the page cache has anything of it.
pub struct Cgroups {
    home: PathBuf,
    has: Controllers,
    /// How many processors there are for payloads.
    processors: u64,
    slots: Mutex<Slots>,
}

/// What the kernel keeps here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Controllers {
    memory: bool,
    pids: bool,
    cpu: bool,
}

#[derive(Default)]
struct Slots {
    /// The limits that are set in each.
    set: Vec<Option<Grant>>,
    free: Vec<usize>,
}

/// Why there are none, for people.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroups {
    /// This kernel has no cgroup v2, or v1 has its controllers.
    #[error("no cgroup v2 with a memory or pids controller is mounted at /sys/fs/cgroup")]
    NotHere,
    /// It belongs to somebody else.
    #[error("this client's cgroup is not delegated to it; Delegate=yes in its systemd unit does that")]
    NotDelegated,
    /// The system refuses.
    #[error("cgroup v2 cannot be used: {0}")]
    Refused(#[source] io::Error),
}

impl Cgroups {
    /// Takes what is delegated to this client, and moves it into a group of its own there. Call before children are started.
    pub fn take(processors: usize) -> Result<Arc<Self>, NoCgroups> {
        let delegated = delegated()?;
        let home = delegated.join(format!("{HOME}{}", std::process::id()));
        let has = settle(&delegated, &home).map_err(|error| {
            // Back to where it was.
            let _ = write(&delegated.join("cgroup.procs"), "0");
            remove(&home);
            NoCgroups::Refused(error)
        })?;
        let slots = Mutex::default();
        Ok(Arc::new(Self { home, has, processors: processors as u64, slots }))
    }

    /// What the kernel keeps here, in words.
    pub fn shown(&self) -> String {
        let Controllers { memory, pids, cpu } = self.has;
        let names = [(memory, "memory"), (pids, "pids"), (cpu, "cpu")];
        names.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }

    /// Ends and removes what earlier lives have left here. Call when nobody of them is left but payloads.
    pub fn remove_old(&self) {
        let entries = self.home.parent().and_then(|delegated| fs::read_dir(delegated).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(HOME)?.parse::<u32>().ok());
            let is_alive = |pid| Path::new("/proc").join(u32::to_string(&pid)).exists();
            let is_old = pid.is_some_and(|pid| pid != std::process::id() && !is_alive(pid));
            if is_old && !is_populated(&entry.path().join(DAEMON)) {
                event!(Info, "the cgroup of an earlier life is removed", cgroup = entry.path().display());
                end_all(&entry.path());
                remove(&entry.path());
            }
        }
    }

    /// Removes the groups of payloads that have ended.
    pub fn close(&self) {
        for number in 0..self.slots().set.len() {
            let _ = fs::remove_dir(self.slot(number));
        }
    }

    /// A group for a payload that may use so much. May wait while the kernel takes back memory.
    pub fn group(self: &Arc<Self>, grant: &Grant) -> io::Result<Group> {
        let (number, set) = {
            let mut slots = self.slots();
            let number = slots.free.pop().unwrap_or_else(|| {
                slots.set.push(None);
                slots.set.len() - 1
            });
            // Until it is known what is.
            (number, slots.set[number].take())
        };
        let group = self.prepare(number, set, grant);
        let mut slots = self.slots();
        match group {
            Ok(_) => slots.set[number] = Some(*grant),
            Err(_) => slots.free.push(number),
        }
        group
    }

    /// `set`: what is set in it already.
    fn prepare(self: &Arc<Self>, number: usize, set: Option<Grant>, grant: &Grant) -> io::Result<Group> {
        let path = self.slot(number);
        if set.is_none() {
            make(&path)?;
        }
        if set.as_ref() != Some(grant) {
            self.set(&path, grant)?;
        }
        let pids_events = self.has.pids.then(|| File::open(path.join("pids.events"))).transpose()?;
        let procs = CString::new(path.join("cgroup.procs").as_os_str().as_bytes())?;
        let before = Counters::default();
        let mut group = Group { cgroups: Arc::clone(self), number, path, procs, pids_events, before };
        group.before = group.counters();
        Ok(group)
    }

    fn set(&self, path: &Path, grant: &Grant) -> io::Result<()> {
        let or_max =
            |limit| grant.get(limit).map_or_else(|| "max".to_owned(), |value: u64| value.to_string());
        if self.has.memory {
            write(&path.join("memory.max"), &or_max(Limit::Memory))?;
            // What is over the limit is not to go on in the swap; a kernel may have none.
            let swap = if grant.get(Limit::Memory).is_some() { "0" } else { "max" };
            optional(write(&path.join("memory.swap.max"), swap))?;
            // All of a payload, and not one process of it (Linux 4.19).
            optional(write(&path.join("memory.oom.group"), "1"))?;
        }
        if self.has.pids {
            write(&path.join("pids.max"), &or_max(Limit::Pids))?;
        }
        if self.has.cpu {
            let number = grant.get(Limit::Processors).filter(|number| *number < self.processors);
            let most = number.map_or_else(|| "max".to_owned(), |number| (number * CPU_PERIOD_US).to_string());
            write(&path.join("cpu.max"), &format!("{most} {CPU_PERIOD_US}"))?;
        }
        Ok(())
    }

    fn slot(&self, number: usize) -> PathBuf {
        self.home.join(format!("{SLOT}{number}"))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The group of one payload.
pub struct Group {
    cgroups: Arc<Cgroups>,
    number: usize,
    path: PathBuf,
    procs: CString,
    pids_events: Option<File>,
    /// The group has had other payloads.
    before: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    /// How often its limit of memory was met and nothing could be taken back.
    oom: u64,
    /// How many processes the kernel has ended for want of memory, here or in the whole host.
    oom_kill: u64,
    /// How often it had no more processes because of its limit.
    pids_max: u64,
    cpu_us: u64,
}

/// Whose memory it was that did not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfMemory {
    /// The payload's own limit.
    Limit,
    /// The host's, or that of a group around the client.
    Host,
}

impl Group {
    /// What the child does to be in it, with all that it starts.
    pub fn join(&self) -> Call {
        Call::Write { path: Cow::Owned(self.procs.clone()), bytes: Cow::Borrowed(b"0") }
    }

    /// Whether the kernel keeps this limit here.
    pub fn keeps(&self, limit: Limit) -> bool {
        match limit {
            Limit::Memory => self.cgroups.has.memory,
            Limit::Pids => self.cgroups.has.pids,
            Limit::Processors => self.cgroups.has.cpu,
            _ => false,
        }
    }

    /// CPU time of all that has been in it, in milliseconds.
    pub fn cpu_ms(&self) -> u64 {
        self.counters().cpu_us.saturating_sub(self.before.cpu_us) / 1000
    }

    /// Whether the kernel has ended any of it for want of memory.
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let now = self.counters();
        if now.oom_kill <= self.before.oom_kill {
            return None;
        }
        Some(if now.oom > self.before.oom { OutOfMemory::Limit } else { OutOfMemory::Host })
    }

    /// Has an event (POLLPRI) when a process was refused; [`Group::is_full`] says whether, and waits for the next.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.pids_events.as_ref().map(File::as_fd)
    }

    /// Whether a process was refused it, since there were as many as may be.
    pub fn is_full(&self) -> bool {
        self.counters().pids_max > self.before.pids_max
    }

    /// Ends all that is in it by SIGKILL (Linux 5.14).
    pub fn kill(&self) {
        // Who has it not goes by the tree.
        let _ = write(&self.path.join("cgroup.kill"), "1");
    }

    fn counters(&self) -> Counters {
        let read = |name: &str| fs::read_to_string(self.path.join(name)).unwrap_or_default();
        let memory = if self.cgroups.has.memory { read("memory.events") } else { String::new() };
        Counters {
            oom: value(&memory, "oom"),
            oom_kill: value(&memory, "oom_kill"),
            pids_max: value(&self.pids_events(), "max"),
            cpu_us: value(&read("cpu.stat"), "usage_usec"),
        }
    }

    /// By the descriptor that is waited for: what was read of it is no event any more.
    fn pids_events(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.pids_events.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok());
        String::from_utf8_lossy(bytes.get(..length.unwrap_or(0)).unwrap_or_default()).into_owned()
    }
}

/// It is free for the next payload once nothing is in it any more.
impl Drop for Group {
    fn drop(&mut self) {
        if end_all(&self.path) {
            self.cgroups.slots().free.push(self.number);
        } else {
            event!(
                Warn,
                "processes of a payload cannot be ended; its cgroup is left to them",
                cgroup = self.path.display()
            );
        }
    }
}

/// The group that is this client's to divide: where it is, or, where a client has started it or systemd has put it deeper
/// (DelegateSubgroup=), above that.
fn delegated() -> Result<PathBuf, NoCgroups> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|_| NoCgroups::NotHere)?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or(NoCgroups::NotHere)?;
    let own = Path::new(MOUNT).join(own);
    let magic = rustix::fs::statfs(&own).map_err(|_| NoCgroups::NotHere)?.f_type;
    // Its sign and size depend on the machine.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let is_version_2 = magic as u64 & 0xFFFF_FFFF == MAGIC;
    let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let has_any = controllers.split_whitespace().any(|name| name == "memory" || name == "pids");
    if !is_version_2 || !has_any {
        return Err(NoCgroups::NotHere);
    }
    let base = match own.parent() {
        Some(home) if own.ends_with(DAEMON) && is_home(home) => home.parent().unwrap_or(home),
        _ => &own,
    };
    let above = base.parent().filter(|above| is_marked(above));
    let found = [Some(base), above].into_iter().flatten().find(|path| is_delegated(path));
    found.map(Path::to_owned).ok_or(NoCgroups::NotDelegated)
}

fn is_home(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(HOME))
}

/// Who is not root has been given what he may write. To root all is open, and most of it is a manager's: he goes by its mark, or by there
/// being nothing above, as in a container.
fn is_delegated(path: &Path) -> bool {
    let may_write = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
    let files = ["cgroup.procs", "cgroup.subtree_control"];
    may_write(path)
        && files.iter().all(|file| may_write(&path.join(file)))
        && (!rustix::process::geteuid().is_root() || path == Path::new(MOUNT) || is_marked(path))
}

/// By systemd, which has handed it down.
fn is_marked(path: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(path, *name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
    })
}

/// Makes the groups of this client, moves it there, and hands the controllers down.
fn settle(delegated: &Path, home: &Path) -> io::Result<Controllers> {
    let daemon = home.join(DAEMON);
    make(home)?;
    make(&daemon)?;
    write(&daemon.join("cgroup.procs"), "0")?;
    let mut refused = None;
    let mut hand_down = |name: &str| {
        let all = [delegated, home].into_iter();
        let handed = all.map(|path| write(&path.join("cgroup.subtree_control"), &format!("+{name}")));
        match handed.collect::<io::Result<()>>() {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        }
    };
    let has = Controllers { memory: hand_down("memory"), pids: hand_down("pids"), cpu: hand_down("cpu") };
    match refused {
        Some(error) if !has.memory && !has.pids => Err(error),
        _ => Ok(has),
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes groups of which nothing is left, those within first; a group has files, but they go with it.
fn remove(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(home);
}

/// Ends all that is in a group, and in those within. Gives whether nothing is left.
fn end_all(path: &Path) -> bool {
    let deadline = Instant::now() + END_WAIT;
    while is_populated(path) {
        if write(&path.join("cgroup.kill"), "1").is_err() || Instant::now() >= deadline {
            return false;
        }
        thread::sleep(END_PAUSE);
    }
    true
}

fn is_populated(path: &Path) -> bool {
    value(&fs::read_to_string(path.join("cgroup.events")).unwrap_or_default(), "populated") > 0
}

/// The value of a line `name value`.
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// By one write, to what is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_at(text.as_bytes(), 0).map(drop)
}

/// What a kernel may not have.
fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "low 0\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!((value(text, "oom"), value(text, "oom_kill"), value(text, "kill")), (2, 3, 0));
    }
}
