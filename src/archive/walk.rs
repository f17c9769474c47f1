//! The entries below a directory, one after the other, each directory before what it holds.
//! Of a payload that has ended nothing is missed: what changes meanwhile, and what the host cannot read, ends the walk.
//! A payload may change the tree meanwhile: every step is relative to an open directory and follows no link, so that it cannot
//! lead outside. Nothing is written here, and no content is read.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::ArchiveError;
use super::names::zip_name;
use super::skipped::printable;
use crate::data::directory::{self, Id};

/// Length field of a name in ZIP headers (APPNOTE 4.4.10); the last byte of a directory's name is `/`.
const MAX_NAME_BYTES: usize = u16::MAX as usize;
/// Directories above the current one that stay open; those further up are opened again on the way back.
const OPEN_LEVELS: usize = 16;

/// What a ZIP keeps of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime_s: i64,
}

impl From<&Stat> for Meta {
    fn from(stat: &Stat) -> Self {
        Self { mode: stat.st_mode, mtime_s: stat.st_mtime }
    }
}

/// By which it is seen that a file or a directory has changed: size, and time of the last change of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    size: i64,
    mtime: (i64, u64),
}

impl From<&Stat> for Stamp {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // other types on other machines
    fn from(stat: &Stat) -> Self {
        Self { size: i64::from(stat.st_size), mtime: (stat.st_mtime, stat.st_mtime_nsec as u64) }
    }
}

/// What stands under [`Walk::name`].
#[derive(Debug)]
pub(super) enum Found {
    /// Its entries come next, unless it may not be listed.
    Directory { stat: Stat, unlisted: Option<Lost> },
    /// Anything else, of a walk that opens no files.
    Entry(Stat),
    /// A regular file, open for reading, and its size at that time. Where it has to stay as it is, the stamp to know it by.
    File { file: File, meta: Meta, size: u64, stamp: Option<Stamp> },
    /// A symbolic link and where it points.
    Link { meta: Meta, target: CString },
    /// Something that should be archived and cannot, by the payload's own doing.
    Lost(Lost),
}

/// Why something cannot be archived.
#[derive(Debug)]
pub(super) enum Lost {
    /// Its mode, and that it belongs to another user.
    Closed(Errno),
    /// A pipe, a socket or a device.
    Special(FileType),
    /// Longer than `MAX_NAME_BYTES`.
    NameTooLong,
    /// Its name is not UTF-8, and what it would be called instead is there too.
    NameTaken,
    /// It was one thing when listed and another when opened.
    Changed,
    /// A directory deep down was moved away while its entries were archived, and cannot be found again.
    Moved,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(errno) => io::Error::from(*errno).fmt(f),
            Self::Special(FileType::Fifo) => f.write_str("it is a named pipe"),
            Self::Special(FileType::Socket) => f.write_str("it is a socket"),
            Self::Special(_) => f.write_str("it is a device"),
            Self::NameTooLong => f.write_str("the path has more than the 65,535 bytes of a ZIP name"),
            Self::NameTaken => {
                f.write_str("its name is not UTF-8, and the name with %XX for it is there too")
            }
            Self::Changed => f.write_str("it became something else while the archive was made"),
            Self::Moved => {
                f.write_str("it was moved while the archive was made; not all of its entries are here")
            }
        }
    }
}

/// A walk in progress. Memory is in proportion to the depth, never to the number of entries.
#[derive(Debug)]
pub(super) struct Walk {
    /// Whether the payload has ended: nobody writes to its directory then.
    is_final: bool,
    /// Whether files are opened.
    opens: bool,
    /// Whether what the payload has closed is opened.
    opens_closed: bool,
    root: OwnedFd,
    /// From the root to the current directory.
    levels: Vec<Level>,
    /// Name of the current entry, relative to the root.
    name: Vec<u8>,
}

/// A directory between the root and the current entry.
#[derive(Debug)]
struct Level {
    /// `None` while many levels down, and after it could not be opened again.
    dir: Option<Dir>,
    /// Device and inode, to know it again.
    id: Id,
    /// How it was when its first entry was read.
    stamp: Stamp,
    /// Where to read on when opened again, as `getdents64` told.
    resume_at: u64,
    /// `Walk::name` up to here is the name of this directory, with its `/`.
    name_bytes: usize,
}

