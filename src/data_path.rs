//! The directory that holds the payload directories: chosen and locked at start, watched while the client runs.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;
use uuid::{Builder, Uuid};

use crate::event;
use crate::payload::now_ms;

const USUAL: &str = "/opt/data";
const FALLBACK: &str = "./data";

/// Kept locked while a client uses the directory: two clients would clean up each other's payloads.
const LOCK_FILE: &str = ".orchestrator.lock";

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A check that is older than this hangs in a disk that does not answer.
const STUCK: Duration = Duration::from_secs(10);

/// The chosen directory; cheap to clone.
#[derive(Clone)]
pub struct DataPath {
    path: Arc<PathBuf>,
    watch: Arc<Watch>,
    _lock: Arc<File>,
}

#[derive(Default)]
struct Watch {
    checked_at: AtomicI64,
    trouble: Mutex<Option<String>>,
}

impl DataPath {
    /// Makes and locks the directory that was given, or the usual one where that can be had, else `./data`.
    pub fn open(given: Option<&Path>) -> Result<Self, (PathBuf, io::Error)> {
        let attempt = |path: &Path| prepare(path).map_err(|error| (path.to_owned(), error));
        let (path, lock) = match given {
            Some(path) => attempt(path)?,
            None => attempt(Path::new(USUAL)).or_else(|_| attempt(Path::new(FALLBACK)))?,
        };
        Ok(Self { path: Arc::new(path), watch: Arc::default(), _lock: Arc::new(lock) })
    }

    /// Starts the thread that looks every second whether the directory can still be written.
    pub fn watch(&self) -> io::Result<()> {
        let this = self.clone();
        this.check();
        thread::Builder::new().name("data-path".to_owned()).spawn(move || {
            loop {
                thread::sleep(CHECK_INTERVAL);
                this.check();
            }
        })?;
        Ok(())
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name for a new payload directory; nothing is made yet.
    pub fn new_directory(&self) -> PathBuf {
        // fastrand is good enough against collisions, and needs no descriptor or system call for each id.
        let uuid = Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        self.path.join(uuid.to_string())
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

    /// Why no payload can be stored now, if so.
    pub fn trouble(&self) -> Option<String> {
        let age_ms = now_ms() - self.watch.checked_at.load(Ordering::Relaxed);
        if age_ms > i64::try_from(STUCK.as_millis()).unwrap_or(i64::MAX) {
            return Some(format!(
                "the disk of {} has not answered for {} s",
                self.path.display(),
                age_ms / 1000
            ));
        }
        self.watch.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(&self) {
        let now = find_trouble(&self.path);
        let mut known = self.watch.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != now {
            match &now {
                Some(trouble) => event!(Error, "data path is not usable", reason = trouble.as_str()),
                None => event!(Info, "data path is usable again", path = self.path.display()),
            }
        }
        *known = now;
        self.watch.checked_at.store(now_ms(), Ordering::Relaxed);
    }
}

/// Looks without writing: a probe file every second would wear out flash.
fn find_trouble(path: &Path) -> Option<String> {
    let shown = path.display();
    if let Err(error) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(format!("{shown} cannot be written: {error}"));
    }
    match rustix::fs::statvfs(path) {
        Err(error) => Some(format!("{shown} cannot be read: {error}")),
        Ok(volume) if volume.f_bavail == 0 => Some(format!("the disk of {shown} is full; free some space")),
        // File systems without a fixed number of inodes say 0 of 0.
        Ok(volume) if volume.f_favail == 0 && volume.f_files != 0 => {
            Some(format!("the disk of {shown} has no inodes left; remove some files"))
        }
        Ok(_) => None,
    }
}

fn prepare(path: &Path) -> io::Result<(PathBuf, File)> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let path = path.canonicalize()?;
    let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK_FILE))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another client uses it; give each its own",
            ));
        }
        // Some network file systems have no locks; then the user's care has to do.
        Err(errno) => {
            event!(Warn, "cannot lock the data path", path = path.display(), error = errno.to_string());
        }
    }
    Ok((path, lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_client_in_the_same_directory_is_refused() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path().join("a/b");
        let first = DataPath::open(Some(&path)).map_err(|(_, error)| error).expect("usable");
        assert_eq!(find_trouble(first.path()), None);
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
    fn a_directory_that_is_gone_is_trouble() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        assert!(find_trouble(&parent.path().join("gone")).is_some_and(|trouble| trouble.contains("gone")));
    }
}
