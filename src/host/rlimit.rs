//! The limits of this process: that of open descriptors is raised to what connections, transfers and payloads need together, and
//! payloads get what the client was started with.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Room;
use crate::event;

/// Descriptors that are always there or soon may be: the runtime's own, and connections that are told that they are too many.
const FIXED: u64 = 128;

/// Places that payloads may open and that are kept open for them (`sandbox/rules`), at the most.
const PLACES: u64 = 96;

/// Of a payload: its logs, the pipes of MAX_LOG, and what its start needs for a moment.
const PAYLOAD: u64 = 6;

/// Of an upload: its directory, a file, and what makes it a payload.
const UPLOAD: u64 = 4;

/// Of a download: the levels of directories that its walk keeps open (`archive/walk`), a file, and the spool of its own directory.
const DOWNLOAD: u64 = 24;

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

/// Raises the soft limit as far as needed and allowed. Gives how many of each may be there at once, so that none takes what another one that has
/// begun still needs: a transfer has its descriptors with its thread.
pub fn raise_descriptors(room: Room, slots: usize) -> Room {
    let wanted = needed(room, slots, u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return room;
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum };
    let result = setrlimit(Resource::Nofile, raised);
    let granted = if result.is_ok() { wanted.min(allowed) } else { limit.current.unwrap_or(wanted) };
    let given = divide(granted, room, slots);
    if given != room {
        event!(
            Warn,
            "the limit of open descriptors is too low for MAX_CONNECTIONS; raise it (ulimit -n) or lower that",
            limit = granted,
            wanted = wanted,
            connections = given.connections,
            uploads = given.uploads,
            downloads = given.downloads,
        );
    }
    given
}

/// Whether this process can have two more descriptors now, which an upload takes: its directory, and a file. Never waits.
pub fn has_descriptors() -> bool {
    let descriptors = [(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC));
    !descriptors.iter().any(|made| matches!(made, Err(Errno::MFILE | Errno::NFILE)))
}

/// How many places are kept open under this limit of descriptors. Those above that are opened when they are needed.
fn places(limit: u64) -> u64 {
    (limit / 8).min(PLACES)
}

/// The same under the limit of this process.
pub fn places_now() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(places(limit)).unwrap_or(0)
}

fn needed(room: Room, slots: usize, limit: u64) -> u64 {
    let Room { connections, uploads, downloads, .. } = room;
    FIXED
        + places(limit)
        + slots as u64 * PAYLOAD
        + connections as u64
        + uploads as u64 * UPLOAD
        + downloads as u64 * DOWNLOAD
}

/// Transfers have what connections leave, but a quarter at the least.
fn divide(granted: u64, room: Room, slots: usize) -> Room {
    let left = granted.saturating_sub(FIXED + places(granted) + slots as u64 * PAYLOAD).max(granted / 4);
    let least = |number: u64, most: usize| usize::try_from(number).unwrap_or(most).clamp(1, most.max(1));
    let share = left.saturating_sub(room.connections as u64).max(left / 4);
    let uploads = least(share / (UPLOAD + DOWNLOAD), room.uploads);
    let downloads = least(share.saturating_sub(uploads as u64 * UPLOAD) / DOWNLOAD, room.downloads);
    let transfers = uploads as u64 * UPLOAD + downloads as u64 * DOWNLOAD;
    Room { connections: least(left.saturating_sub(transfers), room.connections), uploads, downloads, ..room }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { connections: 4096, refusals: 64, uploads: 64, downloads: 512 };

    #[test]
    fn what_is_needed_is_enough_and_less_is_shared() {
        for granted in [needed(ROOM, 4, u64::MAX), 8192, 4096, 1024, 512] {
            let given = divide(granted, ROOM, 4);
            assert!(needed(given, 4, granted) <= granted, "{granted}: {given:?}");
            assert!(given.connections as u64 >= granted.min(8192) / 4, "{granted}: {given:?}");
        }
        assert_eq!(divide(0, ROOM, 4), Room { connections: 1, refusals: 64, uploads: 1, downloads: 1 });
    }
}
