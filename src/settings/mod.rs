//! All settings: their names and defaults (`table`), their units (`units`), and the one place that reads the environment for them.
//! A flag wins over the environment; an empty value counts as not set. What comes out is checked and typed.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::value::{Error as WordError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};

use crate::log;

mod callers;
mod misspelt;
mod table;
mod units;

pub use callers::{Host, Network, Token};
use table::Takes;
pub use table::{ALL, Setting, help};
pub use units::{shown, shown_size, size, time};

/// Ports below this one are the administrator's, where the system is as it comes.
const FIRST_FREE_PORT: u16 = 1024;

/// A value that is not accepted: one line for the person who set it.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{source_name}={value} is not accepted: it takes {accepts}")]
pub struct SettingError {
    source_name: String,
    value: String,
    accepts: Takes,
}

/// A value as it was given, by whom: `("--port", "9000")` or `("PORT", "9000")`.
type Given = (String, OsString);

/// The checked settings of a client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port to listen on; 0 for any.
    pub port: u16,
    /// Where to listen.
    pub host: Host,
    /// Permission bits of the Unix socket.
    pub unix_mode: u32,
    /// Who may call; empty for everybody.
    pub allow_from: Vec<Network>,
    /// The given TOKEN; [`Settings::token`] knows the file too.
    token: Option<Token>,
    token_file: Option<PathBuf>,
    /// The given DATA_PATH; `None` leaves the choice to [`crate::data::path`].
    pub data_path: Option<PathBuf>,
    /// How long an ended payload, and then its row, is kept.
    pub max_age: Duration,
    /// How many payloads run at once.
    pub max_jobs: usize,
    /// How long a payload may run.
    pub time_limit: Option<Duration>,
    /// How much CPU time all processes of a payload may use.
    pub cpu_limit: Option<Duration>,
    /// How many bytes of memory all processes of a payload may take.
    pub memory_limit: Option<u64>,
    /// How many processes and threads a payload may have at once.
    pub pids_limit: Option<u32>,
    /// How many bytes a file may have that a payload writes.
    pub file_limit: Option<u64>,
    /// How many processors a payload may use; `None` for all.
    pub job_cpus: Option<u32>,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// What running payloads have when the client is stopped.
    pub grace: Duration,
    /// What processes have that `run.sh` leaves behind, until they are ended.
    pub linger: Duration,
    /// As whom payloads run where the client is root; `None` leaves the choice to the client.
    pub run_as: Option<RunAs>,
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
    /// CPU use in percent above which no payload is started; `None` for any.
    pub max_load: Option<u32>,
    /// Bytes of available memory below which none is.
    pub min_memory: Option<u64>,
    /// Degrees Celsius above which none is.
    pub max_temperature: Option<u32>,
    /// Percent of time of PSI above which none is.
    pub max_pressure: Option<u32>,
    /// How many bytes of each output of a payload are kept; `None` for all.
    pub max_log: Option<u64>,
    /// Whether and how payloads are kept to what they were given.
    pub sandbox: SandboxMode,
    /// More places that payloads may read.
    pub allow_read: Vec<PathBuf>,
    /// More places that payloads may write.
    pub allow_write: Vec<PathBuf>,
    /// Whether payloads may use the network.
    pub network: bool,
    /// How many threads compress one archive.
    pub zip_threads: usize,
    /// Whether a start takes up the payloads of the life before.
    pub recover: bool,
    /// When what was answered survives a power cut.
    pub durable: Durable,
    /// How many connections are served at once.
    pub max_connections: usize,
    /// In which a request's head must arrive.
    pub head_timeout: Duration,
    /// That a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// That a transfer may stand still.
    pub stall_timeout: Duration,
    /// That a request waits for a disk that does not answer.
    pub disk_timeout: Duration,
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
        Self::from_lookup(|setting| lookup(flags, setting))
    }

    fn from_lookup(lookup: impl Fn(&Setting) -> Option<Given>) -> Result<Self, SettingError> {
        let reader = Reader { lookup: &lookup };
        Ok(Self {
            port: reader.value(&table::PORT, |text| text.parse().ok())?,
            host: reader.value(&table::HOST, Host::parse)?,
            unix_mode: reader.value(&table::UNIX_MODE, callers::mode)?,
            allow_from: match reader.given(&table::ALLOW_FROM)? {
                Some(_) => reader.value(&table::ALLOW_FROM, callers::networks)?,
                None => Vec::new(),
            },
            token: reader.token()?,
            token_file: lookup(&table::TOKEN_FILE).map(|(_, value)| PathBuf::from(value)),
            // A path need not be UTF-8.
            data_path: lookup(&table::DATA_PATH).map(|(_, value)| PathBuf::from(value)),
            max_age: reader.time(&table::MAX_AGE)?,
            max_jobs: match reader.given(&table::MAX_JOBS)? {
                Some(_) => reader.number(&table::MAX_JOBS)?,
                None => default_jobs(reader.count(&table::JOB_CPUS)?),
            },
            time_limit: reader.time_limit(&table::TIME_LIMIT)?,
            cpu_limit: reader.time_limit(&table::CPU_LIMIT)?,
            memory_limit: reader.size(&table::MEMORY_LIMIT)?,
            pids_limit: reader.count(&table::PIDS_LIMIT)?,
            file_limit: reader.size(&table::FILE_LIMIT)?,
            job_cpus: reader.count(&table::JOB_CPUS)?,
            kill_grace: reader.time(&table::KILL_GRACE)?,
            grace: reader.time(&table::GRACE)?,
            linger: reader.time(&table::LINGER)?,
            run_as: match reader.given(&table::RUN_AS)? {
                Some(_) => Some(reader.value(&table::RUN_AS, RunAs::parse)?),
                None => None,
            },
            max_upload: reader.size(&table::MAX_UPLOAD)?.unwrap_or(u64::MAX),
            max_queue: reader.number(&table::MAX_QUEUE)?,
            min_free: reader.size(&table::MIN_FREE)?.unwrap_or(0),
            min_free_inodes: reader.value(&table::MIN_FREE_INODES, |text| text.parse().ok())?,
            max_disk: reader.size(&table::MAX_DISK)?,
            max_load: reader.count(&table::MAX_LOAD)?,
            min_memory: reader.size(&table::MIN_MEMORY)?,
            max_temperature: reader.count(&table::MAX_TEMPERATURE)?,
            max_pressure: reader.count(&table::MAX_PRESSURE)?,
            max_log: reader.size(&table::MAX_LOG)?,
            sandbox: reader.value(&table::SANDBOX, word)?,
            allow_read: reader.places(&table::ALLOW_READ)?,
            allow_write: reader.places(&table::ALLOW_WRITE)?,
            network: reader.value(&table::NETWORK, switch)?,
            zip_threads: reader.number(&table::ZIP_THREADS)?,
            recover: reader.value(&table::RECOVER, switch)?,
            durable: reader.value(&table::DURABLE, word)?,
            max_connections: reader.number(&table::MAX_CONNECTIONS)?,
            head_timeout: reader.time(&table::HEAD_TIMEOUT)?,
            idle_timeout: reader.time(&table::IDLE_TIMEOUT)?,
            stall_timeout: reader.time(&table::STALL_TIMEOUT)?,
            disk_timeout: reader.time(&table::DISK_TIMEOUT)?,
            log_level: reader.value(&table::LOG, word)?,
            log_format: reader.value(&table::LOG_FORMAT, word)?,
            db_path_given: lookup(&table::DB_PATH).is_some(),
        })
    }

    /// What callers have to know: TOKEN, or what TOKEN_FILE holds. `None` where neither is set. The error is one line for the person
    /// who set it. Only who serves needs it, so only he has to be able to read the file.
    pub fn token(&self) -> Result<Option<Token>, String> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let refused = |why: &dyn Display| {
            Err(format!(
                "TOKEN_FILE={} is not accepted: it takes {} ({why})",
                path.display(),
                table::TOKEN_FILE.accepts
            ))
        };
        if self.token.is_some() {
            return refused(&"TOKEN is set too: set one of the two");
        }
        match head_of(path) {
            Ok(content) => match Token::parse(content.trim_ascii_end()) {
                Some(token) => Ok(Some(token)),
                None => refused(&format_args!("what is in it is none: that takes {}", Token::ACCEPTS)),
            },
            Err(error) => refused(&error),
        }
    }

    /// The file of the token, if there is one: it must be out of the reach of payloads.
    pub fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// The error for a DATA_PATH that turns out not to be usable.
    pub fn refuse_data_path(path: &Path, why: &io::Error) -> String {
        let (shown, accepts) = (path.display(), table::DATA_PATH.accepts);
        match why.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidFilename => {
                format!("DATA_PATH={shown} is not accepted: it takes {accepts} ({why})")
            }
            // It is such a directory.
            _ => format!("DATA_PATH={shown} cannot be used: {why}"),
        }
    }

    /// The error for HOST and PORT, shown as `address`, that cannot be listened on.
    pub fn refuse_address(&self, address: &dyn Display, why: &io::Error) -> String {
        let advice = match (why.kind(), &self.host) {
            (io::ErrorKind::PermissionDenied, Host::Address(_)) if self.port < FIRST_FREE_PORT => {
                "; ports below 1024 are for root and CAP_NET_BIND_SERVICE: choose another PORT, such as 9000"
            }
            (io::ErrorKind::AddrInUse, Host::Address(_)) => {
                "; another program listens there: end it, or choose another PORT"
            }
            (io::ErrorKind::AddrInUse, Host::Socket(_)) => {
                "; another program listens there: end it, or choose another HOST"
            }
            (io::ErrorKind::AlreadyExists, _) => "; remove it, or choose another HOST",
            (io::ErrorKind::NotFound, _) => "; make the directory of the socket, or choose another HOST",
            (io::ErrorKind::PermissionDenied, _) => {
                "; let this user write to the directory of the socket, or choose another HOST"
            }
            (io::ErrorKind::AddrNotAvailable, _) => "; this machine has no such address: choose another HOST",
            _ => "",
        };
        format!("cannot listen on {address}: {why}{advice}")
    }

    /// Variables of the environment whose names are nearly those of settings, each with the one that was probably meant.
    pub fn misspelt() -> Vec<(String, &'static str)> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.filter_map(|name| misspelt::meant_by(&name).map(|meant| (name, meant))).collect()
    }

    /// How errors are told that keep the settings from being read: what LOG_FORMAT says, as far as that can be told.
    pub fn log_format(flags: &[(String, OsString)]) -> log::Format {
        let given = lookup(flags, &table::LOG_FORMAT).and_then(|(_, value)| value.into_string().ok());
        given.and_then(|text| word(&text)).unwrap_or(log::Format::Text)
    }
}

