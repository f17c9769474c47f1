//! `GET /payloads/{id}/logs`: what a payload prints, up to now or as long as it runs.
//!
//! A follower is the coroutine of its connection. It looks, on a disk thread, for what has come; is there nothing, it sleeps until
//! the output grows or the payload starts or ends. So a slow reader holds up nobody: what it has not read yet lies in the file.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::results::{cleaned, data_path_away};
use super::{Api, RETRY_AFTER_S, ready, value_of};
use crate::data::path::DataPath;
use crate::event;
use crate::http::{Caller, Follower, HttpError, Request, Response, Woken, wait_for_disk};
use crate::logs::{Beyond, FindLive, Form, HEARTBEAT, Live, Place, Reading, Stream};
use crate::payload::{Payload, PayloadId, Status};
use crate::runner::KeptBack;

/// How often an event stream says that it is alive.
const HEARTBEAT_PAUSE: Duration = Duration::from_secs(25);

/// How long a follower sleeps at a time.
const LONG: Duration = Duration::from_secs(3600);

/// Between two reads of one who is woken by each: what is kept in memory grows many times a millisecond.
const PAUSE: Duration = Duration::from_millis(10);

/// The most lines that `tail` takes.
const MAX_TAIL: u64 = 100_000;

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, id: PayloadId, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let asked = Asked::of(request)?;
    let payload = api.find(id)?;
    if payload.status == Status::Cleaned {
        return Err(cleaned());
    }
    if let Some(since) = api.data_path.stuck_for() {
        return Err(HttpError::disk_stuck(since));
    }
    // Whoever removes the directory has changed the status first.
    let lease = api.remover.lease(&payload.loc).ok_or_else(cleaned)?;
    let outputs = asked.outputs.iter().copied();
    let directory = payload.loc.clone();
    let reading =
        Reading::new(&api.logs, id, directory, outputs, asked.form, asked.follows, beyond_files(api, id));
    let reading = begin(api, &payload, reading, asked.follows)?;
    let follower = asked.follows.then(|| api.followers.follow(id));
    let mut log = Log {
        api: api.clone(),
        id,
        reading: Some(reading),
        form: asked.form,
        follower,
        // Looked at anew: both may have come since.
        is_begun: has_begun(&payload),
        read_at: Instant::now(),
        is_final: !asked.follows,
        is_over: false,
    };
    let pieces = move |caller: &Caller<'_>| {
        let _lease = &lease;
        log.next(caller).inspect_err(|error| {
            if error.kind() != ErrorKind::ConnectionAborted {
                event!(Warn, "log cut short", payload = log.id, error = *error);
            }
        })
    };
    let content_type = match asked.form {
        Form::Plain => "text/plain; charset=utf-8",
        Form::Events => "text/event-stream",
    };
    Ok(Response::live(content_type, pieces)
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        // nginx would gather what comes, and pass it on later.
        .header("X-Accel-Buffering", "no"))
}

/// What was asked for.
struct Asked {
    outputs: Vec<(Stream, Place)>,
    form: Form,
    follows: bool,
}

