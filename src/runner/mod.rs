//! The runner: one OS thread that owns every process of every payload. It starts, ends and reaps them, so none of these can
//! race with another. It sleeps in poll(2) and is woken by an event, the end of a child or its next deadline, never by a
//! tick. What may wait for the disk, before a start and after an end, is done elsewhere (`starter.rs`, `end.rs`).

mod end;
mod environment;
mod guard;
mod hand_over;
mod inbox;
mod keeper;
mod looks;
mod output;
mod processes;
mod room;
mod script;
mod start;
mod starter;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal};

use crate::clock::running_ms;
use crate::data::path::DataPath;
use crate::disk_threads::Disk;
use crate::event;
use crate::host::strain::Strain;
use crate::limits::{self, Cgroups, Entry, Grant, Group, Limit, Processors, Running, Taken};
use crate::metrics;
use crate::payload::{LeftOver, Outcome, PayloadId, Status};
use crate::sandbox::Sandbox;
use crate::sandbox::always;
use crate::sandbox::users::Users;
use crate::store::Store;
use crate::sys::{self, Call, Exit};
use crate::upkeep::record_writer::Records;
use end::Ends;
use guard::Guard;
use inbox::{Inbox, Sender, inbox};
use room::Room;
use start::{Launcher, StartError};
use starter::{Ready, Starter};

pub use guard::run as run_guard;
pub use keeper::run as run_keeper;
pub use output::{KeptBack, Output};
pub use processes::end_strays;
pub use room::RoomPool;
pub use starter::Obstacle;

/// How often SIGKILL is sent to the tree of a payload that is still there after it, and how often what is left of payloads is
/// looked for while the system lacks what it takes to know.
const ENDING_LOOK: Duration = Duration::from_millis(50);

/// Starting or ending a payload takes milliseconds; a runner that is at it for so long hangs.
const STUCK: Duration = Duration::from_secs(10);

/// Why payloads are killed when the client goes.
const STOPPED: &str = "the client was stopped";

/// What the runner is told.
enum Event {
    /// Start this payload, unless it has been killed meanwhile.
    Start(Box<Ready>),
    /// End the processes of this payload; the store says `Killed` already.
    Kill(PayloadId),
    /// As `Kill`, by SIGKILL: the host has no time to lose.
    KillAtOnce(PayloadId),
    /// Start nothing more; end what still runs at this moment; then say so.
    Drain(Instant, mpsc::Sender<()>),
    /// End all processes by SIGKILL.
    Abort,
}

/// How the runner behaves.
pub struct Limits {
    /// How many payloads run at once.
    pub slots: usize,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// What processes have that `run.sh` leaves behind, until SIGTERM.
    pub linger: Duration,
    /// What each payload may use at the most.
    pub grant: Grant,
    /// How many processors there are for payloads.
    pub usable_processors: usize,
    /// Where the kernel keeps a part of it, if so.
    pub cgroups: Option<Arc<Cgroups>>,
    /// How many bytes of each output of a payload are kept; `None` for all.
    pub max_log: Option<u64>,
    /// The limits that payloads have (getrlimit(2)), where the client has other ones.
    pub of_processes: Vec<(Resource, Rlimit)>,
    /// Whether the next life of the client takes up what waits when this one is stopped.
    pub has_successor: bool,
    /// As whom payloads run; `None` for the client's own user.
    pub users: Option<Arc<Users>>,
    /// What keeps payloads to what they were given.
    pub sandbox: Sandbox,
    /// Where payloads live, if the host permits namespaces.
    pub rooms: Option<RoomPool>,
}

/// A handle to the runner; cheap to clone.
#[derive(Clone)]
pub struct Runner {
    events: Sender<Event>,
    starter: Starter,
    busy_since: Arc<AtomicI64>,
}

