//! The client's life: put the parts together, serve, and leave in good order when told to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};

use crate::api::{Api, Bounds, Callers, Keys, Metrics};
use crate::clock::{MonotonicMs, monotonic_ms};
use crate::data::disk_error::is_out_of_descriptors;
use crate::data::ids::Ids;
use crate::data::path::{DataPath, Free};
use crate::data::record::Durability;
use crate::disk_threads::{self, Disk};
use crate::event;
use crate::host::load::Load;
use crate::host::service_manager::{self, Notifier};
use crate::host::strain::{self, Strain};
use crate::host::{Room, memory, rlimit};
use crate::http::{self, Address, Changes, Listener, Server, SocketFile, Waiting};
use crate::limits::{Cgroups, Grant, NoCgroups, Processors, Running};
use crate::log::{self, Level, ToValue as _};
use crate::logs::Logs;
use crate::payload::Isolation;
use crate::runner::{self, RoomPool, Runner};
use crate::sandbox::users::{NoUsers, Users};
use crate::sandbox::{self, Sandbox, rooms};
use crate::settings::{Durable, Host, RunAs, SandboxMode, Settings, Token};
use crate::store::Store;
use crate::sys::{self, StopSignals};
use crate::upkeep::record_writer::Records;
use crate::upkeep::retention::{self, Remover};
use crate::upkeep::{owed, quota, recover, sync};

/// How long killed processes are waited for when a second signal says to go at once.
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// How long the client stays after the end of a payload so that its result can be fetched: the server asks twice a second.
const TELL_WAIT: Duration = Duration::from_secs(2);

/// Signals that come within this time are one.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Pause between two looks for a second signal and for the last responses.
const LOOK: Duration = Duration::from_millis(10);

/// Why the client could not start: the exit code says who has to act.
pub enum StartError {
    /// A setting is at fault.
    Setting(String),
    /// The system is.
    System(String),
}

/// How the client ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that ran has ended or was ended in time, every response is out.
    Drained,
    /// A second signal cut it short.
    Aborted,
}

