//! What a payload is: its id, its status words, its outcome, and the JSON that callers see (`CONTRACT.md`, "Payload").
//! No storage, no process and no HTTP here.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use miniserde::Serialize;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as WordError;

use crate::clock::{UnixMs, now_ms, rfc3339};

/// A payload's number: counted up, never given twice, 1 to [`LAST_ID`].
pub type PayloadId = u32;

/// The largest id that is given: the servers keep ids in 32 bits, signed in places.
pub const LAST_ID: PayloadId = (1 << 31) - 1;

/// The closed set of status words that both server generations know.
///
/// serde gives the way in from a word, miniserde the ways to JSON and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, miniserde::Deserialize)]
pub enum Status {
    /// All files are on disk, the row is written, the payload waits for a slot.
    Prepared,
    /// `run.sh` has been started.
    Running,
    /// `run.sh` ended with exit code 0.
    Completed,
    /// Another exit code, a signal, or a start that failed.
    Failed,
    /// There is no `run.sh`.
    Invalid,
    /// Ended by `/kill`, a time limit, or a stop of the client.
    Killed,
    /// The directory has been removed by age.
    Cleaned,
}

impl Status {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Prepared,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Invalid,
        Self::Killed,
        Self::Cleaned,
    ];

    /// Whether the payload still waits or runs, so that its result is yet to come.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Prepared | Self::Running)
    }

    /// The status that `word` names.
    pub fn from_word(word: &str) -> Result<Self, WordError> {
        Self::deserialize(word.into_deserializer())
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prepared => "Prepared",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Invalid => "Invalid",
            Self::Killed => "Killed",
            Self::Cleaned => "Cleaned",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the kernel counted for `run.sh` and the children it waited for (`getrusage(2)`), and the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, miniserde::Deserialize)]
pub struct Usage {
    /// Seconds from start to end.
    pub wall_s: f64,
    /// Seconds of user CPU time.
    pub user_s: f64,
    /// Seconds of system CPU time.
    pub system_s: f64,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

/// How the processes ended that `run.sh` had left behind at its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, miniserde::Deserialize)]
pub enum LeftOver {
    /// Within LINGER, without a signal.
    EndedItself,
    /// By SIGTERM.
    Terminated,
    /// By SIGKILL.
    Killed,
}

impl LeftOver {
    /// How they ended, that `word` says.
    pub fn from_word(word: &str) -> Result<Self, WordError> {
        Self::deserialize(word.into_deserializer())
    }

    /// In words, for callers and the log.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::EndedItself => "ended by itself",
            Self::Terminated => "ended by SIGTERM",
            Self::Killed => "ended by SIGKILL",
        }
    }
}

impl fmt::Display for LeftOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What was enforced for a payload, and what was not of that which should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, miniserde::Deserialize)]
pub struct Isolation {
    /// What holds: a word each, after a colon how, or which: `landlock:7`, `uid:10103`.
    pub enforced: Vec<String>,
    /// What does not, after a colon why.
    pub missing: Vec<String>,
}

impl Isolation {
    /// As JSON.
    pub fn to_json(&self) -> String {
        miniserde::json::to_string(self)
    }

    /// What [`Isolation::to_json`] made; `None` if it is anything else.
    pub fn from_json(text: &str) -> Option<Self> {
        miniserde::json::from_str(text).ok()
    }
}

/// How a payload ended: what the runner tells the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The status to set, unless the payload has been killed meanwhile.
    pub status: Status,
    /// Exit code of `run.sh`, where it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended `run.sh`, where one did.
    pub signal: Option<i32>,
    /// Why, in one sentence, where the status does not say it all.
    pub error: Option<String>,
    /// How those ended that it left behind, where it did.
    pub left_over: Option<LeftOver>,
    /// What it used.
    pub usage: Usage,
}

impl Outcome {
    /// A payload whose `run.sh` never ran.
    pub fn not_started(status: Status, error: impl Into<String>) -> Self {
        Self {
            status,
            exit_code: None,
            signal: None,
            error: Some(error.into()),
            left_over: None,
            usage: Usage::default(),
        }
    }
}

/// A payload as the store knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// Its number.
    pub id: PayloadId,
    /// Where it stands, as callers may know.
    pub status: Status,
    /// The status that it has got since, as long as that is not on the disk: nobody is told so before.
    pub unnoted: Option<Status>,
    /// Absolute path of its directory.
    pub loc: PathBuf,
    /// Process id of `run.sh`, once started.
    pub pid: Option<u32>,
    /// Whether it was killed: for good, whatever the status says yet.
    pub killed: bool,
    /// Exit code, once it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Why it failed or was killed.
    pub error: Option<String>,
    /// When it was queued.
    pub created_at: UnixMs,
    /// When `run.sh` was started.
    pub started_at: Option<UnixMs>,
    /// When it ended, or was given up before its start.
    pub finished_at: Option<UnixMs>,
    /// How those ended that it left behind, where it did.
    pub left_over: Option<LeftOver>,
    /// What was enforced for it, once started.
    pub isolation: Option<Isolation>,
    /// What it used; the wall clock runs on while it does.
    pub usage: Usage,
    /// Whether anybody has fetched its result.
    pub is_told: bool,
    /// The limits that its form asked for, as a `#JOB` line has them: `time_limit=2h job_cpus=1`.
    pub asked: Option<String>,
    /// Whether its removal has been asked for, once it has ended.
    pub is_unwanted: bool,
    /// By which its sender may ask for it again: the value of Idempotency-Key, where it sent one.
    pub idempotency_key: Option<String>,
}

