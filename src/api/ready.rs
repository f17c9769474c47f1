//! `GET /ready`: whether a payload would be taken now, and why not. What is refused here for a while is no fault:
//! `/health` stays 200, since a busy client must not be restarted.

use miniserde::Serialize;

use super::{Api, RETRY_AFTER_S};
use crate::data::path::Free;
use crate::host::rlimit;
use crate::http::{HttpError, Response};
use crate::runner::Obstacle;

#[derive(Serialize)]
struct NotReady {
    error: &'static str,
    message: String,
    reasons: Vec<&'static str>,
}

#[inline(never)] // as all handlers: see `Api::answer`
pub(super) fn get(api: &Api) -> Response {
    let mut obstacles = obstacles(api, 0, api.data_path.free());
    // An upload is taken all the same: it waits with the others.
    obstacles.extend(api.runner.obstacle().as_ref().map(cannot_start));
    if !rlimit::has_descriptors() {
        obstacles.push(no_descriptors());
    }
    if obstacles.is_empty() {
        return Response::json(200, r#"{"status":"ready"}"#);
    }
    let sentences: Vec<&str> = obstacles.iter().map(|obstacle| obstacle.message.as_str()).collect();
    let report = NotReady {
        error: "not_ready",
        message: sentences.join(" "),
        reasons: obstacles.iter().map(|obstacle| obstacle.code).collect(),
    };
    Response::json(503, miniserde::json::to_string(&report)).header("Retry-After", RETRY_AFTER_S.to_string())
}

/// All that is in the way of a payload of so many bytes, the gravest first. Each is the answer to an upload as well.
pub(super) fn obstacles(api: &Api, bytes: u64, free: Free) -> Vec<HttpError> {
    let mut found = Vec::new();
    if api.is_draining() {
        found.push(draining());
    }
    if let Some(trouble) = api.data_path.trouble() {
        let message = format!("The client's disk does not work now: {trouble}.");
        found.push(HttpError::new(503, "disk_failed", message).retry_after(RETRY_AFTER_S));
    }
    if api.ids.are_used_up() {
        found.push(ids_used_up());
    }
    if api.store.waiting() >= api.bounds.max_queue {
        found.push(queue_full());
    }
    let low = disk_low(free, bytes, api.bounds.min_free);
    found.extend(low.or_else(|| api.data_path.is_full().then(disk_full)));
    found
}

pub(super) fn draining() -> HttpError {
    let message =
        "The client is being stopped and takes no new payload; send it elsewhere, or after its restart.";
    HttpError::new(503, "stopping", message).retry_after(RETRY_AFTER_S)
}

fn cannot_start(obstacle: &Obstacle) -> HttpError {
    let reason = obstacle.reason().trim_end_matches('.');
    match obstacle {
        Obstacle::Lack(_) => {
            let message = format!("Payloads cannot be started now, and wait: {reason}.");
            HttpError::new(503, "cannot_start", message)
        }
        Obstacle::Strain(_) => {
            let message = format!("Payloads wait until the host is within its bounds: {reason}.");
            HttpError::new(503, "host_busy", message)
        }
    }
    .retry_after(RETRY_AFTER_S)
}

pub(super) fn no_descriptors() -> HttpError {
    let message = "The client has no free descriptor for a file; send it again later, or elsewhere.";
    HttpError::new(503, "no_descriptors", message).retry_after(RETRY_AFTER_S)
}

pub(super) fn ids_used_up() -> HttpError {
    let message = "All payload ids are used up; give the client a new DATA_PATH, or send it elsewhere.";
    HttpError::new(503, "ids_used_up", message).retry_after(RETRY_AFTER_S)
}

pub(super) fn queue_full() -> HttpError {
    let message = "MAX_QUEUE payloads wait for a slot; send it again later, or elsewhere.";
    HttpError::new(503, "queue_full", message).retry_after(RETRY_AFTER_S)
}

/// The numbers do not tell all: of a quota, say, or of room that only large writes find.
fn disk_full() -> HttpError {
    let message =
        "The client's disk takes no more, as its last write told; free space there, or send it elsewhere.";
    HttpError::new(503, "disk_low", message).retry_after(RETRY_AFTER_S)
}

/// Whether writing so many bytes would leave less than MIN_FREE, or nothing.
pub(super) fn disk_low(free: Free, bytes: u64, min_free: Free) -> Option<HttpError> {
    let message = if free.bytes < min_free.bytes.max(1) {
        format!(
            "{} bytes are free on the client's disk, {} have to stay free (MIN_FREE); free space there, or send it elsewhere.",
            free.bytes,
            min_free.bytes.max(1)
        )
    } else if free.bytes.saturating_sub(bytes) < min_free.bytes.max(1) {
        let kept = match min_free.bytes {
            0 => String::new(),
            least => format!(", of which {least} have to stay free (MIN_FREE)"),
        };
        format!(
            "The upload has {bytes} bytes, and {} are free on the client's disk{kept}; free space there, or send less.",
            free.bytes
        )
    } else if free.inodes < min_free.inodes.max(1) {
        format!(
            "{} inodes are free on the client's disk, {} have to stay free (MIN_FREE_INODES); remove files there.",
            free.inodes, min_free.inodes
        )
    } else {
        return None;
    };
    Some(HttpError::new(503, "disk_low", message).retry_after(RETRY_AFTER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_stay_free_stays_free() {
        let least = Free { bytes: 100, inodes: 10 };
        for (free_bytes, inodes, bytes, is_low) in [
            (150, 10, 50, false),
            (150, 10, 51, true),
            (10, 10, u64::MAX, true),
            (100, 10, 0, false),
            (99, 10, 0, true),
            (1000, 9, 0, true),
        ] {
            let error = disk_low(Free { bytes: free_bytes, inodes }, bytes, least);
            assert_eq!(error.is_some(), is_low, "{free_bytes} {inodes} {bytes}: {error:?}");
        }
        let any = Free { bytes: 0, inodes: 0 };
        assert!(disk_low(any, 0, any).is_some(), "a full disk is always low");
        assert_eq!(disk_low(Free { bytes: 2, inodes: 1 }, 1, any), None);
    }

    #[test]
    fn an_upload_larger_than_the_disk_is_told_as_that() {
        let told = |bytes, least| {
            let least = Free { bytes: least, inodes: 0 };
            disk_low(Free { bytes: 100, inodes: 1 }, bytes, least)
                .map(|error| error.message)
                .unwrap_or_default()
        };
        assert!(told(700, 0).starts_with("The upload has 700 bytes, and 100 are free on the client's disk;"));
        assert!(
            told(700, 9)
                .contains("100 are free on the client's disk, of which 9 have to stay free (MIN_FREE)")
        );
        assert!(
            told(700, 101)
                .starts_with("100 bytes are free on the client's disk, 101 have to stay free (MIN_FREE)")
        );
    }
}