/// Runs the client until it is told to stop.
#[allow(clippy::too_many_lines, reason = "the order of a start counts, and is seen here as a whole")]
pub fn run(settings: &Settings) -> Result<End, StartError> {
    // Before any descriptor is opened here.
    let sockets = service_manager::sockets();
    // Before any thread is started: all inherit the mask.
    let signals = StopSignals::block().map_err(|error| system("cannot block signals", &error))?;
    if memory::is_bounded() {
        sys::share_one_heap();
    }
    log::start().map_err(|error| system("cannot start the writer of the log", &error))?;
    sys::keep_descriptors_from_children().map_err(|error| system("cannot read /proc", &error))?;
    tell_ignored(settings);
    sys::ignore_file_size_signal();
    let limits_at_start = rlimit::all();
    let room = make_room(settings);
    // From here on to `take_up` nothing is written that was not there, removed or started: whatever fails, what an earlier life
    // has left is as it was. But what a payload has closed of the client's own is opened: it has to be read.
    let token = settings.token().map_err(StartError::Setting)?;
    http::try_threads().map_err(|error| system("cannot start the workers", &error))?;
    let mut listeners = listen(settings, sockets)?;
    // Removed when this function is left.
    let _socket_files: Vec<SocketFile> = listeners.iter_mut().filter_map(Listener::take_file).collect();
    let data_path =
        DataPath::open(settings.data_path.as_deref()).map_err(|(path, error)| refused(&path, &error))?;
    let found =
        if settings.recover { recover::find(&data_path) } else { recover::find_leftovers(&data_path) };
    let found = found.map_err(|error| system("cannot take up the payloads of DATA_PATH", &error))?;
    let ids = Ids::open(data_path.lock_file(), found.highest_id())
        .map_err(|error| system("cannot read the mark of the payload ids", &error))?;
    data_path.watch(settings.disk_timeout).map_err(|error| system("cannot watch DATA_PATH", &error))?;
    let (waiting, followers) = (Waiting::default(), Changes::default());
    let store = open_store(&waiting, &followers)?;
    let durability = durability(settings);
    let records = Records::start(store.clone(), data_path.clone(), durability)
        .map_err(|error| system("cannot start the writer of records", &error))?;
    let remover = Remover::new(data_path.shelf(), durability);
    let begin_to_clean = retention::prepare(store.clone(), settings.max_age, remover.clone())
        .map_err(|error| system("cannot start cleaning", &error))?;
    let users = choose_users(settings, &data_path)?;
    let processors = Processors::usable();
    let cgroups = take_cgroups(processors.count(), settings);
    let contained = contain(settings, &data_path, users.clone())?;
    let isolation = contained.0.isolation();
    let user_ids = users.as_ref().map(|users| users.ids());
    let limits = runner_limits(settings, &processors, limits_at_start, users, contained, cgroups.clone());
    let grant = limits.grant;
    let running = Running::default();
    let (load, host) = look_after_host(settings)?;
    let (runner, begin_to_run) = Runner::prepare(
        store.clone(),
        records.clone(),
        &data_path,
        limits,
        processors,
        running.clone(),
        host,
    )
    .map_err(|error| system("cannot start the runner", &error))?;
    let ends = runner.clone();
    quota::start(store.clone(), running, move |id| ends.kill(id))
        .map_err(|error| system("cannot look after MAX_DISK", &error))?;
    let threads = http::Threads::start(room.uploads, room.downloads)
        .map_err(|error| system("cannot start the watch over waits", &error))?;
    let disk = Disk::with_a_thread().map_err(|error| system("cannot start a disk thread", &error))?;
    disk_threads::start_keeper().map_err(|error| system("cannot start a thread", &error))?;
    let notifier = start_watchdog(&runner)?;
    sync::start(data_path.clone(), ids.clone(), settings.durable == Durable::Soon)
        .map_err(|error| system("cannot start the thread that syncs", &error))?;
    let leftovers = found
        .take_up(&store, settings.max_age, &ids, &records, &remover, |path| {
            runner::end_strays(path, user_ids.as_ref());
        })
        .map_err(|error| StartError::System(format!("cannot take up the payloads of DATA_PATH: {error}")))?;
    // Its thread waits for nothing else.
    let _ = begin_to_clean.send(leftovers);
    begin_to_run();
    tell_who_may_call(settings, token.as_ref(), &listeners);
    let draining = Arc::new(AtomicBool::new(false));
    let api = Api {
        store: store.clone(),
        runner: runner.clone(),
        load,
        data_path: data_path.clone(),
        disk,
        waiting: waiting.clone(),
        logs: logs(&followers, &runner),
        followers: followers.clone(),
        metrics: Metrics::new(settings.max_jobs),
        ids: ids.clone(),
        records: records.clone(),
        remover: remover.clone(),
        keys: Keys::default(),
        callers: Arc::new(Callers::new(settings.allow_from.clone(), token)),
        bounds: bounds(settings, grant, user_ids.is_some()),
        zip_threads: settings.zip_threads,
        disk_timeout: settings.disk_timeout,
        watch: threads.watch(),
        draining: Arc::clone(&draining),
    };
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address().to_string()).collect();
    let server = Server::start(listeners, http_limits(settings, room), threads, api);
    tell_start(settings, &addresses.join(","), &data_path, &isolation);
    notifier.ready();
    signals.wait().map_err(|error| system("cannot wait for signals", &error))?;
    notifier.stopping();
    let let_go = || {
        waiting.close();
        followers.close();
    };
    let end = drain(settings, &signals, &runner, &server, &store, let_go, &draining);
    if end == End::Drained {
        owed::finish(&records, &remover);
    }
    leave(&ids, &data_path, cgroups.as_deref());
    Ok(end)
}

/// How payloads are run, and what they may use: `limits_at_start` if they were this process's own.
fn runner_limits(
    settings: &Settings,
    processors: &Processors,
    limits_at_start: Vec<(Resource, Rlimit)>,
    users: Option<Arc<Users>>,
    (sandbox, rooms): (Sandbox, Option<RoomPool>),
    cgroups: Option<Arc<Cgroups>>,
) -> runner::Limits {
    let usable = processors.count();
    if settings.job_cpus.is_some_and(|number| number as usize > usable) {
        event!(Warn, "JOB_CPUS is more than there are: payloads may use all", cpus = usable);
    }
    let grant = Grant::of_client(settings, usable);
    runner::Limits {
        slots: settings.max_jobs,
        kill_grace: settings.kill_grace,
        linger: settings.linger,
        grant,
        usable_processors: usable,
        cgroups,
        max_log: settings.max_log,
        of_processes: rlimit::changed_since(limits_at_start),
        has_successor: settings.recover,
        users,
        sandbox,
        rooms,
    }
}