impl Runner {
    /// Starts the runner's thread, which does nothing before the function that is given beside the handle is called. Makes this
    /// process the reaper of all its descendants
    /// (`PR_SET_CHILD_SUBREAPER`, Linux 3.4), so that what a payload leaves behind comes here and not to init.
    pub fn prepare(
        store: Store,
        records: Records,
        data_path: &DataPath,
        mut limits: Limits,
        processors: Processors,
        running: Running,
        strain: Strain,
    ) -> io::Result<(Self, impl FnOnce())> {
        let adopts = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        if let Err(errno) = adopts {
            // Not every emulation of Linux has it. Payloads run all the same.
            event!(
                Warn,
                "what payloads leave behind cannot be adopted here, and may outlive them",
                error = errno.to_string()
            );
        }
        let (events, inbox) = inbox()?;
        let children = sys::child_ends()?;
        let busy_since = Arc::new(AtomicI64::new(0));
        let (sandbox, rooms) = (limits.sandbox.clone(), limits.rooms.take());
        let launcher = Arc::new(Launcher::new(limits.max_log, limits.of_processes.clone(), sandbox)?);
        always::close_to_others();
        let ends = Ends { store: store.clone(), records };
        let starter = Starter::new(
            ends.clone(),
            data_path.clone(),
            Arc::clone(&launcher),
            &limits,
            strain,
            events.clone(),
        );
        looks::start(running.clone(), store.clone(), events.clone())?;
        let work = Work {
            ends,
            store,
            launcher,
            starter: starter.clone(),
            limits,
            runs: Vec::new(),
            processors,
            running,
            data_path: data_path.path().to_owned(),
            strangers: processes::adopted(&[]).map_err(io::Error::other)?,
            guard: None,
            rooms,
            drain: None,
            is_drained: false,
            is_look_due: false,
            look_at: None,
            adopts: adopts.is_ok() || std::process::id() == 1,
            busy_since: Arc::clone(&busy_since),
            disk: Disk::with_a_thread()?,
            ends_under_way: Arc::default(),
            events: events.clone(),
        };
        let (begin, start) = mpsc::channel();
        thread::Builder::new().name("runner".to_owned()).spawn(move || {
            // An error is a start of the client that has failed.
            if start.recv().is_ok() {
                work.run(&inbox, &children);
            }
        })?;
        let begin = move || {
            // The thread waits for nothing else.
            let _ = begin.send(());
        };
        Ok((Self { events, starter, busy_since }, begin))
    }

    /// Starts what waits as long as a slot is free: to be called after a payload was queued. May wait for the disk.
    pub fn start_waiting(&self) {
        self.starter.fill_slots();
        if self.starter.is_closed() {
            self.events.wake();
        }
    }

    /// What is in the way of the start of a payload, if so: those that wait go on waiting.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.starter.obstacle()
    }

    /// An output of a payload that runs, where MAX_LOG keeps a part of it back: 0 is standard output, 1 standard error.
    pub fn output(&self, id: PayloadId, number: usize) -> Option<Arc<Output>> {
        self.starter.launcher().outputs()?.find(id, number)
    }

    /// `told` is called with each payload that prints what MAX_LOG keeps back. The first call counts.
    pub fn when_kept_back(&self, told: impl Fn(PayloadId) + Send + Sync + 'static) {
        if let Some(outputs) = self.starter.launcher().outputs() {
            outputs.when_kept_back(told);
        }
    }

    /// Ends the whole process tree of a payload that the store has marked `Killed`.
    pub fn kill(&self, id: PayloadId) {
        self.events.send(Event::Kill(id));
    }

    /// Starts no further payload, and ends those that still run at `deadline`. `done` is told when none is left.
    pub fn drain(&self, deadline: Instant, done: mpsc::Sender<()>) {
        self.events.send(Event::Drain(deadline, done));
    }

    /// Ends everything that runs by SIGKILL, for a client that must go now.
    pub fn abort(&self) {
        self.events.send(Event::Abort);
    }

    /// How long the runner has been at one piece of work: more than a moment means that a disk or the kernel holds it.
    pub fn stuck_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(u64::try_from(running_ms() - since).unwrap_or(0)),
        }
    }

    /// Whether that is longer than any start or end of a payload could take.
    pub fn is_stuck(&self) -> bool {
        self.stuck_for() > STUCK
    }
}

/// A payload whose processes are under way.
struct Run {
    id: PayloadId,
    slot: usize,
    /// As which it runs, where that is its own.
    user: Option<u32>,
    pid: u32,
    directory: Arc<Path>,
    started: Instant,
    /// What it may use.
    grant: Grant,
    /// Until when it may run.
    limit: Option<Instant>,
    /// The processors that it may use, where these are not all.
    processors: Option<Taken>,
    group: Option<Arc<Group>>,
    phase: Phase,
    /// How those end that `run.sh` has left behind, where it has.
    left_over: Option<LeftOver>,
    /// Where MAX_LOG bounds them.
    outputs: Vec<Arc<Output>>,
    /// What it lives in, where the host has rooms.
    room: Option<Room>,
}

