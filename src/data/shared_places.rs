//! What a user id has left in the places where all users may write: /tmp and its like. Where ids are of payloads' own, it goes
//! with the payload. Nothing here follows a link: others may write there too.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::data::directory;
use crate::data::remove::remove_tree;

/// Directories that everybody may write to, on any Linux (hier(7)).
const PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run/lock"];

/// Below them are more (`/tmp/.X11-unix`), and not deep.
const MAX_DEPTH: u32 = 3;

/// Removes what belongs to the user `id` in the places that all share. Gives how many files and directories that were, those within a
/// directory not counted. After an error all is removed that can be. Blocking; for a disk thread.
pub fn remove_of(id: u32) -> io::Result<u64> {
    remove_in(&PLACES.map(Path::new), id)
}

fn remove_in(places: &[&Path], id: u32) -> io::Result<u64> {
    let (mut removed, mut first_error) = (0, Ok(()));
    for place in places {
        // The place itself may be a link, its administrator's.
        match openat(CWD, *place, directory::FLAGS.difference(OFlags::NOFOLLOW), Mode::empty()) {
            Ok(place) => {
                let result = remove_below(&place, id, MAX_DEPTH, &mut removed);
                first_error = first_error.and(result);
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => first_error = first_error.and(Err(errno.into())),
        }
    }
    first_error.map(|()| removed)
}

fn remove_below(place: &OwnedFd, id: u32, depth: u32, removed: &mut u64) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let mut first_error = Ok(());
    for entry in Dir::read_from(place)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let result = match look(place, name, id) {
            Ok(Entry::Theirs) => {
                remove_tree(&path.join(OsStr::from_bytes(name.to_bytes()))).map(|()| *removed += 1)
            }
            Ok(Entry::Shared) if depth > 0 => {
                match openat(place, name, directory::FLAGS, Mode::empty()) {
                    Ok(shared) => remove_below(&shared, id, depth - 1, removed),
                    // Gone, or something else by now.
                    Err(_) => Ok(()),
                }
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        first_error = first_error.and(result);
    }
    first_error
}

enum Entry {
    /// It belongs to the user that is looked for.
    Theirs,
    /// A directory in which all may write.
    Shared,
    Other,
}

fn look(place: impl AsFd, name: &std::ffi::CStr, id: u32) -> Result<Entry, Errno> {
    let stat = statat(place, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(match stat.st_uid {
        owner if owner == id => Entry::Theirs,
        _ if is_directory && Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) => Entry::Shared,
        _ => Entry::Other,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    /// Nobody's.
    const ID: u32 = 60_998;

    #[test]
    fn what_a_user_has_left_goes_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            return println!("not root: nothing can be another user's");
        }
        let home = tempfile::tempdir().unwrap();
        let (place, outside) = (home.path().join("tmp"), home.path().join("outside"));
        for directory in ["left/deep", "shared", "closed"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(place.join("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
        for file in [
            "tmp/left/deep/file",
            "tmp/file",
            "tmp/shared/file",
            "tmp/closed/file",
            "outside/file",
            "tmp/other",
        ] {
            let file = home.path().join(file);
            fs::write(&file, "x").unwrap();
            if !file.ends_with("other") {
                chown(&file, Some(ID), Some(ID)).unwrap();
            }
        }
        chown(place.join("left"), Some(ID), Some(ID)).unwrap();
        symlink(&outside, place.join("shared/link")).unwrap();
        assert_eq!(remove_in(&[&place, Path::new("/no/such/place")], ID).unwrap(), 3);
        for gone in ["left", "file", "shared/file"] {
            assert!(place.join(gone).symlink_metadata().is_err(), "{gone}");
        }
        // Nobody but root can have put that there.
        assert!(place.join("closed/file").exists() && place.join("other").exists());
        assert!(outside.join("file").exists());
    }
}
