//! Rules: the table as Landlock enforces it (landlock(7), Linux 5.13). What may be opened is kept open here, as descriptors that
//! name places; each payload gets a ruleset of its own from them, since one that is shared would grow with each start.
//!
//! A rule is about a file, not about its name: what is put anew under a name, as `/etc/passwd` is by each change, has none. So
//! a directory of which all was listed is listed again once it has changed.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::table::{self, Access, Entry, Table};
use crate::host::rlimit;
use crate::sys::landlock::{self, Handled};

/// LANDLOCK_ACCESS_FS_ bits (include/uapi/linux/landlock.h). ABI 1, Linux 5.13, if nothing else is said.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
/// Renames and links between directories: ABI 2, Linux 5.19.
const REFER: u64 = 1 << 13;
/// ABI 3, Linux 6.2.
const TRUNCATE: u64 = 1 << 14;
/// Commands to devices: ABI 5, Linux 6.10.
const IOCTL_DEV: u64 = 1 << 15;

/// Those that a rule on a file may give.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// Binding to and connecting to a port of TCP: ABI 4, Linux 6.7.
const TCP: u64 = 0b11;
const TCP_SINCE: u32 = 4;

/// Abstract sockets, and signals to who is not under the same rules: ABI 6, Linux 6.12.
const SCOPES: u64 = 0b11;

/// Since this version a payload can signal nobody but itself.
pub const SCOPES_SINCE: u32 = 6;

/// Since this version rules see truncate(2).
pub const TRUNCATE_SINCE: u32 = 3;

/// All rights to files that a version knows.
const fn files_of(version: u32) -> u64 {
    match version {
        0 => 0,
        1 => REFER - 1,
        2 => TRUNCATE - 1,
        3 | 4 => IOCTL_DEV - 1,
        5.. => (IOCTL_DEV << 1) - 1,
    }
}

/// Stands for any version with all rights to files that are known here.
const NEWEST: u32 = u32::MAX;

/// What a ruleset for a payload decides on.
pub fn handled(version: u32, has_network: bool) -> Handled {
    Handled {
        files: files_of(version),
        network: if has_network || version < TCP_SINCE { 0 } else { TCP },
        scopes: if version < SCOPES_SINCE { 0 } else { SCOPES },
    }
}

/// The rights that a row gives.
pub const fn rights(access: Access) -> u64 {
    let read = EXECUTE | READ_FILE | READ_DIR;
    match access {
        Access::Nothing | Access::Private => 0,
        Access::Read => read,
        Access::Processes => read | WRITE_FILE | TRUNCATE,
        Access::Device => READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV,
        // All but make devices; ALLOW_WRITE may name one that is there.
        Access::Write => files_of(NEWEST) & !(MAKE_CHAR | MAKE_BLOCK),
    }
}

/// The rules of this client; cheap to clone.
#[derive(Clone)]
pub struct Rules(Arc<Inner>);

struct Inner {
    version: u32,
    table: Table,
    kept: Mutex<Arc<Kept>>,
}

/// The openings of the table as they were found. Some are kept as descriptors, for which `host/rlimit` has room; the others are opened for
/// each payload. An ordinary user has few; for root, each file of /etc is one.
struct Kept {
    openings: Vec<Opening>,
    /// What was taken apart for that, as it was.
    listed: Vec<(PathBuf, State)>,
}

struct Opening {
    place: PathBuf,
    rights: u64,
    descriptor: Option<OwnedFd>,
}

/// By which a directory that was changed is known: device, inode, and the time of its last change.
type State = (u64, u64, i64, i64);

impl Rules {
    /// Rules of this version of Landlock, made from this table.
    pub fn new(version: u32, table: Table) -> Self {
        let kept = Mutex::new(Arc::new(Kept::of(&table)));
        Self(Arc::new(Inner { version, table, kept }))
    }

    /// The rights that this version has for a row.
    pub fn rights(&self, access: Access) -> u64 {
        rights(access) & files_of(self.0.version)
    }

