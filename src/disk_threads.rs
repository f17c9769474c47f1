//! The disk threads: a pool that grows with the work under way and shrinks when it ends, to none or to one.
//! Everything that may block on a disk for a connection runs here, so that no coroutine ever does.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// Threads of a pool for all but transfers.
const MAX_THREADS: usize = 64;

/// How long a thread waits for the next job before it ends: long enough to serve a busy server's next call.
const IDLE: Duration = Duration::from_secs(5);

/// The deepest call chain here (inflate tables and path buffers live on the heap) needs a few dozen KiB; untouched
/// pages cost nothing.
pub const STACK_BYTES: usize = 256 * 1024;

/// By how much the threads of transfers let all others of their group go first (nice(2), which is of a thread on Linux). Those
/// move much for one caller each; a worker, of which there is one a core, answers all.
const TRANSFER_NICE: i32 = 5;

/// Between two attempts to start a thread that the system did not give.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Who tries again for pools that lack a thread.
static KEEPER: OnceLock<mpsc::Sender<Disk>> = OnceLock::new();

/// Starts the thread that tries again for pools that lack one. Without it their jobs wait for the next one.
pub fn start_keeper() -> io::Result<()> {
    let (lacking, pools) = mpsc::channel::<Disk>();
    thread::Builder::new().name("disk-keeper".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        for pool in pools {
            while !pool.has_enough_now() {
                thread::sleep(RETRY_PAUSE);
            }
        }
    })?;
    // A second one is of no use, and ends with its channel.
    let _ = KEEPER.set(lacking);
    Ok(())
}

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the pool; cheap to clone.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// See [`TRANSFER_NICE`].
    nice: i32,
    /// How many threads stay, come what may.
    staying: usize,
    /// How many there may be.
    most: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Whether the system gave no thread for a job that waits, and the keeper tries again.
    is_short: bool,
}

impl Disk {
    /// A pool of which one thread is there from now on: its jobs are run even where the system gives no further thread.
    pub fn with_a_thread() -> io::Result<Self> {
        let disk = Self::with(MAX_THREADS, 1, 0);
        disk.shared.lock().threads = 1;
        disk.grow()?;
        Ok(disk)
    }

    /// A pool whose threads let those that answer requests go first. A transfer holds one to its end, so `most` is how many make
    /// progress at once; further ones wait their turn.
    pub fn for_transfers(most: usize) -> Self {
        Self::with(most, 0, TRANSFER_NICE)
    }

    /// A pool of a few threads for reads of little each, that many may ask for at once. None stays.
    pub fn of_few(most: usize) -> Self {
        Self::with(most, 0, 0)
    }

    fn with(most: usize, staying: usize, nice: i32) -> Self {
        Self {
            shared: Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), nice, staying, most }),
        }
    }

    /// Runs `job` on a disk thread, as soon as one is free. Never blocks.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            // The one that wakes up needs the lock.
            drop(state);
            self.shared.wake.notify_one();
        } else if state.threads < self.shared.most {
            state.threads += 1;
            drop(state);
            if let Err(error) = self.grow() {
                // The thread limit of the system is reached. Another thread of the pool takes the job when it is free, or one that
                // the keeper can start.
                if !std::mem::replace(&mut self.shared.lock().is_short, true) {
                    crate::event!(
                        Error,
                        "cannot start a disk thread; tried again until it works",
                        error = error
                    );
                    let _ = KEEPER.get().map(|keeper| keeper.send(self.clone()));
                }
            }
        }
    }

    /// Whether all jobs have their thread. Where one lacks, tries to start it.
    fn has_enough_now(&self) -> bool {
        let mut state = self.shared.lock();
        let has_enough = state.jobs.len() <= state.idle || state.threads >= self.shared.most;
        if has_enough {
            state.is_short = false;
            return true;
        }
        state.threads += 1;
        drop(state);
        // The next look says whether that is enough.
        let _ = self.grow();
        false
    }

    /// Starts a thread that has been counted.
    fn grow(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("disk".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || shared.work());
        if started.is_err() {
            self.shared.lock().threads -= 1;
        }
        started.map(drop)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        if self.nice > 0 {
            // Less than what it has is always allowed.
            let _ = rustix::process::nice(self.nice);
        }
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let has_waited_long = if state.threads > self.staying {
                let (woken, waited) =
                    self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                waited.timed_out()
            } else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                false
            };
            state.idle -= 1;
            if has_waited_long && state.jobs.is_empty() && state.threads > self.staying {
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
    fn transfers_let_others_go_first_and_other_work_does_not() {
        let niceness = |disk: &Disk| {
            let (told, seen) = channel();
            disk.run(move || {
                let own = rustix::process::getpriority_process(None);
                told.send(own).expect("the test waits");
            });
            seen.recv_timeout(Duration::from_secs(10)).expect("a job is lost").expect("its own")
        };
        let own = rustix::process::getpriority_process(None).expect("its own");
        assert_eq!(niceness(&Disk::with_a_thread().expect("a thread")), own);
        assert_eq!(niceness(&Disk::for_transfers(4)), (own + TRANSFER_NICE).min(19));
    }

    #[test]
    fn of_all_threads_the_one_that_stays_is_left() {
        let disk = Disk::with_a_thread().expect("a thread");
        let (done_tx, done_rx) = channel();
        let barrier = Arc::new(std::sync::Barrier::new(3));
        for _ in 0..3 {
            let (done_tx, barrier) = (done_tx.clone(), Arc::clone(&barrier));
            disk.run(move || {
                barrier.wait();
                done_tx.send(()).expect("the test waits for all");
            });
        }
        (0..3).for_each(|_| done_rx.recv_timeout(Duration::from_secs(10)).expect("a job is lost"));
        let deadline = std::time::Instant::now() + IDLE * 3;
        while disk.shared.lock().threads > 1 {
            assert!(std::time::Instant::now() < deadline, "no thread has ended");
            thread::sleep(IDLE / 20);
        }
        thread::sleep(IDLE + IDLE / 5);
        assert_eq!(disk.shared.lock().threads, 1);
    }

    #[test]
    fn more_jobs_than_threads_all_run_while_the_first_ones_are_held() {
        let disk = Disk::with_a_thread().expect("a thread");
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
