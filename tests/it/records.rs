//! The records of payloads, as the client leaves them on the disk.

use std::path::{Path, PathBuf};

/// Where the record of the payload in this directory is.
pub fn record_path(directory: &Path) -> PathBuf {
    directory.parent().unwrap().join(".orchestrator/records").join(directory.file_name().unwrap())
}

/// The record of the payload in this directory, as JSON; empty if there is none. Of the two texts in the file the one with the
/// higher number is the newer one.
pub fn record_of(directory: &Path) -> String {
    let file = std::fs::read_to_string(record_path(directory)).unwrap_or_default();
    let (first, second) = file.split_at(file.len() / 2);
    let texts = [first, second].into_iter().filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    let newest = texts.max_by_key(|text| text.get(..20).map(str::to_owned));
    newest.and_then(|text| text.split_once('\n')).map(|(_, json)| json.trim().to_owned()).unwrap_or_default()
}