impl Walk {
    /// Begins with the entries of `directory`; it has no entry itself. `is_final`: the payload has ended, which makes every change
    /// an error, and lets us open what it has closed.
    pub(super) fn open(directory: &Path, is_final: bool) -> io::Result<Self> {
        let root = directory::open(CWD, directory, is_final)?;
        Self { is_final, opens: true, opens_closed: is_final, root, levels: Vec::new(), name: Vec::new() }
            .begin()
    }

    /// The same, without opening a file: whatever becomes of an entry meanwhile is its right. `opens_closed`: the payload has ended, which
    /// lets us open directories that it has closed.
    pub(super) fn look(directory: &Path, opens_closed: bool) -> io::Result<Self> {
        let root = directory::open(CWD, directory, opens_closed)?;
        Self { is_final: false, opens: false, opens_closed, root, levels: Vec::new(), name: Vec::new() }
            .begin()
    }

    fn begin(mut self) -> io::Result<Self> {
        let top = openat(&self.root, c".", directory::FLAGS, Mode::empty())?;
        let stat = fstat(&top)?;
        self.enter(top, &stat)?;
        Ok(self)
    }

    /// Goes on where another walk was: in the directory of this name, relative to the root, and at these positions in each of those on
    /// the way to it, the root first. Names are those of entries.
    pub(super) fn go_to(&mut self, directory: &[u8], positions: &[u64]) -> Result<(), Errno> {
        let names = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut positions = positions.iter().copied();
        self.set_position(positions.next().ok_or(Errno::INVAL)?)?;
        for name in names {
            let position = positions.next().ok_or(Errno::INVAL)?;
            let at = self.levels.last().and_then(|level| level.dir.as_ref()).ok_or(Errno::STALE)?;
            let opened = openat(at.fd()?, name, directory::FLAGS, Mode::empty())?;
            self.name.extend_from_slice(name);
            self.name.push(b'/');
            let stat = fstat(&opened)?;
            self.enter(opened, &stat)?;
            self.set_position(position)?;
        }
        if positions.next().is_some() { Err(Errno::INVAL) } else { Ok(()) }
    }

    fn set_position(&mut self, position: u64) -> Result<(), Errno> {
        let Some(level) = self.levels.last_mut() else { return Err(Errno::STALE) };
        let at = level.dir.as_ref().ok_or(Errno::STALE)?;
        let again = openat(at.fd()?, c".", directory::FLAGS, Mode::empty())?;
        level.dir = Some(directory::resume(again, position)?);
        level.resume_at = position;
        Ok(())
    }

    /// Where the walk is: the name of the directory, as [`Walk::name`] has it, and the positions in it and those above, the root's
    /// first. For [`Walk::go_to`].
    pub(super) fn place(&self) -> (&[u8], Vec<u64>) {
        let name_bytes = self.levels.last().map_or(0, |level| level.name_bytes);
        let positions = self.levels.iter().map(|level| level.resume_at).collect();
        (self.name.get(..name_bytes).unwrap_or_default(), positions)
    }

    /// Passes over what is in the directory that came last.
    pub(super) fn pass_over(&mut self) {
        if self.levels.last().is_some_and(|level| level.name_bytes == self.name.len())
            && self.levels.len() > 1
        {
            self.levels.pop();
        }
    }

    /// When something came to the directory of the walk, or went, for the last time: seconds since 1970.
    pub(super) fn root_mtime_s(&self) -> i64 {
        fstat(&self.root).map_or(0, |stat| Meta::from(&stat).mtime_s)
    }

