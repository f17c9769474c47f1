//! `GET /health`: whether the client can do its work. A busy or stopping client is healthy; one that cannot store or
//! start a payload is not. One whose queue or disk is full takes no more for a while: that is for `/ready`.

use miniserde::Serialize;

use super::Api;
use crate::http::Response;

#[derive(Serialize)]
struct Report<'a> {
    status: &'a str,
    database: &'a str,
    data_path: &'a str,
    runner: &'a str,
    version: &'a str,
    draining: bool,
    waiting: u32,
    running: u32,
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api) -> Response {
    let counts = api.store.counts();
    let database = counts.as_ref().err().map(ToString::to_string);
    let data_path = api.data_path.trouble();
    let runner = api
        .runner
        .is_stuck()
        .then(|| format!("it has been at one piece of work for {} s", api.runner.stuck_for().as_secs()));
    let is_well = database.is_none() && data_path.is_none() && runner.is_none();
    let counts = counts.unwrap_or_default();
    let report = Report {
        status: if is_well { "ok" } else { "error" },
        database: database.as_deref().unwrap_or("ok"),
        data_path: data_path.as_deref().unwrap_or("ok"),
        runner: runner.as_deref().unwrap_or("ok"),
        version: env!("CARGO_PKG_VERSION"),
        draining: api.is_draining(),
        waiting: counts.waiting,
        running: counts.running,
    };
    let text = miniserde::json::to_string(&report);
    if is_well {
        Response::json(200, text)
    } else {
        Response::json(503, text).header("Retry-After", super::RETRY_AFTER_S.to_string())
    }
}
