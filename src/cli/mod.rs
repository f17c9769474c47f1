//! The command line: which command, with which flags. Values are checked in `settings`.

pub mod health_probe;

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::settings::{self, ALL, Setting};

/// What the user asks for.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Serve.
    Client(Vec<(String, OsString)>),
    /// Ask a running client whether it is well.
    Health(Vec<(String, OsString)>),
    /// Wait for the end of a client and end its payloads: what the client starts beside itself, for nobody else.
    Guard(Vec<(String, OsString)>),
    /// Make a room for payloads and keep it: what the client starts for its slots, for nobody else.
    Keeper,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Reads the arguments after the program's name. The error is one line for the user.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = Parser::from_args(arguments);
    let mut command = None;
    let mut flags = Vec::new();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Short('V') | Arg::Long("version") => return Ok(Command::Version),
            Arg::Long(flag) => {
                match ALL.iter().find(|setting| setting.flag() == flag) {
                    None => return Err(unknown_flag(flag)),
                    Some(setting) if !setting.has_flag() => return Err(secret_flag(setting)),
                    Some(_) => {}
                }
                let flag = flag.to_owned();
                let value = parser.value().map_err(|error| error.to_string())?;
                flags.push((flag, value));
            }
            Arg::Short(flag) => return Err(format!("-{flag} is not known: {}", known_flags())),
            Arg::Value(word) if word == "help" => return Ok(Command::Help),
            Arg::Value(word) if command.is_none() => {
                command = Some(word.string().map_err(|error| error.to_string())?);
            }
            Arg::Value(word) => {
                let word = word.to_string_lossy();
                return Err(format!("{word} is one word too many: {HOW_TO_SET}"));
            }
        }
    }
    match command.as_deref() {
        Some("client") => Ok(Command::Client(flags)),
        Some("health") => Ok(Command::Health(flags)),
        Some("keeper") => Ok(Command::Keeper),
        Some("guard") => Ok(Command::Guard(flags)),
        Some(other) => Err(format!("{other} is not a command: {COMMANDS}")),
        None => Err(format!("a command is missing: {COMMANDS}")),
    }
}

const COMMANDS: &str = "it is one of client, health, help";

/// What was probably wanted by a word behind the command.
const HOW_TO_SET: &str = "settings are given as flags (client --port 9000) or in the environment \
                          (PORT=9000 job-orchestrator client); --help lists them";

fn unknown_flag(flag: &str) -> String {
    match settings::flag_meant_by(flag) {
        Some(meant) => format!("--{flag} is not known: --{meant} is; --help lists all"),
        None => format!("--{flag} is not known: {}", known_flags()),
    }
}

fn secret_flag(setting: &Setting) -> String {
    let (flag, name) = (setting.flag(), setting.name);
    format!(
        "--{flag} is not accepted: every process can read a command line; set {name} in the environment, or {name}_FILE"
    )
}

fn known_flags() -> String {
    let flags = ALL.iter().filter(|setting| setting.has_flag());
    let flags: Vec<String> = flags.map(|setting| format!("--{}", setting.flag())).collect();
    format!("the flags are {}, --help, --version", flags.join(", "))
}

/// The text of `--help`.
pub fn help() -> String {
    format!(
        "job-orchestrator {}: the execution client of job-orchestrator for edge hosts\n\n\
         Usage: job-orchestrator client [flags]   serve: take files, run ./run.sh, hand back a ZIP\n\
         \x20      job-orchestrator health [flags]   ask the client on PORT; exit code 0 if it is well, else 1\n\
         \x20      job-orchestrator help | --version\n\n\
         Settings (environment, flag, what it does, default); a flag wins. Times: ms, s, m, h, d, or plain seconds;\n\
         sizes: K, M, G, T of 1024, or plain bytes:\n{}",
        env!("CARGO_PKG_VERSION"),
        settings::help()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_and_flags_are_understood_in_any_order() {
        let flags = || vec![("port".to_owned(), "0".into()), ("max-jobs".to_owned(), "2".into())];
        assert_eq!(parsed("client --port 0 --max-jobs=2"), Ok(Command::Client(flags())));
        assert_eq!(parsed("--port=0 client --max-jobs 2"), Ok(Command::Client(flags())));
        assert_eq!(parsed("health"), Ok(Command::Health(vec![])));
        assert_eq!(parsed("client --help"), Ok(Command::Help));
        assert_eq!(parsed("-V"), Ok(Command::Version));
        for line in ["help", "help client", "client help"] {
            assert_eq!(parsed(line), Ok(Command::Help), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        for (line, named) in [
            ("client --prot 1", "--prot"),
            ("client -x", "-x"),
            ("server", "server"),
            ("client twice", "twice"),
            ("client --port", "--port"),
            ("client --token x", "TOKEN_FILE"),
            ("", "missing"),
        ] {
            let error = parsed(line).expect_err("accepted");
            assert!(error.contains(named) && !error.contains('\n'), "{error}");
        }
    }
}
