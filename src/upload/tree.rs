//! The payload directory while it is filled: makes directories and files, with the modes the contract wants.
//! Takes paths that `part_path` has let through, and trusts them. Removing a directory again is `receive`'s task.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Directories, `run.sh`, scripts and programs.
const EXECUTABLE: Mode = Mode::from_raw_mode(0o755);
/// All other files.
const PLAIN: Mode = Mode::from_raw_mode(0o644);

/// Made executable whatever its first bytes are: without `#!` it is run by a shell.
const RUN_SH: &str = "run.sh";
const SCRIPT_MAGIC: &[u8] = b"#!";
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Why a file could not be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotCreated {
    /// It is there already.
    GivenTwice,
    /// A file is where a directory is needed, or the reverse.
    InTheWay,
    /// The file system does not take such a name.
    BadName,
    /// All else.
    Disk(Errno),
}

/// Makes the payload directory itself.
pub(super) fn make_directory(directory: &Path) -> Result<(), Errno> {
    rustix::fs::mkdir(directory, EXECUTABLE)
}

/// An open payload directory. It was made for this upload, so that nothing is in it but what came through here: no symbolic
/// links to be led astray by.
pub(super) struct Tree {
    root: OwnedFd,
    /// The umask, or a default ACL of the directory above, takes bits of a new file's mode away.
    modes_are_cut: bool,
}