impl Asked {
    fn of(request: &Request<'_, '_>) -> Result<Self, HttpError> {
        let value = |name| value_of(request.query, name);
        let streams: &[Stream] = match value("stream").unwrap_or("both") {
            "stdout" => &[Stream::Stdout],
            "stderr" => &[Stream::Stderr],
            "both" => &[Stream::Stdout, Stream::Stderr],
            _ => return Err(HttpError::bad_request("stream takes stdout, stderr or both.")),
        };
        let follows = match value("follow").unwrap_or("0") {
            "0" => false,
            "1" => true,
            _ => return Err(HttpError::bad_request("follow takes 0 or 1.")),
        };
        let wants_events = |accept: &str| accept.to_ascii_lowercase().contains("text/event-stream");
        let form =
            if request.fields.get("accept").is_some_and(wants_events) { Form::Events } else { Form::Plain };
        let places = match (request.fields.get("last-event-id"), value("offset"), value("tail")) {
            // The query of who connects again is that of his first request.
            (Some(last), _, _) if form == Form::Events => offsets(last, streams.len())?,
            (_, Some(_), Some(_)) => {
                return Err(HttpError::bad_request("offset and tail exclude each other; send one of them."));
            }
            (_, Some(offset), None) => offsets(offset, streams.len())?,
            (_, None, Some(tail)) => {
                let lines = tail.parse().ok().filter(|lines| *lines <= MAX_TAIL);
                let lines = lines.ok_or_else(|| {
                    HttpError::bad_request(format!("tail takes a number of lines, 0 to {MAX_TAIL}."))
                })?;
                vec![Place::Tail(lines); streams.len()]
            }
            (_, None, None) => vec![Place::Offset(0); streams.len()],
        };
        Ok(Self { outputs: streams.iter().copied().zip(places).collect(), form, follows })
    }
}

/// One number for each output.
fn offsets(text: &str, outputs: usize) -> Result<Vec<Place>, HttpError> {
    let places: Option<Vec<_>> =
        text.split(',').map(|number| number.trim().parse().ok().map(Place::Offset)).collect();
    places.filter(|places| places.len() == outputs).ok_or_else(|| {
        let form = if outputs == 1 { "one number, as in offset=120" } else { "two, as in offset=120,45" };
        HttpError::bad_request(format!(
            "offset and Last-Event-ID take the bytes of each output that are left out: {form}."
        ))
    })
}

/// Opens what is there, so that what is in the way is told by a status.
fn begin(api: &Api, payload: &Payload, reading: Reading, follows: bool) -> Result<Box<Reading>, HttpError> {
    let (data_path, logs) = (api.data_path.clone(), api.logs.clone());
    let is_begun = has_begun(payload);
    let mut reading = Box::new(reading);
    let open = move || {
        if follows {
            logs.prepare_to_follow().map_err(|error| cannot_follow(&error))?;
        }
        if is_begun {
            reading.open().map_err(|error| refusal(&data_path, &error, follows))?;
        }
        Ok(reading)
    };
    wait_for_disk(api.logs.disk(), &api.watch, api.disk_timeout, open)
        .map_err(|_| HttpError::disk_stuck(api.disk_timeout))?
        .inspect_err(|error: &HttpError| event!(Info, "no log", payload = payload.id, reason = error.code))
}

/// Where MAX_LOG keeps a part of the outputs in memory, who follows is told of that, too.
fn beyond_files(api: &Api, id: PayloadId) -> FindLive {
    let runner = api.runner.clone();
    Box::new(move |stream| {
        let output = runner.output(id, usize::from(stream == Stream::Stderr))?;
        let live: Live = Box::new(move || {
            let KeptBack { head, left_out, tail, note_bytes } = output.kept_back();
            Beyond { head, left_out, tail, note_bytes }
        });
        Some(live)
    })
}

/// Before that there are no outputs, or those of an attempt that came to nothing.
fn has_begun(payload: &Payload) -> bool {
    payload.has_ended() || payload.started_at.is_some() && payload.pid.is_some()
}

/// One answer under way.
struct Log {
    api: Api,
    id: PayloadId,
    /// `None` only while a disk thread has it.
    reading: Option<Box<Reading>>,
    form: Form,
    /// Of one who wants what comes later, too.
    follower: Option<Follower>,
    is_begun: bool,
    /// When it was last read.
    read_at: Instant,
    /// Nothing more will be written, or is wanted.
    is_final: bool,
    is_over: bool,
}

