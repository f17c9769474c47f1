//! The limits of this process: that of open descriptors is raised to what MAX_CONNECTIONS needs, and payloads get what the
//! client was started with.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::event;

/// Descriptors for all else: files of transfers, logs of payloads, the runtime's own. Where the limit is too low for both,
/// half of it.
const BESIDE_CONNECTIONS: u64 = 512;

/// All that Linux has.
const ALL: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// All limits of this process as they are now.
pub fn all() -> Vec<(Resource, Rlimit)> {
    ALL.map(|resource| (resource, getrlimit(resource))).to_vec()
}

/// Those of `before` that are other ones now: what a payload has to be given to have the limits that the client was started
/// with.
pub fn changed_since(mut before: Vec<(Resource, Rlimit)>) -> Vec<(Resource, Rlimit)> {
    before.retain(|(resource, limit)| getrlimit(*resource) != *limit);
    before
}

/// Raises the soft limit as far as needed and allowed. Gives how many connections may be open at once, so that a storm of
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