/// The setting that a flag, without its dashes, was probably meant to be.
pub fn flag_meant_by(flag: &str) -> Option<String> {
    let meant = misspelt::meant_by(flag)?;
    ALL.iter().find(|setting| setting.name == meant).map(Setting::flag)
}

/// What was given for a setting, and how. An empty value is none.
fn lookup(flags: &[(String, OsString)], setting: &Setting) -> Option<Given> {
    let flag = setting.flag();
    let of_flag = flags.iter().rev().find(|(name, _)| *name == flag);
    match of_flag {
        Some((_, value)) => Some((format!("--{flag}"), value.clone())),
        None => std::env::var_os(setting.name).map(|value| (setting.name.to_owned(), value)),
    }
    .filter(|(_, value)| !value.is_empty())
}

/// Reads values: what was given, else the default of the table.
struct Reader<'a> {
    lookup: &'a dyn Fn(&Setting) -> Option<Given>,
}

impl Reader<'_> {
    fn given(&self, setting: &Setting) -> Result<Option<String>, SettingError> {
        let Some((source_name, value)) = (self.lookup)(setting) else { return Ok(None) };
        value.into_string().map(Some).map_err(|value| SettingError {
            source_name,
            value: value.to_string_lossy().into_owned(),
            accepts: Takes::Text("text in UTF-8"),
        })
    }

    fn value<T>(&self, setting: &Setting, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, SettingError> {
        let given = self.given(setting)?;
        parse(given.as_deref().unwrap_or(setting.default)).ok_or_else(|| self.refused(setting))
    }

    fn number<T: TryFrom<u32>>(&self, setting: &Setting) -> Result<T, SettingError> {
        let (least, most) = match setting.accepts {
            Takes::Number(least, most) => (least, most),
            _ => (0, u32::MAX),
        };
        let range = least..=most;
        self.value(setting, |text| text.parse().ok().filter(|number| range.contains(number))?.try_into().ok())
    }

    fn time(&self, setting: &Setting) -> Result<Duration, SettingError> {
        let least = match setting.accepts {
            Takes::Time(least_ms) => Duration::from_millis(least_ms),
            _ => Duration::ZERO,
        };
        self.value(setting, |text| time(text).filter(|time| *time >= least))
    }

    /// `None` for 0.
    fn time_limit(&self, setting: &Setting) -> Result<Option<Duration>, SettingError> {
        Ok(Some(self.time(setting)?).filter(|time| !time.is_zero()))
    }

    /// `None` for 0.
    fn count(&self, setting: &Setting) -> Result<Option<u32>, SettingError> {
        Ok(Some(self.number(setting)?).filter(|number| *number > 0))
    }

    /// Bytes; `None` for 0.
    fn size(&self, setting: &Setting) -> Result<Option<u64>, SettingError> {
        let least = match setting.accepts {
            Takes::Size(least) => least,
            _ => 0,
        };
        let bytes = self.value(setting, |text| size(text).filter(|bytes| *bytes == 0 || *bytes >= least));
        bytes.map(|bytes| Some(bytes).filter(|bytes| *bytes > 0))
    }

    /// The value of a bad one is not shown: a slip of the hand is nearly a secret.
    fn token(&self) -> Result<Option<Token>, SettingError> {
        let Some((source_name, value)) = (self.lookup)(&table::TOKEN) else { return Ok(None) };
        let token = Token::parse(value.as_encoded_bytes());
        token.map(Some).ok_or_else(|| SettingError {
            source_name,
            value: "(not shown)".to_owned(),
            accepts: table::TOKEN.accepts,
        })
    }

    /// Absolute paths with colons between them. They need not be UTF-8.
    fn places(&self, setting: &Setting) -> Result<Vec<PathBuf>, SettingError> {
        let given = (self.lookup)(setting).map(|(_, value)| value).unwrap_or_default();
        let places: Vec<PathBuf> =
            std::env::split_paths(&given).filter(|place| place != Path::new("")).collect();
        if places.iter().all(|place| place.is_absolute()) { Ok(places) } else { Err(self.refused(setting)) }
    }

    fn refused(&self, setting: &Setting) -> SettingError {
        let (source_name, value) =
            (self.lookup)(setting).unwrap_or_else(|| (setting.name.to_owned(), setting.default.into()));
        SettingError { source_name, value: value.to_string_lossy().into_owned(), accepts: setting.accepts }
    }
}

