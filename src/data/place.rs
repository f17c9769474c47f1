//! The client's own place in DATA_PATH: made, known again, opened where a payload has closed it, and made anew where it is gone.
//! What is not there is not found by the next start, however well it was written elsewhere.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;

use crate::data::directory::{self, Id};
use crate::data::unusable::explained;
use crate::event;

/// The client's own place in DATA_PATH; the prefix is the client's (CONTRACT.md, "Files").
pub const OWN: &str = ".orchestrator";
/// In it, a file for each payload, with the name of its directory.
pub const RECORDS: &str = "records";
/// In it, what tells that records of an earlier layout have been taken up, and the word of the life that did so.
const SETTLED: &str = "settled";

/// Far more than a word has; anything may be in its place.
const MAX_BYTES: u64 = 4096;

const REPLACED: &str = "it is another directory than at the start: its disk is not mounted, or it was replaced; bring the first one \
                        back, or start the client anew";

/// The place, as this life has it.
pub struct Place {
    data_path: PathBuf,
    /// By which this life, and no other, is known, on whichever disk.
    life: String,
    /// Which directory DATA_PATH leads to.
    root: Mutex<Id>,
    records: Mutex<Records>,
    has_settled: AtomicBool,
}

#[derive(Default)]
struct Records {
    /// Open from the start on, so that nothing that is put in its place is taken for it. `None` where it has yet to be made.
    directory: Option<Arc<OwnedFd>>,
    /// It is another one than before, and lacks what this life has written.
    is_anew: bool,
}

impl Place {
    /// That of `data_path`; makes nothing.
    pub fn of(data_path: &Path, life: String) -> io::Result<Self> {
        let directory = match open_in(data_path) {
            Ok(directory) => Some(Arc::new(directory)),
            Err(Unopened { errno: Errno::NOENT, .. }) => None,
            Err(unopened) => return Err(unopened.into()),
        };
        Ok(Self {
            data_path: data_path.to_owned(),
            life,
            root: Mutex::new(id_of_path(data_path)?),
            records: Mutex::new(Records { directory, is_anew: false }),
            has_settled: AtomicBool::new(false),
        })
    }

    /// DATA_PATH.
    pub fn data_path(&self) -> &Path {
        &self.data_path
    }

    /// Where the records are; `None` where that has yet to be made.
    pub fn current(&self) -> Option<Arc<OwnedFd>> {
        self.records().directory.clone()
    }

