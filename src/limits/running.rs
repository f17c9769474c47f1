//! The limits of what runs, for those who look whether they are kept: they sleep as long as nothing runs that has such a limit.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Grant, Group};
use crate::payload::PayloadId;

/// A payload that runs.
#[derive(Clone)]
pub struct Entry {
    /// Its number.
    pub id: PayloadId,
    /// As which user all its processes run, and no others; `None` for that of the client.
    pub user: Option<u32>,
    /// Its directory.
    pub directory: Arc<Path>,
    /// The process of its `run.sh`, which is the number of its session, too.
    pub root: u32,
    /// From then on that number may be a stranger's.
    pub root_is_reaped: bool,
    /// What it may use.
    pub grant: Grant,
    /// Where the kernel keeps a part of it.
    pub group: Option<Arc<Group>>,
}

/// All that run; cheap to clone.
#[derive(Clone, Default)]
pub struct Running(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Vec<Entry>>,
    has_begun: Condvar,
}

impl Running {
    /// A payload has been started.
    pub fn begin(&self, entry: Entry) {
        self.entries().push(entry);
        self.0.has_begun.notify_all();
    }

    /// Its `run.sh` has been reaped.
    pub fn root_is_reaped(&self, id: PayloadId) {
        let mut entries = self.entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.id == id) {
            entry.root_is_reaped = true;
        }
    }

    /// No process of it is left.
    pub fn end(&self, id: PayloadId) {
        self.entries().retain(|entry| entry.id != id);
    }

    /// Those that are wanted; sleeps until there is one.
    pub fn wait_for(&self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut entries = self.entries();
        loop {
            let wanted: Vec<Entry> = entries.iter().filter(|entry| is_wanted(entry)).cloned().collect();
            if !wanted.is_empty() {
                return wanted;
            }
            entries = self.0.has_begun.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