/// Where none are delegated, the limits of trees are looked at once a second; worth a word where there is such a limit.
/// Call before the keepers of rooms are started: a group that they are in cannot be divided.
fn take_cgroups(processors: usize, settings: &Settings) -> Option<Arc<Cgroups>> {
    match Cgroups::take(processors) {
        Ok(cgroups) => {
            event!(Info, "the kernel keeps limits of payloads by cgroup", controllers = cgroups.shown());
            Some(cgroups)
        }
        Err(why) => {
            let is_limited = settings.memory_limit.is_some() || settings.pids_limit.is_some();
            if is_limited || matches!(why, NoCgroups::Refused(_)) {
                event!(
                    Warn,
                    "MEMORY_LIMIT and PIDS_LIMIT are looked at once a second: there is no cgroup for them",
                    reason = why.to_string()
                );
            }
            None
        }
    }
}

/// What is admitted. `grant`: what a payload may ask for at the most.
fn bounds(settings: &Settings, grant: Grant, has_private_directories: bool) -> Bounds {
    Bounds {
        max_upload: settings.max_upload,
        max_queue: settings.max_queue,
        min_free: Free { bytes: settings.min_free, inodes: settings.min_free_inodes },
        grant,
        has_private_directories,
    }
}

/// The rows: who waits for the end of a payload is woken by it, and who follows one is told of its start, too.
fn open_store(waiting: &Waiting, followers: &Changes) -> Result<Store, StartError> {
    let (woken, told) = (waiting.clone(), followers.clone());
    let on_end = move |id| {
        woken.wake(id);
        told.tell(id);
    };
    let store = Store::open(on_end).map_err(|error| StartError::System(error.to_string()))?;
    let told = followers.clone();
    store.when_started(move |id| told.tell(id));
    Ok(store)
}

/// Who follows a payload is told of what it prints.
fn logs(followers: &Changes, runner: &Runner) -> Logs {
    let told = followers.clone();
    runner.when_kept_back(move |id| told.tell(id));
    let told = followers.clone();
    Logs::new(move |id| told.tell(id))
}

/// What is left to be written.
fn leave(ids: &Ids, data_path: &DataPath, cgroups: Option<&Cgroups>) {
    if let Some(cgroups) = cgroups {
        cgroups.close();
    }
    if let Err(error) = ids.close() {
        event!(Warn, "cannot write the mark of the payload ids; some numbers are lost", error = error);
    }
    sync::finish(data_path);
}

/// How much the machine and the limits of this process have room for; raises that of descriptors.
fn make_room(settings: &Settings) -> Room {
    let (stack, thread_stack) = (http::STACK_BYTES, disk_threads::STACK_BYTES);
    let room = memory::room(settings.max_connections, stack, thread_stack, settings.zip_threads);
    rlimit::raise_descriptors(room, settings.max_jobs)
}

/// As whom payloads run: where the client is root, each slot by a user of its own. `None` for the client's own user.
fn choose_users(settings: &Settings, data_path: &DataPath) -> Result<Option<Arc<Users>>, StartError> {
    let given = settings.run_as.as_ref();
    if given.is_none() && settings.sandbox == SandboxMode::Off {
        return Ok(None);
    }
    let chosen = Users::choose(given, settings.max_jobs);
    let why = match (chosen, given) {
        (Err(NoUsers::NotRoot), None) => return Ok(None),
        (Err(error @ NoUsers::NotRoot), Some(given)) => {
            return Err(StartError::Setting(given.refuse(&error.to_string())));
        }
        (Err(error), _) => error.to_string(),
        (Ok(users), _) => match data_path.admit(*users.ids().start()) {
            Ok(()) => return Ok(Some(Arc::new(users))),
            Err(error) => error.to_string(),
        },
    };
    if let Some(ids @ RunAs::Ids(_)) = given {
        return Err(StartError::Setting(ids.refuse(&why)));
    }
    event!(Warn, "payloads run as root and can do all that root can", reason = why);
    Ok(None)
}

