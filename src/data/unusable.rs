//! Why a directory cannot be made or written, in words that say what helps. Looks, and changes nothing.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// What its owner needs of a directory: to list it, to write to it, and to open what is in it.
const OWNER_BITS: u32 = 0o700;

/// The error that came of making or opening `path`, with its cause where that can be seen.
pub(super) fn explained(path: &Path, error: io::Error) -> io::Error {
    match cause(path, &error) {
        Some(cause) => io::Error::new(error.kind(), format!("{error}: {cause}")),
        None => error,
    }
}

fn cause(path: &Path, error: &io::Error) -> Option<String> {
    if let Ok(target) = fs::read_link(path)
        && fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        let target = target.display();
        return Some(format!("it is a link to {target}, which is not there; make that, or remove the link"));
    }
    // The first of those that are there, from the end: the one that something could not be done in.
    let (there, metadata) = path.ancestors().find_map(|there| Some((there, fs::metadata(there).ok()?)))?;
    let shown = there.display();
    if !metadata.is_dir() {
        let kind = kind_of(&metadata);
        return Some(format!("{shown} is {kind}, not a directory; name a directory"));
    }
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        let remedy = if there == path {
            format!("chown {own} {shown}")
        } else {
            format!("mkdir -p {0} && chown {own} {0}, as that user or root", path.display())
        };
        return Some(format!("{shown} belongs to user {owner}, and the client runs as user {own}; {remedy}"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OWNER_BITS == OWNER_BITS {
        return None;
    }
    let remedy = format!("chmod u+rwx {shown}");
    Some(match umask().filter(|umask| umask & OWNER_BITS != 0) {
        Some(umask) => format!(
            "{shown} has mode {mode:03o}, as the umask of the client, {umask:03o}, makes it; {remedy}, and start the client with umask 022"
        ),
        None => format!("{shown} has mode {mode:03o}; {remedy}"),
    })
}

fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_file() {
        "a file"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a pipe or a socket"
    }
}

/// There is no call that tells it and does not change it.
fn umask() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn told(path: &Path, kind: io::ErrorKind) -> String {
        explained(path, kind.into()).to_string()
    }

    #[test]
    fn links_and_what_is_no_directory_are_named() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let (link, file) = (home.path().join("link"), home.path().join("file"));
        symlink("nowhere", &link).expect("linked");
        fs::write(&file, "").expect("written");
        assert!(told(&link, io::ErrorKind::AlreadyExists).contains("a link to nowhere, which is not there"));
        assert!(
            told(&file.join("x"), io::ErrorKind::NotADirectory).contains("file is a file, not a directory")
        );
        assert!(told(Path::new("/dev/null"), io::ErrorKind::AlreadyExists).contains("/dev/null is a device"));
        assert_eq!(
            told(home.path(), io::ErrorKind::StorageFull),
            io::Error::from(io::ErrorKind::StorageFull).to_string()
        );
    }
}
