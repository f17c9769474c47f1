//! The limit of open descriptors, raised to what MAX_CONNECTIONS needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::event;

/// Descriptors for all else: files of transfers, logs of payloads, the runtime's own.
const BESIDE_CONNECTIONS: u64 = 512;

/// Raises the soft limit as far as needed and allowed. Not to the hard limit: payloads inherit it, and there are programs
/// that walk through all descriptors they could have.
pub fn raise_descriptors(max_connections: usize) {
    let wanted = max_connections as u64 + BESIDE_CONNECTIONS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum };
    let result = setrlimit(Resource::Nofile, raised);
    if allowed < wanted || result.is_err() {
        event!(
            Warn,
            "the limit of open descriptors is too low for MAX_CONNECTIONS; raise it (ulimit -n) or lower that",
            limit = allowed,
            wanted = wanted,
        );
    }
}
