//! Removes a directory with all that is in it, whatever a payload made of it: deeper than the longest path, closed by its mode,
//! full of a million files, swapped for a link. Every step is relative to an open directory and follows no link, so that it
//! cannot lead outside. The number of open descriptors is fixed; memory is in proportion to the depth, never to the number.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::fs::{chmod, fchmod, fstat, openat, openat2, unlinkat};
use rustix::io::Errno;

use crate::data::directory::{self, Id};

/// Directories above the current one that stay open; those further up are opened again, by `..`, on the way back.
const OPEN_LEVELS: usize = 8;
/// How often a directory is read anew that was found not to be empty at its end: something fills it meanwhile, or the file
/// system passes over entries while others are removed.
const MAX_PASSES: u32 = 32;
/// How often the way is begun anew from the top, after directories were moved elsewhere under way.
const MAX_STARTS: u32 = 8;
/// How often a name is tried that is a file one time and a directory the next.
const MAX_TURNS: u32 = 4;
/// Of a longer path an error shows the beginning and the end.
const MAX_SHOWN_BYTES: usize = 1024;

/// Enough to know a directory by, and permitted whatever its mode is.
const HANDLE_FLAGS: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `directory` and all below it. One that is not there is as good as removed; a link or a file in its place is removed
/// itself. What another file system or another place is mounted on stays, with what is there.
///
/// Blocking; for a disk thread. An empty directory takes one call and no descriptor. On failure all is removed that can be,
/// and the first error is given, with its path.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    match unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {} // met again below, and told there
    }
    let Some(name) = directory.file_name().and_then(|name| CString::new(name.as_bytes()).ok()) else {
        return Err(named(directory, Errno::INVAL));
    };
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = match openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(named(directory, errno)),
    };
    Removal { directory, parent, name, levels: Vec::new(), path: Vec::new(), first_error: None }.run()
}

struct Removal<'p> {
    directory: &'p Path,
    /// Holds the directory itself; not ours, and left as it is.
    parent: OwnedFd,
    name: CString,
    /// From the directory itself to the one whose entries are being removed.
    levels: Vec<Level>,
    /// The names of all levels, each with a `/` after it.
    path: Vec<u8>,
    first_error: Option<io::Error>,
}

struct Level {
    /// `None` while many levels down.
    dir: Option<Dir>,
    /// Device and inode, to know it again.
    id: Id,
    /// Where to read on when opened again, as `getdents64` told.
    resume_at: u64,
    /// In `Removal::path` its own name begins here.
    name_start: usize,
    /// How often it has been read before.
    passes: u32,
    /// Something in it could not be removed, which has been told.
    has_failed: bool,
}

/// What became of a name.
#[derive(Debug, PartialEq)]
enum Taken {
    Gone,
    /// It is a directory with something in it.
    Full,
}

/// A directory deep down was moved elsewhere, and the way back up leads there.
struct Lost;

