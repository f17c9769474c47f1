//! Tests of whole archives: real directories in, archives read back by rawzip, Info-ZIP and Python.
//! Races that need a hand in the middle of a walk or of a file are tested beside `walk` and `content`.

#![allow(clippy::unwrap_used)]

use super::*;
use rawzip::ZipArchive;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mkdirat, mknodat, utimensat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::UNIX_EPOCH;
use tempfile::{TempDir, tempdir};

/// One entry as rawzip reads it back, CRC and sizes verified.
#[derive(PartialEq)]
pub(super) struct Entry {
    pub mode: u32,
    pub mtime_s: i64,
    pub utf8: bool,
    pub method: CompressionMethod,
    pub data: Vec<u8>,
}

pub(super) fn read_back(zip: &[u8]) -> BTreeMap<Vec<u8>, Entry> {
    let archive = ZipArchive::from_slice(zip).unwrap();
    let mut entries = archive.entries();
    let mut all = BTreeMap::new();
    while let Some(record) = entries.next_entry().unwrap() {
        let local = archive.get_entry(record.wayfinder()).unwrap();
        assert_eq!(local.local_header().file_path().as_bytes(), record.file_path().as_bytes());
        assert_eq!(local.local_header().flags(), record.flags());
        let mut data = Vec::new();
        if record.compression_method() == CompressionMethod::DEFLATE {
            let inflate = flate2::bufread::DeflateDecoder::new(local.data());
            local.verifying_reader(inflate).read_to_end(&mut data).unwrap();
        } else {
            local.verifying_reader(local.data()).read_to_end(&mut data).unwrap();
        }
        let rawzip::time::ZipDateTimeKind::Utc(mtime) = record.last_modified() else {
            unreachable!("no extended timestamp");
        };
        let entry = Entry {
            mode: record.mode().value(),
            mtime_s: mtime.to_unix(),
            utf8: record.flags().is_utf8(),
            method: record.compression_method(),
            data,
        };
        let twice = all.insert(record.file_path().as_bytes().to_vec(), entry);
        assert!(twice.is_none(), "an entry is there twice");
    }
    assert_eq!(archive.entries_hint(), all.len() as u64);
    all
}

fn zip(directory: &Path) -> (Summary, Vec<u8>) {
    zip_by(1, directory)
}

fn zip_by(threads: usize, directory: &Path) -> (Summary, Vec<u8>) {
    let spool = tempdir().unwrap();
    let mut bytes = Vec::new();
    let summary = write_zip(directory, spool.path(), threads, true, None, &mut bytes).unwrap();
    assert_eq!(summary.output_bytes, bytes.len() as u64);
    (summary, bytes)
}

/// Archives, checks that nothing was skipped, and reads back.
fn entries_of(directory: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let (summary, bytes) = zip(directory);
    assert_eq!(summary.skipped, []);
    let entries = read_back(&bytes);
    assert_eq!(summary.entries, entries.len() as u64);
    entries
}

fn names(entries: &BTreeMap<Vec<u8>, Entry>) -> Vec<&[u8]> {
    entries.keys().map(Vec::as_slice).collect()
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that do not compress, the same each time.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}

/// Whether the program took the archive; `None` where it is not installed. `{}` stands for the archive.
fn other_reader(zip: &[u8], command: &[&str]) -> Option<bool> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), zip).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = command[1..].iter().map(|argument| argument.replace("{}", path));
    let output = Command::new(command[0]).args(arguments).output().ok()?;
    Some(output.status.success())
}

