//! A directory in memory for the files of one process's iterations.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const MEMORY: &str = "/dev/shm";

/// The directory of this process, made by the first call: below TMPDIR where that is set, else in memory. It stays, since
/// libFuzzer ends the process as it likes; `fuzz/run` sets TMPDIR, and removes it.
pub fn place(target: &str) -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let in_memory = std::env::var_os("TMPDIR").is_none() && Path::new(MEMORY).is_dir();
        let parent = if in_memory { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let place = parent.join(format!("fuzz-{target}-{}", std::process::id()));
        clear(&place); // of a process that had this number before
        fs::create_dir(&place).expect("a directory for the files of the iterations");
        place
    })
}

/// Removes a directory and all below it, if it is there.
pub fn clear(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            panic!("cannot remove {}: {error}", directory.display());
        }
        _ => {}
    }
}