    /// Name of what `next` gave last, relative to the root, with `/` at the end of a directory.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The next thing to archive. What has vanished from the directory of a payload that runs is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Found>, ArchiveError> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.name.truncate(level.name_bytes);
            let entry = match level.dir.as_mut().map(Dir::read) {
                Some(Some(Ok(entry))) => entry,
                Some(Some(Err(errno))) => return Err(self.cannot_read(errno)),
                Some(None) | None => match self.leave()? {
                    Some(lost) => return Ok(Some(Found::Lost(lost))),
                    None => continue,
                },
            };
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            // A negative one, should a file system have it, makes `seek` fail: better than to begin anew.
            level.resume_at = entry.offset().cast_unsigned();
            self.name.extend_from_slice(bytes);
            let seen = match level.dir.as_ref().map(Dir::fd) {
                Some(Ok(dir)) if !self.opens => glance(dir, entry.file_name(), self.opens_closed),
                Some(Ok(dir)) => look(dir, entry.file_name(), entry.file_type(), self.is_final),
                Some(Err(errno)) => Err(errno),
                None => continue,
            };
            if let Some(found) = self.judge(seen)? {
                return Ok(Some(found));
            }
        }
    }

    fn judge(&mut self, seen: Result<Seen, Errno>) -> Result<Option<Found>, ArchiveError> {
        if matches!(seen, Ok(Seen::Directory(..) | Seen::Closed(..))) {
            self.name.push(b'/');
        }
        let too_long = self.opens && zip_name(&self.name).len() > MAX_NAME_BYTES;
        let found = match seen {
            Err(Errno::NOENT) if !self.is_final => return Ok(None),
            // What the flags make of a link in the place of a file or a directory, and of a file in that of a directory.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE) | Ok(Seen::Changed) => {
                if self.is_final {
                    return Err(self.changed());
                }
                Found::Lost(Lost::Changed)
            }
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => Found::Lost(Lost::Closed(errno)),
            Err(errno) => return Err(self.cannot_read(errno)),
            Ok(Seen::Special(kind)) => Found::Lost(Lost::Special(kind)),
            Ok(Seen::NameTaken) => Found::Lost(Lost::NameTaken),
            Ok(_) if too_long => Found::Lost(Lost::NameTooLong),
            Ok(Seen::Directory(fd, stat)) => {
                self.enter(fd, &stat).map_err(|errno| self.cannot_read(errno))?;
                Found::Directory { stat, unlisted: None }
            }
            Ok(Seen::Closed(stat, errno)) => Found::Directory { stat, unlisted: Some(Lost::Closed(errno)) },
            Ok(Seen::Entry(stat)) => Found::Entry(stat),
            Ok(Seen::File(fd, stat)) => Found::File {
                file: File::from(fd),
                meta: Meta::from(&stat),
                size: u64::try_from(stat.st_size).unwrap_or_default(),
                stamp: self.is_final.then(|| Stamp::from(&stat)),
            },
            Ok(Seen::Link(stat, target)) => Found::Link { meta: Meta::from(&stat), target },
        };
        Ok(Some(found))
    }

    /// Goes down into a directory, whose name stands in `self.name`.
    fn enter(&mut self, fd: OwnedFd, stat: &Stat) -> Result<(), Errno> {
        self.levels.push(Level {
            dir: Some(Dir::new(fd)?),
            id: directory::id(stat),
            stamp: Stamp::from(stat),
            resume_at: 0,
            name_bytes: self.name.len(),
        });
        let far = self.levels.len().checked_sub(OPEN_LEVELS + 1);
        if let Some(level) = far.and_then(|far| self.levels.get_mut(far)) {
            level.dir = None;
        }
        Ok(())
    }

    /// Goes up; tells if the directory above cannot be read on.
    fn leave(&mut self) -> Result<Option<Lost>, ArchiveError> {
        let Some(child) = self.levels.pop() else { return Ok(None) };
        let child_fd = child.dir.as_ref().and_then(|dir| dir.fd().ok());
        if let Some(fd) = child_fd.filter(|_| self.is_final) {
            let stat = fstat(fd).map_err(|errno| self.cannot_read(errno))?;
            // Something came or went, or all of it is gone.
            if Stamp::from(&stat) != child.stamp || stat.st_nlink == 0 {
                return Err(self.changed());
            }
        }
        let Some((parent, above)) = self.levels.split_last() else { return Ok(None) };
        if parent.dir.is_some() {
            return Ok(None);
        }
        let name_bytes = parent.name_bytes;
        let resumed = child_fd
            .ok_or(Errno::STALE)
            .and_then(|fd| directory::open_same(fd, c"..", parent.id))
            .or_else(|_| self.open_from_root(parent, above.is_empty()))
            .and_then(|fd| directory::resume(fd, parent.resume_at));
        self.name.truncate(name_bytes);
        match (resumed, self.levels.last_mut()) {
            (Ok(dir), Some(parent)) => {
                parent.dir = Some(dir);
                Ok(None)
            }
            (Err(errno), _) if !is_of_the_tree(errno) => Err(self.cannot_read(errno)),
            _ if self.is_final => Err(self.changed()),
            _ => Ok(Some(Lost::Moved)),
        }
    }

    /// Opens the directory of a level by its name, component by component, if it is still the same.
    fn open_from_root(&self, level: &Level, is_root: bool) -> Result<OwnedFd, Errno> {
        if is_root {
            return directory::open_same(self.root.as_fd(), c".", level.id);
        }
        let mut at = None;
        let name = self.name.get(..level.name_bytes).unwrap_or_default();
        for component in name.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let parent = at.as_ref().unwrap_or(&self.root);
            at = Some(openat(parent, component, directory::FLAGS, Mode::empty())?);
        }
        let directory = at.ok_or(Errno::STALE)?;
        if directory::id_of(&directory)? == level.id { Ok(directory) } else { Err(Errno::STALE) }
    }

    /// The host cannot read what stands under the name.
    fn cannot_read(&self, errno: Errno) -> ArchiveError {
        ArchiveError::Read { path: printable(&self.name), source: errno.into() }
    }

    /// What stands under the name is not what it was.
    fn changed(&self) -> ArchiveError {
        ArchiveError::Changed { path: printable(&self.name) }
    }
}