/// As whom payloads run where the client is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// As root, who can do all that the client can.
    Root,
    /// Each slot by one of these user ids, and the group of the same number.
    Ids(RangeInclusive<u32>),
}

impl RunAs {
    /// The largest number is no id: system calls take it for "leave as it is" (chown(2)).
    const LAST_ID: u32 = u32::MAX - 1;

    /// The error for ids that turn out not to be usable.
    pub fn refuse(&self, why: &str) -> String {
        let given = match self {
            Self::Root => "root".to_owned(),
            Self::Ids(ids) => format!("{}-{}", ids.start(), ids.end()),
        };
        format!("{}={given} cannot be used: {why}", table::RUN_AS.name)
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "root" {
            return Some(Self::Root);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let is_range = 1 <= first && first <= last && last <= Self::LAST_ID;
        is_range.then_some(Self::Ids(first..=last))
    }
}

/// When what was answered is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durable {
    /// Before the answer.
    On,
    /// Within five seconds; no answer waits for it.
    Soon,
    /// When the system writes it.
    Off,
}

/// So many payloads at once that each has its own processors, of which it may use `job_cpus`.
fn default_jobs(job_cpus: Option<u32>) -> usize {
    let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
    let of_each = job_cpus.and_then(|number| usize::try_from(number).ok()).unwrap_or(1);
    (usable / of_each).max(1)
}

