//! What is counted where it happens, for `/metrics`: atomics that cost some nanoseconds each, and nothing while nobody asks. The text
//! that a monitoring system reads is made of them in `text`. Nothing here knows what it counts.

mod text;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use text::{Form, Text, seconds};

/// Payloads by the status that they have got.
pub static PAYLOADS: ByWord = ByWord::new();

/// From the upload of a payload to its slot.
pub static WAITED: Histogram = Histogram::new(LONG);

/// From the slot of a payload to its process.
pub static STARTED: Histogram = Histogram::new(SHORT);

/// From the start of a payload to its end.
pub static RAN: Histogram = Histogram::new(LONG);

/// Payloads that came to a limit, by the name of its setting.
pub static LIMITS: ByWord = ByWord::new();

/// Errors that callers were told, by their codes.
pub static REFUSALS: ByWord = ByWord::new();

/// Bytes that came by connections.
pub static RECEIVED: Counter = Counter::new();

/// Bytes that went out by connections, heads and framing included.
pub static SENT: Counter = Counter::new();

/// Connections that are served.
pub static CONNECTIONS: Gauge = Gauge::new();

/// Bodies that are being received.
pub static UPLOADS: Gauge = Gauge::new();

/// Answers that are made while they are sent.
pub static DOWNLOADS: Gauge = Gauge::new();

/// Answers that come by and by.
pub static FOLLOWERS: Gauge = Gauge::new();

/// Upper bounds of what takes moments, in microseconds: from half a millisecond to a minute.
pub const SHORT: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// The same of what may take days.
pub const LONG: &[u64] = &[
    10_000,
    100_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

/// No list of bounds is longer.
const MOST_BOUNDS: usize = 14;

/// Only goes up.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many there have been.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are.
pub struct Gauge(AtomicUsize);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// One more, until what is given is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }

    /// How many there are now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

/// One of those that are counted.
pub struct Entered<'g>(&'g Gauge);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters by a word of the program's own. What callers send is never one: their number has to be bounded.
pub struct ByWord(Mutex<Vec<(&'static str, u64)>>);

impl ByWord {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// One more of these.
    pub fn add(&self, word: &'static str) {
        self.add_many(word, 1);
    }

    /// So many more.
    pub fn add_many(&self, word: &'static str, more: u64) {
        let mut counts = self.lock();
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += more,
            None => counts.push((word, more)),
        }
    }

    /// How many there have been of these.
    pub fn count(&self, word: &str) -> u64 {
        self.lock().iter().find(|(known, _)| *known == word).map_or(0, |(_, count)| *count)
    }

    /// All of which there was one.
    pub fn get(&self) -> Vec<(&'static str, u64)> {
        self.lock().clone()
    }

    /// Held for a few instructions only.
    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long something took, as many times as it happened.
pub struct Histogram {
    bounds: &'static [u64],
    /// How many were up to each bound and above the one before; the last: above all.
    counts: [AtomicU64; MOST_BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// With these bounds, in microseconds, 14 at the most.
    pub const fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; MOST_BOUNDS + 1], sum_us: AtomicU64::new(0) }
    }

    /// It has taken so long.
    pub fn add(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let index = self.bounds.iter().position(|bound| took_us <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_there_once() {
        static WORDS: ByWord = ByWord::new();
        let gauge = Gauge::new();
        let entered = [gauge.enter(), gauge.enter()];
        assert_eq!(gauge.get(), 2);
        drop(entered);
        assert_eq!(gauge.get(), 0);
        WORDS.add("a");
        WORDS.add_many("b", 2);
        WORDS.add("a");
        assert_eq!(WORDS.get(), [("a", 2), ("b", 2)]);
        assert_eq!((WORDS.count("b"), WORDS.count("c")), (2, 0));
    }

    #[test]
    fn the_bounds_fit_and_go_up() {
        for bounds in [SHORT, LONG] {
            assert!(bounds.len() <= MOST_BOUNDS && bounds.is_sorted());
        }
    }
}