impl Removal<'_> {
    fn run(mut self) -> io::Result<()> {
        for _ in 0..MAX_STARTS {
            if self.remove_all().is_ok() {
                return self.first_error.map_or(Ok(()), Err);
            }
            // What has been removed is gone for good: the next turn is shorter.
            self.levels.clear();
            self.path.clear();
        }
        Err(self.first_error.unwrap_or_else(|| named(self.directory, Errno::STALE)))
    }

    fn remove_all(&mut self) -> Result<(), Lost> {
        self.begin();
        while !self.levels.is_empty() {
            self.step()?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.remove(&self.name.clone(), true, 0);
    }

    fn step(&mut self) -> Result<(), Lost> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        match level.dir.as_mut().and_then(Dir::read) {
            Some(Ok(entry)) => {
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    // A negative one, should a file system have it, makes `seek` fail: better than to begin anew for ever.
                    level.resume_at = entry.offset().cast_unsigned();
                    self.remove(name, entry.file_type() == FileType::Directory, 0);
                }
                Ok(())
            }
            Some(Err(errno)) => {
                self.fail(b".", errno); // `read` is at its end then
                Ok(())
            }
            None => self.leave(),
        }
    }

    /// Removes a name from the current directory, or goes down into it.
    fn remove(&mut self, name: &CStr, is_directory: bool, passes: u32) {
        let dir = match self.levels.last() {
            None => self.parent.as_fd(),
            Some(level) => match level.dir.as_ref().map(Dir::fd) {
                Some(Ok(dir)) => dir,
                _ => return, // never: the current directory is open
            },
        };
        // First as if it were empty: most directories need no more, and of a mount point the kernel says that it is busy
        // before it says that it is not empty (vfs_rmdir).
        let (failure, level) = match take(dir, name, is_directory) {
            Ok(Taken::Gone) => return,
            Ok(Taken::Full) if passes > MAX_PASSES => (Some(Errno::NOTEMPTY), None),
            Ok(Taken::Full) => match open_level(dir, name, self.path.len(), passes) {
                Ok(level) => (None, Some(level)),
                Err(errno) => (Some(errno), None),
            },
            // It has to stay; what is in it, if it is a directory, need not.
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
                (Some(errno), open_level(dir, name, self.path.len(), passes).ok())
            }
            Err(errno) => (Some(errno), None),
        };
        if let Some(errno) = failure.filter(|errno| *errno != Errno::NOENT) {
            self.fail(name.to_bytes(), errno);
        }
        if let Some(mut level) = level {
            level.has_failed = failure.is_some();
            self.enter(name, level);
        }
    }

    fn enter(&mut self, name: &CStr, level: Level) {
        self.path.extend_from_slice(name.to_bytes());
        self.path.push(b'/');
        self.levels.push(level);
        let far = self.levels.len().checked_sub(OPEN_LEVELS + 1);
        if let Some(level) = far.and_then(|far| self.levels.get_mut(far)) {
            level.dir = None;
        }
    }

    /// Goes up, and removes the directory that has been emptied.
    fn leave(&mut self) -> Result<(), Lost> {
        let Some(child) = self.levels.pop() else {
            return Ok(());
        };
        let mut name = self.path.split_off(child.name_start);
        name.pop(); // the `/`
        if let Some(parent) = self.levels.last_mut() {
            if parent.dir.is_none() {
                let fd = child.dir.as_ref().and_then(|dir| dir.fd().ok()).ok_or(Lost)?;
                let reopened = directory::open_same(fd, c"..", parent.id)
                    .and_then(|fd| directory::resume(fd, parent.resume_at));
                parent.dir = Some(reopened.map_err(|_| Lost)?);
            }
            // It is not empty then, and its parent will not be either.
            parent.has_failed |= child.has_failed;
        }
        if !child.has_failed
            && let Ok(name) = CString::new(name)
        {
            self.remove(&name, true, child.passes + 1);
        }
        Ok(())
    }

    /// Notes that a name in the current directory cannot be removed.
    fn fail(&mut self, name: &[u8], errno: Errno) {
        if let Some(level) = self.levels.last_mut() {
            level.has_failed = true;
        }
        if self.first_error.is_none() {
            let path = shown(&[&self.path, name].concat());
            let parent = self.directory.parent().unwrap_or(Path::new(""));
            self.first_error = Some(named(&parent.join(path), errno));
        }
    }
}

