//! What the soak and the model have in common as programs: their options, a port, and waiting.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// The options of the command line, each with a value: `--seconds 120`.
pub struct Options(HashMap<&'static str, String>);

impl Options {
    /// Of these names, without their dashes.
    pub fn from_env(names: &[&'static str]) -> Result<Self, String> {
        let mut values = HashMap::new();
        let mut parser = lexopt::Parser::from_env();
        let wrong = |error: lexopt::Error| format!("{error}; it takes --{} VALUE", names.join(" VALUE, --"));
        while let Some(argument) = parser.next().map_err(wrong)? {
            let name = match &argument {
                lexopt::Arg::Long(long) => names.iter().find(|name| *name == long).copied(),
                _ => None,
            };
            let name = name.ok_or_else(|| wrong(argument.unexpected()))?;
            let value = parser.value().map_err(wrong)?;
            values.insert(name, value.to_string_lossy().into_owned());
        }
        Ok(Self(values))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().map_err(|error| format!("--{name} {text}: {error}"))
    }
}

/// Below the ports that the kernel gives to outgoing connections: between two lives, one of those would take it, or even
/// connect to itself.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(10_000..30_000)).take(1000).find(is_free).unwrap()
}

/// Waits for something, and goes on without it when the time is over. Gives whether it came.
pub fn wait_until(wait: Duration, mut is_met: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + wait;
    loop {
        if is_met() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
