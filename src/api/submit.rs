//! `POST /submit`: takes the files of a payload, queues it, and wakes the runner.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::Api;
use crate::event;
use crate::http::{Chunks, HttpError, Request, Response};
use crate::upload::{self, BoundaryError, Kind, Received, UploadError};

pub(super) fn post(api: &Api, request: &mut Request<'_, '_>) -> Result<Response, HttpError> {
    let boundary = check(api, request)?;
    let directory = api.data_path.new_directory();
    let received = receive(api, request, boundary, &directory)?;
    if api.is_draining() {
        forget(api, &directory);
        return Err(stopping());
    }
    let payload = api.store.add(&directory.to_string_lossy()).inspect_err(|_| forget(api, &directory))?;
    api.runner.wake();
    event!(Info, "payload queued", payload = payload.id, files = received.files, bytes = received.bytes);
    Ok(Response::json(200, payload.to_json()))
}

/// Everything that can be said before the body is read. Gives the boundary of the multipart body.
fn check(api: &Api, request: &Request<'_, '_>) -> Result<String, HttpError> {
    if api.is_draining() {
        return Err(stopping());
    }
    if !request.body.is_announced() {
        let message = "The request has no body; send one with Content-Length or in chunks.";
        return Err(HttpError::new(411, "length_required", message));
    }
    let boundary = upload::boundary(request.content_type.unwrap_or_default()).map_err(|error| {
        let status = match error {
            BoundaryError::NotFormData => 415,
            BoundaryError::NoBoundary => 400,
        };
        HttpError::new(status, error.code(), sentence(&error))
    })?;
    match request.body.length() {
        Some(length) if length > api.max_upload => Err(too_large(api)),
        _ => Ok(boundary),
    }
}

fn receive(
    api: &Api,
    request: &mut Request<'_, '_>,
    boundary: String,
    directory: &Path,
) -> Result<Received, HttpError> {
    let (target, most) = (directory.to_owned(), api.max_upload);
    let result =
        request.body.feed(move |chunks| upload::receive(Pieces { chunks, left: most }, &boundary, &target));
    match result {
        Ok(Ok(received)) => Ok(received),
        Ok(Err(error)) => Err(refusal(api, &error)),
        // The disk thread ended without a result, which only a panic could do.
        Err(error) => {
            event!(Error, "upload lost", error = error);
            Err(HttpError::new(500, "upload_lost", "The upload was lost inside the client; send it again."))
        }
    }
}

/// The body for the parser: without copying, and not beyond MAX_UPLOAD, which a chunked body does not announce.
struct Pieces<'c> {
    chunks: &'c mut Chunks,
    left: u64,
}

impl Iterator for Pieces<'_> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.chunks.next()?.map(Bytes::from_owner);
        Some(piece.and_then(|piece| {
            self.left = self.left.checked_sub(piece.len() as u64).ok_or(ErrorKind::FileTooLarge)?;
            Ok(piece)
        }))
    }
}

/// What the sender is told; the cause goes to the log.
fn refusal(api: &Api, error: &UploadError) -> HttpError {
    let cause = std::error::Error::source(error).map_or_else(|| "-".to_owned(), ToString::to_string);
    let interrupted_by = match error {
        UploadError::ReadBody { source } => Some(source.kind()),
        _ => None,
    };
    let told = match (error.kind(), interrupted_by) {
        (_, Some(ErrorKind::FileTooLarge)) => too_large(api),
        (_, Some(ErrorKind::TimedOut)) => {
            HttpError::new(408, "request_timeout", "The body stood still for too long; send it again.")
        }
        (Kind::Sender | Kind::Interrupted, _) => HttpError::new(400, error.code(), sentence(error)),
        (Kind::NoSpace, _) => HttpError::new(507, error.code(), sentence(error)),
        (Kind::Disk, _) => HttpError::new(500, error.code(), sentence(error)),
    };
    match error.kind() {
        Kind::Sender | Kind::Interrupted => {
            event!(Warn, "upload refused", status = told.status, reason = error.to_string(), cause = cause);
        }
        Kind::NoSpace | Kind::Disk => {
            event!(Error, "upload failed", status = told.status, reason = error.to_string(), cause = cause);
        }
    }
    told
}

fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

fn stopping() -> HttpError {
    let message = "The client is being stopped and takes no new payload; send it elsewhere.";
    HttpError::new(503, "stopping", message)
}

fn too_large(api: &Api) -> HttpError {
    let message = format!("The upload is over MAX_UPLOAD, {} bytes; send less.", api.max_upload);
    HttpError::new(413, "content_too_large", message)
}

/// Without a row nobody will ever ask for the files.
fn forget(api: &Api, directory: &Path) {
    let directory = directory.to_owned();
    api.disk.run(move || {
        if let Err(error) = fs::remove_dir_all(&directory) {
            event!(Error, "cannot remove a refused upload", directory = directory.display(), error = error);
        }
    });
}
