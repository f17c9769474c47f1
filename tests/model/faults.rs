//! What goes wrong around the client, one class at a time or all of them, and the round that a seed makes of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::book::{Book, Trouble};
use crate::callers::World;
use crate::life::{LIFE_WAIT, Life, Place, Start};
use crate::payloads::{FORGED_ID, Kind};
use crate::processes::{Process, of_payloads};
use crate::program::wait_until;
use crate::small_disk::SmallDisk;

/// How long all payloads may take to their ends once nothing goes wrong any more.
const QUIET_WAIT: Duration = Duration::from_secs(120);

/// How long processes may outlive their client.
const STRAYS_WAIT: Duration = Duration::from_secs(20);

const CALLERS: u64 = 6;

/// A limit of open files that leaves a connection for each caller, and some (`host/rlimit.rs`).
const FEW_DESCRIPTORS: std::ops::Range<u64> = 180..250;
const MAX_JOBS: usize = 4;

/// MAX_AGE, where it is short.
const SHORT_AGE: Duration = Duration::from_secs(3);

/// The disk of a round.
const DISK_MIB: u64 = 768;
const DISK_INODES: &str = "30000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// kill -9 of the client.
    Crash,
    /// SIGTERM.
    Stop,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// No byte is left on the disk.
    Full,
    /// No inode is.
    Inodes,
    /// DATA_PATH is not there, or closed.
    Away,
    /// A short MAX_AGE.
    Retention,
    /// The port is in use when the client is started.
    Port,
    /// Few descriptors, and many who want one.
    Descriptors,
    /// No process and no thread can be started.
    Processes,
    /// Standard error is full.
    Log,
}

impl Class {
    pub const ALL: [(&'static str, Self); 11] = [
        ("crash", Self::Crash),
        ("stop", Self::Stop),
        ("pause", Self::Pause),
        ("full", Self::Full),
        ("inodes", Self::Inodes),
        ("away", Self::Away),
        ("retention", Self::Retention),
        ("port", Self::Port),
        ("descriptors", Self::Descriptors),
        ("processes", Self::Processes),
        ("log", Self::Log),
    ];
}

/// A client, its callers, and what goes wrong meanwhile.
pub struct Round {
    world: Arc<World>,
    classes: Vec<Class>,
    rng: fastrand::Rng,
    has_short_age: bool,
    _disk: Option<SmallDisk>,
}

impl Round {
    pub fn new(classes: &[Class], seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SmallDisk::ext4_of(DISK_MIB, &["-N", DISK_INODES]);
        let mut classes = classes.to_vec();
        let is_full = |class: &Class| matches!(class, Class::Full | Class::Inodes);
        if disk.is_none() {
            // Not the disk of this machine.
            classes.retain(|class| !is_full(class));
        }
        // Only an ordinary user has a limit of processes, or can be kept out of a directory.
        let is_root = rustix::process::geteuid().is_root();
        let wants_user = classes == [Class::Processes] || rng.bool();
        let user = (is_root && wants_user).then(|| rng.u32(40_000..60_000));
        if is_root && user.is_none() {
            classes.retain(|class| *class != Class::Processes);
        }
        let has_short_age = classes.contains(&Class::Retention) && (classes.len() == 1 || rng.u32(0..3) == 0);
        let place = Place::new(disk.as_ref().map(SmallDisk::path), user);
        let max_age = has_short_age.then_some(SHORT_AGE);
        let book = Book::new(place.witness.clone(), max_age, MAX_JOBS);
        let world = World::new(place, book);
        let is_crashed = classes.contains(&Class::Crash);
        world.is_crashed_by_kills.store(is_crashed, Ordering::Relaxed);
        if classes.contains(&Class::Descriptors) {
            world.crowd.store(12, Ordering::Relaxed);
        }
        let world = Arc::new(world);
        Self { world, classes, rng, has_short_age, _disk: disk }
    }

    /// For so long, and then until all payloads have ended. Gives the book, and where the logs are if anything is wrong.
    pub fn run(mut self, length: Duration) -> (Book, Option<PathBuf>) {
        let until = Instant::now() + length;
        let seeds: Vec<u64> = (0..CALLERS).map(|_| self.rng.u64(..)).collect();
        let mut life = self.start();
        let world = Arc::clone(&self.world);
        thread::scope(|scope| {
            let _over = Over(&world);
            for seed in seeds {
                let world = &world;
                scope.spawn(move || world.call_all(seed));
            }
            while Instant::now() < until && life.is_some() {
                self.pause(50..700);
                life = self.look_after(life.take());
                life = self.one(life.take());
            }
        });
        life = self.look_after(life);
        self.end(life);
        drop(world);
        let world = Arc::into_inner(self.world).unwrap();
        let (place, mut book) = world.into_parts();
        book.close();
        if book.violations.is_empty() {
            return (book, None);
        }
        eprintln!("--- the last lines of the client's log\n{}\n---", place.last_words());
        (book, Some(place.keep()))
    }

