//! Tells when a file grows, by inotify(7): one instance and one thread for all files, there from the first one on. How often it
//! tells is bounded, whatever is written.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::disk_threads::{Disk, STACK_BYTES};
use crate::event;
use crate::payload::PayloadId;

/// Between two tellings: a payload may print a hundred thousand lines a second, and who follows need not run for each.
const PAUSE: Duration = Duration::from_millis(10);

/// Room for some hundred events without a name, of 16 bytes each.
const EVENT_BYTES: usize = 4096;

/// Tells of files that grow; cheap to clone.
#[derive(Clone)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
}

struct Shared {
    tell: Box<dyn Fn(PayloadId) + Send + Sync>,
    /// Lets go of watches: the lock below may be held by one who waits for the disk.
    disk: Disk,
    instance: OnceLock<OwnedFd>,
    /// Held while watches are added and removed: the kernel has one for each file, whoever asks.
    changing: Mutex<()>,
    /// By watch: whose output it is, and how many follow it.
    watched: Mutex<HashMap<i32, (PayloadId, usize)>>,
}

/// A file is watched until this is dropped.
pub(super) struct Watched {
    shared: Arc<Shared>,
    watch: i32,
}

impl Watcher {
    pub(super) fn new(disk: Disk, tell: impl Fn(PayloadId) + Send + Sync + 'static) -> Self {
        let shared = Shared {
            tell: Box::new(tell),
            disk,
            instance: OnceLock::new(),
            changing: Mutex::default(),
            watched: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Not for a coroutine, as all here that takes `changing`.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let _turn = self.shared.lock_changing();
        if self.shared.instance.get().is_some() {
            return Ok(());
        }
        let instance = inotify::init(CreateFlags::CLOEXEC)?;
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("logs".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || shared.tell_changes())?;
        // Only one can be here. The thread waits for it.
        let _ = self.shared.instance.set(instance);
        Ok(())
    }

    /// Tells of `id` from now on whenever `file` has changed.
    pub(super) fn watch(&self, id: PayloadId, file: &File) -> io::Result<Watched> {
        self.prepare()?;
        let _turn = self.shared.lock_changing();
        let instance = self.shared.instance.get().ok_or(io::ErrorKind::NotFound)?;
        // By the descriptor: the payload may have put another file in its place.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(instance, path, WatchFlags::MODIFY)?;
        self.shared.lock_watched().entry(watch).or_insert((id, 0)).1 += 1;
        Ok(Watched { shared: Arc::clone(&self.shared), watch })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (shared, watch) = (Arc::clone(&self.shared), self.watch);
        self.shared.disk.run(move || shared.let_go(watch));
    }
}

impl Shared {
    fn let_go(&self, watch: i32) {
        let _turn = self.lock_changing();
        let mut watched = self.lock_watched();
        let Some(entry) = watched.get_mut(&watch) else { return };
        entry.1 -= 1;
        if entry.1 > 0 {
            return;
        }
        watched.remove(&watch);
        drop(watched);
        if let Some(instance) = self.instance.get() {
            // It is gone by itself if the file is.
            let _ = inotify::remove_watch(instance, watch);
        }
    }

    fn tell_changes(&self) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = Reader::new(self.instance.wait(), &mut buffer);
        let mut changed = BTreeSet::new();
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    changed.extend(self.lock_watched().values().map(|watched| watched.0));
                }
                Ok(event) => changed.extend(self.lock_watched().get(&event.wd()).map(|watched| watched.0)),
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    event!(Error, "cannot read what inotify tells", error = errno.to_string());
                    thread::sleep(Duration::from_secs(1));
                    continue;
                }
            }
            if events.is_buffer_empty() {
                for id in std::mem::take(&mut changed) {
                    (self.tell)(id);
                }
                thread::sleep(PAUSE);
            }
        }
    }

    /// May be held over calls that wait for the disk.
    fn lock_changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for a few instructions only.
    fn lock_watched(&self) -> MutexGuard<'_, HashMap<i32, (PayloadId, usize)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_file_that_grows_is_told_of_at_once_and_not_after_the_last_has_let_go() {
        let (told, seen) = channel();
        let watcher = Watcher::new(Disk::of_few(1), move |id| {
            let _ = told.send(id);
        });
        let mut file = tempfile::tempfile().expect("a temporary file");
        let [first, second] = [(); 2].map(|()| watcher.watch(7, &file).expect("a watch"));
        drop(first);
        let begun = Instant::now();
        file.write_all(b"x").expect("written");
        assert_eq!(seen.recv_timeout(WAIT), Ok(7));
        assert!(begun.elapsed() < WAIT / 10, "{:?}", begun.elapsed());
        drop(second);
        while !watcher.shared.lock_watched().is_empty() {
            thread::yield_now();
        }
        thread::sleep(PAUSE * 3);
        while seen.try_recv().is_ok() {}
        file.write_all(b"x").expect("written");
        assert!(seen.recv_timeout(PAUSE * 10).is_err());
    }

    #[test]
    fn however_much_is_written_it_is_told_a_hundred_times_a_second_at_the_most() {
        let (told, seen) = channel();
        let watcher = Watcher::new(Disk::of_few(1), move |id| {
            let _ = told.send(id);
        });
        let mut file = tempfile::tempfile().expect("a temporary file");
        let _watched = watcher.watch(7, &file).expect("watched");
        let begun = Instant::now();
        for _ in 0..20_000 {
            file.write_all(b"a line\n").expect("written");
        }
        thread::sleep(PAUSE * 2);
        let most = begun.elapsed().as_millis() / PAUSE.as_millis() + 2;
        let count = seen.try_iter().count();
        assert!(count > 0 && count as u128 <= most, "{count} of {most}");
    }
}
