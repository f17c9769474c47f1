//! How payloads end: by themselves, or by SIGTERM and then SIGKILL to the whole tree. Reaps every child, payload or
//! orphan, and ends what a payload leaves behind.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::process::Signal;

use super::processes::{self, Origin, Tree, Unknown};
use super::room::{Room, RoomPool};
use super::start::StartError;
use super::starter::{Ready, remove_temporary};
use super::{ENDING_LOOK, Phase, Run, Work};
use crate::event;
use crate::limits::{Group, Limit, OutOfMemory};
use crate::metrics;
use crate::payload::{LeftOver, Outcome, PayloadId, Status, Usage, seconds, signal_name};
use crate::store::Store;
use crate::sys::{self, Exit, ExitResult};
use crate::upkeep::record_writer::Records;

/// Told where a cgroup says so.
const NO_MEMORY: &str = "the kernel ended it because there was no memory left: on the host, or in what the client itself may use (MemoryMax, \
     the container's limit)";

impl Work {
    /// Reaps until no ended child is left, and looks for what is left of payloads where that is due.
    pub(super) fn reap(&mut self) {
        let mut is_look_due = self.look_at.take_if(|at| *at <= Instant::now()).is_some();
        while let Some(pid) = sys::ended_child() {
            is_look_due = true;
            if self.guard.as_ref().is_some_and(|guard| guard.pid() == pid) {
                sys::reap(pid);
                self.strangers.retain(|stranger| *stranger != pid);
                event!(Warn, "the guard of the payloads has ended; another one is started", pid = pid);
                self.start_guard();
                continue;
            }
            if self.reap_keeper(pid) {
                continue;
            }
            let run = self.runs.iter().position(|run| run.pid == pid && !run.has_exited());
            if let Some(index) = run {
                self.reap_payload(index);
            } else {
                // An orphan of some payload, come to us as its subreaper or as PID 1. Nobody waits for its exit code.
                sys::reap(pid);
            }
        }
        self.is_look_due |= is_look_due;
        self.finish_ended_trees();
        if is_look_due {
            self.end_leftovers();
        }
    }

    /// Gives whether this was the keeper of a room.
    fn reap_keeper(&mut self, pid: u32) -> bool {
        let mut lent = self.runs.iter_mut().filter_map(|run| run.room.as_mut());
        if let Some(room) = lent.find(|room| room.keeper() == pid) {
            room.note_end();
        } else if self.rooms.as_mut().is_some_and(|rooms| rooms.forget(pid)) {
            event!(Warn, "the keeper of a room has ended; another one is made when it is needed", pid = pid);
        } else {
            return false;
        }
        sys::reap(pid);
        true
    }

    fn reap_payload(&mut self, index: usize) {
        let run = &mut self.runs[index];
        if !self.adopts && run.room.is_none() && matches!(run.phase, Phase::Running) {
            // What it leaves behind would be out of reach. Before the reaping: until then the group's number cannot belong to anybody
            // else.
            processes::signal_group(run.pid, Signal::KILL);
        }
        let Some(exit) = sys::reap(run.pid) else {
            return;
        };
        match &mut run.phase {
            // Its descendants still have until `kill_at`.
            Phase::Ending { exit: seen, .. } => *seen = Some(exit),
            // Helpers of it may still write what it gave them: their input is closed now.
            _ => run.phase = Phase::Lingering { until: Instant::now() + self.limits.linger, exit },
        }
        let id = run.id;
        self.running.root_is_reaped(id);
    }

    /// Ends a payload that the store has marked as killed.
    pub(super) fn kill(&mut self, id: PayloadId) {
        if self.begin_end(id) {
            // Should the client die before its processes have ended, it was killed all the same. The disk may hang: SIGKILL must
            // not wait for it.
            self.ends.records.note_soon(id);
        }
    }

