//! The runner: one OS thread that owns every process of every payload. It claims, starts, ends and reaps them, so none
//! of these can race with another. It sleeps in a channel and is woken by an event or its next deadline, never by a tick.

mod end;
mod environment;
mod processes;
mod start;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status, now_ms};
use crate::store::Store;
use crate::sys::Exit;
use start::{Launcher, StartError};

/// How often the tree of a payload that is being ended is looked at, once `run.sh` itself is gone.
const ENDING_LOOK: Duration = Duration::from_millis(50);

/// Starting or ending a payload takes milliseconds; a runner that is at it for so long hangs.
const STUCK: Duration = Duration::from_secs(10);

/// Why payloads are killed when the client goes.
const STOPPED: &str = "the client was stopped";

/// What the runner is told.
enum Event {
    /// A payload was queued, or a child has ended: look.
    Look,
    /// End the processes of this payload; the store says `Killed` already.
    Kill(PayloadId),
    /// Start nothing more; end what still runs at this moment; then say so.
    Drain(Instant, Sender<()>),
    /// End all processes by SIGKILL.
    Abort,
}

/// How the runner behaves.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many payloads run at once.
    pub slots: usize,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// How long a payload may run; `None` for as long as it likes.
    pub time_limit: Option<Duration>,
}

/// A handle to the runner; cheap to clone.
#[derive(Clone)]
pub struct Runner {
    events: Sender<Event>,
    busy_since: Arc<AtomicI64>,
}

impl Runner {
    /// Starts the runner's thread. Makes this process the reaper of all its descendants
    /// (`PR_SET_CHILD_SUBREAPER`, Linux 3.4), so that what a payload leaves behind comes here and not to init.
    pub fn start(store: Store, data_path: &Path, limits: Limits) -> io::Result<Self> {
        if let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            // Not every emulation of Linux has it. Payloads run all the same.
            event!(
                Warn,
                "what payloads leave behind cannot be adopted here, and may outlive them",
                error = errno.to_string()
            );
        }
        let (events, inbox) = channel();
        let busy_since = Arc::new(AtomicI64::new(0));
        let work = Work {
            store,
            limits,
            launcher: Launcher::new()?,
            runs: Vec::new(),
            data_path: data_path.to_owned(),
            strangers: processes::adopted(&[]),
            drain: None,
            is_drained: false,
            busy_since: Arc::clone(&busy_since),
        };
        thread::Builder::new().name("runner".to_owned()).spawn(move || work.run(&inbox))?;
        Ok(Self { events, busy_since })
    }

    /// Tells the runner that a payload was queued or that a child has ended.
    pub fn wake(&self) {
        self.send(Event::Look);
    }

    /// Ends the whole process tree of a payload that the store has marked `Killed`.
    pub fn kill(&self, id: PayloadId) {
        self.send(Event::Kill(id));
    }

    /// Starts no further payload, and ends those that still run at `deadline`. `done` is told when none is left.
    pub fn drain(&self, deadline: Instant, done: Sender<()>) {
        self.send(Event::Drain(deadline, done));
    }

    /// Ends everything that runs by SIGKILL, for a client that must go now.
    pub fn abort(&self) {
        self.send(Event::Abort);
    }

    /// How long the runner has been at one piece of work: more than a moment means that a disk or the kernel holds it.
    pub fn stuck_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(u64::try_from(now_ms() - since).unwrap_or(0)),
        }
    }

    /// Whether that is longer than any start or end of a payload could take.
    pub fn is_stuck(&self) -> bool {
        self.stuck_for() > STUCK
    }

    fn send(&self, event: Event) {
        // The thread never ends while a handle exists: it has no way out of its loop.
        let _ = self.events.send(event);
    }
}

/// A payload whose processes are under way.
struct Run {
    id: PayloadId,
    pid: u32,
    directory: Arc<Path>,
    started: Instant,
    phase: Phase,
}

enum Phase {
    /// `run.sh` runs, up to this moment at the most.
    Running { until: Option<Instant> },
    /// The tree has got SIGTERM and gets SIGKILL at `kill_at`; `exit` is there once `run.sh` itself is gone.
    Ending { kill_at: Instant, exit: Option<Exit> },
}

