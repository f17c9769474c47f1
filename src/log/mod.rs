//! The one logger: a line per event on standard error, plain text or JSON, below a level that is set once at start.
//! Nothing else in the program writes to standard error, and nobody waits for it (`writer.rs`).

mod seldom;
mod writer;

use std::fmt::{self, Write as _};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;

use crate::clock::{self, UnixMs};

pub use seldom::Seldom;

/// How much is told. The order is the filter: a level lets itself and all before it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something is broken and someone must act.
    Error,
    /// Something was refused, cut short or ended by force.
    Warn,
    /// What happened to each payload.
    Info,
    /// Each request, too.
    Debug,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `2026-11-24T04:10:00Z INFO payload started payload=731094 pid=4242`
    Text,
    /// `{"time":"...","level":"info","event":"payload started","payload":731094,"pid":4242}`
    Json,
}

/// How lines are told.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What is told.
    pub level: Level,
    /// As what.
    pub format: Format,
    /// Whether each line begins with its priority, as the journal of systemd reads it (sd-daemon(3)).
    pub has_priorities: bool,
}

static SETUP: OnceLock<Setup> = OnceLock::new();

/// How long the end of the process waits for its last lines.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The first call wins; before it, `Info` and `Text` hold.
pub fn init(setup: Setup) {
    // A second call can only come from a test of this file; the first setting stays.
    let _ = SETUP.set(setup);
}

/// How lines are told now.
pub fn setup() -> Setup {
    let before = Setup { level: Level::Info, format: Format::Text, has_priorities: false };
    SETUP.get().copied().unwrap_or(before)
}

/// Starts the thread that writes; without it a line may hold its caller for a moment. The text of a panic goes the same way.
pub fn start() -> io::Result<()> {
    writer::start(|number| {
        let fields = [("number", number.to_value())];
        finished(Level::Warn, render(setup().format, clock::now_ms(), Level::Warn, DROPPED, &fields))
    })?;
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("for no reason given");
        let place = info.location().map(ToString::to_string);
        write(Level::Error, PANICKED, &[("reason", what.to_value()), ("place", place.to_value())]);
        flush();
    }));
    Ok(())
}

const DROPPED: &str = "lines are missing here: standard error took no more for a while";
const PANICKED: &str = "the program is at fault and ends; please report this";

/// Waits for the last lines to be written, for a moment at most.
pub fn flush() {
    writer::flush(LAST_WAIT);
}

/// One value of an event.
pub enum Value<'a> {
    /// A whole number, bare in JSON.
    Number(i128),
    /// Any other number, bare in JSON too.
    Fraction(f64),
    /// Anything else, a string in JSON.
    Text(&'a dyn fmt::Display),
    /// There is none: `null` in JSON, `-` in text.
    Nothing,
}

/// Makes a [`Value`] of what a call of `event!` names.
pub trait ToValue {
    /// The value, borrowed.
    fn to_value(&self) -> Value<'_>;
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl ToValue for $kind {
            fn to_value(&self) -> Value<'_> {
                i128::try_from(*self).map_or(Value::Text(self), Value::Number)
            }
        }
    )*};
}
numbers!(u16, u32, u64, usize, i32, i64);

macro_rules! texts {
    ($($kind:ty),*) => {$(
        impl ToValue for $kind {
            fn to_value(&self) -> Value<'_> {
                Value::Text(self)
            }
        }
    )*};
}
texts!(&str, String, io::Error, std::path::Display<'_>, fmt::Arguments<'_>);

impl ToValue for f64 {
    fn to_value(&self) -> Value<'_> {
        if self.is_finite() { Value::Fraction(*self) } else { Value::Nothing }
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Nothing, ToValue::to_value)
    }
}

/// Writes one event: `event!(Info, "payload started", payload = id, pid = pid)`.
#[macro_export]
macro_rules! event {
    ($level:ident, $event:expr $(, $name:ident = $value:expr)* $(,)?) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::write(
                $crate::log::Level::$level,
                $event,
                &[$((stringify!($name), $crate::log::ToValue::to_value(&$value))),*],
            );
        }
    };
}

/// Whether events of `level` are written.
pub fn enabled(level: Level) -> bool {
    setup().level >= level
}

