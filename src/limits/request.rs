//! What one payload asks for: by lines `#JOB time_limit=2h memory_limit=2G` among the comments at the top of its script, as batch
//! systems have it, since a script goes through any server; and by fields of its form. Nothing here opens a file.

use std::io::BufRead;

use super::{Grant, Limit, WORDS};

/// How much of a script is looked at.
const HEAD_BYTES: u64 = 64 * 1024;

/// How such a line begins.
const MARK: &[u8] = b"#JOB";

/// Values by limit; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request(Vec<(Limit, u64)>);

/// Why a payload does not get what it asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such limit.
    #[error("{0:?} is no limit; there are {words}", words = WORDS.join(", "))]
    Unknown(String),
    /// A word without a value.
    #[error("{0:?} has no value; write it without blanks, such as time_limit=2h")]
    NoValue(String),
    /// The same limit twice.
    #[error("{0} is given twice; give it once")]
    Twice(&'static str),
    /// No value of this limit.
    #[error("{word}={value:?} is not accepted: it takes {accepts}")]
    Bad {
        /// The limit.
        word: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        accepts: &'static str,
    },
    /// The client itself allows less.
    #[error("{word}={value} is above what this client allows, {own}; ask for less, or have {} raised where the client is started", .word.to_uppercase())]
    Above {
        /// The limit.
        word: &'static str,
        /// What was asked for.
        value: String,
        /// What the client allows.
        own: String,
    },
}

impl Request {
    /// What the `#JOB` lines ask for among the comments at the top of a script: up to the first line that is neither empty nor a comment,
    /// within the first 64 KiB. What cannot be read asks for nothing here; the start says why.
    pub fn of_script(script: impl BufRead) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let mut script = script.take(HEAD_BYTES);
        let mut line = Vec::new();
        while matches!(script.read_until(b'\n', &mut line), Ok(1..)) {
            let is_comment = line.trim_ascii_start().starts_with(b"#");
            if !is_comment && !line.trim_ascii().is_empty() {
                break;
            }
            let words =
                line.strip_prefix(MARK).filter(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
            for word in String::from_utf8_lossy(words.unwrap_or_default()).split_ascii_whitespace() {
                request.add_word(word)?;
            }
            line.clear();
        }
        Ok(request)
    }

    /// What [`Request::to_text`] made.
    pub fn of_text(text: &str) -> Result<Self, RequestError> {
        let mut request = Self::default();
        text.split_ascii_whitespace().try_for_each(|word| request.add_word(word))?;
        Ok(request)
    }

