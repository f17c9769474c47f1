//! All settings: their names, defaults and rules, and the one place that reads the environment for them.
//! A flag wins over the environment; an empty value counts as not set. What comes out is checked and typed.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as WordError;

use crate::log;

/// One setting, as the help shows it.
pub struct Setting {
    /// Name in the environment; the flag is the same in lower case with dashes.
    pub name: &'static str,
    /// Default, in words where it is not one value.
    pub default: &'static str,
    /// What is accepted, as the error line says it.
    pub accepts: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Setting {
    /// The flag without its dashes, such as `max-age`.
    pub fn flag(&self) -> String {
        self.name.to_lowercase().replace('_', "-")
    }
}

const SECONDS: &str = "whole seconds, 1 to 4294967295";

const PORT: Setting = Setting {
    name: "PORT",
    default: "9000",
    accepts: "a port number, 0 to 65535",
    help: "port to listen on; 0 picks a free one",
};
const HOST: Setting = Setting {
    name: "HOST",
    default: "0.0.0.0",
    accepts: "an IP address, such as 0.0.0.0, 127.0.0.1 or ::",
    help: "address to listen on",
};
const DATA_PATH: Setting = Setting {
    name: "DATA_PATH",
    default: "/opt/data, else ./data",
    accepts: "a directory that can be made and written",
    help: "where the payload directories are",
};
const MAX_AGE: Setting = Setting {
    name: "MAX_AGE",
    default: "864000",
    accepts: SECONDS,
    help: "seconds that an ended payload is kept",
};
const MAX_JOBS: Setting = Setting {
    name: "MAX_JOBS",
    default: "usable CPUs",
    accepts: "a whole number, 1 to 65535",
    help: "payloads that run at once",
};
const TIME_LIMIT: Setting = Setting {
    name: "TIME_LIMIT",
    default: "0",
    accepts: "whole seconds, 0 to 4294967295",
    help: "seconds that a payload may run; 0: no limit",
};
const KILL_GRACE: Setting = Setting {
    name: "KILL_GRACE",
    default: "5",
    accepts: "whole seconds, 0 to 4294967295",
    help: "seconds from SIGTERM to SIGKILL when a payload is ended",
};
const GRACE: Setting = Setting {
    name: "GRACE",
    default: "20",
    accepts: "whole seconds, 0 to 4294967295",
    help: "seconds that running payloads have when the client is stopped",
};
const MAX_UPLOAD: Setting = Setting {
    name: "MAX_UPLOAD",
    default: "0",
    accepts: "a whole number of bytes",
    help: "bytes that one upload may have; 0: no limit",
};
const MAX_QUEUE: Setting = Setting {
    name: "MAX_QUEUE",
    default: "10000",
    accepts: "a whole number, 1 to 4294967295",
    help: "payloads that may wait for a slot",
};
const MIN_FREE: Setting = Setting {
    name: "MIN_FREE",
    default: "16777216",
    accepts: "a whole number of bytes",
    help: "bytes that uploads leave free on the disk of DATA_PATH",
};
const MIN_FREE_INODES: Setting = Setting {
    name: "MIN_FREE_INODES",
    default: "256",
    accepts: "a whole number",
    help: "inodes that uploads leave free there",
};
const MAX_DISK: Setting = Setting {
    name: "MAX_DISK",
    default: "0",
    accepts: "a whole number of bytes",
    help: "bytes that the directory of a running payload may have; 0: no limit",
};
const MAX_LOG: Setting = Setting {
    name: "MAX_LOG",
    default: "0",
    accepts: "0, or a whole number of bytes from 1024",
    help: "bytes of standard output, and of standard error, that are kept: head and tail; 0: all",
};
const ZIP_THREADS: Setting = Setting {
    name: "ZIP_THREADS",
    default: "1",
    accepts: "a whole number, 1 to 64",
    help: "threads that compress one archive",
};
const RECOVER: Setting = Setting {
    name: "RECOVER",
    default: "on",
    accepts: "one of on, off",
    help: "whether a start takes up the payloads of the life before",
};
const DURABLE: Setting = Setting {
    name: "DURABLE",
    default: "off",
    accepts: "one of on, off",
    help: "whether what was answered 200 survives a power cut",
};
const MAX_CONNECTIONS: Setting = Setting {
    name: "MAX_CONNECTIONS",
    default: "4096",
    accepts: "a whole number, 1 to 16384",
    help: "connections served at once",
};
const HEAD_TIMEOUT: Setting = Setting {
    name: "HEAD_TIMEOUT",
    default: "10",
    accepts: SECONDS,
    help: "seconds in which a request's head must arrive",
};
const IDLE_TIMEOUT: Setting = Setting {
    name: "IDLE_TIMEOUT",
    default: "75",
    accepts: SECONDS,
    help: "seconds that a connection may wait for its next request",
};
const STALL_TIMEOUT: Setting = Setting {
    name: "STALL_TIMEOUT",
    default: "60",
    accepts: SECONDS,
    help: "seconds that a transfer may stand still",
};
const LOG: Setting = Setting {
    name: "LOG",
    default: "info",
    accepts: "one of error, warn, info, debug",
    help: "how much is logged",
};
const LOG_FORMAT: Setting = Setting {
    name: "LOG_FORMAT",
    default: "text",
    accepts: "one of text, json",
    help: "how log lines are written",
};
const DB_PATH: Setting = Setting {
    name: "DB_PATH",
    default: "none",
    accepts: "anything",
    help: "accepted and ignored: the database is in memory",
};

/// Every setting, in the order of the help.
pub const ALL: &[Setting] = &[
    PORT,
    HOST,
    DATA_PATH,
    MAX_AGE,
    MAX_JOBS,
    TIME_LIMIT,
    KILL_GRACE,
    GRACE,
    MAX_UPLOAD,
    MAX_QUEUE,
    MIN_FREE,
    MIN_FREE_INODES,
    MAX_DISK,
    MAX_LOG,
    ZIP_THREADS,
    RECOVER,
    DURABLE,
    MAX_CONNECTIONS,
    HEAD_TIMEOUT,
    IDLE_TIMEOUT,
    STALL_TIMEOUT,
    LOG,
    LOG_FORMAT,
    DB_PATH,
];

/// A value that is not accepted: one line for the person who set it.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{source_name}={value} is not accepted: it takes {accepts}")]
pub struct SettingError {
    source_name: String,
    value: String,
    accepts: &'static str,
}

/// A value as it was given, by whom: `("--port", "9000")` or `("PORT", "9000")`.
type Given = (String, OsString);

/// The checked settings of a client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port to listen on; 0 for any.
    pub port: u16,
    /// Address to listen on.
    pub host: IpAddr,
    /// The given DATA_PATH; `None` leaves the choice to [`crate::data::path`].
    pub data_path: Option<PathBuf>,
    /// How long an ended payload, and then its row, is kept.
    pub max_age: Duration,
    /// How many payloads run at once.
    pub max_jobs: usize,
    /// How long a payload may run.
    pub time_limit: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// What running payloads have when the client is stopped.
    pub grace: Duration,
    /// How many bytes the body of one upload may have; `u64::MAX` for any.
    pub max_upload: u64,
    /// How many payloads may wait for a slot.
    pub max_queue: u32,
    /// Bytes that uploads leave free.
    pub min_free: u64,
    /// Inodes that uploads leave free.
    pub min_free_inodes: u64,
    /// How many bytes the directory of a running payload may have; `None` for any.
    pub max_disk: Option<u64>,
    /// How many bytes of each output of a payload are kept; `None` for all.
    pub max_log: Option<u64>,
    /// How many threads compress one archive.
    pub zip_threads: usize,
    /// Whether a start takes up the payloads of the life before.
    pub recover: bool,
    /// Whether what was answered 200 survives a power cut.
    pub durable: bool,
    /// How many connections are served at once.
    pub max_connections: usize,
    /// In which a request's head must arrive.
    pub head_timeout: Duration,
    /// That a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// That a transfer may stand still.
    pub stall_timeout: Duration,
    /// How much is logged.
    pub log_level: log::Level,
    /// How log lines are written.
    pub log_format: log::Format,
    /// Whether DB_PATH was given, which deserves a word in the log.
    pub db_path_given: bool,
}