/// The wire form. `input` is always `{}`: the servers require the field and do not read it.
#[derive(Serialize)]
struct Wire<'a> {
    id: PayloadId,
    status: Status,
    loc: Cow<'a, str>,
    /// 0 before the start: server 2.3 takes `null` for a broken answer and gives the job up.
    pid: u32,
    killed: bool,
    input: Input,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<&'a str>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    usage: Usage,
}

#[derive(Serialize)]
struct Input {}

impl Payload {
    /// A payload that has just been received and waits for a slot.
    pub fn prepared(id: PayloadId, loc: PathBuf) -> Self {
        Self {
            id,
            status: Status::Prepared,
            unnoted: None,
            loc,
            pid: None,
            killed: false,
            exit_code: None,
            signal: None,
            error: None,
            created_at: now_ms(),
            started_at: None,
            finished_at: None,
            left_over: None,
            isolation: None,
            usage: Usage::default(),
            is_told: false,
            asked: None,
            is_unwanted: false,
            idempotency_key: None,
        }
    }

    /// The payload with an end that is still to be noted: who has been killed is `Killed`, and the first reason stays.
    pub fn ended(mut self, outcome: &Outcome) -> Self {
        self.unnoted = Some(if self.killed { Status::Killed } else { outcome.status });
        if self.error.is_none() {
            self.error.clone_from(&outcome.error);
        }
        self.exit_code = outcome.exit_code;
        self.signal = outcome.signal;
        self.finished_at = Some(now_ms());
        self.left_over = outcome.left_over;
        self.usage = outcome.usage;
        self
    }

    /// The payload once all of it is on the disk.
    pub fn noted(mut self) -> Self {
        self.status = self.unnoted.take().unwrap_or(self.status);
        self
    }

    /// Whether it has ended, and that is not on the disk yet.
    pub fn is_end_unnoted(&self) -> bool {
        self.finished_at.is_some() && self.unnoted.is_some()
    }

    /// Whether nothing of it is yet to come: no process of it is left, and that is on the disk.
    pub fn has_ended(&self) -> bool {
        self.finished_at.is_some() && self.unnoted.is_none()
    }

    /// The exit code of `run.sh` as a shell would name it (128 + signal), where it ran to an end.
    pub fn shell_code(&self) -> Option<i32> {
        self.exit_code.or(self.signal.map(|signal| 128 + signal))
    }

    /// As it was before what is not on the disk yet.
    fn before_unnoted(&self) -> Self {
        let mut before = self.clone();
        if self.status.is_pending() {
            (before.killed, before.error) = (false, None);
        }
        (before.unnoted, before.exit_code, before.signal) = (None, None, None);
        (before.finished_at, before.left_over, before.usage) = (None, None, Usage::default());
        before
    }

    /// The payload as callers see it.
    pub fn to_json(&self) -> String {
        if self.unnoted.is_some() {
            return self.before_unnoted().to_json();
        }
        let mut usage = self.usage;
        if let (Some(started), None) = (self.started_at, self.finished_at) {
            usage.wall_s = seconds_between(started, now_ms());
        }
        let mut json = miniserde::json::to_string(&Wire {
            id: self.id,
            status: self.status,
            // What is not UTF-8 is shown by replacement characters: JSON has nothing else.
            loc: self.loc.to_string_lossy(),
            pid: self.pid.unwrap_or(0),
            killed: self.killed,
            input: Input {},
            exit_code: self.exit_code,
            signal: self.signal,
            error: self.error.as_deref(),
            created_at: rfc3339(self.created_at),
            started_at: self.started_at.map(rfc3339),
            finished_at: self.finished_at.map(rfc3339),
            usage,
        });
        // Fields that the servers do not know: they are not there where they say nothing.
        json.truncate(json.len() - 1);
        if let Some(left_over) = self.left_over {
            json.extend([",\"left_over\":\"", left_over.in_words(), "\""]);
        }
        if let Some(isolation) = &self.isolation {
            json.extend([",\"isolation\":", &isolation.to_json()]);
        }
        json.push('}');
        json
    }
}

