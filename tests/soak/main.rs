//! The soak: thousands of payloads at full speed while the client is killed and started anew, its disk fills up, uploads
//! break, and payloads fail, are killed and leave processes behind. In the end every payload that was answered 200 has one
//! outcome, the right one, and the client holds no more than at its start.
//!
//! A plain program, no part of `cargo test`:
//! `cargo test --locked --release --test soak -- --payloads 10000 --seconds 600`.
//! It prints its figures, and ends with exit code 1 where anything is not as it should be.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that shows what is wrong"
)]

#[path = "../it/client.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod client;
mod ledger;
mod load;
mod processes;
mod program;
#[path = "../it/records.rs"]
mod records;
#[path = "../it/small_disk.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod small_disk;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wire;
mod work;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use ledger::{Ledger, Ms, Span, now};
use load::Load;
use processes::{Held, of_payloads};
use program::{Options, free_port, wait_until};
use records::record_of;
use small_disk::SmallDisk;

/// How long all processes of a life may outlive it.
const STRAYS_WAIT: Duration = Duration::from_secs(2);

/// How long a client that was told to stop may take: GRACE, KILL_GRACE, two seconds for results, and a busy machine.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// How long all payloads may take to their outcomes once no more are sent.
const QUIET_WAIT: Duration = Duration::from_secs(60);

/// How long idle threads and connections may stay.
const SETTLE_WAIT: Duration = Duration::from_secs(20);

/// What the client may hold more after a life of work than after its first part, in KiB: some, and so much for each
/// payload, whose row it keeps.
const GROWTH_KIB: (u64, u64) = (2048, 2);

/// The same with glibc, which gives back little of what transfers had between the rows.
const GROWTH_WITH_GLIBC_KIB: (u64, u64) = (8192, 4);

/// MAX_AGE of the last life, in seconds.
const SHORT_AGE: &str = "3";

/// What a payload takes on a tmpfs, with room for those that work.
const DISK_BYTES_OF_A_PAYLOAD: u64 = 60_000;
const LEAST_DISK_BYTES: u64 = 64 << 20;