impl Settings {
    /// From the flags of the command line (name without dashes, value) and the environment.
    pub fn read(flags: &[(String, OsString)]) -> Result<Self, SettingError> {
        Self::from_lookup(|setting| {
            let flag = setting.flag();
            let of_flag = flags.iter().rev().find(|(name, _)| *name == flag);
            match of_flag {
                Some((_, value)) => Some((format!("--{flag}"), value.clone())),
                None => std::env::var_os(setting.name).map(|value| (setting.name.to_owned(), value)),
            }
            .filter(|(_, value)| !value.is_empty())
        })
    }

    fn from_lookup(lookup: impl Fn(&Setting) -> Option<Given>) -> Result<Self, SettingError> {
        let value = |setting: &Setting| -> Result<Option<String>, SettingError> {
            let Some((source_name, value)) = lookup(setting) else { return Ok(None) };
            value.into_string().map(Some).map_err(|value| SettingError {
                source_name,
                value: value.to_string_lossy().into_owned(),
                accepts: "text in UTF-8",
            })
        };
        let refused = |setting: &Setting, value: String| SettingError {
            source_name: lookup(setting).map_or_else(|| setting.name.to_owned(), |given| given.0),
            value,
            accepts: setting.accepts,
        };
        let number = |setting: &Setting, least: u32, most: u32| -> Result<Option<u32>, SettingError> {
            let Some(text) = value(setting)? else { return Ok(None) };
            let number = text.parse().ok().filter(|number| (least..=most).contains(number));
            number.map(Some).ok_or_else(|| refused(setting, text))
        };
        let seconds = |setting: &Setting, least, default: u64| -> Result<Duration, SettingError> {
            let given = number(setting, least, u32::MAX)?;
            Ok(Duration::from_secs(given.map_or(default, u64::from)))
        };
        let bytes = |setting: &Setting| -> Result<Option<u64>, SettingError> {
            let Some(text) = value(setting)? else { return Ok(None) };
            text.parse().map(Some).map_err(|_| refused(setting, text))
        };
        let switch = |setting: &Setting, default| -> Result<bool, SettingError> {
            match value(setting)?.as_deref() {
                None => Ok(default),
                Some("on") => Ok(true),
                Some("off") => Ok(false),
                Some(text) => Err(refused(setting, text.to_owned())),
            }
        };
        let time_limit = seconds(&TIME_LIMIT, 0, 0)?;
        Ok(Self {
            port: match value(&PORT)? {
                None => 9000,
                Some(text) => text.parse().map_err(|_| refused(&PORT, text))?,
            },
            host: match value(&HOST)? {
                None => IpAddr::from([0, 0, 0, 0]),
                Some(text) => text.parse().map_err(|_| refused(&HOST, text))?,
            },
            // A path need not be UTF-8.
            data_path: lookup(&DATA_PATH).map(|(_, value)| PathBuf::from(value)),
            max_age: seconds(&MAX_AGE, 1, 864_000)?,
            max_jobs: match number(&MAX_JOBS, 1, 65_535)? {
                Some(given) => usize::try_from(given).unwrap_or(usize::MAX),
                None => std::thread::available_parallelism().map_or(1, NonZero::get),
            },
            time_limit: (!time_limit.is_zero()).then_some(time_limit),
            kill_grace: seconds(&KILL_GRACE, 0, 5)?,
            grace: seconds(&GRACE, 0, 20)?,
            max_upload: bytes(&MAX_UPLOAD)?.filter(|bytes| *bytes > 0).unwrap_or(u64::MAX),
            max_queue: number(&MAX_QUEUE, 1, u32::MAX)?.unwrap_or(10_000),
            min_free: bytes(&MIN_FREE)?.unwrap_or(16 * 1024 * 1024),
            min_free_inodes: bytes(&MIN_FREE_INODES)?.unwrap_or(256),
            max_disk: bytes(&MAX_DISK)?.filter(|bytes| *bytes > 0),
            max_log: match bytes(&MAX_LOG)? {
                None | Some(0) => None,
                Some(few @ 1..1024) => return Err(refused(&MAX_LOG, few.to_string())),
                enough => enough,
            },
            zip_threads: usize::try_from(number(&ZIP_THREADS, 1, 64)?.unwrap_or(1)).unwrap_or(1),
            recover: switch(&RECOVER, true)?,
            durable: switch(&DURABLE, false)?,
            max_connections: usize::try_from(number(&MAX_CONNECTIONS, 1, 16_384)?.unwrap_or(4096))
                .unwrap_or(4096),
            head_timeout: seconds(&HEAD_TIMEOUT, 1, 10)?,
            idle_timeout: seconds(&IDLE_TIMEOUT, 1, 75)?,
            stall_timeout: seconds(&STALL_TIMEOUT, 1, 60)?,
            log_level: match value(&LOG)? {
                None => log::Level::Info,
                Some(text) => word(&text).map_err(|_| refused(&LOG, text))?,
            },
            log_format: match value(&LOG_FORMAT)? {
                None => log::Format::Text,
                Some(text) => word(&text).map_err(|_| refused(&LOG_FORMAT, text))?,
            },
            db_path_given: lookup(&DB_PATH).is_some(),
        })
    }

