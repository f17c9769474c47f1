//! The one error of the HTTP edge: a status, a stable code for programs and a sentence for people.

use miniserde::Serialize;

use super::response::{Headers, Payload, Response};

/// What a caller is told. Its cause, where there is more to know, goes to the log of whoever made it.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpError {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// One sentence that says what to do.
    pub message: String,
}

#[derive(Serialize)]
struct Wire<'a> {
    error: &'a str,
    message: &'a str,
}

impl HttpError {
    /// An error with these parts.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// 400 `bad_request`.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "bad_request", message)
    }

    /// Status, fields and JSON of the answer that tells it; `headers` are kept.
    pub(super) fn into_parts(self, mut headers: Headers) -> (u16, Headers, String) {
        headers.push(("Content-Type", "application/json".into()));
        (self.status, headers, miniserde::json::to_string(&Wire { error: self.code, message: &self.message }))
    }
}

impl From<HttpError> for Response {
    fn from(error: HttpError) -> Self {
        let (status, headers, body) = error.into_parts(Headers::new());
        Self { status, headers, payload: Payload::Whole(body.into_bytes()) }
    }
}