fn assert_others_read(zip: &[u8]) {
    let python = "import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)";
    for command in [
        &["unzip", "-tqq", "{}"][..],
        &["python3", "-c", python, "{}"],
        &["bsdtar", "-tf", "{}"],
        &["7z", "t", "{}"],
    ] {
        assert_ne!(other_reader(zip, command), Some(false), "{command:?}");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tree that std cannot remove, as it holds a descriptor per level.
fn remove_deep(directory: &TempDir) {
    Command::new("rm").arg("-rf").arg(directory.path()).status().unwrap();
}

#[test]
fn a_stand_in_is_there_where_the_file_is_not() {
    for (files, expected) in [(&["a"][..], "stand-in"), (&["a", "note"][..], "own")] {
        let dir = tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "own").unwrap();
        }
        let mut bytes = Vec::new();
        write_zip(dir.path(), dir.path(), 1, true, Some(("note", b"stand-in")), &mut bytes).unwrap();
        let mut archive = zip::ZipArchive::new(io::Cursor::new(bytes)).unwrap();
        assert_eq!(archive.len(), 2);
        let text = io::read_to_string(archive.by_name("note").unwrap()).unwrap();
        assert_eq!(text, expected);
    }
}

#[test]
fn modes_times_and_links_are_kept() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("sub/empty")).unwrap();
    fs::write(at("run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(at("sub/secret"), "").unwrap();
    fs::set_permissions(at("run.sh"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(at("sub/secret"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(at("sub/empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    symlink("/etc/passwd", at("absolute")).unwrap();
    symlink("sub", at("to-dir")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    set_mtime(&at("run.sh"), 1_000_000_001); // odd: DOS time has steps of two seconds
    set_mtime(&at("sub/empty"), 86_400);
    set_mtime(&at("dangling"), 1_234_567_891);

    let (_, bytes) = zip(dir.path());
    let entries = read_back(&bytes);
    let expected = ["absolute", "dangling", "run.sh", "sub/", "sub/empty/", "sub/secret", "to-dir"];
    assert_eq!(names(&entries), expected.map(str::as_bytes));
    let entry = |name: &str| &entries[name.as_bytes()];
    assert_eq!(entry("run.sh").mode, 0o100_755, "setuid does not travel");
    assert_eq!(entry("run.sh").mtime_s, 1_000_000_001);
    assert_eq!(entry("run.sh").data, b"#!/bin/sh\n");
    assert_eq!(entry("sub/secret").mode, 0o100_600);
    assert_eq!(entry("sub/empty/").mode, 0o041_777);
    assert_eq!(entry("sub/empty/").mtime_s, 86_400);
    assert_eq!(entry("absolute").mode, 0o120_777);
    assert_eq!(entry("absolute").data, b"/etc/passwd");
    assert_eq!(entry("to-dir").data, b"sub");
    assert_eq!(entry("dangling").data, b"nowhere");
    assert_eq!(entry("dangling").mtime_s, 1_234_567_891);
    assert_others_read(&bytes);
}

#[test]
fn unzip_restores_times_links_and_modes_in_any_time_zone() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    fs::set_permissions(dir.path().join("file"), PermissionsExt::from_mode(0o751)).unwrap();
    set_mtime(&dir.path().join("file"), 1_700_000_001);
    symlink("file", dir.path().join("link")).unwrap();
    let (_, bytes) = zip(dir.path());

    let out = tempdir().unwrap();
    let archive = out.path().join("a.zip");
    fs::write(&archive, bytes).unwrap();
    let unzip =
        Command::new("unzip").env("TZ", "XST-9").arg("-qq").arg(&archive).arg("-d").arg(out.path()).status();
    if unzip.is_err() {
        return; // not installed
    }
    assert!(unzip.unwrap().success());
    let meta = fs::metadata(out.path().join("file")).unwrap();
    assert_eq!(meta.permissions().mode(), 0o100_751);
    assert_eq!(meta.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs(), 1_700_000_001);
    assert_eq!(fs::read_link(out.path().join("link")).unwrap(), Path::new("file"));
}

#[test]
fn names_keep_every_byte_that_readers_take() {
    let dir = tempdir().unwrap();
    let long = "x".repeat(255);
    let cases: [(&[u8], bool); 10] = [
        (b"with space", false),
        ("caf\u{e9}".as_bytes(), true),
        (b"back\\slash", false),
        ("back\\sl\u{e4}sh".as_bytes(), true),
        (b"c:drive", false),
        (b"...", false),
        (b"a..b", false),
        (b"line\nend", false),
        (b"latin-\xe9", false),
        (long.as_bytes(), false),
    ];
    for (name, _) in cases {
        fs::write(dir.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (_, bytes) = zip(dir.path());
    let entries = read_back(&bytes);
    for (name, utf8) in cases {
        // Readers in Java take no name that is not UTF-8.
        let told = if name == b"latin-\xe9" { b"latin-%E9" } else { name };
        let entry = entries.get(told).unwrap_or_else(|| unreachable!("{}", name.escape_ascii()));
        assert_eq!(entry.data, name);
        assert_eq!(entry.utf8, utf8, "{}", name.escape_ascii());
    }
    assert_eq!(entries.len(), cases.len());
    assert_others_read(&bytes);
}

#[test]
fn small_entries_can_be_read_without_seeking() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("stored"), noise(1_000)).unwrap();
    fs::write(dir.path().join("deflated"), "text ".repeat(1_000)).unwrap();
    symlink("stored", dir.path().join("link")).unwrap();
    let (_, bytes) = zip(dir.path());
    let archive = ZipArchive::from_slice(&bytes).unwrap();
    let mut entries = archive.entries();
    while let Some(record) = entries.next_entry().unwrap() {
        let entry = archive.get_entry(record.wayfinder()).unwrap();
        let header = entry.local_header();
        assert!(!header.flags().has_data_descriptor());
        assert_eq!(header.crc32(), record.crc32());
        assert_eq!(header.compressed_size_hint(), record.compressed_size_hint());
        assert_eq!(header.uncompressed_size_hint(), record.uncompressed_size_hint());
    }
}

#[test]
fn a_name_that_is_not_utf_8_takes_no_other_ones_place() {
    let dir = tempdir().unwrap();
    for name in [&b"a\xff"[..], b"a%FF", b"b\xff", b"b%25"] {
        fs::create_dir(dir.path().join(OsStr::from_bytes(name))).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(name)).join("file"), name).unwrap();
    }
    let (summary, bytes) = zip(dir.path());
    let entries = read_back(&bytes);
    assert_eq!(summary.skipped_total, 1);
    assert_eq!(summary.skipped[0].path, "a\u{fffd}");
    assert_eq!(entries[&b"a%FF/file"[..]].data, b"a%FF");
    assert_eq!(entries[&b"b%FF/file"[..]].data, b"b\xff");
    assert_eq!(entries[&b"b%25/file"[..]].data, b"b%25");
    assert_others_read(&bytes);
    assert_java_reads(&bytes);
}

/// Java is the strictest of the readers: it refuses all of an archive for one name that it cannot decode. Needs a JDK, else nothing
/// is tried.
fn assert_java_reads(zip: &[u8]) {
    let modules = Command::new("java").arg("--list-modules").output();
    if !modules.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("jdk.compiler")) {
        return;
    }
    let program = "import java.util.zip.*;
        class Read { public static void main(String[] arguments) throws Exception {
            var count = 0;
            try (var zip = new ZipFile(arguments[0])) { count = zip.size(); }
            try (var zip = new ZipInputStream(new java.io.FileInputStream(arguments[0]))) {
                while (zip.getNextEntry() != null) count--;
            }
            System.exit(count);
        } }";
    let home = tempdir().unwrap();
    let (source, archive) = (home.path().join("Read.java"), home.path().join("a.zip"));
    fs::write(&source, program).unwrap();
    fs::write(&archive, zip).unwrap();
    let output = Command::new("java").arg(source).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes of MS-DOS time and date in all records.
fn dos_words(zip: &[u8]) -> Vec<[u8; 4]> {
    let mut words = Vec::new();
    for (signature, offset) in [(b"PK\x03\x04", 10), (b"PK\x01\x02", 12)] {
        let starts = zip.windows(4).enumerate().filter(|(_, bytes)| *bytes == signature);
        words.extend(
            starts.map(|(start, _)| <[u8; 4]>::try_from(&zip[start + offset..start + offset + 4]).unwrap()),
        );
    }
    words
}

#[test]
fn times_that_ms_dos_does_not_know_are_its_first_or_last_as_a_whole() {
    let first = [0, 0, 0x21, 0]; // 1980-01-01 00:00:00
    let last = [0x7d, 0xbf, 0x9f, 0xff]; // 2107-12-31 23:59:58
    for (mtime_s, words) in [(0, first), (315_532_799, first), (315_532_800, first), (4_500_000_000, last)] {
        let dir = tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        set_mtime(&dir.path().join("file"), mtime_s);
        if fs::metadata(dir.path().join("file")).unwrap().mtime() != mtime_s {
            continue; // the file system has no such time
        }
        let (_, bytes) = zip(dir.path());
        assert_eq!(dos_words(&bytes), [words; 2], "{mtime_s}");
        // Readers of the extended timestamp get the time as it is.
        assert_eq!(read_back(&bytes)[&b"file"[..]].mtime_s, mtime_s.min(u32::MAX.into()));
        assert_others_read(&bytes);
    }
}

#[test]
fn pipes_and_sockets_are_listed_without_blocking() {
    let dir = tempdir().unwrap();
    mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let start = std::time::Instant::now();
    let (_, bytes) = zip(dir.path());
    assert!(start.elapsed().as_secs() < 30);
    let entries = read_back(&bytes);
    assert_eq!(names(&entries), [SKIPPED_NAME, b"file"]);
    let list = String::from_utf8(entries[SKIPPED_NAME].data.clone()).unwrap();
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["pipe: it is a named pipe", "socket: it is a socket"]);
}

#[test]
fn an_empty_directory_gives_a_valid_empty_archive() {
    let dir = tempdir().unwrap();
    let (summary, bytes) = zip(dir.path());
    assert_eq!((summary.entries, bytes.len()), (0, 22));
    assert!(read_back(&bytes).is_empty());
}

#[test]
fn what_cannot_be_opened_as_a_directory_is_an_error() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("/etc", dir.path().join("link")).unwrap();
    for name in ["missing", "file", "link"] {
        let result = write_zip(&dir.path().join(name), dir.path(), 1, true, None, &mut Vec::new());
        assert!(matches!(result, Err(ArchiveError::OpenDirectory { .. })), "{name}");
    }
}

/// Fails once its room is used up.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert_ne!(self.0, usize::MAX, "written to again after an error");
        let Some(rest) = self.0.checked_sub(bytes.len()) else {
            self.0 = usize::MAX;
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        self.0 = rest;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_receiver_that_fails_ends_the_work_at_once() {
    let dir = tempdir().unwrap();
    for (name, data) in
        [("noise", noise(1_000_000)), ("text", b"0123 456 ".repeat(1_000_000)), ("small", noise(10))]
    {
        fs::write(dir.path().join(name), data).unwrap();
    }
    for threads in [1, 4] {
        let (summary, _) = zip_by(threads, dir.path());
        for room in (0..usize::try_from(summary.output_bytes).unwrap()).step_by(50_000) {
            let result = write_zip(dir.path(), dir.path(), threads, true, None, &mut Full(room));
            assert!(matches!(result, Err(ArchiveError::Write(_))), "{room}");
        }
    }
}

#[test]
fn what_the_payload_has_closed_is_opened_once_it_has_ended() {
    if is_root() {
        return; // root reads everything
    }
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("open"), "x").unwrap();
    fs::write(at("closed"), "y").unwrap();
    fs::create_dir(at("shut")).unwrap();
    fs::write(at("shut/file"), "z").unwrap();
    fs::create_dir(at("listed")).unwrap();
    fs::write(at("listed/file"), "z").unwrap();
    let close = || {
        for (name, mode) in [("closed", 0), ("shut/file", 0), ("shut", 0), ("listed", 0o600), ("", 0o000)] {
            fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    close();
    let running = write_zip(dir.path(), Path::new("/nonexistent"), 1, false, None, &mut Vec::new());
    assert!(matches!(running, Err(ArchiveError::OpenDirectory { .. })));
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let mut bytes = Vec::new();
    let summary = write_zip(dir.path(), Path::new("/nonexistent"), 1, false, None, &mut bytes).unwrap();
    assert_eq!(names(&read_back(&bytes)), [SKIPPED_NAME, b"listed/", b"open", b"shut/"]);
    let mut told: Vec<_> =
        summary.skipped.iter().map(|skipped| format!("{}: {}", skipped.path, skipped.reason)).collect();
    told.sort_unstable();
    let denied = "Permission denied (os error 13)";
    assert_eq!(
        told,
        [
            format!("closed: {denied}"),
            format!("listed/file: {denied}"),
            format!("shut/: cannot list it: {denied}")
        ]
    );
    assert_others_read(&bytes);
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o000)).unwrap();
    // Twice: what has been opened stays so.
    for _ in 0..2 {
        let entries = entries_of(dir.path());
        assert_eq!(
            names(&entries),
            [&b"closed"[..], b"listed/", b"listed/file", b"open", b"shut/", b"shut/file"]
        );
        assert_eq!((&entries[&b"closed"[..]].data[..], entries[&b"closed"[..]].mode), (&b"y"[..], 0o100_400));
        assert_eq!(entries[&b"shut/"[..]].mode, 0o040_500);
    }
    fs::set_permissions(at("shut"), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn a_payload_cannot_fake_the_list_of_skipped_files() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(SKIPPED_NAME)), "all is well").unwrap();
    let (summary, bytes) = zip(dir.path());
    assert_eq!(summary.skipped_total, 1);
    let entries = read_back(&bytes);
    assert_eq!(entries[SKIPPED_NAME].data, b".orchestrator.skipped: the name is reserved for this list\n");
    assert_eq!(entries[SKIPPED_NAME].mode, OWN_MODE);

    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join(OsStr::from_bytes(SKIPPED_NAME))).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(SKIPPED_NAME)).join("x"), "").unwrap();
    fs::write(dir.path().join(".orchestrator.skipped-not"), "").unwrap();
    let (summary, bytes) = zip(dir.path());
    assert_eq!(summary.skipped_total, 2);
    assert_eq!(names(&read_back(&bytes)), [SKIPPED_NAME, b".orchestrator.skipped-not"]);
}