/// The state of the runner's thread.
struct Work {
    store: Store,
    limits: Limits,
    launcher: Launcher,
    runs: Vec<Run>,
    /// Where all payload directories are.
    data_path: PathBuf,
    /// Children that this process had before the runner: somebody else's, left alone.
    strangers: Vec<u32>,
    drain: Option<(Instant, Sender<()>)>,
    /// Whether the listener of `drain` has been told that nothing is left.
    is_drained: bool,
    busy_since: Arc<AtomicI64>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Event>) {
        loop {
            self.reap();
            self.enforce_deadlines();
            self.start_waiting();
            self.report_drained();
            let Some(first) = self.next_event(inbox) else {
                continue;
            };
            self.handle(first);
            for event in inbox.try_iter() {
                self.handle(event);
            }
        }
    }

    /// Sleeps until something happens; `None` when a deadline came first.
    fn next_event(&self, inbox: &Receiver<Event>) -> Option<Event> {
        self.busy_since.store(0, Ordering::Relaxed);
        let event = match self.next_deadline() {
            // Handles are never all dropped while the process lives; a plain wait cannot be disconnected.
            None => inbox.recv().ok(),
            Some(deadline) => inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        };
        self.busy_since.store(now_ms(), Ordering::Relaxed);
        event
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_runs = self.runs.iter().filter_map(|run| match run.phase {
            Phase::Running { until } => until,
            Phase::Ending { kill_at, exit: None } => Some(kill_at),
            Phase::Ending { kill_at, exit: Some(_) } => Some(kill_at.min(Instant::now() + ENDING_LOOK)),
        });
        let any_running = self.runs.iter().any(|run| matches!(run.phase, Phase::Running { .. }));
        let is_waited_for = any_running || (self.runs.is_empty() && !self.is_drained);
        let of_drain = self.drain.iter().filter(|_| is_waited_for).map(|drain| drain.0);
        of_runs.chain(of_drain).min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Look => {}
            Event::Kill(id) => self.begin_end(id),
            Event::Drain(deadline, done) => self.drain = Some((deadline, done)),
            Event::Abort => self.abort(),
        }
    }

    /// Starts payloads as long as a slot is free and one waits.
    fn start_waiting(&mut self) {
        if self.drain.is_some() {
            // Each time: an upload that was under way when the client was stopped may have become a payload since.
            return self.give_up_waiting();
        }
        while self.runs.len() < self.limits.slots {
            match self.store.claim() {
                Ok(Some(payload)) => self.start(&payload),
                Ok(None) => return,
                Err(error) => {
                    event!(Error, "cannot claim a payload", error = error.to_string());
                    return;
                }
            }
        }
    }

    fn start(&mut self, payload: &Payload) {
        let started = Instant::now();
        let directory: Arc<Path> = Path::new(&payload.loc).into();
        match self.launcher.start(payload.id, &directory) {
            Ok(pid) => {
                if let Err(error) = self.store.set_pid(payload.id, pid) {
                    event!(Error, "cannot note a pid", payload = payload.id, error = error.to_string());
                }
                event!(Info, "payload started", payload = payload.id, pid = pid);
                let until = self.limits.time_limit.map(|limit| started + limit);
                self.runs.push(Run {
                    id: payload.id,
                    pid,
                    directory,
                    started,
                    phase: Phase::Running { until },
                });
            }
            Err(error) => {
                let status = match error {
                    StartError::NoScript => Status::Invalid,
                    _ => Status::Failed,
                };
                self.note_end(payload.id, &Outcome::not_started(status, error.to_string()));
            }
        }
    }

    /// Ends what has run too long, by its own limit or because the client stops; kills what did not heed SIGTERM.
    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        let stopping = self.drain.as_ref().is_some_and(|drain| drain.0 <= now);
        let mut overdue = Vec::new();
        for run in &mut self.runs {
            let tree = run.tree();
            match run.phase {
                Phase::Running { .. } if stopping => overdue.push((run.id, STOPPED.to_owned())),
                Phase::Running { until: Some(until) } if until <= now => {
                    let limit_s = self.limits.time_limit.unwrap_or_default().as_secs();
                    overdue.push((run.id, format!("it ran longer than TIME_LIMIT, {limit_s} s")));
                }
                Phase::Ending { ref mut kill_at, .. } if *kill_at <= now => {
                    processes::signal_tree(&tree, Signal::KILL);
                    // Once more after a while: a process may have been forked in between, or hang in the kernel.
                    *kill_at = now + ENDING_LOOK;
                }
                _ => {}
            }
        }
        for (id, reason) in overdue {
            self.mark_killed(id, &reason);
            self.begin_end(id);
        }
        self.finish_ended_trees();
    }

    fn abort(&mut self) {
        for index in 0..self.runs.len() {
            let id = self.runs[index].id;
            self.mark_killed(id, STOPPED);
            self.begin_end(id);
            if let Phase::Ending { kill_at, .. } = &mut self.runs[index].phase {
                *kill_at = Instant::now();
            }
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

    /// Payloads that wait when the client stops will not be started by it: they are told so, not lost.
    fn give_up_waiting(&self) {
        match self.store.kill_waiting(STOPPED) {
            Ok(ids) => {
                for id in ids {
                    event!(Warn, "payload is not started", payload = id, reason = STOPPED);
                }
            }
            Err(error) => event!(Error, "cannot give up the waiting payloads", error = error.to_string()),
        }
    }

    /// Left-overs are waited for, up to the deadline: some cannot be killed.
    fn report_drained(&mut self) {
        if let Some((deadline, done)) = &self.drain
            && self.runs.is_empty()
            && (!self.end_leftovers() || *deadline <= Instant::now())
        {
            self.is_drained = true;
            // The listener may have left already, with the process about to end.
            let _ = done.send(());
        }
    }

    /// Writes an end to the store and the log.
    fn note_end(&self, id: PayloadId, outcome: &Outcome) {
        match self.store.finish(id, outcome) {
            Ok(status) => event!(
                Info,
                "payload ended",
                payload = id,
                status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
                exit_code = outcome.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
                signal = outcome.signal.map_or_else(|| "-".to_owned(), |signal| signal.to_string()),
                wall_s = outcome.usage.wall_s,
                error = outcome.error.as_deref().unwrap_or("-"),
            ),
            Err(error) => event!(Error, "cannot note an end", payload = id, error = error.to_string()),
        }
    }
}