/// Whether an error comes of what lies in the tree, and not of the state of the host.
fn is_of_the_tree(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE | Errno::ACCESS | Errno::PERM)
}

/// An entry as it was met, before the walk moves.
enum Seen {
    Directory(OwnedFd, Stat),
    /// A directory that cannot be opened.
    Closed(Stat, Errno),
    File(OwnedFd, Stat),
    Link(Stat, CString),
    /// Anything but a directory, not looked at any further.
    Entry(Stat),
    /// A pipe, a socket or a device.
    Special(FileType),
    NameTaken,
    Changed,
}

/// For a walk that opens no files.
fn glance(dir: BorrowedFd<'_>, name: &CStr, opens_closed: bool) -> Result<Seen, Errno> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        look_at_directory(dir, name, opens_closed)
    } else {
        Ok(Seen::Entry(stat))
    }
}

fn look(dir: BorrowedFd<'_>, name: &CStr, listed_as: FileType, is_final: bool) -> Result<Seen, Errno> {
    if let Cow::Owned(other_name) = zip_name(name.to_bytes()) {
        match statat(dir, other_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(Seen::NameTaken),
            // NAMETOOLONG: there is none of that name.
            Err(Errno::NOENT | Errno::NAMETOOLONG) => {}
            Err(errno) => return Err(errno),
        }
    }
    let file_type = match listed_as {
        // Some file systems do not tell.
        FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        known => known,
    };
    match file_type {
        FileType::RegularFile => look_at_file(dir, name, is_final),
        FileType::Directory => look_at_directory(dir, name, is_final),
        FileType::Symlink => {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match readlinkat(dir, name, Vec::new()) {
                Ok(target) if FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                    Ok(Seen::Link(stat, target))
                }
                Ok(_) | Err(Errno::INVAL) => Ok(Seen::Changed), // INVAL: not a link any more
                Err(errno) => Err(errno),
            }
        }
        special => Ok(Seen::Special(special)),
    }
}

fn look_at_file(dir: BorrowedFd<'_>, name: &CStr, is_final: bool) -> Result<Seen, Errno> {
    match directory::open_file(dir, name, is_final) {
        Ok(fd) => {
            let stat = fstat(&fd)?;
            Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Seen::File(fd, stat),
                FileType::Directory => Seen::Changed,
                special => Seen::Special(special),
            })
        }
        Err(Errno::NXIO) => Ok(Seen::Special(FileType::Socket)), // it has become one, open(2)
        Err(errno) => Err(errno),
    }
}

