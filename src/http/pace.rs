//! Whether a transfer moves, and who makes way when every disk thread is held.
//! What counts is the time spent waiting for the peer: a slow disk of our own is never its fault.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::disk_threads::Disk;

/// Bytes a second below which a transfer counts as one that stands still. As low as this, since a link of 2 kB/s may be
/// shared by dozens of transfers.
const LEAST_RATE: u64 = 32;

/// The same for one that holds a disk thread while others wait for theirs: half of that link.
const CROWDED_RATE: u64 = 1024;

/// How long a job may wait before the threads count as held up. A thread takes this long to start on the busiest board.
const CROWDED_AFTER: Duration = Duration::from_secs(1);

/// How many bytes a transfer has moved in how much waiting. Judged once per window, of the length of STALL_TIMEOUT.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// Takes note of a wait, and of the bytes that it brought.
    pub(super) fn add(&mut self, waited: Duration, moved: u64) {
        self.waited += waited;
        self.moved += moved;
    }

    /// At the end of a window, begins a new one; `TimedOut` if this one was too slow. `turn` is the disk thread that the
    /// transfer holds.
    pub(super) fn judge_if_due(&mut self, window: Duration, turn: Option<&mut Turn>) -> io::Result<()> {
        if self.waited < window {
            return Ok(());
        }
        let Self { waited, moved } = std::mem::take(self);
        let is_below = |rate: u64| u128::from(moved) * 1000 < u128::from(rate) * waited.as_millis();
        let must_go = is_below(LEAST_RATE) || is_below(CROWDED_RATE) && turn.is_some_and(Turn::must_end);
        if must_go { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// The disk threads of one direction, and who waits for one.
pub(super) struct Pool {
    disk: Disk,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Since when the jobs that have no thread yet wait for one; the oldest is in front.
    waiting: VecDeque<Instant>,
    /// Transfers that were told to end and still hold their thread.
    ending: usize,
}

impl Pool {
    /// For so many transfers at once.
    pub(super) fn new(most: usize) -> Self {
        Self { disk: Disk::for_transfers(most), queue: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` for a transfer, as soon as a thread is free. What is given is to be kept until the thread is free again.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Turn {
        let turn = Turn { pool: Arc::clone(self), has_begun: Arc::default(), is_ending: false };
        let (pool, has_begun) = (Arc::clone(self), Arc::clone(&turn.has_begun));
        self.lock().waiting.push_back(Instant::now());
        self.disk.run(move || {
            // The queue of the threads is first in, first out, too.
            pool.lock().waiting.pop_front();
            has_begun.store(true, Ordering::Relaxed);
            job();
        });
        turn
    }
}

/// One transfer's hold of a disk thread, or its place in the queue for one.
pub(super) struct Turn {
    pool: Arc<Pool>,
    has_begun: Arc<AtomicBool>,
    is_ending: bool,
}

impl Turn {
    /// Whether there is a thread for it.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether this transfer, a slow one, has to make way: one ends for each that waits, not all for the first.
    fn must_end(&mut self) -> bool {
        let mut queue = self.pool.lock();
        let is_crowded = queue.waiting.front().is_some_and(|since| since.elapsed() >= CROWDED_AFTER);
        let makes_room = self.has_begun() && !self.is_ending;
        let must_end = is_crowded && makes_room && queue.ending < queue.waiting.len();
        if must_end {
            queue.ending += 1;
            self.is_ending = true;
        }
        must_end
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_ending {
            self.pool.lock().ending -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    const WINDOW: Duration = Duration::from_secs(60);

    /// Whether a transfer of so many bytes in a window may go on.
    fn may_go_on(moved: u64, turn: Option<&mut Turn>) -> bool {
        let mut pace = Pace::default();
        pace.add(WINDOW, moved);
        pace.judge_if_due(WINDOW, turn).is_ok()
    }

    /// A transfer whose thread is held until the sender is dropped.
    fn held(pool: &Arc<Pool>) -> (Turn, Sender<()>) {
        let (hold, end) = channel();
        let job = move || {
            let _ = end.recv();
        };
        (pool.run(job), hold)
    }

    #[test]
    fn a_transfer_is_judged_by_its_rate_once_it_was_waited_for() {
        let mut pace = Pace::default();
        pace.add(WINDOW / 2, 0);
        assert!(pace.judge_if_due(WINDOW, None).is_ok(), "too early to tell");
        pace.add(WINDOW / 2, 60 * LEAST_RATE);
        assert!(pace.judge_if_due(WINDOW, None).is_ok());
        pace.add(WINDOW / 2, 0);
        assert!(pace.judge_if_due(WINDOW, None).is_ok(), "a new window");
        pace.add(WINDOW / 2, 60 * LEAST_RATE - 1);
        assert!(pace.judge_if_due(WINDOW, None).is_err());
    }

    #[test]
    fn a_slow_transfer_makes_way_only_for_one_that_waits_and_only_once() {
        let pool = Arc::new(Pool::new(64));
        let mut holders: Vec<(Turn, Sender<()>)> = (0..64).map(|_| held(&pool)).collect();
        while !holders.iter().all(|(turn, _)| turn.has_begun.load(Ordering::Relaxed)) {
            thread::yield_now();
        }
        assert!(holders.iter_mut().all(|(turn, _)| may_go_on(40_000, Some(turn))), "nobody waits");
        let (mut waiting, _hold) = held(&pool);
        assert!(holders.iter_mut().all(|(turn, _)| may_go_on(40_000, Some(turn))), "not for long");
        thread::sleep(CROWDED_AFTER);
        assert!(!may_go_on(40_000, Some(&mut holders[0].0)), "makes way");
        assert!(may_go_on(40_000, Some(&mut holders[1].0)), "one is enough");
        assert!(may_go_on(40_000, Some(&mut waiting)), "it holds no thread");
        assert!(may_go_on(120_000, Some(&mut holders[2].0)), "2 kB/s are fast enough");
        drop(holders.remove(0));
        while !waiting.has_begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        assert!(holders.iter_mut().all(|(turn, _)| may_go_on(40_000, Some(turn))), "all have one");
    }
}