    /// A ruleset for one payload, which may do all in its `own` directories. Asks the disk.
    pub fn ruleset(&self, own: &[&Path], has_network: bool) -> io::Result<OwnedFd> {
        let handled = handled(self.0.version, has_network);
        let ruleset = landlock::create(&handled)?;
        for opening in &self.kept().openings {
            let opened = if opening.descriptor.is_none() { open_if_there(&opening.place)? } else { None };
            if let Some(place) = opening.descriptor.as_ref().or(opened.as_ref()) {
                landlock::allow(ruleset.as_fd(), place.as_fd(), opening.rights & handled.files)?;
            }
        }
        for directory in own {
            let place = open(directory)?;
            landlock::allow(ruleset.as_fd(), place.as_fd(), rights(Access::Write) & handled.files)?;
        }
        Ok(ruleset)
    }

    /// What is open, found anew where a directory has changed that was taken apart.
    fn kept(&self) -> Arc<Kept> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.listed.iter().all(|(directory, before)| state(directory).as_ref() == Some(before)) {
            *kept = Arc::new(Kept::of(&self.0.table));
        }
        Arc::clone(&kept)
    }
}

impl Kept {
    fn of(table: &Table) -> Self {
        let mut listed = Vec::new();
        let openings = table.openings(&mut |directory| {
            // Before the look: what changes meanwhile is seen by the next one.
            listed.extend(state(directory).map(|state| (directory.to_owned(), state)));
            table::list(directory).unwrap_or_default()
        });
        let most_kept = rlimit::places_now();
        let openings = openings.into_iter().enumerate().filter_map(|(number, Entry { place, access })| {
            // It may have gone since.
            let is_directory = place.symlink_metadata().ok()?.is_dir();
            let rights = rights(access) & if is_directory { u64::MAX } else { OF_FILES };
            let descriptor = if number < most_kept { open(&place).ok() } else { None };
            Some(Opening { place, rights, descriptor })
        });
        Self { openings: openings.collect(), listed }
    }
}

fn open(place: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(place, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// What has gone since, or is closed to this user, needs no rule.
fn open_if_there(place: &Path) -> io::Result<Option<OwnedFd>> {
    match open(place) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
        opened => opened.map(Some),
    }
}

fn state(directory: &Path) -> Option<State> {
    let found = directory.symlink_metadata().ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_version_handles_what_it_knows_and_nothing_else() {
        for (version, files) in [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (7, 0xFFFF)]
        {
            assert_eq!(handled(version, true).files, files, "{version}");
        }
        assert_eq!([3, 4, 7].map(|version| handled(version, false).network), [0, 3, 3]);
        assert_eq!(handled(7, true).network, 0);
        assert_eq!([5, 6, 7].map(|version| handled(version, true).scopes), [0, 3, 3]);
    }

    #[test]
    fn nobody_makes_devices() {
        for access in [Access::Read, Access::Device, Access::Processes, Access::Write] {
            assert_eq!(rights(access) & (MAKE_CHAR | MAKE_BLOCK), 0, "{access:?}");
            assert_ne!(rights(access) & files_of(1), 0, "{access:?}: a rule of no rights is an error");
        }
    }

    #[test]
    fn what_was_taken_apart_is_found_anew_once_it_has_changed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = directory.path().canonicalize().expect("there");
        for name in ["data", "first"] {
            fs::create_dir(place.join(name)).expect("made");
        }
        let table = Table::new(&table::Facts {
            data_path: place.join("data"),
            own_files: Vec::new(),
            allow_read: vec![place.clone()],
            allow_write: Vec::new(),
            user: table::User { uid: 1, gids: Vec::new() },
            temporary: table::Temporary::Closed,
        });
        let rules = Rules::new(1, table);
        let found = || {
            let kept = rules.kept();
            let own = kept.openings.iter().filter(|opening| opening.place.starts_with(&place));
            own.map(|opening| opening.place.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found(), [place.join("first")]);
        let before = rules.kept();
        assert!(Arc::ptr_eq(&before, &rules.kept()), "nothing has changed");
        fs::write(place.join("second"), "").expect("written");
        let mut now = found();
        now.sort();
        assert_eq!(now, [place.join("first"), place.join("second")]);
    }
}
