//! The directory of a payload as those find it who read from it, on a disk thread: what to tell where it is gone, closed, or cannot
//! be read.

use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::fs::Access;
use rustix::io::Errno;

use super::{Api, RETRY_AFTER_S, no_memory};
use crate::archive::{ArchiveError, DeflateError};
use crate::data::lease::Lease;
use crate::data::path::DataPath;
use crate::event;
use crate::http::HttpError;
use crate::payload::{Payload, PayloadId, Status};
use crate::store::Store;

/// What results are read from.
#[derive(Clone)]
pub(super) struct Results {
    pub(super) id: PayloadId,
    pub(super) directory: PathBuf,
    /// The payload has ended: nothing is left out then, and nothing may change.
    pub(super) is_final: bool,
    pub(super) data_path: DataPath,
    pub(super) store: Store,
}

impl Results {
    /// Those of a payload. As long as the lease is there, the client does not remove them.
    pub(super) fn of(api: &Api, payload: &Payload) -> Result<(Self, Lease), HttpError> {
        if payload.status == Status::Cleaned {
            return Err(cleaned());
        }
        if let Some(since) = api.data_path.stuck_for() {
            return Err(HttpError::disk_stuck(since));
        }
        // Whoever removes it has changed the status first.
        let lease = api.remover.lease(&payload.loc).ok_or_else(cleaned)?;
        let this = Self {
            id: payload.id,
            directory: payload.loc.clone(),
            is_final: payload.has_ended(),
            data_path: api.data_path.clone(),
            store: api.store.clone(),
        };
        Ok((this, lease))
    }

    /// A payload may have moved its directory away, put a link to elsewhere in its place, or closed it.
    pub(super) fn check(&self) -> Result<(), HttpError> {
        if self.is_there() { Ok(()) } else { Err(self.gone()) }
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.directory).is_ok_and(|found| found.is_dir())
    }

    fn is_open(&self) -> bool {
        rustix::fs::access(&self.directory, Access::READ_OK | Access::EXEC_OK).is_ok()
    }

    /// Nothing has been sent yet. `what` is the line of the log.
    pub(super) fn tell_refused(&self, what: &str, error: &HttpError) {
        let (id, directory) = (self.id, self.directory.display());
        // What a payload has removed or closed itself is nothing for the keeper of the host to act on.
        if error.status == 404 {
            event!(Info, what, payload = id, directory = directory, reason = error.code);
        } else if self.data_path.trouble().is_some() {
            // It has been told once for all payloads, and each is asked for twice a second.
            event!(Debug, what, payload = id, directory = directory, reason = error.code);
        } else {
            event!(Error, what, payload = id, directory = directory, reason = error.code);
        }
    }

    /// It has been looked for in vain.
    fn gone(&self) -> HttpError {
        // With DATA_PATH all directories are away; they may come back with it, or just have.
        if self.data_path.trouble_now().is_some() || self.is_there() {
            return data_path_away();
        }
        match self.store.get(self.id) {
            Ok(Some(payload)) if payload.status == Status::Cleaned => cleaned(),
            _ => {
                HttpError::new(404, "directory_gone", "The directory of this payload is gone from the disk.")
            }
        }
    }

    /// What the caller is told of an error of the archive, if nothing has gone out yet.
    pub(super) fn refusal(&self, error: &ArchiveError) -> HttpError {
        if matches!(error, ArchiveError::Deflate(DeflateError::NoMemory)) {
            return no_memory();
        }
        let (ArchiveError::OpenDirectory { source, .. }
        | ArchiveError::Read { source, .. }
        | ArchiveError::Write(source)
        | ArchiveError::Spool(source)) = error
        else {
            let message =
                "The files of this payload changed while they were sent; the client's log says which.";
            return HttpError::new(500, "answer_failed", message);
        };
        self.refusal_of(source)
    }

    /// What the caller is told of an error of the disk, if nothing has gone out yet.
    pub(super) fn refusal_of(&self, error: &io::Error) -> HttpError {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                let message = "The client has no free descriptor for this archive; ask again later.";
                HttpError::new(503, "no_descriptors", message).retry_after(RETRY_AFTER_S)
            }
            Some(Errno::NOMEM) => no_memory(),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.gone(),
            // With DATA_PATH all directories are closed, too.
            Some(Errno::ACCESS) if self.data_path.trouble_now().is_some() || self.is_open() => {
                data_path_away()
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                let message = "The directory of this payload is closed to the user of the client (chmod).";
                HttpError::new(404, "directory_closed", message)
            }
            _ => {
                self.data_path.suspect(error);
                let message =
                    "The disk failed while the files of this payload were read; the client's log says where.";
                HttpError::new(500, "disk_failed", message)
            }
        }
    }
}

pub(super) fn data_path_away() -> HttpError {
    let message = "DATA_PATH is not there, is closed, or fails; ask again once /ready is 200.";
    HttpError::new(503, "disk_failed", message).retry_after(RETRY_AFTER_S)
}

pub(super) fn cleaned() -> HttpError {
    HttpError::new(404, "cleaned", "The directory of this payload was removed after MAX_AGE, or by DELETE.")
}
