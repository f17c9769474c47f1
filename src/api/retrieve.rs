//! `GET /retrieve/{id}` and `GET /retrieve_partial/{id}`: the payload's directory as a ZIP, or how it stands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;

use super::Api;
use crate::archive::{self, ArchiveError};
use crate::event;
use crate::http::{HttpError, Response, wait_for_disk};
use crate::payload::{Payload, PayloadId, Status};

/// The longest `?wait=`, in seconds: proxies on the way give up at about that.
const MAX_WAIT_S: u64 = 300;

pub(super) fn get(api: &Api, id: PayloadId, query: &str) -> Result<Response, HttpError> {
    let wait = wait_of(query)?;
    let mut payload = api.find(id)?;
    if payload.status.is_pending() && !wait.is_zero() {
        let is_over = || !matches!(api.store.get(id), Ok(Some(payload)) if payload.status.is_pending());
        api.waiting.wait(id, wait, is_over);
        payload = api.find(id)?;
    }
    answer(api, &payload)
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

fn answer(api: &Api, payload: &Payload) -> Result<Response, HttpError> {
    match payload.status {
        Status::Completed => zip(api, payload, true),
        status if status.is_pending() => Ok(Response::json(202, payload.to_json())),
        _ => {
            api.store.set_told(payload.id)?;
            Ok(Response::json(200, payload.to_json()))
        }
    }
}

pub(super) fn get_partial(api: &Api, payload: &Payload) -> Result<Response, HttpError> {
    match payload.status {
        Status::Cleaned => {
            Err(HttpError::new(404, "cleaned", "The directory of this payload was removed after MAX_AGE."))
        }
        _ => zip(api, payload, false),
    }
}

/// `is_result`: with its last byte the payload is told.
fn zip(api: &Api, payload: &Payload, is_result: bool) -> Result<Response, HttpError> {
    let directory = PathBuf::from(&payload.loc);
    // Told before the head is out: afterwards only the end of the connection could tell. On a disk thread: the disk may hang.
    let looked_at = directory.clone();
    let looked = wait_for_disk(&api.disk, move || is_there(&looked_at)).unwrap_or_else(|_| Err(gone()));
    looked.inspect_err(|error| {
        event!(Error, "no archive", payload = payload.id, directory = payload.loc, reason = error.code);
    })?;
    let (id, spool, store) = (payload.id, api.data_path.path().to_owned(), api.store.clone());
    let threads = api.zip_threads;
    Ok(Response::streamed("application/zip", move |out| {
        write(id, &directory, &spool, threads, out)?;
        if is_result { store.set_told(id).map_err(io::Error::other) } else { Ok(()) }
    })
    .header("Content-Disposition", format!("attachment; filename=\"{id}.zip\"")))
}

/// A payload may have moved its directory away, put a link to elsewhere in its place, or closed it.
fn is_there(directory: &Path) -> Result<(), HttpError> {
    if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Err(gone());
    }
    match rustix::fs::access(directory, Access::READ_OK | Access::EXEC_OK) {
        Err(Errno::ACCESS) => {
            let message = "The payload has closed its directory to the user of the client (chmod); let it leave it open.";
            Err(HttpError::new(404, "directory_closed", message))
        }
        _ => Ok(()),
    }
}

fn gone() -> HttpError {
    HttpError::new(404, "directory_gone", "The directory of this payload is gone from the disk.")
}

fn write(
    id: PayloadId,
    directory: &Path,
    spool: &Path,
    threads: usize,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    match archive::write_zip(directory, spool, threads, out) {
        Ok(summary) => {
            for skipped in &summary.skipped {
                event!(
                    Warn,
                    "left out of the archive",
                    payload = id,
                    path = skipped.path,
                    reason = skipped.reason
                );
            }
            event!(
                Info,
                "archive sent",
                payload = id,
                entries = summary.entries,
                input_bytes = summary.input_bytes,
                output_bytes = summary.output_bytes,
                skipped = summary.skipped_total,
            );
            Ok(())
        }
        Err(ArchiveError::Write(error)) => {
            event!(Info, "archive not sent to its end: the reader is gone", payload = id);
            Err(error)
        }
        Err(error) => {
            event!(Error, "archive cut short", payload = id, error = error.to_string());
            Err(io::Error::other(error))
        }
    }
}