/// Writes one event, whatever the level: the start line must not be filtered away.
pub fn write(level: Level, event: &str, fields: &[(&str, Value<'_>)]) {
    writer::put(finished(level, render(setup().format, clock::now_ms(), level, event, fields)));
}

/// Tells why the program goes no further: one line, whatever stands in the message.
pub fn complain(format: Format, message: &str) {
    let line = match format {
        Format::Json => {
            let fields = [("error", message.to_value())];
            render(format, clock::now_ms(), Level::Error, "job-orchestrator cannot go on", &fields)
        }
        Format::Text => format!("job-orchestrator: {}", visible(message)),
    };
    writer::put(finished(Level::Error, line));
    flush();
}

fn finished(level: Level, mut line: String) -> String {
    line.push('\n');
    if setup().has_priorities {
        let priority = match level {
            Level::Error => "<3>",
            Level::Warn => "<4>",
            Level::Info => "<6>",
            Level::Debug => "<7>",
        };
        line.insert_str(0, priority);
    }
    line
}

fn render(format: Format, now: UnixMs, level: Level, event: &str, fields: &[(&str, Value<'_>)]) -> String {
    let time = humantime::format_rfc3339_millis(clock::system_time(now));
    let mut line = String::with_capacity(160);
    // Writing to a String cannot fail.
    let _ = match format {
        Format::Text => write!(line, "{time} {} {event}", level_word(level).to_uppercase()),
        Format::Json => {
            write!(line, r#"{{"time":"{time}","level":"{}","event":{}"#, level_word(level), quoted(&event))
        }
    };
    for (name, value) in fields {
        let _ = match (format, value) {
            (Format::Text, Value::Number(number)) => write!(line, " {name}={number}"),
            (Format::Text, Value::Fraction(number)) => write!(line, " {name}={number}"),
            (Format::Text, Value::Nothing) => write!(line, " {name}=-"),
            (Format::Text, Value::Text(text)) => write!(line, " {name}={}", bare_or_quoted(text)),
            (Format::Json, Value::Number(number)) => write!(line, ",\"{name}\":{number}"),
            (Format::Json, Value::Fraction(number)) => write!(line, ",\"{name}\":{number}"),
            (Format::Json, Value::Nothing) => write!(line, ",\"{name}\":null"),
            (Format::Json, Value::Text(text)) => write!(line, ",\"{name}\":{}", quoted(text)),
        };
    }
    if format == Format::Json {
        line.push('}');
    }
    line
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// A JSON string in which all can be seen.
fn quoted(text: &dyn fmt::Display) -> String {
    visible(&miniserde::json::to_string(&text.to_string()))
}

/// Without what would break a line, or show it otherwise than it is: hidden characters are written as JSON does (`\u202e`).
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut units = [0; 2];
    for c in text.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Controls, and what has no width or turns the direction of what follows (Unicode's Bidi_Control and Default_Ignorable).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text values are quoted only where a reader could not see their end, or where they could break the line.
fn bare_or_quoted(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let is_bare = |c: char| !c.is_whitespace() && !is_hidden(c) && c != '"' && c != '=';
    // A `-` alone stands for nothing.
    if !text.is_empty() && text != "-" && text.chars().all(is_bare) { text } else { quoted(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format) -> String {
        render(
            format,
            0,
            Level::Warn,
            "part refused",
            &[
                ("payload", Value::Number(7)),
                ("name", Value::Text(&"a\nb\"c")),
                ("path", Value::Text(&"/opt/data")),
            ],
        )
    }

    #[test]
    fn a_hostile_value_stays_on_its_line() {
        assert_eq!(
            line(Format::Text),
            r#"1970-01-01T00:00:00.000Z WARN part refused payload=7 name="a\nb\"c" path=/opt/data"#
        );
        assert_eq!(
            line(Format::Json),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000Z","level":"warn","event":"part refused","payload":7,"#,
                r#""name":"a\nb\"c","path":"/opt/data"}"#
            )
        );
    }

    #[test]
    fn numbers_are_numbers_and_nothing_is_nothing() {
        let fields = [
            ("large", u64::MAX.to_value()),
            ("half", 0.5.to_value()),
            ("none", None::<i32>.to_value()),
            ("some", Some("-").to_value()),
        ];
        let line = |format| render(format, 0, Level::Info, "told", &fields);
        let (text, json) = (line(Format::Text), line(Format::Json));
        assert!(text.ends_with(r#" large=18446744073709551615 half=0.5 none=- some="-""#), "{text}");
        assert!(
            json.ends_with(r#""large":18446744073709551615,"half":0.5,"none":null,"some":"-"}"#),
            "{json}"
        );
    }

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        assert_eq!(visible("a\u{202e}b\u{2028}\u{e0041}\u{85}é"), r"a\u202eb\u2028\udb40\udc41\u0085é");
        assert_eq!(bare_or_quoted(&"a\u{2066}"), r#""a\u2066""#);
    }

    #[test]
    fn a_level_lets_itself_and_the_graver_ones_through() {
        assert!(Level::Debug >= Level::Error);
        assert!(Level::Warn < Level::Info);
    }
}
