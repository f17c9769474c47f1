//! Retention: directories go MAX_AGE after the end of their payload, or when that is asked for; rows another MAX_AGE later.
//! What waits or runs has no end and is never looked at; directories of an earlier life go by their own age.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::clock::{MonotonicMs, monotonic_ms, now_ms};
use crate::data::lease::{Lease, Leases};
use crate::data::record::{Durability, Shelf};
use crate::event;
use crate::payload::PayloadId;
use crate::store::Store;

/// The longest wait between two looks; short ages are looked after more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause while there is something that could not be removed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// Removes directories, and tries those again that are being sent, or that the disk did not let go; cheap to clone.
#[derive(Clone)]
pub struct Remover {
    shelf: Shelf,
    durability: Durability,
    leases: Leases,
    left: Arc<Mutex<Vec<Left>>>,
}

/// A directory that is still to be removed.
struct Left {
    directory: PathBuf,
    /// The disk did not let it go, which has been told.
    has_failed: bool,
}

impl Remover {
    /// With nothing to try again.
    pub fn new(shelf: Shelf, durability: Durability) -> Self {
        Self { shelf, durability, leases: Leases::default(), left: Arc::default() }
    }

    /// Keeps a directory from being removed as long as the lease is there. `None` if it is being removed.
    pub fn lease(&self, directory: &Path) -> Option<Lease> {
        self.leases.read(directory)
    }

    /// Removes the directory of a payload that is `Cleaned`, as [`Remover::remove`] does, and says so.
    pub fn clean(&self, id: PayloadId, directory: &Path) {
        event!(Info, "payload cleaned", payload = id, directory = directory.display());
        self.remove(directory);
    }

    /// Removes the directory of a payload, now, or as soon as nobody reads it and the disk lets it go.
    pub fn remove(&self, directory: &Path) {
        let mut left = Left { directory: directory.to_owned(), has_failed: false };
        if !self.is_removed(&mut left) {
            if !left.has_failed {
                event!(
                    Info,
                    "a directory is being sent; it is removed afterwards",
                    directory = directory.display()
                );
            }
            self.left().push(left);
        }
    }

    /// Removes it if nobody reads it. The first failure of the disk is told.
    fn is_removed(&self, left: &mut Left) -> bool {
        let directory = &*left.directory;
        let Some(_lease) = self.leases.remove(directory) else { return false };
        match self.shelf.discard(directory, self.durability) {
            Ok(()) => true,
            Err(error) => {
                if !left.has_failed {
                    event!(
                        Error,
                        "cannot remove a directory; it is tried again",
                        directory = directory.display(),
                        error = error
                    );
                }
                left.has_failed = true;
                false
            }
        }
    }

    /// The directories that are still to be removed.
    pub fn owed_directories(&self) -> Vec<PathBuf> {
        self.left().iter().map(|left| left.directory.clone()).collect()
    }

    /// Tries to remove all that is left once. May wait for the disk.
    pub fn try_owed(&self) {
        self.try_again();
    }

    fn is_done(&self) -> bool {
        self.left().is_empty()
    }

    fn try_again(&self) {
        let mut left = std::mem::take(&mut *self.left());
        left.retain_mut(|left| {
            let is_removed = self.is_removed(left);
            if is_removed {
                event!(Info, "directory removed at last", directory = left.directory.display());
            }
            !is_removed
        });
        self.left().append(&mut left);
    }

    fn left(&self) -> MutexGuard<'_, Vec<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that cleans up. It does nothing before it is sent the directories of an earlier life that no row knows.
pub fn prepare(store: Store, max_age: Duration, remover: Remover) -> io::Result<mpsc::Sender<Vec<PathBuf>>> {
    let pause = (max_age / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let (begin, start) = mpsc::channel();
    thread::Builder::new().name("clean".to_owned()).spawn(move || {
        // An error is a start of the client that has failed.
        let Ok(leftovers) = start.recv() else { return };
        let mut cleaner = Cleaner { store, max_age, leftovers, remover };
        loop {
            cleaner.clean();
            thread::sleep(if cleaner.remover.is_done() { pause } else { pause.min(RETRY_PAUSE) });
        }
    })?;
    Ok(begin)
}

struct Cleaner {
    store: Store,
    max_age: Duration,
    /// Directories of an earlier life without a row.
    leftovers: Vec<PathBuf>,
    remover: Remover,
}

impl Cleaner {
    fn clean(&mut self) {
        self.remover.try_again();
        // What is away is not gone: nobody is told so before it can be removed.
        if self.remover.shelf.must_be_in_place().is_err() {
            return;
        }
        let max_age_ms = MonotonicMs::try_from(self.max_age.as_millis()).unwrap_or(MonotonicMs::MAX);
        let cutoff = monotonic_ms() - max_age_ms;
        // The status changes first: whoever asks while the directory goes is told `Cleaned`, not half a ZIP.
        for found in [self.store.clean(cutoff), self.store.clean_unwanted(None)] {
            match found {
                Ok(cleaned) => cleaned.iter().for_each(|(id, directory)| self.remover.clean(*id, directory)),
                Err(error) => event!(Error, "cannot look for old payloads", error = error.to_string()),
            }
        }
        if let Err(error) = self.store.forget(cutoff) {
            event!(Error, "cannot forget old payloads", error = error.to_string());
        }
        let (max_age, remover) = (self.max_age, &self.remover);
        self.leftovers.retain(|directory| {
            let is_old = age(directory, now_ms() / 1000).is_none_or(|age| age > max_age);
            if is_old {
                event!(Info, "directory of an earlier life removed", directory = directory.display());
                remover.remove(directory);
            }
            !is_old
        });
    }
}

/// Time since the last change in the directory itself, or in what is in its place; `None` if it is gone. A change in the future,
/// by a clock that was wrong, counts as one now, also in later lives.
fn age(directory: &Path, now_s: i64) -> Option<Duration> {
    let modified_s = rustix::fs::lstat(directory).ok()?.st_mtime;
    if modified_s > now_s {
        let now = Timespec { tv_sec: now_s, tv_nsec: 0 };
        let times = Timestamps { last_access: now, last_modification: now };
        if let Err(errno) = utimensat(CWD, directory, &times, AtFlags::SYMLINK_NOFOLLOW) {
            event!(
                Warn,
                "a directory has a date in the future that cannot be changed",
                directory = directory.display(),
                error = errno.to_string()
            );
        }
    }
    Some(Duration::from_secs(u64::try_from(now_s - modified_s).unwrap_or(0)))
}
