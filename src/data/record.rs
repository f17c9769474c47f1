//! The record of a payload: one small file, from which the next life of the client learns what became of it. All are in a
//! place of the client's own below DATA_PATH, so that no payload closes or removes its own, and hands nothing in as one.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

use miniserde::{Deserialize, Serialize, json};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::clock::{LAST_MS, UnixMs};
use crate::data::directory;
use crate::data::place::Place;
use crate::data::remove::remove_tree;
use crate::data::slots;
use crate::payload::{Isolation, LAST_ID, LeftOver, Payload, PayloadId, Status, Usage};

/// Where version 0.1.0 had the record: in the payload's directory.
const EARLIER_FILE: &str = ".orchestrator.payload";
const EARLIER_NEW_FILE: &str = ".orchestrator.payload.new";

/// The form of the file. A reader refuses what it does not know.
const VERSION: u32 = 1;

/// A record has twice so much, or a multiple of it: what is to be said of the payload later fits in its place then.
const PLACE_BYTES: usize = 1024;

/// What is noted of a sync has two places of a sector.
const SYNCED_BYTES: usize = 512;

/// Far more than a record has; anything may be in its place.
const MAX_BYTES: u64 = 64 * 1024;

/// More seconds than any payload uses, on as many cores as there are.
const MAX_USAGE_S: f64 = 1e12;

/// How much a write must withstand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process: the kernel has the bytes.
    Process,
    /// A power cut: the disk has them (`fsync(2)`).
    Power,
}

/// Why a directory has no record that could be believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none: the upload never came to its end.
    #[error("there is no record")]
    Missing,
    /// It cannot be read.
    #[error("the record cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It is not what this client writes.
    #[error("the record is damaged: {0}")]
    Damaged(&'static str),
    /// It is what this client wrote, but the power was cut since then, and perhaps before the payload's files were on the disk.
    #[error("the power was cut before the files were on the disk")]
    NotOnDisk(Box<Payload>),
}

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The name of the payload's directory: a copy elsewhere is not the payload.
    directory: String,
    id: PayloadId,
    status: Status,
    killed: bool,
    pid: Option<u32>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<String>,
    created_at: UnixMs,
    started_at: Option<UnixMs>,
    finished_at: Option<UnixMs>,
    left_over: Option<LeftOver>,
    /// None where it was never started, or by a client that did not note it.
    isolation: Option<Isolation>,
    usage: Usage,
    /// Whether anybody has fetched the result.
    told: Option<bool>,
    /// The limits that its form asked for.
    asked: Option<String>,
    /// Whether its removal has been asked for.
    unwanted: Option<bool>,
    /// By which its sender may ask for it again.
    idempotency_key: Option<String>,
    /// In which epoch it was written (see [`Shelf::next_epoch`]); none where it was on the disk before anybody was told.
    epoch: Option<u64>,
}

impl Record {
    /// The record of a payload as it is now.
    pub fn of(payload: &Payload) -> Self {
        Self {
            version: VERSION,
            directory: name_of(&payload.loc),
            id: payload.id,
            // Nobody is told of a kill or an end before the next life would know of it: the record comes first.
            status: payload.unnoted.unwrap_or(payload.status),
            killed: payload.killed,
            pid: payload.pid,
            exit_code: payload.exit_code,
            signal: payload.signal,
            error: payload.error.clone(),
            created_at: payload.created_at,
            started_at: payload.started_at,
            finished_at: payload.finished_at,
            left_over: payload.left_over,
            isolation: payload.isolation.clone(),
            usage: payload.usage,
            told: payload.is_told.then_some(true),
            asked: payload.asked.clone(),
            unwanted: payload.is_unwanted.then_some(true),
            idempotency_key: payload.idempotency_key.clone(),
            epoch: None,
        }
    }

