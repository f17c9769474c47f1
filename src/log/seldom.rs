//! What may happen a thousand times a second, and is told once a minute, with how often it happened.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::clock::{MonotonicMs, monotonic_ms};

/// Between two lines about one thing.
const PAUSE_MS: MonotonicMs = 60_000;

/// Counts one kind of event, and says when a line about it is due.
pub struct Seldom {
    /// When the next line is due.
    due_at: AtomicI64,
    untold: AtomicU32,
}

impl Seldom {
    /// The first event is told at once.
    pub const fn new() -> Self {
        Self { due_at: AtomicI64::new(MonotonicMs::MIN), untold: AtomicU32::new(0) }
    }

    /// Counts one. If a line is due, gives how many there were since the last one, this one included.
    pub fn count(&self) -> Option<u32> {
        self.count_at(monotonic_ms())
    }

    fn count_at(&self, now: MonotonicMs) -> Option<u32> {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let due_at = self.due_at.load(Ordering::Relaxed);
        let is_mine = due_at <= now
            && self
                .due_at
                .compare_exchange(due_at, now + PAUSE_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        is_mine.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_are_counted() {
        let seldom = Seldom::new();
        assert_eq!(seldom.count_at(5), Some(1));
        assert_eq!(seldom.count_at(5), None);
        assert_eq!(seldom.count_at(PAUSE_MS + 4), None);
        assert_eq!(seldom.count_at(PAUSE_MS + 5), Some(3));
        assert_eq!(seldom.count_at(PAUSE_MS + 6), None);
    }
}