/// The name of a signal, such as `SIGKILL` or `SIGRTMIN+3`, as `kill -l` of most shells has it.
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    /// The C library keeps the first two real-time signals to itself.
    const FIRST_REAL_TIME: i32 = 34;
    let name = usize::try_from(number - 1).ok().and_then(|index| NAMES.get(index));
    match (name, number - FIRST_REAL_TIME) {
        (Some(name), _) => format!("SIG{name}"),
        (None, 0) => "SIGRTMIN".to_owned(),
        (None, more @ 1..) => format!("SIGRTMIN+{more}"),
        (None, _) => format!("signal {number}"),
    }
}

/// Seconds from one moment to another; 0 where the clock was set back in between.
pub fn seconds_between(from: UnixMs, to: UnixMs) -> f64 {
    let ms = u32::try_from(to.saturating_sub(from).max(0)).unwrap_or(u32::MAX);
    f64::from(ms) / 1000.0
}

/// Seconds, to the microsecond. A quotient of two whole numbers is rounded once, so it is written in few digits, and every
/// reader of these comes to the same number; `Duration::as_secs_f64` adds two rounded ones.
#[allow(clippy::cast_precision_loss, reason = "exact for 285 years")]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::LAST_MS;

    #[test]
    fn every_status_word_comes_back_as_itself() {
        for status in [
            Status::Prepared,
            Status::Running,
            Status::Completed,
            Status::Failed,
            Status::Invalid,
            Status::Killed,
            Status::Cleaned,
        ] {
            assert_eq!(Status::from_word(&status.to_string()), Ok(status));
            assert_eq!(miniserde::json::to_string(&status), format!("\"{status}\""));
        }
        assert!(Status::from_word("Queued").is_err());
    }

    #[test]
    fn the_json_is_the_one_of_the_contract() {
        let payload = Payload {
            id: 731_094,
            status: Status::Failed,
            unnoted: None,
            loc: "/opt/data/5f0c \"x\"".into(),
            pid: Some(4242),
            killed: false,
            exit_code: Some(3),
            signal: None,
            error: None,
            created_at: 1_795_493_400_000,
            started_at: Some(1_795_493_400_250),
            finished_at: Some(1_795_493_401_000),
            left_over: None,
            isolation: None,
            usage: Usage { wall_s: 0.75, user_s: 0.5, system_s: 0.0, max_rss_bytes: 4096 },
            is_told: false,
            asked: None,
            is_unwanted: false,
            idempotency_key: None,
        };
        assert_eq!(
            payload.to_json(),
            concat!(
                r#"{"id":731094,"status":"Failed","loc":"/opt/data/5f0c \"x\"","pid":4242,"killed":false,"#,
                r#""input":{},"exit_code":3,"signal":null,"error":null,"created_at":"2026-11-24T04:10:00Z","#,
                r#""started_at":"2026-11-24T04:10:00Z","finished_at":"2026-11-24T04:10:01Z","#,
                r#""usage":{"wall_s":0.75,"user_s":0.5,"system_s":0.0,"max_rss_bytes":4096}}"#
            )
        );
        let waiting = Payload { pid: None, ..payload };
        assert!(waiting.to_json().contains(r#""pid":0,"#));
        let left = Payload { left_over: Some(LeftOver::Terminated), ..waiting };
        assert!(left.to_json().ends_with(r#""max_rss_bytes":4096},"left_over":"ended by SIGTERM"}"#));
        let isolation = Isolation {
            enforced: vec!["landlock:7".to_owned(), "seccomp".to_owned()],
            missing: vec!["private_tmp: no \"user namespaces\"".to_owned()],
        };
        assert_eq!(Isolation::from_json(&isolation.to_json()), Some(isolation.clone()));
        let contained = Payload { isolation: Some(isolation), ..left };
        assert!(contained.to_json().ends_with(concat!(
            r#","left_over":"ended by SIGTERM","#,
            r#""isolation":{"enforced":["landlock:7","seccomp"],"missing":["private_tmp: no \"user namespaces\""]}}"#
        )));
    }

    #[test]
    fn signals_have_the_names_that_a_shell_gives_them() {
        for (number, name) in [
            (1, "SIGHUP"),
            (9, "SIGKILL"),
            (31, "SIGSYS"),
            (32, "signal 32"),
            (34, "SIGRTMIN"),
            (64, "SIGRTMIN+30"),
        ] {
            assert_eq!(signal_name(number), name);
        }
    }

    #[test]
    fn any_moment_can_be_told() {
        for (at, told) in [
            (UnixMs::MIN, "1970-01-01T00:00:00Z"),
            (LAST_MS, "9999-12-31T23:59:59Z"),
            (UnixMs::MAX, "9999-12-31T23:59:59Z"),
        ] {
            let started = Payload { started_at: Some(at), ..Payload::prepared(1, PathBuf::new()) };
            assert!(started.to_json().contains(&format!(r#""started_at":"{told}""#)), "{at}");
        }
    }
}
