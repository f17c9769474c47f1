//! The entries below a directory, one after the other, each directory before what it holds.
//! A payload may change the tree meanwhile: every step is relative to an open directory and follows no link, so that it cannot
//! lead outside. Nothing is written here, and no content is read.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::fs::{fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::data::directory::{self, Id};

/// Length field of a name in ZIP headers (APPNOTE 4.4.10); the last byte of a directory's name is `/`.
const MAX_NAME_BYTES: usize = u16::MAX as usize;
/// Directories above the current one that stay open; those further up are opened again on the way back.
const OPEN_LEVELS: usize = 16;

/// NONBLOCK and NOCTTY: the name may have become a pipe or a terminal since it was listed.
const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

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

/// What stands under [`Walk::name`].
#[derive(Debug)]
pub(super) enum Found {
    /// Its entries come next, unless it may not be listed.
    Directory { meta: Meta, unlisted: Option<Lost> },
    /// A regular file, open for reading, and its size at that time.
    File { file: File, meta: Meta, size: u64 },
    /// A symbolic link and where it points.
    Link { meta: Meta, target: CString },
    /// Something that should be archived and cannot.
    Lost(Lost),
}

/// Why something cannot be archived.
#[derive(Debug)]
pub(super) enum Lost {
    System(Errno),
    /// Longer than `MAX_NAME_BYTES`.
    NameTooLong,
    /// It was one thing when listed and another when opened.
    Changed,
    /// A directory deep down was moved away while its entries were archived, and cannot be found again.
    Moved,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(errno) => io::Error::from(*errno).fmt(f),
            Self::NameTooLong => f.write_str("the path has more than the 65,535 bytes of a ZIP name"),
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
    /// Where to read on when opened again, as `getdents64` told.
    resume_at: u64,
    /// `Walk::name` up to here is the name of this directory, with its `/`.
    name_bytes: usize,
}

