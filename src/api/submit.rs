//! `POST /submit`: takes the files of a payload, queues it, and wakes the runner.

use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::idempotency::{self, Sent};
use super::{Api, RETRY_AFTER_S, no_memory, ready};
use crate::data::disk_error::{is_full, is_out_of_descriptors};
use crate::data::ids::IdError;
use crate::data::record::{self, Durability, FileSystem};
use crate::event;
use crate::http::{Chunks, HttpError, Request, Response};
use crate::limits::{self, RequestError};
use crate::payload::Payload;
use crate::store::StoreError;
use crate::upload::{self, BoundaryError, Kind, Received, UploadError, Wanted};

/// How many bytes are received between two looks at what is free on the disk.
const LOOK_BYTES: u64 = 4 * 1024 * 1024;

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn post(api: &Api, request: &mut Request<'_, '_>) -> Result<Response, HttpError> {
    let under_way = match idempotency::look(api, request).inspect_err(tell_refused)? {
        Sent::New(under_way) => under_way,
        Sent::Again(payload) => return again(&payload, request),
    };
    let boundary = check(api, request).inspect_err(tell_refused)?;
    let key = under_way.as_ref().map(|under_way| under_way.key.clone());
    let form = Form { boundary, key };
    let intake = api.clone();
    let taken = request.body.feed(move |chunks| intake.take(chunks, form)).inspect_err(tell_refused)?;
    let payload = taken.map_err(|refused| refused.told(api))?;
    Ok(Response::json(200, payload.to_json()))
}

/// What an upload is by its head.
struct Form {
    boundary: String,
    /// Its idempotency key.
    key: Option<String>,
}

/// The answer to an upload that was taken before. Who sends without asking first is read to his end, since many a sender reads
/// only then.
fn again(payload: &Payload, request: &mut Request<'_, '_>) -> Result<Response, HttpError> {
    event!(Info, "payload sent again", payload = payload.id);
    if !request.body.is_held_back() {
        request.body.feed(|chunks| chunks.for_each(drop))?;
    }
    Ok(Response::json(200, payload.to_json()))
}

/// Everything that can be said before the body is read. Gives the boundary of the multipart body.
fn check(api: &Api, request: &Request<'_, '_>) -> Result<String, HttpError> {
    if api.is_draining() {
        return Err(ready::draining());
    }
    if !request.body.is_announced() {
        let message = "The request has no body; send one with Content-Length or in chunks.";
        return Err(HttpError::new(411, "length_required", message));
    }
    if let Some(coding) = request.content_encoding {
        let message = format!("The body is encoded as {coding:?} (Content-Encoding); send it as it is.");
        return Err(HttpError::new(415, "content_encoding", message));
    }
    let boundary = upload::boundary(request.content_type.unwrap_or_default()).map_err(|error| {
        let status = match error {
            BoundaryError::NotFormData => 415,
            BoundaryError::NoBoundary => 400,
        };
        HttpError::new(status, error.code(), sentence(&error))
    })?;
    let length = request.body.length().unwrap_or(0);
    if length > api.bounds.max_upload {
        return Err(too_large(api));
    }
    match ready::obstacles(api, length, api.data_path.free()).into_iter().next() {
        Some(obstacle) => Err(obstacle),
        None => Ok(boundary),
    }
}

/// Takes a payload in on a disk thread: all of it is on the disk, noted and queued, or nothing is.
impl Api {
    fn take(&self, chunks: &mut Chunks, form: Form) -> Result<Payload, Refused> {
        let directory = self.data_path.new_directory();
        self.receive(chunks, form, &directory).inspect_err(|refused| {
            if let Some(error) = refused.of_the_disk() {
                self.data_path.suspect(error);
            }
            if matches!(refused, Refused::TooLate) {
                event!(Warn, "upload undone: the disk took it too late", directory = directory.display());
            }
            // Most often nothing is there any more. What was noted must not come back by a power cut: it is refused.
            self.remover.remove(&directory);
            // What is free has changed a lot: the next request goes by what is true now.
            let _ = self.data_path.free_now();
        })
    }

