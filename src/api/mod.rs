//! The routes: which request goes to which handler. One file per resource or verb beside this one.

mod callers;
mod content_type;
mod files;
mod health;
mod idempotency;
mod kill;
mod load;
mod logs;
mod metrics;
mod payloads;
mod ping;
mod ready;
mod results;
mod retrieve;
mod submit;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::data::ids::Ids;
use crate::data::path::{DataPath, Free};
use crate::disk_threads::Disk;
use crate::event;
use crate::host::load::Load;
use crate::http::{Answered, Changes, HttpError, Method, Request, Response, Service, Waiting, Watch};
use crate::limits::Grant;
use crate::logs::Logs;
use crate::payload::{Payload, PayloadId};
use crate::runner::Runner;
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;
use crate::upkeep::retention::Remover;

pub use callers::Callers;
pub use idempotency::Keys;
pub use metrics::Metrics;

/// When asking again is worth while: a slot comes free, files are removed, or a disk answers again.
const RETRY_AFTER_S: u32 = 5;

/// What the handlers work with; cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The rows.
    pub store: Store,
    /// The processes.
    pub runner: Runner,
    /// The CPU sample.
    pub load: Load,
    /// Where payload directories are made.
    pub data_path: DataPath,
    /// Threads for what may block on a disk.
    pub disk: Disk,
    /// Requests that wait for the end of a payload.
    pub waiting: Waiting,
    /// The outputs of payloads as they are written.
    pub logs: Logs,
    /// Requests that follow the outputs of a payload.
    pub followers: Changes,
    /// What is counted of requests, and what else `/metrics` needs.
    pub metrics: Metrics,
    /// The numbers of payloads.
    pub ids: Ids,
    /// The notes of payloads on the disk.
    pub records: Records,
    /// Removes directories.
    pub remover: Remover,
    /// The idempotency keys of uploads that are under way.
    pub keys: Keys,
    /// Who may call.
    pub callers: Arc<Callers>,
    /// What is admitted.
    pub bounds: Bounds,
    /// How many threads compress one archive.
    pub zip_threads: usize,
    /// How long a request waits for a disk that does not answer.
    pub disk_timeout: Duration,
    /// Ends waits by their time.
    pub watch: Watch,
    /// Set when the client stops: no new payload is taken.
    pub draining: Arc<AtomicBool>,
}

/// What an upload must keep within to be admitted.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most bytes of an upload's body.
    pub max_upload: u64,
    /// How many payloads may wait.
    pub max_queue: u32,
    /// What uploads leave free on the disk.
    pub min_free: Free,
    /// What a payload may use at the most.
    pub grant: Grant,
    /// Whether payloads run as users of their own, so that their directories are nobody else's to enter.
    pub has_private_directories: bool,
}

