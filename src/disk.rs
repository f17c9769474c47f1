//! The disk threads: a pool that grows with the transfers under way and shrinks when they end.
//! Everything that may block on a disk for a connection runs here, so that no coroutine ever does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A transfer holds a thread to its end, so this is how many transfers make progress at once; further ones wait their
/// turn, with no byte of theirs read.
const MAX_THREADS: usize = 64;

/// How long a thread waits for the next job before it ends: long enough to serve a busy server's next call.
const IDLE: Duration = Duration::from_secs(5);

/// The deepest call chain here (inflate tables and path buffers live on the heap) needs a few dozen KiB; untouched
/// pages cost nothing.
const STACK_BYTES: usize = 256 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the pool; cheap to clone.
#[derive(Clone, Default)]
pub struct Disk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Disk {
    /// Runs `job` on a disk thread, as soon as one is free. Never blocks.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            // The one that wakes up needs the lock.
            drop(state);
            self.shared.wake.notify_one();
        } else if state.threads < MAX_THREADS {
            state.threads += 1;
            drop(state);
            self.grow();
        }
    }

    fn grow(&self) {
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work());
        if let Err(error) = spawned {
            // The thread limit of the system is reached. Another thread of the pool takes the job when it is free; if
            // there is none at all the job waits for the next call of `run`.
            self.shared.lock().threads -= 1;
            crate::event!(Error, "cannot start a disk thread", error = error);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn more_jobs_than_threads_all_run_while_the_first_ones_are_held() {
        let disk = Disk::default();
        let (done_tx, done_rx) = channel();
        let (hold_tx, hold_rx) = channel::<()>();
        let hold_rx = Arc::new(Mutex::new(hold_rx));
        for number in 0..MAX_THREADS * 3 {
            let (done_tx, hold_rx) = (done_tx.clone(), Arc::clone(&hold_rx));
            disk.run(move || {
                let _ = hold_rx.lock().map(|hold| hold.recv());
                done_tx.send(number).expect("the test waits for all");
            });
        }
        drop(hold_tx);
        let mut seen: Vec<usize> = (0..MAX_THREADS * 3)
            .map(|_| done_rx.recv_timeout(Duration::from_secs(10)).expect("a job is lost"))
            .collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..MAX_THREADS * 3));
        assert!(disk.shared.lock().threads <= MAX_THREADS);
    }
}
