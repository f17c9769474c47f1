//! The table of all settings: names, defaults, what they take and do. Nothing here reads a value.

use std::fmt::{self, Write as _};

use super::callers::Token;

/// One setting, as the help shows it.
pub struct Setting {
    /// Name in the environment; the flag is the same in lower case with dashes.
    pub name: &'static str,
    /// Default, in words where it is not one value.
    pub default: &'static str,
    /// What is accepted.
    pub accepts: Takes,
    /// What it does.
    pub help: &'static str,
}

impl Setting {
    /// The flag without its dashes, such as `max-age`.
    pub fn flag(&self) -> String {
        self.name.to_lowercase().replace('_', "-")
    }

    /// Whether its flag is accepted. Every process of a host can read the command lines of all others (`proc_pid_cmdline(5)`), so
    /// a secret is no part of one.
    pub fn has_flag(&self) -> bool {
        self.name != TOKEN.name
    }
}

/// What a setting takes: its rule, and the words for it, from one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Takes {
    /// What no other variant tells, in words.
    Text(&'static str),
    /// One of these.
    Words(&'static [&'static str]),
    /// A whole number, from the first to the second.
    Number(u32, u32),
    /// A time of so many milliseconds at the least.
    Time(u64),
    /// 0, or so many bytes at the least.
    Size(u64),
}

use Takes::{Number, Size, Text, Words};

impl fmt::Display for Takes {
    /// As the error line says it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text(text) => formatter.write_str(text),
            Words(words) => write!(formatter, "one of {}", words.join(", ")),
            Number(least, most) => write!(formatter, "a whole number, {least} to {most}"),
            Self::Time(0) => formatter.write_str("a time, such as 0, 90 or 90s, 500ms, 15m, 12h, 10d"),
            Self::Time(least) => {
                write!(formatter, "a time from {least}ms, such as 90 or 90s, 500ms, 15m, 12h, 10d")
            }
            Size(0) => formatter.write_str("a number of bytes, such as 0, 1048576, 512K, 16M, 2G, 1T"),
            Size(least) => write!(formatter, "0, or a number of bytes from {least}, such as 64K, 2M"),
        }
    }
}

impl Takes {
    /// As the help says it behind what the setting does; empty where that says it already.
    fn in_help(self) -> String {
        match self {
            Words([before @ .., last]) => format!(" ({} or {last})", before.join(", ")),
            Number(0, u32::MAX) => String::new(),
            Number(least, u32::MAX) => format!(" (from {least})"),
            Number(least, most) => format!(" ({least} to {most})"),
            Size(least) if least > 0 => format!(" (from {least})"),
            _ => String::new(),
        }
    }
}

const TIME: Takes = Takes::Time(1);
const TIME_OR_NONE: Takes = Takes::Time(0);
const COUNT_OR_NONE: Takes = Number(0, u32::MAX);
const SIZE: Takes = Size(0);
const SWITCH: Takes = Words(&["on", "off"]);
const PLACES: Takes = Text("absolute paths with colons between them, such as /srv/sets:/home/pi/venv");

pub(super) const PORT: Setting = Setting {
    name: "PORT",
    default: "9000",
    accepts: Text("a port number, 0 to 65535"),
    help: "port to listen on; 0 picks a free one",
};
pub(super) const HOST: Setting = Setting {
    name: "HOST",
    default: "::",
    accepts: Text(
        "an IP address without brackets, such as 127.0.0.1, 0.0.0.0, ::1 or ::, or unix: and an absolute path",
    ),
    help: "address to listen on, or unix:/path for a Unix socket",
};
pub(super) const UNIX_MODE: Setting = Setting {
    name: "UNIX_MODE",
    default: "0660",
    accepts: Text("permission bits in octal, 0 to 0777"),
    help: "who may connect to the Unix socket of HOST, as chmod takes it",
};
pub(super) const TOKEN: Setting = Setting {
    name: "TOKEN",
    default: "none",
    accepts: Text(Token::ACCEPTS),
    help: "what callers must know to use any route but /, /health and /ready; in the environment only",
};
pub(super) const TOKEN_FILE: Setting = Setting {
    name: "TOKEN_FILE",
    default: "none",
    accepts: Text("a file that can be read, with one token in it"),
    help: "the same, read from a file at the start",
};
pub(super) const ALLOW_FROM: Setting = Setting {
    name: "ALLOW_FROM",
    default: "none",
    accepts: Text(
        "IP addresses and networks with commas between them, such as 192.0.2.7,10.0.0.0/8,fd00::/8",
    ),
    help: "whose requests are answered; none: everybody's",
};
pub(super) const DATA_PATH: Setting = Setting {
    name: "DATA_PATH",
    default: "/opt/data, else ./data",
    accepts: Text("a directory that can be made and written"),
    help: "where the payload directories are",
};
pub(super) const MAX_AGE: Setting =
    Setting { name: "MAX_AGE", default: "10d", accepts: TIME, help: "how long an ended payload is kept" };