fn look_at_directory(dir: BorrowedFd<'_>, name: &CStr, is_final: bool) -> Result<Seen, Errno> {
    match directory::open(dir, name, is_final) {
        Ok(fd) => {
            let stat = fstat(&fd)?;
            Ok(Seen::Directory(fd, stat))
        }
        // The directory itself can be archived nevertheless.
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(if FileType::from_raw_mode(stat.st_mode).is_dir() {
                Seen::Closed(stat, errno)
            } else {
                Seen::Changed
            })
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::{TempDir, tempdir};

    /// A directory with a secret beside the one that is walked.
    fn payload_and_secret() -> (TempDir, TempDir) {
        let (payload, outside) = (tempdir().unwrap(), tempdir().unwrap());
        fs::write(outside.path().join("secret"), "s").unwrap();
        (payload, outside)
    }

    fn name(walk: &Walk) -> String {
        String::from_utf8(walk.name().to_vec()).unwrap()
    }

    /// Of what is listed already, but not yet opened, `swap` makes something else; gives what the walk says to it.
    fn swapped(names: [&str; 2], make: impl Fn(&Path), swap: impl Fn(&Path)) -> Option<Found> {
        let payload = tempdir().unwrap();
        for name in names {
            make(&payload.path().join(name));
        }
        let mut walk = Walk::open(payload.path(), false).unwrap();
        walk.next().unwrap().unwrap();
        let first = name(&walk);
        let other = names.into_iter().find(|other| *other != first.trim_end_matches('/')).unwrap();
        swap(&payload.path().join(other));
        walk.next().unwrap()
    }

    #[test]
    fn a_directory_swapped_for_a_link_does_not_leak() {
        let (_, outside) = payload_and_secret();
        let found = swapped(
            ["a", "b"],
            |path| fs::create_dir(path).unwrap(),
            |path| {
                fs::remove_dir(path).unwrap();
                symlink(outside.path(), path).unwrap();
            },
        );
        assert!(matches!(found, Some(Found::Lost(Lost::Changed))), "{found:?}");
    }

    #[test]
    fn a_file_swapped_for_a_link_does_not_leak() {
        let (_, outside) = payload_and_secret();
        let found = swapped(
            ["a", "b"],
            |path| fs::write(path, "").unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                symlink(outside.path().join("secret"), path).unwrap();
            },
        );
        assert!(matches!(found, Some(Found::Lost(Lost::Changed))), "{found:?}");
    }

    #[test]
    fn a_file_swapped_for_a_pipe_does_not_block() {
        let found = swapped(
            ["a", "b"],
            |path| fs::write(path, "").unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            },
        );
        assert!(matches!(found, Some(Found::Lost(Lost::Special(FileType::Fifo)))), "{found:?}");
    }

    #[test]
    fn a_file_that_has_vanished_is_passed_over() {
        let found =
            swapped(["a", "b"], |path| fs::write(path, "").unwrap(), |path| fs::remove_file(path).unwrap());
        assert!(found.is_none(), "{found:?}");
    }

    #[test]
    fn a_link_swapped_for_a_file_is_reported() {
        let found = swapped(
            ["a", "b"],
            |path| symlink("x", path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "").unwrap();
            },
        );
        assert!(matches!(found, Some(Found::Lost(Lost::Changed))), "{found:?}");
    }

    /// `1/2/.../depth`, each with a file beside the next.
    fn ladder(root: &Path, depth: usize) {
        let mut path = root.to_path_buf();
        for level in 1..=depth {
            path.push(level.to_string());
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
    }

    /// Walks until a directory of this name has been entered.
    fn walk_to(walk: &mut Walk, directory: &str, seen: &mut BTreeSet<String>) {
        while walk.next().unwrap().is_some() {
            seen.insert(name(walk));
            if walk.name().ends_with(directory.as_bytes()) {
                return;
            }
        }
    }

    #[test]
    fn directories_that_were_closed_are_read_on_where_they_were_left() {
        let payload = tempdir().unwrap();
        ladder(payload.path(), 60);
        for file in 0..500 {
            fs::write(payload.path().join(format!("1/2/more-{file}")), "").unwrap();
        }
        let mut walk = Walk::open(payload.path(), false).unwrap();
        let mut count = 0;
        let mut seen = BTreeSet::new();
        while let Some(found) = walk.next().unwrap() {
            assert!(!matches!(found, Found::Lost(_)), "{found:?} {}", name(&walk));
            count += 1;
            seen.insert(name(&walk));
            let open = walk.levels.iter().filter(|level| level.dir.is_some()).count();
            assert!(open <= OPEN_LEVELS);
        }
        assert_eq!((count, seen.len()), (620, 620));
    }

    #[test]
    fn a_parent_that_moved_with_its_child_is_read_on() {
        let (payload, outside) = payload_and_secret();
        ladder(payload.path(), 40);
        let mut walk = Walk::open(payload.path(), false).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2"), outside.path().join("2")).unwrap();
        while let Some(found) = walk.next().unwrap() {
            assert!(!matches!(found, Found::Lost(_)), "{found:?} {}", name(&walk));
            seen.insert(name(&walk));
        }
        assert_eq!(seen.len(), 80);
    }

    #[test]
    fn a_child_moved_outside_does_not_lead_there() {
        let (payload, outside) = payload_and_secret();
        ladder(payload.path(), 40);
        let mut walk = Walk::open(payload.path(), false).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2/3"), outside.path().join("3")).unwrap();
        while let Some(found) = walk.next().unwrap() {
            // `1/2` has not moved, and is found again by its name.
            assert!(!matches!(found, Found::Lost(_)), "{found:?} {}", name(&walk));
            seen.insert(name(&walk));
        }
        assert_eq!(seen.len(), 80);
        assert!(!seen.iter().any(|name| name.ends_with("secret")));
    }

    #[test]
    fn a_directory_that_cannot_be_found_again_is_reported_and_the_rest_is_walked() {
        let (payload, outside) = payload_and_secret();
        ladder(payload.path(), 40);
        let mut walk = Walk::open(payload.path(), false).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2/3"), outside.path().join("3")).unwrap();
        fs::rename(payload.path().join("1/2"), outside.path().join("2")).unwrap();
        fs::create_dir(payload.path().join("1/2")).unwrap();
        fs::write(payload.path().join("1/2/impostor"), "").unwrap();
        let mut lost = Vec::new();
        while let Some(found) = walk.next().unwrap() {
            if let Found::Lost(reason) = found {
                lost.push((name(&walk), reason.to_string()));
            } else {
                seen.insert(name(&walk));
            }
        }
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert_eq!(lost[0].0, "1/2/");
        assert!(seen.contains("1/file") && seen.contains("1/2/3/file"));
        assert!(!seen.iter().any(|name| name.ends_with("secret") || name.ends_with("impostor")));
    }

    #[test]
    fn of_a_payload_that_has_ended_nothing_may_go_or_come_or_become_something_else() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("a directory that is to come goes", |path| fs::remove_dir_all(path.join("1/2/3/4/5")).unwrap()),
            ("a file beside it goes", |path| fs::remove_file(path.join("1/2/3/4/file")).unwrap()),
            ("what was there goes", |path| fs::remove_dir_all(path.join("1")).unwrap()),
            ("a file comes at the top", |path| fs::write(path.join("new"), "").unwrap()),
            ("a directory becomes a link", |path| {
                fs::rename(path.join("1/2/3/4/5"), path.join("1/2/3/4/six")).unwrap();
                symlink("six", path.join("1/2/3/4/5")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let payload = tempdir().unwrap();
            ladder(payload.path(), 40);
            // The clock of file times may have steps of some milliseconds.
            for directory in ["", "1", "1/2/3/4", "1/2/3/4/5"] {
                let past = File::open(payload.path().join(directory)).unwrap();
                past.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            let mut walk = Walk::open(payload.path(), true).unwrap();
            walk_to(&mut walk, "1/2/3/4/", &mut BTreeSet::new());
            change(payload.path());
            let end = loop {
                match walk.next() {
                    Ok(Some(Found::Lost(lost))) => break Err(format!("lost: {lost}")),
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error.to_string()),
                }
            };
            let error = end.expect_err(what);
            assert!(error.ends_with("was changed or removed while it was sent"), "{what}: {error}");
        }
    }

    #[test]
    fn what_the_host_cannot_read_ends_the_walk_of_any_payload() {
        let payload = tempdir().unwrap();
        ladder(payload.path(), 40);
        for is_final in [false, true] {
            let mut walk = Walk::open(payload.path(), is_final).unwrap();
            for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO] {
                let error = walk.judge(Err(errno)).unwrap_err();
                assert!(
                    matches!(&error, ArchiveError::Read { source, .. }
                    if source.raw_os_error() == Some(errno.raw_os_error())),
                    "{error}"
                );
            }
            // The payload's own doing.
            let found = walk.judge(Err(Errno::ACCESS)).unwrap();
            assert!(matches!(found, Some(Found::Lost(Lost::Closed(_)))), "{found:?}");
        }
    }
}
