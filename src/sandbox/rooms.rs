//! Rooms: what a payload sees of the file system, as mounts in a mount namespace of its own. Made from the table, for each payload.
//! A place of which the table says nothing is as it was, and read-only. Nothing here makes a mount.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::sandbox::table::{Access, Table};
use crate::sys::{Call, Text};

/// Which devices may be opened is left to their modes here; Landlock's rules have the table's rows for them.
const DEVICES: &str = "/dev";

const PROCESSES: &str = "/proc";

/// MOUNT_ATTR_RDONLY and MOUNT_ATTR_NOSUID (mount_setattr(2)).
const READ_ONLY: u64 = 1;
const NO_SETUID: u64 = 2;

/// Enough for the directories that lead to what is put back.
const HIDDEN_OPTIONS: &std::ffi::CStr = c"size=64k,mode=755";

/// What covers directories and files, in the directory that hides DATA_PATH.
const EMPTY: &str = ".empty";
const CLOSED: &str = ".closed";

/// What becomes of a place.
#[derive(Clone, Debug, PartialEq)]
enum Cover {
    /// An empty directory.
    Empty,
    /// An empty file that nobody may open.
    Closed,
    /// What is at this path, to be read.
    Read(PathBuf),
    /// What is at this path, to be written too.
    Write(PathBuf),
}

/// What is the same for all payloads.
#[derive(Clone, Debug)]
pub struct Rooms {
    covers: BTreeMap<PathBuf, Cover>,
    /// Where a payload finds its directory for temporary files.
    temporary: Vec<PathBuf>,
}

impl Rooms {
    /// For this table.
    pub fn new(table: &Table) -> Self {
        let mut temporary = Vec::new();
        let mut covers: BTreeMap<PathBuf, Cover> = BTreeMap::new();
        for entry in table.entries() {
            let place = &entry.place;
            let is_elsewhere = place.starts_with(DEVICES) || place.starts_with(PROCESSES);
            if is_elsewhere && !matches!(entry.access, Access::Private | Access::Write) {
                continue;
            }
            // Places come before what is below them.
            let above = above(&covers, place);
            let is_private = temporary.iter().any(|private| {
                place.starts_with(private) && !above.is_some_and(|(nearer, _)| nearer.starts_with(private))
            });
            let is_hidden = matches!(above, Some((_, Cover::Empty | Cover::Closed)));
            let is_covered = above.is_some() || is_private;
            let cover = match entry.access {
                Access::Private => {
                    temporary.push(place.clone());
                    continue;
                }
                Access::Nothing if is_hidden => continue,
                Access::Nothing if place.is_dir() => Cover::Empty,
                // A file is not in the payload's own directory, and there would be nothing to cover.
                Access::Nothing if is_private => continue,
                Access::Nothing => Cover::Closed,
                Access::Write => Cover::Write(place.clone()),
                // All is read-only that is not covered.
                _ if !is_covered => continue,
                _ => Cover::Read(place.clone()),
            };
            covers.insert(place.clone(), cover);
        }
        // The shortest is the usual one.
        temporary.sort_by_key(|place: &PathBuf| place.as_os_str().len());
        Self { covers, temporary }
    }

    /// Where the payload `directory` finds its temporary files, which the client has at `outside`.
    pub fn temporary<'p>(&'p self, outside: &'p Path) -> &'p Path {
        self.temporary.first().map_or(outside, PathBuf::as_path)
    }

    /// The steps to a room for the payload in `directory`, with this directory for its temporary files.
    pub fn calls(&self, directory: &Path, temporary: &Path) -> Vec<Call> {
        let mut covers = self.covers.clone();
        covers.insert(directory.to_owned(), Cover::Write(directory.to_owned()));
        let inside = if self.temporary.is_empty() { &[temporary.to_owned()][..] } else { &self.temporary };
        covers.extend(inside.iter().map(|place| (place.clone(), Cover::Write(temporary.to_owned()))));
        steps(&covers, directory.parent().unwrap_or(directory))
    }
}