pub(super) const MAX_JOBS: Setting = Setting {
    name: "MAX_JOBS",
    default: "usable CPUs",
    accepts: Number(1, 65_535),
    help: "payloads that run at once",
};
pub(super) const TIME_LIMIT: Setting = Setting {
    name: "TIME_LIMIT",
    default: "0",
    accepts: TIME_OR_NONE,
    help: "how long a payload may run; 0: no limit",
};
pub(super) const CPU_LIMIT: Setting = Setting {
    name: "CPU_LIMIT",
    default: "0",
    accepts: TIME_OR_NONE,
    help: "CPU time that all processes of a payload may use; 0: no limit",
};
pub(super) const MEMORY_LIMIT: Setting = Setting {
    name: "MEMORY_LIMIT",
    default: "0",
    accepts: SIZE,
    help: "bytes of memory that all processes of a payload may take; 0: no limit",
};
pub(super) const PIDS_LIMIT: Setting = Setting {
    name: "PIDS_LIMIT",
    default: "0",
    accepts: COUNT_OR_NONE,
    help: "processes and threads that a payload may have at once; 0: no limit",
};
pub(super) const FILE_LIMIT: Setting = Setting {
    name: "FILE_LIMIT",
    default: "0",
    accepts: SIZE,
    help: "bytes that a file may have which a payload writes; 0: no limit",
};
pub(super) const JOB_CPUS: Setting = Setting {
    name: "JOB_CPUS",
    default: "0",
    accepts: COUNT_OR_NONE,
    help: "CPUs that a payload may use; 0: all that the client may",
};
pub(super) const KILL_GRACE: Setting = Setting {
    name: "KILL_GRACE",
    default: "5s",
    accepts: TIME_OR_NONE,
    help: "time from SIGTERM to SIGKILL when a payload is ended",
};
pub(super) const LINGER: Setting = Setting {
    name: "LINGER",
    default: "2s",
    accepts: TIME_OR_NONE,
    help: "time that processes have which run.sh leaves behind",
};
pub(super) const RUN_AS: Setting = Setting {
    name: "RUN_AS",
    default: "a range of its own where the client is root",
    accepts: Text("root, or user ids from 1 to 4294967294 as FIRST-LAST, such as 10100-10115"),
    help: "user ids of payloads where the client is root, one for each of MAX_JOBS",
};
pub(super) const GRACE: Setting = Setting {
    name: "GRACE",
    default: "20s",
    accepts: TIME_OR_NONE,
    help: "time that running payloads have when the client is stopped",
};
pub(super) const MAX_UPLOAD: Setting = Setting {
    name: "MAX_UPLOAD",
    default: "0",
    accepts: SIZE,
    help: "bytes that one upload may have; 0: no limit",
};
pub(super) const MAX_QUEUE: Setting = Setting {
    name: "MAX_QUEUE",
    default: "10000",
    accepts: Number(1, u32::MAX),
    help: "payloads that may wait for a slot",
};
pub(super) const MIN_FREE: Setting = Setting {
    name: "MIN_FREE",
    default: "16M",
    accepts: SIZE,
    help: "bytes that uploads leave free on the disk of DATA_PATH",
};
pub(super) const MIN_FREE_INODES: Setting = Setting {
    name: "MIN_FREE_INODES",
    default: "256",
    accepts: Text("a whole number"),
    help: "inodes that uploads leave free there",
};
pub(super) const MAX_DISK: Setting = Setting {
    name: "MAX_DISK",
    default: "0",
    accepts: SIZE,
    help: "bytes that the directory of a running payload may have; 0: no limit",
};
pub(super) const MAX_LOAD: Setting = Setting {
    name: "MAX_LOAD",
    default: "0",
    accepts: Number(0, 100),
    help: "CPU use in percent above which waiting payloads go on waiting; 0: any",
};
pub(super) const MIN_MEMORY: Setting = Setting {
    name: "MIN_MEMORY",
    default: "0",
    accepts: SIZE,
    help: "bytes of available memory below which they do; 0: any",
};
pub(super) const MAX_TEMPERATURE: Setting = Setting {
    name: "MAX_TEMPERATURE",
    default: "0",
    accepts: Number(0, 200),
    help: "degrees Celsius above which they do; 0: any",
};
pub(super) const MAX_PRESSURE: Setting = Setting {
    name: "MAX_PRESSURE",
    default: "0",
    accepts: Number(0, 100),
    help: "percent of time that something waits for CPU, memory or I/O, above which they do; 0: any",
};
pub(super) const MAX_LOG: Setting = Setting {
    name: "MAX_LOG",
    default: "0",
    accepts: Size(1024),
    help: "bytes of standard output, and of standard error, that are kept: head and tail; 0: all",
};
pub(super) const SANDBOX: Setting = Setting {
    name: "SANDBOX",
    default: "off",
    accepts: Words(&["best", "strict", "off"]),
    help: "payloads are kept to what they were given: as far as the host can, or no start without, or not",
};
pub(super) const ALLOW_READ: Setting = Setting {
    name: "ALLOW_READ",
    default: "none",
    accepts: PLACES,
    help: "more places that payloads may read, and execute what is there",
};
pub(super) const ALLOW_WRITE: Setting = Setting {
    name: "ALLOW_WRITE",
    default: "none",
    accepts: PLACES,
    help: "more places that payloads may write too, and devices that they may use",
};
pub(super) const NETWORK: Setting =
    Setting { name: "NETWORK", default: "on", accepts: SWITCH, help: "whether payloads may use the network" };
