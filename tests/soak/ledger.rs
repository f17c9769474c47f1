//! The books: every id that was answered 200, what happened to it, the one outcome that it was seen to have, and the rules
//! that say which outcomes are right.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Cursor, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::wire::Answer;
use crate::work::{BULK, Kind, NO_SPACE};

/// Milliseconds since the Unix epoch, as the client's own times are.
pub type Ms = u64;

pub fn now() -> Ms {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The client looks at the disk once a second, and tells times in whole seconds.
const SLACK: Ms = 1500;

/// How long the client may owe a record after the disk has room again.
const OWED: Ms = 2500;

const CUT_OFF: &str = "Failed: client restarted";

/// A span of time with something in it that explains failures.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: Ms,
    /// `Ms::MAX` while it lasts.
    pub to: Ms,
}

impl Span {
    /// Whether it meets a second, of which the beginning is told.
    fn has_second(&self, second: Ms) -> bool {
        second + 1000 > self.from && second <= self.to
    }

    fn meets(self, from: Ms, to: Ms) -> bool {
        self.from <= to && from <= self.to.saturating_add(SLACK)
    }
}

/// A payload that the client took.
#[derive(Debug)]
pub struct Entry {
    pub id: u32,
    pub token: u64,
    pub kind: Kind,
    pub submitted: Ms,
    pub kill_asked: Option<Ms>,
    pub kill_answered: Option<Ms>,
    pub seen: Option<Seen>,
}

/// An outcome, as it has to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub word: &'static str,
    /// Of the JSON, or of all files of the ZIP.
    digest: u64,
    /// In whole seconds; where the JSON tells it.
    finished: Option<Ms>,
}

#[derive(Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
    by_id: HashMap<u32, usize>,
    /// Tokens of submits that broke off: the client may have taken them or not.
    pub unanswered: HashSet<u64>,
    /// When the client was killed without a word: until it was up again.
    pub crashes: Vec<Span>,
    /// When it was stopped in good order.
    pub stops: Vec<Span>,
    /// When the disk was full.
    pub full: Vec<Span>,
    pub outcomes: BTreeMap<&'static str, usize>,
    pub counts: BTreeMap<&'static str, usize>,
    pub violations: Vec<String>,
}

/// What an answer to `/retrieve` says.
pub enum Look {
    /// It is still to come, or this answer was refused for a reason that passes.
    Pending,
    Ended(Seen),
    Wrong(String),
}

impl Ledger {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn violation(&mut self, what: String) {
        // The first ones tell the story.
        if self.violations.len() < 100 {
            eprintln!("violation: {what}");
        }
        self.violations.push(what);
    }

    /// Enters a payload that was answered 200. Gives its place in the books.
    pub fn enter(&mut self, entry: Entry) -> usize {
        let index = self.entries.len();
        if let Some(first) = self.by_id.insert(entry.id, index) {
            let other = self.entries[first].token;
            self.violation(format!("id {} was given twice: to {other} and to {}", entry.id, entry.token));
        }
        self.entries.push(entry);
        index
    }

    pub fn of_id(&self, id: u32) -> Option<&Entry> {
        self.by_id.get(&id).map(|index| &self.entries[*index])
    }

    pub fn was_down(&self, from: Ms, to: Ms) -> bool {
        self.crashes.iter().chain(&self.stops).any(|span| span.meets(from, to))
    }

    pub fn was_stopping(&self, from: Ms, to: Ms) -> bool {
        self.stops.iter().any(|span| span.meets(from, to))
    }

    pub fn was_full(&self, from: Ms, to: Ms) -> bool {
        self.full.iter().any(|span| span.meets(from, to))
    }

    /// The restart after a kill in which a payload was told to have finished.
    fn crash_at(&self, finished: Ms) -> Option<&Span> {
        self.crashes.iter().find(|crash| crash.has_second(finished))
    }

    /// Whether a stop in good order explains that: one while the disk was full, so that it took no note of an end that was owed since
    /// a kill. What is owed is written within two seconds after the disk has room, so a disk that was full long before is no reason.
    fn was_stopped_on_full_disk_at(&self, finished: Ms) -> bool {
        let is_full = |stop: &Span| self.was_full(stop.from.saturating_sub(OWED), stop.to);
        self.stops.iter().any(|stop| stop.has_second(finished) && is_full(stop))
    }

    /// Payloads whose kill was answered, but came too late to be noted before the client itself was killed.
    pub fn kills_cut_off(&self) -> usize {
        let is_cut_off = |entry: &&Entry| {
            let seen = entry.seen.as_ref().filter(|seen| seen.word == CUT_OFF);
            let crash = seen.and_then(|seen| self.crash_at(seen.finished?));
            crash.is_some_and(|crash| entry.kill_answered.is_some_and(|answered| answered < crash.from))
        };
        self.entries.iter().filter(is_cut_off).count()
    }

    /// Takes an answer to `/retrieve/ID` into the books. Gives whether the payload has its outcome now.
    pub fn look(&mut self, index: usize, answer: &Answer) -> bool {
        let entry = &self.entries[index];
        let id = entry.id;
        match (self.judge(entry, answer), entry.seen.clone()) {
            (Look::Ended(seen), None) => {
                *self.outcomes.entry(seen.word).or_default() += 1;
                self.entries[index].seen = Some(seen);
                true
            }
            (Look::Ended(seen), Some(before)) if seen == before => true,
            (Look::Pending, None) => false,
            (Look::Wrong(why), _) => {
                self.violation(format!("payload {id}, {:?}: {why}", self.entries[index]));
                true
            }
            (_, Some(before)) => {
                let text = answer.text();
                self.violation(format!(
                    "payload {id} was {before:?}, and now: {} {text:.500}",
                    answer.status
                ));
                true
            }
        }
    }