/// What a record that was written survives.
fn durability(settings: &Settings) -> Durability {
    match settings.durable {
        Durable::On => Durability::Power,
        Durable::Soon | Durable::Off => Durability::Process,
    }
}

/// The load of the host, and what its operator has said about that.
fn look_after_host(settings: &Settings) -> Result<(Load, Strain), StartError> {
    let load = Load::start().map_err(|error| system("cannot start the load sampler", &error))?;
    let bounds = strain::Bounds {
        max_load_percent: settings.max_load,
        min_memory_bytes: settings.min_memory,
        max_temperature_celsius: settings.max_temperature,
        max_pressure_percent: settings.max_pressure,
    };
    let strain = Strain::new(bounds, load.clone());
    Ok((load, strain))
}

/// What tells the service manager that the client is well.
fn start_watchdog(runner: &Runner) -> Result<Notifier, StartError> {
    let (notifier, watched) = (Notifier::from_environment(), runner.clone());
    let is_well = move || !watched.is_stuck();
    notifier.watch(is_well).map_err(|error| system("cannot start the watchdog", &error))?;
    Ok(notifier)
}

/// What keeps payloads to what they were given, as far as this host can.
fn contain(
    settings: &Settings,
    data_path: &DataPath,
    users: Option<Arc<Users>>,
) -> Result<(Sandbox, Option<RoomPool>), StartError> {
    let rooms = match settings.sandbox {
        SandboxMode::Off => Err("SANDBOX=off".to_owned()),
        SandboxMode::Best | SandboxMode::Strict => RoomPool::open(&rooms::trial(data_path.path())),
    };
    let config = sandbox::Config {
        mode: settings.sandbox,
        allow_read: settings.allow_read.clone(),
        allow_write: settings.allow_write.clone(),
        has_network: settings.network,
        data_path: data_path.path().to_owned(),
        own_files: settings.token_file().map(Path::to_owned).into_iter().collect(),
        users,
    };
    let has_rooms = rooms.as_ref().map(|_| ()).map_err(Clone::clone);
    let sandbox = Sandbox::prepare(config, has_rooms).map_err(StartError::Setting)?;
    Ok((sandbox, rooms.ok()))
}

/// What was set and has no effect.
fn tell_ignored(settings: &Settings) {
    if settings.db_path_given {
        event!(Info, "DB_PATH is ignored: the database is in memory");
    }
    for (name, meant) in Settings::misspelt() {
        event!(
            Warn,
            "a variable that is no setting is ignored: its name is nearly one",
            name = name,
            meant = meant
        );
    }
}

fn system(what: &str, error: &io::Error) -> StartError {
    let hint = match error.kind() {
        // The stack of a thread that does not fit is told in the same way.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory if memory::is_bounded() => {
            "; raise the limit of the address space (ulimit -v), or, if there is room left in it, that of processes, which counts \
             threads (ulimit -u)"
        }
        io::ErrorKind::WouldBlock => {
            "; raise the limit of processes, which counts threads (ulimit -u, TasksMax, the container's pids limit)"
        }
        _ => "",
    };
    StartError::System(format!("{what}: {error}{hint}"))
}

/// Descriptors that are used up are no fault of the setting.
fn refused(path: &Path, error: &io::Error) -> StartError {
    if is_out_of_descriptors(error) {
        return StartError::System(format!(
            "cannot open DATA_PATH={}: {error}; raise the limit of open files (ulimit -n, LimitNOFILE)",
            path.display()
        ));
    }
    StartError::Setting(Settings::refuse_data_path(path, error))
}

/// Takes what HOST and PORT say, or else what the service manager has taken for us.
fn listen(settings: &Settings, sockets: io::Result<Vec<OwnedFd>>) -> Result<Vec<Listener>, StartError> {
    let refused = |error: io::Error| {
        StartError::System(format!("cannot use the sockets of the service manager (LISTEN_FDS): {error}"))
    };
    let sockets = sockets.map_err(refused)?;
    if !sockets.is_empty() {
        event!(Info, "the service manager has made the sockets; HOST and PORT do not count");
        return sockets.into_iter().map(Listener::inherit).collect::<io::Result<_>>().map_err(refused);
    }
    let address = match &settings.host {
        Host::Address(host) => Address::Ip(SocketAddr::new(*host, settings.port)),
        Host::Socket(path) => Address::Unix { path: path.clone(), mode: settings.unix_mode },
    };
    let listener = Listener::bind(&address)
        .map_err(|error| StartError::System(settings.refuse_address(&address, &error)))?;
    Ok(vec![listener])
}

