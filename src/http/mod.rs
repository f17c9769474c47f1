//! HTTP/1.1 on coroutines: accepting, and handing each connection to its own coroutine.
//! What the requests mean is not known here: a [`Service`] answers them. `may` and `httparse` are named here only.

mod blocking;
mod body;
mod changes;
mod conditional;
mod connection;
mod error;
mod head;
mod home;
mod listener;
mod pace;
mod pipe;
mod reply;
mod response;
mod socket;
mod waiting;
mod watch;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use may::coroutine;

pub use blocking::wait_for_disk;
pub use body::{Body, Chunks};
pub use changes::{Changes, Follower, Woken};
pub use conditional::Conditions;
pub use error::HttpError;
pub use head::{Fields, Method};
pub use listener::{Address, Listener, SocketFile};
pub use pipe::{Chunk, Sink};
pub use response::{Opened, Response};
pub use waiting::Waiting;
pub use watch::{Caller, Watch};

use crate::event;
use crate::log::Seldom;
use connection::Connection;
use pace::Pool;
use socket::Socket;

/// Stack of a coroutine in words: 128 KiB, 64 KiB on 32-bit machines. It is reserved, not used: pages are committed when
/// touched. SQLite needs the most.
const STACK_WORDS: usize = 16 * 1024;

/// The same in bytes.
pub const STACK_BYTES: usize = STACK_WORDS * size_of::<usize>();

/// Coroutines kept ready between connections. Each keeps the pages that it has touched, so a big pool costs memory.
const READY_COROUTINES: usize = 16;

/// The longest sleep of an idle worker. Timers and wake-ups cut it short; it only bounds the wake-ups of an idle client.
const WORKER_SLEEP: Duration = Duration::from_secs(2);

/// Wait after a failed accept: out of descriptors or memory is a state that lasts, and must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are served at once.
    pub max_connections: usize,
    /// How many above these are told 503 and waited for while they read it; the others are told and left.
    pub max_refusals: usize,
    /// In which a request's head must arrive, from its first byte.
    pub head_timeout: Duration,
    /// That a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// That a body or a response may stand still, or all but still.
    pub stall_timeout: Duration,
    /// That a request waits for a disk that does not answer.
    pub disk_timeout: Duration,
}

/// A request whose head has arrived.
pub struct Request<'r, 'c> {
    /// The method; HEAD has become GET, since the connection leaves the body out by itself.
    pub method: &'r Method,
    /// Whether only the head of the answer is asked for.
    pub is_head: bool,
    /// The path, without the query.
    pub path: &'r str,
    /// What stands behind the `?`, as it was sent; empty if there is none.
    pub query: &'r str,
    /// The value of Content-Type, if there is one.
    pub content_type: Option<&'r str>,
    /// How the body is encoded (Content-Encoding), if it is.
    pub content_encoding: Option<&'r str>,
    /// Further fields of the head.
    pub fields: &'r Fields,
    /// The value of Authorization, if there is exactly one.
    pub authorization: Option<&'r [u8]>,
    /// Who asks.
    pub peer: Peer,
    /// The body, read only if the service wants it.
    pub body: &'r mut Body<'c>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer {
    /// Its address; a Unix socket has none.
    pub address: Option<IpAddr>,
    /// Whether the service knows it. Who does not and is of this host itself is let in all the same, for `job-orchestrator health`.
    pub is_known: bool,
}

/// What answers requests. Runs on coroutines: it must not block on a disk, and hands such work to the disk threads.
pub trait Service: Send + Sync + 'static {
    /// The answer to one request.
    fn call(&self, request: Request<'_, '_>) -> Response;