enum Phase {
    /// `run.sh` runs.
    Running,
    /// `run.sh` has ended. What it left behind has until then to end by itself.
    Lingering { until: Instant, exit: Exit },
    /// The tree has got SIGTERM and gets SIGKILL at `kill_at`; `exit` is there once `run.sh` itself is gone.
    Ending { kill_at: Instant, exit: Option<Exit> },
}

/// The state of the runner's thread.
struct Work {
    store: Store,
    ends: Ends,
    limits: Limits,
    launcher: Arc<Launcher>,
    starter: Starter,
    runs: Vec<Run>,
    processors: Processors,
    /// What runs, for those who look at limits.
    running: Running,
    /// Where all payload directories are.
    data_path: PathBuf,
    /// Children that this process had before the runner: somebody else's, left alone.
    strangers: Vec<u32>,
    /// Ends the payloads if this process is killed.
    guard: Option<Guard>,
    rooms: Option<RoomPool>,
    drain: Option<(Instant, mpsc::Sender<()>)>,
    /// Whether the listener of `drain` has been told that nothing is left.
    is_drained: bool,
    /// Whether a process has ended since the trees were looked at of which `run.sh` is gone. What is left of them are orphans,
    /// and theirs: none can go unheard.
    is_look_due: bool,
    /// When they are looked at again though none has ended.
    look_at: Option<Instant>,
    /// Whether orphans come to us.
    adopts: bool,
    busy_since: Arc<AtomicI64>,
    /// What waits for the disk, and how many ends are under way there.
    disk: Disk,
    ends_under_way: Arc<AtomicUsize>,
    events: Sender<Event>,
}

impl Work {
    fn run(mut self, inbox: &Inbox<Event>, children: &OwnedFd) {
        self.start_guard();
        // Its guard is gone, too.
        if let Some(cgroups) = &self.limits.cgroups {
            cgroups.remove_old();
        }
        // What an earlier life has left; who comes later starts himself.
        if self.store.waiting() > 0 {
            self.fill_slots();
        }
        loop {
            self.reap();
            self.enforce_deadlines();
            self.retry_starts();
            self.give_up_waiting();
            self.report_drained();
            self.sleep(inbox, children);
            for event in inbox.take() {
                self.handle(event);
            }
        }
    }