/// Takes a name away, unless it is a directory with something in it. `is_directory` is how it was listed, which may be wrong.
fn take(dir: BorrowedFd<'_>, name: &CStr, mut is_directory: bool) -> Result<Taken, Errno> {
    for _ in 0..MAX_TURNS {
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(dir, name, flags) {
            Ok(()) | Err(Errno::NOENT) => return Ok(Taken::Gone),
            Err(Errno::NOTEMPTY | Errno::EXIST) if is_directory => return Ok(Taken::Full),
            Err(Errno::NOTDIR) if is_directory => is_directory = false,
            Err(Errno::ISDIR) if !is_directory => is_directory = true,
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::STALE)
}

fn open_level(dir: BorrowedFd<'_>, name: &CStr, name_start: usize, passes: u32) -> Result<Level, Errno> {
    let fd = match open_here(dir, name, directory::FLAGS) {
        // Its owner, which we are, may always open its mode.
        Err(Errno::ACCESS) => {
            let handle = open_here(dir, name, HANDLE_FLAGS)?;
            // By the descriptor: the name may be a link by now, and there was no way to change a mode without following links
            // before fchmodat2(2) of Linux 6.6.
            chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU).map_err(|_| Errno::ACCESS)?;
            openat(&handle, c".", directory::FLAGS, Mode::empty())?
        }
        other => other?,
    };
    let stat = fstat(&fd)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if !mode.contains(Mode::RWXU) {
        // If it fails, and was needed, so does the removal of what is in there, and tells.
        let _ = fchmod(&fd, mode | Mode::RWXU);
    }
    Ok(Level {
        dir: Some(Dir::new(fd)?),
        id: directory::id(&stat),
        resume_at: 0,
        name_start,
        passes,
        has_failed: false,
    })
}

/// Opens a directory that lies in `dir` itself and not in something mounted there. (Before Linux 5.6 a mount at this very
/// moment is seen only if it is of another device.)
fn open_here(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(dir, name, flags, Mode::empty(), resolve) {
        // PERM is what a container's filter of an older day says to a call that it does not know.
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = openat(dir, name, flags, Mode::empty())?;
            if fstat(&fd)?.st_dev == fstat(dir)?.st_dev { Ok(fd) } else { Err(Errno::XDEV) }
        }
        other => other,
    }
}