/// The steps to a mount namespace with these covers, of which one is that of DATA_PATH.
fn steps(covers: &BTreeMap<PathBuf, Cover>, data_path: &Path) -> Vec<Call> {
    let mut calls = vec![
        Call::Unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC),
        mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None),
    ];
    open(&mut calls, covers, |cover| match cover {
        Cover::Write(from) => Some(from),
        _ => None,
    });
    calls.push(set_attributes(Path::new("/"), READ_ONLY | NO_SETUID, true));
    // Read-only by now.
    open(&mut calls, covers, |cover| match cover {
        Cover::Read(from) => Some(from),
        _ => None,
    });
    let is_last = |place, cover: &Cover| match cover {
        Cover::Closed => true,
        Cover::Empty => !leads_on(covers, place),
        Cover::Read(_) | Cover::Write(_) => false,
    };
    for (number, (place, cover)) in
        covers.iter().enumerate().filter(|(_, (place, cover))| !is_last(place, cover))
    {
        make_way(&mut calls, covers, place, cover);
        calls.push(if *cover == Cover::Empty {
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            mount(Some(c"tmpfs"), place, Some(c"tmpfs"), flags, Some(HIDDEN_OPTIONS))
        } else {
            Call::MoveMount { tree: number, target: text(place) }
        });
    }
    // What hides most places is the same empty directory: a file system for each would take longer.
    let (empty, closed) = (data_path.join(EMPTY), data_path.join(CLOSED));
    calls.push(Call::MakeDirectory { path: text(&empty), mode: Mode::from_raw_mode(0o555) });
    calls.push(Call::MakeFile { path: text(&closed), mode: Mode::empty() });
    let opened = covers.iter().filter(|(place, cover)| **cover == Cover::Empty && !is_last(place, cover));
    calls.extend(opened.map(|(place, _)| set_attributes(place, READ_ONLY, false)));
    for (number, (place, cover)) in
        covers.iter().enumerate().filter(|(_, (place, cover))| is_last(place, cover))
    {
        let from = if *cover == Cover::Empty { &empty } else { &closed };
        calls.push(Call::OpenTree { path: text(from), tree: number });
        calls.push(Call::MoveMount { tree: number, target: text(place) });
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    calls.push(mount(Some(c"proc"), Path::new(PROCESSES), Some(c"proc"), flags, None));
    calls
}

/// Steps of every kind that a room takes, with this directory, to see whether the host permits them.
pub fn trial(data_path: &Path) -> Vec<Call> {
    let inside = data_path.join("trial");
    let covers = [(data_path.to_owned(), Cover::Empty), (inside, Cover::Write(data_path.to_owned()))];
    steps(&BTreeMap::from(covers), data_path)
}

/// The cover that a place lies in, if any does.
fn above<'c>(covers: &'c BTreeMap<PathBuf, Cover>, place: &Path) -> Option<(&'c Path, &'c Cover)> {
    place
        .ancestors()
        .skip(1)
        .find_map(|above| covers.get_key_value(above))
        .map(|(above, cover)| (&**above, cover))
}

/// Whether something else is put below a place.
fn leads_on(covers: &BTreeMap<PathBuf, Cover>, place: &Path) -> bool {
    covers.keys().any(|other| other != place && other.starts_with(place))
}

/// Takes hold of what `from` gives of covers, by their numbers.
fn open<'c>(
    calls: &mut Vec<Call>,
    covers: &'c BTreeMap<PathBuf, Cover>,
    from: impl Fn(&'c Cover) -> Option<&'c Path>,
) {
    let found = covers.values().enumerate().filter_map(|(tree, cover)| Some((tree, from(cover)?)));
    calls.extend(found.map(|(tree, path)| Call::OpenTree { path: text(path), tree }));
}

/// What a cover is put on has to be there, in the cover above it.
fn make_way(calls: &mut Vec<Call>, covers: &BTreeMap<PathBuf, Cover>, place: &Path, cover: &Cover) {
    let Some((above, _)) = above(covers, place) else { return };
    let mut way: Vec<&Path> = place.ancestors().take_while(|part| *part != above).collect();
    way.reverse();
    let is_file = match cover {
        Cover::Empty => false,
        Cover::Closed => true,
        Cover::Read(from) | Cover::Write(from) => from.is_file(),
    };
    for part in way {
        calls.push(if is_file && part == place {
            Call::MakeFile { path: text(part), mode: Mode::RUSR }
        } else {
            Call::MakeDirectory { path: text(part), mode: Mode::from_raw_mode(0o755) }
        });
    }
}

