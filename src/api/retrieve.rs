//! `GET /retrieve/{id}` and `GET /retrieve_partial/{id}`: the payload's directory as a ZIP, or how it stands. Of a payload that has
//! ended the ZIP is the same each time, so that a caller whose connection broke may go on where it was.

use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use rustix::io::Errno;

use super::results::Results;
use super::{Api, RETRY_AFTER_S, value_of};
use crate::archive::{self, ArchiveError, Summary};
use crate::data::exit_file::EXIT_FILE;
use crate::event;
use crate::http::{Caller, Conditions, HttpError, Opened, Request, Response, Sink};
use crate::payload::{Payload, PayloadId, Status};
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;

/// How much of an archive is thrown away between two signs of life.
const SIGN_BYTES: u64 = 64 * 1024;

/// The longest `?wait=`, in seconds: proxies on the way give up at about that.
const MAX_WAIT_S: u64 = 300;

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, id: PayloadId, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let wait = wait_of(request.query)?;
    if !wait.is_zero() {
        wait_for_end(api, id, wait, &request.body.caller());
    }
    let payload = api.find(id)?;
    answer(api, &payload, request)
}

/// Not at all if the payload has ended or is unknown. One that is being killed has not: its processes may still write. A caller
/// that hangs up gives its connection back at once.
#[inline(never)]
pub(super) fn wait_for_end(api: &Api, id: PayloadId, most: Duration, caller: &Caller<'_>) {
    let has_ended = || !matches!(api.store.get(id), Ok(Some(payload)) if !payload.has_ended());
    if !has_ended() {
        api.waiting.wait(id, most, caller, has_ended);
    }
}

/// How long the answer may wait for the end of the payload: `wait=30`, in whole seconds.
fn wait_of(query: &str) -> Result<Duration, HttpError> {
    let Some(value) = value_of(query, "wait") else { return Ok(Duration::ZERO) };
    let seconds = value.parse().ok().filter(|seconds| *seconds <= MAX_WAIT_S);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        HttpError::bad_request(format!("wait takes whole seconds, 0 to {MAX_WAIT_S}, such as ?wait=30."))
    })
}

