//! `POST /kill/{id}`: ends a payload. The store decides at once; the runner ends the processes.

use std::time::Duration;

use super::{Api, unknown_id};
use crate::event;
use crate::http::{HttpError, Response, wait_for_disk};
use crate::payload::{Payload, PayloadId};
use crate::store::Killed;

/// How long a kill waits for its note.
const NOTE_WAIT: Duration = Duration::from_secs(2);

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn post(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    let state = match api.store.kill(id, "killed by request")?.ok_or_else(unknown_id)? {
        Killed::Running => {
            api.runner.kill(id);
            "running"
        }
        Killed::Waiting(payload) => {
            note(api, *payload)?;
            "waiting"
        }
        Killed::Ended => "ended",
    };
    event!(Info, "kill requested", payload = id, state = state);
    Ok(Response::empty(200))
}

/// Once this is answered, no later life of the client may start the payload.
fn note(api: &Api, payload: Payload) -> Result<(), HttpError> {
    let (id, records) = (payload.id, api.records.clone());
    let noted = wait_for_disk(&api.disk, &api.watch, NOTE_WAIT, move || records.save(&payload));
    noted.flatten().map_err(|error| {
        event!(Error, "cannot write the record", payload = id, error = error);
        let message = "The payload is killed, but the client's disk failed and cannot be told yet: if the client is restarted \
                       before that works, the payload starts; see the log, and send this again later.";
        HttpError::new(500, "disk_failed", message)
    })
}
