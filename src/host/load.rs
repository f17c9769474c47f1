//! CPU use of the whole host, sampled from /proc/stat by one thread and published in an atomic.
//! `procfs` gives the counters; `runner::processes` is its only other user.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use procfs::{CpuTime, CurrentSI as _, KernelStats};

use crate::clock;
use crate::event;

/// A little less than the second that a sample may be old, so that a late wake-up does not break the promise.
const INTERVAL: Duration = Duration::from_millis(900);

/// The first sample is taken over a shorter time, so that a client asked right after its start has one.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// The last sample; cheap to clone.
#[derive(Clone)]
pub struct Load {
    tenths_of_percent: Arc<AtomicU32>,
}

impl Load {
    /// Starts the sampler.
    pub fn start() -> io::Result<Self> {
        let load = Self { tenths_of_percent: Arc::new(AtomicU32::new(0)) };
        let published = Arc::clone(&load.tenths_of_percent);
        thread::Builder::new().name("load".to_owned()).spawn(move || sample(&published))?;
        Ok(load)
    }

    /// A load that does not change.
    #[cfg(test)]
    pub(super) fn fixed(percent: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let tenths = (percent * 10.0) as u32;
        Self { tenths_of_percent: Arc::new(AtomicU32::new(tenths)) }
    }

    /// CPU use in percent of all the host's CPUs, 0 to 100, over the last interval.
    pub fn percent(&self) -> f64 {
        f64::from(self.tenths_of_percent.load(Ordering::Relaxed)) / 10.0
    }
}

fn sample(published: &AtomicU32) {
    let mut before = None;
    let mut interval = FIRST_INTERVAL;
    let mut stale_since: Option<Instant> = None;
    loop {
        clock::tick();
        match KernelStats::current() {
            Ok(stats) => {
                if let Some(since) = stale_since.take() {
                    event!(Info, "/load is right again", after_s = since.elapsed().as_secs());
                }
                let now = Ticks::of(&stats.total);
                if let Some(before) = before {
                    published.store(now.tenths_of_percent_since(before), Ordering::Relaxed);
                }
                before = Some(now);
            }
            Err(error) if stale_since.is_none() => {
                event!(Error, "cannot read /proc/stat, /load is stale", error = error.to_string());
                stale_since = Some(Instant::now());
            }
            // Told already.
            Err(_) => {}
        }
        thread::sleep(interval);
        interval = INTERVAL;
    }
}

/// Clock ticks since boot, over all CPUs (proc_stat(5)). Guest time is part of user time already.
#[derive(Clone, Copy)]
struct Ticks {
    busy: u64,
    idle: u64,
}

impl Ticks {
    fn of(cpu: &CpuTime) -> Self {
        let optional = |ticks: Option<u64>| ticks.unwrap_or(0);
        Self {
            busy: cpu.user
                + cpu.nice
                + cpu.system
                + optional(cpu.irq)
                + optional(cpu.softirq)
                + optional(cpu.steal),
            idle: cpu.idle + optional(cpu.iowait),
        }
    }

    /// Rounded to the nearest tenth. The counters of idle time may step back by a tick (proc_stat(5)).
    fn tenths_of_percent_since(self, before: Self) -> u32 {
        let busy = self.busy.saturating_sub(before.busy);
        let total = busy + self.idle.saturating_sub(before.idle);
        let tenths = (busy * 1000 + total / 2).checked_div(total).unwrap_or(0);
        u32::try_from(tenths).unwrap_or(1000).min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_come_from_differences() {
        let at = |busy, idle| Ticks { busy, idle };
        assert_eq!(at(150, 250).tenths_of_percent_since(at(100, 100)), 250);
        assert_eq!(at(200, 100).tenths_of_percent_since(at(100, 100)), 1000);
        assert_eq!(at(100, 100).tenths_of_percent_since(at(100, 100)), 0);
        assert_eq!(at(101, 99).tenths_of_percent_since(at(100, 100)), 1000);
        assert_eq!(at(452, 548).tenths_of_percent_since(at(0, 0)), 452);
    }
}
