//! A connection's socket, read and written only on the worker that watches it.
//!
//! `may` looks at a socket's data once more after it has let go of the coroutine that waits for it (`subscribe` of its
//! `SocketRead` and `SocketWrite`). If another worker has run that coroutine to its end by then, the data is gone. On the
//! worker that watches the socket nothing can come between. Coroutines start on any worker, though, and go on on any worker
//! when a thread wakes them.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::thread::{self, ThreadId};

use may::coroutine::{Builder, JoinHandle};
use may::sync::Blocker;

use super::socket::Socket;

/// Starts the coroutine of a connection on the worker of its socket.
pub(super) fn start(socket: Socket, serve: impl FnOnce(Stream) + Send + 'static) {
    start_at(worker(&socket), move || serve(Stream { socket, home: current_thread() }));
}

/// `may` distributes sockets over its workers by the number of the descriptor, and coroutines by their id.
fn worker(socket: &Socket) -> usize {
    usize::try_from(socket.as_fd().as_raw_fd()).unwrap_or_default()
}

fn start_at(worker: usize, run: impl FnOnce() + Send + 'static) {
    // Nobody waits for its end, and to start it cannot fail.
    let _: io::Result<JoinHandle<()>> = may::go!(Builder::new().id(worker), run);
}

/// Not inlined: who sees a wait between two calls must not take the second for the first.
#[inline(never)]
fn current_thread() -> ThreadId {
    thread::current().id()
}

/// The socket of the coroutine that [`start`] has started.
pub(super) struct Stream {
    socket: Socket,
    /// The worker that watches it.
    home: ThreadId,
}

impl Stream {
    /// Takes this coroutine to the worker of the socket, if it is elsewhere.
    fn go_home(&self) {
        while current_thread() != self.home {
            let here = Blocker::current();
            let there = Arc::clone(&here);
            start_at(worker(&self.socket), move || there.unpark());
            // Woken by that worker, the coroutine goes on there; unless it was woken before it slept, then again. Without a
            // time-out, and coroutines are never cancelled here: there is no error to come.
            let _ = here.park(None);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.go_home();
        self.socket.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.go_home();
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// For what does not wait.
impl Deref for Stream {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net;
    use std::sync::Mutex;
    use std::time::Duration;

    use may::net::TcpListener;

    const WAIT: Duration = Duration::from_secs(10);

    /// Parks the coroutine until a thread wakes it, which lets it go on on any worker.
    fn wake_anywhere() {
        let blocker = Blocker::current();
        let waker = Arc::clone(&blocker);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(1));
            waker.unpark();
        });
        blocker.park(None).expect("woken");
    }

    #[test]
    fn a_socket_is_read_and_written_on_one_worker_whoever_wakes_its_coroutine() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (note, strayed) = (Arc::clone(&seen), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&strayed);
        may::go!(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (note, count) = (Arc::clone(&note), Arc::clone(&count));
                start(Socket::Tcp(stream), move |mut stream| {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|count| count > 0) {
                        note.lock().expect("no panic").push(current_thread());
                        wake_anywhere();
                        *count.lock().expect("no panic") += usize::from(current_thread() != stream.home);
                        stream.write_all(&byte).expect("an open socket");
                        note.lock().expect("no panic").push(current_thread());
                    }
                });
            }
        });
        for _ in 0..16 {
            let mut stream = net::TcpStream::connect(address).expect("a connection");
            stream.set_read_timeout(Some(WAIT)).expect("an open socket");
            for _ in 0..4 {
                stream.write_all(b"x").expect("an open socket");
                stream.read_exact(&mut [0]).expect("an echo in time");
            }
            // The last note comes after the last byte.
            let begun = std::time::Instant::now();
            while seen.lock().expect("no panic").len() < 8 {
                assert!(begun.elapsed() < WAIT);
                thread::yield_now();
            }
            let threads = std::mem::take(&mut *seen.lock().expect("no panic"));
            assert!(threads.iter().all(|thread| *thread == threads[0]), "{threads:?}");
        }
        let is_alone = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        assert!(is_alone || *strayed.lock().expect("no panic") > 0, "no coroutine was ever elsewhere");
    }
}
