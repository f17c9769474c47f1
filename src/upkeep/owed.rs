//! What is still owed to the disk when the client stops in good order: it is tried once more, not for long, and told where that
//! fails.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::record_writer::Records;
use super::retention::Remover;
use crate::event;

/// How long the end of the client waits for that.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Tries the records and the removals that are owed once more.
pub fn finish(records: &Records, remover: &Remover) {
    let before = (records.owed_ids(), remover.owed_directories());
    if before.0.is_empty() && before.1.is_empty() {
        return;
    }
    let (done_tx, done_rx) = mpsc::channel();
    let (last_records, last_remover) = (records.clone(), remover.clone());
    let thread = thread::Builder::new().name("last-owed".to_owned()).spawn(move || {
        last_records.try_owed();
        last_remover.try_owed();
        let _ = done_tx.send(());
    });
    let is_done = thread.is_ok() && done_rx.recv_timeout(LAST_WAIT).is_ok();
    let (ids, directories) = if is_done { (records.owed_ids(), remover.owed_directories()) } else { before };
    if ids.is_empty() && directories.is_empty() {
        return;
    }
    let words = |words: Vec<String>| words.join(" ");
    event!(
        Error,
        "the client ends before the disk has taken these records and let these directories go",
        payloads = words(ids.iter().map(ToString::to_string).collect()),
        directories = words(directories.iter().map(|directory| directory.display().to_string()).collect())
    );
}
