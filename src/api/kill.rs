//! `POST /kill/{id}`: ends a payload. The store decides at once; the runner ends the processes.

use super::{Api, unknown_id};
use crate::event;
use crate::http::{HttpError, Response};
use crate::payload::PayloadId;
use crate::store::Killed;

pub(super) fn post(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    let found = api.store.kill(id, "killed by request")?.ok_or_else(unknown_id)?;
    if found == Killed::Running {
        api.runner.kill(id);
    }
    let state = match found {
        Killed::Running => "running",
        Killed::Waiting => "waiting",
        Killed::Ended => "ended",
    };
    event!(Info, "kill requested", payload = id, state = state);
    Ok(Response::empty(200))
}