impl Log {
    fn next(&mut self, caller: &Caller<'_>) -> io::Result<Option<Vec<u8>>> {
        while !self.is_over {
            if let Some(follower) = &mut self.follower {
                follower.begin_look();
            }
            if !self.is_begun {
                self.look();
            }
            if self.is_begun {
                let piece = self.read()?;
                if !piece.is_empty() {
                    return Ok(Some(piece));
                }
            }
            if self.is_final {
                self.is_over = true;
                return Ok(self.last());
            }
            // What was written before its end is read after it was seen.
            if self.is_begun && self.look() {
                continue;
            }
            let pause = if self.form == Form::Events { HEARTBEAT_PAUSE } else { LONG };
            let Some(follower) = &self.follower else { continue };
            match follower.wait(pause, caller) {
                Woken::TimedOut if self.form == Form::Events => return Ok(Some(HEARTBEAT.to_vec())),
                Woken::Changed | Woken::TimedOut => {
                    if let Some(left) = PAUSE.checked_sub(self.read_at.elapsed()) {
                        caller.rest(left);
                    }
                }
                Woken::HungUp => return Err(ErrorKind::ConnectionAborted.into()),
                Woken::Closed => {
                    return Err(io::Error::other("the client is stopped, and the payload has not ended"));
                }
            }
        }
        Ok(None)
    }

    /// How the payload stands now. Gives whether it has ended.
    fn look(&mut self) -> bool {
        // One that is forgotten has ended long ago.
        let now = self.api.store.get(self.id).ok().flatten();
        let has_ended = now.as_ref().is_none_or(|now| now.has_ended());
        self.is_begun |= now.is_none_or(|now| has_begun(&now));
        self.is_final |= has_ended;
        has_ended
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut reading = self.reading.take().ok_or(ErrorKind::TimedOut)?;
        self.read_at = Instant::now();
        let is_final = self.is_final;
        let read = move || {
            let piece = reading.open().and_then(|()| reading.next(is_final));
            (reading, piece)
        };
        let api = &self.api;
        let (reading, piece) = wait_for_disk(api.logs.disk(), &api.watch, api.disk_timeout, read)?;
        self.reading = Some(reading);
        piece.inspect_err(|error| api.data_path.suspect(error))
    }

    /// What is told at the end to who follows events: how the payload has ended.
    fn last(&self) -> Option<Vec<u8>> {
        if self.follower.is_none() || self.form == Form::Plain {
            return None;
        }
        let payload = self.api.store.get(self.id).ok().flatten()?;
        let position = self.reading.as_ref()?.position();
        Some(format!("event: end\nid: {position}\ndata: {}\n\n", payload.to_json()).into_bytes())
    }
}

fn cannot_follow(error: &io::Error) -> HttpError {
    let message = format!(
        "The host gives no means to follow files ({error}); raise fs.inotify.max_user_instances and max_user_watches there, or \
         ask without follow."
    );
    HttpError::new(503, "cannot_follow", message).retry_after(RETRY_AFTER_S)
}

/// Asks the disk.
fn refusal(data_path: &DataPath, error: &io::Error, follows: bool) -> HttpError {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => ready::no_descriptors(),
        // Of watches; an output is only read.
        Some(Errno::NOSPC | Errno::NOMEM) if follows => cannot_follow(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if data_path.trouble_now().is_none() => {
            HttpError::new(404, "directory_gone", "The directory of this payload is gone from the disk.")
        }
        Some(Errno::ACCESS | Errno::PERM) if data_path.trouble_now().is_none() => {
            let message = "The outputs of this payload are closed to the user of the client (chmod).";
            HttpError::new(404, "directory_closed", message)
        }
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM) => data_path_away(),
        _ => {
            data_path.suspect(error);
            let message =
                "The disk failed while the outputs of this payload were opened; the client's log says more.";
            HttpError::new(500, "disk_failed", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_has_its_offset() {
        assert_eq!(offsets("7", 1), Ok(vec![Place::Offset(7)]));
        assert_eq!(offsets("7, 9", 2), Ok(vec![Place::Offset(7), Place::Offset(9)]));
        for (text, outputs) in [("", 1), ("7", 2), ("7,9", 1), ("-1", 1), ("x", 1), ("1,,2", 2)] {
            assert!(offsets(text, outputs).is_err(), "{text}");
        }
    }
}
