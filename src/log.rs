//! The one logger: a line per event on standard error, plain text or JSON, below a level that is set once at start.
//! Nothing else in the program writes to standard error.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::SystemTime;

use serde::Deserialize;

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

static SETUP: OnceLock<(Level, Format)> = OnceLock::new();

/// Sets level and format. The first call wins; before it, `Info` and `Text` hold.
pub fn init(level: Level, format: Format) {
    // A second call can only come from a test of this file; the first setting stays.
    let _ = SETUP.set((level, format));
}

/// One value of an event.
pub enum Value<'a> {
    /// A number, bare in JSON.
    Number(i64),
    /// Anything else, a string in JSON.
    Text(&'a dyn fmt::Display),
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
                i64::try_from(*self).map_or(Value::Text(self), Value::Number)
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
texts!(&str, String, f64, std::io::Error, std::path::Display<'_>, fmt::Arguments<'_>);

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
    SETUP.get().map_or(Level::Info, |setup| setup.0) >= level
}

/// Writes one event, whatever the level: the start line must not be filtered away.
pub fn write(level: Level, event: &str, fields: &[(&str, Value<'_>)]) {
    let format = SETUP.get().map_or(Format::Text, |setup| setup.1);
    let mut line = render(format, SystemTime::now(), level, event, fields);
    line.push('\n');
    // One write for the whole line, so that lines of different threads do not mix. If standard error is gone there is
    // nobody left to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn render(
    format: Format,
    now: SystemTime,
    level: Level,
    event: &str,
    fields: &[(&str, Value<'_>)],
) -> String {
    let time = humantime::format_rfc3339_millis(now);
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
            (Format::Text, Value::Text(text)) => write!(line, " {name}={}", bare_or_quoted(text)),
            (Format::Json, Value::Number(number)) => write!(line, ",\"{name}\":{number}"),
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

fn quoted(text: &dyn fmt::Display) -> String {
    miniserde::json::to_string(&text.to_string())
}

/// Text values are quoted only where a reader could not see their end, or where they could break the line.
fn bare_or_quoted(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let is_bare = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    if !text.is_empty() && text.chars().all(is_bare) { text } else { quoted(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format) -> String {
        render(
            format,
            SystemTime::UNIX_EPOCH,
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
    fn a_level_lets_itself_and_the_graver_ones_through() {
        assert!(Level::Debug >= Level::Error);
        assert!(Level::Warn < Level::Info);
    }
}
