//! The directory that holds the payload directories: chosen and locked at start, watched while the client runs.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use uuid::{Builder, Uuid};

use crate::clock::running_ms;
use crate::data::directory;
use crate::data::disk_error::{is_full, is_out_of_descriptors};
use crate::data::owner;
use crate::data::record::Shelf;
use crate::data::unusable::explained;
use crate::event;

const USUAL: &str = "/opt/data";
const FALLBACK: &str = "./data";

/// Kept locked while a client uses the directory: two clients would clean up each other's payloads.
const LOCK_FILE: &str = ".orchestrator.lock";

/// How long a start waits for the lock.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// What is written, and removed again, to see whether a disk that failed works again.
const PROBE: &str = ".orchestrator.probe";
const PROBE_BYTES: usize = 4096;

/// What is given away, and removed, to see whether files can be.
const OWNER_PROBE: &str = ".orchestrator.owner";

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A check that is older than this hangs in a disk that does not answer.
const STUCK: Duration = Duration::from_secs(10);

/// The same, and never less, where requests wait for a disk for less time than that.
const LEAST_STUCK: Duration = Duration::from_secs(3);

/// The chosen directory; cheap to clone.
#[derive(Clone)]
pub struct DataPath {
    path: Arc<PathBuf>,
    watch: Arc<Watch>,
    lock: LockFile,
    shelf: Shelf,
}

/// The file that the client keeps locked, for what it has to remember itself; cheap to clone. Another one once DATA_PATH has
/// become another directory.
#[derive(Clone)]
pub struct LockFile(Arc<Mutex<Arc<File>>>);

impl LockFile {
    /// The file as it is now.
    pub fn current(&self) -> Arc<File> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another file in its place.
    pub fn replace(&self, file: File) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
    }
}

impl From<File> for LockFile {
    fn from(file: File) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(file))))
    }
}

#[derive(Default)]
struct Watch {
    checked_at: AtomicI64,
    /// How long requests wait for the disk, in milliseconds; 0 where nobody has said.
    patience_ms: AtomicU64,
    trouble: Mutex<Option<String>>,
    free_bytes: AtomicU64,
    free_inodes: AtomicU64,
    total_bytes: AtomicU64,
    /// A write has failed since the last one that worked.
    is_suspect: AtomicBool,
    /// The last write failed for want of space, whatever the numbers say: a quota, say.
    is_full: AtomicBool,
}

/// What is left on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes that this user may still write.
    pub bytes: u64,
    /// Files that can still be made; `u64::MAX` where the file system has no fixed number.
    pub inodes: u64,
}

impl DataPath {
    /// Makes and locks the directory that was given, or the usual one where that can be had, else `./data`.
    pub fn open(given: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let attempt = |path: &Path| prepare(path).map_err(|error| (path.to_owned(), explained(path, error)));
        let (path, lock) = match given {
            Some(path) => attempt(path)?,
            None => match attempt(Path::new(USUAL)) {
                // It can be had, and has payloads: a client beside it would know none of them.
                Err((path, error)) if error.kind() == io::ErrorKind::AddrInUse => return Err((path, error)),
                other => other.or_else(|_| attempt(Path::new(FALLBACK)))?,
            },
        };
        let shelf = Shelf::of(&path, random_uuid().to_string()).map_err(|error| (path.clone(), error))?;
        Ok(Self { path: Arc::new(path), watch: Arc::default(), lock: lock.into(), shelf })
    }

    /// Starts the thread that looks every second whether the directory can still be written. `disk_timeout`: how long requests wait for
    /// the disk. Once one has waited in vain, the others need not.
    pub fn watch(&self, disk_timeout: Duration) -> io::Result<()> {
        let this = self.clone();
        this.set_patience(disk_timeout);
        this.check();
        thread::Builder::new().name("data-path".to_owned()).spawn(move || {
            loop {
                thread::sleep(CHECK_INTERVAL);
                this.check();
            }
        })?;
        Ok(())
    }

