//! The reference model: what was asked and answered so far, and which answers can follow from that. Beside it stands the
//! witness, where each payload itself tells of its starts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::payloads::{FORGED_ID, Files, Kind, NO_SPACE};
use crate::wire::Answer;

/// How long after its end a trouble still explains a refusal: the client looks once a second, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// What is wrong with the client's surroundings, and explains that it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The client is not there, or is stopping.
    Down,
    /// It was stopped in good order.
    Stop,
    /// It has stood still: a note on the disk, which has its time, may have come too late.
    Pause,
    /// No bytes or inodes are left on its disk.
    Full,
    /// Its DATA_PATH is not there.
    Away,
    /// It has few descriptors, or none.
    Descriptors,
    /// It can start no process and no thread.
    Processes,
}

/// The first time that something was answered.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub at: Instant,
    pub life: u32,
    /// Seconds, as in /proc/uptime.
    pub uptime: f64,
}

/// A payload that was answered 200.
#[derive(Debug)]
pub struct Entry {
    pub id: u32,
    pub token: u64,
    pub kind: Kind,
    pub submitted: Instant,
    pub kill_asked: bool,
    pub kill: Option<Told>,
    /// When it was first seen to run.
    running: Option<Instant>,
    /// When it was first seen `Killed`, its processes perhaps still to go.
    killed: Option<Instant>,
    end: Option<(Instant, End)>,
    /// When its directory was first seen to be cleaned away, and when its row.
    cleaned: Option<Instant>,
    gone: Option<Instant>,
    /// The first life that told of an end.
    life_of_end: Option<u32>,
    /// Whether it was answered wrongly: that is told once.
    is_wrong: bool,
}

impl Entry {
    pub fn has_ended(&self) -> bool {
        self.is_wrong || self.end.is_some() || self.cleaned.is_some() || self.gone.is_some()
    }

    pub fn is_completed(&self) -> bool {
        self.end.as_ref().is_some_and(|(_, end)| end.word == "Completed")
    }
}

/// An end, as it has to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    word: &'static str,
    /// Of the JSON, or of all files of the ZIP.
    digest: u64,
}

struct Span {
    trouble: Trouble,
    /// `None` while it lasts.
    to: Option<Instant>,
}

/// What an answer to `/retrieve` says.
enum Look {
    Prepared,
    Running,
    /// Marked, with its processes still to go.
    Killed,
    End(End),
    Cleaned,
    Gone,
    /// Refused, for a reason that passes.
    Later,
}

pub struct Book {
    witness: PathBuf,
    /// Where it is short.
    max_age: Option<Duration>,
    max_jobs: usize,
    pub entries: Vec<Entry>,
    by_id: HashMap<u32, usize>,
    /// Submits without an answer: taken or not, each runs at most once.
    unanswered: BTreeSet<u64>,
    /// Submits that were refused: none of them may run.
    refused: BTreeSet<u64>,
    troubles: Vec<Span>,
    /// Ends of the client without a word.
    pub crashes: usize,
    /// Lives that came to nothing: their start failed.
    pub stillborn: BTreeSet<u32>,
    pub counts: BTreeMap<String, usize>,
    pub violations: Vec<String>,
}

