//! What is in a directory, at any depth, page by page: nothing is opened but directories, and a page costs what it holds, wherever
//! it begins.

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::FileType;

use super::ArchiveError;
use super::walk::{Found, Walk};

/// What is in directories deeper than this, or with a longer name, is passed over: where a page ends has to fit in a request.
const MAX_LEVELS: usize = 64;
const MAX_DIRECTORY_BYTES: usize = 1024;

/// A list under way.
#[derive(Debug)]
pub struct Listing {
    walk: Walk,
}

/// What stands in a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the directory that is listed.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes, of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change of its content, to the second, in milliseconds since 1970.
    pub modified_at: i64,
    /// Of a directory: whether what is in it is missing, since it is closed to us, too deep or has too long a name.
    pub is_passed_over: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory; what is in it comes next.
    Directory,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device.
    Special,
}

/// Where a page ended. As text it is of letters, digits, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the directory that was being read, relative to the one that is listed.
    directory: Vec<u8>,
    /// In that and in those above, the outermost first.
    positions: Vec<u64>,
}

impl Listing {
    /// Begins with the first entry of `directory`, or goes on behind a place. `NotFound` if that is gone. `opens_closed`: it is that of a
    /// payload that has ended, which lets us open directories that it has closed.
    ///
    /// Blocking, as [`Listing::next`]; for a disk thread.
    pub fn open(directory: &Path, after: Option<&Place>, opens_closed: bool) -> io::Result<Self> {
        let mut walk = Walk::look(directory, opens_closed)?;
        if let Some(Place { directory, positions }) = after {
            walk.go_to(directory, positions)
                .map_err(|errno| io::Error::new(io::ErrorKind::NotFound, errno))?;
        }
        Ok(Self { walk })
    }