    /// The error for a DATA_PATH that turns out not to be usable.
    pub fn refuse_data_path(path: &std::path::Path, why: &std::io::Error) -> String {
        format!("DATA_PATH={} is not accepted: it takes {} ({why})", path.display(), DATA_PATH.accepts)
    }
}

/// One of the words of an enum that serde knows.
fn word<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, WordError> {
    T::deserialize(text.into_deserializer())
}

/// The table of settings for the help.
pub fn help() -> String {
    let mut text = String::new();
    for setting in ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:<16} --{:<16} {} [{}]",
            setting.name,
            setting.flag(),
            setting.help,
            setting.default
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<Settings, SettingError> {
        Settings::from_lookup(|setting| (setting.name == name).then(|| (name.to_owned(), value.into())))
    }

    #[test]
    fn a_bad_value_is_refused_by_name_and_value_and_rule() {
        for (name, values) in [
            ("PORT", &["abc", "65536", "-1", "80 "][..]),
            ("HOST", &["localhost", "1.2.3"]),
            ("MAX_AGE", &["0", "1.5", "1d", "4294967296"]),
            ("MAX_JOBS", &["0", "65536", "x"]),
            ("TIME_LIMIT", &["-1", "1h"]),
            ("MAX_CONNECTIONS", &["0"]),
            ("MAX_QUEUE", &["0", "-1"]),
            ("MIN_FREE", &["16M", "-1"]),
            ("MAX_LOG", &["1", "1023", "x"]),
            ("ZIP_THREADS", &["0", "65", "all"]),
            ("RECOVER", &["yes", "ON"]),
            ("DURABLE", &["1"]),
            ("LOG", &["verbose", "INFO"]),
            ("LOG_FORMAT", &["xml"]),
        ] {
            for value in values {
                let error = read(name, value).expect_err("accepted").to_string();
                assert!(error.starts_with(&format!("{name}={value} is not accepted: it takes ")), "{error}");
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = Settings::from_lookup(|_| None).expect("defaults");
        assert_eq!(settings.port, 9000);
        assert_eq!(settings.host.to_string(), "0.0.0.0");
        assert_eq!(settings.max_age, Duration::from_secs(864_000));
        assert_eq!(settings.grace, Duration::from_secs(20));
        assert_eq!(settings.time_limit, None);
        assert_eq!(settings.zip_threads, 1);
        assert!(settings.max_jobs >= 1);
    }

    #[test]
    fn the_help_names_every_setting_once() {
        let help = help();
        for setting in ALL {
            assert_eq!(help.matches(&format!("--{} ", setting.flag())).count(), 1, "{}", setting.name);
        }
    }
}
