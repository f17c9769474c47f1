//! Sees to it that what was answered is on the disk soon, in the background and for many payloads at once, and reserves payload ids
//! ahead. Nothing waits for it. Where nothing is new, nothing is written, and this thread sleeps.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::data::ids::Ids;
use crate::data::path::DataPath;
use crate::data::record::{FileSystem, Shelf};
use crate::event;

/// From the first write of an epoch to its sync: with the sync itself less than five seconds on a disk that keeps up.
const GATHER: Duration = Duration::from_secs(2);

/// Pause after a sync that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How long the end of the client waits for its last sync.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Starts the thread; it does nothing before something is written. `is_soon`: `DURABLE=soon`.
pub fn start(data_path: DataPath, ids: Ids, is_soon: bool) -> io::Result<()> {
    thread::Builder::new().name("sync".to_owned()).spawn(move || {
        let shelf = data_path.shelf();
        shelf.wake_me_when_dirty();
        ids.wake_me_when_low();
        let mut has_failed = false;
        loop {
            if let Err(error) = ids.reserve_ahead() {
                event!(Warn, "cannot reserve payload ids ahead", error = error);
            }
            if !(is_soon && shelf.is_dirty()) {
                thread::park();
                continue;
            }
            thread::sleep(GATHER);
            match sync(&data_path, &shelf) {
                Ok(()) => has_failed = false,
                Err(error) => {
                    if !has_failed {
                        event!(
                            Error,
                            "what was answered is not on the disk yet; it is tried again",
                            error = error
                        );
                    }
                    has_failed = true;
                    data_path.suspect(&error);
                    thread::sleep(RETRY_PAUSE);
                }
            }
        }
    })?;
    Ok(())
}

/// The last sync of a life that ends in good order, so that the next start of the machine has lost nothing. Not for long.
pub fn finish(data_path: &DataPath) {
    if data_path.stuck_for().is_some() {
        return;
    }
    let (done_tx, done_rx) = mpsc::channel();
    let data_path = data_path.clone();
    let thread = thread::Builder::new().name("last-sync".to_owned()).spawn(move || {
        let _ = done_tx.send(sync(&data_path, &data_path.shelf()));
    });
    let done = thread.and_then(|_| done_rx.recv_timeout(LAST_WAIT).map_err(io::Error::other)).flatten();
    if let Err(error) = done {
        event!(Warn, "what ended last may not survive a power cut", error = error);
    }
}

fn sync(data_path: &DataPath, shelf: &Shelf) -> io::Result<()> {
    data_path.must_be_in_place()?;
    let file_system = FileSystem::of(data_path.path())?;
    let epoch = shelf.next_epoch();
    file_system.sync().and_then(|()| shelf.note_synced(epoch)).inspect_err(|_| shelf.stay_dirty())
}