    fn judge(&self, entry: &Entry, answer: &Answer) -> Look {
        let finished = answer.json("finished_at").and_then(|at| ms_of(&at));
        let seen = |word, digest| Look::Ended(Seen { word, digest, finished });
        let wrong = || Look::Wrong(format!("{} {:.600}", answer.status, answer.text()));
        let passes = self.was_full(entry.submitted, now());
        match answer.status {
            202 => return Look::Pending,
            200 => {}
            // An archive has a spool on the same disk.
            500 | 503 | 507 if passes => return Look::Pending,
            _ => return wrong(),
        }
        if answer.header("content-type").as_deref() == Some("application/zip") {
            return match self.judge_files(entry, answer) {
                Ok(digest) => seen("Completed", digest),
                Err(why) => Look::Wrong(why),
            };
        }
        if answer.json("finished_at").as_deref() == Some("null") {
            // Marked as killed, with its processes still to go.
            return if answer.json("status").as_deref() == Some("Killed") { Look::Pending } else { wrong() };
        }
        let digest = digest_of(&answer.body);
        match self.judge_json(entry, answer) {
            Some(word) => seen(word, digest),
            None => wrong(),
        }
    }

    /// All that a result must have: its own files, unchanged, and what its own script made.
    fn judge_files(&self, entry: &Entry, answer: &Answer) -> Result<u64, String> {
        let mut files = files_of(&answer.body).map_err(|error| format!("the ZIP is broken: {error}"))?;
        files.sort();
        let file = |name: &str| files.iter().find(|file| file.0 == name).map(|file| file.1.as_slice());
        let text = |name: &str| String::from_utf8_lossy(file(name).unwrap_or_default()).trim().to_owned();
        let token = entry.token.to_string();
        let was_full = self.was_full(entry.submitted, now());
        let is_bulk = |name: &str| file(name).is_some_and(|file| file.len() == BULK);
        if !entry.kind.ends_well() {
            return Err("it is Completed".to_owned());
        }
        if (text("token"), text("mark")) != (token.clone(), token) {
            return Err(format!("its result is of another: token {}, mark {}", text("token"), text("mark")));
        }
        if text(".orchestrator.exit") != "0" && !was_full {
            return Err(format!("its exit file has {:?}", file(".orchestrator.exit")));
        }
        if entry.kind == Kind::Bulky && !(is_bulk("input") && is_bulk("a/b/zeros")) {
            return Err("its large files are not whole".to_owned());
        }
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        Ok(hasher.finish())
    }

    /// The outcome, where it is one that this payload may have.
    fn judge_json(&self, entry: &Entry, answer: &Answer) -> Option<&'static str> {
        let field = |name: &str| answer.json(name).filter(|value| value != "null");
        let error = field("error").unwrap_or_default();
        let has_started = field("started_at").is_some();
        let exit_code: Option<i32> = field("exit_code").and_then(|code| code.parse().ok());
        let signal: Option<i32> = field("signal").and_then(|signal| signal.parse().ok());
        let is_killed = field("killed").as_deref() == Some("true");
        let was_full = self.was_full(entry.submitted, now());
        match field("status")?.as_str() {
            "Invalid" if entry.kind == Kind::NoScript => Some("Invalid"),
            "Killed" if !is_killed => None,
            "Killed" if error == "killed by request" => entry.kill_asked.map(|_| "Killed: by request"),
            "Killed" if error == "the client was stopped" => {
                (has_started && self.was_stopping(entry.submitted, now())).then_some("Killed: client stopped")
            }
            "Failed" if is_killed => None,
            "Failed" if error.contains("client was restarted") => {
                let [started, finished] =
                    ["started_at", "finished_at"].map(|name| field(name).and_then(|at| ms_of(&at)));
                let (started, finished) = (started?, finished?);
                let was_cut_off =
                    self.crash_at(finished).is_some() || self.was_stopped_on_full_disk_at(finished);
                let is_explained = started <= finished && was_cut_off;
                is_explained.then_some(CUT_OFF)
            }
            "Failed" if !has_started => None,
            "Failed" => match (exit_code, signal, entry.kind) {
                (Some(code), None, Kind::Code(own)) if code == own => Some("Failed: its exit code"),
                (None, Some(signal), Kind::Signal(own)) if signal == own => Some("Failed: its signal"),
                (None, None, Kind::NoInterpreter) if error.contains("/no/such/interpreter") => {
                    Some("Failed: no interpreter")
                }
                (Some(NO_SPACE), None, _) if was_full => Some("Failed: disk full"),
                (None, None, _) if was_full && error.contains("(os error 28)") => Some("Failed: disk full"),
                _ => None,
            },
            _ => None,
        }
    }
}

fn digest_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

type Files = Vec<(String, Vec<u8>)>;

fn files_of(zip: &[u8]) -> Result<Files, Box<dyn std::error::Error>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip))?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        files.push((file.name()?.into_owned(), content));
    }
    Ok(files)
}

fn ms_of(rfc3339: &str) -> Option<Ms> {
    let at = humantime::parse_rfc3339(rfc3339).ok()?;
    u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
