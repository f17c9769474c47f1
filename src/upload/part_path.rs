//! A part's path in the payload directory: which of its names it is, and which paths are refused.
//! Works on strings alone. What only the file system can tell (a path given twice, a file in the way) is found in `tree`.

use thiserror::Error;

use super::disposition::Disposition;

/// `NAME_MAX` of Linux.
const COMPONENT_LIMIT_BYTES: usize = 255;
/// Below `PATH_MAX` (4096) by what the absolute path of a payload directory needs, so that a job can name its own files.
const PATH_LIMIT_BYTES: usize = 4000;
const LEVELS_LIMIT: usize = 64;
/// Names of the client's own files beside the payload's.
const RESERVED_PREFIX: &str = ".orchestrator.";

/// The rule that a path breaks; reads on from the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathFault {
    /// No name at all.
    #[error("is empty; name the file")]
    Empty,
    /// Starts with a slash.
    #[error("is an absolute path; leave out the slash at its beginning")]
    Absolute,
    /// `a//b` and `a/`. Linux would take the first for `a/b`: one file by two names.
    #[error("has an empty component, by a slash too many; leave that out")]
    EmptyComponent,
    /// `./a`: one file by two names, again.
    #[error("has a component `.`; leave that out")]
    DotComponent,
    /// Leaves the directory, or pretends to.
    #[error("has a component `..`, which could leave the payload; send a path inside it")]
    ParentComponent,
    /// Line ends, escape sequences of terminals, NUL and their like: they break lists of names, and nobody means them.
    #[error("holds the control character U+{:04X}; leave that out", u32::from(*.0))]
    Control(char),
    /// `C:\dir\run.sh`: old browsers sent where a file had been.
    #[error("is a path of Windows with its drive; send a relative one, its directories separated by `/`")]
    Drive,
    /// `dir\run.sh` is a path on Windows, and would be one odd file name here.
    #[error("holds a backslash; separate directories by `/`")]
    Backslash,
    /// Longer than a file system takes.
    #[error("has a component of {0} bytes, and {COMPONENT_LIMIT_BYTES} are the most; shorten it")]
    LongComponent(usize),
    /// Longer than a system call takes.
    #[error("is longer than {PATH_LIMIT_BYTES} bytes; shorten it")]
    Long,
    /// Deeper than any job needs.
    #[error("is more than {LEVELS_LIMIT} levels deep; send fewer directories in one another")]
    Deep,
    /// The client writes output and exit code under such names.
    #[error("starts with the reserved prefix `{RESERVED_PREFIX}`; give it another name")]
    Reserved,
    /// The file system of the working directory has rules of its own (vfat has).
    #[error("is not a name that the file system of this host takes; give it another one")]
    Refused,
}

/// The name that is the path of a part: the field name where that holds a `/` and ends in the file name, else the file name.
/// `None` where the part has no file name.
///
/// Many senders cut a file name to its last component (RFC 7578 section 4.2 wants receivers to expect that), so server 2.x
/// gives the relative path as field name.
pub(super) fn choose<'a>(disposition: &'a Disposition) -> Option<&'a str> {
    let file_name = disposition.file_name.as_deref()?;
    let field_name = disposition.name.as_deref().unwrap_or("");
    // The rest before the file name must be whole components: `a/b.txt` ends in `b.txt`, `a/xb.txt` does not.
    let ends_in_it =
        field_name.strip_suffix(file_name).is_some_and(|before| before.is_empty() || before.ends_with('/'));
    // An empty file name would be the end of any `a/`; it is left to be refused.
    if field_name.contains('/') && ends_in_it && !file_name.is_empty() {
        Some(field_name)
    } else {
        Some(file_name)
    }
}

