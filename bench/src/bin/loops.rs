//! `loops bare|full --count N --dir DIR`: how fast payloads could run if nothing but the kernel's work were done, on one
//! thread a core, each one after the other. `bare` spawns (by `posix_spawn` in std) and waits for a two-line sh script; `full` does
//! what a payload needs on disk, too: it makes the directory, writes its four files, spawns and waits; in the end it removes
//! them all, since ext4 is slow to make files where some were just removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use bench::options::Options;
use bench::result;

/// As `drive` submits it.
const SCRIPT: &str = "#!/bin/sh\necho done\n";

fn main() -> io::Result<()> {
    let (which, mut options) = Options::read()?;
    let (count, dir): (u32, String) = (options.take("count")?, options.take("dir")?);
    options.finish()?;
    let dir = Path::new(&dir);
    write_script(dir)?;
    let run: fn(&Path, u32) -> io::Result<()> = match which.as_str() {
        "bare" => |dir, _| bare(dir),
        "full" => |dir, number| full(&dir.join(number.to_string())),
        _ => return Err(io::Error::other(format!("{which} is neither bare nor full"))),
    };
    let begun = Instant::now();
    on_all_cores(count, |number| run(dir, number))?;
    let took = begun.elapsed();
    if which == "full" {
        (0..count).try_for_each(|number| fs::remove_dir_all(dir.join(number.to_string())))?;
    }
    result!(format!("{which}_loop_per_s"), f64::from(count) / took.as_secs_f64());
    Ok(())
}

/// Whoever is free takes the next number, until all are done or one has failed.
fn on_all_cores(count: u32, run: impl Fn(u32) -> io::Result<()> + Sync) -> io::Result<()> {
    let next = AtomicU32::new(0);
    let work = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => run(number)?,
                _ => return Ok(()),
            }
        }
    };
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a loop panicked"))))
    })
}

fn bare(dir: &Path) -> io::Result<()> {
    let mut command = Command::new("./run.sh");
    run_when_free(command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()))
}

fn full(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    write_script(dir)?;
    let mut command = Command::new("./run.sh");
    command.current_dir(dir).stdin(Stdio::null());
    command.stdout(File::create(dir.join(".orchestrator.out"))?);
    command.stderr(File::create(dir.join(".orchestrator.err"))?);
    run_when_free(&mut command)?;
    fs::write(dir.join(".orchestrator.exit"), "0\n")
}

/// A child that another thread is just starting holds a copy of every descriptor until its exec, of one through which this script was
/// written a moment ago too. Until then it is "busy"; the client waits for it in the same way.
fn run_when_free(command: &mut Command) -> io::Result<()> {
    loop {
        match command.status() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
            status => return check(status?.success()),
        }
    }
}

fn write_script(dir: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o755);
    options.open(dir.join("run.sh"))?.write_all(SCRIPT.as_bytes())
}

fn check(is_success: bool) -> io::Result<()> {
    if is_success { Ok(()) } else { Err(io::Error::other("the script has failed")) }
}
