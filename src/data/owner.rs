//! Whose a payload's directory is: the client's, or, while the payload runs, that of its slot's user id. It changes hands before
//! the start and after the end.
//!
//! On the way out the directory itself comes last, on the way back first: nobody but the client can enter it while only half
//! of it is somebody's. No processes of the payload are there in either case. Every step is relative to an open directory and
//! follows no link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, Uid};
use rustix::fs::{chownat, fchmod, fchown, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::data::directory::{self, Id};

/// Of a directory that is its payload's own, or is at rest.
const PRIVATE: Mode = Mode::RWXU;
/// Of a directory that is ours again, while nothing in it is. The bits mean nothing for it otherwise; its group is still the payload's
/// then.
const CLOSED: Mode = Mode::RWXU.union(Mode::SVTX);
/// The same once all in it is the payload's own: a part may be ours again.
const RETURNING: Mode = CLOSED.union(Mode::SGID);

/// Directories above the current one that stay open; those further up are opened again, by `..`, on the way back.
const OPEN_LEVELS: usize = 8;

/// What was found in a directory on its way back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// Links to files of other users, which are removed: nobody may have the client, which can read all, send them.
    pub foreign: u64,
}

/// Gives the directory of a payload that has never run, with all that is in it, to the user `id` and the group of the same number;
/// it is nobody else's to enter then.
///
/// Blocking; for a disk thread. Costs two system calls for each directory, and one for each file.
pub fn give(directory: &Path, id: u32) -> io::Result<()> {
    let root = openat(CWD, directory, directory::FLAGS, Mode::empty())?;
    let (user, group) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
    each_entry(&root, &mut |dir, name, _| chownat(dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW))?;
    fchmod(&root, PRIVATE)?;
    fchown(&root, user, group)?;
    Ok(())
}

/// Closes the directory of a payload of which no process is left to all but the client: the first step of the way back, in no
/// more than four system calls. Does nothing where it is the client's.
pub fn close(directory: &Path) -> io::Result<()> {
    let root = openat(CWD, directory, directory::FLAGS, Mode::empty())?;
    former_owner(&root)?;
    Ok(())
}

/// Takes back the directory of a payload of which no process is left, or goes on with that, also if an earlier life began it.
/// Does nothing where it is the client's. After an error all is taken back that can be.
///
/// Blocking; for a disk thread. Walks twice, since a file may have several names there: costs two system calls for each file.
pub fn take_back(directory: &Path) -> io::Result<Returned> {
    let root = openat(CWD, directory, directory::FLAGS, Mode::empty())?;
    let mut returned = Returned::default();
    let Some((former, mode)) = former_owner(&root)? else { return Ok(returned) };
    if mode == CLOSED {
        each_entry(&root, &mut |dir, name, kind| {
            if kind != FileType::Directory && statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_uid != former {
                // A hard link: all that the payload has made is its own. The file itself stays where it came from.
                unlinkat(dir, name, AtFlags::empty())?;
                returned.foreign += 1;
            }
            Ok(())
        })?;
        fchmod(&root, RETURNING)?;
    }
    let (user, group) = (Some(rustix::process::geteuid()), Some(rustix::process::getegid()));
    each_entry(&root, &mut |dir, name, _| chownat(dir, name, user, group, AtFlags::SYMLINK_NOFOLLOW))?;
    fchown(&root, user, group)?;
    fchmod(&root, PRIVATE)?;
    Ok(returned)
}

/// Who had the directory, where it is or was a payload's, and how far it has come back; it is closed to all but the client then.
fn former_owner(root: &OwnedFd) -> Result<Option<(u32, Mode)>, Errno> {
    let own = rustix::process::geteuid();
    let stat = fstat(root)?;
    if stat.st_uid == own.as_raw() {
        let mode = Mode::from_raw_mode(stat.st_mode);
        return Ok(matches!(mode, CLOSED | RETURNING).then_some((stat.st_gid, mode)));
    }
    // Its group stays: by that the next life knows whose it was.
    fchown(root, Some(own), Some(Gid::from_raw(stat.st_uid)))?;
    fchmod(root, CLOSED)?;
    Ok(Some((stat.st_uid, CLOSED)))
}