impl Book {
    pub fn new(witness: PathBuf, max_age: Option<Duration>, max_jobs: usize) -> Self {
        Self {
            witness,
            max_age,
            max_jobs,
            entries: Vec::new(),
            by_id: HashMap::new(),
            unanswered: BTreeSet::new(),
            refused: BTreeSet::new(),
            troubles: Vec::new(),
            crashes: 0,
            stillborn: BTreeSet::new(),
            counts: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    pub fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    pub fn violation(&mut self, what: String) {
        // The first ones tell the story.
        if self.violations.len() < 20 {
            eprintln!("violation: {what:.1500}");
        }
        self.violations.push(what);
    }

    pub fn begin(&mut self, trouble: Trouble) {
        self.troubles.push(Span { trouble, to: None });
    }

    /// Ends all troubles of this kind.
    pub fn end(&mut self, trouble: Trouble) {
        for span in self.troubles.iter_mut().filter(|span| span.trouble == trouble && span.to.is_none()) {
            span.to = Some(Instant::now());
        }
    }

    /// Whether one of these troubles has been there since then.
    pub fn was(&self, troubles: &[Trouble], since: Instant) -> bool {
        self.troubles
            .iter()
            .filter(|span| troubles.contains(&span.trouble))
            .any(|span| span.to.is_none_or(|to| to + SLACK > since))
    }

    /// Whether a refusal with a status of 5xx, or a connection that breaks off, is explained.
    pub fn may_refuse(&self, since: Instant) -> bool {
        use Trouble::{Away, Descriptors, Down, Full, Processes};
        self.was(&[Down, Full, Away, Descriptors, Processes], since)
    }

    // --- submits

    /// An answer to a submit that was begun at `asked`. Gives whether it was taken.
    pub fn submitted(
        &mut self,
        (kind, token): (Kind, u64),
        asked: Instant,
        answer: std::io::Result<Answer>,
    ) -> bool {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.count("submits cut off");
                self.unanswered.insert(token);
                if !self.may_refuse(asked) {
                    self.violation(format!("a submit broke off without a reason: {error}"));
                }
                return false;
            }
        };
        if answer.status != 200 {
            self.count(&format!("submits answered {}", answer.status));
            self.refused.insert(token);
            if !(matches!(answer.status, 500..600) && self.may_refuse(asked)) {
                self.violation(format!(
                    "a submit of {kind:?} was answered {}: {}",
                    answer.status,
                    answer.text()
                ));
            }
            return false;
        }
        self.count("submits taken");
        let id = answer.json("id").and_then(|id| id.parse::<u32>().ok());
        let Some(id) = id.filter(|_| answer.json("status").as_deref() == Some("Prepared")) else {
            self.violation(format!("a submit was answered 200 and {}", answer.text()));
            return false;
        };
        let index = self.entries.len();
        if let Some(first) = self.by_id.insert(id, index) {
            self.violation(format!("id {id} was given twice: to {:?} and to {token}", self.entries[first]));
        }
        self.entries.push(Entry {
            id,
            token,
            kind,
            submitted: asked,
            kill_asked: false,
            kill: None,
            running: None,
            killed: None,
            end: None,
            cleaned: None,
            gone: None,
            life_of_end: None,
            is_wrong: false,
        });
        true
    }

    // --- kills

    /// An answer to a kill that was begun at `asked`.
    pub fn killed(&mut self, index: usize, asked: Instant, life: u32, answer: std::io::Result<Answer>) {
        let entry = &self.entries[index];
        let id = entry.id;
        let is_refused = self.may_refuse(asked) || self.was(&[Trouble::Pause], asked);
        match answer {
            Ok(answer) if answer.status == 200 => {
                self.count("kills answered");
                let told = Told { at: Instant::now(), life, uptime: uptime() };
                self.entries[index].kill.get_or_insert(told);
            }
            Ok(answer) if answer.status == 404 && self.may_be_gone(entry) => {
                self.count("kills of what is gone");
            }
            Ok(answer) if matches!(answer.status, 500..600) && is_refused => self.count("kills refused"),
            Ok(answer) => {
                self.violation(format!("a kill of {id} was answered {}: {}", answer.status, answer.text()));
            }
            Err(_) if is_refused => self.count("kills cut off"),
            Err(error) => self.violation(format!("a kill of {id} broke off without a reason: {error}")),
        }
    }

    // --- results