fn named(path: &Path, errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The path, or of a very long one the beginning and the end.
fn shown(path: &[u8]) -> PathBuf {
    let (half, full) = (MAX_SHOWN_BYTES / 2, path.len());
    let short = match (path.get(..half), path.get(full.saturating_sub(half)..)) {
        (Some(start), Some(end)) if full > MAX_SHOWN_BYTES => [start, "…".as_bytes(), end].concat(),
        _ => path.to_vec(),
    };
    PathBuf::from(OsString::from_vec(short))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;
    use std::thread;
    use tempfile::{TempDir, tempdir};

    /// A directory to remove, and one beside it that must stay as it is.
    fn work_and_precious() -> (TempDir, PathBuf, PathBuf) {
        let home = tempdir().unwrap();
        let (work, precious) = (home.path().join("work"), home.path().join("precious"));
        fs::create_dir(&work).unwrap();
        fs::create_dir_all(precious.join("sub")).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        (home, work, precious)
    }

    fn must_be_whole(precious: &Path) {
        assert!(precious.join("sub").is_dir() && precious.join("file").is_file());
    }

    fn must_be_gone(path: &Path) {
        assert!(path.symlink_metadata().is_err(), "{} is left", path.display());
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Makes a ladder of directories of this name, each with a file, of a path that no system call takes.
    fn ladder(work: &Path, name: &str, depth: usize) {
        let mut fd = openat(CWD, work, directory::FLAGS, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&fd, name, Mode::RWXU).unwrap();
            fd = openat(&fd, name, directory::FLAGS, Mode::empty()).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY;
            openat(&fd, "file", flags, Mode::RUSR).unwrap();
        }
    }

    #[test]
    fn what_is_not_there_is_as_good_as_removed() {
        let (home, work, precious) = work_and_precious();
        for path in ["gone", "gone/too"] {
            remove_tree(&home.path().join(path)).unwrap();
        }
        remove_tree(&work).unwrap();
        must_be_gone(&work);
        for path in ["precious/..", "precious/a\0b"] {
            let refused = remove_tree(&home.path().join(path)).unwrap_err();
            assert!(refused.to_string().contains("precious"), "{path:?}: {refused}");
        }
        must_be_whole(&precious);
    }

    #[test]
    fn names_of_all_kinds_are_removed_and_no_link_is_followed() {
        let (home, work, precious) = work_and_precious();
        fs::create_dir_all(work.join("a/b/c")).unwrap();
        let long = "x".repeat(255);
        for name in [b"\xff\xfe".as_slice(), b" ", b"\n", b"-rf", b"\xc3", long.as_bytes()] {
            let name = OsStr::from_bytes(name);
            fs::write(work.join("a/b").join(name), "").unwrap();
            fs::create_dir_all(work.join("a/b/c").join(name).join(name)).unwrap();
        }
        for (number, target) in
            [precious.as_path(), &precious.join("file"), Path::new("gone"), Path::new("."), Path::new("/")]
                .into_iter()
                .enumerate()
        {
            symlink(target, work.join(format!("a/{number}"))).unwrap();
        }
        rustix::fs::mknodat(CWD, work.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(work.join("socket")).unwrap();
        remove_tree(&work).unwrap();
        must_be_gone(&work);
        // And in the place of the directory itself.
        for slash in ["", "/"] {
            symlink(&precious, &work).unwrap();
            remove_tree(&home.path().join(format!("work{slash}"))).unwrap();
            must_be_gone(&work);
        }
        fs::write(&work, "").unwrap();
        remove_tree(&work).unwrap();
        must_be_gone(&work);
        must_be_whole(&precious);
    }

    #[test]
    fn what_is_moved_elsewhere_meanwhile_does_not_lead_there() {
        let (_home, work, precious) = work_and_precious();
        ladder(&work, "d", 40);
        let mut removal = Removal {
            directory: &work,
            parent: openat(CWD, work.parent().unwrap(), directory::FLAGS, Mode::empty()).unwrap(),
            name: c"work".to_owned(),
            levels: Vec::new(),
            path: Vec::new(),
            first_error: None,
        };
        removal.begin();
        while removal.levels.len() < 40 {
            assert!(removal.step().is_ok());
        }
        // What is above is not emptied yet: its own directory, and perhaps its file, are in it.
        fs::rename(work.join("d/d/d"), precious.join("d")).unwrap();
        let mut end = Ok(());
        while end.is_ok() && !removal.levels.is_empty() {
            end = removal.step();
            let open = removal.levels.iter().filter(|level| level.dir.is_some()).count();
            assert!(open <= OPEN_LEVELS);
        }
        assert!(end.is_err(), "it did not notice");
        must_be_whole(&precious);
        removal.levels.clear();
        removal.path.clear();
        removal.run().unwrap();
        must_be_gone(&work);
        must_be_whole(&precious);
        assert!(precious.join("d").is_dir());
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_all_the_time_does_not_lead_away() {
        let (home, work, precious) = work_and_precious();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for _ in 0..200 {
            fs::create_dir_all(work.join("a/b/c")).unwrap();
            fs::create_dir_all(work.join("d/e/f")).unwrap();
            let swapper = {
                let (work, precious, outside) = (work.clone(), precious.clone(), outside.join("a"));
                thread::spawn(move || {
                    while work.is_dir() {
                        let _ = fs::rename(work.join("a"), &outside);
                        let _ = symlink(&precious, work.join("a"));
                        thread::yield_now();
                        let _ = fs::remove_file(work.join("a"));
                        let _ = fs::rename(&outside, work.join("a"));
                    }
                })
            };
            // It may have been filled again in the end.
            while remove_tree(&work).is_err() {}
            swapper.join().unwrap();
            remove_tree(&work).unwrap();
            remove_tree(&outside.join("a")).unwrap();
            must_be_whole(&precious);
        }
    }

    #[test]
    fn a_directory_that_is_filled_all_the_time_is_not_removed_for_ever() {
        let (_home, work, _) = work_and_precious();
        let target = work.join("a");
        fs::create_dir(&target).unwrap();
        let filler = {
            let target = target.clone();
            thread::spawn(move || (0..1_000_000).find(|n| File::create(target.join(n.to_string())).is_err()))
        };
        let end = remove_tree(&work);
        assert!(
            end.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty, |()| true),
            "{end:?}"
        );
        while target.exists() {
            let _ = remove_tree(&work);
        }
        filler.join().unwrap();
        remove_tree(&work).unwrap();
        must_be_gone(&work);
    }

    #[test]
    fn a_few_passes_are_enough_for_what_appears_meanwhile() {
        let (_home, work, _) = work_and_precious();
        let filled = work.join("a");
        fs::create_dir(&filled).unwrap();
        fs::write(filled.join("first"), "").unwrap();
        let parent = openat(CWD, work.parent().unwrap(), directory::FLAGS, Mode::empty()).unwrap();
        let mut removal = Removal {
            directory: &work,
            parent,
            name: c"work".to_owned(),
            levels: Vec::new(),
            path: Vec::new(),
            first_error: None,
        };
        removal.begin();
        let mut passes = 0;
        while !removal.levels.is_empty() {
            // Each time just before its removal, after all has been read.
            if let [_, level] = removal.levels.as_slice() {
                passes = passes.max(level.passes);
                if level.passes < 5 {
                    fs::write(filled.join(format!("pass-{}", level.passes)), "").unwrap();
                }
            }
            assert!(removal.step().is_ok());
        }
        assert!((1..=5).contains(&passes), "{passes}");
        assert!(removal.first_error.is_none(), "{:?}", removal.first_error);
        must_be_gone(&work);
    }

    #[test]
    fn all_is_removed_but_what_cannot_be_and_the_error_names_that() {
        let (_home, work, _) = work_and_precious();
        fs::create_dir_all(work.join("a/closed/sub")).unwrap();
        for file in ["a/1", "a/fixed", "a/closed/sub/file", "b"] {
            fs::write(work.join(file), "").unwrap();
        }
        let chattr = |change: &str, path: &str| {
            Command::new("chattr").arg(change).arg(work.join(path)).output().is_ok_and(|o| o.status.success())
        };
        if !chattr("+i", "a/fixed") {
            return println!("skipped: no file can be made immutable here");
        }
        assert!(chattr("+i", "a/closed"));
        let error = remove_tree(&work).unwrap_err();
        let left = [work.join("a/fixed"), work.join("a/closed/sub")].map(|path| path.exists());
        let others = ["a/1", "a/closed/sub/file", "b"].map(|path| work.join(path).exists());
        assert!(chattr("-i", "a/fixed") && chattr("-i", "a/closed"));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let text = error.to_string();
        let named = ["a/fixed: ", "a/closed: ", "a/closed/sub: "];
        assert!(named.iter().any(|path| text.starts_with(&format!("{}/{path}", work.display()))), "{text}");
        assert_eq!((left, others), ([true; 2], [false; 3]));
        remove_tree(&work).unwrap();
        must_be_gone(&work);
    }

    #[test]
    fn a_long_path_is_cut_in_the_middle() {
        assert_eq!(shown(b"a/\xff"), Path::new(OsStr::from_bytes(b"a/\xff")));
        let long = [b"first/".as_slice(), &b"x/".repeat(100_000), b"last"].concat();
        let cut = shown(&long).to_string_lossy().into_owned();
        assert!(cut.starts_with("first/x/") && cut.ends_with("/x/last") && cut.len() < 1100, "{cut}");
    }

    /// Runs a test below in a process of its own, through this command, with `work` in its working directory.
    /// What it cannot be permitted here is skipped.
    fn in_a_process(test: &str, home: &Path, wrapper: &str) -> bool {
        // This program may lie where another user cannot reach it.
        let program = home.join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let script = format!("{wrapper} \"$0\" --exact data::remove::tests::{test} --ignored --nocapture");
        let output =
            Command::new("sh").arg("-c").arg(script).arg(&program).current_dir(home).output().unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !told[0].contains("running 1 test") {
            println!("skipped: {wrapper}: {}", told[1]);
            return false;
        }
        assert!(output.status.success() && told[0].contains("1 passed"), "{}\n{}", told[0], told[1]);
        true
    }

    #[test]
    fn closed_directories_are_opened_by_a_user_who_is_not_root() {
        let (home, work, precious) = work_and_precious();
        mode(home.path(), 0o777);
        fs::remove_dir(&work).unwrap();
        mode(&precious, 0o777);
        mode(&precious.join("sub"), 0o555);
        let user = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        if in_a_process("removes_closed_directories", home.path(), user) {
            must_be_gone(&work);
        }
        // Whoever we are.
        if in_a_process("removes_closed_directories", home.path(), "") {
            must_be_gone(&work);
        }
        must_be_whole(&precious);
        assert_eq!(fs::metadata(precious.join("sub")).unwrap().permissions().mode() & 0o777, 0o555);
    }

    #[test]
    #[ignore = "by closed_directories_are_opened_by_a_user_who_is_not_root"]
    fn removes_closed_directories() {
        let work = Path::new("work");
        for closed in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600] {
            for name in ["one", "two/closed/in/the/middle"] {
                fs::create_dir_all(work.join(name).join("sub/empty")).unwrap();
                fs::write(work.join(name).join("sub/file"), "").unwrap();
                fs::write(work.join(name).join("file"), "").unwrap();
            }
            // What a change of mode could be led to: a link in the place of a closed directory.
            symlink("../../precious/sub", work.join("one/link")).unwrap();
            mode(&work.join("one/sub/empty"), closed);
            mode(&work.join("one/sub"), closed);
            mode(&work.join("two/closed/in"), closed);
            mode(&work.join("two/closed"), closed);
            mode(work, closed);
            remove_tree(work).unwrap();
            must_be_gone(work);
        }
        fs::create_dir_all(work).unwrap();
        ladder(work, "d", 40);
        for depth in [39, 30, 20, 12, 3, 1] {
            mode(&work.join("d/".repeat(depth)), 0);
        }
        mode(work, 0);
        remove_tree(work).unwrap();
        must_be_gone(work);
    }

    #[test]
    fn a_deep_tree_needs_few_descriptors() {
        let (home, work, precious) = work_and_precious();
        ladder(&work, &"long".repeat(25), 4_200);
        assert!(in_a_process("removes_with_few_descriptors", home.path(), "ulimit -n 24; ulimit -s 1024;"));
        must_be_gone(&work);
        must_be_whole(&precious);
    }

    #[test]
    #[ignore = "by a_deep_tree_needs_few_descriptors"]
    fn removes_with_few_descriptors() {
        remove_tree(Path::new("work")).unwrap();
    }

    #[test]
    fn what_is_mounted_in_there_stays() {
        let (home, work, precious) = work_and_precious();
        let inside = work.join("a/b");
        for name in ["same", "other", "empty", "none/file"] {
            fs::create_dir_all(inside.join(name)).unwrap();
        }
        fs::write(inside.join("bound"), "").unwrap();
        let mounts = "mount --bind precious work/a/b/same && mount --bind precious/file work/a/b/bound && \
                      mount -t tmpfs none work/a/b/other && mount -t tmpfs none work/a/b/empty && \
                      touch work/a/b/other/file &&";
        if in_a_process(
            "leaves_mounts",
            home.path(),
            &format!("exec unshare -m sh -c '{mounts} exec \"$@\"' sh"),
        ) {
            must_be_whole(&precious);
            assert!(!inside.join("none").exists());
            remove_tree(&work).unwrap();
            must_be_gone(&work);
        }
        fs::create_dir_all(&work).unwrap();
        let mounts = "mount --bind precious work &&";
        in_a_process(
            "leaves_mounts",
            home.path(),
            &format!("exec unshare -m sh -c '{mounts} exec \"$@\"' sh"),
        );
        must_be_whole(&precious);
    }

    #[test]
    #[ignore = "by what_is_mounted_in_there_stays"]
    fn leaves_mounts() {
        let error = remove_tree(Path::new("work")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
        assert!(error.to_string().starts_with("work"), "{error}");
        must_be_whole(Path::new("precious"));
        assert!(Path::new("work/file").exists() || Path::new("work/a/b/other/file").exists());
    }
}
