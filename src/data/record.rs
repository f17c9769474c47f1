//! The record of a payload: one small JSON file in its directory, from which the next life of the client learns what
//! became of it. Written so that a reader finds the old or the new state, never a half of each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use miniserde::{Deserialize, Serialize, json};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::clock::{LAST_MS, UnixMs};
use crate::data::disk_error::is_full;
use crate::data::remove::remove_tree;
use crate::payload::{LAST_ID, LeftOver, Payload, PayloadId, Status, Usage};

/// The record's name in a payload directory; the prefix is the client's (CONTRACT.md, "Files").
pub const FILE: &str = ".orchestrator.payload";

/// What is written first. One that is left over is a write that was cut off.
const NEW_FILE: &str = ".orchestrator.payload.new";

/// Whether a file of that name in a payload directory is the client's own note and not the payload's.
pub fn is_record(name: &[u8]) -> bool {
    [FILE, NEW_FILE].iter().any(|own| own.as_bytes() == name)
}

/// The form of the file. A reader refuses what it does not know.
const VERSION: u32 = 1;

/// A record is filled up with spaces to a multiple of this: what is to be said of the payload later fits in its place then,
/// on a disk that is full, and by one write.
const ROOM_BYTES: usize = 1024;

/// Far more than a record has; a payload may put anything in its place.
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
    usage: Usage,
}

impl Record {
    /// The record of a payload as it is now.
    pub fn of(payload: &Payload) -> Self {
        Self {
            version: VERSION,
            directory: name_of(Path::new(&payload.loc)),
            id: payload.id,
            // Nobody is told of a kill before the next life would know of it: the record comes first.
            status: if payload.is_kill_untold() { Status::Killed } else { payload.status },
            killed: payload.killed,
            pid: payload.pid,
            exit_code: payload.exit_code,
            signal: payload.signal,
            error: payload.error.clone(),
            created_at: payload.created_at,
            started_at: payload.started_at,
            finished_at: payload.finished_at,
            left_over: payload.left_over,
            usage: payload.usage,
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

    /// The file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = json::to_string(self).into_bytes();
        bytes.resize((bytes.len() + 1).next_multiple_of(ROOM_BYTES) - 1, b' ');
        bytes.push(b'\n');
        bytes
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
            loc: directory.to_string_lossy().into_owned(),
            pid: self.pid,
            killed: self.killed,
            exit_code: self.exit_code,
            signal: self.signal,
            error: self.error,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            left_over: self.left_over,
            usage: self.usage,
        }
    }
}

/// Writes the record of a payload into its directory. After an error the old record is there.
///
/// The first one, and all that must withstand a power cut, are moved into their place. Others are written over the old one,
/// by one write of the same length, which the end of this process cannot cut in two: a file that is moved over another is
/// written out to the disk at once by ext4 (`auto_da_alloc`, ext4(5)), which costs twenty times as much and wears out flash.
pub fn save(payload: &Payload, durability: Durability) -> io::Result<()> {
    let directory = Path::new(&payload.loc);
    // A payload may have put a link in the place of its directory.
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let bytes = Record::of(payload).to_bytes();
    match durability {
        Durability::Process => {
            overwrite(directory, &bytes, durability).or_else(|_| replace(directory, &bytes, durability))
        }
        Durability::Power => match replace(directory, &bytes, durability) {
            // A full disk has no block for a new file, but the old one has.
            Err(error) if is_full(&error) => overwrite(directory, &bytes, durability).map_err(|_| error),
            other => other,
        },
    }
}

/// Reads the record of the payload in `directory`.
pub fn load(directory: &Path) -> Result<Payload, RecordError> {
    let file = match options().read(true).open(directory.join(FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(RecordError::Missing),
        other => other.map_err(RecordError::Read)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(RecordError::Read)?;
    let record = Record::parse(&bytes)?;
    if record.directory != name_of(directory) {
        return Err(RecordError::Damaged("it is of another directory"));
    }
    Ok(record.into_payload(directory))
}

/// Removes a payload's directory. The record goes first: what is left of a removal that was cut off is no payload to the next
/// life, and is not handed out as a result. Nothing to remove is no error.
pub fn discard(directory: &Path, durability: Durability) -> io::Result<()> {
    if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        // Gone, or a link that a payload has put there: its record is not behind that.
        return remove_tree(directory);
    }
    let file = directory.join(FILE);
    let removed = fs::remove_file(&file).or_else(|error| match error.kind() {
        // A payload may have closed its directory to us.
        ErrorKind::PermissionDenied => {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
            fs::remove_file(&file)
        }
        _ => Err(error),
    });
    match removed {
        Ok(()) if durability == Durability::Power => sync_directory(directory)?,
        Ok(()) => {}
        Err(error) => match error.kind() {
            // It was never noted, or something else is in the place of the record or of the directory.
            ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {}
            _ => return Err(error),
        },
    }
    remove_tree(directory)
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

fn replace(directory: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let new = directory.join(NEW_FILE);
    let written = create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        flush(&file, durability)
    });
    written.and_then(|()| fs::rename(&new, directory.join(FILE))).inspect_err(|_| {
        // It may not have come to be; what is left is removed with the directory at the latest.
        let _ = fs::remove_file(&new);
    })?;
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => sync_directory(directory),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let open = || options().write(true).create(true).truncate(true).mode(0o644).open(path);
    match open() {
        // A payload has put a directory or a link there.
        Err(error) if error.kind() == ErrorKind::IsADirectory => fs::remove_dir(path).and_then(|()| open()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            fs::remove_file(path).and_then(|()| open())
        }
        other => other,
    }
}

