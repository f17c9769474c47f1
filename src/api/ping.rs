//! `GET /`: the sign of life that the server's users know.

use crate::http::Response;

pub(super) fn get() -> Response {
    Response::json(200, r#"{"message":"pong"}"#)
}
