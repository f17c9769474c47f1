//! The one error of the HTTP edge: a status, a stable code for programs and a sentence for people.

use std::net::IpAddr;
use std::time::Duration;

use miniserde::Serialize;
use thiserror::Error;

use super::response::{Headers, Payload, Response};
use crate::metrics;

/// When asking again is worth while: by then a disk answers again, or somebody has come to his end.
const RETRY_AFTER_S: u32 = 5;

/// What a caller is told. Its cause, where there is more to know, goes to the log of whoever made it.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{message}")]
pub struct HttpError {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// One sentence that says what to do.
    pub message: String,
    /// Seconds after which asking again is worth while, for 503 and 507 (RFC 9110, section 10.2.3).
    pub retry_after_s: Option<u32>,
}

#[derive(Serialize)]
struct Wire<'a> {
    error: &'a str,
    message: &'a str,
}

impl HttpError {
    /// An error with these parts.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_s: None }
    }

    /// The same, with a Retry-After.
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// 400 `bad_request`.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "bad_request", message)
    }

    /// 403 `address_not_allowed`: ALLOW_FROM does not list the address of the caller.
    pub fn stranger(address: IpAddr) -> Self {
        let message = format!(
            "This client answers only the addresses of its setting ALLOW_FROM, and {address} is none of them; have it added there, \
             or call from one of them."
        );
        Self::new(403, "address_not_allowed", message)
    }

    /// 503 `disk_failed`: nothing has come of the disk for so long.
    pub fn disk_stuck(after: Duration) -> Self {
        let message = format!(
            "The client's disk has not answered for {} s; send it again later, or elsewhere.",
            after.as_secs()
        );
        Self::new(503, "disk_failed", message).retry_after(RETRY_AFTER_S)
    }

    /// 503 `no_thread`: others have had all threads that move files for so long.
    pub(super) fn no_thread(after: Duration) -> Self {
        let message = format!(
            "The client has had no thread to move files with for {} s; send it again later, or elsewhere.",
            after.as_secs()
        );
        Self::new(503, "no_thread", message).retry_after(RETRY_AFTER_S)
    }

    /// Status, fields and JSON of the answer that tells it; `headers` are kept.
    pub(super) fn into_parts(self, mut headers: Headers) -> (u16, Headers, String) {
        metrics::REFUSALS.add(self.code);
        headers.push(("Content-Type", "application/json".into()));
        if let Some(seconds) = self.retry_after_s {
            headers.push(("Retry-After", seconds.to_string().into()));
        }
        (self.status, headers, miniserde::json::to_string(&Wire { error: self.code, message: &self.message }))
    }
}

impl From<HttpError> for Response {
    fn from(error: HttpError) -> Self {
        let (status, headers, body) = error.into_parts(Headers::new());
        Self { status, headers, payload: Payload::Whole(body.into_bytes()) }
    }
}