fn main() -> ExitCode {
    let soak = match soak() {
        Ok(soak) => soak,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let violations = soak.run();
    for violation in &violations {
        println!("violation: {violation}");
    }
    println!("{} violations", violations.len());
    ExitCode::from(u8::from(!violations.is_empty()))
}

fn soak() -> Result<Soak, String> {
    let options = Options::from_env(&["payloads", "seconds"])?;
    let payloads = options.number("payloads", 10_000)?;
    Ok(Soak::new(usize::try_from(payloads).unwrap(), options.number("seconds", 600)?))
}

struct Soak {
    payloads: usize,
    begun: Instant,
    /// When the last payload must have been accepted, so that there is time for the rest.
    send_until: Instant,
    /// `None` where mounting is not permitted.
    small_disk: Option<SmallDisk>,
    data: PathBuf,
    load: Load,
    figures: Vec<(String, String)>,
    _home: tempfile::TempDir,
}

impl Soak {
    fn new(payloads: usize, seconds: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let bytes = LEAST_DISK_BYTES + payloads as u64 * DISK_BYTES_OF_A_PAYLOAD;
        let small_disk = SmallDisk::mount(&format!("size={bytes},nr_inodes=0"));
        let root = small_disk.as_ref().map_or(home.path(), SmallDisk::path);
        let data = root.canonicalize().unwrap().join("data");
        let begun = Instant::now();
        let seconds = Duration::from_secs(seconds);
        // The end takes two times MAX_AGE, and the last look at all.
        let rest = (seconds / 4).max(Duration::from_secs(20)).min(seconds);
        let mut soak = Self {
            payloads,
            begun,
            send_until: begun + seconds.saturating_sub(rest),
            small_disk,
            data,
            load: Load::new(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))),
            figures: Vec::new(),
            _home: home,
        };
        soak.figure("payloads asked for", payloads);
        soak.figure("client", if is_static() { "static" } else { "with glibc" });
        let disk = soak.small_disk.as_ref().map(|_| format!("tmpfs of {} MiB", bytes >> 20));
        soak.figure(
            "disk",
            disk.unwrap_or_else(|| "not a small one: mounting is not permitted; it is not filled".to_owned()),
        );
        soak
    }

    fn figure(&mut self, name: &str, value: impl std::fmt::Display) {
        self.figures.push((name.to_owned(), value.to_string()));
    }

    /// Everything, in order. Gives the violations.
    fn run(mut self) -> Vec<String> {
        let load = std::mem::replace(&mut self.load, Load::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        thread::scope(|scope| {
            let _over = Over(&load);
            load.start(scope);
            load.set_breaking(true);
            let client = self.crashes(&load);
            let client = self.one_life(&load, client);
            self.last_look(&load, &client);
            self.retention(&load, client);
        });
        self.tell(&load);
        std::mem::take(&mut load.ledger().violations)
    }

    fn start_client(&self, load: &Load, settings: &[(&str, &str)]) -> Client {
        let mut command = Command::new(client::binary());
        command.args(["client", "--host", "127.0.0.1", "--port", &load.address.port().to_string()]);
        command.arg("--data-path").arg(&self.data);
        for (name, value) in [
            ("LOG", "error"),
            ("MAX_JOBS", "8"),
            ("MAX_QUEUE", "200"),
            ("GRACE", "1"),
            ("KILL_GRACE", "1"),
            ("STALL_TIMEOUT", "5"),
            // Half of all lives keep nothing free, so that writes fail wherever they are.
            ("MIN_FREE", if fastrand::bool() { "0" } else { "4000000" }),
            ("MIN_FREE_INODES", "0"),
            // Short, for the pace: one in fifteen leaves a family behind.
            ("LINGER", "200ms"),
        ] {
            command.env(name, value);
        }
        command.envs(settings.iter().copied());
        Client::spawn(command, &self.data)
    }

    /// Most payloads, with the client killed or stopped again and again.
    fn crashes(&mut self, load: &Load) -> Client {
        let goal = self.payloads * 4 / 5;
        let step = (self.payloads / 32).clamp(20, 320);
        let begun = Instant::now();
        let mut client = self.start_client(load, &[]);
        let mut restarts = 0;
        while load.accepted() < goal && Instant::now() < self.send_until {
            let next = (load.accepted() + step / 2 + fastrand::usize(0..step)).min(goal);
            load.set_goal(next + 8);
            self.wait_to_send(|| load.accepted() >= next);
            let is_full = restarts % 3 == 1 && self.fill(load);
            thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
            client = if restarts % 4 == 3 { self.stop(load, client, &[]) } else { self.crash(load, client) };
            if is_full {
                thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
                self.free(load);
            }
            restarts += 1;
        }
        load.set_goal(load.accepted());
        self.quiet(load, &client);
        let seconds = begun.elapsed().as_secs_f64();
        self.figure("payloads a second, with restarts", rate(load.accepted(), seconds));
        client
    }

    /// The rest in one life, which must end as it began.
    fn one_life(&mut self, load: &Load, before: Client) -> Client {
        let client = self.stop(load, before, &[]);
        let (pid, first) = (client.pid(), load.accepted());
        client.get("/health");
        let start = Held::settled(pid, 0, 0, Duration::from_millis(500));
        let rest = self.payloads.saturating_sub(first);
        self.work(load, &client, first + rest / 4);
        let warm = Held::settled(pid, start.descriptors, start.threads, SETTLE_WAIT);
        let begun = Instant::now();
        self.work(load, &client, self.payloads);
        let (seconds, done) = (begun.elapsed().as_secs_f64(), load.accepted() - first);
        let end = Held::settled(pid, start.descriptors, start.threads, SETTLE_WAIT);
        let (some, of_a_payload) = if is_static() { GROWTH_KIB } else { GROWTH_WITH_GLIBC_KIB };
        let bound = warm.rss_kib + some + done as u64 * of_a_payload;
        let mut ledger = load.ledger();
        if end.descriptors > start.descriptors {
            ledger.violation(format!(
                "{} descriptors at the start, {} at the end",
                start.descriptors, end.descriptors
            ));
        }
        if end.threads > start.threads {
            ledger.violation(format!("{} threads at the start, {} at the end", start.threads, end.threads));
        }
        if end.rss_kib > bound {
            ledger.violation(format!(
                "{} KiB after the first part, {} KiB at the end",
                warm.rss_kib, end.rss_kib
            ));
        }
        let children = client::children_of(pid);
        let zombies = children.iter().filter(|child| child.1 == 'Z').count();
        if !children.is_empty() {
            ledger.violation(format!("children at the end: {children:?}"));
        }
        drop(ledger);
        self.figure("payloads in one life", done);
        self.figure("payloads a second, no restarts", rate(done - rest / 4, seconds));
        self.figure(
            "descriptors: start, warm, end",
            format!("{}, {}, {}", start.descriptors, warm.descriptors, end.descriptors),
        );
        self.figure(
            "threads: start, warm, end",
            format!("{}, {}, {}", start.threads, warm.threads, end.threads),
        );
        self.figure(
            "RSS in KiB: start, warm, end (bound)",
            format!("{}, {}, {} ({bound})", start.rss_kib, warm.rss_kib, end.rss_kib),
        );
        self.figure("peak RSS in KiB", end.peak_kib);
        self.figure("zombies", zombies);
        client
    }

    /// Lets payloads be sent up to `goal`, with the disk filled now and then, and waits for all outcomes.
    fn work(&self, load: &Load, client: &Client, goal: usize) {
        load.set_goal(goal);
        load.set_breaking(true);
        let step = (goal.saturating_sub(load.accepted()) / 3).max(1);
        while load.accepted() < goal && Instant::now() < self.send_until {
            let next = (load.accepted() + step).min(goal);
            self.wait_to_send(|| load.accepted() >= next);
            if self.fill(load) {
                thread::sleep(Duration::from_millis(fastrand::u64(200..600)));
                self.free(load);
            }
        }
        load.set_goal(load.accepted().min(goal));
        self.quiet(load, client);
    }

    /// Every outcome is as it was seen, and what is on the disk is what the client knows.
    fn last_look(&mut self, load: &Load, client: &Client) {
        let begun = Instant::now();
        let mut ledger = load.ledger();
        for index in 0..ledger.entries.len() {
            let answer = client.get(&format!("/retrieve/{}", ledger.entries[index].id));
            ledger.look(index, &answer);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let known = Self::match_directories(&mut ledger, client);
        let unknown: Vec<u32> =
            ledger.entries.iter().map(|entry| entry.id).filter(|id| !known.contains(id)).collect();
        if !unknown.is_empty() {
            ledger.violation(format!("no directory is there of {unknown:?}"));
        }
        let (total, entries) = (known.len(), ledger.entries.len());
        drop(ledger);
        self.figure("directories, and rows that have one", total);
        self.figure("of these taken, but cut off before the answer", total - entries.min(total));
        self.figure("results a second in the last look", rate(entries, seconds));
    }

    /// Each directory has a record, and the client has a row for it. Gives the ids.
    fn match_directories(ledger: &mut Ledger, client: &Client) -> HashSet<u32> {
        let mut known = HashSet::new();
        for directory in client.directories() {
            let record = record_of(&directory);
            let Some(id) = wire::json_field(&record, "id").and_then(|id| id.parse().ok()) else {
                ledger.violation(format!("stray directory {}", directory.display()));
                continue;
            };
            if !known.insert(id) {
                ledger.violation(format!("payload {id} has two directories"));
            }
            let token = fs::read_to_string(directory.join("token")).unwrap_or_default();
            let is_right = match ledger.of_id(id) {
                Some(entry) => entry.token.to_string() == token,
                None => token.parse().is_ok_and(|token| ledger.unanswered.contains(&token)),
            };
            if !is_right {
                ledger.violation(format!("payload {id} has the files of {token}: {}", directory.display()));
            }
            let answer = client.get(&format!("/retrieve/{id}"));
            let is_ended = answer.status == 200 && answer.json("finished_at").as_deref() != Some("null");
            let loc = answer.json("loc");
            if !is_ended || loc.is_some_and(|loc| Path::new(&loc) != directory) {
                ledger.violation(format!(
                    "{} is not that of {id}: {:.300}",
                    directory.display(),
                    answer.text()
                ));
            }
        }
        known
    }

    /// A last life in which everything grows old: rows and directories go, and nothing is left of all.
    fn retention(&mut self, load: &Load, before: Client) {
        let begun = Instant::now();
        let client = self.stop(load, before, &[("MAX_AGE", SHORT_AGE)]);
        let fresh: Vec<String> = (0..20).map(|_| client.run("exit 0")).collect();
        let mut left: BTreeSet<u32> = load.ledger().entries.iter().map(|entry| entry.id).collect();
        left.extend(fresh.iter().map(|id| id.parse::<u32>().unwrap()));
        wait_until(QUIET_WAIT, || {
            let mut ids = left.iter().copied();
            // The oldest row may go last: all are asked, but only until one is still there.
            let first = ids.find(|id| client.get(&format!("/retrieve/{id}")).status != 404);
            left = first.map(|first| left.split_off(&first)).unwrap_or_default();
            left.is_empty() && client.directories().is_empty()
        });
        let mut ledger = load.ledger();
        if !left.is_empty() {
            ledger.violation(format!("rows are left of {left:?}"));
        }
        let directories = client.directories();
        if !directories.is_empty() {
            ledger.violation(format!("directories are left: {directories:?}"));
        }
        for field in ["waiting", "running"] {
            let number = client.health(field);
            if number != 0 {
                ledger.violation(format!("{number} are {field} in the end"));
            }
        }
        drop(ledger);
        self.figure("rows and directories left after MAX_AGE", left.len() + directories.len());
        self.figure("seconds until all was cleaned", begun.elapsed().as_secs());
        self.end(load, client);
        let files: Vec<String> = fs::read_dir(&self.data)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            // The client keeps what it knows there: its lock, and the place of the records.
            .filter(|name| !name.starts_with(".orchestrator"))
            .collect();
        if !files.is_empty() {
            load.ledger().violation(format!("files are left: {files:?}"));
        }
    }

    /// Ends the client without a word, and starts it anew.
    fn crash(&self, load: &Load, mut client: Client) -> Client {
        let strays = of_payloads(&self.data);
        load.ledger().crashes.push(Span { from: now(), to: Ms::MAX });
        client.signal("KILL");
        client.wait();
        thread::sleep(Duration::from_millis(fastrand::u64(0..100)));
        let next = self.start_client(load, &[]);
        close(&mut load.ledger().crashes);
        Self::must_be_gone(load, || strays.iter().filter(|stray| stray.is_alive()).count());
        next
    }

    /// Stops the client in good order, and starts it anew.
    fn stop(&self, load: &Load, client: Client, settings: &[(&str, &str)]) -> Client {
        load.ledger().stops.push(Span { from: now(), to: Ms::MAX });
        self.end(load, client);
        let next = self.start_client(load, settings);
        close(&mut load.ledger().stops);
        next
    }

    fn end(&self, load: &Load, mut client: Client) {
        let begun = Instant::now();
        client.signal("TERM");
        let status = client.wait();
        if status.code() != Some(0) || begun.elapsed() > STOP_WAIT {
            load.ledger().violation(format!("a stop took {:?} and ended with {status}", begun.elapsed()));
        }
        Self::must_be_gone(load, || of_payloads(&self.data).len());
    }

    fn must_be_gone(load: &Load, strays: impl Fn() -> usize) {
        wait_until(STRAYS_WAIT, || strays() == 0);
        if strays() > 0 {
            load.ledger().violation(format!("{} processes outlive their client", strays()));
        }
    }

    /// Waits until each payload has its outcome and nothing is at work.
    fn quiet(&self, load: &Load, client: &Client) {
        wait_until(QUIET_WAIT, || load.is_sent() && load.pending().is_empty());
        load.set_breaking(false);
        let left = load.pending();
        if !left.is_empty() {
            load.ledger().violation(format!("without an outcome: {left:?}"));
        }
        let is_idle = || client.health("waiting") + client.health("running") == 0;
        wait_until(QUIET_WAIT, || is_idle() && of_payloads(&self.data).is_empty());
        let strays = of_payloads(&self.data);
        if !is_idle() || !strays.is_empty() {
            let health = client.get("/health").text();
            load.ledger().violation(format!("not idle: {health}, processes {strays:?}"));
        }
    }

    /// Fills the disk to the last byte.
    fn fill(&self, load: &Load) -> bool {
        let Some(disk) = &self.small_disk else { return false };
        load.ledger().full.push(Span { from: now(), to: Ms::MAX });
        let mut file = File::create(disk.path().join("ballast")).unwrap();
        let free = rustix::fs::fstatvfs(&file).unwrap();
        let bytes = free.f_bavail * free.f_frsize;
        // The rest goes by small writes, since others take and give meanwhile.
        let _ = rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            bytes.saturating_sub(1 << 20),
        );
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        true
    }

    fn free(&self, load: &Load) {
        let Some(disk) = &self.small_disk else { return };
        fs::remove_file(disk.path().join("ballast")).unwrap();
        close(&mut load.ledger().full);
    }

    fn wait_to_send(&self, is_met: impl FnMut() -> bool) {
        wait_until(self.send_until.saturating_duration_since(Instant::now()), is_met);
    }

    fn tell(&mut self, load: &Load) {
        let mut ledger = load.ledger();
        let entered = ledger.entries.len();
        if entered < self.payloads {
            ledger.violation(format!("only {entered} payloads were accepted in the time given"));
        }
        let ids: HashSet<u32> = ledger.entries.iter().map(|entry| entry.id).collect();
        let mut rows = std::mem::take(&mut self.figures);
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("payloads accepted, ids", format!("{entered}, {}", ids.len()));
        row("kills -9 of the client", ledger.crashes.len().to_string());
        row("stops of the client", ledger.stops.len().to_string());
        row("times the disk was full", ledger.full.len().to_string());
        for (name, number) in &ledger.counts {
            row(name, number.to_string());
        }
        for (name, number) in &ledger.outcomes {
            row(name, number.to_string());
        }
        row("answered kills cut off by a kill of the client", ledger.kills_cut_off().to_string());
        row("seconds", self.begun.elapsed().as_secs().to_string());
        row("violations", ledger.violations.len().to_string());
        drop(ledger);
        for (name, value) in rows {
            println!("{name:<48} {value}");
        }
    }
}

/// Ends the load, however this thread ends.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

fn close(spans: &mut [Span]) {
    spans.last_mut().unwrap().to = now();
}

/// Whether the client under test is a static build, which has an allocator of its own.
fn is_static() -> bool {
    let bytes = fs::read(client::binary()).unwrap();
    !bytes.windows(9).any(|window| window == b"/ld-linux")
}

fn rate(number: usize, seconds: f64) -> String {
    let number = f64::from(u32::try_from(number).unwrap());
    format!("{:.0}", number / seconds)
}
