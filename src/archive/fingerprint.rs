//! By what it is seen that a directory has changed: all that can be known of its entries without reading a file, as one number.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use rustix::fs::Stat;

use super::ArchiveError;
use super::walk::{Found, Walk};

/// The fingerprint of `directory`, that of a payload that has ended, of `also`, and of what this program makes of them: as long as it is the same, so is the archive. It
/// costs one stat(2) for each entry, and opens each directory.
///
/// Blocking; for a disk thread. The order of the entries counts, since that of the archive is the same. Who owns the directory can
/// make two states with one fingerprint, at the price of his own result.
pub fn fingerprint(directory: &Path, also: &[u8]) -> Result<u64, ArchiveError> {
    let mut walk = Walk::look(directory, true)
        .map_err(|source| ArchiveError::OpenDirectory { path: directory.to_path_buf(), source })?;
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), also, walk.root_mtime_s()).hash(&mut hasher);
    while let Some(found) = walk.next()? {
        walk.name().hash(&mut hasher);
        match found {
            Found::Directory { stat, unlisted } => {
                unlisted.is_some().hash(&mut hasher);
                add(&stat, &mut hasher);
            }
            Found::Entry(stat) => add(&stat, &mut hasher),
            _ => false.hash(&mut hasher),
        }
    }
    Ok(hasher.finish())
}

/// The time of the last change of the inode is moved by whatever is done to it, and by nobody's wish.
fn add(stat: &Stat, hasher: &mut DefaultHasher) {
    (stat.st_mode, stat.st_dev, stat.st_ino, stat.st_size).hash(hasher);
    (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec).hash(hasher);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::tempdir;

    #[test]
    fn whatever_is_done_to_the_directory_shows_and_looking_does_not() {
        let directory = tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        fs::write(path("a/b/c/file"), "one").unwrap();
        fs::write(path("other"), "").unwrap();
        let print = || fingerprint(directory.path(), b"").unwrap();
        let mut seen = vec![print()];
        let changes: [(&str, &dyn Fn()); 6] = [
            ("content of the same length", &|| fs::write(path("a/b/c/file"), "two").unwrap()),
            ("a mode", &|| fs::set_permissions(path("other"), fs::Permissions::from_mode(0o600)).unwrap()),
            ("a name", &|| fs::rename(path("other"), path("another")).unwrap()),
            ("a new file", &|| fs::write(path("a/new"), "").unwrap()),
            ("a link", &|| symlink("nowhere", path("a/link")).unwrap()),
            ("a removal", &|| fs::remove_file(path("a/b/c/file")).unwrap()),
        ];
        for (what, change) in changes {
            // Times of inodes go in steps of some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            let now = print();
            assert!(!seen.contains(&now), "{what}");
            assert_eq!(print(), now, "{what}");
            seen.push(now);
        }
        assert_ne!(fingerprint(directory.path(), b"x").unwrap(), print());
        assert!(matches!(fingerprint(&path("nowhere"), b""), Err(ArchiveError::OpenDirectory { .. })));
    }
}