impl Walk {
    /// Begins with the entries of `directory`; it has no entry itself.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let root = openat(CWD, directory, directory::FLAGS, Mode::empty())?;
        let top = openat(&root, c".", directory::FLAGS, Mode::empty())?;
        let stat = fstat(&top)?;
        let mut walk = Self { root, levels: Vec::new(), name: Vec::new() };
        walk.enter(top, &stat)?;
        Ok(walk)
    }

    /// Name of what `next` gave last, relative to the root, with `/` at the end of a directory.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The next thing to archive; pipes, sockets, devices and what has vanished are passed over.
    pub(super) fn next(&mut self) -> Option<Found> {
        loop {
            let level = self.levels.last_mut()?;
            self.name.truncate(level.name_bytes);
            let entry = match level.dir.as_mut().map(Dir::read) {
                Some(Some(Ok(entry))) => entry,
                Some(Some(Err(errno))) => return Some(Found::Lost(Lost::System(errno))), // `read` is at its end then
                Some(None) | None => match self.leave() {
                    Some(lost) => return Some(Found::Lost(lost)),
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
                Some(Ok(dir)) => look(dir, entry.file_name(), entry.file_type()),
                Some(Err(errno)) => Err(errno),
                None => continue,
            };
            if let Some(found) = self.judge(seen) {
                return Some(found);
            }
        }
    }

    fn judge(&mut self, seen: Result<Seen, Errno>) -> Option<Found> {
        if matches!(seen, Ok(Seen::Directory(..) | Seen::Closed(..))) {
            self.name.push(b'/');
        }
        let too_long = self.name.len() > MAX_NAME_BYTES;
        match seen {
            Err(Errno::NOENT) | Ok(Seen::Special) => None,
            // What the flags make of a link in the place of a file or a directory, and of a file in that of a directory.
            Err(Errno::LOOP | Errno::NOTDIR) | Ok(Seen::Changed) => Some(Found::Lost(Lost::Changed)),
            Err(errno) => Some(Found::Lost(Lost::System(errno))),
            Ok(_) if too_long => Some(Found::Lost(Lost::NameTooLong)),
            Ok(Seen::Directory(fd, stat)) => {
                let unlisted = self.enter(fd, &stat).err().map(Lost::System);
                Some(Found::Directory { meta: Meta::from(&stat), unlisted })
            }
            Ok(Seen::Closed(stat, errno)) => {
                Some(Found::Directory { meta: Meta::from(&stat), unlisted: Some(Lost::System(errno)) })
            }
            Ok(Seen::File(fd, stat)) => Some(Found::File {
                file: File::from(fd),
                meta: Meta::from(&stat),
                size: u64::try_from(stat.st_size).unwrap_or_default(),
            }),
            Ok(Seen::Link(stat, target)) => Some(Found::Link { meta: Meta::from(&stat), target }),
        }
    }

    /// Goes down into a directory, whose name stands in `self.name`.
    fn enter(&mut self, fd: OwnedFd, stat: &Stat) -> Result<(), Errno> {
        self.levels.push(Level {
            dir: Some(Dir::new(fd)?),
            id: directory::id(stat),
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
    fn leave(&mut self) -> Option<Lost> {
        let child = self.levels.pop()?;
        let (parent, above) = self.levels.split_last()?;
        if parent.dir.is_some() {
            return None;
        }
        self.name.truncate(parent.name_bytes);
        let reopened = child
            .dir
            .and_then(|dir| dir.fd().and_then(|fd| directory::open_same(fd, c"..", parent.id)).ok())
            .or_else(|| self.open_from_root(parent, above.is_empty()));
        let resumed = reopened.and_then(|fd| directory::resume(fd, parent.resume_at).ok());
        match (resumed, self.levels.last_mut()) {
            (Some(dir), Some(parent)) => {
                parent.dir = Some(dir);
                None
            }
            _ => Some(Lost::Moved),
        }
    }

    /// Opens the directory of a level by its name, component by component, if it is still the same.
    fn open_from_root(&self, level: &Level, is_root: bool) -> Option<OwnedFd> {
        if is_root {
            return directory::open_same(self.root.as_fd(), c".", level.id).ok();
        }
        let mut at = None;
        for component in
            self.name.get(..level.name_bytes)?.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
        {
            let parent = at.as_ref().unwrap_or(&self.root);
            at = Some(openat(parent, component, directory::FLAGS, Mode::empty()).ok()?);
        }
        at.filter(|fd| directory::id_of(fd) == Ok(level.id))
    }
}

/// An entry as it was met, before the walk moves.
enum Seen {
    Directory(OwnedFd, Stat),
    /// A directory that cannot be opened.
    Closed(Stat, Errno),
    File(OwnedFd, Stat),
    Link(Stat, CString),
    /// A pipe, a socket or a device.
    Special,
    Changed,
}

fn look(dir: BorrowedFd<'_>, name: &CStr, listed_as: FileType) -> Result<Seen, Errno> {
    let file_type = match listed_as {
        // Some file systems do not tell.
        FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        known => known,
    };
    match file_type {
        FileType::RegularFile => look_at_file(dir, name),
        FileType::Directory => look_at_directory(dir, name),
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
        _ => Ok(Seen::Special),
    }
}

fn look_at_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<Seen, Errno> {
    match openat(dir, name, FILE_FLAGS, Mode::empty()) {
        Ok(fd) => {
            let stat = fstat(&fd)?;
            Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Seen::File(fd, stat),
                FileType::Directory => Seen::Changed,
                _ => Seen::Special,
            })
        }
        Err(Errno::NXIO) => Ok(Seen::Special), // it has become a socket, open(2)
        Err(errno) => Err(errno),
    }
}

fn look_at_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<Seen, Errno> {
    match openat(dir, name, directory::FLAGS, Mode::empty()) {
        Ok(fd) => {
            let stat = fstat(&fd)?;
            Ok(Seen::Directory(fd, stat))
        }
        Err(errno @ (Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => Err(errno),
        // The directory itself can be archived nevertheless.
        Err(errno) => {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(if FileType::from_raw_mode(stat.st_mode).is_dir() {
                Seen::Closed(stat, errno)
            } else {
                Seen::Changed
            })
        }
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
        let mut walk = Walk::open(payload.path()).unwrap();
        walk.next().unwrap();
        let first = name(&walk);
        let other = names.into_iter().find(|other| *other != first.trim_end_matches('/')).unwrap();
        swap(&payload.path().join(other));
        walk.next()
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
        assert!(found.is_none(), "{found:?}");
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
        while walk.next().is_some() {
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
        let mut walk = Walk::open(payload.path()).unwrap();
        let mut count = 0;
        let mut seen = BTreeSet::new();
        while let Some(found) = walk.next() {
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
        let mut walk = Walk::open(payload.path()).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2"), outside.path().join("2")).unwrap();
        while let Some(found) = walk.next() {
            assert!(!matches!(found, Found::Lost(_)), "{found:?} {}", name(&walk));
            seen.insert(name(&walk));
        }
        assert_eq!(seen.len(), 80);
    }

    #[test]
    fn a_child_moved_outside_does_not_lead_there() {
        let (payload, outside) = payload_and_secret();
        ladder(payload.path(), 40);
        let mut walk = Walk::open(payload.path()).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2/3"), outside.path().join("3")).unwrap();
        while let Some(found) = walk.next() {
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
        let mut walk = Walk::open(payload.path()).unwrap();
        let mut seen = BTreeSet::new();
        walk_to(&mut walk, "/40/", &mut seen);
        fs::rename(payload.path().join("1/2/3"), outside.path().join("3")).unwrap();
        fs::rename(payload.path().join("1/2"), outside.path().join("2")).unwrap();
        fs::create_dir(payload.path().join("1/2")).unwrap();
        fs::write(payload.path().join("1/2/impostor"), "").unwrap();
        let mut lost = Vec::new();
        while let Some(found) = walk.next() {
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
}
