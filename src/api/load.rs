//! `GET /load`: CPU use of the host in percent, as a bare JSON number.

use super::Api;
use crate::http::Response;

pub(super) fn get(api: &Api) -> Response {
    Response::json(200, format!("{:.1}", api.load.percent()))
}
