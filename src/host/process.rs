//! What this process takes of the machine, from /proc/self (proc(5)).

use std::fs;

use rustix::fs::stat;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// What this process takes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// CPU time of all its threads, in microseconds.
    pub cpu_us: u64,
    /// Resident set, in bytes.
    pub resident_bytes: u64,
    /// Address space, in bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// How many it may have; `None` for any number.
    pub most_descriptors: Option<u64>,
}

/// Looks at it. What the kernel does not tell is 0.
pub fn look() -> Process {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_us =
        u64::try_from(cpu.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(cpu.tv_nsec).unwrap_or(0) / 1000;
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').map(|number| number.parse::<u64>().unwrap_or(0));
    let page = rustix::param::page_size() as u64;
    let (virtual_bytes, resident_bytes) =
        (pages.next().unwrap_or(0) * page, pages.next().unwrap_or(0) * page);
    let of_self = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Process {
        cpu_us,
        resident_bytes,
        virtual_bytes,
        threads: threads(&of_self).unwrap_or(0),
        descriptors: descriptors(),
        most_descriptors: getrlimit(Resource::Nofile).current,
    }
}

/// The 20th field. The name of the program, the second, may hold spaces and brackets.
fn threads(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(17)?.parse().ok()
}

/// The size of the directory since Linux 6.2; before that they are counted.
fn descriptors() -> u64 {
    const DIRECTORY: &str = "/proc/self/fd";
    match stat(DIRECTORY).map(|stat| u64::try_from(stat.st_size)) {
        Ok(Ok(count)) if count > 0 => count,
        _ => fs::read_dir(DIRECTORY).map_or(0, |entries| entries.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let now = look();
        assert!(now.resident_bytes > 100_000 && now.virtual_bytes >= now.resident_bytes, "{now:?}");
        assert!(now.threads > 0 && now.descriptors > 2 && now.cpu_us > 0, "{now:?}");
        assert_eq!(threads("1 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 42 18"), Some(42));
    }
}