    fn receive(&self, chunks: &mut Chunks, form: Form, directory: &Path) -> Result<Payload, Refused> {
        // Before anything is written: it may lie below a disk that is not mounted.
        self.data_path.must_have_its_disk().map_err(Refused::Place)?;
        let file_system = match self.records.durability() {
            Durability::Power => Some(FileSystem::of(self.data_path.path()).map_err(Refused::Place)?),
            Durability::Process => None,
        };
        let pieces =
            Pieces { chunks: &mut *chunks, left: self.bounds.max_upload, until_look: LOOK_BYTES, api: self };
        let mut wanted = Wanted::of(limits::WORDS);
        let is_private = self.bounds.has_private_directories;
        let received = upload::receive(pieces, &form.boundary, directory, is_private, &mut wanted);
        let received = received.map_err(Refused::Upload)?;
        let asked = self.asked(&wanted).map_err(Refused::Limits)?;
        self.queue(chunks, directory, form.key, received, asked, file_system.as_ref())
    }

    /// The limits that the form asks for, once it is clear that this client grants them.
    fn asked(&self, fields: &Wanted) -> Result<Option<String>, RequestError> {
        let mut request = limits::Request::default();
        fields.values().try_for_each(|(word, value)| request.add(word, value))?;
        request.within(&self.bounds.grant)?;
        Ok(request.to_text())
    }

    /// The record is on the disk before anybody hears of the payload.
    fn queue(
        &self,
        chunks: &Chunks,
        directory: &Path,
        idempotency_key: Option<String>,
        received: Received,
        asked: Option<String>,
        file_system: Option<&FileSystem>,
    ) -> Result<Payload, Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        file_system.map_or(Ok(()), FileSystem::sync).map_err(Refused::Note)?;
        let id = self.ids.take().map_err(Refused::Id)?;
        let payload = Payload { asked, idempotency_key, ..Payload::prepared(id, directory.to_owned()) };
        // Not by `records`: nothing is owed of a payload that was not taken.
        self.records.note_first(&payload).map_err(Refused::Note)?;
        // A record that the next start does not find is none.
        if self.data_path.must_be_in_place().is_err() {
            // That look mends it where it can.
            if let Some(trouble) = self.data_path.trouble_now() {
                return Err(Refused::Place(io::Error::other(trouble)));
            }
            self.records.note_first(&payload).map_err(Refused::Note)?;
        }
        if file_system.is_some() {
            record::sync_directory(self.data_path.path()).map_err(Refused::Note)?;
        }
        if !chunks.claim() {
            return Err(Refused::TooLate);
        }
        self.store.add(&payload, self.bounds.max_queue).map_err(Refused::Store)?;
        event!(
            Info,
            "payload queued",
            payload = id,
            files = received.files,
            bytes = received.bytes,
            fields = received.fields,
            limits = payload.asked.as_deref()
        );
        self.runner.start_waiting();
        Ok(payload)
    }

    /// Whether the disk still has what has to stay free.
    fn has_room(&self) -> bool {
        // Where it cannot be asked, the write that follows tells what is wrong.
        self.data_path
            .free_now()
            .map_or(true, |free| ready::disk_low(free, 0, self.bounds.min_free).is_none())
    }
}

/// Why a payload was not taken.
enum Refused {
    Upload(UploadError),
    /// A form field asks for a limit that there is not, or for more than this client grants.
    Limits(RequestError),
    Draining,
    /// The disk let it be done after its sender was told that it failed.
    TooLate,
    Id(IdError),
    /// DATA_PATH is not there, or is another one, or the next start would not find what is written.
    Place(io::Error),
    Note(io::Error),
    Store(StoreError),
}

impl Refused {
    /// The disk's error, where that was it.
    fn of_the_disk(&self) -> Option<&io::Error> {
        match self {
            Self::Upload(
                UploadError::NoSpace { source, .. }
                | UploadError::Disk { source, .. }
                | UploadError::RemoveDirectory { source, .. },
            )
            | Self::Place(source)
            | Self::Note(source)
            | Self::Id(IdError::Mark(source)) => Some(source),
            Self::Upload(_)
            | Self::Limits(_)
            | Self::Draining
            | Self::TooLate
            | Self::Id(IdError::UsedUp)
            | Self::Store(_) => None,
        }
    }

    /// What the sender is told; the cause goes to the log.
    fn told(self, api: &Api) -> HttpError {
        let told = match self {
            Self::Upload(error) => return refusal(api, &error),
            Self::Limits(error) => {
                let message = format!("A form field asks for what is not granted: {error}.");
                HttpError::new(400, "bad_limit", message)
            }
            Self::Draining => ready::draining(),
            Self::TooLate => HttpError::disk_stuck(api.disk_timeout),
            Self::Id(IdError::UsedUp) => ready::ids_used_up(),
            Self::Place(error) => {
                event!(Error, "upload failed", reason = "DATA_PATH cannot be used", cause = error);
                return if is_out_of_descriptors(&error) { ready::no_descriptors() } else { no_place() };
            }
            Self::Id(IdError::Mark(error)) | Self::Note(error) => {
                event!(Error, "upload failed", reason = "cannot be noted", cause = error);
                return if is_full(&error) {
                    HttpError::new(507, "no_space", NOT_NOTED).retry_after(RETRY_AFTER_S)
                } else if is_out_of_descriptors(&error) {
                    ready::no_descriptors()
                } else {
                    HttpError::new(500, "disk_failed", NOT_NOTED)
                };
            }
            Self::Store(error) => error.into(),
        };
        tell_refused(&told);
        told
    }
}

