//! A tree of any names, links and times, made for real, archived, and read back by another reader. Every entry must be
//! there, once, as it is on the disk; what cannot be archived must be told.
//!
//! The input is a script of operations, each a word and arguments, all ended by NUL, which no name can hold:
//! `f` *path* *content*, `x` the same but executable, `d` *path*, `l` *path* *target*, `p` *path* (a pipe), and
//! `t` *path* *seconds since 1970*. What the file system does not take is left out of the expectation, too.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use fuzz::archive;
use fuzz::place::{clear, place};
use fuzz::script;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, mkdirat, mknodat, openat, symlinkat,
    utimensat,
};
use rustix::io::Errno;
use zip::ZipArchive;

/// More would test the kernel.
const MOST_OPERATIONS: usize = 64;

/// ZIP names may have 65,535 bytes: 300 levels of 255 bytes are beyond that.
const MOST_LEVELS: usize = 300;

/// The list of what was left out, which no payload can put there.
const SKIPPED: &[u8] = b".orchestrator.skipped";

/// What may stand in the place of a longer name.
const MOST_NAME_BYTES: usize = 65_535;

fuzz_target!(|input: &[u8]| {
    let script = script::pieces(input).concat();
    let place = place("archive_names");
    let directory = place.join("tree");
    remove(&directory);
    mkdirat(CWD, &directory, Mode::from_raw_mode(0o755)).expect("a directory");
    let nodes = make(&directory, &script);
    let mut bytes = Vec::new();
    let threads = 1 + input.len() % 3;
    let summary = archive::write_zip(&directory, place, threads, true, None, &mut bytes)
        .expect("nothing is in the way of an archive");
    assert_eq!(summary.output_bytes, bytes.len() as u64);
    let found = read_back(&bytes, summary.entries);
    check(nodes, found, &summary);
});

/// What stands under a path. Directories have a `/` at the end of theirs, as in a ZIP.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    kind: FileType,
    executable: bool,
    /// Or the target of a link.
    content: Vec<u8>,
    /// Seconds since 1970, where they were set.
    mtime_s: Option<i64>,
}

type Nodes = BTreeMap<Vec<u8>, Node>;

// --- making

fn make(root: &Path, script: &[u8]) -> Nodes {
    let mut nodes = Nodes::new();
    let mut words = script.split(|byte| *byte == 0);
    for _ in 0..MOST_OPERATIONS {
        let (Some(kind), Some(path)) = (words.next(), words.next()) else { break };
        let mut argument = || words.next().unwrap_or_default().to_vec();
        let done = match kind {
            b"f" => file(root, &mut nodes, path, argument(), false),
            b"x" => file(root, &mut nodes, path, argument(), true),
            b"d" => directories(root, &mut nodes, path).map(drop),
            b"l" => link(root, &mut nodes, path, argument()),
            b"p" => pipe(root, &mut nodes, path),
            b"t" => time(root, &mut nodes, path, &argument()),
            _ => Ok(()),
        };
        // The names are the fuzzer's: most errors are theirs.
        if let Err(error) = done {
            assert_ne!(error, Errno::NOSPC);
        }
    }
    nodes
}

/// Makes the directories of a path, component by component: paths may be longer than a system call takes, and no link among
/// them is followed. Gives the last one.
fn directories(root: &Path, nodes: &mut Nodes, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(CWD, root, flags, Mode::empty())?;
    let mut name = Vec::new();
    for component in path.split(|byte| *byte == b'/').filter(|component| is_name(component)).take(MOST_LEVELS)
    {
        name.extend_from_slice(component);
        name.push(b'/');
        match mkdirat(&at, component, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                nodes.insert(name.clone(), node(FileType::Directory, false, Vec::new()));
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = openat(&at, component, flags, Mode::empty())?;
    }
    Ok(at)
}

fn is_name(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..")
}

fn node(kind: FileType, executable: bool, content: Vec<u8>) -> Node {
    Node { kind, executable, content, mtime_s: None }
}

/// The directory that a path lies in, its last component, and the path without what makes no difference.
fn parent<'p>(root: &Path, nodes: &mut Nodes, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8], Vec<u8>), Errno> {
    let mut components: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| is_name(name)).collect();
    components.truncate(MOST_LEVELS);
    let last = components.pop().ok_or(Errno::INVAL)?;
    let mut above = components.join(&b'/');
    let at = directories(root, nodes, &above)?;
    if !above.is_empty() {
        above.push(b'/');
    }
    above.extend_from_slice(last);
    Ok((at, last, above))
}

