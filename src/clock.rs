//! The clocks: the time of day, which people and the next life are told, and one that only goes forward, for ages and waits.
//! The only place that asks for the time of day. std's own clock has 32 bits with musl on a 32-bit machine and ends the process where
//! the date is past 2038, which a board without a battery may believe at any time. rustix asks with 64 bits (Linux 5.1; before
//! that such a machine cannot have such a date), and for file times, too.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since 1970, of the wall clock.
pub type UnixMs = i64;

/// The last moment that RFC 3339 can tell: the end of the year 9999.
pub const LAST_MS: UnixMs = 253_402_300_799_999;

/// Milliseconds on a clock that only goes forward, from a start of its own.
pub type MonotonicMs = i64;

/// The wall clock now, from 0 to [`LAST_MS`]: a clock before 1970 counts as 1970.
pub fn now_ms() -> UnixMs {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000).clamp(0, LAST_MS)
}

/// Milliseconds on a clock that only goes forward, for ages and waits: the wall clock of a board without a battery jumps by
/// years when the network tells it the time.
pub fn monotonic_ms() -> MonotonicMs {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// The longest time between two calls of [`tick`] that a process which is not stopped may need.
const LONGEST_TICK_MS: MonotonicMs = 2000;

/// When [`tick`] was last called, and how long this process was found to have been stopped by then.
static TICKED_AT: AtomicI64 = AtomicI64::new(0);
static STOPPED_MS: AtomicI64 = AtomicI64::new(0);

/// Tells the clock of [`running_ms`] that this process runs: to be called about once a second, by a thread that nothing holds up.
pub fn tick() {
    let now = monotonic_ms();
    // In this order a look in between finds the clock late, never early.
    STOPPED_MS.fetch_add(stopped_since_tick(now), Ordering::SeqCst);
    TICKED_AT.store(now, Ordering::SeqCst);
}

/// Milliseconds on a clock that stands still while this process is stopped (SIGSTOP, a debugger, a frozen cgroup): by it, what
/// hangs is told from what was not let run.
pub fn running_ms() -> MonotonicMs {
    let now = monotonic_ms();
    now - stopped_since_tick(now) - STOPPED_MS.load(Ordering::SeqCst)
}

fn stopped_since_tick(now: MonotonicMs) -> MonotonicMs {
    stopped(now - TICKED_AT.load(Ordering::SeqCst))
}

/// How much of the time since a tick this process must have been stopped.
fn stopped(since_tick: MonotonicMs) -> MonotonicMs {
    (since_tick - LONGEST_TICK_MS).max(0)
}

/// A moment as std has it, for crates that write it down: from 1970 to the end of 9999, since humantime and httpdate panic
/// outside, and a clock that has gone mad must not end the client. std itself counts it in 64 bits everywhere.
pub fn system_time(at: UnixMs) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.min(LAST_MS)).unwrap_or(0))
}

/// A moment in the form of RFC 3339, whole seconds, UTC.
pub fn rfc3339(at: UnixMs) -> String {
    humantime::format_rfc3339_seconds(system_time(at)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_the_one_of_the_machine() {
        let apart =
            SystemTime::now().duration_since(system_time(now_ms())).expect("it has been asked second");
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }

    #[test]
    fn a_stop_does_not_count_and_a_late_tick_does() {
        assert_eq!(stopped(0), 0);
        assert_eq!(stopped(LONGEST_TICK_MS), 0);
        assert_eq!(stopped(LONGEST_TICK_MS + 60_000), 60_000);
        tick();
        assert!(running_ms() <= monotonic_ms());
    }

    #[test]
    fn any_moment_is_one_that_can_be_written_down() {
        for (at, told) in [
            (UnixMs::MIN, "1970-01-01T00:00:00Z"),
            (2_208_988_800_000, "2040-01-01T00:00:00Z"),
            (UnixMs::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(humantime::format_rfc3339_seconds(system_time(at)).to_string(), told);
        }
        assert_eq!(httpdate::fmt_http_date(system_time(2_208_988_800_000)), "Sun, 01 Jan 2040 00:00:00 GMT");
        let _ = httpdate::fmt_http_date(system_time(UnixMs::MAX));
    }
}
