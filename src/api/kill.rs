//! `POST /kill/{id}`: ends a payload. The store decides at once; the runner ends the processes; the answer waits for the note of
//! it on the disk, so that no later life could undo what was answered.

use std::io::ErrorKind;
use std::time::Duration;

use super::{Api, RETRY_AFTER_S, unknown_id};
use crate::event;
use crate::http::{HttpError, Response, wait_for_disk};
use crate::payload::PayloadId;
use crate::store::Killed;

/// How long a kill waits for its note.
const NOTE_WAIT: Duration = Duration::from_secs(2);

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn post(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    let (state, is_noted) = match api.store.kill(id, "killed by request")?.ok_or_else(unknown_id)? {
        Killed::Running => {
            api.runner.kill(id);
            ("running", false)
        }
        Killed::Waiting => ("waiting", false),
        Killed::EndedUnnoted => ("ended", false),
        Killed::Ending => ("ending", true),
        Killed::Ended => ("ended", true),
    };
    event!(Info, "kill requested", payload = id, state = state);
    if !is_noted {
        note(api, id)?;
    }
    Ok(Response::empty(200))
}

/// Once this is answered, no later life of the client may start the payload, or tell that it ended otherwise. Whoever asks
/// again waits for the same note.
fn note(api: &Api, id: PayloadId) -> Result<(), HttpError> {
    let records = api.records.clone();
    let noted = if api.data_path.stuck_for().is_some() {
        records.note_soon(id);
        Err(ErrorKind::TimedOut.into())
    } else {
        wait_for_disk(&api.disk, &api.watch, NOTE_WAIT, move || records.note(id))
    };
    noted.flatten().map_err(|error| {
        event!(Error, "a kill cannot be noted yet", payload = id, error = error);
        let message = "The payload is not started, is being ended, or has ended, but the client's disk does not take the note of it now: if \
                       the client is restarted before that works, that is not known. It is tried again; send this again \
                       later.";
        HttpError::new(503, "not_noted", message).retry_after(RETRY_AFTER_S)
    })
}