    /// All is well again: each payload comes to its end, the client too, and nothing is left.
    fn end(&mut self, life: Option<Life>) {
        let world = Arc::clone(&self.world);
        let Some(mut life) = life else { return };
        wait_until(QUIET_WAIT, || {
            for index in world.open() {
                let is_endless = matches!(world.book().entries[index].kind, Kind::Endless { .. });
                if is_endless {
                    world.kill(index);
                }
                world.look(index);
            }
            thread::sleep(Duration::from_millis(20));
            world.open().is_empty()
        });
        let is_ready = || world.get("/ready").is_ok_and(|answer| answer.status == 200);
        if !wait_until(LIFE_WAIT, is_ready) {
            let answer = world.get("/ready").map(|answer| answer.text());
            world.book().violation(format!("the client is not ready in the end: {answer:?}"));
        }
        // Each result once more, and as it was.
        let all = world.book().entries.len();
        for index in (0..all).filter(|_| self.rng.u32(0..3) == 0) {
            world.look(index);
        }
        if !world.book().has_given_forged_id() {
            let status = world.get(&format!("/retrieve/{FORGED_ID}")).map(|answer| answer.status);
            if !matches!(status, Ok(404)) {
                world.book().violation(format!("a forged id is answered {status:?}"));
            }
        }
        must_be_gone(&world);
        world.take_down();
        must_stop(&world, &mut life);
    }
}

/// Ends the callers, however this thread ends.
struct Over<'a>(&'a World);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

fn must_stop(world: &World, life: &mut Life) {
    life.signal(Signal::TERM);
    let status = life.wait();
    if status.is_none_or(|status| status.code() != Some(0)) {
        world.book().violation(format!("a stop ended with {status:?}"));
    }
    must_be_gone(world);
}

fn must_be_gone(world: &World) {
    if !wait_until(STRAYS_WAIT, || of_payloads(&world.place.data).is_empty()) {
        let left = of_payloads(&world.place.data);
        world.book().violation(format!("processes are left: {left:?}"));
    }
}

impl Round {
    fn has(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    fn pause(&mut self, ms: std::ops::Range<u64>) {
        thread::sleep(Duration::from_millis(self.rng.u64(ms)));
    }

    /// A next life, of settings by chance.
    fn start(&mut self) -> Option<Life> {
        let start = self.settings();
        self.start_with(&start)
    }

    fn settings(&mut self) -> Start {
        let has_few = self.has(Class::Descriptors) && (self.classes.len() == 1 || self.rng.u32(0..3) == 0);
        let is_log_unread = self.has(Class::Log) && (self.classes.len() == 1 || self.rng.u32(0..3) == 0);
        let mut one_of = |values: &[&str]| values[self.rng.usize(0..values.len())].to_owned();
        let settings = vec![
            ("MAX_JOBS", MAX_JOBS.to_string()),
            ("GRACE", "1".to_owned()),
            ("KILL_GRACE", "1".to_owned()),
            ("STALL_TIMEOUT", "5".to_owned()),
            ("MIN_FREE", one_of(&["0", "4000000"])),
            ("MIN_FREE_INODES", one_of(&["0", "100"])),
            ("DURABLE", one_of(&["on", "soon", "off"])),
            ("ZIP_THREADS", one_of(&["1", "3"])),
            ("MAX_LOG", one_of(&["0", "100000"])),
            (
                "MAX_AGE",
                if self.has_short_age { SHORT_AGE.as_secs().to_string() } else { "864000".to_owned() },
            ),
            ("LOG", if is_log_unread { "debug" } else { "info" }.to_owned()),
        ];
        Start { settings, is_log_unread, descriptors: has_few.then(|| self.rng.u64(FEW_DESCRIPTORS)) }
    }

    fn start_with(&self, start: &Start) -> Option<Life> {
        let number = self.world.next_life();
        match self.world.place.start(number, start) {
            Ok(life) => {
                self.world.is_up(&life);
                Some(life)
            }
            Err(why) => {
                self.world.book().violation(why);
                None
            }
        }
    }

    /// Starts the client anew where it has ended.
    fn look_after(&mut self, life: Option<Life>) -> Option<Life> {
        let mut life = life?;
        if self.world.is_down() {
            life.wait();
            return self.start();
        }
        let Some(status) = life.ended() else { return Some(life) };
        if self.world.take_down() {
            self.world.book().crashes += 1;
            self.world.book().violation(format!("the client has ended by itself: {status}"));
        }
        self.start()
    }

    /// One fault, of one of the classes.
    fn one(&mut self, life: Option<Life>) -> Option<Life> {
        let life = life?;
        let class = self.classes[self.rng.usize(0..self.classes.len())];
        self.world.book().count(&format!("faults: {class:?}"));
        match class {
            Class::Crash => self.crash(life),
            Class::Stop => self.stop(life),
            Class::Pause => self.stand_still(life),
            Class::Full => self.full(life),
            Class::Inodes => self.without_inodes(life),
            Class::Away => self.away(life),
            Class::Port => self.port(life),
            Class::Descriptors => self.descriptors(life),
            Class::Processes => self.processes(life),
            // They are there all the time.
            Class::Retention | Class::Log => Some(life),
        }
    }

    fn crash(&mut self, mut life: Life) -> Option<Life> {
        self.end_at_once(&mut life);
        self.pause(0..300);
        self.start()
    }

    fn end_at_once(&mut self, life: &mut Life) {
        let strays = of_payloads(&self.world.place.data);
        self.world.crash();
        life.wait();
        if !wait_until(STRAYS_WAIT, || !strays.iter().any(Process::is_alive)) {
            let left: Vec<String> = strays
                .iter()
                .filter(|stray| stray.is_alive())
                .map(|stray| description_of(&stray.pid))
                .collect();
            self.world.book().violation(format!("processes outlive their client, which was ended: {left:?}"));
        }
    }

    fn stop(&mut self, mut life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Stop);
        if self.world.take_down() {
            if self.rng.u32(0..4) == 0 {
                // Two signals within a moment are one.
                life.signal(Signal::TERM);
                self.pause(0..200);
            }
            must_stop(&self.world, &mut life);
        } else {
            life.wait();
        }
        self.world.book().end(Trouble::Stop);
        self.pause(0..300);
        self.start()
    }

