//! The execution client of job-orchestrator for edge hosts. Only this file sets exit codes: 0 for a good end, 1 for a
//! failure of the system or of what was asked, 2 for a mistake in the settings.

mod api;
mod archive;
mod cli;
mod client;
mod clock;
mod data;
mod disk_threads;
mod host;
mod http;
mod limits;
mod log;
mod logs;
mod metrics;
mod payload;
mod runner;
mod sandbox;
mod settings;
mod store;
mod sys;
mod upkeep;
mod upload;

use std::io::Write as _;
use std::process::ExitCode;

use cli::Command;
use client::{End, StartError};
use settings::{RunAs, Settings};

const FAILED: u8 = 1;
const BAD_SETTING: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Client(flags)) => with_settings(&flags, client),
        Ok(Command::Health(flags)) => with_settings(&flags, health),
        Ok(Command::Guard(flags)) => with_settings(&flags, guard),
        Ok(Command::Keeper) => ExitCode::from(if runner::run_keeper().is_ok() { 0 } else { FAILED }),
        Ok(Command::Help) => print(&cli::help()),
        Ok(Command::Version) => print(concat!("job-orchestrator ", env!("CARGO_PKG_VERSION"), " (client)\n")),
        Err(message) => complain(BAD_SETTING, Settings::log_format(&[]), &message),
    }
}

fn with_settings(flags: &[(String, std::ffi::OsString)], command: fn(&Settings) -> ExitCode) -> ExitCode {
    match Settings::read(flags) {
        Ok(settings) => command(&settings),
        Err(error) => complain(BAD_SETTING, Settings::log_format(flags), &error.to_string()),
    }
}

fn set_up_log(settings: &Settings) {
    log::init(log::Setup {
        level: settings.log_level,
        format: settings.log_format,
        has_priorities: host::service_manager::is_read_by_journal(),
    });
}

fn client(settings: &Settings) -> ExitCode {
    set_up_log(settings);
    let end = client::run(settings);
    log::flush();
    match end {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::Aborted) => ExitCode::from(FAILED),
        Err(StartError::Setting(message)) => complain(BAD_SETTING, settings.log_format, &message),
        Err(StartError::System(message)) => complain(FAILED, settings.log_format, &message),
    }
}

fn health(settings: &Settings) -> ExitCode {
    match cli::health_probe::ask(settings) {
        Ok(()) => print("ok\n"),
        Err(message) => complain(FAILED, settings.log_format, &message),
    }
}

fn guard(settings: &Settings) -> ExitCode {
    // What ends the client by a signal to its whole group must not end the guard before it.
    let signals = sys::StopSignals::block();
    set_up_log(settings);
    let ids = match &settings.run_as {
        Some(RunAs::Ids(ids)) => Some(ids),
        _ => None,
    };
    let ended = settings.data_path.as_deref().map(|data_path| runner::run_guard(data_path, ids));
    drop(signals);
    match ended {
        Some(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn complain(code: u8, format: log::Format, message: &str) -> ExitCode {
    log::complain(format, message);
    ExitCode::from(code)
}