    /// Sleeps until something happens or the next deadline comes.
    fn sleep(&mut self, inbox: &Inbox<Event>, children: &OwnedFd) {
        self.busy_since.store(0, Ordering::Relaxed);
        let left = self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time that does not fit is centuries away.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        // A bell twice is as good as once.
        let of_rooms = self.rooms.as_ref().map_or(inbox.bell(), RoomPool::bell);
        let bells = [inbox.bell(), children.as_fd(), of_rooms];
        let mut bells: Vec<_> =
            bells.into_iter().map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)).collect();
        // What is being ended may go on asking for processes.
        let of_groups =
            self.runs.iter().filter(|run| !run.is_ending()).filter_map(|run| run.group.as_ref()?.bell());
        bells.extend(of_groups.map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::PRI)));
        let woken = poll(&mut bells, left.as_ref());
        let is_group_full = bells.iter().skip(3).any(|bell| !bell.revents().is_empty());
        self.busy_since.store(running_ms().max(1), Ordering::Relaxed);
        if let Err(errno) = woken
            && errno != Errno::INTR
        {
            event!(Error, "the runner cannot sleep until something happens", error = errno.to_string());
            thread::sleep(ENDING_LOOK);
        }
        if is_group_full {
            self.end_full_groups();
        }
        // What it says of the first of them is not needed: all are looked for.
        self.is_look_due |= rustix::io::read(children, &mut [0; sys::CHILD_END_BYTES]).is_ok();
        self.is_look_due |= self.rooms.as_ref().is_some_and(RoomPool::has_rung);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_runs = self.runs.iter().filter_map(|run| match run.phase {
            Phase::Running => run.limit,
            Phase::Lingering { until, .. } => Some(run.limit.map_or(until, |limit| limit.min(until))),
            Phase::Ending { kill_at, .. } => Some(kill_at),
        });
        let any_running = self.runs.iter().any(|run| !matches!(run.phase, Phase::Ending { .. }));
        let is_waited_for = any_running || (self.runs.is_empty() && !self.is_drained);
        let of_drain = self.drain.iter().filter(|_| is_waited_for).map(|drain| drain.0);
        of_runs.chain(of_drain).chain(self.starter.retry_at()).chain(self.look_at).min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(ready) => self.start(*ready),
            Event::Kill(id) => self.kill(id),
            Event::KillAtOnce(id) => self.kill_at_once(id),
            Event::Drain(deadline, done) => {
                self.starter.close();
                self.drain = Some((deadline, done));
            }
            Event::Abort => self.abort(),
        }
    }

    fn start(&mut self, ready: Ready) {
        let id = ready.id;
        // It may have waited long for the disk.
        let is_wanted = self.store.get(id).is_ok_and(|now| now.is_some_and(|now| !now.killed));
        if !is_wanted {
            self.end_unstarted(ready, Outcome::not_started(Status::Killed, "it was killed before its start"));
            self.starter.put_off(None);
            return;
        }
        let grant = ready.grant;
        let processors = grant.get(Limit::Processors).and_then(|number| self.processors.take(number));
        let limits = limits::calls(&grant, processors.as_ref(), ready.group.as_deref());
        let started = Instant::now();
        match self.launch(&ready, &limits) {
            Ok((pid, room)) => {
                let Ready { slot, directory, streams, group, claimed, .. } = ready;
                if let Err(error) = self.store.set_pid(id, pid) {
                    event!(Error, "cannot note a pid", payload = id, error = error.to_string());
                }
                metrics::STARTED.add(claimed.elapsed());
                event!(Info, "payload started", payload = id, pid = pid);
                let user = self.limits.users.as_ref().map(|users| users.of_slot(slot));
                self.running.begin(Entry {
                    id,
                    user,
                    directory: Arc::clone(&directory),
                    root: pid,
                    root_is_reaped: false,
                    grant,
                    group: group.clone(),
                });
                self.runs.push(Run {
                    id,
                    slot,
                    user,
                    pid,
                    directory,
                    started,
                    grant,
                    limit: grant.time(Limit::Time).map(|limit| started + limit),
                    processors,
                    group,
                    phase: Phase::Running,
                    left_over: None,
                    outputs: streams.outputs,
                    room,
                });
                if self.starter.host_is_well() {
                    self.fill_slots();
                }
            }
            Err(error) => {
                self.processors.give_back(processors.as_ref());
                self.give_up_start(ready, error);
            }
        }
    }

    /// In a room, where the host has them. One whose keeper has ended meanwhile is no room any more; another one is made.
    fn launch(&mut self, ready: &Ready, limits: &[Call]) -> Result<(u32, Option<Room>), StartError> {
        loop {
            let room = self.rooms.as_mut().map(RoomPool::lend).transpose().map_err(StartError::Room)?;
            let started = self.launcher.start(
                ready.id,
                &ready.directory,
                &ready.streams,
                limits,
                &ready.plan,
                room.as_ref(),
            );
            let is_lost = matches!(started, Err(StartError::Room(_)));
            match started {
                Ok(pid) => return Ok((pid, room)),
                Err(_) if is_lost && room.as_ref().is_some_and(|room| !room.is_new()) => {}
                Err(error) => {
                    if let (Some(rooms), Some(room), false) = (&mut self.rooms, room, is_lost) {
                        rooms.take_back(room);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn fill_slots(&self) {
        let starter = self.starter.clone();
        self.disk.run(move || starter.fill_slots());
    }

    /// Where the host lacked something for a start: tries again, once in a while.
    fn retry_starts(&self) {
        if self.starter.retry_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.starter.begin_retry();
        // A host that is over a bound has what a start takes.
        let is_lack = matches!(self.starter.obstacle(), Some(Obstacle::Lack(_)));
        if is_lack && let Err(error) = sys::try_process() {
            self.starter.put_off(Some(Obstacle::Lack(StartError::NoProcess(error).to_string())));
            return;
        }
        let starter = self.starter.clone();
        self.disk.run(move || starter.retry());
    }

    /// Ends the payloads that have as many processes as they may and ask for more.
    fn end_full_groups(&mut self) {
        let is_full =
            |run: &&Run| !run.is_ending() && run.group.as_ref().is_some_and(|group| group.is_full());
        let full = self.runs.iter().filter(is_full).map(|run| (run.id, run.grant.get(Limit::Pids)));
        for (id, limit) in full.collect::<Vec<_>>() {
            // Without a limit of its own it was one around the client that was met.
            let Some(limit) = limit else { continue };
            self.mark_killed(id, &Limit::Pids.reason(limit));
            self.kill_at_once(id);
        }
    }

    fn start_guard(&mut self) {
        self.guard = Guard::start(&self.data_path, self.ids());
        self.strangers.extend(self.guard.as_ref().map(Guard::pid));
    }

    /// Ends what has run too long, by its own limit or because the client stops, and what lingers too long; kills what did
    /// not heed SIGTERM.
    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        let known = self.known();
        let stopping = self.drain.as_ref().is_some_and(|drain| drain.0 <= now);
        let (mut overdue, mut lingering) = (Vec::new(), Vec::new());
        for run in &mut self.runs {
            match run.phase {
                Phase::Running | Phase::Lingering { .. } if stopping => {
                    overdue.push((run.id, STOPPED.to_owned()));
                }
                Phase::Running | Phase::Lingering { .. } if run.limit.is_some_and(|limit| limit <= now) => {
                    let limit = run.grant.get(Limit::Time).unwrap_or_default();
                    overdue.push((run.id, Limit::Time.reason(limit)));
                }
                Phase::Lingering { until, .. } if until <= now => lingering.push(run.id),
                Phase::Ending { kill_at, exit } if kill_at <= now => {
                    run.signal(&known, Signal::KILL);
                    if let Some(group) = &run.group {
                        group.kill();
                    }
                    // Once more after a while: a process may have been forked in between, or hang in the kernel.
                    run.phase = Phase::Ending { kill_at: now + ENDING_LOOK, exit };
                    run.left_over = run.left_over.map(|_| LeftOver::Killed);
                    self.is_look_due = true;
                }
                _ => {}
            }
        }
        for (id, reason) in overdue {
            self.mark_killed(id, &reason);
            self.kill(id);
        }
        for id in lingering {
            self.begin_end(id);
        }
        self.finish_ended_trees();
    }

    fn abort(&mut self) {
        for index in 0..self.runs.len() {
            let id = self.runs[index].id;
            self.mark_killed(id, STOPPED);
            self.kill_at_once(id);
        }
    }

    fn kill_at_once(&mut self, id: PayloadId) {
        self.kill(id);
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id)
            && let Phase::Ending { kill_at, .. } = &mut run.phase
        {
            *kill_at = Instant::now();
        }
    }

    fn mark_killed(&self, id: PayloadId, reason: &str) {
        match self.store.kill(id, reason) {
            Ok(_) => event!(Warn, "payload is ended", payload = id, reason = reason),
            Err(error) => {
                event!(Error, "cannot mark a payload as killed", payload = id, error = error.to_string());
            }
        }
    }

    /// Payloads that wait when the client stops will not be started, by no later life either: they are told so, not lost. At every
    /// event: an upload that was under way then may have become a payload since.
    fn give_up_waiting(&self) {
        if self.drain.is_none() || self.limits.has_successor {
            return;
        }
        match self.store.kill_waiting(STOPPED) {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => {
                for id in &ids {
                    event!(Warn, "payload is not started", payload = *id, reason = STOPPED);
                }
                let records = self.ends.records.clone();
                self.beside(move || {
                    for id in ids {
                        if let Err(error) = records.note(id) {
                            event!(Error, "a kill cannot be noted yet", payload = id, error = error);
                        }
                    }
                });
            }
            Err(error) => event!(Error, "cannot give up the waiting payloads", error = error.to_string()),
        }
    }

    /// Left-overs are waited for, up to the deadline: some cannot be killed.
    fn report_drained(&mut self) {
        if let Some((deadline, done)) = self.drain.clone()
            && self.starter.is_idle()
            && self.ends_under_way.load(Ordering::Acquire) == 0
            && (!self.end_leftovers() || deadline <= Instant::now())
        {
            self.is_drained = true;
            // The listener may have left already, with the process about to end.
            let _ = done.send(());
        }
    }
}