    fn stand_still(&mut self, mut life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Pause);
        life.signal(Signal::STOP);
        self.pause(50..2500);
        self.world.book().end(Trouble::Pause);
        if self.has(Class::Crash) && self.rng.u32(0..4) == 0 {
            self.end_at_once(&mut life);
            return self.start();
        }
        life.signal(Signal::CONT);
        Some(life)
    }

    /// What may happen while a trouble lasts, and how long it lasts.
    fn during(&mut self, life: Life, longest_ms: u64) -> Option<Life> {
        self.pause(100..longest_ms);
        // Without descriptors no record can be written: what is told then must hold.
        let may_crash = self.has(Class::Crash) || self.has(Class::Descriptors);
        if may_crash && self.rng.u32(0..3) == 0 {
            let life = self.crash(life);
            self.pause(100..500);
            return life;
        }
        Some(life)
    }

    fn full(&mut self, life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Full);
        let path = self.world.place.data.with_file_name("ballast");
        let mut file = File::create(&path).unwrap();
        let free = rustix::fs::fstatvfs(&file).unwrap();
        let bytes = (free.f_bfree * free.f_frsize).saturating_sub(1 << 20);
        // The rest goes by small writes, since others take and give meanwhile.
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        let life = self.during(life, 2500);
        fs::remove_file(&path).unwrap();
        self.world.book().end(Trouble::Full);
        life
    }

    fn without_inodes(&mut self, life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Full);
        let path = self.world.place.data.with_file_name("ballast");
        fs::create_dir(&path).unwrap();
        for number in 0.. {
            if File::create(path.join(number.to_string())).is_err() {
                break;
            }
        }
        let life = self.during(life, 2500);
        fs::remove_dir_all(&path).unwrap();
        self.world.book().end(Trouble::Full);
        life
    }

    fn away(&mut self, mut life: Life) -> Option<Life> {
        let world = Arc::clone(&self.world);
        let data = &world.place.data;
        let aside = data.with_file_name("aside");
        let is_closed = self.world.place.user.is_some() && self.rng.bool();
        let open_to = |mode| fs::set_permissions(data, fs::Permissions::from_mode(mode)).unwrap();
        let mode = fs::metadata(data).unwrap().permissions().mode();
        self.world.book().begin(Trouble::Away);
        if is_closed {
            open_to(0);
        } else {
            fs::rename(data, &aside).unwrap();
        }
        let longest_ms = if self.has_short_age { 7000 } else { 3500 };
        self.pause(100..longest_ms);
        let is_ended = self.has(Class::Crash) && self.rng.u32(0..3) == 0;
        if is_ended {
            self.world.crash();
            life.wait();
        }
        if is_closed {
            open_to(mode);
        } else if fs::rename(&aside, data).is_err() {
            let strange = list_of(data);
            fs::rename(data, data.with_file_name("made")).unwrap();
            fs::rename(&aside, data).unwrap();
            self.world.book().violation(format!("in the place of its data, the client has made {strange:?}"));
        }
        self.world.book().end(Trouble::Away);
        if is_ended { self.start() } else { Some(life) }
    }

    fn port(&mut self, mut life: Life) -> Option<Life> {
        self.end_at_once(&mut life);
        must_be_gone(&self.world);
        let world = Arc::clone(&self.world);
        let place = &world.place;
        let is_bound = |listener: &mut Option<TcpListener>| {
            *listener = TcpListener::bind(place.address).ok();
            listener.is_some()
        };
        let mut listener = None;
        if wait_until(LIFE_WAIT, || is_bound(&mut listener)) {
            let before = content_of(&place.data);
            for _ in 0..self.rng.u32(1..4) {
                let start = self.settings();
                let number = self.world.next_life();
                let mut life = place.spawn(number, &start);
                self.world.book().stillborn.insert(number);
                let status = life.wait();
                if status.is_none_or(|status| status.success()) {
                    self.world
                        .book()
                        .violation(format!("with its port in use, the client ended with {status:?}"));
                }
            }
            let after = content_of(&place.data);
            let paths = before.keys().chain(after.keys());
            let changed: Vec<_> = paths.filter(|path| before.get(*path) != after.get(*path)).collect();
            if !changed.is_empty() {
                self.world.book().violation(format!("a start that failed has changed {changed:?}"));
            }
        }
        drop(listener);
        self.start()
    }

    fn descriptors(&mut self, life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Descriptors);
        let life = if self.rng.bool() {
            let idle: Vec<TcpStream> =
                (0..300).map_while(|_| TcpStream::connect(self.world.place.address).ok()).collect();
            let life = self.during(life, 2500);
            drop(idle);
            life
        } else {
            let directory = format!("/proc/{}/fd", life.pid().as_raw_nonzero());
            let open = fs::read_dir(directory).map_or(0, Iterator::count) as u64;
            let few = (open + self.rng.u64(0..5)).max(40);
            self.limited(life, "nofile", "Max open files", few)
        };
        self.world.book().end(Trouble::Descriptors);
        life
    }

    fn processes(&mut self, life: Life) -> Option<Life> {
        self.world.book().begin(Trouble::Processes);
        let life = self.limited(life, "nproc", "Max processes", 0);
        self.world.book().end(Trouble::Processes);
        life
    }

    /// With a lower limit of the client, for a while. `name` as prlimit(1) and as the kernel have it.
    fn limited(&mut self, life: Life, option: &str, name: &str, value: u64) -> Option<Life> {
        let pid = life.pid();
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
        let values = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let Some(before) = values.split_whitespace().next() else { return Some(life) };
        let user = self.world.place.user;
        let set = |value: &str| {
            let mut command = Command::new("prlimit");
            command.args(["--pid", &pid.as_raw_nonzero().to_string(), &format!("--{option}={value}:")]);
            if let Some(user) = user {
                // The superuser of a container may not.
                command.uid(user).gid(user);
            }
            command.status().is_ok_and(|status| status.success())
        };
        if !set(&value.to_string()) {
            self.world.book().count("faults: limits not set");
        }
        let mut life = self.during(life, 2500)?;
        if life.pid() == pid && life.ended().is_none() {
            let _ = set(before);
        }
        Some(life)
    }
}

/// What the kernel says of a process, and its command line.
fn description_of(pid: &str) -> String {
    let text = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let [stat, command] =
        ["stat", "cmdline"].map(|name| String::from_utf8_lossy(&text(name)).replace('\0', " "));
    format!("{stat}{command}")
}

fn list_of(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// All that is below a directory: modes, sizes, times, and the bytes of what is not large.
fn content_of(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut content = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mut hasher = DefaultHasher::new();
        metadata.permissions().mode().hash(&mut hasher);
        if metadata.is_dir() {
            left.extend(list_of(&path));
        } else {
            (metadata.len(), metadata.modified().ok()).hash(&mut hasher);
            if metadata.is_file() && metadata.len() < 100_000 {
                fs::read(&path).unwrap_or_default().hash(&mut hasher);
            }
        }
        content.insert(path, hasher.finish());
    }
    content
}