    /// In the form of a `#JOB` line; `None` where nothing is asked for.
    pub fn to_text(&self) -> Option<String> {
        let words = self.0.iter().map(|(limit, value)| format!("{}={}", limit.word(), limit.shown(*value)));
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    fn add_word(&mut self, word: &str) -> Result<(), RequestError> {
        let (name, value) = word.split_once('=').ok_or_else(|| RequestError::NoValue(word.to_owned()))?;
        self.add(name, value)
    }

    /// Adds one limit by its word.
    pub fn add(&mut self, word: &str, value: &str) -> Result<(), RequestError> {
        let limit = Limit::of_word(word).ok_or_else(|| RequestError::Unknown(word.to_owned()))?;
        let word = limit.word();
        if self.0.iter().any(|(given, _)| *given == limit) {
            return Err(RequestError::Twice(word));
        }
        let value = limit.parse(value).ok_or_else(|| RequestError::Bad {
            word,
            value: value.to_owned(),
            accepts: limit.accepts(),
        })?;
        self.0.push((limit, value));
        Ok(())
    }

    /// This request, and of `other` what is not in it.
    pub fn or(mut self, other: Self) -> Self {
        for (limit, value) in other.0 {
            if self.0.iter().all(|(given, _)| *given != limit) {
                self.0.push((limit, value));
            }
        }
        self
    }

    /// What a payload gets that asks for this, of a client that itself grants `own`: never more than that.
    pub fn within(&self, own: &Grant) -> Result<Grant, RequestError> {
        let mut grant = *own;
        for (limit, value) in &self.0 {
            if let Some(most) = own.get(*limit)
                && (*value == 0 || *value > most)
            {
                return Err(RequestError::Above {
                    word: limit.word(),
                    value: limit.shown(*value),
                    own: limit.shown(most),
                });
            }
            grant.set(*limit, Some(*value));
        }
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_script(script: &str) -> Result<Option<String>, RequestError> {
        Request::of_script(script.as_bytes()).map(|request| request.to_text())
    }

    #[test]
    fn lines_count_at_the_top_alone() {
        for (script, asked) in [
            ("", None),
            ("#!/bin/sh\necho\n", None),
            ("#!/bin/sh\n#JOB time_limit=2h\necho\n", Some("time_limit=2h")),
            ("#JOB time_limit=7200 memory_limit=2048M\n", Some("time_limit=2h memory_limit=2G")),
            (
                "#!/bin/sh\n\n# why\n  # also\n#JOB\tpids_limit=9\t\n#JOB job_cpus=2\r\n",
                Some("pids_limit=9 job_cpus=2"),
            ),
            ("#!/bin/sh\n#JOB max_disk=0", Some("max_disk=0")),
            ("#!/bin/sh\n#JOB\n", None),
            ("#!/bin/sh\n#JOBS open\n# JOB a\n#job b\n #JOB c\n", None),
            ("#!/bin/sh\necho\n#JOB nonsense\n", None),
            ("\x7fELF\n#JOB nonsense\n", None),
        ] {
            assert_eq!(of_script(script).expect("understood").as_deref(), asked, "{script:?}");
        }
        let long = format!("#!/bin/sh\n{}#JOB nonsense\n", "# text\n".repeat(10_000));
        assert_eq!(of_script(&long), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_says_what_is() {
        for (line, told) in [
            ("#JOB memory=2G", "\"memory\" is no limit; there are time_limit, "),
            ("#JOB time_limit", "\"time_limit\" has no value"),
            ("#JOB time_limit = 2h", "\"time_limit\" has no value"),
            ("#JOB time_limit=", "time_limit=\"\" is not accepted: it takes a time"),
            ("#JOB time_limit=1H", "time_limit=\"1H\" is not accepted"),
            ("#JOB memory_limit=2GB", "memory_limit=\"2GB\" is not accepted: it takes a number of bytes"),
            ("#JOB pids_limit=-1", "pids_limit=\"-1\" is not accepted: it takes a whole number"),
            ("#JOB network=no", "network=\"no\" is not accepted: it takes on or off"),
            ("#JOB job_cpus=+1", "job_cpus=\"+1\" is not accepted"),
            ("#JOB job_cpus=1 time_limit=1\n#JOB job_cpus=1", "job_cpus is given twice"),
        ] {
            let error = of_script(line).expect_err("accepted").to_string();
            assert!(error.starts_with(told), "{line}: {error}");
        }
    }

    #[test]
    fn nobody_gets_more_than_the_client_grants() {
        let mut own = Grant::default();
        own.set(Limit::Time, Some(60_000));
        own.set(Limit::Processors, Some(2));
        let granted = |text: &str| Request::of_text(text).expect("understood").within(&own);
        assert_eq!(granted(""), Ok(own));
        let less = granted("time_limit=1s memory_limit=1G job_cpus=2").expect("granted");
        assert_eq!((less.get(Limit::Time), less.get(Limit::Memory)), (Some(1000), Some(1 << 30)));
        assert_eq!((less.get(Limit::Processors), less.get(Limit::Disk)), (Some(2), None));
        assert_eq!(granted("memory_limit=0"), Ok(own));
        assert!(granted("network=on").expect("granted").has_network());
        assert!(!granted("network=off").expect("granted").has_network());
        own.set(Limit::Network, Limit::Network.parse("off"));
        let granted = |text: &str| Request::of_text(text).expect("understood").within(&own);
        assert!(!granted("network=off").expect("granted").has_network());
        for text in ["time_limit=61s", "time_limit=0", "job_cpus=3", "network=on"] {
            let error = granted(text).expect_err("granted").to_string();
            let told = text.replace("=0", "=0s");
            assert!(error.starts_with(&format!("{told} is above what this client allows, ")), "{error}");
        }
    }

    #[test]
    fn what_a_form_says_goes_before_what_a_line_says() {
        let request = |text| Request::of_text(text).expect("understood");
        let both = request("time_limit=1h").or(request("time_limit=2h job_cpus=1"));
        assert_eq!(both.to_text().as_deref(), Some("time_limit=1h job_cpus=1"));
    }
}
