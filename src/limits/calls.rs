//! What the child of a payload does before its program, so that the kernel keeps its limits.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::{Grant, Group, Limit, Taken};
use crate::sys::Call;

/// Its group, its processors, and the limits of each of its processes.
pub fn calls(grant: &Grant, processors: Option<&Taken>, group: Option<&Group>) -> Vec<Call> {
    let mut calls: Vec<Call> = group.map(Group::join).into_iter().collect();
    if let Some(cpu) = grant.get(Limit::Cpu) {
        // Of one process, in whole seconds. SIGXCPU tells why it ended; who does not heed it gets SIGKILL (setrlimit(2)).
        let seconds = cpu.div_ceil(1000);
        calls.push(lowered(Resource::Cpu, seconds, seconds.saturating_add(1)));
    }
    if let Some(bytes) = grant.get(Limit::File) {
        calls.push(lowered(Resource::Fsize, bytes, bytes));
    }
    calls.extend(processors.map(|taken| Call::Affinity(taken.mask())));
    calls
}

/// A limit that is no higher than this process's own, which nobody may raise.
fn lowered(resource: Resource, soft: u64, hard: u64) -> Call {
    let own = getrlimit(resource);
    let least = |own: Option<u64>, wanted: u64| Some(own.unwrap_or(u64::MAX).min(wanted));
    let maximum = least(own.maximum, hard);
    Call::Limit(resource, Rlimit { current: least(own.current, soft).min(maximum), maximum })
}
