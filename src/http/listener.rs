//! Where peers come in: a TCP or a Unix socket that listens, taken here or handed over by the service manager.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use may::io::{CoIo, WaitIo as _};
use may::net::TcpListener;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::configure_coroutines;
use super::socket::{Local, Socket};
use crate::{event, sys};

/// How long a start waits for its address.
const BIND_WAIT: Duration = Duration::from_secs(1);
const BIND_PAUSE: Duration = Duration::from_millis(2);

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Where to listen.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// A port of an IP address.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Where it is.
        path: PathBuf,
        /// Its permission bits: who may write may connect (unix(7)).
        mode: u32,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix { path, .. } => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether other machines may reach it.
    pub fn is_reached_by_others(&self) -> bool {
        matches!(self, Self::Ip(address) if !address.ip().to_canonical().is_loopback())
    }
}

/// An address that is taken, and not served yet: peers wait in its queue.
pub struct Listener {
    socket: Kind,
    address: Address,
    file: Option<SocketFile>,
}

enum Kind {
    Tcp(TcpListener),
    /// Never closed: see docs/decisions/tcp-stream.md.
    Unix(CoIo<UnixListener>),
}

impl Listener {
    /// Takes `address`. Starts the workers too, so that what [`super::Server::start`] needs is there.
    pub fn bind(address: &Address) -> io::Result<Self> {
        configure_coroutines();
        let (socket, file) = bind_soon(address)?;
        Ok(Self { file, ..Self::new(socket)? })
    }

    /// A socket that the service manager has made. It has to listen already.
    pub fn inherit(socket: OwnedFd) -> io::Result<Self> {
        configure_coroutines();
        let is_stream = sockopt::socket_type(&socket)? == SocketType::STREAM;
        if !is_stream || !sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no stream socket that listens; the .socket unit takes ListenStream= and Accept=no",
            ));
        }
        if sockopt::socket_domain(&socket)? != AddressFamily::UNIX {
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        Self::new(socket)
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        let (socket, address) = if sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
            let name = SocketAddrUnix::try_from(net::getsockname(&socket)?)?;
            // Without a path: one of the abstract namespace, of the service manager.
            let path =
                name.path_bytes().map_or(Path::new(""), |path| Path::new(std::ffi::OsStr::from_bytes(path)));
            let address = Address::Unix { path: path.to_owned(), mode: 0 };
            (Kind::Unix(CoIo::new(UnixListener::from(socket))?), address)
        } else {
            let listener: TcpListener = sys::adopt(socket);
            let address = Address::Ip(listener.local_addr()?);
            (Kind::Tcp(listener), address)
        };
        Ok(Self { socket, address, file: None })
    }

    /// The address that it has, with the port that was picked.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The file of its Unix socket, if it has made one. It is removed when what is given is dropped.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// Waits for the next connection. Gives its peer, if that has an address.
    pub(super) fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match &self.socket {
            Kind::Tcp(listener) => listener.accept().map(|(stream, peer)| (Socket::Tcp(stream), Some(peer))),
            Kind::Unix(listener) => loop {
                match listener.inner().accept() {
                    Ok((socket, _)) => return Ok((Socket::Unix(Local::new(socket)?), None)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.wait_io();
                    }
                    Err(error) => return Err(error),
                }
            },
        }
    }
}

/// Waits a moment for an address in use: a child that is being started, by the runner of this life or of one that was
/// killed, has a copy of every descriptor until it calls execve(2), that of a closed listener included.
fn bind_soon(address: &Address) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    let deadline = Instant::now() + BIND_WAIT;
    loop {
        let bound = match address {
            Address::Ip(address) => bind_ip(*address).map(|socket| (socket, None)),
            Address::Unix { path, mode } => bind_path(path, *mode).map(|(socket, file)| (socket, Some(file))),
        };
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(BIND_PAUSE);
            }
            other => return other,
        }
    }
}

/// All addresses of a kernel without IPv6 are those of IPv4.
fn bind_ip(address: SocketAddr) -> io::Result<OwnedFd> {
    match bind_one(address) {
        Err(Errno::AFNOSUPPORT) if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    }
    .map_err(io::Error::from)
}

/// Not by the listener of `may`, which sets SO_REUSEPORT: two servers on one port would share its connections without an error.
fn bind_one(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = new_socket(family)?;
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
    Ok(socket)
}

fn new_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

// --- Unix sockets

/// Takes the place of a socket that nobody listens on: its client was killed.
fn bind_path(path: &Path, mode: u32) -> io::Result<(OwnedFd, SocketFile)> {
    // Two clients that start at once must not remove each other's.
    let _turn = take_turn(path.parent().unwrap_or(Path::new("/")))?;
    match bind_new(path, mode) {
        Err(Errno::ADDRINUSE) if is_left_over(path)? => {
            fs::remove_file(path)?;
            event!(Info, "a socket that nobody listens on is replaced", path = path.display());
            bind_new(path, mode)
        }
        other => other,
    }
    .map_err(io::Error::from)
    .and_then(|socket| Ok((socket, SocketFile::at(path)?)))
}

/// The right to replace sockets in `directory`. Nobody has it where the directory may be written but not read.
fn take_turn(directory: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
        Err(Errno::ACCESS) => return Ok(None),
        other => other?,
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error.into()),
    }
}

fn bind_new(path: &Path, mode: u32) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(mode);
    let socket = new_socket(AddressFamily::UNIX)?;
    // The file is made with the mode of its socket, less the umask: at no moment can more connect than may (net/unix/af_unix.c).
    rustix::fs::fchmod(&socket, mode)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, mode)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether nobody listens on the socket at `path`. An error where something else is there.
fn is_left_over(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket"));
    }
    // It does not wait: one whose queue is full is listened on.
    let connected = net::connect(new_socket(AddressFamily::UNIX)?, &SocketAddrUnix::new(path)?);
    Ok(connected == Err(Errno::CONNREFUSED))
}

/// The file of a Unix socket, removed when this is dropped, unless it has been replaced.
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let removed = match identity(&self.path) {
            Ok(identity) if identity == self.identity => fs::remove_file(&self.path),
            // Another's, or none.
            _ => return,
        };
        if let Err(error) = removed {
            event!(Warn, "cannot remove the socket", path = self.path.display(), error = error);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