/// A path that is known, with what its last segment says.
#[derive(Debug, PartialEq)]
enum Route<'p> {
    Ping,
    Health,
    Ready,
    Load,
    Submit,
    Retrieve(&'p str),
    RetrievePartial(&'p str),
    Kill(&'p str),
    Logs(&'p str),
    Metrics,
    Payloads,
    Payload(&'p str),
    Files(&'p str),
    File(&'p str, &'p str),
}

impl<'p> Route<'p> {
    fn of(path: &'p str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        Some(match (first, rest) {
            ("payloads", None) => Self::Payloads,
            ("payloads", Some(rest)) => match rest.split_once('/') {
                None => Self::Payload(rest),
                Some((id, "logs")) => Self::Logs(id),
                Some((id, "files")) => Self::Files(id),
                Some((id, rest)) => Self::File(id, rest.strip_prefix("files/")?),
            },
            (_, Some(rest)) if rest.contains('/') => return None,
            ("", None) => Self::Ping,
            ("health", None) => Self::Health,
            ("ready", None) => Self::Ready,
            ("load", None) => Self::Load,
            ("metrics", None) => Self::Metrics,
            ("submit", None) => Self::Submit,
            ("retrieve", Some(id)) => Self::Retrieve(id),
            ("retrieve_partial", Some(id)) => Self::RetrievePartial(id),
            ("kill", Some(id)) => Self::Kill(id),
            _ => return None,
        })
    }

    /// Its name, as monitoring has it: without what callers choose.
    fn name(&self) -> &'static str {
        match self {
            Self::Ping => "/",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Load => "/load",
            Self::Metrics => "/metrics",
            Self::Submit => "/submit",
            Self::Retrieve(_) => "/retrieve/{id}",
            Self::RetrievePartial(_) => "/retrieve_partial/{id}",
            Self::Kill(_) => "/kill/{id}",
            Self::Logs(_) => "/payloads/{id}/logs",
            Self::Payloads => "/payloads",
            Self::Payload(_) => "/payloads/{id}",
            Self::Files(_) => "/payloads/{id}/files",
            Self::File(..) => "/payloads/{id}/files/{path}",
        }
    }

    fn allows(&self) -> &'static str {
        match self {
            Self::Submit | Self::Kill(_) => "POST",
            Self::Payload(_) => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }
}

impl Service for Api {
    fn call(&self, request: Request<'_, '_>) -> Response {
        self.answer(request).unwrap_or_else(Response::from)
    }

    fn answered(&self, answered: &Answered<'_>) {
        self.metrics.count(answered);
    }

    fn knows(&self, caller: IpAddr) -> bool {
        self.callers.are_at(caller)
    }
}

impl Api {
    /// Hands a request to its handler. The handlers are not inlined: an idle connection keeps the stack that its requests have
    /// touched, and would pay for the variables of all of them at once.
    fn answer(&self, mut request: Request<'_, '_>) -> Result<Response, HttpError> {
        let route = Route::of(request.path);
        if let Some(refusal) = self.callers.refuse(&request, route.as_ref()) {
            return Ok(refusal);
        }
        let Some(route) = route else {
            return Err(HttpError::new(
                404,
                "no_such_route",
                "There is nothing at this path; there are /submit, /retrieve/{id}, /retrieve_partial/{id}, /kill/{id}, \
                 /payloads, /payloads/{id}, /payloads/{id}/files, /payloads/{id}/logs, /health, /ready, /load and /metrics.",
            ));
        };
        match (request.method, route) {
            (Method::Get, Route::Ping) => Ok(ping::get()),
            (Method::Get, Route::Health) => Ok(health::get(self)),
            (Method::Get, Route::Ready) => Ok(ready::get(self)),
            (Method::Get, Route::Load) => Ok(load::get(self)),
            (Method::Get, Route::Metrics) => metrics::get(self, &request),
            (Method::Get, Route::Retrieve(id)) => retrieve::get(self, parse_id(id)?, &request),
            (Method::Get, Route::RetrievePartial(id)) => retrieve::get_partial(self, parse_id(id)?, &request),
            (Method::Post, Route::Submit) => submit::post(self, &mut request),
            (Method::Post, Route::Kill(id)) => kill::post(self, parse_id(id)?),
            (Method::Get, Route::Logs(id)) => logs::get(self, parse_id(id)?, &request),
            (Method::Get, Route::Payloads) => payloads::list(self, request.query),
            (Method::Get, Route::Payload(id)) => payloads::get(self, parse_id(id)?),
            (Method::Get, Route::Files(id)) => files::list(self, parse_id(id)?, request.query),
            (Method::Get, Route::File(id, path)) => files::get(self, parse_id(id)?, path, &request),
            (Method::Delete, Route::Payload(id)) => payloads::delete(self, parse_id(id)?, &request),
            (_, route) => Ok(Response::from(HttpError::new(
                405,
                "method_not_allowed",
                format!("This path takes {} only.", route.allows()),
            ))
            .header("Allow", route.allows())),
        }
    }

    fn find(&self, id: PayloadId) -> Result<Box<Payload>, HttpError> {
        self.store.get(id)?.ok_or_else(unknown_id)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Ids are whole numbers; anything else in their place is an id that nobody was given.
fn parse_id(text: &str) -> Result<PayloadId, HttpError> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten().ok_or_else(unknown_id)
}

/// The value of a parameter of a query, as it was sent.
fn value_of<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn no_memory() -> HttpError {
    let message = "The host has no memory left for the files of this request; send it again later.";
    HttpError::new(503, "no_memory", message).retry_after(RETRY_AFTER_S)
}

fn unknown_id() -> HttpError {
    HttpError::new(
        404,
        "unknown_id",
        "No payload has this id: it was never given by this client, or was forgotten twice MAX_AGE after its end, or its record \
         was lost or damaged, which the client's log then says at its start.",
    )
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::QueueFull => ready::queue_full(),
            StoreError::Database(_) => {
                event!(Error, "the store failed", error = error.to_string());
                Self::new(500, "store_failed", "The client's database failed; see its log.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes_and_nowhere_else() {
        assert_eq!(Route::of("/"), Some(Route::Ping));
        assert_eq!(Route::of("/retrieve/7"), Some(Route::Retrieve("7")));
        assert_eq!(Route::of("/retrieve_partial/7"), Some(Route::RetrievePartial("7")));
        assert_eq!(Route::of("/kill/7"), Some(Route::Kill("7")));
        assert_eq!(Route::of("/payloads/7/logs"), Some(Route::Logs("7")));
        assert_eq!(Route::of("/payloads"), Some(Route::Payloads));
        assert_eq!(Route::of("/payloads/7"), Some(Route::Payload("7")));
        assert_eq!(Route::of("/payloads/7/files"), Some(Route::Files("7")));
        assert_eq!(Route::of("/payloads/7/files/a/b"), Some(Route::File("7", "a/b")));
        assert_eq!(Route::of("/payloads/7/files/"), Some(Route::File("7", "")));
        for path in [
            "",
            "*",
            "//",
            "/x",
            "/health/",
            "/health/x",
            "/submit/1",
            "/retrieve",
            "/retrieve/7/",
            "/retrieve/7/x",
            "/kill",
            "/payloads/7/logs/x",
            "/payloads/7/",
            "/payloads/7/x",
            "/payloads/7/x/files/a",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn a_parameter_is_found_by_its_whole_name() {
        assert_eq!(value_of("await=1&wait=2&wait=3", "wait"), Some("2"));
        assert_eq!(value_of("waiting=1&wait", "wait"), None);
    }

    #[test]
    fn only_plain_numbers_are_ids() {
        assert_eq!(parse_id("731094"), Ok(731_094));
        for text in ["", "-1", "+1", "1.0", "99999999999", "0x1", "1 "] {
            assert!(parse_id(text).is_err(), "{text}");
        }
    }
}
