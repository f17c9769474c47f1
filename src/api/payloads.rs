//! `GET /payloads`, `GET /payloads/{id}` and `DELETE /payloads/{id}`: which payloads there are, how one stands, and its removal.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::results::data_path_away;
use super::retrieve::wait_for_end;
use super::{Api, kill, value_of};
use crate::event;
use crate::http::{HttpError, Request, Response, wait_for_disk};
use crate::payload::{PayloadId, Status};

/// How many payloads a page has: a page is read with the store locked, and is made in memory.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 200;

/// How long a removal waits for the end of the payload: a little more than the default of KILL_GRACE.
const END_WAIT: Duration = Duration::from_secs(10);

/// What is asked for of the list.
#[derive(Debug, PartialEq)]
struct Page {
    status: Option<Status>,
    before: Option<PayloadId>,
    limit: u32,
}

impl Page {
    fn of(query: &str) -> Result<Self, HttpError> {
        let status = value_of(query, "status").map(Status::from_word).transpose().map_err(|_| {
            let words = "Prepared, Running, Completed, Failed, Invalid, Killed or Cleaned";
            HttpError::bad_request(format!("status takes one of {words}."))
        })?;
        let before = value_of(query, "before").map(str::parse).transpose().map_err(|_| {
            HttpError::bad_request("before takes the id of a payload: the list goes on with those before it.")
        })?;
        let limit = value_of(query, "limit").map_or(Ok(DEFAULT_LIMIT), |text| {
            let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            limit.ok_or_else(|| HttpError::bad_request(format!("limit takes a number, 1 to {MAX_LIMIT}.")))
        })?;
        Ok(Self { status, before, limit })
    }
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn list(api: &Api, query: &str) -> Result<Response, HttpError> {
    let Page { status, before, limit } = Page::of(query)?;
    // One more tells whether there is a next page.
    let mut payloads = api.store.newest(status, before, limit + 1)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = payloads.len() > most;
    payloads.truncate(most);
    let next = payloads.last().filter(|_| has_more).map_or("null".to_owned(), |last| last.id.to_string());
    let mut json = String::from("{\"payloads\":[");
    for (index, payload) in payloads.iter().enumerate() {
        json.push_str(if index > 0 { "," } else { "" });
        json.push_str(&payload.to_json());
    }
    json.extend(["],\"next\":", &*next, "}"]);
    Ok(Response::json(200, json))
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api, id: PayloadId) -> Result<Response, HttpError> {
    Ok(Response::json(200, api.find(id)?.to_json()))
}

/// Ends the payload if it has not ended, and removes its directory. What does not come to its end in time is removed when it has;
/// then the answer is 202.
#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn delete(api: &Api, id: PayloadId, request: &Request<'_, '_>) -> Result<Response, HttpError> {
    let payload = api.find(id)?;
    if payload.status == Status::Cleaned {
        return Ok(Response::json(200, payload.to_json()));
    }
    if let Some(since) = api.data_path.stuck_for() {
        return Err(HttpError::disk_stuck(since));
    }
    // Before the kill, whose note on the disk tells it to the next life.
    api.store.set_unwanted(id)?;
    event!(Info, "removal requested", payload = id, status = payload.status.to_string());
    if !payload.has_ended() {
        kill::post(api, id)?;
        wait_for_end(api, id, END_WAIT, &request.body.caller());
    }
    let is_removed = api.find(id)?.has_ended() && remove_now(api, id)?;
    Ok(Response::json(if is_removed { 200 } else { 202 }, api.find(id)?.to_json()))
}

/// Gives whether that was done in the time that a request has.
fn remove_now(api: &Api, id: PayloadId) -> Result<bool, HttpError> {
    let owner = api.clone();
    match wait_for_disk(&api.disk, &api.watch, api.disk_timeout, move || owner.remove(id)).flatten() {
        Ok(()) => Ok(true),
        // It goes on by itself.
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
        Err(error) => {
            api.data_path.suspect(&error);
            event!(Error, "a removal has to wait for the disk", payload = id, error = error);
            Err(data_path_away())
        }
    }
}

impl Api {
    /// Removes the directory of a payload that has ended. The next life knows of it too before the first file goes.
    fn remove(&self, id: PayloadId) -> io::Result<()> {
        self.data_path.must_be_in_place()?;
        self.records.note(id)?;
        for (id, directory) in self.store.clean_unwanted(Some(id)).map_err(io::Error::other)? {
            self.remover.clean(id, &directory);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_the_query_says_or_is_refused() {
        let page = Page { status: None, before: None, limit: DEFAULT_LIMIT };
        assert_eq!(Page::of(""), Ok(page));
        let page = Page { status: Some(Status::Failed), before: Some(7), limit: 1 };
        assert_eq!(Page::of("limit=1&status=Failed&before=7"), Ok(page));
        for bad in ["limit=0", "limit=201", "limit=", "before=x", "before=-1", "status=failed", "status="] {
            assert!(Page::of(bad).is_err(), "{bad}");
        }
    }
}
