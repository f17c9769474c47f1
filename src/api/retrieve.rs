//! `GET /retrieve/{id}` and `GET /retrieve_partial/{id}`: the payload's directory as a ZIP, or how it stands.

use std::io;
use std::path::{Path, PathBuf};

use super::Api;
use crate::archive::{self, ArchiveError};
use crate::event;
use crate::http::{HttpError, Response};
use crate::payload::{Payload, PayloadId, Status};

pub(super) fn get(api: &Api, payload: &Payload) -> Result<Response, HttpError> {
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
    // Told before the head is out: afterwards only the end of the connection could tell.
    if !directory.is_dir() {
        event!(Error, "payload directory is gone", payload = payload.id, directory = payload.loc);
        return Err(HttpError::new(
            404,
            "directory_gone",
            "The directory of this payload is gone from the disk.",
        ));
    }
    let (id, spool, store) = (payload.id, api.data_path.path().to_owned(), api.store.clone());
    Ok(Response::streamed("application/zip", move |out| {
        write(id, &directory, &spool, out)?;
        if is_result { store.set_told(id).map_err(io::Error::other) } else { Ok(()) }
    })
    .header("Content-Disposition", format!("attachment; filename=\"{id}.zip\"")))
}

fn write(id: PayloadId, directory: &Path, spool: &Path, out: &mut dyn io::Write) -> io::Result<()> {
    match archive::write_zip(directory, spool, out) {
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
