//! The exit code of `run.sh`, left beside the results for the user.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::data::directory;
use crate::data::disk_error::is_full;

/// Its name.
pub const EXIT_FILE: &str = ".orchestrator.exit";

/// How [`full_disk`] begins.
pub const FULL: &str = "the disk of DATA_PATH is full";

/// Whether a payload can have brought that about: it has removed, closed or replaced its directory, or put something in the way.
/// A DATA_PATH that is away or closed looks the same.
pub fn may_be_of_payload(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::ACCESS
                | Errno::PERM
                | Errno::ISDIR
                | Errno::EXIST
                | Errno::BUSY
        )
    )
}

/// Says so if the disk of `directory` has no room: by its numbers, or since a write has just failed for that.
pub fn full_disk(directory: &Path, failed: Option<&io::Error>) -> Option<String> {
    /// A file system keeps a few blocks to itself, and what is larger fails before the last one is given.
    const NEXT_TO_NOTHING: u64 = 64 * 1024;
    let volume = rustix::fs::statvfs(directory).ok()?;
    let bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
    let has_no_inode = volume.f_files > 0 && volume.f_favail == 0;
    let is_full = bytes < NEXT_TO_NOTHING || has_no_inode || failed.is_some_and(is_full);
    is_full.then(|| {
        format!(
            "{FULL} ({bytes} bytes and {} inodes are free), which may be why it failed; make room there",
            volume.f_favail
        )
    })
}

/// Leaves the exit code of a payload beside its results. A payload that wrote the file
/// itself, by a trap, had the same number; what it put in the way otherwise, there or in the place of the directory, is never
/// followed.
pub fn write(directory: &Path, code: i32) -> io::Result<()> {
    let name = CString::new(directory.as_os_str().as_bytes())?;
    let handle_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(&*name, handle_flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let create = || match rustix::fs::openat(&handle, EXIT_FILE, flags, Mode::from_raw_mode(0o644)) {
        // The payload has closed its directory, which is ours.
        Err(Errno::ACCESS) => {
            let (kind, bits) = (FileType::Directory, Mode::RWXU);
            let opened = directory::open_closed(CWD, &name, kind, bits, directory::FLAGS)?;
            rustix::fs::openat(opened, EXIT_FILE, flags, Mode::from_raw_mode(0o644))
        }
        other => other,
    };
    let file = match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(&handle, EXIT_FILE, AtFlags::empty())?;
            create()?
        }
        other => other?,
    };
    // On a full disk there may be room for a name and none for its content: an empty file would tell a lie.
    File::from(file).write_all(format!("{code}\n").as_bytes()).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(&handle, EXIT_FILE, AtFlags::empty());
    })
}