/// Sources of this crate beside large files that shrink and that do not, an empty one, links and directories.
fn mixed_tree() -> TempDir {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert!(Command::new("cp").arg("-r").arg(sources).arg(at("src")).status().unwrap().success());
    fs::create_dir_all(at("a/b/empty")).unwrap();
    fs::write(at("a/log"), "12 of 345 requests failed\n".repeat(200_000)).unwrap();
    fs::write(at("a/b/noise"), noise(2_000_000)).unwrap();
    fs::write(at("a/b/digits"), noise(3_000_000).iter().map(|byte| b'0' + byte % 10).collect::<Vec<_>>())
        .unwrap();
    fs::write(at("nothing"), "").unwrap();
    symlink("a/log", at("link")).unwrap();
    dir
}

/// The order of the entries, by their offsets.
fn order(zip: &[u8]) -> Vec<Vec<u8>> {
    let archive = ZipArchive::from_slice(zip).unwrap();
    let mut entries = archive.entries();
    let mut names = Vec::new();
    while let Some(record) = entries.next_entry().unwrap() {
        names.push((record.local_header_offset(), record.file_path().as_bytes().to_vec()));
    }
    assert!(names.is_sorted());
    names.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn any_number_of_threads_makes_the_same_archive() {
    let dir = mixed_tree();
    let (alone, by_one) = zip(dir.path());
    let expected = read_back(&by_one);
    for threads in [2, 3, 8, 64] {
        let (summary, bytes) = zip_by(threads, dir.path());
        assert_eq!((summary.entries, summary.input_bytes), (alone.entries, alone.input_bytes));
        assert_eq!(order(&bytes), order(&by_one));
        assert!(read_back(&bytes) == expected, "{threads}");
        // At most 2 % for what the pieces cannot know of one another.
        assert!(bytes.len() < by_one.len() + by_one.len() / 50, "{} {}", bytes.len(), by_one.len());
        assert_others_read(&bytes);
    }
}

#[test]
fn more_than_65535_entries_need_and_get_zip64() {
    let dir = tempdir().unwrap();
    for outer in 0..70 {
        let sub = dir.path().join(outer.to_string());
        fs::create_dir(&sub).unwrap();
        for inner in 0..940 {
            fs::write(sub.join(inner.to_string()), "").unwrap();
        }
    }
    let (summary, bytes) = zip(dir.path());
    assert_eq!(summary.entries, 70 * 941);
    assert_eq!(read_back(&bytes).len(), 70 * 941);
    assert_others_read(&bytes);
}

#[test]
fn trees_deeper_than_any_path_name_are_archived_whole() {
    let dir = tempdir().unwrap();
    let depth = 3_000;
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..depth {
        for name in ["d", "sibling"] {
            mkdirat(&at, name, Mode::RWXU).unwrap();
        }
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let entries = entries_of(dir.path());
    remove_deep(&dir);
    assert_eq!(entries.len(), 2 * depth);
    assert!(entries.contains_key(format!("{}sibling/", "d/".repeat(depth - 1)).as_bytes()));
}

#[test]
fn a_path_longer_than_zip_can_name_is_listed_as_skipped() {
    let dir = tempdir().unwrap();
    let name = "n".repeat(255);
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..257 {
        mkdirat(&at, &*name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &*name, rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let (summary, bytes) = zip(dir.path());
    remove_deep(&dir);
    // 255 of them come to 65,280 bytes with their slashes; the next would have 65,536.
    assert_eq!((summary.entries, summary.skipped_total), (256, 1));
    assert_eq!(summary.skipped[0].reason, "the path has more than the 65,535 bytes of a ZIP name");
    assert_eq!(read_back(&bytes).len(), 256);
}

#[test]
#[ignore = "writes 5 GiB of zeros through the compressor: ten seconds and more"]
fn a_sparse_file_of_5_gib_opens_everywhere() {
    let dir = tempdir().unwrap();
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(5 << 30).unwrap();
    fs::write(dir.path().join("small"), "x").unwrap();
    let (summary, bytes) = zip(dir.path());
    assert_eq!(summary.input_bytes, (5 << 30) + 1);
    let archive = ZipArchive::from_slice(&bytes).unwrap();
    let mut entries = archive.entries();
    let mut sizes = Vec::new();
    while let Some(record) = entries.next_entry().unwrap() {
        sizes.push(record.uncompressed_size_hint());
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 5 << 30]);
    assert_others_read(&bytes);
}

#[test]
#[ignore = "sends 4.1 GiB that do not compress"]
fn an_archive_over_4_gib_opens_everywhere() {
    let dir = tempdir().unwrap();
    let first = dir.path().join("0");
    fs::write(&first, noise(64 << 20)).unwrap();
    for file in 1..66 {
        fs::hard_link(&first, dir.path().join(file.to_string())).unwrap();
    }
    let archive = tempfile::NamedTempFile::new().unwrap();
    let summary = write_zip(dir.path(), dir.path(), 2, true, None, &mut archive.as_file()).unwrap();
    assert!(summary.output_bytes > u64::from(u32::MAX));
    let path = archive.path().to_str().unwrap();
    let python = "import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)";
    for command in [
        &["unzip", "-tqq", path][..],
        &["python3", "-c", python, path],
        &["7z", "t", path],
        &["bsdtar", "-tf", path],
    ] {
        if let Ok(output) = Command::new(command[0]).args(&command[1..]).output() {
            assert!(output.status.success(), "{command:?}");
        }
    }
}