    /// Sends SIGTERM to the tree of a payload and sets the moment of SIGKILL. A second call changes nothing. Gives whether there
    /// was anything to do.
    pub(super) fn begin_end(&mut self, id: PayloadId) -> bool {
        let kill_at = Instant::now() + self.limits.kill_grace;
        let known = self.known();
        let running = |run: &&mut Run| run.id == id && !matches!(run.phase, Phase::Ending { .. });
        let Some(run) = self.runs.iter_mut().find(running) else { return false };
        let exit = run.exit();
        run.left_over = exit.map(|_| LeftOver::Terminated);
        run.phase = Phase::Ending { kill_at, exit };
        run.signal(&known, Signal::TERM);
        // A stopped process cannot act on SIGTERM.
        run.signal(&known, Signal::CONT);
        true
    }

    /// Finishes the payloads whose `run.sh` is gone and of which no process is left. Nothing is asked where nothing has ended.
    pub(super) fn finish_ended_trees(&mut self) {
        if !std::mem::take(&mut self.is_look_due) {
            return;
        }
        let known = self.known();
        let mut index = 0;
        while index < self.runs.len() {
            let run = &mut self.runs[index];
            let Some(exit) = run.exit() else {
                index += 1;
                continue;
            };
            let Ok(is_any_left) = run.is_any_left(&known) else {
                self.look_later();
                index += 1;
                continue;
            };
            if !is_any_left {
                let run = self.runs.swap_remove(index);
                self.finish(run, exit);
                continue;
            }
            if matches!(run.phase, Phase::Lingering { .. }) {
                run.left_over = Some(LeftOver::EndedItself);
            }
            index += 1;
        }
    }

    /// What is left of payloads cannot be known now: no process has to end for it to be looked for again.
    fn look_later(&mut self) {
        self.look_at = Some(Instant::now() + ENDING_LOOK);
    }

    /// Ends the processes that came to us as orphans and whose payload no longer runs. Gives whether there were any: their
    /// own children come here when they are gone. Also where the system lacks what it takes to know.
    pub(super) fn end_leftovers(&mut self) -> bool {
        let Ok(adopted) = processes::adopted(&self.known()) else {
            self.look_later();
            return true;
        };
        let mut any = false;
        for pid in adopted {
            let is_left_over = self.is_left_over(pid);
            if is_left_over.is_err() {
                self.look_later();
                any = true;
            }
            if is_left_over.is_ok_and(|is_left_over| is_left_over) {
                event!(Info, "left-over process is ended", pid = pid);
                processes::signal_one(pid, Signal::KILL);
                any = true;
            }
        }
        any
    }

    /// The children of this process that are no orphans of a payload.
    pub(super) fn known(&self) -> Vec<u32> {
        let running = self.runs.iter().filter(|run| !run.has_exited()).map(|run| run.pid);
        let lent = self.runs.iter().filter_map(|run| run.room.as_ref()).map(Room::keeper);
        let idle = self.rooms.iter().flat_map(RoomPool::keepers);
        running.chain(lent).chain(idle).chain(self.strangers.iter().copied()).collect()
    }

    /// The user ids of all payloads, where they have such.
    pub(super) fn ids(&self) -> Option<RangeInclusive<u32>> {
        self.limits.users.as_ref().map(|users| users.ids())
    }

    fn is_left_over(&self, pid: u32) -> Result<bool, Unknown> {
        if let Some(users) = &self.limits.users
            && let Some(user) = processes::user_of(pid)?.filter(|user| users.ids().contains(user))
        {
            return Ok(self.runs.iter().all(|run| users.of_slot(run.slot) != user));
        }
        let origin = Origin::of(pid)?;
        if self.runs.iter().any(|run| origin.is(run.id, &run.directory)) {
            return Ok(false);
        }
        Ok(match origin {
            Origin::Payload(_) => true,
            Origin::Places(_) if origin.is_within(&self.data_path) => true,
            // It hides where it comes from. As PID 1 we also adopt what was never a payload's.
            Origin::Places(_) => self.runs.is_empty() && std::process::id() != 1,
        })
    }

