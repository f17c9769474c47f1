//! The client that is measured: where it listens, and what the kernel tells of its process (the manual pages
//! `proc_pid_status(5)` and `proc_pid_smaps(5)`).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A running client, not started here.
#[derive(Clone, Copy)]
pub struct Client {
    pub at: SocketAddr,
    pub process: Process,
}

/// A process by its id.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// Resident memory now. From `smaps_rollup`, which counts pages; `VmRSS` may be off by dozens of pages for each CPU.
    pub fn rss_mib(self) -> io::Result<f64> {
        kib_of("Rss", &self.read("smaps_rollup")?).map(to_mib)
    }

    /// The same, with what is shared divided among those who share it.
    pub fn pss_mib(self) -> io::Result<f64> {
        kib_of("Pss", &self.read("smaps_rollup")?).map(to_mib)
    }

    /// The most that has been resident since [`Process::forget_peak`].
    pub fn peak_rss_mib(self) -> io::Result<f64> {
        kib_of("VmHWM", &self.read("status")?).map(to_mib)
    }

    pub fn forget_peak(self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5")
    }

    /// Context switches so far, wanted or not, of each thread that is there.
    pub fn switches(self) -> io::Result<HashMap<String, u64>> {
        let mut switches = HashMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end between the listing and the reading.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            let thread = field("Pid", &status).unwrap_or_default().to_owned();
            let count = |name| field(name, &status).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            switches.insert(thread, count("voluntary_ctxt_switches") + count("nonvoluntary_ctxt_switches"));
        }
        Ok(switches)
    }

    /// CPU time so far of all its threads, in the kernel and outside, in steps of 10 ms (`proc_pid_stat(5)`: in `USER_HZ`, which
    /// is 100 on every machine that this runs on).
    pub fn cpu(self) -> io::Result<Duration> {
        let stat = self.read("stat")?;
        // The name of the program stands in parentheses and may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(10 * ticks))
    }

    /// Children that have ended and were not waited for.
    pub fn zombies(self) -> io::Result<usize> {
        let is_zombie = |status: &String| field("State", status).is_some_and(|state| state.starts_with('Z'));
        Ok(self.statuses_of_children()?.filter(is_zombie).count())
    }

    pub fn children(self) -> io::Result<Vec<Self>> {
        let pid = |status: String| field("Pid", &status)?.parse().ok().map(Self);
        Ok(self.statuses_of_children()?.filter_map(pid).collect())
    }

    fn statuses_of_children(self) -> io::Result<impl Iterator<Item = String>> {
        let parent = self.0.to_string();
        let statuses = fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
        Ok(statuses.filter(move |status| field("PPid", status) == Some(&parent)))
    }

    fn read(self, file: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0))
    }
}

fn field<'s>(name: &str, status: &'s str) -> Option<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim)
}

fn kib_of(name: &str, status: &str) -> io::Result<f64> {
    let kib = field(name, status).and_then(|value| value.strip_suffix(" kB")?.trim().parse().ok());
    kib.ok_or_else(|| io::Error::other(format!("/proc does not tell {name}")))
}

fn to_mib(kib: f64) -> f64 {
    kib / 1024.0
}