/// Whether a path may be used.
pub(super) fn check(path: &str) -> Result<(), PathFault> {
    if path.is_empty() {
        return Err(PathFault::Empty);
    }
    if path.len() > PATH_LIMIT_BYTES {
        return Err(PathFault::Long);
    }
    if let Some(control) = path.chars().find(|c| c.is_control()) {
        return Err(PathFault::Control(control));
    }
    if let [drive, b':', b'\\', ..] = path.as_bytes()
        && drive.is_ascii_alphabetic()
    {
        return Err(PathFault::Drive);
    }
    if path.contains('\\') {
        return Err(PathFault::Backslash);
    }
    if path.starts_with('/') {
        return Err(PathFault::Absolute);
    }
    // The client writes its own files at the top level only: below it, a payload may name its files as it likes (the
    // results of an earlier run, say, with that run's `.orchestrator.out`).
    if path.starts_with(RESERVED_PREFIX) {
        return Err(PathFault::Reserved);
    }
    let mut levels = 0;
    for component in path.split('/') {
        match component {
            "" => return Err(PathFault::EmptyComponent),
            "." => return Err(PathFault::DotComponent),
            ".." => return Err(PathFault::ParentComponent),
            long if long.len() > COMPONENT_LIMIT_BYTES => return Err(PathFault::LongComponent(long.len())),
            _ => levels += 1,
        }
    }
    if levels > LEVELS_LIMIT {
        return Err(PathFault::Deep);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_name_is_the_path_where_it_is_one_and_ends_in_the_file_name() {
        for (name, file_name, expected) in [
            (Some("file"), Some("run.sh"), Some("run.sh")),
            (Some("run.sh"), Some("run.sh"), Some("run.sh")),
            (None, Some("run.sh"), Some("run.sh")),
            (Some("sub/a.txt"), Some("a.txt"), Some("sub/a.txt")),
            (Some("x/sub/a.txt"), Some("sub/a.txt"), Some("x/sub/a.txt")),
            (Some("sub/a.txt"), Some("sub/a.txt"), Some("sub/a.txt")),
            (Some("file"), Some("sub/a.txt"), Some("sub/a.txt")),
            // not the same last component
            (Some("sub/xa.txt"), Some("a.txt"), Some("a.txt")),
            (Some("sub/a.txt"), Some("b.txt"), Some("b.txt")),
            (Some("sub/a.txt/b"), Some("a.txt"), Some("a.txt")),
            (Some("sub/a"), Some("x/sub/a"), Some("x/sub/a")),
            // no hiding of a bad path behind a good file name, nor of a missing one behind a field name
            (Some("/etc/passwd"), Some("passwd"), Some("/etc/passwd")),
            (Some("../a"), Some("a"), Some("../a")),
            (Some("sub/"), Some(""), Some("")),
            (Some("sub/a.txt"), None, None),
            (None, None, None),
        ] {
            let disposition =
                Disposition { name: name.map(Into::into), file_name: file_name.map(Into::into) };
            assert_eq!(choose(&disposition), expected, "{name:?} {file_name:?}");
        }
    }

    #[test]
    fn odd_but_harmless_paths_are_taken() {
        for path in [
            "run.sh",
            "a/b/c.txt",
            "...",
            "..a/a../.b",
            "-rf",
            "a b\u{e9}\u{1F600}",
            "C:dir/a",
            "a\u{a0}b",
            "a%2Fb",
            ".orchestrator",
            "x.orchestrator.out",
            "sub/.orchestrator.out",
            &"x".repeat(255),
            &format!("{}a", "d/".repeat(63)),
            &format!("{}{}", format!("{}/", "x".repeat(199)).repeat(19), "y".repeat(200)),
        ] {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn paths_that_could_leave_the_directory_or_not_be_made_are_refused() {
        for (path, fault) in [
            ("", PathFault::Empty),
            ("/", PathFault::Absolute),
            ("/etc/passwd", PathFault::Absolute),
            ("//a", PathFault::Absolute),
            ("..", PathFault::ParentComponent),
            ("../a", PathFault::ParentComponent),
            ("a/../b", PathFault::ParentComponent),
            ("a/..", PathFault::ParentComponent),
            (".", PathFault::DotComponent),
            ("./a", PathFault::DotComponent),
            ("a/./b", PathFault::DotComponent),
            ("a//b", PathFault::EmptyComponent),
            ("a/", PathFault::EmptyComponent),
            ("a\0b", PathFault::Control('\0')),
            ("a\tb", PathFault::Control('\t')),
            ("a\r\nb", PathFault::Control('\r')),
            ("a/\x1b[31m", PathFault::Control('\x1b')),
            ("a\x7f", PathFault::Control('\x7f')),
            ("a\u{85}", PathFault::Control('\u{85}')),
            (r"C:\dir\run.sh", PathFault::Drive),
            (r"dir\run.sh", PathFault::Backslash),
            (r"C:a\b", PathFault::Backslash),
            (".orchestrator.", PathFault::Reserved),
            (".orchestrator.exit", PathFault::Reserved),
            (".orchestrator.d/a", PathFault::Reserved),
            (&"x".repeat(256), PathFault::LongComponent(256)),
            (&"\u{e9}".repeat(128), PathFault::LongComponent(256)),
            (&format!("{}a", "d/".repeat(64)), PathFault::Deep),
            (&format!("{}{}", format!("{}/", "x".repeat(199)).repeat(19), "y".repeat(201)), PathFault::Long),
        ] {
            assert_eq!(check(path), Err(fault), "{path:?}");
        }
    }
}