    fn finish(&mut self, mut run: Run, exit: Exit) {
        self.running.end(run.id);
        self.processors.give_back(run.processors.as_ref());
        if let (Some(rooms), Some(room)) = (&mut self.rooms, run.room.take()) {
            rooms.take_back(room);
        }
        if let Some(reason) = run.limit_met(&exit) {
            self.mark_killed(run.id, &reason);
        }
        let wall = run.started.elapsed();
        metrics::RAN.add(wall);
        let usage = Usage {
            wall_s: seconds(wall),
            user_s: seconds(exit.user),
            system_s: seconds(exit.system),
            max_rss_bytes: exit.max_rss_bytes,
        };
        if let Some(left_over) = run.left_over {
            event!(Info, "run.sh left processes behind", payload = run.id, left_over = left_over.in_words());
        }
        self.launcher.end_outputs(&run.outputs);
        let mut outcome = Outcome { left_over: run.left_over, ..outcome_of(exit.result, usage) };
        if outcome.status == Status::Failed && run.out_of_memory() == Some(OutOfMemory::Host) {
            outcome.error = Some(NO_MEMORY.to_owned());
        }
        let Run { id, slot, directory, group, .. } = run;
        self.end(id, slot, directory, group, outcome);
    }

    /// Ends a payload that was ready and had no process.
    pub(super) fn end_unstarted(&self, ready: Ready, outcome: Outcome) {
        let Ready { id, slot, directory, streams, group, .. } = ready;
        self.launcher.end_outputs(&streams.outputs);
        drop(streams);
        self.end(id, slot, directory, group, outcome);
    }

    /// Lets a payload wait that the host cannot start now, or ends it, if it can never be started.
    pub(super) fn give_up_start(&self, ready: Ready, error: StartError) {
        let Ready { id, slot, directory, streams, .. } = ready;
        self.launcher.end_outputs(&streams.outputs);
        drop(streams);
        let starter = self.starter.clone();
        self.beside(move || {
            starter.not_started(id, &directory, &error);
            starter.free_slot(slot);
            starter.fill_slots();
        });
    }

    /// The slot of a payload is free, and its end to be noted. The disk may take seconds for what a payload has written, or
    /// hang; no kill waits for that, and no start but that of the next one of the same user.
    fn end(
        &self,
        id: PayloadId,
        slot: usize,
        directory: Arc<Path>,
        group: Option<Arc<Group>>,
        outcome: Outcome,
    ) {
        let (starter, ends) = (self.starter.clone(), self.ends.clone());
        let hand_over = starter.hand_over().clone();
        if !hand_over.is_needed() {
            starter.free_slot(slot);
        }
        self.beside(move || {
            ends.note_after(id, &outcome, || {
                if hand_over.is_needed() {
                    hand_over.close(id, &directory, slot);
                    starter.free_slot(slot);
                }
                starter.fill_slots();
                hand_over.take_back(id, &directory);
            });
            remove_temporary(id, &directory);
            // Whatever is in it still is ended.
            drop(group);
        });
    }

    /// Does what may wait for the disk; a client that stops waits for it.
    pub(super) fn beside(&self, work: impl FnOnce() + Send + 'static) {
        let (under_way, events) = (Arc::clone(&self.ends_under_way), self.events.clone());
        under_way.fetch_add(1, Ordering::AcqRel);
        self.disk.run(move || {
            work();
            under_way.fetch_sub(1, Ordering::AcqRel);
            events.wake();
        });
    }
}

/// Notes ends: nobody is told before the disk has them, so that no restart takes one back.
#[derive(Clone)]
pub(super) struct Ends {
    pub(super) store: Store,
    pub(super) records: Records,
}

impl Ends {
    /// Notes the end of a payload, unless it had one.
    pub(super) fn note(&self, id: PayloadId, outcome: &Outcome) {
        self.note_after(id, outcome, || ());
    }