fn no_place() -> HttpError {
    let message =
        "The client's disk does not work now; the cause is in its log. Send it again later, or elsewhere.";
    HttpError::new(503, "disk_failed", message).retry_after(RETRY_AFTER_S)
}

const NOT_NOTED: &str =
    "The payload could not be noted on the client's disk; the cause is in its log. Send it again later.";

/// The body for the parser: without copying, not beyond MAX_UPLOAD, which a chunked body does not announce, and not into
/// what has to stay free on the disk.
struct Pieces<'c> {
    chunks: &'c mut Chunks,
    left: u64,
    until_look: u64,
    api: &'c Api,
}

impl Iterator for Pieces<'_> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.chunks.next()?.map(Bytes::from_owner);
        Some(piece.and_then(|piece| {
            let bytes = piece.len() as u64;
            self.left = self.left.checked_sub(bytes).ok_or(ErrorKind::FileTooLarge)?;
            self.until_look = match self.until_look.checked_sub(bytes) {
                Some(left) => left,
                None if self.api.has_room() => LOOK_BYTES,
                None => return Err(ErrorKind::StorageFull.into()),
            };
            Ok(piece)
        }))
    }
}

/// What the sender is told; the cause goes to the log.
fn refusal(api: &Api, error: &UploadError) -> HttpError {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let interrupted_by = match error {
        UploadError::ReadBody { source } => Some(source.kind()),
        _ => None,
    };
    let told = match (error.kind(), interrupted_by) {
        (_, Some(ErrorKind::FileTooLarge)) => too_large(api),
        (_, Some(ErrorKind::StorageFull)) => HttpError::new(
            507,
            "disk_low",
            "The upload would take what has to stay free (MIN_FREE); send less.",
        )
        .retry_after(RETRY_AFTER_S),
        // The source is what a body of the connection tells: its framing is broken.
        (_, Some(ErrorKind::InvalidData)) => {
            let what = cause.clone().unwrap_or_default();
            HttpError::bad_request(format!(
                "The body breaks the rules of HTTP (RFC 9112, section 7.1): {what}."
            ))
        }
        (_, Some(ErrorKind::OutOfMemory)) => no_memory(),
        (_, Some(ErrorKind::TimedOut)) => {
            HttpError::new(408, "request_timeout", "The body stood still for too long; send it again.")
        }
        (Kind::Sender | Kind::Interrupted, _) => HttpError::new(400, error.code(), sentence(error)),
        (Kind::NoSpace, _) => HttpError::new(507, error.code(), sentence(error)).retry_after(RETRY_AFTER_S),
        (Kind::TooLarge, _) => HttpError::new(413, error.code(), sentence(error)),
        (Kind::Disk, _) if error.is_out_of_descriptors() => ready::no_descriptors(),
        (Kind::Disk, _) => HttpError::new(500, error.code(), sentence(error)),
    };
    match error.kind() {
        Kind::Sender | Kind::Interrupted => {
            // What `Pieces` stops at is no error of the system.
            let is_bound = matches!(interrupted_by, Some(ErrorKind::FileTooLarge | ErrorKind::StorageFull));
            let cause = cause.filter(|_| !is_bound);
            event!(
                Warn,
                "upload refused",
                status = told.status,
                reason = told.message.as_str(),
                cause = cause
            );
        }
        Kind::NoSpace | Kind::TooLarge | Kind::Disk => {
            event!(Error, "upload failed", status = told.status, reason = error.to_string(), cause = cause);
        }
    }
    told
}

/// What was refused before anything of it was on the disk, for a reason that is no error of the disk.
fn tell_refused(refused: &HttpError) {
    event!(Warn, "upload refused", status = refused.status, reason = refused.code);
}

fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

fn too_large(api: &Api) -> HttpError {
    let message = format!("The upload is over MAX_UPLOAD, {} bytes; send less.", api.bounds.max_upload);
    HttpError::new(413, "content_too_large", message)
}
