//! What a connection is read and written through: a TCP socket, or a Unix one.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use may::io::CoIo;
use may::net::TcpStream;

/// The socket of a peer, for coroutines.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(Local),
}

/// A Unix socket. In this order: the descriptor leaves epoll with the first field, and is closed with the second
/// (docs/decisions/tcp-stream.md).
pub(super) struct Local {
    io: CoIo<Handle>,
    socket: Arc<UnixStream>,
}

/// One owner of a socket; the other one closes it.
struct Handle(Arc<UnixStream>);

impl Local {
    /// An error where the kernel does not watch one more socket.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let io = CoIo::new(Handle(Arc::clone(&socket)))?;
        Ok(Self { io, socket })
    }
}

impl Socket {
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Unix(local) => local.io.set_read_timeout(timeout),
        }
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_write_timeout(timeout),
            Self::Unix(local) => local.io.set_write_timeout(timeout),
        }
    }

    /// Whether a peer of this address is the host itself: it has come to its own address, or by the loopback interface.
    pub(super) fn is_of_this_host(&self, peer: IpAddr) -> bool {
        let own = match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => return true,
        };
        peer.is_loopback() || own.is_some_and(|own| own.ip().to_canonical() == peer)
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(local) => local.socket.shutdown(how),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(local) => local.io.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(local) => local.io.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.inner().as_fd(),
            Self::Unix(local) => local.socket.as_fd(),
        }
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Read for Handle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
