//! Coroutines that wait until something about a number happens: a long poll costs a parked coroutine, and no thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use may::sync::Blocker;

use super::watch::Caller;

/// Those who wait, by what they wait for; cheap to clone.
#[derive(Clone, Default)]
pub struct Waiting {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    by_number: HashMap<u32, Vec<Arc<Blocker>>>,
    is_closed: bool,
}

impl Waiting {
    /// Waits until `number` is woken, for `most` at the most, and no longer than the caller is there. Not at all if `is_over` says so: it is asked when a wake-up can no
    /// longer be missed.
    pub fn wait(&self, number: u32, most: Duration, caller: &Caller<'_>, is_over: impl FnOnce() -> bool) {
        let blocker = Blocker::current();
        {
            let mut inner = self.lock();
            if inner.is_closed {
                return;
            }
            inner.by_number.entry(number).or_default().push(Arc::clone(&blocker));
        }
        if !is_over() {
            // Whoever waited looks again in any case.
            caller.wait(most, &blocker);
        }
        let mut inner = self.lock();
        if let Some(waiting) = inner.by_number.get_mut(&number) {
            waiting.retain(|other| !Arc::ptr_eq(other, &blocker));
            if waiting.is_empty() {
                inner.by_number.remove(&number);
            }
        }
    }

    /// Wakes all who wait for `number`.
    pub fn wake(&self, number: u32) {
        let woken = self.lock().by_number.remove(&number);
        for blocker in woken.into_iter().flatten() {
            blocker.unpark();
        }
    }

    /// Wakes all, and lets nobody wait any more.
    pub fn close(&self) {
        let woken = {
            let mut inner = self.lock();
            inner.is_closed = true;
            std::mem::take(&mut inner.by_number)
        };
        for blocker in woken.into_values().flatten() {
            blocker.unpark();
        }
    }

    /// Held for a few instructions only, never while waiting.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Watch;
    use std::thread;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_wait_ends_by_its_number_by_its_time_or_with_all() {
        let waiting = Waiting::default();
        let watch = Watch::start().expect("a thread");
        let caller = Caller::new(&watch, None);
        let begun = Instant::now();
        waiting.wait(1, LONG, &caller, || true);
        waiting.wait(1, Duration::from_millis(50), &caller, || false);
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let threads: Vec<_> = [1, 1, 2]
            .map(|number| {
                let (waiting, watch) = (waiting.clone(), watch.clone());
                thread::spawn(move || waiting.wait(number, LONG, &Caller::new(&watch, None), || false))
            })
            .into();
        while waiting.lock().by_number.values().map(Vec::len).sum::<usize>() < 3 {
            thread::yield_now();
        }
        waiting.wake(3);
        waiting.wake(1);
        waiting.close();
        for thread in threads {
            thread.join().expect("no panic");
        }
        waiting.wait(1, LONG, &caller, || false);
        assert!(begun.elapsed() < LONG);
        assert!(waiting.lock().by_number.is_empty());
    }
}
