//! Waiting for a disk thread from a coroutine.

use std::io;
use std::time::Duration;

use super::reply::{Missing, reply};
use super::watch::{Patience, Watch};
use crate::disk_threads::Disk;

/// Runs `job` on a disk thread while this coroutine waits for its result, for `most` at the most. `TimedOut` if it has not come
/// by then: `job` is run all the same, as soon as a thread and the disk let it. Another error only if the job panicked.
pub fn wait_for_disk<T: Send + 'static>(
    disk: &Disk,
    watch: &Watch,
    most: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (teller, asker) = reply();
    disk.run(move || teller.tell(job()));
    asker.wait(&mut Patience::new(watch, most)).map_err(|missing| match missing {
        Missing::Late => io::ErrorKind::TimedOut.into(),
        Missing::Lost => io::Error::other("a disk thread ended without a result"),
    })
}
