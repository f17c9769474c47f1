//! Open directories, for walks through what a payload may change meanwhile: each step is relative to a descriptor, follows no
//! link, and knows a directory again by its device and inode.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::fs::{accessat, chmod, fchmod, fstat, openat, seek};
use rustix::io::Errno;
use rustix::path::Arg;

/// To list a directory, and nothing else in its place.
pub const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// To read a file, and nothing else in its place. NONBLOCK and NOCTTY: the name may have become a pipe or a terminal since it was
/// listed.
pub const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Device and inode, to know a directory again.
pub type Id = (u64, u64);

/// Of which directory that is the status.
pub fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// Which directory that is.
pub fn id_of(directory: impl AsFd) -> Result<Id, Errno> {
    fstat(directory).map(|stat| id(&stat))
}

/// Opens a directory that has been seen before, by `..` most often: a child may have been moved elsewhere, and its `..` with
/// it. `ESTALE` for another one.
pub fn open_same(at: BorrowedFd<'_>, name: &CStr, expected: Id) -> Result<OwnedFd, Errno> {
    let directory = openat(at, name, FLAGS, Mode::empty())?;
    if id_of(&directory)? == expected { Ok(directory) } else { Err(Errno::STALE) }
}

/// Opens a file or a directory of this kind whose owner, which we are, has closed it: with these bits added to its mode, which it
/// keeps. `EACCES` if it is not ours.
pub fn open_closed(
    at: impl AsFd,
    name: impl Arg,
    kind: FileType,
    bits: Mode,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let handle = openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mode = fstat(&handle)?.st_mode;
    if FileType::from_raw_mode(mode) != kind {
        return Err(Errno::NOTDIR);
    }
    // By the descriptor: the name may be a link by now, and there was no way to change a mode without following links before
    // fchmodat2(2) of Linux 6.6.
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    match chmod(&*path, Mode::from_raw_mode(mode) | bits) {
        Err(Errno::PERM) => return Err(Errno::ACCESS),
        done => done?,
    }
    openat(CWD, &*path, flags.difference(OFlags::NOFOLLOW), Mode::empty())
}

/// Opens a directory. `opens_closed`: that of a payload that has ended, so that what its owner has closed is opened, as far as it is
/// ours: it can be listed then, and what is in it opened.
pub fn open(at: impl AsFd, name: impl Arg + Copy, opens_closed: bool) -> Result<OwnedFd, Errno> {
    let directory = match openat(&at, name, FLAGS, Mode::empty()) {
        Err(Errno::ACCESS) if opens_closed => {
            open_closed(&at, name, FileType::Directory, Mode::RUSR | Mode::XUSR, FLAGS)
        }
        other => other,
    }?;
    if opens_closed && accessat(&directory, c".", Access::EXEC_OK, AtFlags::empty()) == Err(Errno::ACCESS) {
        let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode);
        // If it fails, each entry tells that it cannot be opened.
        let _ = fchmod(&directory, mode | Mode::XUSR);
    }
    Ok(directory)
}

/// Opens a file, or what is in its place, to read it; `opens_closed` as with [`open`].
pub fn open_file(at: impl AsFd, name: impl Arg + Copy, opens_closed: bool) -> Result<OwnedFd, Errno> {
    match openat(&at, name, FILE_FLAGS, Mode::empty()) {
        Err(Errno::ACCESS) if opens_closed => {
            open_closed(&at, name, FileType::RegularFile, Mode::RUSR, FILE_FLAGS)
        }
        other => other,
    }
}

/// Opens the regular file at a path below a directory, name by name, and follows no link on the way. `names` are those of entries:
/// never `..`, and none with a slash. `ENOENT` where there is no such file, `EISDIR` and the like where there is something else.
pub fn open_file_below(root: &Path, names: &[&[u8]], opens_closed: bool) -> Result<(File, Stat), Errno> {
    let (last, directories) = names.split_last().ok_or(Errno::ISDIR)?;
    let mut at = open(CWD, root, opens_closed)?;
    for name in directories {
        at = open(at, *name, opens_closed)?;
    }
    let file = open_file(at, *last, opens_closed)?;
    let stat = fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((File::from(file), stat)),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::NXIO),
    }
}

/// Opens a file of the client's own, with these flags; one that is made is nobody else's to read. A payload is often of the same user, and may have closed it: it is opened again.
pub fn open_own_file(at: impl AsFd, name: impl Arg + Copy, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC;
    let opened = match openat(&at, name, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::ACCESS) => open_closed(&at, name, FileType::RegularFile, Mode::RUSR | Mode::WUSR, flags)
            .map_err(|_| Errno::ACCESS),
        other => other,
    };
    Ok(File::from(opened?))
}

/// Reads a directory from a position that an earlier descriptor gave; file systems keep these meaningful, as NFS servers need
/// it.
pub fn resume(directory: OwnedFd, position: u64) -> Result<Dir, Errno> {
    seek(&directory, SeekFrom::Start(position))?;
    Dir::new(directory)
}