impl Tree {
    /// Opens what [`make_directory`] made, and sets its mode where that came out differently, or is to be 0700: `is_private`.
    pub fn open(directory: &Path, is_private: bool) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        // One look at the directory, whose mode has all bits a file could ask for, saves an fchmod for each file. The umask
        // cannot be asked for without changing it for every thread.
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode);
        let modes_are_cut = !mode.contains(EXECUTABLE);
        if is_private {
            rustix::fs::fchmod(&root, Mode::RWXU)?;
        } else if modes_are_cut {
            rustix::fs::fchmod(&root, mode | EXECUTABLE)?;
        }
        Ok(Self { root, modes_are_cut })
    }

    /// Makes an empty file, and the directories it lies in.
    pub fn file(&self, path: &str) -> Result<NewFile, NotCreated> {
        let mode = if path == RUN_SH { EXECUTABLE } else { PLAIN };
        let created = match self.create(path, mode) {
            // Only then: most files lie at the top, or in a directory that an earlier one brought.
            Err(Errno::NOENT) if path.contains('/') => {
                self.make_parents(path).and_then(|()| self.create(path, mode))
            }
            created => created,
        };
        match created {
            Ok(file) => Ok(NewFile {
                file: file.into(),
                mode,
                mode_is_cut: self.modes_are_cut,
                magic: Magic::default(),
            }),
            Err(Errno::EXIST) if self.is_directory(path) => Err(NotCreated::InTheWay),
            Err(Errno::EXIST) => Err(NotCreated::GivenTwice),
            Err(Errno::NOTDIR) => Err(NotCreated::InTheWay),
            // vfat and exfat refuse `a?b` by EINVAL, case-folding file systems refuse unassigned characters by EILSEQ, and
            // encrypted ones have fewer bytes for a name.
            Err(Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG) => Err(NotCreated::BadName),
            Err(error) => Err(NotCreated::Disk(error)),
        }
    }

    fn create(&self, path: &str, mode: Mode) -> Result<OwnedFd, Errno> {
        // EXCL makes the file system itself notice a path given twice: no set of names to keep in memory.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, path, flags, mode)
    }

    fn make_parents(&self, path: &str) -> Result<(), Errno> {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            match rustix::fs::mkdirat(&self.root, parent, EXECUTABLE) {
                Ok(()) if self.modes_are_cut => {
                    rustix::fs::chmodat(&self.root, parent, EXECUTABLE, AtFlags::empty())?;
                }
                // A file of that name: the next step finds out.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asked after a failure only.
    fn is_directory(&self, path: &str) -> bool {
        rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    /// As it was asked for when the file was made.
    mode: Mode,
    mode_is_cut: bool,
    magic: Magic,
}

impl NewFile {
    /// Appends, unbuffered: pieces are large, or the file is small and comes in one.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.magic.see(piece);
        self.file.write_all(piece)
    }

    /// Sets the mode where it is not what the content asks for.
    pub fn finish(self) -> io::Result<()> {
        let mode = if self.magic.is_executable() { EXECUTABLE } else { self.mode };
        if self.mode_is_cut || mode != self.mode {
            rustix::fs::fchmod(&self.file, mode)?;
        }
        Ok(())
    }
}

/// The first bytes of a file, gathered over the pieces they come in.
#[derive(Debug, Default)]
struct Magic {
    bytes: [u8; 4],
    length: usize,
}

impl Magic {
    fn see(&mut self, piece: &[u8]) {
        let free = &mut self.bytes[self.length..];
        let taken = free.len().min(piece.len());
        free[..taken].copy_from_slice(&piece[..taken]);
        self.length += taken;
    }

    fn is_executable(&self) -> bool {
        let seen = &self.bytes[..self.length];
        seen.starts_with(SCRIPT_MAGIC) || seen == ELF_MAGIC
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    fn tree() -> (TempDir, Tree) {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("payload");
        make_directory(&directory).unwrap();
        let tree = Tree::open(&directory, false).unwrap();
        (parent, tree)
    }

    fn mode(parent: &TempDir, path: &str) -> u32 {
        let path = parent.path().join("payload").join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Also run by the next test, by its name, in processes of another umask.
    #[test]
    fn modes_follow_name_and_first_bytes() {
        let (parent, tree) = tree();
        let rows: [(&str, &[u8], u32); 12] = [
            ("run.sh", b"echo", 0o755),
            ("script", b"#!/bin/sh\n", 0o755),
            ("shortest", b"#!", 0o755),
            ("elf", b"\x7fELF\x02", 0o755),
            ("d/e/script", b"#!/bin/sh\n", 0o755),
            ("d/run.sh", b"echo", 0o644),
            ("run.sh.txt", b"echo", 0o644),
            ("empty", b"", 0o644),
            ("comment", b"# !", 0o644),
            ("hash", b"#", 0o644),
            ("later", b" #!/bin/sh", 0o644),
            ("half", b"\x7fEL", 0o644),
        ];
        for piece_bytes in [1, 2, 3, 64] {
            for (path, content, expected) in rows {
                let mut file = tree.file(path).unwrap();
                for piece in content.chunks(piece_bytes) {
                    file.write(piece).unwrap();
                }
                file.finish().unwrap();
                assert_eq!(mode(&parent, path), expected, "{path} by {piece_bytes}");
                let path = parent.path().join("payload").join(path);
                assert_eq!(fs::read(&path).unwrap(), content);
                fs::remove_file(path).unwrap();
            }
        }
        for directory in [".", "d", "d/e"] {
            assert_eq!(mode(&parent, directory), 0o755, "{directory}");
        }
    }

    #[test]
    fn modes_hold_under_any_umask() {
        let (_, module) = module_path!().split_once("::").unwrap();
        for umask in ["000", "022", "027", "077"] {
            // A umask is the whole process's, and other tests run in this one.
            let output = Command::new("sh")
                .args(["-c", "umask $1; exec \"$0\" --exact \"$2\""])
                .arg(std::env::current_exe().unwrap())
                .arg(umask)
                .arg(format!("{module}::modes_follow_name_and_first_bytes"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "umask {umask}: {text}");
            assert!(text.contains("1 passed"), "umask {umask}: {text}");
        }
    }

    #[test]
    fn a_path_is_taken_once_and_not_as_file_and_directory() {
        for (first, second, expected) in [
            ("a", "a", NotCreated::GivenTwice),
            ("a/b", "a/b", NotCreated::GivenTwice),
            ("a/b", "a", NotCreated::InTheWay),
            ("a/b/c", "a/b", NotCreated::InTheWay),
            ("a", "a/b", NotCreated::InTheWay),
            ("a", "a/b/c", NotCreated::InTheWay),
            ("a/b", "a/b/c/d", NotCreated::InTheWay),
        ] {
            let (_parent, tree) = tree();
            tree.file(first).unwrap();
            assert_eq!(tree.file(second).unwrap_err(), expected, "{first} {second}");
        }
    }

    #[test]
    fn a_name_that_the_file_system_does_not_take_is_told_from_a_broken_disk() {
        let (parent, tree) = tree();
        let long = "x".repeat(256);
        assert_eq!(tree.file(&long).unwrap_err(), NotCreated::BadName);
        assert_eq!(tree.file(&format!("{long}/a")).unwrap_err(), NotCreated::BadName);
        fs::remove_dir(parent.path().join("payload")).unwrap();
        for path in ["a", "a/b"] {
            let error = tree.file(path).unwrap_err();
            assert_eq!(error, NotCreated::Disk(Errno::NOENT), "{path}");
        }
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let (parent, tree) = tree();
        let outside = parent.path().join("outside");
        std::os::unix::fs::symlink(&outside, parent.path().join("payload/a")).unwrap();
        assert_eq!(tree.file("a").unwrap_err(), NotCreated::GivenTwice);
        assert!(!outside.exists());
    }
}