fn mount(
    source: Option<&'static std::ffi::CStr>,
    target: &Path,
    kind: Option<&'static std::ffi::CStr>,
    flags: libc::c_ulong,
    data: Option<&'static std::ffi::CStr>,
) -> Call {
    let constant = Cow::Borrowed;
    Call::Mount {
        source: source.map(constant),
        target: text(target),
        kind: kind.map(constant),
        flags,
        data: data.map(constant),
    }
}

fn set_attributes(place: &Path, set: u64, is_recursive: bool) -> Call {
    Call::SetMountAttributes { path: text(place), set, is_recursive }
}

/// A path from the kernel has no NUL in it.
fn text(path: &Path) -> Text {
    Cow::Owned(CString::new(path.as_os_str().as_bytes()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(covers: &[(&str, Cover)]) -> Rooms {
        let covers = covers.iter().map(|(place, cover)| (place.into(), cover.clone())).collect();
        Rooms { covers, temporary: vec!["/tmp".into()] }
    }

    /// What is done, in words, from the first cover on.
    fn shown(calls: &[Call]) -> Vec<String> {
        calls.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_put_back_finds_its_way_through_what_hides_it() {
        let rooms = rooms(&[("/home", Cover::Empty), ("/home/me/data", Cover::Empty)]);
        let calls =
            rooms.calls(Path::new("/home/me/data/id"), Path::new("/home/me/data/.orchestrator/tmp/id"));
        assert_eq!(
            shown(&calls),
            [
                "unshare 0x8020000",
                "mount /",
                "open_tree /home/me/data/id",
                "open_tree /home/me/data/.orchestrator/tmp/id",
                "mount_setattr /",
                "mount /home",
                "mkdir /home/me",
                "mkdir /home/me/data",
                "mount /home/me/data",
                "mkdir /home/me/data/id",
                "move_mount /home/me/data/id",
                "move_mount /tmp",
                "mkdir /home/me/data/.empty",
                "make /home/me/data/.closed",
                "mount_setattr /home",
                "mount_setattr /home/me/data",
                "mount /proc",
            ]
        );
    }

    #[test]
    fn a_data_path_in_a_place_for_temporary_files_is_put_into_the_private_one() {
        let rooms = rooms(&[("/tmp/x/data", Cover::Empty)]);
        let calls = rooms.calls(Path::new("/tmp/x/data/id"), Path::new("/tmp/x/data/.orchestrator/tmp/id"));
        let shown = shown(&calls);
        let covers = &shown[5..];
        assert_eq!(
            covers,
            [
                "move_mount /tmp",
                "mkdir /tmp/x",
                "mkdir /tmp/x/data",
                "mount /tmp/x/data",
                "mkdir /tmp/x/data/id",
                "move_mount /tmp/x/data/id",
                "mkdir /tmp/x/data/.empty",
                "make /tmp/x/data/.closed",
                "mount_setattr /tmp/x/data",
                "mount /proc",
            ]
        );
    }

    #[test]
    fn what_may_be_written_is_taken_hold_of_before_all_is_read_only() {
        let rooms = rooms(&[
            ("/home", Cover::Empty),
            ("/home/out", Cover::Write("/home/out".into())),
            ("/home/set", Cover::Read("/home/set".into())),
            ("/etc/key", Cover::Closed),
            ("/opt/data", Cover::Empty),
        ]);
        let shown = shown(&rooms.calls(Path::new("/opt/data/id"), Path::new("/opt/tmp")));
        let at = |text: &str| shown.iter().position(|call| call == text).expect(text);
        let read_only = at("mount_setattr /");
        for before in ["open_tree /home/out", "open_tree /opt/data/id", "open_tree /opt/tmp"] {
            assert!(at(before) < read_only, "{before}: {shown:?}");
        }
        for after in ["open_tree /home/set", "move_mount /etc/key"] {
            assert!(at(after) > read_only, "{after}: {shown:?}");
        }
        assert!(
            at("mount /home") < at("mkdir /home/set") && at("mkdir /home/set") < at("move_mount /home/set")
        );
    }
}