/// Who reaches an open client can run programs on its host: not in silence.
fn tell_who_may_call(settings: &Settings, token: Option<&Token>, listeners: &[Listener]) {
    let is_open = token.is_none() && settings.allow_from.is_empty();
    let reached = listeners.iter().map(Listener::address).find(|address| address.is_reached_by_others());
    if let Some(address) = reached.filter(|_| is_open) {
        event!(
            Warn,
            "whoever reaches this address can run programs on this host; set TOKEN, TOKEN_FILE or ALLOW_FROM, or HOST=127.0.0.1",
            address = address.to_string()
        );
    }
    if token.is_some_and(Token::is_short) {
        event!(Warn, "the token is short, and may be found by trying; take one of 16 characters or more");
    }
    if let Some(path) = settings.token_file()
        && let Ok(found) = rustix::fs::stat(path)
        && found.st_mode & 0o077 != 0
    {
        event!(Warn, "TOKEN_FILE can be read by others than its owner; chmod 600 it", path = path.display());
    }
}

fn http_limits(settings: &Settings, room: Room) -> http::Limits {
    http::Limits {
        max_connections: room.connections,
        max_refusals: room.refusals,
        head_timeout: settings.head_timeout,
        idle_timeout: settings.idle_timeout,
        stall_timeout: settings.stall_timeout,
        disk_timeout: settings.disk_timeout,
    }
}

/// The one line that is never filtered away: whoever starts a client on port 0 reads the port here.
fn tell_start(settings: &Settings, address: &str, data_path: &DataPath, isolation: &Isolation) {
    let (enforced, missing) = (isolation.enforced.join(" "), isolation.missing.join("; "));
    let data_path = data_path.path().display();
    let missing = (!missing.is_empty()).then_some(("missing", missing.to_value()));
    let fields = [
        ("version", env!("CARGO_PKG_VERSION").to_value()),
        ("address", address.to_value()),
        ("data_path", data_path.to_value()),
        ("slots", settings.max_jobs.to_value()),
        ("enforced", enforced.to_value()),
    ];
    let fields: Vec<_> = fields.into_iter().chain(missing).collect();
    log::write(Level::Info, "client listening", &fields);
}

/// Lets what runs come to its end, and results be fetched for a moment; ends at once on a second signal.
fn drain(
    settings: &Settings,
    signals: &StopSignals,
    runner: &Runner,
    server: &Server,
    store: &Store,
    let_go: impl Fn(),
    draining: &AtomicBool,
) -> End {
    let begun = Instant::now();
    let deadline = begun + settings.grace;
    let counts = store.counts().unwrap_or_default();
    event!(
        Info,
        "client stopping",
        grace_s = settings.grace.as_secs(),
        running = counts.running,
        waiting = counts.waiting
    );
    draining.store(true, Ordering::Relaxed);
    let (done_tx, done_rx) = channel();
    runner.drain(deadline, done_tx);
    let is_wanted = || {
        let since = monotonic_ms() - MonotonicMs::try_from(TELL_WAIT.as_millis()).unwrap_or(0);
        store.has_untold(since).unwrap_or(false) || (server.in_flight() > 0 && Instant::now() < deadline)
    };
    let mut nothing_runs = false;
    while !nothing_runs || is_wanted() {
        // Who signals a process and its group, as timeout(1) does, signals it twice and means one.
        if signals.has_come() && begun.elapsed() >= ONE_SIGNAL {
            event!(Warn, "second signal: client ends at once");
            runner.abort();
            let _ = done_rx.recv_timeout(ABORT_WAIT);
            return End::Aborted;
        }
        if done_rx.recv_timeout(LOOK).is_ok() {
            nothing_runs = true;
            // What still waits does so for the next life.
            let_go();
        }
    }
    event!(Info, "client stopped");
    End::Drained
}
