//! `GET /retrieve/{id}` and `GET /retrieve_partial/{id}`: the payload's directory as a ZIP, or how it stands.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;

use super::{Api, RETRY_AFTER_S, no_memory};
use crate::archive::{self, ArchiveError, DeflateError};
use crate::data::exit_file::EXIT_FILE;
use crate::data::path::DataPath;
use crate::event;
use crate::http::{Caller, HttpError, Request, Response};
use crate::payload::{Payload, PayloadId, Status};
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;

/// The longest `?wait=`, in seconds: proxies on the way give up at about that.
const MAX_WAIT_S: u64 = 300;

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, id: PayloadId, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let wait = wait_of(request.query)?;
    if !wait.is_zero() {
        wait_for_end(api, id, wait, &request.body.caller());
    }
    let payload = api.find(id)?;
    // A HEAD fetches nothing.
    answer(api, &payload, !request.is_head)
}

/// Not at all if the payload has ended or is unknown. One that is being killed has not: its processes may still write. A caller
/// that hangs up gives its connection back at once.
#[inline(never)]
fn wait_for_end(api: &Api, id: PayloadId, most: Duration, caller: &Caller<'_>) {
    let has_ended = || !matches!(api.store.get(id), Ok(Some(payload)) if !payload.has_ended());
    if !has_ended() {
        api.waiting.wait(id, most, caller, has_ended);
    }
}

/// How long the answer may wait for the end of the payload: `wait=30`, in whole seconds.
fn wait_of(query: &str) -> Result<Duration, HttpError> {
    let Some(value) = query.split('&').find_map(|pair| pair.strip_prefix("wait=")) else {
        return Ok(Duration::ZERO);
    };
    let seconds = value.parse().ok().filter(|seconds| *seconds <= MAX_WAIT_S);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        HttpError::bad_request(format!("wait takes whole seconds, 0 to {MAX_WAIT_S}, such as ?wait=30."))
    })
}

fn answer(api: &Api, payload: &Payload, is_fetched: bool) -> Result<Response, HttpError> {
    // Until then it is told as it was before its end.
    if payload.is_end_unnoted()
        && (api.data_path.stuck_for().is_some() || api.store.is_refused(payload.id)?)
    {
        return Err(not_noted());
    }
    match payload.status {
        Status::Completed => zip(api, payload, is_fetched),
        status if status.is_pending() => Ok(Response::json(202, payload.to_json())),
        _ => {
            // One that is being killed has yet to end: its result is still to be told.
            if payload.has_ended() && is_fetched {
                set_told(&api.store, &api.records, payload.id)?;
            }
            Ok(Response::json(200, payload.to_json()))
        }
    }
}

