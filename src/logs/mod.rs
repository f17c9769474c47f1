//! The outputs of payloads as they are written: who follows one is woken by inotify(7), and reads on a few disk threads. What
//! a follower is and how it waits is not known here.

mod event_stream;
mod output;
mod reading;
mod watcher;

use std::io;

use crate::disk_threads::Disk;
use crate::payload::PayloadId;

pub use event_stream::HEARTBEAT;
pub use reading::{Beyond, FindLive, Form, Live, Place, Reading, Stream};
use watcher::Watcher;

/// Threads that read for all who follow. A read of a few KiB takes some microseconds; where the disk hangs, more threads would hang.
const THREADS: usize = 2;

/// What reading outputs takes; cheap to clone.
#[derive(Clone)]
pub struct Logs {
    watcher: Watcher,
    disk: Disk,
}

impl Logs {
    /// `tell` is called with each payload whose output has grown, if somebody follows it. Nothing is started before that.
    pub fn new(tell: impl Fn(PayloadId) + Send + Sync + 'static) -> Self {
        let disk = Disk::of_few(THREADS);
        Self { watcher: Watcher::new(disk.clone(), tell), disk }
    }

    /// The threads that read.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Makes sure that outputs can be followed; the first call starts the thread for it. An error where the host gives no inotify
    /// instance (`EMFILE`) or no thread.
    pub fn prepare_to_follow(&self) -> io::Result<()> {
        self.watcher.prepare()
    }
}