    /// Takes note of an answer that is out, or was cut.
    fn answered(&self, _answered: &Answered<'_>) {}

    /// Whether requests from this address are answered. Those of other hosts are refused before their first byte is read.
    fn knows(&self, _caller: IpAddr) -> bool {
        true
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answered<'a> {
    /// The method, whether it was HEAD, and the path; `None` where the head could not be understood.
    pub head: Option<(&'a Method, bool, &'a str)>,
    /// The status.
    pub status: u16,
    /// From the head of the request to the last byte of the answer.
    pub took: Duration,
}

/// Whether the system gives the threads that [`Listener::bind`] starts: workers and a timer. The crate of the coroutines starts them
/// where nobody could be told that there are none.
pub fn try_threads() -> io::Result<()> {
    let (hold, end) = mpsc::channel::<()>();
    let end = Arc::new(Mutex::new(end));
    let threads: Vec<_> = (0..=may::config().get_workers())
        .map(|_| {
            let end = Arc::clone(&end);
            // All are there at once: each ends when the channel is closed.
            thread::Builder::new().spawn(move || drop(end.lock().map(|end| end.recv())))
        })
        .collect();
    drop(hold);
    for thread in threads {
        // It cannot have panicked.
        let _ = thread?.join();
    }
    Ok(())
}

/// The threads that connections need beside their workers; cheap to clone.
#[derive(Clone)]
pub struct Threads {
    watch: Watch,
    /// Two pools, so that uploads that stand still do not keep results from being fetched.
    uploads: Arc<Pool>,
    downloads: Arc<Pool>,
}

impl Threads {
    /// For so many transfers of each direction at once.
    pub fn start(uploads: usize, downloads: usize) -> io::Result<Self> {
        Ok(Self {
            watch: Watch::start()?,
            uploads: Arc::new(Pool::new(uploads)),
            downloads: Arc::new(Pool::new(downloads)),
        })
    }

    /// What ends waits by their time.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

/// A running server; cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

/// What all connections share.
pub(crate) struct Shared {
    limits: Limits,
    threads: Threads,
    connections: AtomicUsize,
    refusals: AtomicUsize,
    /// Connections that are read to their end after their last answer.
    lingering: AtomicUsize,
    /// Requests whose head has arrived and whose response is not yet out.
    in_flight: AtomicUsize,
    /// Failed accepts: in such a state they come and go many times a second.
    failed_accepts: Seldom,
    /// Connections from addresses that the service does not know.
    strangers: Seldom,
}

impl Server {
    /// Serves what the listeners have taken from now on.
    pub fn start(listeners: Vec<Listener>, limits: Limits, threads: Threads, service: impl Service) -> Self {
        let shared = Arc::new(Shared {
            limits,
            threads,
            connections: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            failed_accepts: Seldom::new(),
            strangers: Seldom::new(),
        });
        let service = Arc::new(service);
        for listener in listeners {
            let (accepting, service) = (Arc::clone(&shared), Arc::clone(&service));
            may::go!(move || accept(&listener, &accepting, &service));
        }
        Self { shared }
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }
}

/// The defaults of `may` suit a big server, not a board (DESIGN.md, hazards 3 and 7).
fn configure_coroutines() {
    let config = may::config();
    // Pinned workers would hand their CPU mask of one core down to every payload.
    config.set_worker_pin(false);
    config.set_pool_capacity(READY_COROUTINES);
    config.set_stack_size(STACK_WORDS);
    config.set_timeout_ns(u64::try_from(WORKER_SLEEP.as_nanos()).unwrap_or(u64::MAX));
}

fn accept<S: Service>(listener: &Listener, shared: &Arc<Shared>, service: &Arc<S>) {
    loop {
        match listener.accept() {
            Ok((socket, address)) => admit(socket, address, shared, service),
            // The peer gave up while it was in the queue (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(failed) = shared.failed_accepts.count() {
                    event!(Error, "cannot accept connections", error = error, failed = failed);
                }
                coroutine::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn admit<S: Service>(socket: Socket, address: Option<SocketAddr>, shared: &Arc<Shared>, service: &Arc<S>) {
    let address = address.map(|address| address.ip().to_canonical());
    let is_known = address.is_none_or(|address| service.knows(address));
    if let Some(address) = address.filter(|address| !is_known && !socket.is_of_this_host(*address)) {
        return turn_away(socket, address, shared);
    }
    let peer = Peer { address, is_known };
    if let Some(slot) = Slot::take(&shared.connections, shared.limits.max_connections, shared) {
        let service = Arc::clone(service);
        home::start(socket, move |stream| Connection::new(stream, &slot.shared, peer).serve(&*service));
    } else if let Some(slot) = Slot::take(&shared.refusals, shared.limits.max_refusals, shared) {
        home::start(socket, move |stream| Connection::new(stream, &slot.shared, peer).refuse());
    } else {
        connection::refuse_and_leave(&socket, connection::too_many());
    }
}

/// Tells a stranger that he is one. Not one of the connections that others may have is his.
fn turn_away(socket: Socket, address: IpAddr, shared: &Arc<Shared>) {
    if let Some(refused) = shared.strangers.count() {
        event!(
            Warn,
            "connections refused: ALLOW_FROM does not list their address",
            address = address.to_string(),
            refused = refused
        );
    }
    let peer = Peer { address: Some(address), is_known: false };
    if let Some(slot) = Slot::take(&shared.refusals, shared.limits.max_refusals, shared) {
        home::start(socket, move |stream| {
            Connection::new(stream, &slot.shared, peer).refuse_stranger(address);
        });
    } else {
        connection::refuse_and_leave(&socket, HttpError::stranger(address));
    }
}

/// One counted connection, given back when it ends, however it ends.
struct Slot {
    shared: Arc<Shared>,
    is_refusal: bool,
}

impl Slot {
    fn take(counter: &AtomicUsize, most: usize, shared: &Arc<Shared>) -> Option<Self> {
        let one_more = |count| (count < most).then_some(count + 1);
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let is_refusal = std::ptr::eq(counter, &raw const shared.refusals);
        Some(Self { shared: Arc::clone(shared), is_refusal })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.shared;
        let counter = if self.is_refusal { &shared.refusals } else { &shared.connections };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}
