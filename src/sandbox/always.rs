//! What holds for every payload, on every host, whatever `SANDBOX` is: it gains no rights by what it executes, leaves no core
//! file, is ended before the client where memory runs out, and cannot look into the client.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior};

use crate::event;
use crate::sys::Call;

/// What files and directories of payloads are made without: that others write to them.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// By how much the kernel takes a payload for larger than it is, in thousandths of the memory, when it looks for a process to end
/// (proc_pid_oom_score_adj(5)).
const OOM_SCORE: i32 = 500;

/// The most that the kernel accepts.
const MOST_OOM_SCORE: i32 = 1000;

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// The steps that every payload takes. `limits`: those that it does not inherit from this process.
pub fn calls(limits: Vec<(Resource, Rlimit)>) -> Vec<Call> {
    let mut calls = vec![Call::Umask(UMASK)];
    let others = limits.into_iter().filter(|(resource, _)| *resource != Resource::Core);
    calls.extend(others.map(|(resource, limit)| Call::Limit(resource, limit)));
    // The soft limit alone: a payload that wants a core file can have it (setrlimit(2)).
    let core = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    calls.push(Call::Limit(Resource::Core, core));
    calls.push(Call::NoNewPrivileges);
    calls
}

/// Closes the memory, the environment and the descriptors of this process to others of its user: ptrace(2), and what is in
/// `/proc/PID` (PR_SET_DUMPABLE(2const)). It leaves no core file either.
pub fn close_to_others() {
    if let Err(errno) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        event!(
            Warn,
            "payloads may look into the client: it cannot be made not dumpable",
            error = errno.to_string()
        );
    }
}

/// How soon the kernel ends this process when memory runs out. A child has what its parent has at its start, so this process
/// is raised for that moment.
///
/// The child cannot do it itself: as long as it runs on the memory of a process that is not dumpable, its file is root's.
pub struct OomScore {
    file: File,
    own: i32,
}

impl OomScore {
    /// Call before [`close_to_others`]. `None` where it cannot be set, which the log tells.
    pub fn open() -> Option<Self> {
        match Self::try_open() {
            Ok(score) => Some(score),
            Err(error) => {
                event!(
                    Warn,
                    "the kernel may end the client before its payloads when memory runs out",
                    error = error
                );
                None
            }
        }
    }

    fn try_open() -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(OOM_SCORE_FILE)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let own = text.trim().parse().map_err(io::Error::other)?;
        let score = Self { file, own };
        // No change, but it shows whether there may be one.
        score.set(own)?;
        Ok(score)
    }

    /// Does `work` with the score that its children are to have.
    pub fn raised<T>(&self, work: impl FnOnce() -> T) -> T {
        let is_raised = self.set((self.own + OOM_SCORE).min(MOST_OOM_SCORE));
        let done = work();
        if let Err(error) = is_raised.and_then(|()| self.set(self.own)) {
            event!(Warn, "cannot set how soon the kernel ends a process", error = error);
        }
        done
    }

    fn set(&self, score: i32) -> io::Result<()> {
        self.file.write_all_at(score.to_string().as_bytes(), 0)
    }
}