    /// Reads what [`Record::to_bytes`] made, and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Damaged("it is not UTF-8"))?;
        let record: Self =
            json::from_str(text).map_err(|_| RecordError::Damaged("it is not the JSON of a record"))?;
        record.check().map_err(RecordError::Damaged)?;
        Ok(record)
    }

    /// The text of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_string(self).into_bytes()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.version != VERSION {
            return Err("its version is not known here");
        }
        if !(1..=LAST_ID).contains(&self.id) {
            return Err("its id is none");
        }
        let is_ended = !self.status.is_pending();
        // A payload that is being killed is `Killed` before its last process is gone.
        if self.finished_at.is_some() != is_ended && self.status != Status::Killed {
            return Err("its status and its end contradict each other");
        }
        if self.status == Status::Cleaned {
            return Err("a cleaned payload has no directory");
        }
        let mut times = [Some(self.created_at), self.started_at, self.finished_at].into_iter().flatten();
        if !times.all(|at| (0..=LAST_MS).contains(&at)) {
            return Err("its times are none");
        }
        let seconds = [self.usage.wall_s, self.usage.user_s, self.usage.system_s];
        if !seconds.iter().all(|seconds| (0.0..=MAX_USAGE_S).contains(seconds)) {
            return Err("its usage is none");
        }
        Ok(())
    }

    fn into_payload(self, directory: &Path) -> Payload {
        Payload {
            id: self.id,
            status: self.status,
            unnoted: None,
            loc: directory.to_owned(),
            pid: self.pid,
            killed: self.killed,
            exit_code: self.exit_code,
            signal: self.signal,
            error: self.error,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            left_over: self.left_over,
            isolation: self.isolation,
            usage: self.usage,
            is_told: self.told == Some(true),
            asked: self.asked,
            is_unwanted: self.unwanted == Some(true),
            idempotency_key: self.idempotency_key,
        }
    }
}

/// Where all records are; cheap to clone.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    place: Place,
    epochs: Epochs,
    /// Has all records written anew.
    refill: OnceLock<Box<Refill>>,
}

type Refill = dyn Fn() -> io::Result<()> + Send + Sync;

/// What is known to be on the disk: what was written in the epochs before a sync is, once that has worked. The number of the last
/// such epoch is in [`SYNCED`], with the start of the machine in which it was written: as long as that is the same, nothing
/// can have been lost.
#[derive(Default)]
struct Epochs {
    current: AtomicU64,
    /// The last one that is on the disk.
    synced: AtomicU64,
    /// Whether the machine has been started since then.
    is_after_cut: AtomicBool,
    /// Something was written since the last sync; and who is told so.
    is_dirty: AtomicBool,
    syncer: OnceLock<Thread>,
}

/// The last epoch that is on the disk, and in which start of the machine that was noted.
const SYNCED: &str = "synced";

