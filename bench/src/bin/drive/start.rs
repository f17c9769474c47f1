//! How long a client takes from its start to its first good answer.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::result;
use bench::sample::Sample;

use super::{free_port, http};

const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the client `runs` times, each time with a new data directory, and kills it once it has answered.
pub fn measure(binary: &str, dir: &str, runs: u32) -> io::Result<()> {
    let mut times = Vec::new();
    for run in 0..runs {
        let data = Path::new(dir).join(format!("start-{run}"));
        fs::create_dir(&data)?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        // As `bench/run` starts it.
        command.arg("client").current_dir(&data).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOST", "127.0.0.1").env("PORT", port.to_string());
        command.env("DATA_PATH", data.join("data")).env("DB_PATH", data.join("db.sqlite"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let client = Killed(command.spawn()?);
        http::wait_until_ready(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
        times.push(begun.elapsed());
        drop(client);
        fs::remove_dir_all(&data)?;
    }
    let sample = Sample::of_times(&times).ok_or_else(|| io::Error::other("no runs were asked for"))?;
    result!("start_ms", sample.median());
    Ok(())
}

/// A child that does not outlive this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
