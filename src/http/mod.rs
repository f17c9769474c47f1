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
mod pace;
mod pipe;
mod reply;
mod response;
mod waiting;
mod watch;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use may::coroutine;
use may::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

pub use blocking::wait_for_disk;
pub use body::{Body, Chunks};
pub use changes::{Changes, Follower, Woken};
pub use conditional::Conditions;
pub use error::HttpError;
pub use head::{Fields, Method};
pub use pipe::{Chunk, Sink};
pub use response::{Opened, Response};
pub use waiting::Waiting;
pub use watch::{Caller, Watch};

use crate::{event, sys};
use connection::Connection;
use pace::Pool;

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

/// Failed accepts are told once in this time: in such a state they come and go many times a second.
const ACCEPT_TOLD: Duration = Duration::from_secs(60);

/// How long a start waits for its address.
const BIND_WAIT: Duration = Duration::from_secs(1);
const BIND_PAUSE: Duration = Duration::from_millis(2);

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

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
    /// The body, read only if the service wants it.
    pub body: &'r mut Body<'c>,
}

/// What answers requests. Runs on coroutines: it must not block on a disk, and hands such work to the disk threads.
pub trait Service: Send + Sync + 'static {
    /// The answer to one request.
    fn call(&self, request: Request<'_, '_>) -> Response;

    /// Takes note of an answer that is out, or was cut.
    fn answered(&self, _answered: &Answered<'_>) {}
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

/// An address that is taken, and not served yet: peers wait in its queue.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes `address`. Starts the workers too, so that what [`Server::start`] needs is there.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        configure_coroutines();
        let listener = bind_soon(address)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
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
    address: SocketAddr,
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
}

impl Server {
    /// Serves what the listener has taken from now on.
    pub fn start(listener: Listener, limits: Limits, threads: Threads, service: impl Service) -> Self {
        let Listener { listener, address } = listener;
        let shared = Arc::new(Shared {
            limits,
            threads,
            connections: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let service = Arc::new(service);
        may::go!(move || accept(&listener, &accepting, &service));
        Self { address, shared }
    }

    /// The address it listens on, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }
}

/// Waits a moment for an address in use: a child that is being started, by the runner of this life or of one that was
/// killed, has a copy of every descriptor until it calls execve(2), that of a closed listener included.
fn bind_soon(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + BIND_WAIT;
    loop {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(BIND_PAUSE);
            }
            other => return other,
        }
    }
}

/// All addresses of a kernel without IPv6 are those of IPv4.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_one(address) {
        Err(Errno::AFNOSUPPORT) if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    }
    .map_err(io::Error::from)
}

/// Not by the listener of `may`, which sets SO_REUSEPORT: two servers on one port would share its connections without an error.
fn bind_one(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `::` is all addresses of both families.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // For the connections, which have it from here (tcp(7)): answers are written whole or in full chunks, and waiting for more
    // would only add latency.
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(sys::adopt(socket))
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

fn accept<S: Service>(listener: &TcpListener, shared: &Arc<Shared>, service: &Arc<S>) {
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept() {
            Ok((stream, _)) => admit(stream, shared, service),
            // The peer gave up while it was in the queue (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= ACCEPT_TOLD) {
                    event!(Error, "cannot accept connections", error = error);
                    told = Some(Instant::now());
                }
                coroutine::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn admit<S: Service>(stream: TcpStream, shared: &Arc<Shared>, service: &Arc<S>) {
    if let Some(slot) = Slot::take(&shared.connections, shared.limits.max_connections, shared) {
        let service = Arc::clone(service);
        home::start(stream, move |stream| Connection::new(stream, &slot.shared).serve(&*service));
    } else if let Some(slot) = Slot::take(&shared.refusals, shared.limits.max_refusals, shared) {
        home::start(stream, move |stream| Connection::new(stream, &slot.shared).refuse());
    } else {
        connection::refuse_and_leave(&stream);
    }
}

/// One counted connection, given back when it ends, however it ends.
struct Slot {
    shared: Arc<Shared>,
    is_refusal: bool,
}

impl Slot {
    fn take(counter: &AtomicUsize, most: usize, shared: &Arc<Shared>) -> Option<Self> {
        // Only the accept coroutine counts up, so no other can come between.
        if counter.load(Ordering::Relaxed) >= most {
            return None;
        }
        counter.fetch_add(1, Ordering::Relaxed);
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