/// The first bytes of a file, more than a token has.
fn head_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(2 * callers::MAX_TOKEN_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether and how payloads are kept to what they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// As far as the host can.
    Best,
    /// All of it, or the client does not start.
    Strict,
    /// Not.
    Off,
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// One of the words of an enum that serde knows.
fn word<T: DeserializeOwned>(text: &str) -> Option<T> {
    let word: StrDeserializer<'_, WordError> = text.into_deserializer();
    T::deserialize(word).ok()
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
            ("HOST", &["localhost", "1.2.3", "unix:", "unix:run/a"]),
            ("UNIX_MODE", &["rw", "1777"]),
            ("ALLOW_FROM", &["localhost", "10.0.0.0/33", ","]),
            ("MAX_AGE", &["0", "1.5", "1w", "4294967296"]),
            ("MAX_JOBS", &["0", "65536", "x"]),
            ("TIME_LIMIT", &["-1", "1H"]),
            ("CPU_LIMIT", &["-1", "1H"]),
            ("MEMORY_LIMIT", &["-1", "2g"]),
            ("PIDS_LIMIT", &["-1", "1K"]),
            ("FILE_LIMIT", &["1.5G"]),
            ("JOB_CPUS", &["all", "0.5"]),
            ("MAX_CONNECTIONS", &["0"]),
            ("RUN_AS", &["nobody", "0", "0-5", "5-4", "10100-", "-5", "1-4294967295", "1-2-3"]),
            ("MAX_QUEUE", &["0", "-1"]),
            ("MIN_FREE", &["16MB", "-1"]),
            ("MAX_UPLOAD", &["1.5G", "2g"]),
            ("MAX_LOG", &["1", "1023", "x"]),
            ("ZIP_THREADS", &["0", "65", "all"]),
            ("RECOVER", &["yes", "ON"]),
            ("DURABLE", &["1"]),
            ("LOG", &["verbose", "INFO"]),
            ("SANDBOX", &["on", "Best"]),
            ("ALLOW_READ", &["here", "/a:b", "~/venv"]),
            ("NETWORK", &["none"]),
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
        assert_eq!(settings.host, Host::Address(std::net::Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!((settings.unix_mode, settings.allow_from.len()), (0o660, 0));
        assert!(settings.token().is_ok_and(|token| token.is_none()));
        assert_eq!(settings.max_age, Duration::from_secs(864_000));
        assert_eq!(settings.grace, Duration::from_secs(20));
        assert_eq!((settings.time_limit, settings.cpu_limit, settings.memory_limit), (None, None, None));
        assert_eq!((settings.pids_limit, settings.file_limit, settings.job_cpus), (None, None, None));
        assert_eq!(settings.zip_threads, 1);
        assert_eq!((settings.max_upload, settings.max_disk, settings.max_log), (u64::MAX, None, None));
        assert_eq!((settings.min_free, settings.min_free_inodes), (16 * 1024 * 1024, 256));
        assert!(settings.max_jobs >= 1);
    }

    #[test]
    fn what_the_table_says_is_what_is_accepted() {
        for setting in ALL {
            let is_accepted = |value: String| read(setting.name, &value).is_ok();
            match setting.accepts {
                Takes::Words(words) => {
                    assert!(words.iter().all(|word| is_accepted((*word).to_owned())), "{}", setting.name);
                    assert!(!is_accepted("word".to_owned()), "{}", setting.name);
                }
                Takes::Number(least, most) => {
                    assert!(
                        is_accepted(least.to_string()) && is_accepted(most.to_string()),
                        "{}",
                        setting.name
                    );
                    let beyond = [i64::from(least) - 1, i64::from(most) + 1];
                    assert!(!beyond.iter().any(|number| is_accepted(number.to_string())), "{}", setting.name);
                }
                Takes::Time(least) => {
                    assert!(is_accepted(format!("{least}ms")), "{}", setting.name);
                    assert!(least == 0 || !is_accepted(format!("{}ms", least - 1)), "{}", setting.name);
                }
                Takes::Size(least) => {
                    assert!(
                        is_accepted(least.to_string()) && is_accepted("0".to_owned()),
                        "{}",
                        setting.name
                    );
                    assert!(least == 0 || !is_accepted((least - 1).to_string()), "{}", setting.name);
                }
                Takes::Text(_) => {}
            }
        }
    }

    #[test]
    fn values_have_units() {
        let settings = |name, value| read(name, value).expect("accepted");
        assert_eq!(settings("MAX_UPLOAD", "2G").max_upload, 2 << 30);
        assert_eq!(settings("MAX_LOG", "64K").max_log, Some(65_536));
        assert_eq!(settings("MAX_AGE", "10d").max_age, Duration::from_secs(864_000));
        assert_eq!(settings("TIME_LIMIT", "90m").time_limit, Some(Duration::from_secs(5400)));
        assert_eq!(settings("CPU_LIMIT", "90").cpu_limit, Some(Duration::from_secs(90)));
        assert_eq!(settings("MEMORY_LIMIT", "2G").memory_limit, Some(2 << 30));
        assert_eq!(settings("JOB_CPUS", "65536").max_jobs, 1, "as many as have their own processors");
        assert_eq!(settings("KILL_GRACE", "250ms").kill_grace, Duration::from_millis(250));
    }

    #[test]
    fn places_stand_with_colons_between_them() {
        let given = |value| read("ALLOW_WRITE", value).expect("accepted").allow_write;
        assert_eq!(given("/a:/b c:"), [Path::new("/a"), Path::new("/b c")]);
        assert!(given("").is_empty());
    }

    #[test]
    fn payloads_run_as_root_or_by_ids() {
        let run_as = |value| read("RUN_AS", value).expect("accepted").run_as;
        assert_eq!(Settings::from_lookup(|_| None).expect("defaults").run_as, None);
        assert_eq!(run_as("root"), Some(RunAs::Root));
        assert_eq!(run_as("10100-10115"), Some(RunAs::Ids(10_100..=10_115)));
        assert_eq!(run_as("7"), Some(RunAs::Ids(7..=7)));
    }

    #[test]
    fn a_bad_token_is_refused_and_not_shown() {
        let error = read("TOKEN", "a b").expect_err("accepted").to_string();
        assert!(error.starts_with("TOKEN=(not shown) is not accepted: it takes "), "{error}");
        assert!(!format!("{:?}", read("TOKEN", "s3cret").expect("good")).contains("s3cret"));
    }

    #[test]
    fn the_help_names_every_setting_once() {
        let help = help();
        assert!(!help.contains("--token "), "every process can read a command line");
        for setting in ALL.iter().filter(|setting| setting.has_flag()) {
            assert_eq!(help.matches(&format!("--{} ", setting.flag())).count(), 1, "{}", setting.name);
        }
    }
}