/// The first time also to the next life, which then need not spare the payload.
fn set_told(store: &Store, records: &Records, id: PayloadId) -> Result<(), StoreError> {
    if store.set_told(id)? {
        records.note_soon(id);
    }
    Ok(())
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get_partial(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    let payload = api.find(id)?;
    match payload.status {
        Status::Cleaned => Err(cleaned()),
        _ => zip(api, &payload, false),
    }
}

/// `is_result`: with its last byte the payload is told. Until it is out, or the reader is given up, the directory stays.
fn zip(api: &Api, payload: &Payload, is_result: bool) -> Result<Response, HttpError> {
    if let Some(since) = api.data_path.stuck_for() {
        return Err(HttpError::disk_stuck(since));
    }
    let source = Source {
        id: payload.id,
        directory: payload.loc.clone(),
        is_final: payload.has_ended(),
        exit_file: payload
            .has_ended()
            .then(|| payload.shell_code())
            .flatten()
            .map(|code| format!("{code}\n")),
        data_path: api.data_path.clone(),
        store: api.store.clone(),
    };
    // Whoever removes it has changed the status first.
    let lease = api.remover.lease(&source.directory).ok_or_else(cleaned)?;
    let (looked_at, threads) = (source.clone(), api.zip_threads);
    let (store, records) = (api.store.clone(), api.records.clone());
    let check = move || looked_at.check().inspect_err(|error| looked_at.tell_refused(error));
    let write = move |out: &mut dyn io::Write| {
        source.write(threads, out)?;
        drop(lease);
        if is_result { set_told(&store, &records, source.id).map_err(io::Error::other) } else { Ok(()) }
    };
    let name = format!("attachment; filename=\"{}.zip\"", payload.id);
    Ok(Response::streamed("application/zip", check, write).header("Content-Disposition", name))
}

fn not_noted() -> HttpError {
    let message = "The payload has ended, but the client's disk does not take the note of it now: if the client is restarted before \
                   that works, its end is not known. It is tried again; ask again later.";
    HttpError::new(503, "not_noted", message).retry_after(RETRY_AFTER_S)
}

pub(super) fn data_path_away() -> HttpError {
    let message = "DATA_PATH is not there, is closed, or fails; ask again once /ready is 200.";
    HttpError::new(503, "disk_failed", message).retry_after(RETRY_AFTER_S)
}

pub(super) fn cleaned() -> HttpError {
    HttpError::new(404, "cleaned", "The directory of this payload was removed after MAX_AGE.")
}

/// What an archive is made of.
#[derive(Clone)]
struct Source {
    id: PayloadId,
    directory: PathBuf,
    /// The payload has ended: nothing is left out then, and nothing may change.
    is_final: bool,
    /// What stands in it, or would if the disk had had room.
    exit_file: Option<String>,
    data_path: DataPath,
    store: Store,
}

impl Source {
    /// A payload may have moved its directory away, put a link to elsewhere in its place, or closed it.
    fn check(&self) -> Result<(), HttpError> {
        if self.is_there() { Ok(()) } else { Err(self.gone()) }
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.directory).is_ok_and(|found| found.is_dir())
    }

    fn is_open(&self) -> bool {
        rustix::fs::access(&self.directory, Access::READ_OK | Access::EXEC_OK).is_ok()
    }

    /// Nothing has been sent yet.
    fn tell_refused(&self, error: &HttpError) {
        let (id, directory) = (self.id, self.directory.display());
        // What a payload has removed or closed itself is nothing for the keeper of the host to act on.
        if error.status == 404 {
            event!(Info, "no archive", payload = id, directory = directory, reason = error.code);
        } else if self.data_path.trouble().is_some() {
            // It has been told once for all payloads, and each is asked for twice a second.
            event!(Debug, "no archive", payload = id, directory = directory, reason = error.code);
        } else {
            event!(Error, "no archive", payload = id, directory = directory, reason = error.code);
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

    /// Writes the archive. An error is told by its status where nothing has gone out yet; else it cuts the transfer.
    fn write(&self, threads: usize, out: &mut dyn io::Write) -> io::Result<()> {
        let exit_file = self.exit_file.as_ref().map(|text| (EXIT_FILE, text.as_bytes()));
        let spool = self.data_path.path();
        let written = archive::write_zip(&self.directory, spool, threads, self.is_final, exit_file, out);
        let summary = written.map_err(|error| self.tell_failed(error))?;
        for skipped in &summary.skipped {
            event!(
                Warn,
                "left out of the archive",
                payload = self.id,
                path = skipped.path,
                reason = skipped.reason
            );
        }
        event!(
            Info,
            "archive sent",
            payload = self.id,
            entries = summary.entries,
            input_bytes = summary.input_bytes,
            output_bytes = summary.output_bytes,
            skipped = summary.skipped_total,
        );
        Ok(())
    }

    fn tell_failed(&self, error: ArchiveError) -> io::Error {
        let error = match error {
            ArchiveError::Write(error) if Errno::from_io_error(&error) != Some(Errno::NOMEM) => {
                event!(Info, "archive not sent to its end: the reader is gone", payload = self.id);
                return error;
            }
            other => other,
        };
        event!(Error, "archive refused or cut short", payload = self.id, error = error.to_string());
        io::Error::other(self.refusal(&error))
    }

    /// What the caller is told if nothing has gone out yet.
    fn refusal(&self, error: &ArchiveError) -> HttpError {
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
        match Errno::from_io_error(source) {
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
                self.data_path.suspect(source);
                let message =
                    "The disk failed while the files of this payload were read; the client's log says where.";
                HttpError::new(500, "disk_failed", message)
            }
        }
    }
}
