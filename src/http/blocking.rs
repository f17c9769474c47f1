//! Waiting for a disk thread from a coroutine.

use std::io;

use may::sync::mpsc::channel;

use crate::disk_threads::Disk;

/// Runs `job` on a disk thread while this coroutine waits for its result. An error only if the job panicked.
pub fn wait_for_disk<T: Send + 'static>(
    disk: &Disk,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (result_tx, result_rx) = channel();
    disk.run(move || {
        // The coroutine waits: it cannot be gone.
        let _ = result_tx.send(job());
    });
    result_rx.recv().map_err(io::Error::other)
}