/// By one write and not shorter than the old record, so that no end of this process leaves a half of each. Not safe from a
/// power cut in just that moment.
fn overwrite(directory: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let file = options().write(true).open(directory.join(FILE))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(ErrorKind::InvalidData.into()); // a payload has put something of its own there
    }
    let mut bytes = bytes.to_vec();
    let old = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0);
    bytes.resize(bytes.len().max(old), b' ');
    file.write_all_at(&bytes, 0)?;
    flush(&file, durability)
}

/// NONBLOCK: the name may have become a pipe.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

fn flush(file: &File, durability: Durability) -> io::Result<()> {
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => file.sync_all(),
    }
}

fn name_of(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Outcome, seconds};
    use std::time::Duration;

    fn payload(directory: &Path) -> Payload {
        Payload::prepared(7, directory.to_str().expect("UTF-8").to_owned())
    }

    #[test]
    fn a_payload_comes_back_as_it_was_in_every_state() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let prepared = payload(directory.path());
        let running = Payload { status: Status::Running, started_at: Some(5), ..prepared.clone() };
        let failed = Outcome {
            status: Status::Failed,
            exit_code: Some(3),
            signal: None,
            error: Some("\"quoted\"\nand in two lines".to_owned()),
            left_over: Some(LeftOver::Terminated),
            usage: Usage { wall_s: 0.1, user_s: 1e-9, system_s: 1234.5, max_rss_bytes: 1 << 40 },
        };
        let ended = running.clone().ended(&failed);
        let killed = Payload { status: Status::Killed, killed: true, ..running.clone() };
        for state in [prepared, running, ended, killed] {
            for durability in [Durability::Process, Durability::Power] {
                save(&state, durability).expect("saved");
                assert_eq!(load(directory.path()).expect("a record"), state);
                assert!(!directory.path().join(NEW_FILE).exists());
            }
        }
    }

    /// An outcome is the same to the last digit, whoever asks in which life.
    #[test]
    fn times_come_back_to_the_last_digit() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for _ in 0..2000 {
            let mut payload = payload(directory.path());
            let any = || seconds(Duration::from_nanos(fastrand::u64(0..1 << fastrand::u32(10..60))));
            payload.usage = Usage { wall_s: any(), user_s: any(), system_s: any(), max_rss_bytes: 1 };
            let read = Record::parse(&Record::of(&payload).to_bytes()).expect("a record");
            assert_eq!(read.usage, payload.usage);
        }
    }

    #[test]
    fn what_is_no_record_is_not_believed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(load(directory.path()), Err(RecordError::Missing)));
        let good = String::from_utf8(Record::of(&payload(directory.path())).to_bytes()).expect("UTF-8");
        let elsewhere = good.replace(&name_of(directory.path()), "another");
        for bad in [
            "",
            "{}",
            "null",
            &good[..good.trim_end().len() / 2],
            &good[..good.trim_end().len() - 1],
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
            &elsewhere,
        ] {
            assert_ne!(bad, good);
            fs::write(directory.path().join(FILE), bad).expect("written");
            assert!(matches!(load(directory.path()), Err(RecordError::Damaged(_))), "{bad}");
        }
    }

    #[test]
    fn the_next_state_fits_in_the_place_of_the_old_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let prepared = payload(directory.path());
        save(&prepared, Durability::Process).expect("saved");
        let length = || fs::metadata(directory.path().join(FILE)).expect("there").len();
        let before = length();
        let failed = Outcome::not_started(Status::Failed, "x".repeat(400));
        let ended = prepared.clone().ended(&failed);
        for state in [&ended, &prepared, &ended] {
            overwrite(directory.path(), &Record::of(state).to_bytes(), Durability::Process).expect("written");
            assert_eq!(load(directory.path()).expect("a record"), *state);
            assert_eq!(length(), before);
        }
        let long = prepared.clone().ended(&Outcome::not_started(Status::Failed, "x".repeat(4000)));
        for state in [&long, &prepared] {
            overwrite(directory.path(), &Record::of(state).to_bytes(), Durability::Process).expect("written");
            assert_eq!(load(directory.path()).expect("a record"), *state);
        }
    }

    #[test]
    fn what_is_left_of_a_removal_that_failed_is_no_payload() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = parent.path().join("payload");
        for durability in [Durability::Process, Durability::Power] {
            fs::create_dir(&directory).expect("made");
            save(&payload(&directory), durability).expect("saved");
            fs::write(directory.join("file"), "x").expect("written");
            discard(&directory, durability).expect("removed");
            assert!(!directory.exists());
            discard(&directory, durability).expect("nothing to remove");
        }
        fs::create_dir_all(directory.join(FILE).join("a directory in its place")).expect("made");
        discard(&directory, Durability::Process).expect("removed");
        assert!(!directory.exists());
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_leads_nowhere() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (elsewhere, link) = (home.path().join("elsewhere"), home.path().join("link"));
        fs::create_dir(&elsewhere).expect("made");
        std::os::unix::fs::symlink(&elsewhere, &link).expect("linked");
        for durability in [Durability::Process, Durability::Power] {
            assert!(save(&payload(&link), durability).is_err());
        }
        assert_eq!(fs::read_dir(&elsewhere).expect("readable").count(), 0);
    }

    #[test]
    fn what_a_payload_puts_in_the_way_is_replaced_and_never_followed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = payload(directory.path());
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").expect("written");
        let (file, new) = (directory.path().join(FILE), directory.path().join(NEW_FILE));
        std::os::unix::fs::symlink(&precious, &new).expect("linked");
        std::os::unix::fs::symlink(&precious, &file).expect("linked");
        save(&state, Durability::Process).expect("saved");
        fs::create_dir(&new).expect("made");
        save(&state, Durability::Process).expect("saved");
        assert_eq!(load(directory.path()).expect("a record"), state);
        assert_eq!(fs::read_to_string(&precious).expect("there"), "precious");
    }
}