fn answer(api: &Api, payload: &Payload, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    // Until then it is told as it was before its end.
    if payload.is_end_unnoted()
        && (api.data_path.stuck_for().is_some() || api.store.is_refused(payload.id)?)
    {
        return Err(not_noted());
    }
    match payload.status {
        Status::Completed => zip(api, payload, request, true),
        status if status.is_pending() => Ok(Response::json(202, payload.to_json())),
        _ => {
            // One that is being killed has yet to end: its result is still to be told.
            // A HEAD fetches nothing.
            if payload.has_ended() && !request.is_head {
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
pub(super) fn get_partial(
    api: &Api,
    id: PayloadId,
    request: &Request<'_, '_>,
) -> Result<Response, HttpError> {
    zip(api, &*api.find(id)?, request, false)
}

/// `is_result`: with its last byte the payload is told. Until it is out, or the reader is given up, the directory stays.
fn zip(
    api: &Api,
    payload: &Payload,
    request: &Request<'_, '_>,
    is_result: bool,
) -> Result<Response, HttpError> {
    let (results, lease) = Results::of(api, payload)?;
    let source = Source {
        exit_file: payload
            .has_ended()
            .then(|| payload.shell_code())
            .flatten()
            .map(|code| format!("{code}\n")),
        results,
        threads: api.zip_threads,
        records: api.records.clone(),
        is_result,
    };
    let conditions = Conditions::of(request);
    Ok(Response::opened(move |out| {
        let to_tell = source.results.clone();
        let opened = source.open(&conditions, out, move || drop(lease));
        opened.inspect_err(|error| to_tell.tell_refused("no archive", error))
    }))
}

fn not_noted() -> HttpError {
    let message = "The payload has ended, but the client's disk does not take the note of it now: if the client is restarted before \
                   that works, its end is not known. It is tried again; ask again later.";
    HttpError::new(503, "not_noted", message).retry_after(RETRY_AFTER_S)
}

/// What an archive is made of.
struct Source {
    results: Results,
    /// What stands in it, or would if the disk had had room.
    exit_file: Option<String>,
    threads: usize,
    records: Records,
    is_result: bool,
}

impl Source {
    /// Finds out what the answer is. `done` is called with the last byte.
    fn open(
        self,
        conditions: &Conditions,
        out: &mut dyn Sink,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<Opened, HttpError> {
        self.results.check()?;
        let id = self.results.id;
        let described = |opened: Opened| {
            let name = format!("attachment; filename=\"{id}.zip\"");
            opened.header("Content-Type", "application/zip").header("Content-Disposition", name)
        };
        if !self.results.is_final {
            return Ok(described(Opened::whole(None, move |out| {
                self.write_whole(None, out)?;
                done();
                self.tell()
            })));
        }
        let fingerprint = self.fingerprint()?;
        let etag = format!("\"{fingerprint:016x}\"");
        if conditions.has(&etag) {
            return Ok(Opened::not_modified().header("ETag", etag));
        }
        let bytes = self.results.store.archive_bytes(id, fingerprint)?;
        let opened = if let Some(range) = conditions.range(&etag) {
            let bytes = bytes.map_or_else(|| self.count(fingerprint, out), Ok)?;
            let Some(range) = range.of(bytes) else {
                return Ok(Opened::beyond_end(bytes).header("ETag", etag));
            };
            Opened::part(&range.clone(), bytes, move |out| {
                self.write_part(&range, out)?;
                done();
                if range.end == bytes { self.tell() } else { Ok(()) }
            })
        } else {
            Opened::whole(bytes, move |out| {
                self.write_whole(Some(fingerprint), out)?;
                done();
                self.tell()
            })
        };
        Ok(described(opened).header("ETag", etag).header("Accept-Ranges", "bytes"))
    }

    /// Of all that decides what the archive is: beside the directory that is the exit code, and whether one thread compresses, or
    /// several.
    fn fingerprint(&self) -> Result<u64, HttpError> {
        let also = format!("{} {}", self.threads > 1, self.exit_file.as_deref().unwrap_or_default());
        archive::fingerprint(&self.results.directory, also.as_bytes())
            .map_err(|error| self.results.refusal(&error))
    }

    fn tell(&self) -> io::Result<()> {
        if self.is_result {
            set_told(&self.results.store, &self.records, self.results.id).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn write(&self, out: &mut dyn Write) -> Result<Summary, ArchiveError> {
        let exit_file = self.exit_file.as_ref().map(|text| (EXIT_FILE, text.as_bytes()));
        let Results { directory, data_path, is_final, .. } = &self.results;
        archive::write_zip(directory, data_path.path(), self.threads, *is_final, exit_file, out)
    }

    /// Writes the archive. An error is told by its status where nothing has gone out yet; else it cuts the transfer. `fingerprint` is what
    /// its length is known by from then on.
    fn write_whole(&self, fingerprint: Option<u64>, out: &mut dyn Sink) -> io::Result<()> {
        let summary = self.write(out).map_err(|error| self.tell_failed(error))?;
        let id = self.results.id;
        if let Some(fingerprint) = fingerprint {
            self.results
                .store
                .set_archive_bytes(id, fingerprint, summary.output_bytes)
                .map_err(io::Error::other)?;
        }
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

    /// Makes the archive again, and sends these bytes of it.
    fn write_part(&self, range: &Range<u64>, out: &mut dyn Sink) -> io::Result<()> {
        let mut part = Part::of(range, out);
        match self.write(&mut part) {
            // What comes after it was not asked for.
            Err(_) if part.is_over() => {}
            written => drop(written.map_err(|error| self.tell_failed(error))?),
        }
        let bytes = range.end - range.start;
        event!(
            Info,
            "part of an archive sent",
            payload = self.results.id,
            first = range.start,
            bytes = bytes
        );
        Ok(())
    }

    /// Makes the archive for nobody, to know how long it is: that has to be told before a part of it.
    fn count(&self, fingerprint: u64, out: &mut dyn Sink) -> Result<u64, HttpError> {
        let summary = self.write(&mut Part::of(&(u64::MAX..u64::MAX), out)).map_err(|error| {
            let refusal = self.results.refusal(&error);
            let _ = self.tell_failed(error);
            refusal
        })?;
        let bytes = summary.output_bytes;
        self.results.store.set_archive_bytes(self.results.id, fingerprint, bytes)?;
        Ok(bytes)
    }

    fn tell_failed(&self, error: ArchiveError) -> io::Error {
        let error = match error {
            ArchiveError::Write(error) if Errno::from_io_error(&error) != Some(Errno::NOMEM) => {
                event!(Info, "archive not sent to its end: the reader is gone", payload = self.results.id);
                return error;
            }
            other => other,
        };
        event!(Error, "archive refused or cut short", payload = self.results.id, error = error.to_string());
        io::Error::other(self.results.refusal(&error))
    }
}

/// Passes on a part of what is written, and takes no more after it.
struct Part<'o> {
    out: &'o mut dyn Sink,
    /// So many bytes are thrown away first.
    skip: u64,
    left: u64,
    until_sign: u64,
}

impl<'o> Part<'o> {
    fn of(range: &Range<u64>, out: &'o mut dyn Sink) -> Self {
        Self { out, skip: range.start, left: range.end - range.start, until_sign: SIGN_BYTES }
    }

    /// All of it has been passed on.
    fn is_over(&self) -> bool {
        self.skip == 0 && self.left == 0
    }

    fn throw_away(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = data.len() as u64;
        let count = self.skip.min(length);
        self.skip -= count;
        self.until_sign = self.until_sign.saturating_sub(count);
        if self.until_sign == 0 {
            self.until_sign = SIGN_BYTES;
            self.out.still_at_work()?;
        }
        Ok(usize::try_from(count).unwrap_or(data.len()))
    }
}

impl Write for Part<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            return self.throw_away(data);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
        if most == 0 && !data.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let count = self.out.write(&data[..most])?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        bytes: Vec<u8>,
        signs: usize,
    }

    impl Write for Seen {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.bytes.extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Seen {
        fn fill(&mut self, _: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
            Ok(0)
        }

        fn still_at_work(&mut self) -> io::Result<()> {
            self.signs += 1;
            Ok(())
        }
    }

    #[test]
    fn a_part_is_what_lies_in_the_range_however_it_is_written() {
        let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        for piece in [1_000, 70_000, 300_000] {
            for range in [0..1, 0..300_000, 5..1_005, 150_000..150_001, 299_999..300_000] {
                let mut seen = Seen::default();
                let mut part = Part::of(&range, &mut seen);
                let written = all.chunks(piece).try_for_each(|piece| part.write_all(piece));
                assert!(part.is_over() && (written.is_err() || range.end == 300_000), "{range:?}");
                let range =
                    usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small");
                assert!(seen.bytes == all[range.clone()], "{piece} {range:?}");
                assert!(seen.signs > 0 || range.start < 65_536);
            }
        }
    }
}