pub(super) const ZIP_THREADS: Setting = Setting {
    name: "ZIP_THREADS",
    default: "1",
    accepts: Number(1, 64),
    help: "threads that compress one archive",
};
pub(super) const RECOVER: Setting = Setting {
    name: "RECOVER",
    default: "on",
    accepts: SWITCH,
    help: "whether a start takes up the payloads of the life before",
};
pub(super) const DURABLE: Setting = Setting {
    name: "DURABLE",
    default: "soon",
    accepts: Words(&["on", "soon", "off"]),
    help: "when what was answered survives a power cut: at once, within 5 s, or when the system writes it",
};
pub(super) const MAX_CONNECTIONS: Setting = Setting {
    name: "MAX_CONNECTIONS",
    default: "4096",
    accepts: Number(1, 16_384),
    help: "connections served at once",
};
pub(super) const HEAD_TIMEOUT: Setting = Setting {
    name: "HEAD_TIMEOUT",
    default: "10s",
    accepts: TIME,
    help: "time in which a request's head must arrive",
};
pub(super) const IDLE_TIMEOUT: Setting = Setting {
    name: "IDLE_TIMEOUT",
    default: "75s",
    accepts: TIME,
    help: "time that a connection may wait for its next request",
};
pub(super) const STALL_TIMEOUT: Setting = Setting {
    name: "STALL_TIMEOUT",
    default: "60s",
    accepts: TIME,
    help: "time that a transfer may stand still",
};
pub(super) const DISK_TIMEOUT: Setting = Setting {
    name: "DISK_TIMEOUT",
    default: "15s",
    accepts: TIME,
    help: "time that a request waits for a disk that does not answer",
};
pub(super) const LOG: Setting = Setting {
    name: "LOG",
    default: "info",
    accepts: Words(&["error", "warn", "info", "debug"]),
    help: "how much is logged",
};
pub(super) const LOG_FORMAT: Setting = Setting {
    name: "LOG_FORMAT",
    default: "text",
    accepts: Words(&["text", "json"]),
    help: "how log lines are written",
};
pub(super) const DB_PATH: Setting = Setting {
    name: "DB_PATH",
    default: "none",
    accepts: Text("anything"),
    help: "accepted and ignored: the database is in memory",
};

/// Every setting, in the order of the help.
pub const ALL: &[Setting] = &[
    PORT,
    HOST,
    UNIX_MODE,
    TOKEN,
    TOKEN_FILE,
    ALLOW_FROM,
    DATA_PATH,
    MAX_AGE,
    MAX_JOBS,
    TIME_LIMIT,
    CPU_LIMIT,
    MEMORY_LIMIT,
    PIDS_LIMIT,
    FILE_LIMIT,
    JOB_CPUS,
    KILL_GRACE,
    LINGER,
    RUN_AS,
    GRACE,
    MAX_UPLOAD,
    MAX_QUEUE,
    MIN_FREE,
    MIN_FREE_INODES,
    MAX_DISK,
    MAX_LOAD,
    MIN_MEMORY,
    MAX_TEMPERATURE,
    MAX_PRESSURE,
    MAX_LOG,
    SANDBOX,
    ALLOW_READ,
    ALLOW_WRITE,
    NETWORK,
    ZIP_THREADS,
    RECOVER,
    DURABLE,
    MAX_CONNECTIONS,
    HEAD_TIMEOUT,
    IDLE_TIMEOUT,
    STALL_TIMEOUT,
    DISK_TIMEOUT,
    LOG,
    LOG_FORMAT,
    DB_PATH,
];

/// The table of settings for the help.
pub fn help() -> String {
    let mut text = String::new();
    for setting in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:<16} {:<18} {}{} [{}]",
            setting.name,
            if setting.has_flag() { format!("--{}", setting.flag()) } else { String::new() },
            setting.help,
            setting.accepts.in_help(),
            setting.default
        );
    }
    text
}