    /// An answer to `/retrieve` that was begun at `asked`.
    pub fn retrieved(&mut self, index: usize, asked: Instant, life: u32, answer: std::io::Result<Answer>) {
        let entry = &self.entries[index];
        let id = entry.id;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let is_explained = self.may_refuse(asked) || self.may_be_gone(entry);
                self.count("retrievals cut off");
                if !is_explained {
                    self.violation(format!("a retrieval of {id} broke off without a reason: {error}"));
                }
                return;
            }
        };
        let look = self.look(entry, asked, &answer);
        if let Err(why) = look.and_then(|look| self.follow(index, asked, life, look)) {
            let entry = &mut self.entries[index];
            if std::mem::replace(&mut entry.is_wrong, true) {
                return;
            }
            let entry = &self.entries[index];
            let text = if is_zip(&answer) { "a ZIP".to_owned() } else { answer.text() };
            self.violation(format!(
                "payload {id} {why}; life {life}, {entry:?}: {} {text:.600}",
                answer.status
            ));
        }
    }

    /// What the answer says, where it may say so of such a payload.
    fn look(&self, entry: &Entry, asked: Instant, answer: &Answer) -> Result<Look, String> {
        match answer.status {
            200 | 202 => {}
            404 if self.may_be_gone(entry) => return Ok(Look::Gone),
            500..600 if self.may_refuse(asked) => return Ok(Look::Later),
            // Between a look at the row and one at the directory, it may go.
            500..600 if self.may_be_gone(entry) => return Ok(Look::Later),
            _ => return Err("has an answer that nothing explains".to_owned()),
        }
        if is_zip(answer) {
            if answer.status != 200 || !entry.kind.ends_well() {
                return Err("must not be Completed".to_owned());
            }
            let digest = self.whole_files(entry, answer)?;
            return Ok(Look::End(End { word: "Completed", digest }));
        }
        let field = |name: &str| answer.json(name).filter(|value| value != "null");
        if field("id") != Some(entry.id.to_string()) {
            return Err("is answered as another".to_owned());
        }
        let status = field("status").unwrap_or_default();
        match (answer.status, status.as_str()) {
            (202, "Prepared") => return Ok(Look::Prepared),
            (202, "Running") => return Ok(Look::Running),
            (202, _) => return Err("has 202 with another status".to_owned()),
            (_, "Cleaned") if self.may_be_gone(entry) => return Ok(Look::Cleaned),
            (_, "Killed") if field("finished_at").is_none() => return Ok(Look::Killed),
            _ => {}
        }
        let mut hasher = DefaultHasher::new();
        answer.body.hash(&mut hasher);
        let word = self.word(entry, answer).ok_or("has an end that it cannot have")?;
        Ok(Look::End(End { word, digest: hasher.finish() }))
    }

    /// The end that the JSON tells, where it is one that this payload may have.
    fn word(&self, entry: &Entry, answer: &Answer) -> Option<&'static str> {
        let field = |name: &str| answer.json(name).filter(|value| value != "null");
        let error = field("error").unwrap_or_default();
        let number = |name: &str| field(name).and_then(|number| number.parse::<i32>().ok());
        let (exit_code, signal) = (number("exit_code"), number("signal"));
        let is_killed = field("killed").as_deref() == Some("true");
        let has_started = field("started_at").is_some();
        field("finished_at")?;
        match field("status")?.as_str() {
            "Invalid" if entry.kind == Kind::NoScript && !is_killed => Some("Invalid"),
            "Killed" if !is_killed => None,
            "Killed" if error == "killed by request" => entry.kill_asked.then_some("Killed: by request"),
            "Killed" if error.contains("client was stopped") => {
                let is_told = has_started && self.was(&[Trouble::Stop], entry.submitted);
                is_told.then_some("Killed: client stopped")
            }
            "Failed" if is_killed => None,
            "Failed" if error.contains("client was restarted") => {
                (has_started && self.crashes > 0).then_some("Failed: client restarted")
            }
            "Failed" => match (exit_code, signal, entry.kind) {
                (Some(code), None, kind) if kind.code() == Some(code) => Some("Failed: its exit code"),
                (None, Some(signal), Kind::Signal(own)) if signal == own => Some("Failed: its signal"),
                (None, None, Kind::NoInterpreter) if error.contains("/no/such/interpreter") => {
                    Some("Failed: no interpreter")
                }
                (Some(NO_SPACE), None, _) if self.was(&[Trouble::Full], entry.submitted) => {
                    Some("Failed: disk full")
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether what was answered before, or as good as before, lets this be.
    fn follow(&mut self, index: usize, asked: Instant, life: u32, look: Look) -> Result<(), String> {
        let now = Instant::now();
        let may_be_killed = {
            let entry = &self.entries[index];
            entry.kill_asked || self.was(&[Trouble::Stop], entry.submitted)
        };
        let may_wait_again = self.may_refuse(self.entries[index].submitted);
        let entry = &mut self.entries[index];
        // Only what was answered before this was asked is before it.
        let is_before = |at: Option<Instant>| at.is_some_and(|at| at < asked);
        let was_killed = is_before(entry.killed) || is_before(entry.kill.map(|kill| kill.at));
        let has_ended = is_before(entry.end.as_ref().map(|end| end.0));
        let was_cleaned = is_before(entry.cleaned) || is_before(entry.gone);
        match look {
            Look::Prepared | Look::Running | Look::Killed if has_ended || was_cleaned => {
                return Err("had ended".to_owned());
            }
            Look::Prepared | Look::Running if was_killed => return Err("was killed".to_owned()),
            // The host may have refused what the start takes: then it waits again, and has not run.
            Look::Prepared if is_before(entry.running) && !may_wait_again => {
                return Err("ran, and now waits".to_owned());
            }
            Look::Killed if !may_be_killed => return Err("was killed by nobody".to_owned()),
            Look::End(_) if was_cleaned => return Err("was cleaned away".to_owned()),
            Look::Cleaned if is_before(entry.gone) => return Err("was unknown".to_owned()),
            Look::Prepared | Look::Later => {}
            Look::Running => _ = entry.running.get_or_insert(now),
            Look::Killed => _ = entry.killed.get_or_insert(now),
            Look::Cleaned => _ = entry.cleaned.get_or_insert(now),
            Look::Gone => _ = entry.gone.get_or_insert(now),
            Look::End(end) => {
                if entry.killed.is_some() && !end.word.starts_with("Killed") {
                    return Err(format!("was Killed, and is {}", end.word));
                }
                match &entry.end {
                    Some((_, before)) if *before != end => {
                        return Err(format!("was {before:?} and is {end:?}"));
                    }
                    Some(_) => {}
                    None => {
                        entry.life_of_end = Some(life);
                        let word = end.word;
                        entry.end = Some((now, end));
                        self.count(word);
                    }
                }
            }
        }
        Ok(())
    }

    /// An answer to `/retrieve_partial` that was begun at `asked`.
    pub fn partially_retrieved(&mut self, index: usize, asked: Instant, answer: &std::io::Result<Answer>) {
        let entry = &self.entries[index];
        let id = entry.id;
        let has_completed = entry.is_completed() && entry.end.as_ref().is_some_and(|end| end.0 < asked);
        // While it runs, a payload may close its directory.
        let may_close = matches!(entry.kind, Kind::Closed { .. }) && entry.end.is_none();
        let is_explained = self.may_refuse(asked) || self.may_be_gone(entry) || may_close;
        let outcome = match answer {
            Ok(answer) if answer.status == 200 && has_completed => {
                self.whole_files(entry, answer).map(|_| ())
            }
            Ok(answer) if answer.status == 200 => self.files_as_they_are(entry, answer),
            Ok(answer) if answer.status == 404 && self.may_be_gone(entry) => Ok(()),
            Ok(answer) if may_close && answer.json("error").as_deref() == Some("directory_closed") => Ok(()),
            Ok(answer) if matches!(answer.status, 500..600) && is_explained => Ok(()),
            Ok(answer) => Err(format!("was answered {}: {:.300}", answer.status, answer.text())),
            Err(_) if is_explained => Ok(()),
            Err(error) => Err(format!("broke off without a reason: {error}")),
        };
        match outcome {
            Ok(()) => self.count("partial retrievals"),
            Err(why) => {
                let entry = &self.entries[index];
                self.violation(format!("a partial retrieval of {id} {why}; {entry:?}"));
            }
        }
    }

    /// All that the result must have, byte for byte, and nothing else. Gives its digest.
    fn whole_files(&self, entry: &Entry, answer: &Answer) -> Result<u64, String> {
        let files = files_of(&answer.body).map_err(|error| format!("has a broken ZIP: {error}"))?;
        let expected = entry.kind.result(entry.token, &self.witness);
        for (name, content) in &expected {
            match files.get(name) {
                None => return Err(format!("has a ZIP without {name}, of {} entries", files.len())),
                Some(found) if found != content => return Err(format!("has other bytes in {name}")),
                Some(_) => {}
            }
        }
        let is_new = |name: &&String| !expected.contains_key(*name) && !name.starts_with(".orchestrator.");
        if let Some(name) = files.keys().find(is_new) {
            return Err(format!("has a ZIP with a file that nobody made: {name}"));
        }
        let text =
            |name: &str| String::from_utf8_lossy(files.get(name).map_or(&[], Vec::as_slice)).into_owned();
        if text(".orchestrator.exit").trim() != "0" {
            return Err(format!("has the exit file {:?}", text(".orchestrator.exit")));
        }
        if text(".orchestrator.out") != format!("out {}\n", entry.token) {
            return Err(format!("has the output {:?}", text(".orchestrator.out")));
        }
        let skipped = text(".orchestrator.skipped");
        let is_right = if entry.kind == Kind::Odd {
            skipped.lines().all(|line| line.contains("pipe"))
        } else {
            skipped.is_empty()
        };
        if !is_right {
            return Err(format!("has left out {skipped:?}"));
        }
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        Ok(hasher.finish())
    }

    /// What a payload that has not ended well must have: all that it was sent with, and nothing that it cannot have made.
    fn files_as_they_are(&self, entry: &Entry, answer: &Answer) -> Result<(), String> {
        let files = files_of(&answer.body).map_err(|error| format!("has a broken ZIP: {error}"))?;
        for (name, content) in entry.kind.input(entry.token, &self.witness) {
            match files.get(&name) {
                None => return Err(format!("has a ZIP without {name}")),
                Some(found) if *found != content => return Err(format!("has other bytes in {name}")),
                Some(_) => {}
            }
        }
        let possible = entry.kind.result(entry.token, &self.witness);
        let is_new = |name: &&String| !possible.contains_key(*name) && !name.starts_with(".orchestrator.");
        match files.keys().find(is_new) {
            Some(name) => Err(format!("has a file that nobody made: {name}")),
            None => Ok(()),
        }
    }

    /// Whether MAX_AGE may have been over for it.
    fn may_be_gone(&self, entry: &Entry) -> bool {
        let tolerance = Duration::from_secs(1);
        self.max_age.is_some_and(|max_age| entry.submitted.elapsed() + tolerance >= max_age)
    }

    // --- the last look

    /// Holds the books against what the payloads themselves have told.
    pub fn close(&mut self) {
        let mut wrong = Vec::new();
        let mut cut = 0;
        for entry in &self.entries {
            let told = Witness::of(&self.witness, entry.token);
            let mut say =
                |what: &str| wrong.push(format!("payload {} {what}; {told:?}, {entry:?}", entry.id));
            let starts = told.starts.len();
            if starts > 1 {
                say("has run more than once");
            }
            let end = entry.end.as_ref().map(|(_, end)| end.word);
            let is_never_run = matches!(entry.kind, Kind::NoScript | Kind::NoInterpreter);
            let has_told_all = starts == 1 && told.ends.len() == 1;
            match end {
                Some("Completed" | "Failed: its exit code" | "Failed: its signal") if !has_told_all => {
                    say("has not run as it says");
                }
                Some("Failed: client restarted") => {
                    // Its end may not have been noted although its slot was free; a start that has not begun has its slot.
                    cut += usize::from(starts == 0);
                    // It was cut off at the end of the life that started it. Later kills found it ended.
                    let started = told.starts.first().map(|start| start.0);
                    if entry.kill.is_some_and(|kill| started.is_some_and(|life| kill.life <= life)) {
                        say("was killed, and is Failed as cut off");
                    }
                }
                None if !entry.has_ended() => say("has no end"),
                _ => {}
            }
            if is_never_run && starts > 0 {
                say("cannot have run");
            }
            if told.starts.iter().any(|start| self.stillborn.contains(&start.0)) {
                say("was started by a client whose own start failed");
            }
            let last = told.starts.iter().map(|start| start.0).max().unwrap_or(0);
            if entry.kill.is_some_and(|kill| last > kill.life) {
                say("has run after its kill was answered");
            }
            if entry.life_of_end.is_some_and(|life| last > life) {
                say("has run after its end was told");
            }
            let is_kept = end.is_some_and(|word| !word.starts_with("Killed"));
            let has_ended_after =
                |kill: Told| is_kept && told.ends.iter().any(|end| *end > kill.uptime + 0.05);
            if entry.kill.is_some_and(has_ended_after) {
                say("has ended by itself after its kill was answered");
            }
        }
        if cut > self.max_jobs * self.crashes {
            wrong.push(format!(
                "{cut} payloads were cut off before they ran, by {} ends of the client",
                self.crashes
            ));
        }
        for (tokens, most, what) in [(&self.unanswered, 1, "unanswered"), (&self.refused, 0, "refused")] {
            for token in tokens {
                let starts = Witness::of(&self.witness, *token).starts.len();
                if starts > most {
                    wrong.push(format!("{token}, whose submit was {what}, has run {starts} times"));
                }
            }
        }
        for what in wrong {
            self.violation(what);
        }
    }

    /// Whether a payload has this id, one that some payloads forge.
    pub fn has_given_forged_id(&self) -> bool {
        self.by_id.contains_key(&FORGED_ID)
    }
}

/// What a payload has told of itself.
#[derive(Debug)]
struct Witness {
    /// The life of the client in which it was started, and when.
    starts: Vec<(u32, f64)>,
    ends: Vec<f64>,
}

impl Witness {
    fn of(witness: &Path, token: u64) -> Self {
        let text = fs::read_to_string(witness.join(token.to_string())).unwrap_or_default();
        let mut this = Self { starts: Vec::new(), ends: Vec::new() };
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["start", life, up, _] => this.starts.push((life.parse().unwrap(), up.parse().unwrap())),
                ["end", up] => this.ends.push(up.parse().unwrap()),
                _ => panic!("the witness of {token} has {line:?}"),
            }
        }
        this
    }
}

/// Seconds since the start of the machine, as the payloads read them.
fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn is_zip(answer: &Answer) -> bool {
    answer.header("content-type").as_deref() == Some("application/zip")
}

fn files_of(zip: &[u8]) -> Result<Files, Box<dyn std::error::Error>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip))?;
    let mut files = Files::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let name = file.name()?.into_owned();
        if files.insert(name.clone(), content).is_some() {
            return Err(format!("{name} is there twice").into());
        }
    }
    Ok(files)
}
