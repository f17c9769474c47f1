//! How payloads end: by themselves, or by SIGTERM and then SIGKILL to the whole tree. Reaps every child, payload or
//! orphan, and ends what a payload leaves behind.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::Signal;

use super::processes::{self, Origin, Tree};
use super::{Phase, Run, Work};
use crate::event;
use crate::payload::{Outcome, PayloadId, Status, Usage};
use crate::sys::{self, Exit, ExitResult};

/// Where the exit code of `run.sh` is left for the user.
const EXIT_FILE: &str = ".orchestrator.exit";

impl Work {
    /// Reaps until no ended child is left.
    pub(super) fn reap(&mut self) {
        let mut reaped_any = false;
        while let Some(pid) = sys::ended_child() {
            reaped_any = true;
            let run = self.runs.iter().position(|run| run.pid == pid && !run.has_exited());
            if let Some(index) = run {
                self.reap_payload(index);
            } else {
                // An orphan of some payload, come to us as its subreaper or as PID 1. Nobody waits for its exit code.
                sys::reap(pid);
            }
        }
        if reaped_any {
            self.end_leftovers();
        }
    }

    fn reap_payload(&mut self, index: usize) {
        let run = &mut self.runs[index];
        if matches!(run.phase, Phase::Running { .. }) {
            // What is left of its process group must not outlive it. Before the reaping: until then the group's number
            // cannot belong to anybody else.
            processes::signal_group(run.pid, Signal::KILL);
        }
        let Some(exit) = sys::reap(run.pid) else {
            return;
        };
        if let Phase::Ending { exit: seen, .. } = &mut run.phase {
            // Its descendants still have until `kill_at`.
            *seen = Some(exit);
        } else {
            let run = self.runs.swap_remove(index);
            self.finish(&run, exit);
        }
    }

    /// Sends SIGTERM to the tree of a payload and sets the moment of SIGKILL. A second call changes nothing.
    pub(super) fn begin_end(&mut self, id: PayloadId) {
        let kill_at = Instant::now() + self.limits.kill_grace;
        let running = |run: &&mut Run| run.id == id && matches!(run.phase, Phase::Running { .. });
        if let Some(run) = self.runs.iter_mut().find(running) {
            run.phase = Phase::Ending { kill_at, exit: None };
            processes::signal_tree(&run.tree(), Signal::TERM);
            // A stopped process cannot act on SIGTERM.
            processes::signal_tree(&run.tree(), Signal::CONT);
        }
    }

    /// Finishes the payloads being ended of which no process is left.
    pub(super) fn finish_ended_trees(&mut self) {
        let mut index = 0;
        while index < self.runs.len() {
            let run = &self.runs[index];
            match run.phase {
                Phase::Ending { exit: Some(exit), .. } if !processes::any_left(&run.tree()) => {
                    let run = self.runs.swap_remove(index);
                    self.finish(&run, exit);
                }
                _ => index += 1,
            }
        }
    }

    /// Ends the processes that came to us as orphans and whose payload no longer runs. Gives whether there were any: their
    /// own children come here when they are gone.
    pub(super) fn end_leftovers(&self) -> bool {
        let mut any = false;
        let known: Vec<u32> = self.runs.iter().map(|run| run.pid).collect();
        for pid in processes::adopted(&known) {
            if self.is_left_over(pid) {
                event!(Info, "left-over process is ended", pid = pid);
                processes::signal_one(pid, Signal::KILL);
                any = true;
            }
        }
        any
    }

    fn is_left_over(&self, pid: u32) -> bool {
        let origin = Origin::of(pid);
        if self.strangers.contains(&pid) || self.runs.iter().any(|run| origin.is(run.id, &run.directory)) {
            return false;
        }
        match origin {
            Origin::Payload(_) => true,
            Origin::Places(_) if origin.is_within(&self.data_path) => true,
            // It hides where it comes from. As PID 1 we also adopt what was never a payload's.
            Origin::Places(_) => self.runs.is_empty() && std::process::id() != 1,
        }
    }

    fn finish(&self, run: &Run, exit: Exit) {
        if let Err(error) = write_exit_file(&run.directory, exit.result) {
            event!(Warn, "cannot write the exit code", payload = run.id, file = EXIT_FILE, error = error);
        }
        let usage = Usage {
            wall_s: run.started.elapsed().as_secs_f64(),
            user_s: exit.user.as_secs_f64(),
            system_s: exit.system.as_secs_f64(),
            max_rss_bytes: exit.max_rss_bytes,
        };
        self.note_end(run.id, &outcome_of(exit.result, usage));
    }
}

impl Run {
    pub(super) fn tree(&self) -> Tree {
        Tree {
            id: self.id,
            directory: Arc::clone(&self.directory),
            root: self.pid,
            root_is_reaped: self.has_exited(),
        }
    }

    fn has_exited(&self) -> bool {
        matches!(self.phase, Phase::Ending { exit: Some(_), .. })
    }
}

fn outcome_of(result: ExitResult, usage: Usage) -> Outcome {
    let (status, exit_code, signal, error) = match result {
        ExitResult::Code(0) => (Status::Completed, Some(0), None, None),
        ExitResult::Code(code) => (Status::Failed, Some(code), None, None),
        ExitResult::Signal(signal) => {
            let error = match signal {
                9 => {
                    "run.sh was ended by signal 9 (SIGKILL); if nobody sent it, the system ran out of memory"
                        .to_owned()
                }
                _ => format!("run.sh was ended by signal {signal}"),
            };
            (Status::Failed, None, Some(signal), Some(error))
        }
    };
    Outcome { status, exit_code, signal, error, usage }
}

/// Leaves the exit code beside the results, as a shell would name it (128 + signal). A payload that wrote the file
/// itself, by a trap, had the same number; what it put in the way otherwise is replaced, never followed.
fn write_exit_file(directory: &Path, result: ExitResult) -> io::Result<()> {
    let code = match result {
        ExitResult::Code(code) => code,
        ExitResult::Signal(signal) => 128 + signal,
    };
    let path = directory.join(EXIT_FILE);
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
    let mut file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&path)?;
            create()?
        }
        other => other?,
    };
    file.write_all(format!("{code}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_and_signal_gets_its_status() {
        let usage = Usage::default();
        for code in 0..=255 {
            let outcome = outcome_of(ExitResult::Code(code), usage);
            let expected = if code == 0 { Status::Completed } else { Status::Failed };
            assert_eq!((outcome.status, outcome.exit_code, outcome.signal), (expected, Some(code), None));
        }
        for signal in 1..=64 {
            let outcome = outcome_of(ExitResult::Signal(signal), usage);
            assert_eq!(
                (outcome.status, outcome.exit_code, outcome.signal),
                (Status::Failed, None, Some(signal))
            );
            assert!(outcome.error.is_some_and(|error| error.contains(&signal.to_string())));
        }
    }
}