    /// Where the records of payloads are.
    pub fn shelf(&self) -> Shelf {
        self.shelf.clone()
    }

    /// Whether the path leads to the same directory as at the start: not so while its disk is not mounted, and what would be
    /// written then would lie below it. Asks the disk: not for a coroutine.
    pub fn must_have_its_disk(&self) -> io::Result<()> {
        self.shelf.must_have_its_disk()
    }

    /// Whether, besides, records go to where the next start looks for them. Asks the disk: not for a coroutine.
    pub fn must_be_in_place(&self) -> io::Result<()> {
        self.shelf.must_be_in_place()
    }

    /// The file that the client keeps locked.
    pub fn lock_file(&self) -> LockFile {
        self.lock.clone()
    }

    /// Tells that a write has failed: the next looks try a write themselves, until one works.
    pub fn suspect(&self, error: &io::Error) {
        // What is not there is somebody's doing, not the disk's.
        if error.kind() != io::ErrorKind::NotFound {
            self.watch.is_suspect.store(true, Ordering::Relaxed);
        }
    }

    /// Whether writes fail for want of space, at the last look.
    pub fn is_full(&self) -> bool {
        self.watch.is_full.load(Ordering::Relaxed)
    }

    /// What was free at the last look, at most a second ago. Never waits for the disk.
    pub fn free(&self) -> Free {
        Free {
            bytes: self.watch.free_bytes.load(Ordering::Relaxed),
            inodes: self.watch.free_inodes.load(Ordering::Relaxed),
        }
    }

    /// How many bytes the disk has in all, as of the last look.
    pub fn total_bytes(&self) -> u64 {
        self.watch.total_bytes.load(Ordering::Relaxed)
    }