/// A directory on the way from the root to the current one.
struct Level {
    /// `None` while many levels down.
    dir: Option<Dir>,
    /// To know it again.
    id: Id,
    /// Where to read on when opened again.
    resume_at: u64,
}

impl Level {
    fn new(directory: OwnedFd) -> Result<Self, Errno> {
        Ok(Self { id: directory::id_of(&directory)?, dir: Some(Dir::new(directory)?), resume_at: 0 })
    }
}

/// Calls `act` with each entry below `root`, whatever its depth, and how it was listed; each directory before what is in it. What
/// is mounted there is left alone. Goes on after an error, and gives the first one.
fn each_entry(
    root: &OwnedFd,
    act: &mut dyn FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let device = fstat(root)?.st_dev;
    let mut levels = vec![Level::new(openat(root, c".", directory::FLAGS, Mode::empty())?)?];
    let mut first_error = Ok(());
    while let Some(level) = levels.last_mut() {
        let entry = match level.dir.as_mut().and_then(Dir::read) {
            Some(Ok(entry)) => entry,
            // It is at its end then.
            Some(Err(errno)) => {
                first_error = first_error.and(Err(errno));
                continue;
            }
            None => {
                leave(&mut levels)?;
                continue;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        level.resume_at = entry.offset().cast_unsigned();
        let Some(dir) = level.dir.as_ref() else { continue };
        match visit(dir.fd()?, name, entry.file_type(), device, act) {
            Ok(Some(below)) => {
                levels.push(below);
                let far = levels.len().checked_sub(OPEN_LEVELS + 1);
                if let Some(far) = far.and_then(|far| levels.get_mut(far)) {
                    far.dir = None;
                }
            }
            Ok(None) | Err(Errno::NOENT) => {}
            Err(errno) => first_error = first_error.and(Err(errno)),
        }
    }
    first_error
}

/// Gives the directory to go down into, where the entry is one.
fn visit(
    dir: BorrowedFd<'_>,
    name: &CStr,
    listed: FileType,
    device: u64,
    act: &mut dyn FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<(), Errno>,
) -> Result<Option<Level>, Errno> {
    let kind = match listed {
        // Not every file system lists it.
        FileType::Unknown => FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        listed => listed,
    };
    if kind != FileType::Directory {
        return act(dir, name, kind).map(|()| None);
    }
    let below = openat(dir, name, directory::FLAGS, Mode::empty())?;
    if fstat(&below)?.st_dev != device {
        return Ok(None);
    }
    act(dir, name, kind)?;
    Level::new(below).map(Some)
}

/// Goes up one level, whose directory is opened again where it is closed.
fn leave(levels: &mut Vec<Level>) -> Result<(), Errno> {
    let Some(child) = levels.pop() else { return Ok(()) };
    let Some(parent) = levels.last_mut().filter(|parent| parent.dir.is_none()) else { return Ok(()) };
    let child = child.dir.ok_or(Errno::STALE)?;
    let reopened = directory::open_same(child.fd()?.as_fd(), c"..", parent.id)?;
    parent.dir = Some(directory::resume(reopened, parent.resume_at)?);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Nobody's.
    const ID: u32 = 60_999;

    /// A payload's directory; `None` for who is not root and cannot give anything away.
    fn payload() -> Option<(TempDir, PathBuf)> {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("payload");
        fs::create_dir_all(directory.join("a/b")).unwrap();
        fs::write(directory.join("a/b/file"), "x").unwrap();
        fs::write(directory.join("run.sh"), "x").unwrap();
        if rustix::process::geteuid().is_root() { Some((home, directory)) } else { None }
    }

    fn owners(directory: &Path) -> Vec<u32> {
        let paths = ["", "run.sh", "a", "a/b", "a/b/file"];
        paths.iter().map(|path| fs::symlink_metadata(directory.join(path)).unwrap().uid()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_given_whole_and_comes_back_whole() {
        let Some((_home, directory)) = payload() else { return println!("not root: nothing is given") };
        give(&directory, ID).unwrap();
        assert_eq!((owners(&directory), mode(&directory)), (vec![ID; 5], 0o700));
        assert_eq!(take_back(&directory).unwrap(), Returned::default());
        assert_eq!((owners(&directory), mode(&directory)), (vec![0; 5], 0o700));
        assert_eq!(fs::symlink_metadata(directory.join("a")).unwrap().gid(), 0);
        // It is ours: nothing is looked at any more.
        std::os::unix::fs::chown(directory.join("run.sh"), Some(ID), None).unwrap();
        assert_eq!(take_back(&directory).unwrap(), Returned::default());
        assert_eq!(fs::symlink_metadata(directory.join("run.sh")).unwrap().uid(), ID);
    }

    #[test]
    fn a_return_that_was_cut_off_is_ended_by_the_next() {
        let Some((_home, directory)) = payload() else { return println!("not root: nothing is given") };
        give(&directory, ID).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        for _ in 0..2 {
            close(&directory).unwrap();
            assert_eq!((owners(&directory), mode(&directory)), (vec![0, ID, ID, ID, ID], 0o1700));
        }
        // Half of it is ours already.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o3700)).unwrap();
        std::os::unix::fs::chown(directory.join("a"), Some(0), Some(0)).unwrap();
        std::os::unix::fs::chown(directory.join("a/b/file"), Some(0), Some(0)).unwrap();
        assert_eq!(take_back(&directory).unwrap(), Returned::default());
        assert_eq!((owners(&directory), mode(&directory)), (vec![0; 5], 0o700));
    }

    #[test]
    fn a_link_to_a_file_of_somebody_else_is_removed_and_the_file_is_as_it_was() {
        let Some((home, directory)) = payload() else { return println!("not root: nothing is given") };
        let secret = home.path().join("secret");
        fs::write(&secret, "s").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        give(&directory, ID).unwrap();
        // What a payload can do where fs.protected_hardlinks is 0.
        fs::hard_link(&secret, directory.join("a/link")).unwrap();
        // One to its own file is its own business, and so is a symbolic one.
        fs::hard_link(directory.join("run.sh"), directory.join("a/own")).unwrap();
        symlink(&secret, directory.join("symbolic")).unwrap();
        chownat(CWD, directory.join("symbolic"), Some(Uid::from_raw(ID)), None, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
        assert_eq!(take_back(&directory).unwrap(), Returned { foreign: 1 });
        assert!(!directory.join("a/link").exists() && directory.join("a/own").exists());
        let status = fs::symlink_metadata(&secret).unwrap();
        assert_eq!((status.uid(), mode(&secret), status.nlink()), (0, 0o600, 1));
        assert_eq!(fs::symlink_metadata(directory.join("symbolic")).unwrap().uid(), 0);
    }

    #[test]
    fn a_program_that_would_run_as_its_owner_does_not_come_back_as_one() {
        let Some((_home, directory)) = payload() else { return println!("not root: nothing is given") };
        give(&directory, ID).unwrap();
        let program = directory.join("run.sh");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
        take_back(&directory).unwrap();
        assert_eq!(mode(&program), 0o755);
    }

    #[test]
    fn a_tree_deeper_than_the_longest_path_changes_hands() {
        let Some((_home, directory)) = payload() else { return println!("not root: nothing is given") };
        let mut at = openat(CWD, &directory, directory::FLAGS, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "beside", Mode::RWXU).unwrap();
            at = openat(&at, &name, directory::FLAGS, Mode::empty()).unwrap();
        }
        give(&directory, ID).unwrap();
        assert_eq!(fstat(&at).unwrap().st_uid, ID);
        take_back(&directory).unwrap();
        assert_eq!(fstat(&at).unwrap().st_uid, 0);
        let beside = statat(&at, "../beside", AtFlags::empty()).unwrap();
        assert_eq!(beside.st_uid, 0);
        assert_eq!(owners(&directory), vec![0; 5]);
    }
}
