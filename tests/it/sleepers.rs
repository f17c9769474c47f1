//! Processes that sleep for a time that nobody else sleeps for, whoever else runs tests here.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::client::is_alive;

/// Those that `sleep` was given this time for; ended when this is dropped.
pub struct Sleepers {
    pub time: String,
}

impl Sleepers {
    pub fn new() -> Self {
        let number = NEXT_SLEEPERS.fetch_add(1, Ordering::Relaxed);
        Self { time: format!("1000.{}{number:03}", std::process::id()) }
    }

    pub fn pids(&self) -> Vec<String> {
        let names = fs::read_dir("/proc").unwrap().flatten();
        let pids = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_sleeper = |pid: &String| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&command).replace('\0', " ");
            is_alive(pid) && text.ends_with(&format!("sleep {} ", self.time))
        };
        pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(is_sleeper).collect()
    }
}

static NEXT_SLEEPERS: AtomicU32 = AtomicU32::new(0);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}
