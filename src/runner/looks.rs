//! Looks once a second what the processes of payloads use that have a limit which the kernel does not keep: memory, CPU time and
//! number of the whole tree. Sleeps while none such runs. A look, not a quota: what is taken between two looks is seen at the next.
//! Ends nothing itself; the runner does.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::Duration;

use super::Event;
use super::inbox::Sender;
use super::processes::{self, Entry, Tree, Unknown};
use crate::event;
use crate::limits::{self, Grant, Limit, Running};
use crate::payload::PayloadId;
use crate::store::{Store, StoreError};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread.
pub(super) fn start(running: Running, store: Store, events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("limits".to_owned()).spawn(move || {
        let mut looks = Looks { store, events, cpu: HashMap::new(), is_blind: false };
        loop {
            looks.look(&running.wait_for(is_looked_at));
            thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

fn is_looked_at(entry: &limits::Entry) -> bool {
    LOOKED_AT.iter().any(|limit| entry.grant.get(*limit).is_some() && !is_kept(entry, *limit))
}

const LOOKED_AT: [Limit; 3] = [Limit::Memory, Limit::Pids, Limit::Cpu];

/// Whether the kernel keeps it.
fn is_kept(entry: &limits::Entry, limit: Limit) -> bool {
    entry.group.as_ref().is_some_and(|group| group.keeps(limit))
}

/// Whether its processes have to be looked for: a cgroup has its CPU time ready.
fn is_tree_needed(entry: &limits::Entry) -> bool {
    let of_tree = if entry.group.is_some() { &LOOKED_AT[..2] } else { &LOOKED_AT[..] };
    of_tree.iter().any(|limit| entry.grant.get(*limit).is_some() && !is_kept(entry, *limit))
}

struct Looks {
    store: Store,
    events: Sender<Event>,
    /// By payload.
    cpu: HashMap<PayloadId, CpuTime>,
    /// The system lacks what it takes to look, and that is told.
    is_blind: bool,
}

impl Looks {
    fn look(&mut self, running: &[limits::Entry]) {
        self.cpu.retain(|id, _| running.iter().any(|entry| entry.id == *id));
        let (running, with_cpu): (Vec<_>, Vec<_>) = running.iter().partition(|entry| is_tree_needed(entry));
        for entry in with_cpu {
            self.judge(entry, &[]);
        }
        if running.is_empty() {
            return;
        }
        let trees: Vec<Tree> = running.iter().map(|entry| tree_of(entry)).collect();
        match processes::members_seen(&trees) {
            Ok(members) => {
                self.is_blind = false;
                for (entry, members) in running.iter().zip(&members) {
                    self.judge(entry, members);
                }
            }
            Err(Unknown(error)) => {
                if !self.is_blind {
                    event!(Error, "cannot look for payloads over their limits now", error = error);
                }
                self.is_blind = true;
            }
        }
    }

    fn judge(&mut self, entry: &limits::Entry, members: &[Entry]) {
        let cpu_ms = match &entry.group {
            Some(group) => group.cpu_ms(),
            None => self.cpu.entry(entry.id).or_default().ms_of(members),
        };
        let Some((limit, value)) = exceeded(&entry.grant, members, cpu_ms) else { return };
        if let Err(error) = self.end(entry.id, limit, value) {
            event!(Error, "cannot mark a payload as killed", payload = entry.id, error = error.to_string());
        }
    }

    fn end(&self, id: PayloadId, limit: Limit, value: u64) -> Result<(), StoreError> {
        if self.store.get(id)?.is_none_or(|payload| payload.killed) {
            return Ok(());
        }
        let reason = limit.reason(value);
        self.store.kill(id, &reason)?;
        event!(Warn, "payload is ended", payload = id, reason = reason);
        // Memory and processes are the whole host's: there may be none left in the time that SIGTERM gives.
        self.events.send(if limit == Limit::Cpu { Event::Kill(id) } else { Event::KillAtOnce(id) });
        Ok(())
    }
}

fn tree_of(entry: &limits::Entry) -> Tree {
    Tree {
        id: entry.id,
        user: entry.user,
        directory: entry.directory.clone(),
        root: entry.root,
        root_is_reaped: entry.root_is_reaped,
    }
}

/// The limit that is exceeded, with its value.
fn exceeded(grant: &Grant, members: &[Entry], cpu_ms: u64) -> Option<(Limit, u64)> {
    let is_over = |limit: Limit, used: &dyn Fn(u64) -> u64| {
        let most = grant.get(limit)?;
        (used(most) > most).then_some((limit, most))
    };
    let threads = |_: u64| members.iter().map(|entry| entry.threads).sum::<u64>();
    is_over(Limit::Memory, &|most| memory_of(members, most))
        .or_else(|| is_over(Limit::Pids, &threads))
        .or_else(|| is_over(Limit::Cpu, &|_| cpu_ms))
}

/// Bytes of memory that these processes take together. What several of them share counts once, but that is asked only where it matters:
/// where with it counted for each there is more than `most`.
fn memory_of(members: &[Entry], most: u64) -> u64 {
    let resident: u64 = members.iter().map(|entry| entry.resident_bytes).sum();
    if resident <= most {
        return resident;
    }
    let part = |entry: &Entry| processes::proportional_bytes(entry.pid).unwrap_or(entry.resident_bytes);
    members.iter().map(part).sum()
}

/// The CPU time of a tree, those of it included that are gone: their parents have theirs (`cutime`, proc_pid_stat(5)) where they waited
/// for them and are there.
#[derive(Default)]
struct CpuTime {
    /// By pid and start.
    seen: HashMap<(u32, u64), Seen>,
    /// Of those that went with their parents, or had none here, as last seen.
    lost_ms: u64,
}

#[derive(Clone, Copy)]
struct Seen {
    parent: u32,
    cpu_ms: u64,
}

impl CpuTime {
    fn ms_of(&mut self, members: &[Entry]) -> u64 {
        let now: HashMap<_, _> = members
            .iter()
            .map(|entry| ((entry.pid, entry.started), Seen { parent: entry.parent, cpu_ms: entry.cpu_ms }))
            .collect();
        let is_there = |pid| members.iter().any(|entry| entry.pid == pid);
        let gone = self.seen.iter().filter(|(key, seen)| !now.contains_key(key) && !is_there(seen.parent));
        self.lost_ms += gone.map(|(_, seen)| seen.cpu_ms).sum::<u64>();
        self.seen = now;
        self.lost_ms + self.seen.values().map(|seen| seen.cpu_ms).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, cpu_ms: u64) -> Entry {
        Entry { pid, parent, cpu_ms, ..Entry::default() }
    }

    #[test]
    fn the_time_of_those_that_are_gone_counts_once() {
        let mut cpu = CpuTime::default();
        assert_eq!(cpu.ms_of(&[process(10, 1, 5), process(11, 10, 100), process(12, 1, 40)]), 145);
        // 11 was waited for by 10, and 12 had nobody.
        assert_eq!(cpu.ms_of(&[process(10, 1, 105)]), 145);
        assert_eq!(cpu.ms_of(&[process(10, 1, 106), process(13, 10, 9)]), 155);
        // Both at once.
        assert_eq!(cpu.ms_of(&[]), 155);
    }

    #[test]
    fn threads_count_and_the_limit_itself_is_allowed() {
        let asked = limits::Request::of_text("pids_limit=4").expect("understood");
        let grant = asked.within(&Grant::default()).expect("granted");
        let members =
            |threads| [Entry { threads, ..process(1, 0, 0) }, Entry { threads: 1, ..process(2, 1, 0) }];
        assert_eq!(exceeded(&grant, &members(3), 0), None);
        assert_eq!(exceeded(&grant, &members(4), 0), Some((Limit::Pids, 4)));
    }
}