/// Which start of the machine this is (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Shelf {
    /// That of `data_path`; makes nothing. `life` is what this life, and no other, is known by.
    pub fn of(data_path: &Path, life: String) -> io::Result<Self> {
        let place = Place::of(data_path, life)?;
        let this = Self(Arc::new(Inner { place, epochs: Epochs::default(), refill: OnceLock::new() }));
        this.read_synced()?;
        Ok(this)
    }

    /// Has this called when the place of the records is another one than before, and lacks all of them.
    pub fn when_anew(&self, refill: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        let _ = self.0.refill.set(Box::new(refill));
    }

    /// Whether records of an earlier layout have been taken up.
    pub fn is_settled(&self) -> bool {
        self.0.place.is_settled()
    }

    /// Reads what was on the disk for sure at the end of the life before.
    fn read_synced(&self) -> io::Result<()> {
        let text = match self.0.place.open_file(SYNCED, OFlags::RDONLY) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => slots::read(&other?)?,
        };
        let text = text.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
        // Without it nothing has been written in an epoch yet; 0 is before the first.
        self.0.epochs.current.store(1, Ordering::Relaxed);
        let Some((boot, epoch)) = text.split_once(' ') else { return Ok(()) };
        let epoch = epoch.parse().unwrap_or(0);
        self.0.epochs.synced.store(epoch, Ordering::Relaxed);
        self.0.epochs.current.store(epoch + 1, Ordering::Relaxed);
        self.0.epochs.is_after_cut.store(boot != boot_id(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether the machine has been started since the life before: what was not on the disk is lost.
    pub fn is_after_cut(&self) -> bool {
        self.0.epochs.is_after_cut.load(Ordering::Relaxed)
    }

    /// Ends the epoch: what is written from now on is of the next one. Gives the one that has ended. All that is of it, and the files
    /// that it speaks of, had been written before; once the disk has them, [`Shelf::note_synced`] says so.
    pub fn next_epoch(&self) -> u64 {
        self.0.epochs.is_dirty.store(false, Ordering::Release);
        self.0.epochs.current.fetch_add(1, Ordering::AcqRel)
    }

    /// Notes that the disk has all of an epoch.
    pub fn note_synced(&self, epoch: u64) -> io::Result<()> {
        self.0.epochs.synced.store(epoch, Ordering::Relaxed);
        self.note_boot()
    }

    /// Notes in which start of the machine this is: once nothing is left to be judged by that of the life before.
    pub fn note_boot(&self) -> io::Result<()> {
        let text = format!("{} {}", boot_id(), self.0.epochs.synced.load(Ordering::Relaxed));
        let file = self.0.place.open_file(SYNCED, OFlags::RDWR | OFlags::CREATE)?;
        match slots::write(&file, text.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                (&file).write_all(&slots::first(text.as_bytes(), SYNCED_BYTES))?;
            }
            other => other?,
        }
        file.sync_data()
    }

    /// Whether anything was written since the last epoch began.
    pub fn is_dirty(&self) -> bool {
        self.0.epochs.is_dirty.load(Ordering::Acquire)
    }

    /// What an epoch has is still to be synced.
    pub fn stay_dirty(&self) {
        self.0.epochs.is_dirty.store(true, Ordering::Release);
    }

    /// Has the calling thread woken by the first write of each epoch.
    pub fn wake_me_when_dirty(&self) {
        let _ = self.0.epochs.syncer.set(thread::current());
    }

    fn is_written(&self) {
        if !self.0.epochs.is_dirty.swap(true, Ordering::AcqRel)
            && let Some(syncer) = self.0.epochs.syncer.get()
        {
            syncer.unpark();
        }
    }

    /// Makes it where there is none.
    pub fn make(&self) -> io::Result<()> {
        self.0.place.get().map(drop)
    }

    /// Notes that they have, and which life this is.
    pub fn settle(&self) -> io::Result<()> {
        self.0.place.settle()
    }

    /// Whether DATA_PATH leads to the same directory as at the start: not so while its disk is not mounted, and what would be
    /// written then would lie below it.
    pub fn must_have_its_disk(&self) -> io::Result<()> {
        self.0.place.root().map(drop)
    }

    /// Whether records go to where the next start looks for them: not so while DATA_PATH is away, or something else in its place or
    /// in the place of the records.
    pub fn must_be_in_place(&self) -> io::Result<()> {
        self.0.place.must_be_there()
    }

    /// Sees to it that they do, as far as DATA_PATH is there: a place that is gone is made anew, and all records are written to it.
    pub fn keep(&self) -> io::Result<()> {
        self.0.place.keep(|| {
            self.note_boot()?;
            self.0.refill.get().map_or(Ok(()), |refill| refill())
        })
    }

    /// The directories of the payloads that have a record.
    pub fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let Some(directory) = self.0.place.current() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in Dir::read_from(&*directory)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().ok().filter(|name| is_name(name)) {
                found.push(self.0.place.data_path().join(name));
            }
        }
        Ok(found)
    }

    /// Reads the record of the payload in `directory`.
    pub fn load(&self, directory: &Path) -> Result<Payload, RecordError> {
        let place = self.0.place.current().ok_or(RecordError::Missing)?;
        let file = match open_record(&place, &name_of(directory), OFlags::RDONLY) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(RecordError::Missing),
            other => other.map_err(RecordError::Read)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(RecordError::Read)?;
        if bytes.is_empty() {
            return Err(RecordError::Missing); // cut off before it was written, or while its directory was removed
        }
        let text = slots::newest(&bytes).ok_or(RecordError::Damaged("no checksum in it is right"))?;
        let (payload, epoch) = payload_of(text, directory)?;
        let epochs = &self.0.epochs;
        let epoch = epoch.unwrap_or(0);
        epochs.current.fetch_max(epoch + 1, Ordering::Relaxed);
        if self.is_after_cut() && epoch > epochs.synced.load(Ordering::Relaxed) {
            return Err(RecordError::NotOnDisk(Box::new(payload)));
        }
        Ok(payload)
    }

    /// Writes the record of a payload. After an error the old one is there.
    pub fn save(&self, payload: &Payload, durability: Durability) -> io::Result<()> {
        let mut record = Record::of(payload);
        // Before it is written: all that it speaks of has been.
        let is_in_epoch = durability == Durability::Process;
        record.epoch = is_in_epoch.then(|| self.0.epochs.current.load(Ordering::Acquire));
        let (name, text) = (name_of(&payload.loc), record.to_bytes());
        let place = self.0.place.get()?;
        let saved = save_in(&place, &name, &text, durability).or_else(|error| {
            // The disk may have come back as another one, or all that was in DATA_PATH have been removed, or closed.
            let there = self.keep().and_then(|()| self.0.place.get()).ok();
            let is_closed = error.kind() == ErrorKind::PermissionDenied;
            let there = there.filter(|there| is_closed || !Arc::ptr_eq(there, &place)).ok_or(error)?;
            save_in(&there, &name, &text, durability)
        });
        if is_in_epoch {
            self.is_written();
        }
        saved
    }

    /// Empties the record of a payload, removes its directory, then the record: what is left of a removal that was cut off is no
    /// payload to the next life, is not handed out as a result, and is known for what it is. Nothing to remove is no error; a
    /// DATA_PATH that is away is.
    pub fn discard(&self, directory: &Path, durability: Durability) -> io::Result<()> {
        let place = self.0.place.get()?;
        self.must_be_in_place()?;
        let name = name_of(directory);
        // It was never noted, or something else is in the place of the record, where there is none of ours.
        if let Ok(file) = open_record(&place, &name, OFlags::WRONLY)
            && is_own(&file)
        {
            file.set_len(0)?;
            flush(&file, durability)?;
        }
        remove_tree(directory)?;
        match unlinkat(&place, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether a file of that name is a record: that of a directory with a UUID as its name.
fn is_name(name: &str) -> bool {
    name.len() == 36 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// NONBLOCK: the name may have become a pipe.
fn open_record(shelf: &OwnedFd, name: &str, access: OFlags) -> io::Result<File> {
    directory::open_own_file(shelf, name, access | OFlags::NOFOLLOW | OFlags::NONBLOCK)
}

fn save_in(shelf: &OwnedFd, name: &str, text: &[u8], durability: Durability) -> io::Result<()> {
    match open_record(shelf, name, OFlags::RDWR) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(shelf, name, text, durability),
        Ok(file) if is_own(&file) => match slots::write(&file, text) {
            Ok(()) => flush(&file, durability),
            Err(error) if error.kind() == ErrorKind::InvalidData => replace(shelf, name, text, durability),
            Err(error) => Err(error),
        },
        Err(error) if !is_of_the_name(&error) => Err(error),
        // Somebody has put something of his own there.
        _ => replace(shelf, name, text, durability),
    }
}

/// Something else is there than a file of ours.
fn is_of_the_name(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS))
}