    /// The next entry.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        loop {
            let Some(found) = self.walk.next()? else { return Ok(None) };
            let (stat, mut is_passed_over) = match found {
                Found::Directory { stat, unlisted } => (stat, unlisted.is_some()),
                Found::Entry(stat) => (stat, false),
                // It has changed meanwhile.
                _ => continue,
            };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Link,
                _ => Kind::Special,
            };
            let name = self.walk.name();
            let path = name.strip_suffix(b"/").unwrap_or(name).to_vec();
            if kind == Kind::Directory && !is_passed_over {
                let levels = path.split(|byte| *byte == b'/').count();
                if levels >= MAX_LEVELS || path.len() > MAX_DIRECTORY_BYTES {
                    self.walk.pass_over();
                    is_passed_over = true;
                }
            }
            #[allow(clippy::useless_conversion)] // other types on other machines
            let modified_at = i64::from(stat.st_mtime).saturating_mul(1000);
            return Ok(Some(Entry {
                path,
                kind,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                mode: stat.st_mode & 0o7777,
                modified_at,
                is_passed_over,
            }));
        }
    }

    /// Where the list is now.
    pub fn place(&self) -> Place {
        let (directory, positions) = self.walk.place();
        Place { directory: directory.to_vec(), positions }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.positions.iter().enumerate() {
            f.write_str(if index > 0 { "." } else { "" })?;
            write!(f, "{position:x}")?;
        }
        f.write_char('-')?;
        self.directory.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Place {
    type Err = ();

    /// Whatever a stranger sends: no name leads out of the directory.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (positions, directory) = text.split_once('-').ok_or(())?;
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
        let positions = positions.split('.').map(hex).collect::<Option<Vec<_>>>().ok_or(())?;
        let pairs = directory.as_bytes().chunks(2).map(|pair| {
            let digits = std::str::from_utf8(pair).ok().filter(|digits| digits.len() == 2)?;
            hex(digits).and_then(|byte| u8::try_from(byte).ok())
        });
        let directory = pairs.collect::<Option<Vec<u8>>>().ok_or(())?;
        let mut names = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let is_inside = names.all(|name| name != b"." && name != b".." && !name.contains(&0));
        if is_inside && positions.len() <= MAX_LEVELS { Ok(Self { directory, positions }) } else { Err(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
    use tempfile::tempdir;

    /// All entries, in pages of so many.
    fn all(directory: &Path, page: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let mut listing = Listing::open(directory, after.as_ref(), true).unwrap();
            for _ in 0..page {
                let Some(entry) = listing.next().unwrap() else { return found };
                found.push(entry.path);
            }
            let text = listing.place().to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)), "{text}");
            after = Some(text.parse().unwrap());
        }
    }

    #[test]
    fn pages_of_any_size_have_all_entries_once_in_one_order() {
        let directory = tempdir().unwrap();
        let mut expected = BTreeSet::new();
        // Deeper than the directories that stay open.
        let mut path = Vec::new();
        for level in 0..40 {
            for name in [&b"x"[..], b"y\xff", b" blank ", b"z%2F"] {
                let file = [&path[..], name].concat();
                fs::write(directory.path().join(OsStr::from_bytes(&file)), "abc").unwrap();
                expected.insert(file);
            }
            path.extend_from_slice(format!("d{level}").as_bytes());
            fs::create_dir(directory.path().join(OsStr::from_bytes(&path))).unwrap();
            expected.insert(path.clone());
            path.push(b'/');
        }
        symlink("/", directory.path().join("link")).unwrap();
        expected.insert(b"link".to_vec());
        let whole = all(directory.path(), 10_000);
        assert_eq!(whole.iter().cloned().collect::<BTreeSet<_>>(), expected);
        assert_eq!(whole.len(), expected.len());
        for page in [1, 2, 3, 7, 50] {
            assert!(all(directory.path(), page) == whole, "{page}");
        }
    }

    #[test]
    fn an_entry_is_told_as_it_is() {
        let directory = tempdir().unwrap();
        fs::write(directory.path().join("file"), "abc").unwrap();
        let entry = Listing::open(directory.path(), None, true).unwrap().next().unwrap().unwrap();
        assert_eq!((entry.kind, entry.size, entry.is_passed_over), (Kind::File, 3, false));
        let age_ms = crate::clock::now_ms() - entry.modified_at;
        assert!((-1000..60_000).contains(&age_ms), "{age_ms}");
    }

    #[test]
    fn what_is_too_deep_is_passed_over_and_told() {
        let directory = tempdir().unwrap();
        let deep = vec!["d"; MAX_LEVELS + 5].join("/");
        fs::create_dir_all(directory.path().join(&deep)).unwrap();
        fs::write(directory.path().join("d/after"), "").unwrap();
        let mut listing = Listing::open(directory.path(), None, true).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = listing.next().unwrap() {
            entries.push(entry);
        }
        assert_eq!(entries.len(), MAX_LEVELS + 1);
        assert_eq!(entries.iter().filter(|entry| entry.is_passed_over).count(), 1);
        assert!(entries.iter().any(|entry| entry.path == b"d/after"));
    }

    #[test]
    fn no_place_leads_out_of_the_directory() {
        let place =
            |directory: &[u8]| Place { directory: directory.to_vec(), positions: vec![0; 3] }.to_string();
        assert!(place(b"a/b/").parse::<Place>().is_ok());
        for bad in [&b"../"[..], b"a/../", b"./", b"a\0/"] {
            assert!(place(bad).parse::<Place>().is_err(), "{bad:?}");
        }
        for bad in
            ["", "-", "0", "x-", "0-6", "0-zz", "+1-", "0.-", "99999999999999999-", &"0.".repeat(MAX_LEVELS)]
        {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        let directory = tempdir().unwrap();
        symlink("/", directory.path().join("link")).unwrap();
        for gone in ["0.0-6c696e6b2f", "0.0-61", "0.0-", "0-61"] {
            let error = Listing::open(directory.path(), Some(&gone.parse().unwrap()), true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{gone}");
        }
    }
}
