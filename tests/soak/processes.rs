//! What the kernel says about the client and the processes of its payloads.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub descriptors: usize,
    pub threads: usize,
    pub rss_kib: u64,
    pub peak_kib: u64,
}

impl Held {
    pub fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
            threads: fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count),
            rss_kib: kib("VmRSS:").unwrap_or(0),
            peak_kib: kib("VmHWM:").unwrap_or(0),
        }
    }

    /// The figures once they no longer exceed these descriptors and threads, or when the wait is over: idle threads and
    /// connections stay for some seconds.
    pub fn settled(pid: u32, descriptors: usize, threads: usize, wait: Duration) -> Self {
        let deadline = Instant::now() + wait;
        loop {
            let held = Self::by(pid);
            let is_settled = held.descriptors <= descriptors && held.threads <= threads;
            if is_settled || Instant::now() >= deadline {
                return held;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A process for good: its number may be given anew, its number and start time are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: String,
    started: String,
}

impl Process {
    /// `None` for one that is gone or a zombie.
    fn alive(pid: String) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // proc_pid_stat(5): the state is field 3, the start time field 22.
        (fields[0] != "Z").then(|| Self { pid, started: fields[19].to_owned() })
    }

    pub fn is_alive(&self) -> bool {
        Self::alive(self.pid.clone()).as_ref() == Some(self)
    }
}

/// The live processes of payloads below `data`, by the environment that they were started with. Those that cleared it are
/// told by where their output goes.
pub fn of_payloads(data: &Path) -> Vec<Process> {
    let mark = format!("PAYLOAD_DIR={}/", data.display());
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let output = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
                || (output.starts_with(data) && output.ends_with(".orchestrator.out"))
        })
        .filter_map(Process::alive)
        .collect()
}