    /// What is free now, which is the last look from then on. Asks the disk: not for a coroutine.
    pub fn free_now(&self) -> io::Result<Free> {
        let volume = rustix::fs::statvfs(&*self.path)?;
        // File systems without a fixed number of inodes say 0 of 0.
        let inodes = if volume.f_files == 0 { u64::MAX } else { volume.f_favail };
        let total_bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
        self.watch.total_bytes.store(total_bytes, Ordering::Relaxed);
        let free = Free { bytes: volume.f_bavail.saturating_mul(volume.f_frsize), inodes };
        self.watch.free_bytes.store(free.bytes, Ordering::Relaxed);
        self.watch.free_inodes.store(free.inodes, Ordering::Relaxed);
        Ok(free)
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets payloads that run as users of their own come to their directories, `id` among them, and nobody but the client to the
    /// client's own files. Fails, and says what to do, where they cannot, or where files cannot be given to another user.
    pub fn admit(&self, id: u32) -> io::Result<()> {
        for above in self.path.ancestors().skip(1) {
            if fs::metadata(above)?.mode() & Mode::XOTH.bits() == 0 {
                let shown = above.display();
                return Err(io::Error::other(format!(
                    "other users cannot enter {shown}, in which DATA_PATH is; let them (chmod o+x {shown}), or choose another DATA_PATH"
                )));
            }
        }
        // Before anything is changed: it is as it was where this fails.
        let probe = self.path.join(OWNER_PROBE);
        match fs::create_dir(&probe) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let given = owner::give(&probe, id);
        fs::remove_dir(&probe)?;
        given.map_err(|error| {
            let shown = self.path.display();
            io::Error::new(error.kind(), format!("files in {shown} cannot be given to another user: {error}"))
        })?;
        let mode = Mode::from_raw_mode(fs::metadata(&*self.path)?.mode());
        if !mode.contains(Mode::XOTH) {
            rustix::fs::chmod(&*self.path, mode | Mode::XGRP | Mode::XOTH)?;
        }
        // Whoever can open a file can lock it.
        rustix::fs::fchmod(&*self.lock.current(), Mode::RUSR | Mode::WUSR)?;
        Ok(())
    }

    /// A name for a new payload directory; nothing is made yet.
    pub fn new_directory(&self) -> PathBuf {
        self.path.join(random_uuid().to_string())
    }

    /// The payload directories that are there: those with the name of a UUID.
    pub fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&*self.path)? {
            let entry = entry?;
            let is_ours = entry.file_name().to_str().is_some_and(|name| Uuid::try_parse(name).is_ok());
            if is_ours && entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Since when the disk has not answered, if it is known to hang.
    pub fn stuck_for(&self) -> Option<Duration> {
        let age_ms = running_ms() - self.watch.checked_at.load(Ordering::Relaxed);
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        (age > self.stuck_after()).then_some(age)
    }

    fn set_patience(&self, patience: Duration) {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.watch.patience_ms.store(patience_ms, Ordering::Relaxed);
    }

    fn stuck_after(&self) -> Duration {
        match self.watch.patience_ms.load(Ordering::Relaxed) {
            0 => STUCK,
            patience_ms => Duration::from_millis(patience_ms).clamp(LEAST_STUCK, STUCK),
        }
    }

    /// Why no payload can be stored now, if so.
    pub fn trouble(&self) -> Option<String> {
        if let Some(age) = self.stuck_for() {
            return Some(format!(
                "the disk of {} has not answered for {} s",
                self.path.display(),
                age.as_secs()
            ));
        }
        self.watch.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, as a look of this moment has it. Asks the disk: not for a coroutine.
    pub fn trouble_now(&self) -> Option<String> {
        self.check();
        self.trouble()
    }

    fn check(&self) {
        let now = self.find_trouble();
        let mut known = self.watch.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != now {
            match &now {
                Some(trouble) => event!(Error, "data path is not usable", reason = trouble.as_str()),
                None => event!(Info, "data path is usable again", path = self.path.display()),
            }
        }
        *known = now;
        self.watch.checked_at.store(running_ms(), Ordering::Relaxed);
    }

    /// Looks without writing, as long as no write has failed: a probe file every second would wear out flash.
    fn find_trouble(&self) -> Option<String> {
        let shown = self.path.display();
        if let Err(error) = rustix::fs::access(&*self.path, Access::WRITE_OK | Access::EXEC_OK) {
            return Some(format!("{shown} cannot be written: {error}"));
        }
        // Before anything is written there.
        if let Err(error) = self.must_have_its_disk() {
            return Some(format!("{shown} cannot be used: {error}"));
        }
        match self.keep_lock() {
            Err(error) if !is_out_of_descriptors(&error) => {
                return Some(format!("{shown} cannot be locked: {error}"));
            }
            _ => {}
        }
        match self.shelf.keep() {
            Err(error) if is_full(&error) => self.suspect(&error),
            Err(error) if !is_out_of_descriptors(&error) => {
                return Some(format!("{shown} cannot be used: {error}"));
            }
            _ => {}
        }
        if let Err(error) = self.free_now() {
            return Some(format!("{shown} cannot be read: {error}"));
        }
        if !self.watch.is_suspect.swap(false, Ordering::Relaxed) {
            return None;
        }
        let probed = self.probe();
        let is_full = probed.as_ref().is_err_and(is_full);
        self.watch.is_full.store(is_full, Ordering::Relaxed);
        self.watch.is_suspect.fetch_or(probed.is_err(), Ordering::Relaxed);
        let failed = probed.err().filter(|error| !is_full && !is_out_of_descriptors(error));
        failed.map(|error| format!("{shown} cannot be written: {error}"))
    }

    /// Opens the lock file to create it, which fails where it is: the kernel asks for the right to write first (`mnt_want_write`),
    /// so that a disk that takes no writes at all holds this up, and nothing is written. Where the file is gone, or another one, such as
    /// that of a disk that came back, it is locked as well.
    fn keep_lock(&self) -> io::Result<()> {
        let path = self.path.join(LOCK_FILE);
        let file = match File::options().create_new(true).read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let (there, ours) = (fs::symlink_metadata(&path)?, self.lock.current().metadata()?);
                if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
                    return Ok(());
                }
                File::options().read(true).write(true).open(&path)?
            }
            other => other?,
        };
        lock(&file, &path, Duration::ZERO)?;
        event!(
            Warn,
            "the lock of the data path is another file than before; it is locked",
            path = self.path.display()
        );
        self.lock.replace(file);
        Ok(())
    }

    /// Takes the steps by which a payload comes to the disk.
    fn probe(&self) -> io::Result<()> {
        let directory = self.path.join(PROBE);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {} // of a probe that failed
            other => other?,
        }
        let (new, file) = (directory.join("new"), directory.join("file"));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&[0; PROBE_BYTES])?;
            file.sync_all()
        });
        let moved = written.and_then(|()| fs::rename(&new, &file));
        // Also after a failure, as far as it goes.
        let removed = fs::remove_dir_all(&directory);
        moved.and(removed)
    }
}

