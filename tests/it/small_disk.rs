//! Small file systems of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own, unmounted at the end.
pub struct SmallDisk {
    directory: tempfile::TempDir,
    /// What an ext4 is in.
    image: Option<tempfile::NamedTempFile>,
}

impl SmallDisk {
    /// A tmpfs. `None` where mounting is not permitted, which the output tells.
    pub fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let is_mounted =
            run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", directory.path().to_str().unwrap()]);
        is_mounted.then_some(Self { directory, image: None })
    }

    /// An ext4 on a loop device. It writes by itself only after minutes, and its inodes are made with it.
    pub fn ext4() -> Option<Self> {
        Self::ext4_of(24, &[])
    }

    /// The same of so many MiB, made with these options of mkfs.ext4.
    pub fn ext4_of(mebibytes: u64, more: &[&str]) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(mebibytes << 20).unwrap();
        let options = [&["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"], more].concat();
        let is_made = run("mkfs.ext4", &[&options[..], &[image.path().to_str().unwrap()]].concat());
        is_made.then_some(image).and_then(Self::ext4_in)
    }

    pub fn ext4_in(image: tempfile::NamedTempFile) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (image.path().to_str().unwrap(), directory.path().to_str().unwrap());
        let is_mounted = run("mount", &["-o", "loop,commit=300", from, to]);
        is_mounted.then_some(Self { directory, image: Some(image) })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all writes in again only when the guard is dropped.
    pub fn freeze(&self) -> Option<Frozen> {
        run("fsfreeze", &["-f", self.path().to_str().unwrap()]).then(|| Frozen(self.path().to_owned()))
    }

    /// What an ext4 has at this moment without the memory of this machine, for [`Self::ext4_in`].
    pub fn without_power(&self) -> tempfile::NamedTempFile {
        let copy = tempfile::NamedTempFile::new().unwrap();
        fs::copy(self.image.as_ref().unwrap().path(), copy.path()).unwrap();
        copy
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        assert!(run("fsfreeze", &["-u", self.0.to_str().unwrap()]));
    }
}

/// Runs a tool. `false` where it fails, which the output tells.
pub fn run(tool: &str, arguments: &[&str]) -> bool {
    match Command::new(tool).args(arguments).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => println!("skipped: {tool}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("skipped: {tool}: {error}"),
    }
    false
}