    /// Where the records are. Makes it where there is none.
    pub fn get(&self) -> io::Result<Arc<OwnedFd>> {
        let mut records = self.records();
        if let Some(directory) = &records.directory {
            return Ok(Arc::clone(directory));
        }
        let made = Arc::new(make_in(&self.data_path, None)?);
        records.directory = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Whether DATA_PATH leads to the same directory as at the start: not so while its disk is not mounted, and what would be
    /// written then would lie below it. Gives which one that is.
    pub fn root(&self) -> io::Result<Id> {
        let there = id_of_path(&self.data_path)?;
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if there != *root {
            // One that was unplugged has another number when it is back.
            if !self.is_of_this_life() {
                return Err(io::Error::other(REPLACED));
            }
            *root = there;
        }
        Ok(there)
    }

    /// Whether what is written goes to where the next start looks for it.
    pub fn must_be_there(&self) -> io::Result<()> {
        self.root()?;
        let Some(ours) = self.current() else { return Ok(()) };
        let there = open_in(&self.data_path)?;
        if directory::id_of(there)? != directory::id_of(&*ours)? {
            let own = self.data_path.join(OWN);
            return Err(io::Error::other(format!("{} is another directory than before", own.display())));
        }
        Ok(())
    }

    /// Sees to it that it is so: goes to the place that is there now, and makes one where there is none. Where that is another one
    /// than before, `refill` has all written to it that this life knows; after an error that is tried again by the next call.
    pub fn keep(&self, refill: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let root = self.root()?;
        let mut records = self.records();
        let Some(ours) = &records.directory else { return Ok(()) };
        let there = match open_in(&self.data_path) {
            Err(Unopened { errno: Errno::NOENT, .. }) => make_in(&self.data_path, Some(root))?,
            other => other?,
        };
        if directory::id_of(&there)? != directory::id_of(&**ours)? {
            event!(
                Warn,
                "the client's own place in the data path was removed, moved or replaced",
                meaning = "all that is known is written to it anew",
                path = self.data_path.join(OWN).display()
            );
            *records = Records { directory: Some(Arc::new(there)), is_anew: true };
        }
        let is_anew = records.is_anew;
        // Whoever writes a record meanwhile writes it there.
        drop(records);
        if is_anew {
            if self.has_settled.load(Ordering::Relaxed) {
                self.settle()?;
            }
            refill()?;
            self.records().is_anew = false;
        }
        Ok(())
    }

    /// Opens a file beside the records; follows no link, and waits for no pipe.
    pub fn open_file(&self, name: &str, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        directory::open_own_file(CWD, &*self.data_path.join(OWN).join(name), flags)
    }

    /// Whether records of an earlier layout have been taken up.
    pub fn is_settled(&self) -> bool {
        fs::symlink_metadata(self.data_path.join(OWN).join(SETTLED)).is_ok()
    }

    /// Notes that they have, and which life this is.
    pub fn settle(&self) -> io::Result<()> {
        self.get()?;
        self.has_settled.store(true, Ordering::Relaxed);
        self.open_file(SETTLED, OFlags::WRONLY | OFlags::CREATE)?.write_all(self.life.as_bytes())
    }

    /// Whether DATA_PATH leads to the place where this life has noted itself, on whichever disk that is.
    fn is_of_this_life(&self) -> bool {
        let mut text = String::new();
        let file = self.open_file(SETTLED, OFlags::RDONLY);
        file.and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text)).is_ok() && text == self.life
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id_of_path(path: &Path) -> io::Result<Id> {
    let status = fs::metadata(path)?;
    Ok((status.dev(), status.ino()))
}

/// A directory that was not to be opened, and why.
struct Unopened {
    path: PathBuf,
    errno: Errno,
}

impl From<Unopened> for io::Error {
    fn from(Unopened { path, errno }: Unopened) -> Self {
        let shown = path.display();
        let why = match errno {
            // Nothing of the directory.
            Errno::MFILE | Errno::NFILE => return errno.into(),
            Errno::NOTDIR | Errno::LOOP => {
                return Self::new(
                    io::ErrorKind::NotADirectory,
                    format!("{shown} is no directory, and is the client's own; remove what is there"),
                );
            }
            errno => explained(&path, errno.into()),
        };
        Self::new(why.kind(), format!("{shown}: {why}"))
    }
}

/// What the client needs of its own directories.
const BITS: Mode = Mode::RWXU;

/// Follows no link: payloads can write to DATA_PATH. What they closed is opened.
fn open_in(data_path: &Path) -> Result<OwnedFd, Unopened> {
    let root = open_root(data_path)?;
    let (own, records) = (data_path.join(OWN), data_path.join(OWN).join(RECORDS));
    let own = open_own(&root, OWN).map_err(|errno| Unopened { path: own, errno })?;
    open_own(&own, RECORDS).map_err(|errno| Unopened { path: records, errno })
}

/// `expected`: in that directory only; `ESTALE` where DATA_PATH leads to another one by now.
fn make_in(data_path: &Path, expected: Option<Id>) -> Result<OwnedFd, Unopened> {
    let root = open_root(data_path)?;
    let is_expected = |found: &OwnedFd| expected.is_none_or(|id| directory::id_of(found) == Ok(id));
    if !is_expected(&root) {
        return Err(Unopened { path: data_path.to_owned(), errno: Errno::STALE });
    }
    let own = data_path.join(OWN);
    let records = own.join(RECORDS);
    make_own(&make_own(&root, OWN, own)?, RECORDS, records)
}

/// Opens the directory of this name beside the records. Makes it where there is none.
pub fn own_directory(data_path: &Path, name: &str) -> io::Result<OwnedFd> {
    let root = open_root(data_path)?;
    let own = data_path.join(OWN);
    let path = own.join(name);
    Ok(make_own(&make_own(&root, OWN, own)?, name, path)?)
}

fn make_own(at: &OwnedFd, name: &str, path: PathBuf) -> Result<OwnedFd, Unopened> {
    let made = match mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_own(at, name),
        Err(errno) => Err(errno),
    };
    made.map_err(|errno| Unopened { path, errno })
}

fn open_root(data_path: &Path) -> Result<OwnedFd, Unopened> {
    let flags = directory::FLAGS.difference(OFlags::NOFOLLOW);
    openat(CWD, data_path, flags, Mode::empty())
        .map_err(|errno| Unopened { path: data_path.to_owned(), errno })
}

fn open_own(at: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let reopened = || directory::open_closed(at, name, FileType::Directory, BITS, directory::FLAGS);
    match openat(at, name, directory::FLAGS, Mode::empty()) {
        // Without the right to write, a record is what fails, and later.
        Ok(opened) if !Mode::from_raw_mode(fstat(&opened)?.st_mode).contains(BITS) => {
            reopened().or(Ok(opened))
        }
        Err(Errno::ACCESS) => reopened(),
        other => other,
    }
}