fn file(
    root: &Path,
    nodes: &mut Nodes,
    path: &[u8],
    content: Vec<u8>,
    executable: bool,
) -> Result<(), Errno> {
    let (at, last, path) = parent(root, nodes, path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let mut file = std::fs::File::from(openat(&at, last, flags, mode)?);
    std::io::Write::write_all(&mut file, &content).expect("space for small files");
    nodes.insert(path, node(FileType::RegularFile, executable, content));
    Ok(())
}

fn link(root: &Path, nodes: &mut Nodes, path: &[u8], target: Vec<u8>) -> Result<(), Errno> {
    let (at, last, path) = parent(root, nodes, path)?;
    symlinkat(target.as_slice(), &at, last)?;
    nodes.insert(path, node(FileType::Symlink, false, target));
    Ok(())
}

fn pipe(root: &Path, nodes: &mut Nodes, path: &[u8]) -> Result<(), Errno> {
    let (at, last, path) = parent(root, nodes, path)?;
    mknodat(&at, last, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    nodes.insert(path, node(FileType::Fifo, false, Vec::new()));
    Ok(())
}

fn time(root: &Path, nodes: &mut Nodes, path: &[u8], seconds: &[u8]) -> Result<(), Errno> {
    let seconds: i64 =
        std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok()).ok_or(Errno::INVAL)?;
    let (at, last, mut path) = parent(root, nodes, path)?;
    if !nodes.contains_key(&path) {
        path.push(b'/');
    }
    let node = nodes.get_mut(&path).ok_or(Errno::NOENT)?;
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(&at, last, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    // What is made in a directory later changes its time again; and a file system may clamp what it is given.
    node.mtime_s = (node.kind != FileType::Directory && i32::try_from(seconds).is_ok()).then_some(seconds);
    Ok(())
}

/// Also trees whose paths are longer than a system call takes.
fn remove(directory: &Path) {
    if directory.exists() && std::fs::remove_dir_all(directory).is_err() {
        let removed = Command::new("rm").arg("-rf").arg(directory).status();
        assert!(removed.is_ok_and(|status| status.success()));
    }
    clear(directory);
}

// --- reading back

fn read_back(bytes: &[u8], entries: u64) -> Nodes {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).expect("an archive");
    let mut nodes = Nodes::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        let mode = entry.unix_mode().expect("a mode");
        let mtime_s = entry.extra_data_fields().find_map(|field| match field {
            zip::ExtraField::ExtendedTimestamp(times) => times.mod_time(),
            _ => None,
        });
        // The reading verifies the CRC.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("all of an entry");
        assert_eq!(entry.size(), content.len() as u64);
        let name = entry.name_raw().to_vec();
        let node = Node {
            kind: FileType::from_raw_mode(mode),
            executable: mode & 0o7777 == 0o755 && FileType::from_raw_mode(mode) == FileType::RegularFile,
            content,
            mtime_s: mtime_s.map(i64::from),
        };
        // This reader takes a backslash for a separator, too.
        assert_eq!(entry.is_dir(), node.kind == FileType::Directory || name.ends_with(b"\\"));
        assert_eq!(entry.is_symlink(), node.kind == FileType::Symlink);
        let twice = nodes.insert(name, node);
        assert!(twice.is_none(), "an entry is there twice");
    }
    assert_eq!(nodes.len() as u64, entries, "another number of entries than reported");
    nodes
}

// --- the judgement

/// What a name is called in an archive: in UTF-8.
fn told_as(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|byte| *byte == b'/').map(|part| {
        if std::str::from_utf8(part).is_ok() {
            return part.to_vec();
        }
        let mut escaped = Vec::new();
        for chunk in part.utf8_chunks() {
            escaped.extend(chunk.valid().replace('%', "%25").into_bytes());
            escaped.extend(chunk.invalid().iter().flat_map(|byte| format!("%{byte:02X}").into_bytes()));
        }
        escaped
    });
    parts.collect::<Vec<_>>().join(&b'/')
}

fn check(mut expected: Nodes, mut found: Nodes, summary: &archive::Summary) {
    let all: BTreeSet<Vec<u8>> = expected.keys().cloned().collect();
    // Left out, and told.
    let is_reserved = |name: &[u8]| {
        name.strip_prefix(SKIPPED).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    // Of two that would have one name in UTF-8, the one that has it takes it, and what is below the other is not looked at.
    let is_taken = |name: &[u8]| {
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([name.len()]).any(|end| {
            let path = &name[..end];
            let (above, last) =
                path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1));
            let other = [above, &*told_as(last)].concat();
            !last.is_empty()
                && other != path
                && [other.clone(), [&*other, b"/"].concat()].iter().any(|other| all.contains(other))
        })
    };
    let is_told = |name: &[u8], node: &Node| {
        node.kind == FileType::Fifo
            || is_reserved(name)
            || told_as(name).len() > MOST_NAME_BYTES
            || is_taken(name)
    };
    let told = expected.iter().filter(|(name, node)| is_told(name, node)).count();
    // Of a directory whose name is too long nothing below is looked at.
    assert!(
        summary.skipped_total <= told as u64,
        "{} are skipped: {:?}",
        summary.skipped_total,
        summary.skipped
    );
    assert_eq!(summary.skipped_total == 0, told == 0, "{told} should be told: {:?}", summary.skipped);
    expected.retain(|name, node| !is_told(name, node));
    let expected: Nodes = expected.into_iter().map(|(name, node)| (told_as(&name), node)).collect();

    let list = found.remove(SKIPPED);
    assert_eq!(list.is_some(), summary.skipped_total > 0);
    if let Some(list) = list {
        let text = String::from_utf8(list.content).expect("a list in UTF-8");
        assert_eq!(text.lines().count() as u64, summary.skipped_total);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    for (name, node) in &expected {
        let Some(mut other) = found.remove(name) else { panic!("{name:?} is missing") };
        if node.mtime_s.is_none() {
            other.mtime_s = None;
        }
        let node = Node { mtime_s: node.mtime_s.map(|seconds| seconds.max(0)), ..node.clone() };
        assert!(node == other, "{name:?} is {other:?} and should be {node:?}");
    }
    assert!(found.is_empty(), "nobody put these there: {:?}", found.keys());
    let bytes: usize = expected
        .values()
        .filter(|node| node.kind == FileType::RegularFile)
        .map(|node| node.content.len())
        .sum();
    assert_eq!(summary.input_bytes, bytes as u64);
}