/// fastrand is good enough against collisions, and needs no descriptor or system call for each.
fn random_uuid() -> Uuid {
    Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid()
}

fn prepare(path: &Path) -> io::Result<(PathBuf, File)> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let path = path.canonicalize()?;
    let file = directory::open_own_file(CWD, &*path.join(LOCK_FILE), OFlags::RDWR | OFlags::CREATE)?;
    lock(&file, &path, LOCK_WAIT)?;
    Ok((path, file))
}

fn lock(file: &File, path: &Path, wait: Duration) -> io::Result<()> {
    match lock_soon(file, wait) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let reason = "another client uses it; give each its own";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
        }
        // Some network file systems have no locks; then the user's care has to do.
        Err(errno) => {
            event!(Warn, "cannot lock the data path", path = path.display(), error = errno.to_string());
        }
    }
    Ok(())
}

/// Locks a file (`flock(2)`), for which it waits so long if somebody has it. `EWOULDBLOCK` if he keeps it.
///
/// A client that was killed in the middle of a start leaves a child that has a copy of its descriptors until it calls
/// execve(2): the lock is free a moment later than the client is gone.
pub fn lock_soon(lock: &File, wait: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + wait;
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_comes_free_in_a_moment_is_waited_for() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let first = DataPath::open(Some(parent.path())).map_err(|(_, error)| error).expect("usable");
        let holder = thread::spawn(move || {
            thread::sleep(LOCK_WAIT / 4);
            drop(first);
        });
        assert!(DataPath::open(Some(parent.path())).is_ok());
        holder.join().expect("no panic");
    }

    #[test]
    fn a_second_client_in_the_same_directory_is_refused() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path().join("a/b");
        let first = DataPath::open(Some(&path)).map_err(|(_, error)| error).expect("usable");
        assert_eq!(first.find_trouble(), None);
        assert!(first.free().bytes > 0 && first.free().inodes > 0, "{:?}", first.free());
        let (refused, error) = DataPath::open(Some(&path)).map(|_| ()).expect_err("opened twice");
        assert_eq!((refused, error.kind()), (path.clone(), io::ErrorKind::AddrInUse));
        drop(first);
        assert!(DataPath::open(Some(&path)).is_ok());
    }

    #[test]
    fn only_directories_with_the_name_of_a_uuid_are_ours() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let data = DataPath::open(Some(parent.path())).map_err(|(_, error)| error).expect("usable");
        let ours = data.new_directory();
        fs::create_dir(&ours).expect("made");
        fs::create_dir(parent.path().join("precious")).expect("made");
        fs::write(data.new_directory(), "a file").expect("written");
        assert_eq!(data.directories().expect("listed"), [ours.canonicalize().expect("there")]);
    }

    #[test]
    fn a_disk_is_known_to_hang_once_a_request_has_waited_in_vain() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let data = DataPath::open(Some(parent.path())).map_err(|(_, error)| error).expect("usable");
        for (patience_s, age_ms, is_stuck) in [
            (1, 2000, false),
            (1, 4000, true),
            (5, 4000, false),
            (5, 6000, true),
            (30, 6000, false),
            (30, 11_000, true),
        ] {
            data.set_patience(Duration::from_secs(patience_s));
            data.watch.checked_at.store(running_ms() - age_ms, Ordering::Relaxed);
            assert_eq!(data.stuck_for().is_some(), is_stuck, "{patience_s} s, {age_ms} ms");
        }
    }

    #[test]
    fn a_directory_that_is_gone_is_trouble() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let data =
            DataPath::open(Some(&parent.path().join("gone"))).map_err(|(_, error)| error).expect("usable");
        fs::remove_dir_all(data.path()).expect("removed");
        assert!(data.find_trouble().is_some_and(|trouble| trouble.contains("gone")));
    }

    #[test]
    fn a_directory_that_comes_back_is_used_again_and_another_one_in_its_place_is_not() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let (path, away) = (parent.path().join("data"), parent.path().join("away"));
        let data = DataPath::open(Some(&path)).map_err(|(_, error)| error).expect("usable");
        data.shelf().settle().expect("noted");
        fs::rename(&path, &away).expect("moved");
        assert!(data.find_trouble().is_some() && data.must_be_in_place().is_err());
        fs::create_dir(&path).expect("made");
        assert!(data.find_trouble().is_some_and(|trouble| trouble.contains("not mounted")));
        assert!(data.must_be_in_place().is_err());
        assert_eq!(fs::read_dir(&path).expect("there").count(), 0, "something was written there");
        fs::remove_dir(&path).expect("removed");
        // The same, as another disk: a copy has another number.
        let copied = std::process::Command::new("cp").arg("-r").args([&away, &path]).status();
        assert!(copied.is_ok_and(|status| status.success()));
        for _ in 0..2 {
            assert_eq!(data.find_trouble(), None);
            let second = DataPath::open(Some(&path)).map(|_| ()).expect_err("opened twice").1;
            assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn a_lock_that_is_removed_is_made_and_locked_again() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let open = || DataPath::open(Some(parent.path())).map_err(|(_, error)| error);
        let data = open().expect("usable");
        let before = data.lock_file().current();
        fs::remove_file(parent.path().join(LOCK_FILE)).expect("removed");
        for _ in 0..2 {
            assert_eq!(data.find_trouble(), None);
            assert!(!Arc::ptr_eq(&before, &data.lock_file().current()));
            assert_eq!(open().map(|_| ()).expect_err("opened twice").kind(), io::ErrorKind::AddrInUse);
        }
        // Somebody else was there first.
        fs::remove_file(parent.path().join(LOCK_FILE)).expect("removed");
        let other = open().expect("usable");
        assert!(data.find_trouble().is_some_and(|trouble| trouble.contains("another client")));
        drop(other);
        assert_eq!(data.find_trouble(), None);
    }

    #[test]
    fn a_write_that_failed_is_tried_until_it_works_and_leaves_nothing() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let data = DataPath::open(Some(parent.path())).map_err(|(_, error)| error).expect("usable");
        data.suspect(&io::ErrorKind::PermissionDenied.into());
        let probe = data.path().join(PROBE);
        fs::write(&probe, "a file in its place").expect("written");
        for _ in 0..2 {
            assert!(data.find_trouble().is_some_and(|trouble| trouble.contains("cannot be written")));
        }
        fs::remove_file(&probe).expect("removed");
        assert_eq!(data.find_trouble(), None);
        assert!(!probe.exists() && !data.watch.is_suspect.load(Ordering::Relaxed));
    }
}
