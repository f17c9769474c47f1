//! The directories for temporary files of payloads, one for each, beside the records: no part of the result, and gone with the
//! payload. All is told by the path of the payload's own directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use crate::data::owner;
use crate::data::place::{OWN, own_directory};
use crate::data::remove::remove_tree;

/// In the client's own place.
const TEMPORARY: &str = "tmp";

/// Where the payload in `directory` has its temporary files.
pub fn path_of(directory: &Path) -> PathBuf {
    let data_path = directory.parent().unwrap_or(directory);
    data_path.join(OWN).join(TEMPORARY).join(directory.file_name().unwrap_or_default())
}

/// Makes that directory, empty: what an attempt has left that came to nothing goes first. For its user alone. May wait for the
/// disk.
pub fn make(directory: &Path) -> io::Result<PathBuf> {
    let path = path_of(directory);
    let (Some(data_path), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let all = own_directory(data_path, TEMPORARY)?;
    match mkdirat(&all, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            remove_tree(&path)?;
            mkdirat(&all, name, Mode::RWXU)?;
        }
        made => made?,
    }
    Ok(path)
}

/// Gives that directory, which is empty, to the user `id`, and lets all users come to theirs; its name is known to nobody else. May
/// wait for the disk.
pub fn give(directory: &Path, id: u32) -> io::Result<()> {
    let path = path_of(directory);
    for above in path.ancestors().skip(1).take(2) {
        rustix::fs::chmod(above, Mode::RWXU | Mode::XGRP | Mode::XOTH)?;
    }
    owner::give(&path, id)
}

/// Removes that directory with all that is in it. May wait for the disk.
pub fn remove(directory: &Path) -> io::Result<()> {
    remove_tree(&path_of(directory))
}

/// Removes those of an earlier life, whose payloads have all ended. May wait for the disk.
pub fn remove_all(data_path: &Path) -> io::Result<()> {
    let all = data_path.join(OWN).join(TEMPORARY);
    // What a payload may have put in its place is not followed.
    if fs::symlink_metadata(&all).is_err() { Ok(()) } else { remove_tree(&all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn each_payload_has_an_empty_one_of_its_own_that_goes() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (first, second) = (home.path().join("a"), home.path().join("b"));
        let made = make(&first).expect("made");
        assert_eq!(made, path_of(&first));
        assert_eq!(fs::metadata(&made).expect("there").permissions().mode() & 0o777, 0o700);
        fs::write(made.join("left"), "by an attempt").expect("written");
        let again = make(&first).expect("made anew");
        assert_eq!(fs::read_dir(&again).expect("there").count(), 0);
        let other = make(&second).expect("made");
        remove(&first).expect("removed");
        assert!(!made.exists() && other.exists());
        remove_all(home.path()).expect("removed");
        remove_all(home.path()).expect("nothing to do");
        assert!(!other.exists());
        remove(&second).expect("gone already");
    }
}
