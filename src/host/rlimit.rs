//! The limit of open descriptors, raised to what MAX_CONNECTIONS needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::event;

/// Descriptors for all else: files of transfers, logs of payloads, the runtime's own. Where the limit is too low for both,
/// half of it.
const BESIDE_CONNECTIONS: u64 = 512;

/// Raises the soft limit as far as needed and allowed. Not to the hard limit: payloads inherit it, and there are programs
/// that walk through all descriptors they could have. Gives how many connections may be open at once, so that a storm of
/// them leaves descriptors for the files and processes of those that are served.
pub fn raise_descriptors(max_connections: usize) -> usize {
    let wanted = max_connections as u64 + BESIDE_CONNECTIONS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return max_connections;
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum };
    let result = setrlimit(Resource::Nofile, raised);
    let granted = if result.is_ok() { wanted.min(allowed) } else { limit.current.unwrap_or(wanted) };
    let left = granted.saturating_sub(BESIDE_CONNECTIONS).max(granted / 2);
    let connections = usize::try_from(left).unwrap_or(max_connections).min(max_connections);
    if granted < wanted {
        event!(
            Warn,
            "the limit of open descriptors is too low for MAX_CONNECTIONS; raise it (ulimit -n) or lower that",
            limit = granted,
            wanted = wanted,
            connections = connections,
        );
    }
    connections
}