fn is_own(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

fn create(shelf: &OwnedFd, name: &str, text: &[u8], durability: Durability) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(shelf, name, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(&slots::first(text, PLACE_BYTES)).and_then(|()| flush(&file, durability));
    written.inspect_err(|_| {
        // What is left is no record.
        let _ = unlinkat(shelf, name, AtFlags::empty());
    })?;
    if durability == Durability::Power {
        rustix::fs::fsync(shelf)?;
    }
    Ok(())
}

/// Moves a new file into the place of whatever is there.
fn replace(shelf: &OwnedFd, name: &str, text: &[u8], durability: Durability) -> io::Result<()> {
    let new = format!("{name}.new");
    // One that is left over is a write that was cut off; or somebody has put a directory there.
    let _ = unlinkat(shelf, &*new, AtFlags::empty());
    let _ = unlinkat(shelf, &*new, AtFlags::REMOVEDIR);
    create(shelf, &new, text, durability)?;
    if renameat(shelf, &*new, shelf, name) == Err(Errno::ISDIR) {
        unlinkat(shelf, name, AtFlags::REMOVEDIR)?;
        renameat(shelf, &*new, shelf, name)?;
    }
    if durability == Durability::Power {
        rustix::fs::fsync(shelf)?;
    }
    Ok(())
}

/// What a directory has once its payload has been started, or been noted by version 0.1.0: no upload brings them, so it is no half
/// of one.
const TRACES: [&str; 4] = [EARLIER_FILE, ".orchestrator.exit", ".orchestrator.out", ".orchestrator.err"];

/// Whether a directory is more than half of an upload. One that cannot be looked into is.
pub fn has_traces(directory: &Path) -> bool {
    TRACES.iter().any(|name| match fs::symlink_metadata(directory.join(name)) {
        Err(error) => error.kind() != ErrorKind::NotFound,
        Ok(_) => true,
    })
}

/// Reads the record that version 0.1.0 left in the payload's directory.
pub fn load_earlier(directory: &Path) -> Result<Payload, RecordError> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = match options.open(directory.join(EARLIER_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(RecordError::Missing),
        other => other.map_err(RecordError::Read)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(RecordError::Read)?;
    Ok(payload_of(&bytes, directory)?.0)
}

/// Removes it, once it is on the shelf.
pub fn forget_earlier(directory: &Path) -> io::Result<()> {
    let Ok(directory) = openat(CWD, directory, directory::FLAGS, Mode::empty()) else { return Ok(()) };
    for name in [EARLIER_FILE, EARLIER_NEW_FILE] {
        match unlinkat(directory.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn payload_of(text: &[u8], directory: &Path) -> Result<(Payload, Option<u64>), RecordError> {
    let record = Record::parse(text)?;
    if record.directory != name_of(directory) {
        return Err(RecordError::Damaged("it is of another directory"));
    }
    let epoch = record.epoch;
    Ok((record.into_payload(directory), epoch))
}

/// Nothing where it cannot be asked: then each start is taken for the same.
fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// An open file system, for [`FileSystem::sync`].
pub struct FileSystem(File);

impl FileSystem {
    /// The one of `directory`. Open it before what is to be synced is written: a failed write is told to those who had the
    /// file system open when it failed, and to one more at the most.
    pub fn of(directory: &Path) -> io::Result<Self> {
        File::open(directory).map(Self)
    }

    /// Sees everything that was written to it to the disk (`syncfs(2)`; it tells of failed writes since Linux 5.8). One call,
    /// however many files a payload has.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// Sees the entries of a directory to the disk (`fsync(2)`).
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn flush(file: &File, durability: Durability) -> io::Result<()> {
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => file.sync_data(),
    }
}

fn name_of(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::place::{OWN, RECORDS};
    use crate::payload::{Outcome, seconds};
    use std::time::Duration;

    const NAME: &str = "5f0c8f52-9a6c-4c1b-8d0e-0123456789ab";

    /// A DATA_PATH, its shelf, and a payload in it.
    fn place() -> (tempfile::TempDir, Shelf, Payload) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let shelf = shelf_of(home.path()).expect("none is there");
        let payload = Payload::prepared(7, home.path().join(NAME));
        (home, shelf, payload)
    }

    fn shelf_of(data_path: &Path) -> io::Result<Shelf> {
        Shelf::of(data_path, "this life".to_owned())
    }

    fn path(payload: &Payload) -> PathBuf {
        let directory = &payload.loc;
        directory.parent().expect("DATA_PATH").join(OWN).join(RECORDS).join(NAME)
    }

    fn load(shelf: &Shelf, payload: &Payload) -> Result<Payload, RecordError> {
        shelf.load(&payload.loc)
    }

    #[test]
    fn a_payload_comes_back_as_it_was_in_every_state() {
        let (home, shelf, prepared) = place();
        let running = Payload { status: Status::Running, started_at: Some(5), ..prepared.clone() };
        let failed = Outcome {
            status: Status::Failed,
            exit_code: Some(3),
            signal: None,
            error: Some("\"quoted\"\nand in two lines".to_owned()),
            left_over: None,
            usage: Usage { wall_s: 0.1, user_s: 1e-9, system_s: 1234.5, max_rss_bytes: 1 << 40 },
        };
        let ended = running.clone().ended(&failed).noted();
        let limited = Payload { asked: Some("time_limit=2h job_cpus=1".to_owned()), ..prepared.clone() };
        let long = Payload { error: Some("x".repeat(4000)), is_told: true, ..ended.clone() };
        let killed = Payload { status: Status::Killed, killed: true, ..running.clone() };
        let key = Some("\\\"".repeat(127));
        let unwanted = Payload { is_unwanted: true, idempotency_key: key, ..killed.clone() };
        for state in [prepared, limited, running, ended, long, killed, unwanted] {
            for durability in [Durability::Process, Durability::Power] {
                shelf.save(&state, durability).expect("saved");
                assert_eq!(load(&shelf, &state).expect("a record"), state);
                let again = shelf_of(home.path()).expect("it is there");
                assert_eq!(load(&again, &state).expect("a record"), state);
                assert_eq!(again.directories().expect("listed"), [home.path().join(NAME)]);
            }
        }
    }

    #[test]
    fn a_kill_that_nobody_was_told_of_yet_is_one_to_the_next_life() {
        let (_home, shelf, prepared) = place();
        let killed =
            Payload { killed: true, unnoted: Some(Status::Killed), finished_at: Some(5), ..prepared };
        shelf.save(&killed, Durability::Process).expect("saved");
        assert_eq!(load(&shelf, &killed).expect("a record").status, Status::Killed);
    }

    /// An outcome is the same to the last digit, whoever asks in which life.
    #[test]
    fn times_come_back_to_the_last_digit() {
        let (_home, _, mut payload) = place();
        for _ in 0..2000 {
            let any = || seconds(Duration::from_nanos(fastrand::u64(0..1 << fastrand::u32(10..60))));
            payload.usage = Usage { wall_s: any(), user_s: any(), system_s: any(), max_rss_bytes: 1 };
            let read = Record::parse(&Record::of(&payload).to_bytes()).expect("a record");
            assert_eq!(read.usage, payload.usage);
        }
    }

    #[test]
    fn what_is_no_record_is_not_believed() {
        let (_home, shelf, payload) = place();
        assert!(matches!(load(&shelf, &payload), Err(RecordError::Missing)));
        shelf.save(&payload, Durability::Process).expect("saved");
        let good = String::from_utf8(Record::of(&payload).to_bytes()).expect("UTF-8");
        for bad in [
            "{}",
            "null",
            &good[..good.len() / 2],
            &good[..good.len() - 1],
            &good.replace("\"version\":1", "\"version\":2"),
            &good.replace("\"id\":7", "\"id\":0"),
            &good.replace("\"id\":7", "\"id\":2147483648"),
            &good.replace("Prepared", "Cleaned"),
            &good.replace("\"created_at\":", "\"created_at\":-"),
            &good.replace("\"created_at\":", "\"created_at\":999"),
            &good.replace("\"started_at\":null", "\"started_at\":9223372036854775807"),
            &good.replace("Prepared", "Completed"),
            &good.replace("\"wall_s\":0.0", "\"wall_s\":1e999"),
            &good.replace("\"wall_s\":0.0", "\"wall_s\":1e308"),
            &good.replace("\"wall_s\":0.0", "\"wall_s\":-1"),
            &good.replace(NAME, "another"),
        ] {
            assert_ne!(bad, good);
            fs::write(path(&payload), slots::first(bad.as_bytes(), PLACE_BYTES)).expect("written");
            assert!(matches!(load(&shelf, &payload), Err(RecordError::Damaged(_))), "{bad}");
        }
        // Zeros are what some file systems have after a power cut.
        for torn in [good.as_bytes(), &[0; 2048]] {
            fs::write(path(&payload), torn).expect("written");
            assert!(matches!(load(&shelf, &payload), Err(RecordError::Damaged(_))));
        }
        fs::write(path(&payload), "").expect("written");
        assert!(matches!(load(&shelf, &payload), Err(RecordError::Missing)));
    }

    #[test]
    fn what_is_left_of_a_removal_that_failed_is_no_payload() {
        let (_home, shelf, payload) = place();
        let directory = &payload.loc;
        for durability in [Durability::Process, Durability::Power] {
            fs::create_dir(directory).expect("made");
            shelf.save(&payload, durability).expect("saved");
            fs::write(directory.join("file"), "x").expect("written");
            shelf.discard(directory, durability).expect("removed");
            assert!(!directory.exists() && !path(&payload).exists());
            shelf.discard(directory, durability).expect("nothing to remove");
        }
    }

    #[test]
    fn a_data_path_that_is_away_is_no_removal_and_takes_records_all_the_same() {
        let (home, _, payload) = place();
        let data = home.path().join("data");
        fs::create_dir(&data).expect("made");
        let shelf = shelf_of(&data).expect("none is there");
        let payload = Payload { loc: data.join(NAME), ..payload };
        shelf.save(&payload, Durability::Process).expect("saved");
        let away = home.path().join("away");
        fs::rename(&data, &away).expect("moved");
        for is_other_there in [false, true] {
            if is_other_there {
                fs::create_dir(&data).expect("made");
            }
            assert!(shelf.discard(&payload.loc, Durability::Process).is_err());
            let running = Payload { status: Status::Running, ..payload.clone() };
            shelf.save(&running, Durability::Process).expect("saved");
            assert!(!data.join(OWN).exists());
            let there = shelf_of(&away).expect("it is there");
            assert_eq!(there.load(&away.join(NAME)).expect("a record").status, Status::Running);
        }
    }

    #[test]
    fn what_is_put_in_the_way_is_replaced_and_never_followed() {
        let (home, shelf, payload) = place();
        shelf.save(&payload, Durability::Process).expect("saved");
        let (file, new) = (path(&payload), path(&payload).with_extension("new"));
        let precious = home.path().join("precious");
        fs::write(&precious, "precious").expect("written");
        let put = |kind: &str, path: &Path| match kind {
            "link" => std::os::unix::fs::symlink(&precious, path),
            "name" => fs::hard_link(&precious, path),
            "directory" => fs::create_dir(path),
            _ => Ok(rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RWXU, 0)?),
        };
        for kind in ["link", "name", "directory", "pipe"] {
            fs::remove_file(&file).expect("removed");
            put(kind, &file).expect("made");
            put(kind, &new).expect("made");
            shelf.save(&payload, Durability::Process).expect("saved");
            assert_eq!(load(&shelf, &payload).expect("a record"), payload);
            assert_eq!(fs::read_to_string(&precious).expect("there"), "precious");
        }
        // In the place of the shelf.
        let own = home.path().join(OWN);
        fs::rename(&own, home.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(home.path().join("elsewhere"), &own).expect("linked");
        assert!(shelf_of(home.path()).is_err());
    }

    #[test]
    fn a_record_of_version_0_1_0_is_read_and_forgotten() {
        let (_home, _, payload) = place();
        let directory = &payload.loc;
        fs::create_dir(directory).expect("made");
        assert!(matches!(load_earlier(directory), Err(RecordError::Missing)));
        let mut text = Record::of(&payload).to_bytes();
        text.resize(1023, b' ');
        text.push(b'\n');
        fs::write(directory.join(EARLIER_FILE), text).expect("written");
        assert_eq!(load_earlier(directory).expect("a record"), payload);
        forget_earlier(directory).expect("removed");
        assert_eq!(fs::read_dir(directory).expect("there").count(), 0);
    }
}
