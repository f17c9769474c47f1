//! MAX_DISK: looks once a second how much the directories of running payloads take that have such a limit, and ends those that take too
//! much. A look, not a quota: what is written between two looks is seen at the next. What a payload has closed to its own user stays closed
//! while it runs: it does not count, and the log says so.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, openat, statat};
use rustix::io::Errno;

use crate::data::directory::{self, Id};
use crate::data::temporary;
use crate::event;
use crate::limits::{Entry, Limit, Running};
use crate::payload::PayloadId;
use crate::store::{Store, StoreError};

/// The shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Pauses are so many times as long as the look was, so that huge trees do not keep the disk busy.
const PAUSE_FACTOR: u32 = 10;

/// `st_blocks` counts these, whatever the file system's own blocks are (inode(7)).
const BLOCK_BYTES: u64 = 512;

/// Starts the thread, which sleeps as long as no payload runs that has such a limit. `end` ends a payload that is marked as killed.
pub fn start(store: Store, running: Running, end: impl Fn(PayloadId) + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("disk-use".to_owned()).spawn(move || {
        let mut told = BTreeSet::new();
        loop {
            let entries = running.wait_for(|entry| entry.grant.get(Limit::Disk).is_some());
            let begun = Instant::now();
            if let Err(error) = look(&store, &entries, &end, &mut told) {
                event!(Error, "cannot look for payloads over MAX_DISK", error = error.to_string());
            }
            thread::sleep(PAUSE.max(begun.elapsed() * PAUSE_FACTOR));
        }
    })?;
    Ok(())
}

/// `told` are the running payloads of which the log says already that they have closed something.
fn look(
    store: &Store,
    running: &[Entry],
    end: &impl Fn(PayloadId),
    told: &mut BTreeSet<PayloadId>,
) -> Result<(), StoreError> {
    told.retain(|id| running.iter().any(|payload| payload.id == *id));
    for payload in running {
        let Some(max_disk) = payload.grant.get(Limit::Disk) else { continue };
        let mut used = Use::default();
        // What cannot be read for another reason is somebody else's error.
        for place in [&*payload.directory, &temporary::path_of(&payload.directory)] {
            if let Err(Errno::ACCESS) = used.count(place, max_disk) {
                used.is_closed = true;
            }
        }
        if used.is_closed && told.insert(payload.id) {
            event!(
                Warn,
                "MAX_DISK does not count what a payload has closed to the client (chmod)",
                payload = payload.id,
                directory = payload.directory.display()
            );
        }
        let is_new = || store.get(payload.id).map(|now| now.is_some_and(|now| !now.killed));
        if used.bytes > max_disk && is_new()? {
            let reason = Limit::Disk.reason(max_disk);
            store.kill(payload.id, &reason)?;
            end(payload.id);
            event!(Warn, "payload is ended", payload = payload.id, reason = reason);
        }
    }
    Ok(())
}

/// What a directory and all below it take on the disk.
#[derive(Default)]
struct Use {
    bytes: u64,
    /// There is more, which cannot be looked at.
    is_closed: bool,
}

impl Use {
    /// Adds a directory and all below it; stops counting above `enough`. Follows no link, has one directory open whatever the
    /// depth, and remembers only the names of directories that it has yet to see.
    fn count(&mut self, top: &Path, enough: u64) -> Result<(), Errno> {
        let mut at = openat(CWD, top, directory::FLAGS, Mode::empty())?;
        // The directories above the current one, to know them again, and what is still to see in each.
        let mut above: Vec<(Id, Vec<CString>)> = Vec::new();
        let mut below = self.count_entries(&at)?;
        while self.bytes <= enough {
            if let Some(name) = below.pop() {
                let child = match openat(&at, &*name, directory::FLAGS, Mode::empty()) {
                    Ok(child) => child,
                    Err(errno) => {
                        self.is_closed |= errno == Errno::ACCESS;
                        continue;
                    }
                };
                above.push((directory::id_of(&at)?, below));
                at = child;
                below = self.count_entries(&at)?;
            } else {
                let Some((expected, names)) = above.pop() else { break };
                // Moved meanwhile is an error; the next look finds it.
                at = directory::open_same(at.as_fd(), c"..", expected)?;
                below = names;
            }
        }
        Ok(())
    }

    /// Adds the entries of one directory. Gives the names of the directories among them.
    fn count_entries(&mut self, directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let mut directories = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(errno) => {
                    // Gone meanwhile is as good as not there.
                    self.is_closed |= errno == Errno::ACCESS;
                    continue;
                }
            };
            let bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                self.bytes += bytes;
                directories.push(name.to_owned());
            } else {
                // One of several names of a file counts for its part.
                #[allow(clippy::useless_conversion)] // 32 bits on some machines
                let names = u64::from(stat.st_nlink).max(1);
                self.bytes += bytes / names;
            }
        }
        Ok(directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn bytes_below(top: &Path, enough: u64) -> Result<u64, Errno> {
        let mut used = Use::default();
        used.count(top, enough).map(|()| used.bytes)
    }

    #[test]
    fn what_is_on_the_disk_counts_once_at_any_depth_and_links_lead_nowhere() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut deep = home.path().to_owned();
        for _ in 0..200 {
            deep.push("deep");
        }
        fs::create_dir_all(&deep).expect("made");
        let empty = bytes_below(home.path(), u64::MAX).expect("readable");
        fs::write(deep.join("file"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(deep.join("file"), home.path().join("again")).expect("linked");
        std::os::unix::fs::symlink("/", home.path().join("out")).expect("linked");
        fs::File::create(home.path().join("hole")).and_then(|file| file.set_len(1 << 40)).expect("made");
        let full = bytes_below(home.path(), u64::MAX).expect("readable");
        let grown = full - empty;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&grown), "{grown}");
        assert!(bytes_below(home.path(), 0).expect("readable") < full, "it counts no further than it has to");
    }
}
