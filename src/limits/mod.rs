//! What a payload may use: time, processors, memory, processes, and room on the disk. The client's own settings bound what a payload
//! asks for by lines of its script or fields of its form (`request`). `running` has what holds for those that run, `processors` who
//! runs where. Nothing here ends a payload.

mod calls;
mod cgroup;
mod kept;
mod processors;
mod request;
mod running;

use std::time::Duration;

use crate::metrics;
use crate::settings::{self, Settings};

pub use calls::calls;
pub use cgroup::{Cgroups, Group, NoCgroups, OutOfMemory};
pub use kept::kept;
pub use processors::{Processors, Taken};
pub use request::{Request, RequestError};
pub use running::{Entry, Running};

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Milliseconds from the start to the end.
    Time,
    /// Milliseconds of CPU time of all its processes, in user and system mode.
    Cpu,
    /// Bytes of memory of all its processes.
    Memory,
    /// Its processes and their threads at once.
    Pids,
    /// Bytes of one file (RLIMIT_FSIZE, getrlimit(2)).
    File,
    /// Bytes that its directory takes on the disk.
    Disk,
    /// Processors that its threads may run on.
    Processors,
    /// Whether it may use the network: [`OFF`] or [`ON`].
    Network,
}

/// Values of [`Limit::Network`].
const OFF: u64 = 1;
const ON: u64 = 2;

/// The words by which a payload asks, as a line of its script or a field of its form has them.
pub const WORDS: &[&str] = &[
    "time_limit",
    "cpu_limit",
    "memory_limit",
    "pids_limit",
    "file_limit",
    "max_disk",
    "job_cpus",
    "network",
];

/// How the value of a limit is written.
#[derive(Clone, Copy)]
enum Unit {
    Milliseconds,
    Bytes,
    Number,
    Switch,
}

const NUMBER_OF_LIMITS: usize = 8;

/// All limits, in the order of [`Limit`].
const ALL: [Limit; NUMBER_OF_LIMITS] = [
    Limit::Time,
    Limit::Cpu,
    Limit::Memory,
    Limit::Pids,
    Limit::File,
    Limit::Disk,
    Limit::Processors,
    Limit::Network,
];

impl Limit {
    /// The word that a payload asks for it by: the name of the client's setting in small letters.
    pub fn word(self) -> &'static str {
        WORDS[self as usize]
    }

    /// The limit that `word` names.
    pub fn of_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|limit| limit.word() == word)
    }

    fn unit(self) -> Unit {
        match self {
            Self::Time | Self::Cpu => Unit::Milliseconds,
            Self::Memory | Self::File | Self::Disk => Unit::Bytes,
            Self::Pids | Self::Processors => Unit::Number,
            Self::Network => Unit::Switch,
        }
    }

    fn parse(self, text: &str) -> Option<u64> {
        match self.unit() {
            Unit::Milliseconds => settings::time(text).map(milliseconds),
            Unit::Bytes => settings::size(text),
            Unit::Switch if text == "off" => Some(OFF),
            Unit::Switch => (text == "on").then_some(ON),
            Unit::Number => text.parse::<u32>().ok().filter(|_| !text.starts_with('+')).map(u64::from),
        }
    }

    fn accepts(self) -> &'static str {
        match self.unit() {
            Unit::Milliseconds => "a time such as 90s, 15m or 2h",
            Unit::Bytes => "a number of bytes such as 512K, 16M or 2G",
            Unit::Number => "a whole number",
            Unit::Switch => "on or off",
        }
    }

    /// A value as it can be given.
    pub fn shown(self, value: u64) -> String {
        match self.unit() {
            Unit::Milliseconds => settings::shown(Duration::from_millis(value)),
            Unit::Bytes => settings::shown_size(value),
            Unit::Number => value.to_string(),
            Unit::Switch => if value == OFF { "off" } else { "on" }.to_owned(),
        }
    }

    /// Why a payload was ended that went beyond a limit of this value: names the limit, with its value. Counts it.
    pub fn reason(self, value: u64) -> String {
        metrics::LIMITS.add(self.word());
        let what = match self {
            Self::Time => "it ran longer than",
            Self::Cpu => "its processes used more CPU time than",
            Self::Memory => "its processes took more memory than",
            Self::Pids => "it had more processes and threads than",
            Self::File => "a file that it wrote came to",
            Self::Disk => {
                return format!(
                    "its directory and its temporary files took more than MAX_DISK, {value} bytes"
                );
            }
            Self::Processors => "it used more processors than",
            Self::Network => "it used more of the network than",
        };
        format!("{what} {}, {}", self.word().to_uppercase(), self.shown(value))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a payload may use at the most, of everything that can be limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant([Option<u64>; NUMBER_OF_LIMITS]);

impl Grant {
    /// What the client itself grants to each payload. `processors`: how many it may use; 0 where that is not known.
    pub fn of_client(settings: &Settings, processors: usize) -> Self {
        let usable = Some(processors as u64).filter(|number| *number > 0);
        let wanted = settings.job_cpus.map(u64::from);
        let mut grant = Self::default();
        grant.set(Limit::Time, settings.time_limit.map(milliseconds));
        grant.set(Limit::Cpu, settings.cpu_limit.map(milliseconds));
        grant.set(Limit::Memory, settings.memory_limit);
        grant.set(Limit::Pids, settings.pids_limit.map(u64::from));
        grant.set(Limit::File, settings.file_limit);
        grant.set(Limit::Disk, settings.max_disk);
        grant.set(Limit::Processors, [wanted, usable].into_iter().flatten().min());
        grant.set(Limit::Network, (!settings.network).then_some(OFF));
        grant
    }

    /// The value of a limit; `None` for as much as it likes.
    pub fn get(&self, limit: Limit) -> Option<u64> {
        self.0[limit as usize]
    }

    /// Whether the network is for it.
    pub fn has_network(&self) -> bool {
        self.get(Limit::Network) != Some(OFF)
    }

    /// A limit in milliseconds as a time.
    pub fn time(&self, limit: Limit) -> Option<Duration> {
        self.get(limit).map(Duration::from_millis)
    }

    fn set(&mut self, limit: Limit, value: Option<u64>) {
        self.0[limit as usize] = value.filter(|value| *value > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_place_and_its_word() {
        for (index, limit) in ALL.into_iter().enumerate() {
            assert_eq!((limit as usize, WORDS.len()), (index, NUMBER_OF_LIMITS));
            assert_eq!(Limit::of_word(limit.word()), Some(limit));
            let mut grant = Grant::default();
            grant.set(limit, Some(7));
            assert_eq!(ALL.map(|other| grant.get(other) == Some(7)), ALL.map(|other| other == limit));
        }
    }

    #[test]
    fn a_value_is_shown_as_it_can_be_given_and_a_reason_names_limit_and_value() {
        for (limit, text) in [
            (Limit::Time, "2h"),
            (Limit::Cpu, "1500ms"),
            (Limit::Memory, "2G"),
            (Limit::File, "1000"),
            (Limit::Pids, "64"),
            (Limit::Processors, "2"),
            (Limit::Network, "off"),
        ] {
            let value = limit.parse(text).expect("a value");
            assert_eq!(limit.shown(value), text);
            let reason = limit.reason(value);
            assert!(reason.ends_with(&format!(" {}, {text}", limit.word().to_uppercase())), "{reason}");
        }
        assert!(Limit::Disk.reason(3000).ends_with("MAX_DISK, 3000 bytes"));
    }
}
