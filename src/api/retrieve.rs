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
use crate::http::{Caller, HttpError, Request, Response};
use crate::payload::{Payload, PayloadId, Status};

/// The longest `?wait=`, in seconds: proxies on the way give up at about that.
const MAX_WAIT_S: u64 = 300;

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, id: PayloadId, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let wait = wait_of(request.query)?;
    if !wait.is_zero() {
        wait_for_end(api, id, wait, &request.body.caller());
    }
    let payload = api.find(id)?;
    answer(api, &payload)
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

fn answer(api: &Api, payload: &Payload) -> Result<Response, HttpError> {
    match payload.status {
        Status::Completed => zip(api, payload, true),
        status if status.is_pending() => Ok(Response::json(202, payload.to_json())),
        _ => {
            // One that is being killed has yet to end: its result is still to be told.
            if payload.has_ended() {
                api.store.set_told(payload.id)?;
            }
            Ok(Response::json(200, payload.to_json()))
        }
    }
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get_partial(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    let payload = api.find(id)?;
    match payload.status {
        Status::Cleaned => {
            Err(HttpError::new(404, "cleaned", "The directory of this payload was removed after MAX_AGE."))
        }
        _ => zip(api, &payload, false),
    }
}

/// `is_result`: with its last byte the payload is told.
fn zip(api: &Api, payload: &Payload, is_result: bool) -> Result<Response, HttpError> {
    if let Some(since) = api.data_path.stuck_for() {
        return Err(HttpError::disk_stuck(since));
    }
    let (id, directory, looked_at) = (payload.id, PathBuf::from(&payload.loc), payload.loc.clone());
    let (spool, store, threads) = (api.data_path.path().to_owned(), api.store.clone(), api.zip_threads);
    let check = move || {
        is_there(Path::new(&looked_at)).inspect_err(|error| {
            event!(Error, "no archive", payload = id, directory = looked_at, reason = error.code);
        })
    };
    let write = move |out: &mut dyn io::Write| {
        write(id, &directory, &spool, threads, out)?;
        if is_result { store.set_told(id).map_err(io::Error::other) } else { Ok(()) }
    };
    Ok(Response::streamed("application/zip", check, write)
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