    /// The same, once the disk has done what has to come first.
    fn note_after(&self, id: PayloadId, outcome: &Outcome, before: impl FnOnce()) {
        match self.records.end(id, outcome, before) {
            // As the row has it: a kill has its own reason, and the signal is no news then.
            Ok(noted) => event!(
                Info,
                "payload ended",
                payload = id,
                status = noted.as_ref().map_or_else(
                    || "unknown".to_owned(),
                    |noted| noted.unnoted.unwrap_or(noted.status).to_string()
                ),
                exit_code = outcome.exit_code,
                signal = outcome.signal.map(signal_name),
                wall_s = outcome.usage.wall_s,
                error = noted.as_ref().and_then(|noted| noted.error.as_deref()),
            ),
            Err(error) => event!(Error, "cannot note an end", payload = id, error = error.to_string()),
        }
    }
}

impl Run {
    /// Sends a signal to all its processes. `known` are our children that are no orphans.
    pub(super) fn signal(&self, known: &[u32], signal: Signal) {
        match &self.room {
            Some(room) => room.signal(signal),
            None => processes::signal_tree(&self.tree(), known, signal),
        }
    }

    /// Whether any of its processes lives, once `run.sh` has ended.
    fn is_any_left(&self, known: &[u32]) -> Result<bool, Unknown> {
        match &self.room {
            Some(room) => Ok(room.is_occupied()),
            None => processes::any_left(&self.tree(), known),
        }
    }

    fn tree(&self) -> Tree {
        Tree {
            id: self.id,
            user: self.user,
            directory: Arc::clone(&self.directory),
            root: self.pid,
            root_is_reaped: self.has_exited(),
        }
    }

    /// How `run.sh` has ended, once it has.
    fn exit(&self) -> Option<Exit> {
        match self.phase {
            Phase::Running => None,
            Phase::Lingering { exit, .. } => Some(exit),
            Phase::Ending { exit, .. } => exit,
        }
    }

    fn has_exited(&self) -> bool {
        self.exit().is_some()
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.group.as_ref()?.out_of_memory()
    }

    /// The limit that has ended it, where the kernel did so by a signal (setrlimit(2)), to `run.sh` or to what it ran last and took its exit
    /// code from, and nobody else has ended it.
    fn limit_met(&self, exit: &Exit) -> Option<String> {
        if self.is_ending() && self.left_over.is_none() {
            return None;
        }
        let is_by = |signal: Signal| match exit.result {
            ExitResult::Code(code) => code == 128 + signal.as_raw(),
            ExitResult::Signal(number) => number == signal.as_raw(),
        };
        let has_failed = exit.result != ExitResult::Code(0);
        let is_memory = has_failed && self.out_of_memory() == Some(OutOfMemory::Limit);
        let cpu = self.grant.time(Limit::Cpu);
        let is_used_up = cpu.is_some_and(|most| exit.user + exit.system >= most);
        let is_cpu = is_by(Signal::XCPU) || (has_failed && is_used_up);
        let met = [(Limit::Memory, is_memory), (Limit::Cpu, is_cpu), (Limit::File, is_by(Signal::XFSZ))];
        let mut met = met.into_iter().filter(|(_, is_met)| *is_met);
        met.find_map(|(limit, _)| Some(limit.reason(self.grant.get(limit)?)))
    }
}

fn outcome_of(result: ExitResult, usage: Usage) -> Outcome {
    let (status, exit_code, signal, error) = match result {
        ExitResult::Code(0) => (Status::Completed, Some(0), None, None),
        ExitResult::Code(code) => (Status::Failed, Some(code), None, None),
        ExitResult::Signal(signal) => {
            let mut error = format!("run.sh was ended by {} (signal {signal})", signal_name(signal));
            if signal == Signal::KILL.as_raw() {
                error.push_str("; if nobody sent it, the system ran out of memory");
            }
            (Status::Failed, None, Some(signal), Some(error))
        }
    };
    Outcome { status, exit_code, signal, error, left_over: None, usage }
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
            assert!(outcome.error.is_some_and(|error| error.contains(&signal_name(signal))));
        }
    }
}
