//! Coroutines that follow what changes by and by. Each change of a number is counted, so that none is missed between a look and
//! the wait after it; who follows costs a parked coroutine, and no thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use may::sync::Blocker;

use super::watch::Caller;

/// What is followed, by its number; cheap to clone.
#[derive(Clone, Default)]
pub struct Changes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Only what somebody follows.
    by_number: HashMap<u32, Followed>,
    is_closed: bool,
}

#[derive(Default)]
struct Followed {
    count: u64,
    followers: usize,
    waiting: Vec<Arc<Blocker>>,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something has changed since the last look.
    Changed,
    /// Its time is over.
    TimedOut,
    /// The caller has hung up.
    HungUp,
    /// Nothing will be told any more.
    Closed,
}

impl Changes {
    /// Begins to count the changes of a number.
    pub fn follow(&self, number: u32) -> Follower {
        self.lock().by_number.entry(number).or_default().followers += 1;
        Follower { changes: self.clone(), number, seen: 0 }
    }

    /// Tells those who follow that something has changed. Costs next to nothing where nobody does.
    pub fn tell(&self, number: u32) {
        let woken = {
            let mut inner = self.lock();
            let Some(followed) = inner.by_number.get_mut(&number) else { return };
            followed.count += 1;
            std::mem::take(&mut followed.waiting)
        };
        for blocker in woken {
            blocker.unpark();
        }
    }

    /// Ends all waits, and those to come.
    pub fn close(&self) {
        let woken: Vec<_> = {
            let mut inner = self.lock();
            inner.is_closed = true;
            inner.by_number.values_mut().flat_map(|followed| std::mem::take(&mut followed.waiting)).collect()
        };
        for blocker in woken {
            blocker.unpark();
        }
    }

    /// Held for a few instructions only, never while waiting.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who follows.
pub struct Follower {
    changes: Changes,
    number: u32,
    /// How many changes there had been at the last look.
    seen: u64,
}

impl Follower {
    /// What has changed up to now is seen by the look that follows.
    pub fn begin_look(&mut self) {
        self.seen = self.changes.lock().by_number.get(&self.number).map_or(0, |followed| followed.count);
    }

    /// Waits until something has changed since the last look, for `most` at the most, and no longer than the caller is there.
    pub fn wait(&self, most: Duration, caller: &Caller<'_>) -> Woken {
        let blocker = Blocker::current();
        {
            let mut inner = self.changes.lock();
            let is_closed = inner.is_closed;
            let Some(followed) = inner.by_number.get_mut(&self.number) else { return Woken::Closed };
            if followed.count != self.seen {
                return Woken::Changed;
            }
            if is_closed {
                return Woken::Closed;
            }
            followed.waiting.push(Arc::clone(&blocker));
        }
        caller.wait(most, &blocker);
        let mut inner = self.changes.lock();
        let is_closed = inner.is_closed;
        let Some(followed) = inner.by_number.get_mut(&self.number) else { return Woken::Closed };
        if followed.count != self.seen {
            // Who told of it has taken all that waited.
            return Woken::Changed;
        }
        followed.waiting.retain(|other| !Arc::ptr_eq(other, &blocker));
        drop(inner);
        match (is_closed, caller.has_hung_up()) {
            (true, _) => Woken::Closed,
            (false, true) => Woken::HungUp,
            (false, false) => Woken::TimedOut,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut inner = self.changes.lock();
        if let Some(followed) = inner.by_number.get_mut(&self.number) {
            followed.followers -= 1;
            if followed.followers == 0 {
                inner.by_number.remove(&self.number);
            }
        }
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
    fn no_change_between_a_look_and_a_wait_is_missed() {
        let changes = Changes::default();
        let watch = Watch::start().expect("a thread");
        let caller = Caller::new(&watch, None);
        let mut follower = changes.follow(1);
        follower.begin_look();
        changes.tell(1);
        changes.tell(2);
        assert_eq!(follower.wait(LONG, &caller), Woken::Changed);
        follower.begin_look();
        assert_eq!(follower.wait(Duration::from_millis(20), &caller), Woken::TimedOut);
    }

    #[test]
    fn all_who_follow_are_woken_and_nothing_is_left_of_them() {
        let changes = Changes::default();
        let watch = Watch::start().expect("a thread");
        let begun = Instant::now();
        let waits: Vec<_> = (0..8)
            .map(|_| {
                let (changes, watch) = (changes.clone(), watch.clone());
                thread::spawn(move || {
                    let mut follower = changes.follow(7);
                    follower.begin_look();
                    follower.wait(LONG, &Caller::new(&watch, None))
                })
            })
            .collect();
        let waiting = || changes.lock().by_number.get(&7).map_or(0, |followed| followed.waiting.len());
        while waiting() < 8 {
            thread::yield_now();
        }
        changes.tell(7);
        for wait in waits {
            assert_eq!(wait.join().expect("no panic"), Woken::Changed);
        }
        assert!(changes.lock().by_number.is_empty());
        changes.close();
        assert_eq!(changes.follow(7).wait(LONG, &Caller::new(&watch, None)), Woken::Closed);
        assert!(begun.elapsed() < LONG);
    }
}
